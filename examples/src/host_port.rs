//! Where a peer is and who it must be: `HOST:PORT`, `ID@HOST:PORT`.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A host (name or address) and a port, not resolved yet. An IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The address, if the host is written as one.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Asks the system's resolver; every address that it names, at least one.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host))),
            false => Ok(found),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The text is no `HOST:PORT`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not HOST:PORT (an IPv6 address stands in brackets: [fd00::1]:3210)")]
pub struct HostPortError(String);

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<HostPort, HostPortError> {
        let wrong = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(wrong()),
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let valid = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() || text.starts_with('['))
            || (!host.is_empty() && host.len() <= 253 && host.chars().all(plain));
        if !valid {
            return Err(wrong());
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
}

/// A peer as a person writes it: who it must be, where it is, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress<Id> {
    /// Who must answer there; `None` where the text has no `ID@`.
    pub id: Option<Id>,
    /// Where it is dialled; `None` for a peer that only ever dials us.
    pub at: Option<HostPort>,
}

/// The text is no peer.
#[derive(Debug, thiserror::Error)]
pub enum PeerAddressError<E> {
    /// What stands before the `@` is no ID.
    #[error("`{text}` does not begin with a peer's ID: {source}")]
    Id {
        /// What stands there.
        text: String,
        /// Why it is none.
        source: E,
    },
    /// What stands after the `@`, or alone, is no address.
    #[error(transparent)]
    At(#[from] HostPortError),
}

impl<Id: FromStr> FromStr for PeerAddress<Id> {
    type Err = PeerAddressError<Id::Err>;

    fn from_str(text: &str) -> Result<PeerAddress<Id>, Self::Err> {
        let id = |text: &str| {
            text.parse().map_err(|source| PeerAddressError::Id { text: text.to_owned(), source })
        };
        match text.split_once('@') {
            Some((name, at)) => Ok(PeerAddress { id: Some(id(name)?), at: Some(at.parse()?) }),
            None if text.contains(':') => Ok(PeerAddress { id: None, at: Some(text.parse()?) }),
            None => Ok(PeerAddress { id: Some(id(text)?), at: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_addresses_round_trip() {
        for text in ["vm.example.org:3210", "10.0.0.1:1", "[fd00::1]:65535", "localhost:80"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_named() {
        for text in
            ["", ":", "vm", "vm:", ":80", "vm:0", "vm:65536", "fd00::1:80", "[vm]:80", "a b:80", "a@b:1"]
        {
            assert_eq!(text.parse::<HostPort>(), Err(HostPortError(text.to_owned())));
        }
    }

    #[test]
    fn a_peer_has_an_id_an_address_or_both() {
        let peer = |text: &str| text.parse::<PeerAddress<u32>>();
        assert_eq!(peer("7").unwrap(), PeerAddress { id: Some(7), at: None });
        assert_eq!(peer("7@vm:1").unwrap().id, Some(7));
        assert_eq!(peer("vm:1").unwrap(), PeerAddress { id: None, at: Some("vm:1".parse().unwrap()) });
        assert!(matches!(peer("x@vm:1"), Err(PeerAddressError::Id { .. })));
        assert!(matches!(peer("7@vm"), Err(PeerAddressError::At(_))));
    }
}
