//! The in-process stack, two of them joined by a wire that can be paused.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshnet::Device;
use meshnet::stack::{Stack, StackConfig, StackDevice, TcpListener, TcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two stacks and the wire between them.
struct Pair {
    a: Stack,
    b: Stack,
    open: watch::Sender<bool>,
    _wires: [JoinHandle<()>; 2],
}

fn pair(addresses: [&str; 2], set: impl Fn(&mut StackConfig)) -> Pair {
    let (open, opened) = watch::channel(true);
    let make = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        let mut config = StackConfig::new(address, if address.is_ipv4() { 24 } else { 64 });
        set(&mut config);
        meshnet::stack::new(config)
    };
    let ((a, a_device), (b, b_device)) = (make(addresses[0]), make(addresses[1]));
    let (a_device, b_device) = (Arc::new(a_device), Arc::new(b_device));
    let wires = [
        wire(Arc::clone(&a_device), Arc::clone(&b_device), opened.clone()),
        wire(b_device, a_device, opened),
    ];
    Pair { a, b, open, _wires: wires }
}

fn ipv4(set: impl Fn(&mut StackConfig)) -> Pair {
    pair(["10.7.0.1", "10.7.0.2"], set)
}

fn wire(from: Arc<StackDevice>, to: Arc<StackDevice>, open: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut packet = vec![0; 9000];
        loop {
            let len = from.recv(&mut packet).await.unwrap();
            if *open.borrow() {
                to.send(&packet[..len]).await.unwrap();
            }
        }
    })
}

/// A connection from a to b, both ends.
async fn connected(pair: &Pair) -> (TcpStream, TcpStream, TcpListener) {
    let listener = pair.b.listen(80).await.unwrap();
    let to = SocketAddr::new(pair.b.address(), 80);
    let (client, accepted) = tokio::join!(pair.a.connect(to), listener.accept());
    (client.unwrap(), accepted.unwrap().0, listener)
}

#[tokio::test]
async fn a_dropped_connection_still_delivers_what_was_written() {
    for addresses in [["10.7.0.1", "10.7.0.2"], ["fd00::1", "fd00::2"]] {
        let pair = pair(addresses, |_| {});
        let (mut client, mut server, _listener) = connected(&pair).await;
        client.write_all(&[7; 50_000]).await.unwrap();
        drop(client);
        let mut received = Vec::new();
        timeout(PATIENCE, server.read_to_end(&mut received)).await.unwrap().unwrap();
        assert_eq!(received, vec![7; 50_000]);
    }
}

