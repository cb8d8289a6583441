//! edgeproxy: what every request pays (the lookup; one whole request on loopback), and what a change of containers pays (compiling
//! the table).

use std::net::SocketAddr;
use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use edgeproxy::host::split_authority;
use edgeproxy::route::{EntryPoint, RequestView, RouteTable};
use edgeproxy::rule::Rule;
use edgeproxy::snapshot::Container;
use edgeproxy::{Config, MemoryProvider, Proxy};
use hybrid_benches::{containers, host};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

const ROUTES: [usize; 3] = [10, 1_000, 10_000];

/// The host header to its route; the hosts are visited in turn.
#[divan::bench(args = ROUTES)]
fn lookup(bencher: Bencher<'_, '_>, routes: usize) {
    let (table, diagnostics) = RouteTable::compile(&containers(routes));
    assert_eq!((table.routes().len(), diagnostics.len()), (routes, 0));
    let hosts: Vec<String> = (0..routes).map(host).collect();
    let mut turn = hosts.iter().cycle();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let authority = turn.next().expect("a cycle does not end");
        let (host, _) = split_authority(black_box(authority)).expect("a valid host");
        table.lookup(&RequestView::new(EntryPoint::Https, &host, "/")).is_some()
    });
}

/// A host that nobody has.
#[divan::bench(args = ROUTES)]
fn lookup_of_nothing(bencher: Bencher<'_, '_>, routes: usize) {
    let (table, _) = RouteTable::compile(&containers(routes));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        table.lookup(&RequestView::new(EntryPoint::Https, black_box("nobody.example.org"), "/")).is_none()
    });
}

/// All labels to a new table.
#[divan::bench(args = ROUTES)]
fn compile(bencher: Bencher<'_, '_>, routes: usize) {
    let snapshot = containers(routes);
    bencher.counter(ItemsCount::new(routes)).bench_local(|| RouteTable::compile(black_box(&snapshot)));
}

/// One rule of some size.
#[divan::bench]
fn parse_rule(bencher: Bencher<'_, '_>) {
    let text =
        "Host(`a.example.org`, `b.example.org`) && (PathPrefix(`/api`) || !Path(`/`)) && Method(`GET`)";
    bencher.bench_local(|| Rule::parse(black_box(text)).is_ok());
}

/// One request on a connection that is kept alive, straight to the server: client, server and runtime are the same for the next one.
#[divan::bench]
fn request_without_proxy(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let server = runtime.block_on(serve());
    let mut connection = runtime.block_on(TcpStream::connect(server)).expect("the server listens");
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| runtime.block_on(request(&mut connection)));
}

/// The same through the proxy.
#[divan::bench]
fn request_through_proxy(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let proxy = runtime.block_on(async {
        let (provider, handle) = MemoryProvider::new("bench");
        let mut config = Config::default();
        config.http = Some(([127, 0, 0, 1], 0).into());
        config.https = None;
        config.redirect_to_https = false;
        let proxy = Proxy::builder(config).provider(provider).start().await.expect("a free port");
        let server = serve().await;
        let container = Container::new("app")
            .with_address(server.ip())
            .with_port(server.port())
            .with_label("traefik.frontend.rule", "Host:app.example.org");
        handle.set([container].into_iter().collect()).await.expect("the proxy runs");
        proxy
    });
    let address = proxy.http_addr().expect("it listens for plain HTTP");
    let mut connection = runtime.block_on(TcpStream::connect(address)).expect("the proxy listens");
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| runtime.block_on(request(&mut connection)));
    drop(connection);
    runtime.block_on(proxy.shutdown(Duration::from_secs(1))).expect("nothing is in flight");
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started")
}

/// A server that answers every segment that ends a head, the cheapest there is.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                connection.set_nodelay(true).expect("a TCP socket");
                let mut buffer = [0; 4096];
                while let Ok(1..) = connection.read(&mut buffer).await {
                    connection.write_all(ANSWER).await.expect("the client waits for it");
                }
            });
        }
    });
    address
}

async fn request(connection: &mut TcpStream) {
    connection
        .write_all(b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n")
        .await
        .expect("the other side is there");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = connection.read_buf(&mut answer).await.expect("the other side is there");
        assert!(read > 0 && answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
    }
}
