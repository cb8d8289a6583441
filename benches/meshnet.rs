//! meshnet: what every packet pays (seal on one node, open on the other, routes and source check included), beside the cipher alone; and
//! what a new peer pays (the handshake): one core does the work of both nodes. Last, a TCP stream between two whole nodes of this process,
//! in-process IP stacks and loopback UDP included: client, both nodes and server share the cores that there are.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use hybrid_benches::noise;
use ipnet::IpNet;
use meshnet::engine::routes::Routes;
use meshnet::engine::{Engine, Input, Output};
use meshnet::stack::{Stack, StackConfig, TcpStream};
use meshnet::{Config, Entropy, Mesh, NetworkSecret, Now, PeerConfig, PeerId, SecretKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [64, 1280, 8900];

/// The ceiling: AES-256-GCM in place, sealed and opened once.
#[divan::bench(args = SIZES)]
fn cipher_alone(bencher: Bencher<'_, '_>, size: usize) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes are a key"));
    let mut bytes = noise(size, 1);
    let nonce = || Nonce::assume_unique_for_key([0; 12]);
    bencher.counter(ItemsCount::new(1_usize)).counter(BytesCount::new(size)).bench_local(|| {
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut bytes).expect("sealing has no limit here");
        key.open_in_place(nonce(), Aad::empty(), &mut bytes).expect("it was sealed just now");
        bytes.truncate(size);
    });
}

/// A packet from one node's device to the other's.
#[divan::bench(args = SIZES)]
fn packet(bencher: Bencher<'_, '_>, size: usize) {
    let mut pair = Pair::connected();
    let packet = ipv4_packet(size);
    let mut buffer = Vec::new();
    bencher.counter(ItemsCount::new(1_usize)).counter(BytesCount::new(size)).bench_local(|| {
        let [here, there] = &mut pair.nodes;
        here.handle(pair.now, Input::Packet(black_box(&packet)));
        let mut delivered = 0;
        while let Some(output) = here.poll(&mut buffer) {
            if let Output::Transmit { .. } = output {
                there.handle(pair.now, Input::Datagram { from: ADDRESSES[0], bytes: &buffer });
            }
        }
        while let Some(output) = there.poll(&mut buffer) {
            delivered += usize::from(output == Output::Deliver);
        }
        assert_eq!(delivered, 1);
    });
}

/// From two strangers to a session that carries packets.
#[divan::bench]
fn handshake(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(Pair::new).bench_local_values(|mut pair| {
        pair.connect();
        pair
    });
}

/// The peer of an address, among so many.
#[divan::bench(args = [10, 1_000])]
fn route(bencher: Bencher<'_, '_>, peers: u16) {
    let peer = |n: u16| SecretKey::from_bytes([n as u8; 32]).id();
    let ids: Vec<PeerId> = (0..peers.min(200)).map(peer).collect();
    let prefix = |n: u16| {
        let [high, low] = n.to_be_bytes();
        IpNet::new([10, 7, high, low].into(), 32).expect("the length is in range")
    };
    let (routes, _) = Routes::build((0..peers).map(|n| (prefix(n), ids[usize::from(n) % ids.len()])));
    let mut turn = (0..peers).cycle();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let n = turn.next().expect("a cycle does not end");
        routes.lookup(black_box(prefix(n).addr()))
    });
}

const STREAM_BYTES: usize = 16 << 20;

/// 16 MiB over one TCP connection, from stack to stack through the mesh.
#[divan::bench(sample_count = 20)]
fn stream(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads can be started");
    let (mut client, mut server, nodes) = runtime.block_on(stream_between_nodes());
    let [(first, _first_stack), (second, _second_stack)] = nodes;
    let (block, mut received) = (noise(64 << 10, 1), vec![0; 64 << 10]);
    bencher.counter(BytesCount::new(STREAM_BYTES)).bench_local(|| {
        runtime.block_on(async {
            let send = async {
                for _ in 0..STREAM_BYTES / block.len() {
                    client.write_all(&block).await.expect("the connection stands");
                }
                client.flush().await.expect("the connection stands");
            };
            let receive = async {
                let mut left = STREAM_BYTES;
                while left > 0 {
                    let read = server.read(&mut received).await.expect("the connection stands");
                    assert!(read > 0, "the connection ended");
                    left -= read;
                }
            };
            tokio::join!(send, receive);
        });
    });
    runtime.block_on(async { tokio::join!(first.shutdown(), second.shutdown()) });
}

