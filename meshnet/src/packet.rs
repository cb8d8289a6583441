//! Owns the little that the mesh must know of an IP packet: its addresses and whether its length is
//! what it says. Nothing behind the IP header is looked at.

use std::net::IpAddr;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// The addresses of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Who sent it.
    pub(crate) source: IpAddr,
    /// Whom it is for.
    pub(crate) destination: IpAddr,
}

impl Addresses {
    /// The addresses of `packet`; `None` unless it is one whole IPv4 or IPv6 packet.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; V4_HEADER] = packet.first_chunk()?;
                let header_bytes = usize::from(header[0] & 0x0f) * 4;
                let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
                let whole = header_bytes >= V4_HEADER && header_bytes <= total && total == packet.len();
                whole.then(|| Addresses {
                    source: IpAddr::from(chunk::<4>(header, 12)),
                    destination: IpAddr::from(chunk::<4>(header, 16)),
                })
            }
            6 => {
                let header: &[u8; V6_HEADER] = packet.first_chunk()?;
                let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
                (V6_HEADER + payload == packet.len()).then(|| Addresses {
                    source: IpAddr::from(chunk::<16>(header, 8)),
                    destination: IpAddr::from(chunk::<16>(header, 24)),
                })
            }
            _ => None,
        }
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the header is longer than its address fields reach")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_found_in_both_versions() {
        let mut v4 = vec![0; 24];
        v4[0] = 0x45;
        v4[3] = 24;
        v4[12..16].copy_from_slice(&[10, 7, 0, 1]);
        v4[16..20].copy_from_slice(&[10, 7, 0, 2]);
        let addresses = Addresses::of(&v4).unwrap();
        assert_eq!(addresses.source, "10.7.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(addresses.destination, "10.7.0.2".parse::<IpAddr>().unwrap());
        let mut v6 = vec![0; 44];
        v6[0] = 0x60;
        v6[5] = 4;
        v6[23] = 1;
        v6[39] = 2;
        let addresses = Addresses::of(&v6).unwrap();
        assert_eq!(addresses.source, "::1".parse::<IpAddr>().unwrap());
        assert_eq!(addresses.destination, "::2".parse::<IpAddr>().unwrap());
        v6.push(0);
        assert_eq!(Addresses::of(&v6), None, "longer than it says");
        assert_eq!(Addresses::of(&v4[..23]), None, "shorter than it says");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Addresses::of(&bytes);
        }
    }
}
