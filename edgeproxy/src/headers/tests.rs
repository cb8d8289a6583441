use super::*;
use http::Request;

fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn map(headers: &[(&str, &str)]) -> HeaderMap {
    head("/", headers).headers
}

/// `name: value` lines in order of their names.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn requests_are_admitted_with_their_host() {
    for (uri, host, expected) in [
        ("/", "A.Example:8080", ("a.example", Some(8080))),
        ("http://a.example/x", "a.example", ("a.example", None)),
        ("http://a.example:80/x", "A.example", ("a.example", None)),
        ("/", "[::1]:1", ("::1", Some(1))),
    ] {
        let head = head(uri, &[("host", host)]);
        let (name, port) = admit(&head).unwrap();
        assert_eq!((name.as_ref(), port), expected);
    }
}

#[test]
fn doubtful_requests_are_refused() {
    for (uri, headers, refusal) in [
        ("/", &[][..], Refusal::MissingHost),
        ("/", &[("host", "a"), ("host", "a")], Refusal::SeveralHosts),
        ("/", &[("host", "")], Refusal::BadHost),
        ("/", &[("host", "a b")], Refusal::BadHost),
        ("/", &[("host", "user@a")], Refusal::BadHost),
        ("http://b.example/", &[("host", "a.example")], Refusal::HostMismatch),
        ("http://x@a.example/", &[("host", "a.example")], Refusal::HostMismatch),
        ("ftp://a.example/", &[("host", "a.example")], Refusal::BadTarget),
        ("*", &[("host", "a")], Refusal::BadTarget),
        ("/", &[("host", "a"), ("x_forwarded_for", "1.1.1.1")], Refusal::ForgedName),
        ("/", &[("host", "a"), ("x-real_ip", "1.1.1.1")], Refusal::ForgedName),
    ] {
        assert_eq!(admit(&head(uri, headers)), Err(refusal), "{uri} {headers:?}");
    }
    let mut connect = head("a.example:443", &[("host", "a.example")]);
    connect.method = Method::CONNECT;
    assert_eq!(admit(&connect), Err(Refusal::Connect));
    // An underscore alone is no offence.
    assert!(admit(&head("/", &[("host", "a"), ("x_custom", "1")])).is_ok());
    let mut options = head("*", &[("host", "a")]);
    options.method = Method::OPTIONS;
    assert!(admit(&options).is_ok());
}

#[test]
fn connection_headers_end_here_and_others_pass() {
    let mut headers = map(&[
        ("connection", "close, X-Hop ,Host"),
        ("connection", "x-hop-2, content-length"),
        ("x-hop", "1"),
        ("x-hop-2", "1"),
        ("host", "a"),
        ("content-length", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("te", "gzip"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("authorization", "Bearer x"),
        ("trailer", "x-sum"),
    ]);
    strip_hop_by_hop(&mut headers);
    assert_eq!(
        lines(&headers),
        ["authorization: Bearer x", "content-length: 1", "host: a", "trailer: x-sum"]
    );

    let mut headers = map(&[("te", "trailers"), ("connection", "te")]);
    strip_hop_by_hop(&mut headers);
    assert_eq!(lines(&headers), [] as [&str; 0], "TE is named by Connection and goes with it");
}

#[test]
fn only_a_websocket_like_upgrade_is_passed_on() {
    let asks = |headers: &[(&str, &str)]| wanted_upgrade(&head("/", headers)).is_some();
    assert!(asks(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
    assert!(!asks(&[("upgrade", "websocket")]), "Connection does not name it");
    assert!(!asks(&[("connection", "upgrade")]));
    assert!(!asks(&[("connection", "upgrade"), ("upgrade", "h2c")]));
    assert!(!asks(&[("connection", "upgrade"), ("upgrade", "H2C, websocket")]));
    assert!(!asks(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]));
    assert!(!asks(&[("connection", "upgrade"), ("upgrade", "websocket"), ("content-length", "1")]));
}

fn forwarded(given: &[(&str, &str)], trusted: bool) -> Vec<String> {
    let mut headers = map(given);
    let host = HeaderValue::from_static("a.example:8443");
    let client = Client {
        ip: "::ffff:192.0.2.7".parse().unwrap(),
        entry_point: EntryPoint::Https,
        port: Some(8443),
        host: Some(&host),
    };
    set_forwarded(&mut headers, &client, trusted);
    lines(&headers)
}

#[test]
fn a_clients_word_about_itself_is_replaced() {
    let forged = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-anything", "x"),
        ("x-real-ip", "1.1.1.1"),
        ("forwarded", "for=1.1.1.1"),
    ];
    let truth = [
        "x-forwarded-for: 192.0.2.7",
        "x-forwarded-host: a.example:8443",
        "x-forwarded-port: 8443",
        "x-forwarded-proto: https",
        "x-real-ip: 192.0.2.7",
    ];
    assert_eq!(forwarded(&forged, false), truth);
    assert_eq!(forwarded(&[], false), truth);
}

#[test]
fn a_trusted_proxys_word_is_completed() {
    let given =
        [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2"), ("x-forwarded-proto", "http")];
    assert_eq!(
        forwarded(&given, true),
        [
            "x-forwarded-for: 1.1.1.1, 2.2.2.2, 192.0.2.7",
            "x-forwarded-host: a.example:8443",
            "x-forwarded-port: 8443",
            "x-forwarded-proto: http",
            "x-real-ip: 192.0.2.7",
        ]
    );
}
