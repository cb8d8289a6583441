//! edgeproxy, HTTP: the bytes that a client sends (framing) and the head of a request (headers).

use std::net::{IpAddr, Ipv4Addr};

use edgeproxy::framing::Framing;
use edgeproxy::headers::{Client, admit, set_forwarded, strip_hop_by_hop};
use edgeproxy::host::normalise_host;
use edgeproxy::route::EntryPoint;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use crate::Seed;

/// What ends at this proxy whatever a client says (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::PROXY_AUTHORIZATION];

/// The head of a request, as lines of text: what is admitted has exactly one host, in normal form; nothing hop-by-hop passes; what a client
/// claims about itself does not pass.
pub fn headers(data: &[u8]) {
    let Some(mut request) = head(&String::from_utf8_lossy(data)) else { return };
    if let Ok((host, _)) = admit(&request) {
        assert_eq!(request.headers.get_all(header::HOST).iter().count(), 1);
        assert_eq!(normalise_host(&host).as_deref(), Some(&*host));
    }
    let named: Vec<HeaderName> = named_by_connection(&request.headers);
    strip_hop_by_hop(&mut request.headers);
    for name in HOP_BY_HOP.iter().chain(&named) {
        assert!(!request.headers.contains_key(name), "{name} passed");
    }
    let once = request.headers.clone();
    strip_hop_by_hop(&mut request.headers);
    assert_eq!(request.headers, once, "stripping twice is stripping once");

    let ip = IpAddr::from(Ipv4Addr::new(192, 0, 2, 7));
    let client = Client { ip, entry_point: EntryPoint::Https, port: Some(8443), host: None };
    set_forwarded(&mut request.headers, &client, false);
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-real-ip", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "8443"),
    ] {
        let values: Vec<&HeaderValue> = request.headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
    assert!(!request.headers.contains_key("forwarded") && !request.headers.contains_key("x-forwarded-host"));
}

/// The names in every `Connection` header; `Host` and `Content-Length` say where a message goes and where it ends, and stay.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let options = values.flat_map(|value| value.split(',')).map(str::trim);
    let names = options.filter_map(|option| HeaderName::try_from(option).ok());
    names.filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::TE].contains(name)).collect()
}

/// `METHOD TARGET`, then one `NAME: VALUE` a line; lines that are no header are left out.
fn head(text: &str) -> Option<Parts> {
    let mut lines = text.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let mut parts = Request::builder().method(method).uri(target).body(()).ok()?.into_parts().0;
    for (name, value) in lines.take(100).filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value.trim())) {
            parts.headers.append(name, value);
        }
    }
    Some(parts)
}

/// A client's bytes: where they are first ambiguous does not depend on how they arrive; the verdict is inside the bytes, and what
/// came before it is accepted on its own.
pub fn framing(data: &[u8]) {
    let whole = Framing::new().check(data);
    if let Err((at, _)) = whole {
        assert!(at < data.len());
        assert_eq!(Framing::new().check(&data[..at]), Ok(()));
    }
    for size in [1, 2, 7] {
        let mut framing = Framing::new();
        let mut before = 0;
        let mut pieces = Ok(());
        for piece in data.chunks(size) {
            pieces = framing.check(piece).map_err(|(at, violation)| (before + at, violation));
            if pieces.is_err() {
                break;
            }
            before += piece.len();
        }
        assert_eq!(pieces, whole, "in pieces of {size}");
    }
}

/// Seeds of [`headers`].
pub fn headers_seeds() -> Vec<Seed> {
    vec![
        ("plain", "GET /a?b=c\nHost: a.example\nAccept: */*\nTE: trailers".into()),
        ("absolute", "GET http://a.example/\nHost: A.Example.:80".into()),
        ("upgrade", "GET /ws\nHost: a.example\nConnection: keep-alive, Upgrade\nUpgrade: websocket".into()),
        ("hostile_two_hosts", "GET /\nHost: a.example\nHost: b.example".into()),
        ("hostile_mismatch", "GET http://a.example/\nHost: b.example".into()),
        ("hostile_claims", "GET /\nHost: a\nX-Forwarded-For: 10.0.0.1\nX-Forwarded-For: 10.0.0.2\nForwarded: for=1\nX-Real-IP: 1".into()),
        ("hostile_underscore", "GET /\nHost: a\nX_Forwarded_For: 10.0.0.1".into()),
        ("hostile_connection", "GET /\nHost: a\nConnection: host, content-length, x-secret, ,te\nX-Secret: 1\nTE: trailers".into()),
    ]
}

/// Seeds of [`framing`].
pub fn framing_seeds() -> Vec<Seed> {
    vec![
        ("pipelined", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n".to_vec()),
        (
            "chunked",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        ),
        ("hostile_both", b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("hostile_two_lengths", b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".to_vec()),
        ("hostile_encoding", b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n".to_vec()),
        ("hostile_chunk_size", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n".to_vec()),
        ("hostile_bare_newline", b"GET / HTTP/1.1\nHost: a\n\n".to_vec()),
        ("hostile_fold", b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n".to_vec()),
        ("hostile_huge_length", b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec()),
    ]
}
