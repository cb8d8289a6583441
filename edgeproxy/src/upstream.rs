//! Owns the address of one server: where requests of a service are sent. Never dials it.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// Longest host name that DNS allows, in bytes.
pub const HOST_NAME_MAX_BYTES: usize = 253;

/// Where a container is reached: an address, or a name that the dialler resolves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address, the usual case: a container's address on its bridge, or a node's mesh address.
    Ip(IpAddr),
    /// A host name in lower case, resolved anew at each dial.
    Name(Box<str>),
}

/// The text is neither an IP address nor a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither an IP address nor a host name (letters, digits, `-`, `_` and dots, at most 253 bytes)"
)]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip));
        }
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(ip) = bracketed.and_then(|inner| inner.parse::<Ipv6Addr>().ok()) {
            return Ok(Self::Ip(ip.into()));
        }
        if is_host_name(text) {
            return Ok(Self::Name(text.to_ascii_lowercase().into()));
        }
        Err(AddressError(text.chars().take(HOST_NAME_MAX_BYTES).collect()))
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The protocol that a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Scheme {
    /// HTTP/1.1 in clear text: what stands behind a bridge or a mesh.
    #[default]
    Http,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("http"),
        }
    }
}

/// One server: what a [`Dial`](crate::Dial) is asked to connect to. `Display` is a URL, `http://10.7.0.2:3000`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Upstream {
    /// Host part.
    pub address: Address,
    /// TCP port.
    pub port: u16,
    /// Protocol spoken once connected.
    pub scheme: Scheme,
}

impl Upstream {
    /// A server that speaks clear-text HTTP/1.1.
    pub fn new(address: impl Into<Address>, port: u16) -> Self {
        Self { address: address.into(), port, scheme: Scheme::Http }
    }

    /// `host:port`, with brackets around an IPv6 address: the form of a `Host` header.
    pub fn authority(&self) -> String {
        match &self.address {
            Address::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            address => format!("{address}:{}", self.port),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

/// Whether `text` can be a host name: dot-separated labels of letters, digits, `-` and `_`.
pub(crate) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= HOST_NAME_MAX_BYTES && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for (text, printed) in [
            ("10.0.0.1", "10.0.0.1"),
            ("[::1]", "::1"),
            ("fd00::2", "fd00::2"),
            ("Web.Internal", "web.internal"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), printed);
        }
        for text in ["", "a b", "a/b", "host:80", ".", "a..b", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_ipv6_server_prints_with_brackets() {
        let upstream = Upstream::new("fd00::2".parse::<Address>().unwrap(), 80);
        assert_eq!(upstream.to_string(), "http://[fd00::2]:80");
    }
}
