//! Two mesh nodes and the line between them: the fuzz input says what is sent, lost, repeated, reordered, altered, replayed by a
//! stranger, and how time passes. The world checks what a mesh engine promises.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use meshnet::engine::{Engine, Input as Event, Output};
use meshnet::{Config, Entropy, Membership, NetworkSecret, Now, PeerConfig, SecretKey};

use crate::Seed;
use crate::input::Input;

/// No input needs more; keeps one run short.
const OPERATIONS_MAX: usize = 300;
/// Datagrams under way; older ones are lost.
const QUEUE_MAX: usize = 64;
/// After this long without faults, packets must flow.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Operations on two engines: no packet is delivered twice, to the wrong node, altered or from a forbidden source; an altered or replayed
/// datagram gets a stranger neither an answer nor a delivery; and once the faults stop, packets flow.
pub fn engine(data: &[u8]) {
    play(data);
}

fn play(data: &[u8]) -> World {
    let mut input = Input::new(data);
    let mut world = World::new(input.byte());
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        world.operate(&mut input);
    }
    world.come_to_rest();
    world
}

const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 666);

struct World {
    now: Duration,
    nodes: [Node; 2],
    under_way: VecDeque<Datagram>,
    /// What a node has received before, for the stranger to replay.
    recorded: Vec<(usize, Vec<u8>)>,
    packets_sent: BTreeMap<u32, usize>,
    packets_delivered: BTreeSet<u32>,
}

struct Node {
    engine: Engine,
    address: SocketAddr,
    mesh_address: [u8; 4],
}

#[derive(Clone)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// Different bytes on every call, the same in every run.
struct Sequence(u64);

impl Entropy for Sequence {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0.to_le_bytes()[3];
        }
    }
}

impl World {
    /// The lowest bit of `mode` chooses whether an authority or the secret alone makes a member, the next who dials.
    fn new(mode: u8) -> Self {
        let keys = [1, 2].map(|seed| SecretKey::from_bytes([seed; 32]));
        let secret = || NetworkSecret::from_bytes([9; 32]);
        let net = |octets: [u8; 4]| ipnet::IpNet::new(octets.into(), 24).expect("the length is in range");
        let mesh_addresses = [[10, 7, 0, 1], [10, 7, 0, 2]];
        let addresses = [1, 2].map(|host| SocketAddr::from(([192, 0, 2, host], 51820)));
        let mut configs = if mode & 1 == 0 {
            [0, 1].map(|at| Config::new(keys[at].clone(), secret(), net(mesh_addresses[at])))
        } else {
            let founder = Config::founder(keys[0].clone(), secret(), net(mesh_addresses[0]));
            let mut member = Config::new(keys[1].clone(), secret(), net(mesh_addresses[1]));
            member.name = "home-1".to_owned();
            let claims = member.claims().expect("the claims are valid");
            let issued = Membership::issue(&keys[0], keys[1].id(), claims, UNIX, None, 1);
            [founder, Config::member(keys[1].clone(), secret(), issued)]
        };
        for at in 0..2 {
            if mode & 2 == 0 || at == 1 {
                configs[at].peers =
                    vec![PeerConfig { endpoint: addresses[1 - at], id: Some(keys[1 - at].id()) }];
            }
        }
        let mut at = 0;
        let nodes = configs.map(|config| {
            let entropy = Sequence(0x9e37_79b9_7f4a_7c15 + at as u64);
            let engine = Engine::new(&config, entropy, moment(Duration::ZERO)).expect("the config is valid");
            let node = Node { engine, address: addresses[at], mesh_address: mesh_addresses[at] };
            at += 1;
            node
        });
        Self {
            now: Duration::ZERO,
            nodes,
            under_way: VecDeque::new(),
            recorded: Vec::new(),
            packets_sent: BTreeMap::new(),
            packets_delivered: BTreeSet::new(),
        }
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        let at = usize::from(operation >> 7);
        match operation % 11 {
            0 => self.send_packet(at),
            1 => self.deliver_next(),
            2 => drop(self.under_way.pop_front()),
            3 => self.under_way.extend(self.under_way.front().cloned()),
            4 => self.under_way.rotate_left(usize::from(operation > 40 && self.under_way.len() > 1)),
            5 => self.alter(input),
            6 => self.replay(input),
            7 => self.pass(Duration::from_millis(4 * u64::from(input.u16()))),
            8 => self.roam(input.byte()),
            9 => self.stranger(at, input.slice()),
            _ => (0..QUEUE_MAX).for_each(|_| self.deliver_next()),
        }
    }

