//! Forwarding over loopback: what reaches the server, what reaches the client, and what happens when a server does not answer.
#![cfg(feature = "driver")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use edgeproxy::{
    BoxFuture, BoxedStream, Certificates, Config, Dial, EntryPoint, MemoryProvider, Proxy, TcpDialer,
    Upstream,
};
use http_body_util::BodyExt;
use hyper::Response;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use support::{Edge, Raw, Server, config, eventually, in_time};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::{Notify, Semaphore},
};

#[tokio::test]
async fn a_request_reaches_the_server_with_its_host_and_the_truth_about_the_client() {
    let server = Server::echo().await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let answer = edge
        .send(
            "POST /x?y=1 HTTP/1.1\r\nHost: App.example:81\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
             Authorization: Bearer t\r\nContent-Length: 5\r\n\r\nhello",
        )
        .await;
    assert_eq!(answer.status, 200);
    for line in [
        "POST /x?y=1",
        "host: App.example:81",
        "authorization: Bearer t",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: App.example:81",
        "x-forwarded-port: 81",
        "x-forwarded-proto: http",
        "x-real-ip: 127.0.0.1",
        "content-length: 5",
        "hello",
    ] {
        assert!(answer.body.lines().any(|got| got == line), "no `{line}` in\n{}", answer.body);
    }
    for absent in ["6.6.6.6", "x-hop", "connection:"] {
        assert!(!answer.body.contains(absent), "`{absent}` in\n{}", answer.body);
    }
}

#[tokio::test]
async fn pass_host_header_false_gives_the_server_its_own_name() {
    let server = Server::echo().await;
    let container =
        server.container("app", "app.example").with_label("traefik.frontend.passHostHeader", "false");
    let edge = Edge::start([container]).await;
    let answer = edge.get("app.example", "/").await;
    assert!(answer.body.contains(&format!("host: {}\n", server.address)), "{}", answer.body);
    assert!(answer.body.contains("x-forwarded-host: app.example\n"), "{}", answer.body);
}

