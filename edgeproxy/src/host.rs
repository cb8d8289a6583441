//! Owns the normal form of a host, in which rules and requests are compared: lower case, no port, no trailing dot, IPv6 in its shortest
//! form without brackets.

use crate::upstream::is_host_name;
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr},
};

/// The normal form of a host without a port, or `None` if it is not a host name or IP address.
pub fn normalise_host(host: &str) -> Option<Cow<'_, str>> {
    if let Some(inner) = host.strip_prefix('[') {
        let ip: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(Cow::Owned(ip.to_string()));
    }
    if host.contains(':') {
        return host.parse::<IpAddr>().ok().map(|ip| Cow::Owned(ip.to_string()));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if !is_host_name(host) || host.ends_with('.') {
        return None;
    }
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some(Cow::Owned(host.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(host))
}

/// Splits the value of a `Host` header, or the authority of a URL, into the normal form of its host and its port. `None` if it is neither
/// (user information included: `user@host` is no host).
pub fn split_authority(authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    let host_end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    Some((normalise_host(host)?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_normalised() {
        for (given, host, port) in [
            ("Example.ORG", "example.org", None),
            ("example.org.", "example.org", None),
            ("example.org:8080", "example.org", Some(8080)),
            ("example.org:", "example.org", None),
            ("[::1]:443", "::1", Some(443)),
            ("[0:0::1]", "::1", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
        ] {
            let (got, got_port) = split_authority(given).unwrap_or_else(|| panic!("{given} was refused"));
            assert_eq!((got.as_ref(), got_port), (host, port), "{given}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for given in [
            "",
            ":80",
            "a b",
            "user@host",
            "a,b",
            "a/b",
            "[::1",
            "[::1]x",
            "[x]",
            "a:b",
            "a:99999",
            "a:+1",
            "a:1:2",
            "::1:80:x",
            "a..b",
            "..",
            "host..",
            "höst",
            "a\0",
        ] {
            assert_eq!(split_authority(given), None, "{given}");
        }
    }
}
