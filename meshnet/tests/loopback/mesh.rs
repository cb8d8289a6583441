//! Whole meshes: joining, traffic, cuts, roaming, refusals.

use std::net::SocketAddr;
use std::time::Duration;

use meshnet::stack::{Stack, StackConfig, TcpListener, TcpStream};
use meshnet::{
    Config, Event, JoinError, Mesh, NetworkSecret, NoDevice, PeerState, Refusal, SecretKey, StartError,
    Ticket, TicketError, TicketOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::line::Line;

/// Generous: two busy cores may run this.
const PATIENCE: Duration = Duration::from_secs(30);
const MARKER: &[u8] = b"THIS-MUST-NEVER-BE-SEEN-ON-THE-WIRE";

struct Node {
    mesh: Mesh,
    stack: Stack,
    line: Line,
}

async fn start(config: Config, user_timeout: Duration) -> Node {
    let line = Line::new().await;
    let mut stack_config = StackConfig::new(config.address.addr(), config.address.prefix_len());
    stack_config.user_timeout = user_timeout;
    let (stack, device) = meshnet::stack::new(stack_config);
    let mesh = Mesh::start_on(config, device, line.clone()).await.unwrap();
    Node { mesh, stack, line }
}

fn founder() -> Config {
    Config::founder(SecretKey::generate(), NetworkSecret::generate(), "10.7.0.1/24".parse().unwrap())
}

fn options(host: u8, valid_for: Duration) -> TicketOptions {
    TicketOptions {
        name: format!("home-{host}"),
        address: [10, 7, 0, host].into(),
        subnets: vec![],
        endpoints: vec![],
        valid_for,
    }
}

/// A vm and two homes that joined it by ticket and found each other.
async fn three_nodes(user_timeout: Duration) -> [Node; 3] {
    let vm = start(founder(), user_timeout).await;
    let mut homes = Vec::new();
    for host in [2, 3] {
        // The text is what travels between people.
        let text = vm.mesh.invite(options(host, PATIENCE)).unwrap().to_string();
        let ticket: Ticket = text.parse().unwrap();
        let home = start(Config::join(SecretKey::generate(), ticket), user_timeout).await;
        let membership = home.mesh.joined(PATIENCE).await.unwrap();
        assert_eq!(membership.address().addr(), home.mesh.address());
        homes.push(home);
    }
    let [home1, home2] = homes.try_into().ok().unwrap();
    home1.mesh.connected(home2.mesh.id(), PATIENCE).await.unwrap();
    home2.mesh.connected(home1.mesh.id(), PATIENCE).await.unwrap();
    [vm, home1, home2]
}

/// Answers every connection by echoing what comes.
fn echo(listener: TcpListener) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    })
}

