//! Owns what happens to headers at the border: which requests are refused, which headers end here (RFC 9110, 7.6.1), and what the
//! server is told about the client. Never trusts a client's word about itself unless configured.

use crate::{host::split_authority, route::EntryPoint};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{self, Entry},
    request::Parts,
};
use std::{borrow::Cow, net::IpAddr};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Why a request is refused before any route is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No `Host` header.
    #[error("the request has no Host header")]
    MissingHost,
    /// Several `Host` headers.
    #[error("the request has several Host headers")]
    SeveralHosts,
    /// The `Host` header is no host.
    #[error("the Host header is not a host")]
    BadHost,
    /// The request line names another host than the `Host` header.
    #[error("the request line and the Host header name different hosts")]
    HostMismatch,
    /// The target is neither a path nor a URL.
    #[error("the request target is neither a path nor a URL")]
    BadTarget,
    /// `CONNECT`: this is no forward proxy.
    #[error("CONNECT is not served here")]
    Connect,
    /// A header that a server could take for one that only the proxy sets, such as `X_Forwarded_For`.
    #[error("a header name imitates one that only the proxy sets")]
    ForgedName,
}

/// Checks what every request must be, and returns its host in normal form and the port that the client named.
///
/// # Errors
/// The first reason to refuse it.
pub fn admit(request: &Parts) -> Result<(Cow<'_, str>, Option<u16>), Refusal> {
    if request.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (host, None) = (hosts.next().ok_or(Refusal::MissingHost)?, hosts.next()) else {
        return Err(Refusal::SeveralHosts);
    };
    let host = host.to_str().ok().and_then(split_authority).ok_or(Refusal::BadHost)?;
    match (request.uri.scheme_str(), request.uri.authority()) {
        (None, None) if request.uri.path().starts_with('/') => {}
        (None, None) if request.uri.path() == "*" && request.method == Method::OPTIONS => {}
        (Some("http" | "https"), Some(authority)) => match split_authority(authority.as_str()) {
            Some((name, _)) if name == host.0 => {}
            _ => return Err(Refusal::HostMismatch),
        },
        _ => return Err(Refusal::BadTarget),
    }
    if request.headers.keys().any(imitates_ours) {
        return Err(Refusal::ForgedName);
    }
    Ok(host)
}

/// The protocol that the client wants to go on with on this connection, if servers may be asked for it: a WebSocket, usually.
/// Only HTTP/1.1 without a body can ask; `h2c` is never passed on, since it would carry requests past every check here.
pub fn wanted_upgrade(request: &Parts) -> Option<HeaderValue> {
    let mut wanted = request.headers.get_all(header::UPGRADE).iter();
    let (value, None) = (wanted.next()?, wanted.next()) else { return None };
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
        .iter()
        .any(|name| request.headers.contains_key(name));
    let asks = request.version == Version::HTTP_11
        && !framed
        && connection_options(&request.headers).any(is_upgrade);
    (asks && !value.as_bytes().to_ascii_lowercase().starts_with(b"h2c")).then(|| value.clone())
}

/// Removes the headers that are about this connection only, those that `Connection` names included.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter_map(|option| HeaderName::try_from(option).ok())
            // What frames the message or says where it goes is never the client's to remove.
            .filter(|name| ![header::HOST, header::CONTENT_LENGTH].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// What the proxy knows about the client by itself.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its address.
    pub ip: IpAddr,
    /// Where it came in.
    pub entry_point: EntryPoint,
    /// The port that it named in the URL, if it did.
    pub port: Option<u16>,
    /// The `Host` header as it was sent.
    pub host: Option<&'a HeaderValue>,
}

/// Sets `X-Forwarded-{For,Proto,Host,Port}` and `X-Real-Ip`. What the client said about itself is removed, or, with `trusted`, kept
/// and completed.
pub fn set_forwarded(headers: &mut HeaderMap, client: &Client<'_>, trusted: bool) {
    if !trusted {
        remove_forwarded(headers);
    }
    let ip =
        HeaderValue::try_from(client.ip.to_canonical().to_string()).expect("an IP address is a header value");
    append_client(headers, &ip);
    let (proto, default_port) = match client.entry_point {
        EntryPoint::Http => ("http", 80),
        EntryPoint::Https => ("https", 443),
    };
    let mut set = |name: HeaderName, value: HeaderValue| {
        if let Entry::Vacant(vacant) = headers.entry(name) {
            vacant.insert(value);
        }
    };
    set(REAL_IP, ip);
    set(FORWARDED_PROTO, HeaderValue::from_static(proto));
    set(FORWARDED_PORT, HeaderValue::from(client.port.unwrap_or(default_port)));
    if let Some(host) = client.host {
        set(FORWARDED_HOST, host.clone());
    }
}

fn remove_forwarded(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

fn append_client(headers: &mut HeaderMap, ip: &HeaderValue) {
    let chain: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let value = if chain.is_empty() {
        ip.clone()
    } else {
        let joined = [chain.join(&b", "[..]), ip.as_bytes().to_vec()].join(&b", "[..]);
        HeaderValue::from_bytes(&joined).expect("header values joined by a comma are a header value")
    };
    headers.insert(FORWARDED_FOR, value);
}

/// Headers by which a server learns about the client.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-forwarded-") || name == "x-real-ip" || name == "forwarded"
}

/// `x_forwarded_for` becomes `X-Forwarded-For` in servers that turn headers into variables.
fn imitates_ours(name: &HeaderName) -> bool {
    name.as_str().contains('_') && is_ours(&name.as_str().replace('_', "-"))
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

fn is_upgrade(option: &str) -> bool {
    option.eq_ignore_ascii_case("upgrade")
}

#[cfg(test)]
mod tests;
