//! The TLS entry point: certificates by name, at run time, and the redirect to it.
#![cfg(feature = "driver")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use edgeproxy::{Certificates, CertifiedKey, Config, LocalCa};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::sync::Arc;
use support::{Edge, Raw, Server, config, in_time};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

fn both() -> Config {
    let mut config = config();
    config.https = Some("127.0.0.1:0".parse().unwrap());
    config.redirect_to_https = true;
    config
}

/// A client that trusts `ca` only.
fn trusting(ca: &LocalCa, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate_der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(client))
}

async fn connect(edge: &Edge, ca: &LocalCa, name: &str) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(edge.proxy.https_addr().unwrap()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    in_time(trusting(ca, rustls::ALL_VERSIONS).connect(name, stream)).await.map(Raw)
}

#[tokio::test]
async fn a_request_over_tls_is_forwarded_and_says_so() {
    let server = Server::echo().await;
    let (ca, certificates) = (LocalCa::new("test").unwrap(), Certificates::new());
    certificates.add(&ca.issue(&["app.example"]).unwrap());
    let edge = Edge::start_with(both(), certificates, [server.container("app", "app.example")]).await;
    let mut client = connect(&edge, &ca, "app.example").await.unwrap();
    assert_eq!(client.0.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
        let body = client.answer().await.body;
        assert!(
            body.contains("x-forwarded-proto: https\n") && body.contains("x-forwarded-port: 443\n"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_name_picks_the_certificate_and_a_new_one_holds_at_once() {
    let (ca, certificates) = (LocalCa::new("test").unwrap(), Certificates::new());
    let (exact, wildcard) = (ca.issue(&["a.example"]).unwrap(), ca.issue(&["*.b.example"]).unwrap());
    certificates.add(&exact);
    certificates.add(&wildcard);
    let edge = Edge::start_with(both(), certificates.clone(), []).await;
    let shown = async |name: &str| {
        let client = connect(&edge, &ca, name).await?;
        std::io::Result::Ok(client.0.get_ref().1.peer_certificates().unwrap()[0].clone())
    };
    assert_eq!(shown("a.example").await.unwrap(), exact.chain()[0]);
    assert_eq!(shown("a.b.example").await.unwrap(), wildcard.chain()[0]);
    assert!(shown("a.a.b.example").await.is_err(), "a wildcard is for one label");
    assert!(shown("other.test").await.is_err(), "no certificate, no handshake");
    assert_eq!(edge.proxy.counters().tls_errors, 2);

    let newer = ca.issue(&["a.example"]).unwrap();
    certificates.add(&newer);
    assert_eq!(shown("a.example").await.unwrap(), newer.chain()[0]);

    let default = ca.issue(&["other.test", "127.0.0.1"]).unwrap();
    certificates.set_default(&default);
    assert_eq!(shown("other.test").await.unwrap(), default.chain()[0]);
    assert_eq!(shown("127.0.0.1").await.unwrap(), default.chain()[0], "an address is no name to ask for");
}

#[tokio::test]
async fn tls_1_2_is_still_spoken() {
    let (ca, certificates) = (LocalCa::new("test").unwrap(), Certificates::new());
    certificates.add(&ca.issue(&["a.example"]).unwrap());
    let edge = Edge::start_with(both(), certificates, []).await;
    let stream = TcpStream::connect(edge.proxy.https_addr().unwrap()).await.unwrap();
    let connector = trusting(&ca, &[&rustls::version::TLS12]);
    let client =
        in_time(connector.connect(ServerName::try_from("a.example").unwrap(), stream)).await.unwrap();
    assert_eq!(client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn plain_requests_are_sent_to_https_where_a_route_is_served_there() {
    let server = Server::echo().await;
    let plain_only =
        server.container("plain", "plain.example").with_label("traefik.frontend.entryPoints", "http");
    let secure = edgeproxy::Container::new("secure")
        .with_address(server.address.ip())
        .with_port(server.address.port())
        .with_label("traefik.http.routers.secure.rule", "Host(`secure.example`)")
        .with_label("traefik.http.routers.secure.tls", "true");
    let both_ways = server.container("app", "app.example");
    let edge = Edge::start_with(both(), Certificates::new(), [plain_only, secure, both_ways]).await;
    let port = edge.proxy.https_addr().unwrap().port();
    for host in ["secure.example", "app.example", "APP.example:80"] {
        let answer = edge.get(host, "/x?y=1").await;
        let name = host.split(':').next().unwrap().to_lowercase();
        assert_eq!(answer.status, 301);
        assert_eq!(answer.header("location").unwrap(), format!("https://{name}:{port}/x?y=1"));
    }
    let post = edge.send("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(post.status, 308);
    assert_eq!(edge.get("plain.example", "/").await.status, 200);
    assert_eq!(edge.get("unknown.example", "/").await.status, 404);
    assert_eq!(edge.proxy.counters().redirected, 4);
}

#[tokio::test]
async fn without_redirect_a_tls_only_route_does_not_exist_in_plain() {
    let server = Server::echo().await;
    let mut config = both();
    config.redirect_to_https = false;
    let secure = edgeproxy::Container::new("secure")
        .with_address(server.address.ip())
        .with_port(server.address.port())
        .with_label("traefik.http.routers.secure.rule", "Host(`secure.example`)")
        .with_label("traefik.http.routers.secure.tls", "true");
    let edge = Edge::start_with(config, Certificates::new(), [secure]).await;
    assert_eq!(edge.get("secure.example", "/").await.status, 404);
}

#[test]
fn pem_files_load_and_what_is_wrong_with_them_is_said() {
    let ca = LocalCa::new("test").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
    let pair =
        rcgen::generate_simple_self_signed(["A.example".to_owned(), "*.b.example".to_owned()]).unwrap();
    write("cert.pem", &pair.cert.pem());
    write("key.pem", &pair.signing_key.serialize_pem());
    write("other.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    write("ca.pem", ca.certificate_pem());
    write("text.pem", "hello");
    let load = |certificate: &str, key: &str| CertifiedKey::from_pem_files(path(certificate), path(key));
    assert_eq!(load("cert.pem", "key.pem").unwrap().names(), ["a.example", "*.b.example"]);
    for (certificate, key, words) in [
        ("missing.pem", "key.pem", "cannot read"),
        ("text.pem", "key.pem", "holds no certificate"),
        ("cert.pem", "text.pem", "holds no usable private key"),
        ("cert.pem", "cert.pem", "holds no usable private key"),
        ("cert.pem", "other.pem", "does not belong"),
    ] {
        let error = load(certificate, key).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(".pem"), "{certificate} {key}: {error}");
    }
    let issued = ca.issue(&["a.example"]).unwrap();
    assert_eq!(format!("{issued:?}"), "CertifiedKey { names: [\"a.example\"], .. }", "no key in it");
    assert!(ca.issue::<&str>(&[]).is_err());
    assert!(ca.issue(&["ä.example"]).unwrap_err().to_string().contains("ä.example"));
}
