//! Owns the routing table: which peer holds an address. Longest prefix first; immutable once built.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::key::PeerId;

/// Which peer holds which prefix.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    v4: Family,
    v6: Family,
}

/// One address family: the prefix lengths that occur, longest first; under each the masked
/// addresses, sorted. A lookup is one binary search for each length that occurs, mostly two.
#[derive(Debug, Clone, Default)]
struct Family {
    lengths: Vec<(u8, Vec<(u128, PeerId)>)>,
}

/// A prefix that was not taken because another holder had it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// Who came second.
    pub peer: PeerId,
    /// The prefix.
    pub prefix: IpNet,
    /// Who has it.
    pub holder: PeerId,
}

impl Routes {
    /// The table of these prefixes. Where two holders name the same prefix the first keeps it.
    pub fn build(entries: impl IntoIterator<Item = (IpNet, PeerId)>) -> (Self, Vec<Conflict>) {
        let mut routes = Routes::default();
        let mut conflicts = Vec::new();
        for (prefix, peer) in entries {
            let holder = routes.family_mut(prefix.addr()).insert(prefix, peer);
            if holder != peer {
                conflicts.push(Conflict { peer, prefix, holder });
            }
        }
        (routes, conflicts)
    }

    /// The holder of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<PeerId> {
        let (family, width) = match address {
            IpAddr::V4(_) => (&self.v4, 32),
            IpAddr::V6(_) => (&self.v6, 128),
        };
        let bits = bits(address);
        family.lengths.iter().find_map(|(length, entries)| {
            let masked = mask(bits, *length, width);
            let at = entries.binary_search_by_key(&masked, |(network, _)| *network).ok()?;
            Some(entries[at].1)
        })
    }

    fn family_mut(&mut self, address: IpAddr) -> &mut Family {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

impl Family {
    /// Adds a prefix unless it is there; gives its holder.
    fn insert(&mut self, prefix: IpNet, peer: PeerId) -> PeerId {
        let length = prefix.prefix_len();
        let at = match self.lengths.binary_search_by(|(known, _)| length.cmp(known)) {
            Ok(at) => at,
            Err(at) => {
                self.lengths.insert(at, (length, Vec::new()));
                at
            }
        };
        let entries = &mut self.lengths[at].1;
        let network = bits(prefix.network());
        match entries.binary_search_by_key(&network, |(known, _)| *known) {
            Ok(at) => entries[at].1,
            Err(at) => {
                entries.insert(at, (network, peer));
                peer
            }
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(bits: u128, length: u8, width: u8) -> u128 {
    let host_bits = u32::from(width - length);
    bits.checked_shr(host_bits).and_then(|bits| bits.checked_shl(host_bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn peer(n: u8) -> PeerId {
        SecretKey::from_bytes([n; 32]).id()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_the_first_holder_keeps_it() {
        let (routes, conflicts) = Routes::build([
            (net("0.0.0.0/0"), peer(1)),
            (net("10.0.0.0/8"), peer(2)),
            (net("10.7.0.2/32"), peer(3)),
            (net("10.0.0.0/8"), peer(4)),
            (net("::/0"), peer(5)),
        ]);
        assert_eq!(routes.lookup("10.7.0.2".parse().unwrap()), Some(peer(3)));
        assert_eq!(routes.lookup("10.7.0.3".parse().unwrap()), Some(peer(2)));
        assert_eq!(routes.lookup("192.0.2.1".parse().unwrap()), Some(peer(1)));
        assert_eq!(routes.lookup("2001:db8::1".parse().unwrap()), Some(peer(5)));
        let conflict = Conflict { peer: peer(4), prefix: net("10.0.0.0/8"), holder: peer(2) };
        assert_eq!(conflicts, [conflict]);
    }

    /// Prefixes and addresses from a small space, so that they overlap.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..64).prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits << 26 | bits))),
            (0u128..64).prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits << 122 | bits))),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..=128).prop_map(|(address, length)| {
            let length = if address.is_ipv4() { length.min(32) } else { length };
            IpNet::new(address, length).unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_linear_search(
            prefixes in prop::collection::vec((prefix(), 1u8..6), 0..40),
            addresses in prop::collection::vec(address(), 1..40),
        ) {
            let entries: Vec<_> = prefixes.iter().map(|(prefix, n)| (*prefix, peer(*n))).collect();
            let (routes, _) = Routes::build(entries.iter().copied());
            for address in addresses {
                let best = entries.iter().filter(|(prefix, _)| prefix.contains(&address))
                    .map(|(prefix, _)| prefix.prefix_len()).max();
                let expected = entries.iter()
                    .find(|(prefix, _)| prefix.contains(&address) && Some(prefix.prefix_len()) == best)
                    .map(|(_, peer)| *peer);
                prop_assert_eq!(routes.lookup(address), expected);
            }
        }
    }
}