    /// An IPv4 packet with a number that no other has.
    fn send_packet(&mut self, at: usize) {
        let number = u32::try_from(self.packets_sent.len()).expect("few operations");
        let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(self.nodes[at].mesh_address);
        packet.extend(self.nodes[1 - at].mesh_address);
        packet.extend(number.to_be_bytes());
        self.packets_sent.insert(number, at);
        self.handle(at, Event::Packet(&packet));
    }

    fn deliver_next(&mut self) {
        let Some(datagram) = self.under_way.pop_front() else { return };
        let Some(at) = self.nodes.iter().position(|node| node.address == datagram.to) else { return };
        self.handle(at, Event::Datagram { from: datagram.from, bytes: &datagram.bytes });
        self.recorded.push((at, datagram.bytes));
    }

    /// A datagram that is under way, with a bit flipped, cut short or made longer, from a stranger.
    fn alter(&mut self, input: &mut Input<'_>) {
        let place = usize::from(input.u16());
        let change = input.byte();
        let Some(mut datagram) = self.under_way.front().cloned() else { return };
        let length = datagram.bytes.len();
        match change % 10 {
            8 => datagram.bytes.truncate(place % length),
            9 => datagram.bytes.push(change),
            bit => datagram.bytes[place % length] ^= 1 << bit,
        }
        if let Some(at) = self.nodes.iter().position(|node| node.address == datagram.to) {
            self.stranger(at, &datagram.bytes);
        }
    }

    fn replay(&mut self, input: &mut Input<'_>) {
        let back = usize::from(input.byte());
        let Some(last) = self.recorded.len().checked_sub(1) else { return };
        let (at, bytes) = self.recorded[last - back % self.recorded.len()].clone();
        self.stranger(at, &bytes);
        // The other node never saw it: it may answer a first message that names nobody, and delivers nothing.
        let delivered = self.packets_delivered.len();
        self.handle(1 - at, Event::Datagram { from: STRANGER, bytes: &bytes });
        assert_eq!(self.packets_delivered.len(), delivered, "a datagram was delivered to the wrong node");
    }

    /// Whatever a stranger sends here changes nothing that anybody could see.
    fn stranger(&mut self, at: usize, bytes: &[u8]) {
        let (delivered, sent) = (self.packets_delivered.len(), self.under_way.len());
        self.handle(at, Event::Datagram { from: STRANGER, bytes });
        assert_eq!(self.packets_delivered.len(), delivered, "a stranger's datagram was delivered");
        assert!(
            self.under_way.iter().skip(sent).all(|datagram| datagram.to != STRANGER),
            "a stranger got an answer"
        );
    }

    /// The second node gets another port. The first one stays where it is: if both went at once, neither could find the other.
    fn roam(&mut self, port: u8) {
        self.nodes[1].address.set_port(50_000 + u16::from(port));
        self.handle(1, Event::Rebound);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        (0..2).for_each(|at| self.handle(at, Event::Tick));
    }

    fn handle(&mut self, at: usize, event: Event<'_>) {
        let now = moment(self.now);
        self.nodes[at].engine.handle(now, event);
        let mut buffer = Vec::new();
        while let Some(output) = self.nodes[at].engine.poll(&mut buffer) {
            match output {
                Output::Transmit { to } => {
                    let datagram = Datagram { from: self.nodes[at].address, to, bytes: buffer.clone() };
                    self.under_way.push_back(datagram);
                }
                Output::Deliver => self.delivered(at, &buffer),
                _ => {}
            }
        }
        let surplus = self.under_way.len().saturating_sub(QUEUE_MAX);
        self.under_way.drain(..surplus);
    }

