//! Golden vectors: what these releases put on the wire and into text must stay readable by all later
//! ones. A change here is a change of the format and needs a new version.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::net::SocketAddr;
use std::time::Duration;

use meshnet::engine::{Input, Output};
use meshnet::wire::control::Control;
use meshnet::wire::{Frame, Header, Kind};
use meshnet::{
    Claims, Config, Engine, Entropy, Membership, NetworkSecret, Now, PeerConfig, SecretKey, Ticket,
    TicketOptions,
};

const VECTORS: &str = include_str!("vectors/v1.txt");
const UNIX: Duration = Duration::from_secs(1_800_000_000);

/// The vector of this name.
fn vector(name: &str) -> &'static str {
    let line = VECTORS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    line.unwrap_or_else(|| panic!("no vector {name}"))
}

fn check(name: &str, actual: &str) {
    assert_eq!(actual, vector(name), "the format of \"{name}\" changed");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn secret() -> NetworkSecret {
    NetworkSecret::from_bytes([0xee; 32])
}

fn membership() -> Membership {
    let subnets = ["192.168.1.0/24".parse().unwrap(), "fd01::/48".parse().unwrap()];
    let claims = Claims::new("home-1", "10.7.0.2/24".parse().unwrap(), &subnets).unwrap();
    Membership::issue(&key(1), key(2).id(), claims, UNIX, Some(UNIX + Duration::from_secs(60)), 7)
}

fn ticket() -> Ticket {
    let options = TicketOptions {
        name: "home-1".into(),
        address: "10.7.0.2".parse().unwrap(),
        subnets: vec!["192.168.1.0/24".parse().unwrap()],
        endpoints: vec!["198.51.100.7:51820".parse().unwrap(), "[2001:db8::7]:51820".parse().unwrap()],
        valid_for: Duration::from_secs(600),
    };
    Ticket::issue(&key(1), &secret(), key(1).id(), &options, 24, [3; 16], UNIX).unwrap()
}

#[test]
fn texts_are_as_they_were() {
    check("secret key", &key(1).to_text());
    check("peer id", &key(1).id().to_string());
    check("network secret", &secret().to_text());
    check("membership", &membership().to_text());
    check("ticket", &ticket().to_string());
}

#[test]
fn stored_texts_are_still_read() {
    assert_eq!(vector("peer id").parse(), Ok(key(1).id()));
    assert_eq!(vector("membership").parse(), Ok(membership()));
    assert_eq!(vector("ticket").parse::<Ticket>().unwrap().claims(), ticket().claims());
}

#[test]
fn control_messages_are_as_they_were() {
    let endpoint: SocketAddr = "198.51.100.7:51820".parse().unwrap();
    let messages = [
        ("ping", Control::Ping(0x0102_0304_0506_0708)),
        ("peers", Control::Peers(vec![(key(2).id(), endpoint)])),
        ("enrolled", Control::Enrolled(Box::new(membership()))),
        ("refused", Control::Refused(meshnet::Refusal::TicketUsed)),
        ("leave", Control::Leave),
    ];
    for (name, message) in messages {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        check(name, &hex(&bytes));
        assert_eq!(Control::decode(&bytes), Ok(message));
    }
}

#[test]
fn headers_are_as_they_were() {
    let header = Header { kind: Kind::Data, receiver: 0x0a0b_0c0d, counter: 0x0102_0304_0506_0708 };
    check("data header", &hex(&header.encode()));
}

/// Predictable bytes, so that a whole handshake is.
struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}

#[test]
fn a_whole_handshake_is_as_it_was() {
    let endpoints: [SocketAddr; 2] = ["192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()];
    let now = Now { monotonic: Duration::from_secs(1), unix: UNIX };
    let config = |n: u8| Config::new(key(n), secret(), format!("10.7.0.{n}/24").parse().unwrap());
    let mut opener = config(1);
    opener.peers = vec![PeerConfig { endpoint: endpoints[1], id: None }];
    let mut nodes = [
        Engine::new(&opener, Counting(0), now).unwrap(),
        Engine::new(&config(2), Counting(100), now).unwrap(),
    ];
    nodes[0].handle(now, Input::Tick);
    let mut frames = Vec::new();
    for turn in 0..4 {
        let mut bytes = Vec::new();
        let (from, to) = (turn % 2, (turn + 1) % 2);
        loop {
            match nodes[from].poll(&mut bytes) {
                Some(Output::Transmit { .. }) => break,
                Some(_) => {}
                None => panic!("node {from} had nothing to say in turn {turn}"),
            }
        }
        frames.push(bytes.clone());
        nodes[to].handle(now, Input::Datagram { from: endpoints[from], bytes: &bytes });
    }
    for (name, frame) in ["handshake 1", "handshake 2", "handshake 3", "first data frame"].iter().zip(&frames)
    {
        assert!(Frame::decode(frame).is_ok());
        check(name, &hex(frame));
    }
    assert!(nodes[0].is_up(&key(2).id(), now) && nodes[1].is_up(&key(1).id(), now));
}
