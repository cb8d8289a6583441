//! Hostile bytes at the border: whatever the proxy refuses must never reach a server, and whatever it accepts must reach it as one request.
#![cfg(feature = "driver")]
#![allow(clippy::unwrap_used, clippy::disallowed_types)]

mod support;

use edgeproxy::Certificates;
use std::sync::{Arc, Mutex};
use support::{Edge, Server, config, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server that notes every byte that it gets, and answers once a connection.
async fn recorder() -> (Server, Arc<Mutex<String>>) {
    let heard = Arc::new(Mutex::new(String::new()));
    let noting = heard.clone();
    let server = Server::start_raw(move |mut stream| {
        let heard = noting.clone();
        async move {
            let mut bytes = vec![0; 65536];
            while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    (server, heard)
}

#[tokio::test]
async fn doubtful_heads_get_400_and_reach_no_server() {
    let (server, heard) = recorder().await;
    let edge = Edge::start([server.container("app", "a")]).await;
    for request in [
        // Two framings, in either order, and variants that some parsers miss.
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n",
        // A chunked body before HTTP/1.1 existed.
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Lines that end or continue in odd ways.
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "G\x01T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        // Which host?
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        // Headers that pretend to be ours.
        "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded_Proto: https\r\n\r\n",
    ] {
        let mut client = edge.connect().await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{request:?}");
        assert!(client.is_closed().await, "{request:?} left the connection open");
    }
    assert_eq!(*heard.lock().unwrap(), "");
    assert_eq!(edge.proxy.counters().forwarded, 0);
}

#[tokio::test]
async fn doubtful_bodies_are_cut_and_end_the_connection() {
    for (body, passed) in [
        ("5;x=y\r\nhello\r\n0\r\n\r\n", ""),
        ("5\nhello\r\n0\r\n\r\n", ""),
        ("5\r\nhello!\r\n0\r\n\r\n", "5\r\nhello\r\n"),
        ("5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n", "5\r\nhello\r\n"),
        ("ffffffffffffffff1\r\nhello", ""),
    ] {
        let (server, heard) = recorder().await;
        let edge = Edge::start([server.container("app", "a")]).await;
        let mut client = edge.connect().await;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        client.send(format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let mut answers = String::new();
        in_time(client.0.read_to_string(&mut answers)).await.unwrap();
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{body:?}: {answers}");
        let heard = heard.lock().unwrap();
        assert!(!heard.contains("smuggled") && !heard.contains("\r\n0\r\n"), "{body:?}: {heard}");
        let got = heard.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(passed.starts_with(got), "{body:?}: {got}");
    }
}

#[tokio::test]
async fn what_follows_a_request_is_a_request_of_its_own() {
    let server = Server::echo().await;
    let edge = Edge::start([server.container("app", "a")]).await;
    let mut client = edge.connect().await;
    client
        .send(
            "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\n\r\nGET /in-body HTTP/1.1\r\nHost: a\r\n\
             POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
             \r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    for (path, body) in [("POST /1\n", "Host: a\r\n"), ("POST /2\n", "\nabc"), ("GET /3\n", "\n")] {
        let answer = client.answer().await;
        assert!(answer.body.starts_with(path) && answer.body.ends_with(body), "{}", answer.body);
    }
    assert_eq!(edge.proxy.counters().requests, 3);
}

#[tokio::test]
async fn a_good_request_before_a_bad_one_is_answered() {
    let server = Server::echo().await;
    let edge = Edge::start([server.container("app", "a")]).await;
    let mut client = edge.connect().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.status, 400);
    assert!(client.is_closed().await);
    assert_eq!(edge.proxy.counters().refused, 1);
}

#[tokio::test]
async fn a_stalled_byte_by_byte_request_is_read_the_same() {
    let server = Server::echo().await;
    let edge = Edge::start([server.container("app", "a")]).await;
    let mut client = edge.connect().await;
    for byte in b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    let answer = client.answer().await;
    assert!(answer.body.starts_with("POST /slow\n") && answer.body.ends_with("\nok"), "{}", answer.body);
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_lines() {
    let server = Server::echo().await;
    let mut config = config();
    (config.head_max_bytes, config.headers_max) = (16 * 1024, 20);
    let edge = Edge::start_with(config, Certificates::new(), [server.container("app", "a")]).await;
    let status = async |request: String| edge.send(&request).await.status;
    let lines = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    assert_eq!(status(lines(20)).await, 200);
    assert_eq!(status(lines(21)).await, 431);
    let bytes = |n: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{head}{}\r\n\r\n", "y".repeat(n - head.len() - 4))
    };
    assert_eq!(status(bytes(16 * 1024 - 1)).await, 200);
    assert_eq!(status(bytes(16 * 1024 + 1)).await, 431);
}

#[tokio::test]
async fn connect_and_h2c_are_not_served() {
    let server = Server::echo().await;
    let edge = Edge::start([server.container("app", "a")]).await;
    assert_eq!(edge.send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").await.status, 501);
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let answer = edge.send(upgrade).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("h2c") && !answer.body.contains("http2-settings"), "{}", answer.body);
    // The preface of HTTP/2 with prior knowledge is no request.
    assert_eq!(edge.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.status, 400);
}