#[tokio::test]
async fn one_direction_can_be_closed_while_the_other_goes_on() {
    let pair = ipv4(|_| {});
    let (mut client, mut server, _listener) = connected(&pair).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    timeout(PATIENCE, server.read_to_end(&mut question)).await.unwrap().unwrap();
    assert_eq!(question, b"question");
    assert_eq!(client.write_all(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn a_port_without_listener_refuses_and_a_dropped_listener_frees_its_port() {
    let pair = ipv4(|_| {});
    let to = SocketAddr::new(pair.b.address(), 81);
    assert_eq!(pair.a.connect(to).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let listener = pair.b.listen(81).await.unwrap();
    assert_eq!(pair.b.listen(81).await.unwrap_err().kind(), ErrorKind::AddrInUse);
    assert!(pair.a.connect(to).await.is_ok());
    drop(listener);
    assert_eq!(pair.a.connect(to).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let listener = pair.b.listen(81).await.unwrap();
    assert_eq!(listener.local_addr(), to);
    assert_ne!(pair.b.listen(0).await.unwrap().local_addr().port(), 0);
}

#[tokio::test]
async fn connecting_to_nobody_ends_after_the_configured_time() {
    let pair = ipv4(|config| config.connect_timeout = Duration::from_millis(200));
    let error = pair.a.connect("10.7.0.99:80".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let error = pair.a.connect("10.7.0.2:0".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[tokio::test]
async fn a_burst_of_connections_is_accepted_up_to_the_backlog_and_refused_beyond() {
    let pair = ipv4(|config| config.buffer_bytes = 4096);
    let listener = pair.b.listen(80).await.unwrap();
    let to = SocketAddr::new(pair.b.address(), 80);
    let attempts: Vec<_> = (0..200)
        .map(|_| {
            let stack = pair.a.clone();
            tokio::spawn(async move { stack.connect(to).await })
        })
        .collect();
    let mut open = Vec::new();
    let mut refused = 0;
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(stream) => open.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (128, 72));
    for _ in 0..128 {
        timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    }
    let (client, accepted) = tokio::join!(pair.a.connect(to), timeout(PATIENCE, listener.accept()));
    assert!(client.is_ok() && accepted.unwrap().is_ok(), "the listener did not recover");
}

#[tokio::test]
async fn sockets_are_bounded_and_come_back() {
    let pair = ipv4(|config| config.buffer_bytes = 4096);
    let listener = pair.b.listen(80).await.unwrap();
    let to = SocketAddr::new(pair.b.address(), 80);
    let mut open = Vec::new();
    let error = loop {
        match pair.a.connect(to).await {
            Ok(stream) => {
                open.push((stream, timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0));
                assert!(open.len() <= 1024);
            }
            Err(error) => break error,
        }
    };
    // Either side may be the first to have none left: b also needs one to listen.
    assert!(matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::ConnectionRefused), "{error}");
    assert!(open.len() >= 1000);
    open.clear();
    let again = async {
        loop {
            let attempt =
                tokio::join!(pair.a.connect(to), timeout(Duration::from_millis(300), listener.accept()));
            if let (Ok(_), Ok(_)) = attempt {
                break;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("no socket came back");
}

#[tokio::test]
async fn an_idle_connection_outlives_the_user_timeout_while_the_path_lives() {
    let pair = ipv4(|config| config.user_timeout = Duration::from_millis(300));
    let (mut client, mut server, _listener) = connected(&pair).await;
    sleep(Duration::from_millis(1500)).await;
    client.write_all(b"still here").await.unwrap();
    let mut received = [0; 10];
    timeout(PATIENCE, server.read_exact(&mut received)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_that_pauses_longer_than_the_user_timeout_loses_nothing() {
    let pair = ipv4(|config| config.user_timeout = Duration::from_millis(300));
    let (mut client, mut server, _listener) = connected(&pair).await;
    let writing = tokio::spawn(async move {
        client.write_all(&vec![9; 400_000]).await.unwrap();
    });
    // The window is closed for several times the timeout.
    sleep(Duration::from_millis(1500)).await;
    let mut received = Vec::new();
    timeout(PATIENCE, server.read_to_end(&mut received)).await.unwrap().unwrap();
    assert_eq!(received.len(), 400_000);
    writing.await.unwrap();
}

#[tokio::test]
async fn a_dead_path_fails_readers_and_writers_within_the_user_timeout() {
    let pair = ipv4(|config| config.user_timeout = Duration::from_millis(400));
    let (mut client, mut server, _listener) = connected(&pair).await;
    pair.open.send(false).unwrap();
    let mut byte = [0];
    let (read, other) = tokio::join!(
        timeout(PATIENCE, client.read_exact(&mut byte)),
        timeout(PATIENCE, async {
            loop {
                if let Err(error) = server.write_all(&[1; 10_000]).await {
                    break error;
                }
            }
        })
    );
    assert_eq!(read.unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(other.unwrap().kind(), ErrorKind::TimedOut);
    pair.open.send(true).unwrap();
    let to = SocketAddr::new(pair.b.address(), 80);
    assert!(pair.a.connect(to).await.is_ok(), "a healed path serves new connections");
}

#[tokio::test]
async fn a_reset_is_told_from_an_end() {
    let pair = ipv4(|_| {});
    let listener = pair.b.listen(80).await.unwrap();
    let mut client = pair.a.connect(SocketAddr::new(pair.b.address(), 80)).await.unwrap();
    // Nobody accepts; closing the port resets what waits.
    drop(listener);
    let error = timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}
