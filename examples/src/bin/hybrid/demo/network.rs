//! Step *mesh*: three nodes find each other by ticket, and a stranger learns nothing.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use meshnet::{Config, NetworkSecret, PeerConfig, SecretKey, Ticket, TicketOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use super::node::{Node, loopback};
use super::report::{Proof, StepError, millis};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TICKET_VALID: Duration = Duration::from_secs(600);
const ECHO_PORT: u16 = 7;
const SECRET_MESSAGE: &[u8] = b"what nodes tell each other is nobody else's business";
/// How long a stranger listens for an answer.
const STRANGER_WAITS: Duration = Duration::from_millis(400);
/// Without a packet for this long, a node counts as quiet.
const QUIET: Duration = Duration::from_millis(200);

/// The three nodes.
#[derive(Clone)]
pub struct Network {
    pub vm: Node,
    pub home_1: Node,
    pub home_2: Node,
}

impl Network {
    /// All nodes, the vm first.
    pub fn nodes(&self) -> [&Node; 3] {
        [&self.vm, &self.home_1, &self.home_2]
    }
}

/// Founds the network, lets the homes join, proves what passes on the wire.
pub async fn play() -> Result<(Network, Proof), StepError> {
    let vm = Node::found("vm", Ipv4Addr::new(10, 90, 0, 1)).await?;
    let home_1 = invite(&vm, "home-1", Ipv4Addr::new(10, 90, 0, 2)).await?;
    let home_2 = invite(&vm, "home-2", Ipv4Addr::new(10, 90, 0, 3)).await?;
    let began = Instant::now();
    for (node, peer) in [(&vm, &home_1), (&vm, &home_2), (&home_1, &home_2), (&home_2, &home_1)] {
        node.mesh.connected(peer.mesh.id(), CONNECT_TIMEOUT).await?;
    }
    let met = millis(began.elapsed());
    let network = Network { vm, home_1, home_2 };

    echo(&network.home_1, &network.home_2).await?;
    let datagrams: Vec<Vec<u8>> = network.nodes().iter().flat_map(|node| node.line.tapped()).collect();
    let leaks = datagrams.iter().filter(|datagram| contains(datagram, SECRET_MESSAGE)).count();
    let (answered, delivered) = replay(&network.home_2).await?;
    let counters = network.home_2.mesh.counters();
    let refused = counters.replayed_frames + counters.replayed_handshakes + counters.unknown_sessions;
    let answered = answered + stranger(&network.vm).await?;

    let proof = Proof::new()
        .number("nodes", 3)
        .number("datagrams", datagrams.len() as u64)
        .number("peers_met_ms", met)
        .must("plaintext_datagrams", leaks as u64, "0", leaks == 0)
        .must("replays_refused", refused, "more than 0", refused > 0)
        .must("replays_delivered", delivered, "0", delivered == 0)
        .must("bytes_to_strangers", answered, "0", answered == 0)
        .sentence(format!(
            "3 nodes joined by ticket; of {} datagrams none shows plaintext, none counts twice, a stranger got 0 bytes",
            datagrams.len()
        ));
    Ok((network, proof))
}

async fn invite(vm: &Node, name: &'static str, address: Ipv4Addr) -> Result<Node, StepError> {
    let options = TicketOptions {
        name: name.to_owned(),
        address: address.into(),
        subnets: Vec::new(),
        endpoints: vec![vm.mesh.local_addr()],
        valid_for: TICKET_VALID,
    };
    // The ticket travels as text, as it does between two machines.
    let text = vm.mesh.invite(options)?.to_string();
    Node::join(name, text.parse::<Ticket>()?).await
}

/// Sends the secret message through the mesh and back.
async fn echo(from: &Node, to: &Node) -> Result<(), StepError> {
    let listener = to.stack.listen(ECHO_PORT).await?;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut message = vec![0; SECRET_MESSAGE.len()];
        stream.read_exact(&mut message).await?;
        stream.write_all(&message).await?;
        stream.shutdown().await
    });
    let mut stream = from.stack.connect(to.service(ECHO_PORT)).await?;
    stream.write_all(SECRET_MESSAGE).await?;
    let mut answer = vec![0; SECRET_MESSAGE.len()];
    tokio::time::timeout(CONNECT_TIMEOUT, stream.read_exact(&mut answer)).await??;
    server.await??;
    match answer == SECRET_MESSAGE {
        true => Ok(()),
        false => Err("the echo through the mesh came back changed".into()),
    }
}

/// Sends every datagram that `node` ever received or sent once more, from another address.
/// Returns bytes that came back and packets that were delivered.
async fn replay(node: &Node) -> Result<(u64, u64), StepError> {
    let stranger = UdpSocket::bind(loopback()).await?;
    let before = quiet(node).await;
    for datagram in node.line.tapped() {
        stranger.send_to(&datagram, node.mesh.local_addr()).await?;
        tokio::task::yield_now().await;
    }
    stranger.send_to(b"\x11 not even a frame", node.mesh.local_addr()).await?;
    let mut buf = [0; 2048];
    let answer = tokio::time::timeout(STRANGER_WAITS, stranger.recv_from(&mut buf)).await;
    let answered = answer.map_or(0, |received| received.map_or(0, |(len, _)| len as u64));
    Ok((answered, node.mesh.counters().packets_in - before))
}

/// Waits until the packets of what was said last have come in. Returns the count that stands still.
async fn quiet(node: &Node) -> u64 {
    let mut count = node.mesh.counters().packets_in;
    loop {
        tokio::time::sleep(QUIET).await;
        match node.mesh.counters().packets_in {
            same if same == count => return count,
            more => count = more,
        }
    }
}

/// A fourth node, complete but without this network's secret, dials `node`. Returns the bytes that it got.
async fn stranger(node: &Node) -> Result<u64, StepError> {
    let mut config = Config::new(SecretKey::generate(), NetworkSecret::generate(), "10.90.0.4/24".parse()?);
    config.peers.push(PeerConfig { endpoint: node.mesh.local_addr(), id: None });
    let stranger = Node::start("stranger", config).await?;
    let met = stranger.mesh.connected(node.mesh.id(), STRANGER_WAITS).await.is_ok();
    let got = stranger.line.received_bytes();
    stranger.mesh.shutdown().await;
    Ok(got + u64::from(met))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
