//! meshnet: datagrams and what is inside them, texts that people paste, and engines under lists of operations.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use ipnet::IpNet;
use meshnet::engine::routes::Routes;
use meshnet::wire::control::Control;
use meshnet::wire::hello::{CIPHER_AES_256_GCM, Hello, Opening};
use meshnet::wire::{FRAME_MAX, Frame, HEADER_BYTES, Header, Kind};
use meshnet::{
    Claims, Credential, Membership, NetworkSecret, PeerId, Refusal, SecretKey, Ticket, TicketOptions,
};

use crate::Seed;
use crate::input::Input;

pub use crate::mesh_world::{engine, engine_seeds};

/// A datagram: what decodes is header and body, byte for byte, and within the limits.
pub fn frame(data: &[u8]) {
    let Ok(frame) = Frame::decode(data) else { return };
    assert_eq!([&frame.header.encode(), frame.body].concat(), data);
    assert!(data.len() <= FRAME_MAX);
    assert!(frame.header.kind == Kind::Data || frame.header.counter == 0);
}

/// What travels inside a session or a handshake: control messages, openings, hellos. One value has one encoding.
pub fn control(data: &[u8]) {
    if let Ok(message) = Control::decode(data) {
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        assert_eq!(encoded, data, "{message:?}");
    }
    if let Ok(opening) = Opening::decode(data) {
        assert_eq!(opening.encode(), data, "{opening:?}");
    }
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(hello.encode(), data, "{hello:?}");
    }
}

/// A pasted text: whatever parses prints as the same text, up to case and surrounding space; no edit of a valid ticket or
/// membership is accepted; no secret shows in `Debug`.
pub fn ticket(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let given = text.trim().to_ascii_lowercase();
    if let Ok(key) = text.parse::<SecretKey>() {
        assert_eq!(*key.to_text(), given);
        assert!(!format!("{key:?}").contains(&given["mnsec1".len()..]), "Debug shows the secret key");
    }
    if let Ok(secret) = text.parse::<NetworkSecret>() {
        assert_eq!(*secret.to_text(), given);
        assert!(!format!("{secret:?}").contains(&given["mnnet1".len()..]), "Debug shows the network secret");
    }
    if let Ok(id) = text.parse::<PeerId>() {
        assert_eq!(id.to_string(), given);
    }
    if let Ok(membership) = text.parse::<Membership>() {
        assert_eq!(membership.to_text(), given);
    }
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert_eq!(ticket.to_string(), given);
    }
    static VALID: LazyLock<(String, String)> =
        LazyLock::new(|| (issued_ticket().to_string(), issued_membership().to_text()));
    let (valid_ticket, valid_membership) = &*VALID;
    let edited = edit(valid_ticket, data);
    assert!(same(&edited, valid_ticket) || edited.parse::<Ticket>().is_err(), "accepted: {edited}");
    let edited = edit(valid_membership, data);
    assert!(same(&edited, valid_membership) || edited.parse::<Membership>().is_err(), "accepted: {edited}");
}

/// Prefixes with their holders, then addresses: a lookup finds what trying every prefix in turn finds, and of two holders
/// of one prefix the first keeps it.
pub fn routes(data: &[u8]) {
    let mut input = Input::new(data);
    let entries: Vec<(IpNet, PeerId)> = (0..input.byte() % 64)
        .map(|_| {
            let address = ip(&mut input);
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let prefix = IpNet::new(address, input.byte() % (longest + 1)).expect("the length is in range");
            (prefix.trunc(), holder(input.byte()))
        })
        .collect();
    let (routes, conflicts) = Routes::build(entries.iter().copied());
    for conflict in conflicts {
        let first = entries.iter().find(|(prefix, _)| *prefix == conflict.prefix).map(|(_, peer)| *peer);
        assert_eq!(first, Some(conflict.holder));
        assert!(conflict.peer != conflict.holder && entries.contains(&(conflict.prefix, conflict.peer)));
    }
    while !input.is_empty() {
        let address = ip(&mut input);
        let containing = entries.iter().filter(|(prefix, _)| prefix.contains(&address));
        // The first of the longest ones: `max_by_key` would give the last.
        let expected = containing.rev().max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, peer)| *peer);
        assert_eq!(routes.lookup(address), expected, "{address}");
    }
}

/// From few bits, so that prefixes contain each other and addresses.
fn ip(input: &mut Input<'_>) -> IpAddr {
    match input.byte() % 2 {
        0 => IpAddr::from(input.array::<4>().map(|byte| byte & 0xc1)),
        _ => {
            let mut octets = [0; 16];
            octets[0] = input.byte();
            octets[15] = input.byte();
            IpAddr::from(octets)
        }
    }
}

fn holder(number: u8) -> PeerId {
    static HOLDERS: LazyLock<[PeerId; 4]> =
        LazyLock::new(|| [0, 1, 2, 3].map(|seed| SecretKey::from_bytes([seed; 32]).id()));
    HOLDERS[usize::from(number) % HOLDERS.len()]
}

/// `text` with characters replaced: each three bytes of `edits` are a place and a new character.
fn edit(text: &str, edits: &[u8]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for edit in edits.chunks_exact(3).take(8) {
        let place = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
        bytes[place] = edit[2] & 0x7f;
    }
    String::from_utf8(bytes).expect("all of it is ASCII")
}

fn same(edited: &str, valid: &str) -> bool {
    edited.trim().eq_ignore_ascii_case(valid)
}

fn authority() -> SecretKey {
    SecretKey::from_bytes([1; 32])
}

