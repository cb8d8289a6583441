//! Owns the virtual world: nodes, a network with faults, one clock, one seeded source of chance. The
//! same seed gives the same run, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshnet::engine::{Input, Output};
use meshnet::{Config, Engine, Entropy, Event, Now, PeerId, PeerState, TicketOptions};

use crate::check::Check;

/// The wall clock at the start of every run.
const UNIX_START: Duration = Duration::from_secs(1_800_000_000);
/// What one input may lead to at most.
const OUTPUTS_MAX: usize = 400;

/// Chance, from a seed (splitmix64, Steele et al. 2014).
#[derive(Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.next() % limit.max(1))
    }
}

impl Entropy for Chance {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// What the network does to datagrams.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) loss_percent: u64,
    pub(crate) duplicate_percent: u64,
    /// Each datagram takes 1 ms and up to this long: they overtake each other.
    pub(crate) delay_ms: u64,
}

pub(crate) struct Node {
    pub(crate) engine: Engine,
    /// Where it is now.
    pub(crate) endpoint: SocketAddr,
    pub(crate) events: Vec<Event>,
    /// Its clock differs from the world's by so much.
    skew: Duration,
}

struct Flight {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) chance: Chance,
    pub(crate) nodes: Vec<Node>,
    pub(crate) faults: Faults,
    /// Pairs of nodes between which nothing passes.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    pub(crate) check: Check,
    /// Every datagram that was sent: by whom it was meant to be received, and its bytes.
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    flights: BTreeMap<(Duration, u64), Flight>,
    flown: u64,
    next_port: u16,
    buffer: Vec<u8>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        World {
            now: Duration::from_secs(1),
            chance: Chance(seed),
            nodes: Vec::new(),
            faults: Faults::default(),
            cut: BTreeSet::new(),
            check: Check::default(),
            sent: Vec::new(),
            flights: BTreeMap::new(),
            flown: 0,
            next_port: 1000,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, config: &Config) -> usize {
        let endpoint = self.fresh_endpoint();
        self.add_at(config, endpoint)
    }

    pub(crate) fn add_at(&mut self, config: &Config, endpoint: SocketAddr) -> usize {
        let skew = self.chance.millis(5000);
        let now = Now { monotonic: self.now, unix: UNIX_START + self.now + skew };
        let entropy = Chance(self.chance.next());
        let engine = Engine::new(config, entropy, now).expect("the configuration works");
        self.nodes.push(Node { engine, endpoint, events: Vec::new(), skew });
        self.nodes.len() - 1
    }

    pub(crate) fn fresh_endpoint(&mut self) -> SocketAddr {
        self.next_port += 1;
        SocketAddr::from(([192, 0, 2, (self.next_port % 200) as u8 + 1], self.next_port))
    }

    pub(crate) fn id(&self, node: usize) -> PeerId {
        self.nodes[node].engine.id()
    }

    pub(crate) fn mesh_ip(&self, node: usize) -> IpAddr {
        self.nodes[node].engine.claims().address.addr()
    }

    pub(crate) fn time_of(&self, node: usize) -> Now {
        Now { monotonic: self.now, unix: UNIX_START + self.now + self.nodes[node].skew }
    }

    /// A ticket of node 0 for the mesh address 10.7.0.`host`.
    pub(crate) fn ticket(&mut self, host: u8, valid_for: Duration) -> meshnet::Ticket {
        let options = TicketOptions {
            name: format!("home-{host}"),
            address: IpAddr::from([10, 7, 0, host]),
            subnets: vec![format!("10.{}.0.0/16", 100 + u16::from(host)).parse().unwrap()],
            endpoints: vec![self.nodes[0].endpoint],
            valid_for,
        };
        let now = self.time_of(0);
        self.nodes[0].engine.invite(&options, now).expect("node 0 is the authority")
    }

    /// The node moves to another endpoint; it is told, or not (as behind a NAT).
    pub(crate) fn move_node(&mut self, node: usize, told: bool) {
        self.nodes[node].endpoint = self.fresh_endpoint();
        if told {
            self.input(node, Input::Rebound);
        }
    }

    /// The node's device sends a packet.
    pub(crate) fn send(&mut self, node: usize, source: IpAddr, destination: IpAddr) -> u64 {
        let (number, packet) = self.check.packet(source, destination);
        self.input(node, Input::Packet(&packet));
        number
    }

    /// Somebody sends bytes to a node; gives what the node did at once.
    pub(crate) fn inject(&mut self, from: SocketAddr, node: usize, bytes: &[u8]) -> Vec<Output> {
        self.input(node, Input::Datagram { from, bytes })
    }

    pub(crate) fn is_up(&self, node: usize, peer: usize) -> bool {
        self.nodes[node].engine.is_up(&self.id(peer), self.time_of(node))
    }

    pub(crate) fn all_up(&self) -> bool {
        let nodes = 0..self.nodes.len();
        nodes.clone().all(|a| nodes.clone().all(|b| a == b || self.is_up(a, b)))
    }

    pub(crate) fn state(&self, node: usize, peer: usize) -> Option<PeerState> {
        let id = self.id(peer);
        let peers = self.nodes[node].engine.peers(self.time_of(node));
        peers.iter().find(|peer| peer.id == id).map(|peer| peer.state)
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until `done`, at most for `span`; whether it was done.
    pub(crate) fn run_until(&mut self, span: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + span;
        while !done(self) {
            if !self.step(end) {
                self.now = end;
                return done(self);
            }
        }
        true
    }

    /// The next thing that happens before `end`.
    fn step(&mut self, end: Duration) -> bool {
        let arrival = self.flights.first_key_value().map(|((at, _), _)| *at);
        let deadlines = self.nodes.iter().enumerate();
        let tick = deadlines.filter_map(|(n, node)| Some((node.engine.deadline()?, n))).min();
        match (arrival, tick) {
            (Some(at), tick) if at <= end && tick.is_none_or(|(tick, _)| at <= tick) => {
                self.now = self.now.max(at);
                let (_, flight) = self.flights.pop_first().expect("it was seen");
                self.land(&flight);
                true
            }
            (_, Some((at, node))) if at <= end => {
                assert!(
                    at >= self.now || at == Duration::from_secs(1) || self.now - at < Duration::from_secs(60)
                );
                self.now = self.now.max(at);
                self.input(node, Input::Tick);
                true
            }
            _ => false,
        }
    }

    fn land(&mut self, flight: &Flight) {
        let Some(node) = self.nodes.iter().position(|node| node.endpoint == flight.to) else { return };
        let sender = self.nodes.iter().position(|node| node.endpoint == flight.from);
        if let Some(sender) = sender
            && self.cut.contains(&(sender.min(node), sender.max(node)))
        {
            return;
        }
        self.input(node, Input::Datagram { from: flight.from, bytes: &flight.bytes });
    }

    fn input(&mut self, node: usize, input: Input<'_>) -> Vec<Output> {
        let now = self.time_of(node);
        self.nodes[node].engine.handle(now, input);
        let mut outputs = Vec::new();
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(output) = self.nodes[node].engine.poll(&mut buffer) {
            match &output {
                Output::Transmit { to } => self.transmit(node, *to, &buffer),
                Output::Deliver => {
                    let ip = self.mesh_ip(node);
                    self.check.delivered(node, ip, &buffer);
                }
                Output::Event(event) => self.nodes[node].events.push(event.clone()),
                other => panic!("an output that the world does not know: {other:?}"),
            }
            outputs.push(output);
        }
        self.buffer = buffer;
        assert!(outputs.len() <= OUTPUTS_MAX, "one input led to {} outputs", outputs.len());
        outputs
    }

    fn transmit(&mut self, node: usize, to: SocketAddr, bytes: &[u8]) {
        self.check.transmitted(self.now, node, to, bytes);
        self.sent.push((to, bytes.to_vec()));
        let from = self.nodes[node].endpoint;
        let copies = 1 + usize::from(self.chance.percent(self.faults.duplicate_percent));
        for _ in 0..copies {
            if self.chance.percent(self.faults.loss_percent) {
                continue;
            }
            let at = self.now + Duration::from_millis(1) + self.chance.millis(self.faults.delay_ms);
            self.flown += 1;
            self.flights.insert((at, self.flown), Flight { from, to, bytes: bytes.to_vec() });
        }
    }
}