    fn delivered(&mut self, at: usize, packet: &[u8]) {
        let number = u32::from_be_bytes(*packet.last_chunk().expect("a packet has a number"));
        assert_eq!(self.packets_sent.get(&number), Some(&(1 - at)), "packet {number} reached the wrong node");
        assert!(self.packets_delivered.insert(number), "packet {number} was delivered twice");
        assert_eq!(packet[12..16], self.nodes[1 - at].mesh_address, "a forbidden source");
        assert_eq!(packet[16..20], self.nodes[at].mesh_address);
    }

    /// From now on nothing is lost: a packet each way arrives before long.
    fn come_to_rest(&mut self) {
        let end = self.now + SETTLED_AFTER;
        for at in 0..2 {
            let delivered =
                |world: &Self, first: u32| world.packets_delivered.range(first..).next().is_some();
            let first = u32::try_from(self.packets_sent.len()).expect("few operations");
            while !delivered(self, first) {
                assert!(self.now < end, "the faults are over, but no packet flows from node {at}");
                self.send_packet(at);
                (0..QUEUE_MAX).for_each(|_| self.deliver_next());
                let due = self.nodes.iter().filter_map(|node| node.engine.deadline()).min().unwrap_or(end);
                let wait = due.saturating_sub(self.now);
                self.pass(wait.clamp(Duration::from_millis(1), Duration::from_secs(1)));
            }
        }
    }
}

const UNIX: Duration = Duration::from_secs(1_700_000_000);

fn moment(since_start: Duration) -> Now {
    Now { monotonic: since_start, unix: UNIX + since_start }
}

/// Seeds of [`engine`].
pub fn engine_seeds() -> Vec<Seed> {
    const ALL: u8 = 10;
    let tick = |millis_by_4: u16| [&[7][..], &millis_by_4.to_le_bytes()].concat();
    // 128 leaves 7 modulo 11: with the high bit set, operation N of the list above is 128 + N + 4 modulo 11.
    let there = |operation: u8| 128 + (operation + 4) % 11;
    let connect = |mode: u8| [&[mode][..], &tick(1), &[ALL, ALL]].concat();
    let replays: Vec<u8> = (0..12).flat_map(|back| [6, back]).collect();
    vec![
        ("both_dial_secret", [&connect(0)[..], &[0, there(0), ALL]].concat()),
        ("one_dials_authority", [&connect(3)[..], &[0, 0, there(0), 4, 1, 3, 1, 1, ALL]].concat()),
        (
            "lost_handshake",
            [&[0][..], &tick(1), &[2, 2], &tick(100), &[1, 2], &tick(300), &[ALL, 0, ALL]].concat(),
        ),
        ("roaming", [&connect(2)[..], &[0, ALL, 8, 7, ALL, 0, ALL, 8, 9, ALL, there(0), ALL]].concat()),
        ("silence", [&connect(1)[..], &tick(10_000), &[ALL], &tick(60_000), &[0, ALL]].concat()),
        (
            "hostile_altered",
            [&connect(0)[..], &[0, 5, 0, 0, 0, 5, 20, 0, 3, 5, 1, 0, 8, 5, 0, 0, 9, ALL]].concat(),
        ),
        ("hostile_replay", [&connect(0)[..], &[0, ALL], &replays, &tick(9), &replays].concat()),
        (
            "hostile_garbage",
            [&connect(0)[..], &[9, 20, 0x11, 0, 0, 0], &[0; 16], &[there(9), 4, 0x14, 0, 0, 0]].concat(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_reach_what_they_are_named_after() {
        let world = |name: &str| {
            let (_, bytes) = engine_seeds().into_iter().find(|(seed, _)| *seed == name).unwrap();
            play(&bytes)
        };
        assert!(world("both_dial_secret").packets_delivered.contains(&0));
        assert!(world("one_dials_authority").packets_delivered.contains(&2));
        let counters = world("hostile_replay").nodes.map(|node| node.engine.counters());
        assert!(counters.iter().any(|counters| counters.replayed_handshakes > 0));
        let counters = world("hostile_altered").nodes.map(|node| node.engine.counters());
        assert!(counters.iter().any(|counters| counters.malformed_frames > 0));
        let roamed = world("roaming");
        assert!(roamed.packets_delivered.contains(&1) && roamed.packets_delivered.contains(&2));
    }
}