#[tokio::test]
async fn an_absolute_target_and_http_1_0_are_understood() {
    let server = Server::echo().await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let answer = edge.send("GET http://app.example/x?y HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    assert!(answer.body.starts_with("GET /x?y\n"), "{}", answer.body);
    let mut old = edge.connect().await;
    old.send("GET / HTTP/1.0\r\nHost: app.example\r\n\r\n").await;
    assert_eq!(old.answer().await.status, 200);
    assert!(old.is_closed().await);
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    let server = Server::start_raw(move |stream| {
        counted.fetch_add(1, SeqCst);
        async move {
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(support::Body::from("hello")))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    })
    .await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let mut client = edge.connect().await;
    for n in 1..=20 {
        client.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
        assert_eq!(client.answer().await.body, "hello");
        // The connection is free a moment after the last byte was read; then the next request must use it.
        eventually("the request was counted", || edge.proxy.counters().forwarded == n).await;
    }
    let counters = edge.proxy.counters();
    assert_eq!(counters.connections, 1);
    assert_eq!(counters.dials as usize, accepted.load(SeqCst));
    assert!(counters.reused >= 15, "{counters:?}");
}

#[tokio::test]
async fn a_body_larger_than_every_buffer_streams_at_the_pace_of_its_reader() {
    const MEGABYTE: usize = 1 << 20;
    const SIZE: usize = 64 * MEGABYTE;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let server = Server::start_raw(move |mut stream| {
        let sent = counted.clone();
        async move {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let piece = vec![b'x'; MEGABYTE];
            while sent.load(SeqCst) < SIZE && stream.write_all(&piece).await.is_ok() {
                sent.fetch_add(MEGABYTE, SeqCst);
            }
        }
    })
    .await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    // Nobody reads: the server must come to a halt with most of the body unsent.
    let mut last = usize::MAX;
    in_time(async {
        while last != sent.load(SeqCst) {
            last = sent.load(SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
    assert!(last < SIZE / 2, "{last} bytes went into buffers");
    let mut got = 0;
    let mut piece = vec![0; MEGABYTE];
    while got < SIZE {
        got += in_time(client.0.read(&mut piece)).await.unwrap();
    }
    assert!(got < SIZE + 1024, "nothing but the head beyond the body");
}

#[tokio::test]
async fn an_upload_reaches_the_server_while_it_is_still_being_sent() {
    let seen = Arc::new(Semaphore::new(0));
    let counted = seen.clone();
    let server = Server::start(move |mut request| {
        let seen = counted.clone();
        async move {
            let mut total = 0;
            while let Some(frame) = request.body_mut().frame().await {
                total += frame.unwrap().data_ref().map_or(0, |data| data.len());
                seen.add_permits(1);
            }
            Response::new(format!("{total} bytes").into())
        }
    })
    .await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let mut client = edge.connect().await;
    client.send("PUT / HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..3 {
        client.send("5\r\nhello\r\n").await;
        in_time(seen.acquire()).await.unwrap().forget();
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "15 bytes");
}

#[tokio::test]
async fn expect_continue_is_answered_and_not_passed_on() {
    let server = Server::echo().await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let mut client = edge.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: app.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 100);
    client.send("hello").await;
    let answer = client.answer().await;
    assert!(answer.body.ends_with("\nhello") && !answer.body.contains("expect"), "{}", answer.body);
}

#[tokio::test]
async fn the_head_of_a_response_comes_through_without_its_connection_headers() {
    let server = Server::start_raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let answer = "HTTP/1.1 404 Nope\r\nX-A: 1\r\nX-A: 2\r\nKeep-Alive: timeout=9\r\nConnection: x-hop\r\nX-Hop: 1\r\ncontent-length: 3\r\n\r\n";
        // A HEAD has no body, whatever the length says.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let mut client = edge.connect().await;
    client.send("HEAD / HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    let head = in_time(async {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(client.0.read_u8().await.unwrap() as char);
        }
        head.to_lowercase()
    })
    .await;
    assert!(head.starts_with("http/1.1 404") && head.contains("x-a: 1\r\nx-a: 2\r\n"), "{head}");
    assert!(
        head.contains("content-length: 3\r\n") && !head.contains("x-hop") && !head.contains("keep-alive"),
        "{head}"
    );
}

#[tokio::test]
async fn an_unknown_host_is_404_and_a_known_one_without_a_live_server_503() {
    let server = Server::echo().await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    assert_eq!(edge.get("other.example", "/").await.status, 404);
    assert_eq!(edge.get("app.example", "/").await.status, 200);
    edge.set([server.container("app", "app.example").with_up(false)]).await;
    let answer = edge.send("GET / HTTP/1.1\r\nHost: app.example\r\nAccept: application/json\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert!(answer.body.contains("\"retry_after_secs\":5"), "{}", answer.body);
    edge.set([]).await;
    assert_eq!(edge.get("app.example", "/").await.status, 404);
    let counters = edge.proxy.counters();
    assert_eq!(
        (counters.requests, counters.forwarded, counters.unavailable, counters.not_found),
        (4, 1, 1, 2)
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_503_and_the_next_one_is_tried() {
    let server = Server::echo().await;
    let gone = Server::echo().await;
    let dead = gone.container("a", "app.example");
    drop(gone);
    let edge = Edge::start([dead.clone()]).await;
    let answer = edge.get("app.example", "/").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));

    // Two replicas of one backend, one of them dead: every request is answered.
    let backend = |container: edgeproxy::Container| container.with_label("traefik.backend", "app");
    edge.set([backend(dead), backend(server.container("b", "app.example"))]).await;
    for _ in 0..4 {
        assert_eq!(edge.get("app.example", "/").await.status, 200);
    }
}

/// Accepts and never answers: a dark line.
struct NeverDialer;

impl Dial for NeverDialer {
    fn dial<'a>(&'a self, _: &'a Upstream) -> BoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_dial_that_takes_too_long_is_503() {
    let server = Server::echo().await;
    let (provider, handle) = MemoryProvider::new("test");
    handle.set([server.container("app", "app.example")].into_iter().collect()).await.unwrap();
    let mut config = config();
    config.dial_timeout = Duration::from_millis(50);
    let proxy = Proxy::builder(config).provider(provider).dialer(NeverDialer).start().await.unwrap();
    let edge = Edge { proxy, containers: handle };
    assert_eq!(edge.get("app.example", "/").await.status, 503);
    assert_eq!(edge.proxy.counters().dial_errors, 1);
}

/// A line that takes a request and then dies, as a user timeout or a reset reports it.
struct DyingDialer(io::ErrorKind);

struct DyingLine {
    kind: io::ErrorKind,
    written: bool,
    reader: Option<Waker>,
}

impl Dial for DyingDialer {
    fn dial<'a>(&'a self, _: &'a Upstream) -> BoxFuture<'a, io::Result<BoxedStream>> {
        let line = DyingLine { kind: self.0, written: false, reader: None };
        Box::pin(async move { Ok(Box::new(line) as BoxedStream) })
    }
}

impl AsyncRead for DyingLine {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.written {
            return Poll::Ready(Err(self.kind.into()));
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for DyingLine {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_line_that_dies_under_a_request_is_answered_at_once() {
    let server = Server::echo().await;
    for (kind, status) in [(io::ErrorKind::TimedOut, 503), (io::ErrorKind::ConnectionReset, 502)] {
        let (provider, handle) = MemoryProvider::new("test");
        handle.set([server.container("app", "app.example")].into_iter().collect()).await.unwrap();
        let proxy =
            Proxy::builder(config()).provider(provider).dialer(DyingDialer(kind)).start().await.unwrap();
        let edge = Edge { proxy, containers: handle };
        let started = Instant::now();
        assert_eq!(edge.get("app.example", "/").await.status, status, "{kind}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_server_that_closes_without_an_answer_is_502_and_one_that_is_silent_504() {
    let closing = Server::start_raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let silent = Server::start_raw(|mut stream| async move {
        while stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let mut config = config();
    config.response_header_timeout = Duration::from_millis(100);
    let containers = [closing.container("c", "closing.example"), silent.container("s", "silent.example")];
    let edge = Edge::start_with(config, Certificates::new(), containers).await;
    assert_eq!(edge.get("closing.example", "/").await.status, 502);
    assert_eq!(edge.get("silent.example", "/").await.status, 504);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_408_but_a_slow_one_is_not() {
    let server = Server::echo().await;
    let mut config = config();
    config.body_idle_timeout = Duration::from_millis(500);
    // Shorter than the upload takes: only the server's own time counts.
    config.response_header_timeout = Duration::from_millis(700);
    let edge = Edge::start_with(config, Certificates::new(), [server.container("app", "app.example")]).await;
    let mut stalled = edge.connect().await;
    stalled.send("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\n\r\nhel").await;
    assert_eq!(stalled.answer().await.status, 408);

    let mut slow = edge.connect().await;
    slow.send("POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 10\r\n\r\n").await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        slow.send("x").await;
    }
    assert_eq!(slow.answer().await.status, 200);
}

#[tokio::test]
async fn a_request_waits_for_a_server_that_moves() {
    let server = Server::echo().await;
    let mut config = config();
    config.hold_unavailable = support::DEADLINE;
    config.held_requests_max = 1;
    let down = || server.container("app", "app.example").with_up(false);
    let edge = Arc::new(Edge::start_with(config, Certificates::new(), [down()]).await);
    let waiting = tokio::spawn({
        let edge = edge.clone();
        async move { edge.get("app.example", "/").await }
    });
    eventually("the request was held", || edge.proxy.counters().held == 1).await;
    assert_eq!(edge.get("app.example", "/").await.status, 503, "no room to wait: answered at once");
    edge.set([]).await;
    edge.set([server.container("app-2", "app.example")]).await;
    assert_eq!(in_time(waiting).await.unwrap().status, 200);
}

#[tokio::test]
async fn holding_ends_in_503() {
    let server = Server::echo().await;
    let mut config = config();
    config.hold_unavailable = Duration::from_millis(100);
    let down = server.container("app", "app.example").with_up(false);
    let edge = Edge::start_with(config, Certificates::new(), [down]).await;
    let started = Instant::now();
    assert_eq!(edge.get("app.example", "/").await.status, 503);
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_request_in_flight_finishes_when_its_container_is_taken_out() {
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = Server::start({
        let (arrived, go) = (arrived.clone(), go.clone());
        move |_| {
            let (arrived, go) = (arrived.clone(), go.clone());
            async move {
                arrived.notify_one();
                go.notified().await;
                Response::new("late".into())
            }
        }
    })
    .await;
    let edge = Arc::new(Edge::start([server.container("app", "app.example")]).await);
    let waiting = tokio::spawn({
        let edge = edge.clone();
        async move { edge.get("app.example", "/").await }
    });
    in_time(arrived.notified()).await;
    edge.set([server.container("app", "app.example").with_up(false)]).await;
    assert_eq!(edge.get("app.example", "/").await.status, 503);
    go.notify_one();
    assert_eq!(in_time(waiting).await.unwrap().body, "late");
}

/// Answers the first request of each connection and reads the second: then closes without a word, as a server does that restarts.
async fn stale_server(requests: Arc<AtomicUsize>) -> Server {
    Server::start_raw(move |mut stream| {
        let requests = requests.clone();
        async move {
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                requests.fetch_add(1, SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
            if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                requests.fetch_add(1, SeqCst);
            }
        }
    })
    .await
}

#[tokio::test]
async fn on_a_stale_connection_a_get_is_sent_again_and_a_post_never() {
    let requests = Arc::new(AtomicUsize::new(0));
    let server = stale_server(requests.clone()).await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let post = "POST / HTTP/1.1\r\nHost: app.example\r\nContent-Length: 2\r\n\r\nhi";

    assert_eq!(edge.get("app.example", "/1").await.status, 200);
    assert_eq!(edge.get("app.example", "/2").await.status, 200, "sent again on a new connection");
    let counters = edge.proxy.counters();
    assert_eq!((counters.dials, counters.retried), (2, 1), "{counters:?}");
    assert_eq!(requests.load(SeqCst), 3);

    // The connection of the second request is kept now, and goes stale under the POST.
    assert_eq!(edge.send(post).await.status, 502);
    assert_eq!(requests.load(SeqCst), 4, "the POST arrived once");
    assert_eq!(edge.proxy.counters().retried, 1);
}

#[tokio::test]
async fn a_websocket_becomes_a_tunnel() {
    let server = Server::start(|mut request| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 6];
            stream.read_exact(&mut word).await.unwrap();
            word.reverse();
            stream.write_all(&word).await.unwrap();
        });
        Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(support::Body::default())
            .unwrap()
    })
    .await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let mut client = edge.connect().await;
    client.send("GET /ws HTTP/1.1\r\nHost: app.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    // Bytes that are anything but HTTP.
    client.send(b"\x00\n\xff\r\nz").await;
    let mut back = Vec::new();
    in_time(client.0.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"z\n\r\xff\n\x00");
    assert_eq!(edge.proxy.counters().tunnels, 1);
}

#[tokio::test]
async fn a_server_that_upgrades_without_being_asked_is_502() {
    let server = Server::start_raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ =
            stream.write_all(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    assert_eq!(edge.get("app.example", "/").await.status, 502);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let server = Server::echo().await;
    let mut config = config();
    config.connections_max = 1;
    let edge = Edge::start_with(config, Certificates::new(), [server.container("app", "app.example")]).await;
    let mut first = edge.connect().await;
    let request = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n";
    first.send(request).await;
    assert_eq!(first.answer().await.status, 200);
    let mut second = edge.connect().await;
    second.send(request).await;
    let early = tokio::time::timeout(Duration::from_millis(200), second.0.read_u8()).await;
    assert!(early.is_err(), "answered beyond the limit");
    drop(first);
    assert_eq!(second.answer().await.status, 200);
}

#[tokio::test]
async fn shutdown_lets_a_request_finish_and_refuses_new_ones() {
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = Server::start({
        let (arrived, go) = (arrived.clone(), go.clone());
        move |_| {
            let (arrived, go) = (arrived.clone(), go.clone());
            async move {
                arrived.notify_one();
                go.notified().await;
                Response::new("late".into())
            }
        }
    })
    .await;
    let edge = Edge::start([server.container("app", "app.example")]).await;
    let address = edge.http();
    let mut busy = edge.connect().await;
    let mut idle = edge.connect().await;
    busy.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    in_time(arrived.notified()).await;
    let ending = tokio::spawn(async move { edge.proxy.shutdown(support::DEADLINE).await });
    assert!(idle.is_closed().await);
    in_time(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await
        }
    })
    .await;
    go.notify_one();
    assert_eq!(busy.answer().await.body, "late");
    in_time(ending).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_cuts_what_outlasts_the_grace_and_says_so() {
    let silent = Server::start_raw(|mut stream| async move {
        while stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let edge = Edge::start([silent.container("app", "app.example")]).await;
    let mut busy = edge.connect().await;
    busy.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
    eventually("the request arrived", || edge.proxy.counters().dials == 1).await;
    let error = edge.proxy.shutdown(Duration::from_millis(50)).await.unwrap_err().to_string();
    assert!(error.starts_with("1 connections were still busy"), "{error}");
    assert!(busy.is_closed().await);
    assert!(edge.containers.set(Default::default()).await.is_err(), "nobody takes snapshots any more");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config();
    config.http = Some(taken.local_addr().unwrap());
    let error = Proxy::builder(config).start().await.unwrap_err().to_string();
    assert!(
        error.contains(&taken.local_addr().unwrap().to_string()) && error.contains("ss -ltnp"),
        "{error}"
    );
    let error = Proxy::builder(Config::default()).start().await.unwrap_err().to_string();
    assert!(error.contains("nothing to listen on"), "{error}");
}

#[tokio::test]
async fn two_providers_of_one_name_do_not_replace_each_other() {
    let server = Server::echo().await;
    let (a, in_a) = MemoryProvider::new("m");
    let (b, in_b) = MemoryProvider::new("m");
    in_a.set([server.container("app", "a.example")].into_iter().collect()).await.unwrap();
    in_b.set([server.container("app", "b.example")].into_iter().collect()).await.unwrap();
    let proxy = Proxy::builder(config()).provider(a).provider(b).dialer(TcpDialer).start().await.unwrap();
    let providers: Vec<String> = proxy.routes().routes().map(|route| route.provider.clone()).collect();
    assert_eq!(providers, ["m", "m-2"]);
    let edge = Edge { proxy, containers: in_a };
    assert_eq!(edge.get("b.example", "/").await.status, 200);
    drop(in_b);
    assert_eq!(edge.get("b.example", "/").await.status, 200, "what was set last stays");
    assert!(
        edge.proxy
            .routes()
            .lookup(&edgeproxy::route::RequestView::new(EntryPoint::Http, "a.example", "/"))
            .is_some()
    );
}

#[tokio::test]
async fn a_labels_file_is_followed_and_a_broken_one_changes_nothing() {
    let server = Server::echo().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels.json");
    let write = |host: &str| {
        let entry = format!(
            r#"[{{"name": "app", "address": "{}", "labels": {{"traefik.frontend.rule": "Host:{host}"}}}}]"#,
            server.address
        );
        std::fs::write(&path, entry).unwrap();
    };
    write("a.example");
    let file = edgeproxy::LabelsFile::open(&path).unwrap();
    let proxy = Proxy::builder(config()).provider(file).start().await.unwrap();
    let (_, containers) = MemoryProvider::new("unused");
    let edge = Edge { proxy, containers };
    assert_eq!(edge.get("a.example", "/").await.status, 200);
    let routed = |host: &'static str| {
        edge.proxy.routes().lookup(&edgeproxy::route::RequestView::new(EntryPoint::Http, host, "/")).is_some()
    };
    write("longer.example");
    eventually("the file was read again", || routed("longer.example")).await;
    assert!(!routed("a.example"));
    std::fs::write(&path, "[{").unwrap();
    // It is looked at twice a second: after the next good version nothing of the broken one may be seen.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(routed("longer.example"));
    write("last.example");
    eventually("the file was read again", || routed("last.example")).await;
}

#[tokio::test]
async fn a_raw_client_without_a_head_is_closed_in_time() {
    let mut config = config();
    config.header_read_timeout = Duration::from_millis(100);
    let edge = Edge::start_with(config, Certificates::new(), []).await;
    let mut mute: Raw = edge.connect().await;
    mute.send("GET / HT").await;
    assert!(mute.is_closed().await);
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_the_limit() {
    const AT_ONCE: usize = 3;
    let together = Arc::new(tokio::sync::Barrier::new(AT_ONCE));
    let server = Server::start(move |_| {
        let together = together.clone();
        async move {
            together.wait().await;
            Response::new("ok".into())
        }
    })
    .await;
    for (kept, dials) in [(0, 6), (1, 5), (AT_ONCE, 3)] {
        let mut config = config();
        config.idle_connections_per_server_max = kept;
        let edge =
            Edge::start_with(config, Certificates::new(), [server.container("app", "app.example")]).await;
        for _ in 0..2 {
            // The server answers none of them before all have arrived, so each has a connection of its own.
            let answers = tokio::join!(
                edge.get("app.example", "/"),
                edge.get("app.example", "/"),
                edge.get("app.example", "/")
            );
            assert_eq!([answers.0.status, answers.1.status, answers.2.status], [200; AT_ONCE]);
        }
        assert_eq!(edge.proxy.counters().dials, dials, "with {kept} kept");
    }
}
