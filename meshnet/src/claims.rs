//! Owns [`Claims`]: the name, the mesh address and the subnets that a node stands for. A bare claim
//! is only what a node says of itself; inside a membership or a ticket an authority has signed it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::wire::codec::{DecodeError, Reader, put_net};

/// Longest node name, in bytes.
pub const NAME_MAX: usize = 63;
/// Most subnets that one node may stand for.
pub const SUBNETS_MAX: usize = 16;

/// What a node stands for in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claims {
    /// A short name for people: ASCII letters, digits, `-`, `_`, `.`; at most [`NAME_MAX`] bytes;
    /// may be empty.
    pub name: String,
    /// The node's address in the mesh, with the prefix length of the mesh's own network.
    pub address: IpNet,
    /// Networks behind the node that it forwards for, at most [`SUBNETS_MAX`].
    pub subnets: Vec<IpNet>,
}

/// Why a name, an address or a list of subnets cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// The name is too long or has characters that names must not have.
    #[error("the node name {0:?} is invalid: at most 63 ASCII letters, digits, '-', '_' or '.'")]
    Name(String),
    /// The address cannot be a node's own.
    #[error("{0} cannot be a node's mesh address: it is unspecified, loopback, multicast or broadcast")]
    Address(IpAddr),
    /// More than [`SUBNETS_MAX`].
    #[error("{0} subnets are too many: at most 16 for one node")]
    TooManySubnets(usize),
    /// Bits are set behind the prefix length.
    #[error("the subnet {0} has bits set behind its prefix length: write {1}")]
    HostBits(IpNet, IpNet),
}

impl Claims {
    /// Claims whose parts have been checked; subnets are sorted and duplicates dropped.
    ///
    /// # Errors
    /// See [`ClaimsError`].
    pub fn new(name: &str, address: IpNet, subnets: &[IpNet]) -> Result<Self, ClaimsError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.len() > NAME_MAX || !name.chars().all(allowed) {
            return Err(ClaimsError::Name(name.chars().take(NAME_MAX).collect()));
        }
        if !is_host(address.addr()) {
            return Err(ClaimsError::Address(address.addr()));
        }
        if subnets.len() > SUBNETS_MAX {
            return Err(ClaimsError::TooManySubnets(subnets.len()));
        }
        if let Some(subnet) = subnets.iter().find(|subnet| subnet.trunc() != **subnet) {
            return Err(ClaimsError::HostBits(*subnet, subnet.trunc()));
        }
        let mut subnets = subnets.to_vec();
        subnets.sort_unstable();
        subnets.dedup();
        Ok(Claims { name: name.to_owned(), address, subnets })
    }

    /// What packets from and to this node may carry as its side's address: the host itself, then
    /// its subnets.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        std::iter::once(IpNet::from(self.address.addr())).chain(self.subnets.iter().copied())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(self.name.len()).expect("a name is at most NAME_MAX long"));
        out.extend_from_slice(self.name.as_bytes());
        put_net(out, self.address);
        out.push(u8::try_from(self.subnets.len()).expect("at most SUBNETS_MAX subnets"));
        for subnet in &self.subnets {
            put_net(out, *subnet);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name_len = usize::from(reader.u8()?);
        let name = std::str::from_utf8(reader.take(name_len)?).map_err(|_| DecodeError::Invalid("name"))?;
        let address = reader.net()?;
        let count = usize::from(reader.u8()?);
        if count > SUBNETS_MAX {
            return Err(DecodeError::Invalid("subnets"));
        }
        let subnets = (0..count).map(|_| reader.net()).collect::<Result<Vec<_>, _>>()?;
        let claims = Claims::new(name, address, &subnets).map_err(|error| match error {
            ClaimsError::Name(_) => DecodeError::Invalid("name"),
            ClaimsError::Address(_) => DecodeError::Invalid("address"),
            ClaimsError::TooManySubnets(_) | ClaimsError::HostBits(..) => DecodeError::Invalid("subnets"),
        })?;
        // One value, one encoding: what was signed is exactly what is compared and shown.
        if claims.subnets != subnets {
            return Err(DecodeError::Invalid("subnets"));
        }
        Ok(claims)
    }
}

fn is_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn limits_hold_and_are_named() {
        let address = net("10.7.0.1/24");
        assert!(Claims::new(&"n".repeat(NAME_MAX), address, &[]).is_ok());
        assert!(matches!(Claims::new(&"n".repeat(NAME_MAX + 1), address, &[]), Err(ClaimsError::Name(_))));
        assert!(matches!(Claims::new("a b", address, &[]), Err(ClaimsError::Name(_))));
        let subnets: Vec<_> = (0..=SUBNETS_MAX).map(|n| net(&format!("10.9.{n}.0/24"))).collect();
        assert!(Claims::new("n", address, &subnets[..SUBNETS_MAX]).is_ok());
        assert_eq!(Claims::new("n", address, &subnets), Err(ClaimsError::TooManySubnets(SUBNETS_MAX + 1)));
        assert!(matches!(Claims::new("n", net("224.0.0.1/24"), &[]), Err(ClaimsError::Address(_))));
        let sloppy = Claims::new("n", address, &[net("10.9.1.7/24")]).unwrap_err();
        assert!(sloppy.to_string().ends_with("write 10.9.1.0/24"), "{sloppy}");
    }

    #[test]
    fn the_host_comes_first_among_the_prefixes() {
        let claims = Claims::new("n", net("10.7.0.1/24"), &[net("192.168.0.0/16")]).unwrap();
        let prefixes: Vec<_> = claims.prefixes().collect();
        assert_eq!(prefixes, [net("10.7.0.1/32"), net("192.168.0.0/16")]);
    }
}
