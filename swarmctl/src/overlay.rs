//! Overlay networks whose packets go through a tunnel.

use crate::spec::NetworkSpec;

/// What VXLAN adds to a packet, in bytes (RFC 7348 over IPv4: Ethernet 14, IP 20, UDP 8, VXLAN 8).
pub const VXLAN_BYTES: u32 = 50;

/// The option of an overlay network that says how large its packets are.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// The smallest packet that IPv6 allows a link to have.
const MTU_MIN: u32 = 1280;

/// The largest packets that an overlay network can have if its nodes reach each other through a tunnel with this MTU; `None`
/// if nothing is left. Larger ones are lost without a word, so that connections open and then hang.
#[must_use]
pub fn mtu_within(tunnel: u32) -> Option<u32> {
    tunnel.checked_sub(VXLAN_BYTES).filter(|mtu| *mtu >= MTU_MIN - VXLAN_BYTES)
}

/// An overlay network for nodes that reach each other through a tunnel with this MTU, in bytes.
#[must_use]
pub fn through_tunnel(name: &str, tunnel: u32) -> Option<NetworkSpec> {
    let mut network = NetworkSpec::new(name, "overlay");
    network.options.insert(MTU_OPTION.to_owned(), mtu_within(tunnel)?.to_string());
    Some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_leaves_room_for_its_own_header() {
        assert_eq!(through_tunnel("net", 1400).unwrap().options[MTU_OPTION], "1350");
        assert_eq!(mtu_within(1280), Some(1230));
        assert_eq!((mtu_within(0), mtu_within(600)), (None, None));
    }
}
