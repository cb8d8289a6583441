//! Hostile bytes and texts: whatever comes in, nothing panics and nothing false is believed.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::net::SocketAddr;
use std::time::Duration;

use meshnet::engine::{Input, Output};
use meshnet::wire::control::Control;
use meshnet::wire::hello::{Hello, Opening};
use meshnet::wire::{FRAME_MAX, Frame};
use meshnet::{
    Claims, Config, Engine, Entropy, Membership, NetworkSecret, Now, PeerConfig, PeerId, SecretKey, Ticket,
    TicketOptions,
};
use proptest::prelude::*;

const UNIX: Duration = Duration::from_secs(1_800_000_000);

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn secret() -> NetworkSecret {
    NetworkSecret::from_bytes([0xee; 32])
}

fn ticket() -> String {
    let options = TicketOptions {
        name: "home-1".into(),
        address: "10.7.0.2".parse().unwrap(),
        subnets: vec![],
        endpoints: vec!["198.51.100.7:51820".parse().unwrap()],
        valid_for: Duration::from_secs(600),
    };
    Ticket::issue(&key(1), &secret(), key(1).id(), &options, 24, [3; 16], UNIX).unwrap().to_string()
}

fn membership() -> String {
    let claims = Claims::new("home-1", "10.7.0.2/24".parse().unwrap(), &[]).unwrap();
    Membership::issue(&key(1), key(2).id(), claims, UNIX, None, 7).to_text()
}

/// `text` with some characters replaced and possibly cut.
fn damage(text: &str, changes: &[(usize, char)], end: usize) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, character) in changes {
        let at = at % characters.len();
        characters[at] = *character;
    }
    characters.truncate(end.min(characters.len()));
    characters.into_iter().collect()
}

struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..FRAME_MAX / 4)) {
        let _ = Opening::decode(&bytes);
        let _ = Hello::decode(&bytes);
        if let Ok(control) = Control::decode(&bytes) {
            let mut again = Vec::new();
            control.encode(&mut again);
            prop_assert_eq!(again, bytes.clone(), "one value has one encoding");
        }
        if let Ok(frame) = Frame::decode(&bytes) {
            let mut again = frame.header.encode().to_vec();
            again.extend_from_slice(frame.body);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn arbitrary_texts_are_no_credentials(text in "(mn1|mnt1|mnm1|mnsec1|mnnet1)?[a-z2-7A-Z =\u{e4}]{0,300}") {
        prop_assert!(text.parse::<Ticket>().is_err());
        prop_assert!(text.parse::<Membership>().is_err());
        prop_assert!(text.parse::<PeerId>().is_err());
        prop_assert!(text.parse::<SecretKey>().is_err());
        prop_assert!(text.parse::<NetworkSecret>().is_err());
    }

    #[test]
    fn damaged_credentials_never_verify(
        changes in prop::collection::vec((any::<usize>(), prop::char::range('a', 'z')), 0..4),
        end in 0usize..600,
    ) {
        for text in [ticket(), membership()] {
            let damaged = damage(&text, &changes, end);
            if damaged != text {
                prop_assert!(damaged.parse::<Ticket>().is_err());
                prop_assert!(damaged.parse::<Membership>().is_err());
            }
        }
    }

    #[test]
    fn an_engine_survives_any_inputs_and_delivers_nothing_of_them(
        steps in prop::collection::vec(
            (0u8..6, 0u64..30_000, 1u16..5, prop::collection::vec(any::<u8>(), 0..200)), 0..60),
    ) {
        let mut config = Config::new(key(1), secret(), "10.7.0.1/24".parse().unwrap());
        config.peers = vec![PeerConfig { endpoint: "192.0.2.9:9".parse().unwrap(), id: None }];
        let mut now = Now { monotonic: Duration::from_secs(1), unix: UNIX };
        let mut engine = Engine::new(&config, Counting(0), now).unwrap();
        let mut buffer = Vec::new();
        for (kind, pause_ms, port, mut bytes) in steps {
            now.monotonic += Duration::from_millis(pause_ms);
            now.unix += Duration::from_millis(pause_ms);
            let from = SocketAddr::from(([192, 0, 2, 1], port));
            if let Some(first) = bytes.first_mut() {
                *first = 0x11 + *first % 4;
            }
            let input = match kind {
                0 => Input::Tick,
                1 => Input::Rebound,
                2 => Input::Packet(&bytes),
                _ => Input::Datagram { from, bytes: &bytes },
            };
            engine.handle(now, input);
            while let Some(output) = engine.poll(&mut buffer) {
                prop_assert_ne!(&output, &Output::Deliver);
                // It dials whom it was told to, and nobody else.
                let dialled = Output::Transmit { to: config.peers[0].endpoint };
                prop_assert!(output == dialled, "{output:?}");
            }
            let deadline = engine.deadline();
            prop_assert!(deadline.is_some(), "it would never dial again");
        }
    }
}

#[test]
fn a_node_that_dials_an_unknown_peer_does_not_answer_its_own_first_message() {
    let (peer, stranger): (SocketAddr, SocketAddr) =
        ("192.0.2.1:1".parse().unwrap(), "192.0.2.9:1".parse().unwrap());
    let mut config = Config::new(key(1), secret(), "10.7.0.1/24".parse().unwrap());
    config.peers.push(PeerConfig { endpoint: peer, id: None });
    let now = Now { monotonic: Duration::from_secs(1), unix: UNIX };
    let mut node = Engine::new(&config, Counting(0), now).unwrap();
    node.handle(now, Input::Tick);
    let mut first = Vec::new();
    assert!(matches!(node.poll(&mut first), Some(Output::Transmit { to }) if to == peer));
    node.handle(now, Input::Datagram { from: stranger, bytes: &first });
    assert!(node.poll(&mut Vec::new()).is_none(), "a reflected message draws an answer");
    assert_eq!(node.counters().replayed_handshakes, 1);
}