async fn ask(stream: &mut TcpStream, question: &[u8]) -> std::io::Result<()> {
    stream.write_all(question).await?;
    let mut answer = vec![0; question.len()];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, question);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn homes_join_by_ticket_and_move_megabytes_that_nobody_can_read() {
    let [vm, home1, home2] = three_nodes(Duration::from_secs(20)).await;
    let server = echo(home2.stack.listen(80).await.unwrap());
    let to = SocketAddr::new(home2.stack.address(), 80);
    let stream = home1.stack.connect(to).await.unwrap();
    assert_eq!(stream.peer_addr(), to);
    let block = MARKER.repeat(1000);
    let total = 4 * 1024 * 1024 / block.len() * block.len();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let expected = block.clone();
    let writing = tokio::spawn(async move {
        for _ in 0..total / block.len() {
            writer.write_all(&block).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(PATIENCE, reader.read_to_end(&mut received)).await.expect("the echo stalled").unwrap();
    writing.await.unwrap();
    assert_eq!(received.len(), total);
    assert!(received.chunks(expected.len()).all(|chunk| chunk == expected));
    let mut datagrams = 0;
    for node in [&vm, &home1, &home2] {
        for (_, bytes) in node.line.sent() {
            assert!(!bytes.windows(MARKER.len()).any(|part| part == MARKER), "plaintext on the wire");
            datagrams += 1;
        }
    }
    assert!(datagrams > total / 1280);
    // The bulk went straight from home to home.
    let status = home1.mesh.peers().into_iter().find(|peer| peer.id == home2.mesh.id()).unwrap();
    assert_eq!(status.state, PeerState::Up);
    assert_eq!(status.claims.name, "home-3");
    assert!(status.bytes_out > total as u64 && status.bytes_in > total as u64);
    assert!(vm.mesh.counters().packets_in < 1000);
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_line_is_noticed_within_a_second_and_traffic_flows_again_after_a_move() {
    let [vm, home1, _home2] = three_nodes(Duration::from_millis(700)).await;
    let server = echo(home1.stack.listen(80).await.unwrap());
    let to = SocketAddr::new(home1.stack.address(), 80);
    let mut stream = vm.stack.connect(to).await.unwrap();
    ask(&mut stream, b"before the cut").await.unwrap();
    let mut events = vm.mesh.subscribe();
    home1.line.cut();
    let cut_at = Instant::now();
    let error = timeout(PATIENCE, ask(&mut stream, b"into the void")).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    let noticed = cut_at.elapsed();
    assert!(noticed < Duration::from_millis(1500), "noticed after {noticed:?}");
    home1.line.come_back_elsewhere().await;
    home1.mesh.rebound();
    let back_at = Instant::now();
    let mut stream = loop {
        match vm.stack.connect(to).await {
            Ok(stream) => break stream,
            Err(error) => assert!(back_at.elapsed() < PATIENCE, "{error}"),
        }
    };
    ask(&mut stream, b"after the move").await.unwrap();
    let healed = back_at.elapsed();
    assert!(healed < Duration::from_secs(2), "healed after {healed:?}");
    eprintln!("cut noticed after {noticed:?}, traffic after a move within {healed:?}");
    let moved = async {
        loop {
            if let Event::PeerMoved { peer, to, .. } = events.recv().await.unwrap()
                && peer == home1.mesh.id()
            {
                break to;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, moved).await.unwrap(), home1.mesh.local_addr());
    server.abort();
}

#[tokio::test]
async fn wrong_expired_and_reused_tickets_are_told_apart() {
    let vm = start(founder(), PATIENCE).await;
    let ticket = vm.mesh.invite(options(2, PATIENCE)).unwrap();
    let first = start(Config::join(SecretKey::generate(), ticket.clone()), PATIENCE).await;
    first.mesh.joined(PATIENCE).await.unwrap();
    let second = start(Config::join(SecretKey::generate(), ticket), PATIENCE).await;
    let refused = second.mesh.joined(PATIENCE).await.unwrap_err();
    assert_eq!(refused, JoinError::Refused(Refusal::TicketUsed));
    let expired = vm.mesh.invite(options(4, Duration::ZERO)).unwrap();
    let config = Config::join(SecretKey::generate(), expired);
    let error = Mesh::start(config, NoDevice).await.unwrap_err();
    assert!(matches!(error, StartError::Ticket(TicketError::Expired { .. })), "{error}");
    let taken = vm.mesh.invite(options(2, PATIENCE)).unwrap_err();
    assert!(taken.to_string().contains("10.7.0.2"), "{taken}");
}

#[tokio::test]
async fn an_issuer_that_is_not_there_is_a_timeout_that_says_what_to_check() {
    let vm = start(founder(), PATIENCE).await;
    let ticket = vm.mesh.invite(options(2, PATIENCE)).unwrap();
    vm.mesh.shutdown().await;
    vm.line.cut();
    let home = start(Config::join(SecretKey::generate(), ticket), PATIENCE).await;
    let error = home.mesh.joined(Duration::from_millis(600)).await.unwrap_err();
    assert!(error.to_string().contains("reachable"), "{error}");
}

#[tokio::test]
async fn a_node_stops_with_its_last_handle_and_frees_its_port() {
    let mut config = founder();
    config.listen = "127.0.0.1:0".parse().unwrap();
    let mesh = Mesh::start(config.clone(), NoDevice).await.unwrap();
    config.listen = mesh.local_addr();
    let busy = Mesh::start(config.clone(), NoDevice).await.unwrap_err();
    assert!(matches!(busy, StartError::Bind { .. }), "{busy}");
    let clone = mesh.clone();
    drop(mesh);
    assert!(matches!(Mesh::start(config.clone(), NoDevice).await, Err(StartError::Bind { .. })));
    drop(clone);
    let again = async {
        loop {
            // The tasks end when they are next scheduled.
            match Mesh::start(config.clone(), NoDevice).await {
                Ok(mesh) => break mesh,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let mesh = timeout(PATIENCE, again).await.expect("the port was never freed");
    mesh.shutdown().await;
    assert!(Mesh::start(config, NoDevice).await.is_ok(), "shutdown frees the port before it returns");
}

#[tokio::test]
async fn the_default_listen_address_carries_ipv4_too() {
    let vm = Mesh::start(founder(), NoDevice).await.unwrap();
    let port = vm.local_addr().port();
    let mut invitation = options(2, PATIENCE);
    invitation.endpoints = vec![SocketAddr::from(([127, 0, 0, 1], port))];
    let home = Mesh::start(Config::join(SecretKey::generate(), vm.invite(invitation).unwrap()), NoDevice)
        .await
        .unwrap();
    home.joined(PATIENCE).await.unwrap();
    assert!(home.peers()[0].endpoint.is_ipv4() && vm.peers()[0].endpoint.is_ipv4());
}