fn issued_ticket() -> Ticket {
    let options = TicketOptions {
        name: "home-1".to_owned(),
        address: [10, 7, 0, 2].into(),
        subnets: vec!["192.168.1.0/24".parse().expect("a network")],
        endpoints: vec![([198, 51, 100, 7], 51820).into()],
        valid_for: Duration::from_secs(3600),
    };
    let secret = NetworkSecret::from_bytes([2; 32]);
    Ticket::issue(
        &authority(),
        &secret,
        authority().id(),
        &options,
        24,
        [3; 16],
        Duration::from_secs(1_700_000_000),
    )
    .expect("the options are valid")
}

fn issued_membership() -> Membership {
    Membership::issue(&authority(), member().id(), claims(), Duration::from_secs(1_700_000_000), None, 7)
}

fn member() -> SecretKey {
    SecretKey::from_bytes([4; 32])
}

fn claims() -> Claims {
    let address = "10.7.0.2/24".parse().expect("a network");
    Claims::new("home-1", address, &["192.168.1.0/24".parse().expect("a network")])
        .expect("the claims are valid")
}

/// Seeds of [`frame`].
pub fn frame_seeds() -> Vec<Seed> {
    let frame = |kind, receiver, counter, body: usize| {
        [&Header { kind, receiver, counter }.encode()[..], &vec![0xaa; body]].concat()
    };
    let mut reserved = frame(Kind::Data, 1, 1, 40);
    reserved[2] = 1;
    vec![
        ("handshake1", frame(Kind::Handshake1, 0, 0, 96)),
        ("handshake2", frame(Kind::Handshake2, 7, 0, 200)),
        ("handshake3", frame(Kind::Handshake3, 7, 0, 200)),
        ("data", frame(Kind::Data, 0x0102_0304, u64::MAX, 60)),
        ("data_largest", frame(Kind::Data, 1, 1, FRAME_MAX - HEADER_BYTES)),
        ("hostile_reserved", reserved),
        ("hostile_short", frame(Kind::Data, 1, 1, 3)),
        ("hostile_version", vec![0xf4; 40]),
    ]
}

/// Seeds of [`control`].
pub fn control_seeds() -> Vec<Seed> {
    let encoded = |message: &Control| {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    };
    let hello = |credential| {
        Hello { index: 9, cipher: CIPHER_AES_256_GCM, id: member().id(), claims: claims(), credential }
            .encode()
    };
    let peers = vec![
        (member().id(), ([198, 51, 100, 7], 51820).into()),
        (authority().id(), "[2001:db8::1]:9".parse().expect("an endpoint")),
    ];
    let mut too_many = encoded(&Control::Peers(peers.clone()));
    too_many[1] = 255;
    let mut forged = hello(Credential::Membership(issued_membership()));
    *forged.last_mut().expect("a hello has bytes") ^= 1;
    vec![
        ("ping", encoded(&Control::Ping(1))),
        ("peers", encoded(&Control::Peers(peers))),
        ("enrolled", encoded(&Control::Enrolled(Box::new(issued_membership())))),
        ("refused", encoded(&Control::Refused(Refusal::TicketUsed))),
        (
            "opening",
            Opening { index: 9, unix_ms: 1_700_000_000_000, ciphers: CIPHER_AES_256_GCM, recipient: 77 }
                .encode(),
        ),
        ("hello_claims", hello(Credential::Claims)),
        ("hello_membership", hello(Credential::Membership(issued_membership()))),
        ("hello_ticket", hello(Credential::Ticket(issued_ticket()))),
        ("hostile_peer_count", too_many),
        ("hostile_signature", forged),
    ]
}

/// Seeds of [`routes`].
pub fn routes_seeds() -> Vec<Seed> {
    let v4 = |octets: [u8; 4]| [&[0][..], &octets].concat();
    let entry = |octets: [u8; 4], length: u8, holder: u8| [v4(octets), vec![length, holder]].concat();
    let v6 = |first: u8, last: u8| vec![1, first, last];
    vec![
        (
            "nested",
            [&[3][..], &entry([0; 4], 0, 0), &entry([0x80, 0, 0, 0], 8, 1), &entry([0x80, 0, 0, 1], 32, 2)]
                .into_iter()
                .chain([&v4([0x80, 0, 0, 1])[..], &v4([0x80, 0, 0, 0]), &v4([1, 0, 0, 0])])
                .flatten()
                .copied()
                .collect(),
        ),
        (
            "conflict",
            [&[2][..], &entry([0x40, 0, 0, 0], 8, 1), &entry([0x40, 0, 0, 0], 8, 2), &v4([0x40, 1, 0, 0])]
                .concat(),
        ),
        (
            "both_families",
            [&[2][..], &entry([0; 4], 0, 1), &v6(0x20, 0), &[0, 2], &v6(0xff, 1), &v4([1; 4])].concat(),
        ),
        ("none", vec![0, 0, 1, 2, 3, 4]),
    ]
}

/// Seeds of [`ticket`].
pub fn ticket_seeds() -> Vec<Seed> {
    let ticket = issued_ticket().to_string();
    vec![
        ("secret_key", member().to_text().as_bytes().to_vec()),
        ("network_secret", NetworkSecret::from_bytes([2; 32]).to_text().as_bytes().to_vec()),
        ("peer_id", member().id().to_string().into()),
        ("membership", issued_membership().to_text().into()),
        ("ticket", ticket.clone().into()),
        ("ticket_upper_case", format!(" {}\n", ticket.to_uppercase()).into()),
        ("hostile_truncated", ticket[..ticket.len() - 1].into()),
        ("hostile_other_prefix", ticket.replacen("mnt1", "mnm1", 1).into()),
        ("hostile_edits", vec![10, 0, b'a', 11, 0, b'b', 200, 0, b'7']),
    ]
}