/// A connection from the second node to the first, and the nodes.
async fn stream_between_nodes() -> (TcpStream, TcpStream, [(Mesh, Stack); 2]) {
    let keys = [1, 2].map(|seed| SecretKey::from_bytes([seed; 32]));
    let config = |at: usize| {
        let net = IpNet::new([10, 7, 0, at as u8 + 1].into(), 24).expect("the length is in range");
        let mut config = Config::new(keys[at].clone(), NetworkSecret::from_bytes([9; 32]), net);
        config.listen = ([127, 0, 0, 1], 0).into();
        config
    };
    let stack = |at: u8| meshnet::stack::new(StackConfig::new([10, 7, 0, at + 1].into(), 24));
    let (first_stack, device) = stack(0);
    let first = Mesh::start(config(0), device).await.expect("a free port");
    let mut second = config(1);
    second.peers = vec![PeerConfig { endpoint: first.local_addr(), id: Some(first.id()) }];
    let (second_stack, device) = stack(1);
    let second = Mesh::start(second, device).await.expect("a free port");
    second.connected(first.id(), Duration::from_secs(10)).await.expect("loopback loses nothing");
    let listener = first_stack.listen(80).await.expect("the port is free");
    let (client, accepted) =
        tokio::join!(second_stack.connect(([10, 7, 0, 1], 80).into()), listener.accept());
    let (server, _) = accepted.expect("the client connects");
    (client.expect("the server listens"), server, [(first, first_stack), (second, second_stack)])
}

const ADDRESSES: [SocketAddr; 2] = [address(1), address(2)];

const fn address(host: u8) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, host)), 51820)
}

struct Pair {
    nodes: [Engine; 2],
    ids: [PeerId; 2],
    now: Now,
}

impl Pair {
    fn new() -> Self {
        let now = Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
        let keys = [1, 2].map(|seed| SecretKey::from_bytes([seed; 32]));
        let ids = [keys[0].id(), keys[1].id()];
        let node = |at: usize| {
            let host = u8::try_from(at).expect("two nodes") + 1;
            let net = IpNet::new([10, 7, 0, host].into(), 24).expect("the length is in range");
            let mut config = Config::new(keys[at].clone(), NetworkSecret::from_bytes([9; 32]), net);
            config.mtu = 8900;
            if at == 1 {
                config.peers = vec![PeerConfig { endpoint: ADDRESSES[0], id: Some(ids[0]) }];
            }
            Engine::new(&config, Sequence(u64::from(host)), now).expect("the config is valid")
        };
        Self { nodes: [node(0), node(1)], ids, now }
    }

    fn connected() -> Self {
        let mut pair = Self::new();
        pair.connect();
        pair
    }

    /// Carries datagrams back and forth until both say that packets can flow.
    fn connect(&mut self) {
        self.nodes[1].handle(self.now, Input::Tick);
        let mut buffer = Vec::new();
        for turn in 0..16 {
            let from = (turn + 1) % 2;
            while let Some(output) = self.nodes[from].poll(&mut buffer) {
                if let Output::Transmit { .. } = output {
                    let datagram = Input::Datagram { from: ADDRESSES[from], bytes: &buffer };
                    self.nodes[1 - from].handle(self.now, datagram);
                }
            }
        }
        let up = (0..2).all(|at| self.nodes[at].is_up(&self.ids[1 - at], self.now));
        assert!(up, "the nodes did not connect");
    }
}

fn ipv4_packet(size: usize) -> Vec<u8> {
    let length = u16::try_from(size).expect("a packet").to_be_bytes();
    let mut packet = noise(size, 1);
    packet[..20].copy_from_slice(&[
        0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 17, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2,
    ]);
    packet
}

/// Different bytes on every call, the same in every run.
struct Sequence(u64);

impl Entropy for Sequence {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0 += 2;
        bytes.copy_from_slice(&noise(bytes.len(), self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
}
