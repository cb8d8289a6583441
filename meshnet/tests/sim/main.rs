//! Seeded simulations of whole meshes. A failure names its seed; `SEED=n cargo test -p meshnet --test sim` runs that one.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod check;
mod world;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshnet::engine::Output;
use meshnet::wire::{Frame, Kind};
use meshnet::{
    Config, Credential, DownReason, Event, NetworkSecret, PeerConfig, PeerState, Refusal, Rejection,
    SecretKey, Trust,
};

use crate::check::MARKER;
use crate::world::{Faults, World};

const SEEDS: u64 = 100;
const HOUR: Duration = Duration::from_secs(3600);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes([n; 32])
}

fn secret() -> NetworkSecret {
    NetworkSecret::from_bytes([0xee; 32])
}

fn founder() -> Config {
    Config::founder(key(1), secret(), "10.7.0.1/24".parse().unwrap())
}

/// A founder and homes that begin to join it.
fn world_with_homes(seed: u64, homes: u8) -> World {
    let mut world = World::new(seed);
    world.add(&founder());
    for n in 0..homes {
        let ticket = world.ticket(n + 2, HOUR);
        world.add(&Config::join(key(n + 2), ticket));
    }
    world
}

/// The same, once everybody is connected.
fn connected_world(seed: u64, homes: u8) -> World {
    let mut world = world_with_homes(seed, homes);
    assert!(world.run_until(secs(10), World::all_up), "the homes did not find each other");
    world.run(secs(2));
    world
}

/// One packet between every two nodes; all must arrive.
fn everybody_reaches_everybody(world: &mut World) {
    let mut numbers = Vec::new();
    for a in 0..world.nodes.len() {
        for b in (0..world.nodes.len()).filter(|b| *b != a) {
            numbers.push((a, b, world.send(a, world.mesh_ip(a), world.mesh_ip(b))));
        }
    }
    world.run(secs(1));
    for (a, b, number) in numbers {
        assert!(world.check.was_delivered(number), "no packet from {a} to {b}");
    }
}

#[allow(clippy::disallowed_methods)] // The seed to replay comes from the person who runs the test.
fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

fn for_all_seeds(scenario: impl Fn(u64)) {
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(seed)));
        if let Err(cause) = outcome {
            eprintln!("replay with SEED={seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

/// Half a minute of faults of every kind; gives the world when they have just ended.
fn storm(seed: u64) -> World {
    let homes = 2 + (seed % 3) as u8;
    let mut world = world_with_homes(seed, homes);
    for _ in 0..60 {
        let strength = world.chance.next() % 40;
        world.faults = Faults { loss_percent: strength, duplicate_percent: 10, delay_ms: strength * 6 };
        world.run(Duration::from_millis(500));
        let count = world.nodes.len();
        let (a, b) = (world.chance.below(count), world.chance.below(count));
        match world.chance.below(8) {
            0 if a != b => drop(world.cut.insert((a.min(b), a.max(b)))),
            1 => world.cut.clear(),
            2 if a != 0 => {
                let told = world.chance.percent(50);
                world.move_node(a, told);
            }
            _ => {}
        }
        for _ in 0..3 {
            let (a, b) = (world.chance.below(count), world.chance.below(count));
            if a != b {
                world.send(a, world.mesh_ip(a), world.mesh_ip(b));
            }
        }
        // A source that is not the sender's must never arrive anywhere.
        let (a, b, c) = (world.chance.below(count), world.chance.below(count), world.chance.below(count));
        if a != b && a != c {
            let number = world.send(a, world.mesh_ip(c), world.mesh_ip(b));
            world.run(Duration::from_millis(300));
            assert!(!world.check.was_delivered(number), "a forbidden source was delivered");
        }
    }
    world.faults = Faults { delay_ms: 20, ..Faults::default() };
    world.cut.clear();
    world
}

#[test]
fn after_faults_of_every_kind_everybody_joins_and_reaches_everybody() {
    for_all_seeds(|seed| {
        let mut world = storm(seed);
        // Whoever moved unnoticed is found by its next keepalive or, if it was down, by the dialling.
        world.run(secs(20));
        assert!(world.run_until(secs(55), World::all_up), "not everybody came back");
        for node in 1..world.nodes.len() {
            assert!(world.nodes[node].engine.membership().is_some(), "node {node} never got its membership");
        }
        assert_eq!(world.nodes[0].engine.peers(world.time_of(0)).len(), world.nodes.len() - 1);
        everybody_reaches_everybody(&mut world);
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let traces: Vec<_> = [7, 7, 8].into_iter().map(|seed| storm(seed).check.trace).collect();
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], traces[2]);
}

#[test]
fn no_recorded_datagram_has_any_effect_when_it_comes_again_from_elsewhere() {
    let mut world = connected_world(3, 2);
    for _ in 0..20 {
        everybody_reaches_everybody(&mut world);
    }
    world.run(secs(130)); // A renewal of keys is among the recorded datagrams too.
    let recorded = std::mem::take(&mut world.sent);
    assert!(recorded.len() > 300);
    let attacker: SocketAddr = "203.0.113.66:666".parse().unwrap();
    let deliveries = world.check.deliveries();
    for (_, bytes) in &recorded {
        for node in 0..world.nodes.len() {
            let outputs = world.inject(attacker, node, bytes);
            assert_eq!(outputs, [], "a replay had an effect on node {node}: {:?}", Frame::decode(bytes));
        }
    }
    assert_eq!(world.check.deliveries(), deliveries);
    assert!(world.nodes[0].engine.counters().replayed_frames > 50);
    assert!(world.nodes[0].engine.counters().replayed_handshakes > 0);
    everybody_reaches_everybody(&mut world);
}

#[test]
fn garbage_and_damaged_datagrams_get_no_answer() {
    let mut world = connected_world(4, 2);
    let recorded: Vec<_> = world.sent.iter().map(|(_, bytes)| bytes.clone()).collect();
    let attacker: SocketAddr = "203.0.113.66:666".parse().unwrap();
    for round in 0..3000 {
        let mut bytes = recorded[round % recorded.len()].clone();
        match round % 3 {
            0 => {
                let at = world.chance.below(bytes.len());
                bytes[at] ^= 1 << world.chance.below(8);
            }
            1 => bytes.truncate(world.chance.below(bytes.len())),
            _ => {
                let len = world.chance.below(1500);
                bytes = (0..len).map(|_| world.chance.next() as u8).collect();
                if let Some(first) = bytes.first_mut() {
                    *first = 0x11 + (round % 4) as u8;
                }
            }
        }
        let outputs = world.inject(attacker, 0, &bytes);
        assert_eq!(outputs, [], "round {round} had an effect");
    }
    everybody_reaches_everybody(&mut world);
}

#[test]
fn whoever_lacks_the_network_secret_gets_not_one_byte() {
    let mut world = connected_world(5, 2);
    let wrong = NetworkSecret::from_bytes([0xdd; 32]);
    let mut config = Config::new(key(66), wrong, "10.7.0.66/24".parse().unwrap());
    config.peers = world.nodes.iter().map(|node| PeerConfig { endpoint: node.endpoint, id: None }).collect();
    let stranger = world.add(&config);
    let endpoint = world.nodes[stranger].endpoint;
    world.run(secs(60));
    assert!(world.sent.iter().filter(|(to, _)| *to == world.nodes[0].endpoint).count() > 10);
    assert!(world.sent.iter().all(|(to, _)| *to != endpoint), "somebody answered a stranger");
    assert!(world.nodes[0].engine.counters().forged_handshakes > 10);
}

#[test]
fn whoever_has_the_secret_but_no_membership_sees_one_handshake_message_and_no_more() {
    let mut world = connected_world(6, 2);
    let mut config = Config::new(key(66), secret(), "10.7.0.66/24".parse().unwrap());
    config.trust = Trust::Secret;
    config.peers = vec![PeerConfig { endpoint: world.nodes[0].endpoint, id: None }];
    let intruder = world.add(&config);
    let endpoint = world.nodes[intruder].endpoint;
    world.run(secs(60));
    let answers: Vec<_> = world.sent.iter().filter(|(to, _)| *to == endpoint).collect();
    assert!(!answers.is_empty());
    for (_, bytes) in answers {
        assert_eq!(Frame::decode(bytes).unwrap().header.kind, Kind::Handshake2);
    }
    assert!(!world.is_up(0, intruder) && !world.is_up(intruder, 0));
    let rejected =
        |event: &Event| matches!(event, Event::PeerRejected { reason: Rejection::NoMembership, .. });
    assert!(world.nodes[0].events.iter().any(rejected));
}

#[test]
fn a_ticket_that_another_node_used_is_refused_with_the_reason() {
    let mut world = World::new(7);
    world.add(&founder());
    let ticket = world.ticket(2, HOUR);
    let first = world.add(&Config::join(key(2), ticket.clone()));
    assert!(world.run_until(secs(5), |world| world.nodes[1].engine.membership().is_some()));
    let second = world.add(&Config::join(key(3), ticket));
    world.run(secs(5));
    assert_eq!(world.nodes[second].engine.refusal(), Some(Refusal::TicketUsed));
    assert!(world.nodes[second].events.contains(&Event::JoinRefused { reason: Refusal::TicketUsed }));
    assert!(world.is_up(0, first) && !world.is_up(0, second));
    let before = world.sent.len();
    let silent_since = world.nodes[second].engine.counters().datagrams_out;
    world.run(secs(60));
    assert!(world.sent.len() > before);
    assert_eq!(
        world.nodes[second].engine.counters().datagrams_out,
        silent_since,
        "a refused node keeps dialling"
    );
}

#[test]
fn an_expired_ticket_is_refused_with_the_reason() {
    let mut world = World::new(8);
    world.add(&founder());
    let ticket = world.ticket(2, secs(30));
    world.run(secs(60));
    let late = world.add(&Config::join(key(2), ticket));
    world.run(secs(5));
    assert_eq!(world.nodes[late].engine.refusal(), Some(Refusal::TicketExpired));
}

#[test]
fn a_membership_works_without_the_ticket_and_ends_when_it_expires() {
    let mut world = World::new(9);
    let mut config = founder();
    config.membership_lifetime = Some(secs(300));
    world.add(&config);
    let ticket = world.ticket(2, HOUR);
    let first = world.add(&Config::join(key(2), ticket));
    assert!(world.run_until(secs(5), |world| world.nodes[1].engine.membership().is_some()));
    let membership = world.nodes[first].engine.membership().unwrap().clone();
    // The same node after a restart: it shows the membership and needs no ticket.
    let mut restarted = Config::member(key(2), secret(), membership);
    restarted.peers = vec![PeerConfig { endpoint: world.nodes[0].endpoint, id: None }];
    world.nodes.pop();
    let again = world.add(&restarted);
    world.run(secs(5));
    assert!(world.is_up(0, again));
    world.run(secs(320));
    assert!(!world.is_up(0, again));
    let expired = Event::PeerDown { peer: world.id(again), reason: DownReason::MembershipExpired };
    assert!(world.nodes[0].events.contains(&expired));
    let rejected =
        |event: &Event| matches!(event, Event::PeerRejected { reason: Rejection::MembershipExpired, .. });
    assert!(world.nodes[0].events.iter().any(rejected), "it keeps trying and is refused");
}

#[test]
fn keys_are_renewed_for_an_hour_without_losing_a_packet() {
    let mut world = connected_world(10, 1);
    let before = world.nodes[0].engine.counters().handshakes;
    let mut numbers = Vec::new();
    for _ in 0..3600 {
        numbers.push(world.send(0, world.mesh_ip(0), world.mesh_ip(1)));
        numbers.push(world.send(1, world.mesh_ip(1), world.mesh_ip(0)));
        world.run(secs(1));
    }
    assert!(numbers.iter().all(|number| world.check.was_delivered(*number)));
    let renewals = world.nodes[0].engine.counters().handshakes - before;
    assert!((28..=36).contains(&renewals), "{renewals} renewals in an hour");
    assert!(!world.nodes[0].events.iter().any(|event| matches!(event, Event::PeerDown { .. })));
}

#[test]
fn two_nodes_that_dial_each_other_at_once_settle() {
    for_all_seeds(|seed| {
        let mut world = World::new(seed);
        let (a, b) = (world.fresh_endpoint(), world.fresh_endpoint());
        for (n, own, other) in [(2, a, b), (3, b, a)] {
            let mut config = Config::new(key(n), secret(), format!("10.7.0.{n}/24").parse().unwrap());
            config.peers = vec![PeerConfig { endpoint: other, id: None }];
            world.add_at(&config, own);
        }
        world.faults = Faults { delay_ms: 50, duplicate_percent: 20, loss_percent: 10 };
        assert!(world.run_until(secs(20), World::all_up));
        world.faults = Faults::default();
        world.run(secs(10));
        everybody_reaches_everybody(&mut world);
        let settled = world.nodes[0].engine.counters().handshakes;
        world.run(secs(60));
        everybody_reaches_everybody(&mut world);
        assert_eq!(world.nodes[0].engine.counters().handshakes, settled, "sessions come and go");
        assert!(!world.nodes[0].events.iter().any(|event| matches!(event, Event::PeerDown { .. })));
    });
}

#[test]
fn a_node_that_moves_is_followed_within_a_second_after_short_and_long_cuts() {
    // Many seeds: who opened which session, and in which order, differs.
    for (cut_secs, seed) in [1, 5, 60].into_iter().flat_map(|cut| (100..140).map(move |seed| (cut, seed))) {
        let mut world = connected_world(seed, 2);
        for other in [0, 2] {
            world.cut.insert((1.min(other), 1.max(other)));
        }
        world.run(secs(cut_secs));
        let expected = if cut_secs > 15 { PeerState::Down } else { PeerState::Up };
        assert_eq!(world.state(0, 1), Some(expected));
        world.cut.clear();
        world.move_node(1, true);
        world.run(secs(1));
        assert!(world.all_up(), "after a cut of {cut_secs} s, seed {seed}");
        everybody_reaches_everybody(&mut world);
    }
}

#[test]
fn in_a_network_without_authority_the_first_to_claim_a_prefix_keeps_it() {
    let mut world = World::new(14);
    let config = |n: u8, hub: Option<SocketAddr>| {
        let mut config = Config::new(key(n), secret(), format!("10.7.0.{n}/24").parse().unwrap());
        config.peers = hub.map(|endpoint| PeerConfig { endpoint, id: None }).into_iter().collect();
        config
    };
    world.add(&config(1, None));
    let hub = Some(world.nodes[0].endpoint);
    let first = world.add(&config(2, hub));
    world.run(secs(3));
    let mut thief = config(3, hub);
    thief.subnets = vec!["10.7.0.2/32".parse().unwrap(), "10.9.0.0/16".parse().unwrap()];
    let thief = world.add(&thief);
    world.run(secs(3));
    assert!(world.is_up(0, thief), "only the claim is refused, not the peer");
    let refused = Event::ClaimRefused {
        peer: world.id(thief),
        prefix: "10.7.0.2/32".parse().unwrap(),
        holder: world.id(first),
    };
    assert!(world.nodes[0].events.contains(&refused));
    let number = world.send(0, world.mesh_ip(0), world.mesh_ip(first));
    world.run(secs(1));
    assert!(world.check.was_delivered(number));
    let spoofed = world.send(thief, world.mesh_ip(first), world.mesh_ip(0));
    world.run(secs(1));
    assert!(!world.check.was_delivered(spoofed));
    assert!(world.nodes[0].engine.counters().spoofed_sources > 0);
}

#[test]
fn a_node_that_leaves_is_down_at_once_and_found_when_it_returns() {
    let mut world = connected_world(15, 2);
    let leaver = world.nodes.pop().unwrap();
    let membership = leaver.engine.membership().unwrap().clone();
    let id = leaver.engine.id();
    let mut leaving = leaver;
    let now = world.time_of(0);
    leaving.engine.handle(now, meshnet::engine::Input::Close);
    let mut buffer = Vec::new();
    let mut farewells = 0;
    while let Some(output) = leaving.engine.poll(&mut buffer) {
        if let Output::Transmit { to } = output {
            let node = world.nodes.iter().position(|node| node.endpoint == to).unwrap();
            world.inject(leaving.endpoint, node, &buffer.clone());
            farewells += 1;
        }
    }
    assert_eq!(farewells, 2);
    let down = Event::PeerDown { peer: id, reason: DownReason::Left };
    assert!(world.nodes[0].events.contains(&down) && world.nodes[1].events.contains(&down));
    world.run(secs(60));
    // It returns at its old endpoint and knows nobody: the others find it.
    world.add_at(&Config::member(key(3), secret(), membership), leaving.endpoint);
    assert!(world.run_until(secs(7), World::all_up));
}

#[test]
fn another_node_that_takes_a_configured_endpoint_is_accepted_unless_a_certain_one_was_wanted() {
    for (certain, seed) in [(false, 19), (true, 20)] {
        let mut world = World::new(seed);
        let config = |n: u8| Config::new(key(n), secret(), format!("10.7.0.{n}/24").parse().unwrap());
        world.add(&config(2));
        let endpoint = world.nodes[0].endpoint;
        let mut dialler = config(3);
        dialler.peers = vec![PeerConfig { endpoint, id: certain.then(|| key(2).id()) }];
        world.add(&dialler);
        assert!(world.run_until(secs(2), World::all_up));
        let dialler = world.nodes.pop().unwrap();
        world.nodes.pop();
        world.add_at(&config(4), endpoint);
        world.nodes.push(dialler);
        world.run(secs(40));
        assert_eq!(world.is_up(1, 0), !certain);
    }
}

#[test]
fn packets_wait_for_keys_up_to_a_limit_and_the_rest_is_counted() {
    let mut world = connected_world(16, 1);
    // Nothing passes for longer than keys hold, but the peer is not silent for long enough to be down.
    let mut config = founder();
    config.peer_timeout = secs(600);
    config.rekey_after = secs(2);
    let mut world2 = World::new(17);
    world2.add(&config);
    let ticket = world2.ticket(2, HOUR);
    let mut home = Config::join(key(2), ticket);
    home.peer_timeout = secs(600);
    home.rekey_after = secs(2);
    world2.add(&home);
    assert!(world2.run_until(secs(5), World::all_up));
    world2.cut.insert((0, 1));
    world2.run(secs(10));
    assert_eq!(world2.state(0, 1), Some(PeerState::Connecting));
    let numbers: Vec<_> = (0..100).map(|_| world2.send(0, world2.mesh_ip(0), world2.mesh_ip(1))).collect();
    assert_eq!(world2.nodes[0].engine.counters().queue_drops, 36);
    world2.cut.clear();
    assert!(world2.run_until(secs(8), World::all_up));
    world2.run(secs(1));
    let arrived = numbers.iter().filter(|number| world2.check.was_delivered(**number)).count();
    assert_eq!(arrived, 64);
    // A packet that nobody could want is dropped and counted, too.
    world.send(0, world.mesh_ip(0), IpAddr::from([10, 7, 0, 99]));
    assert_eq!(world.nodes[0].engine.counters().unroutable_packets, 1);
}

#[test]
fn a_ticket_is_shown_to_its_issuer_alone() {
    let mut world = connected_world(21, 1);
    let ticket = world.ticket(3, HOUR);
    // The member that is no issuer is dialled first, and dials the newcomer as well.
    let mut config = Config::join(key(3), ticket);
    config.peers.insert(0, PeerConfig { endpoint: world.nodes[1].endpoint, id: None });
    let newcomer = world.add(&config);
    world.cut.insert((0, newcomer));
    world.run(secs(10));
    assert!(world.nodes[newcomer].engine.membership().is_none());
    let rejected =
        |event: &Event| matches!(event, Event::PeerRejected { reason: Rejection::UnexpectedPeer, .. });
    assert!(world.nodes[newcomer].events.iter().any(rejected));
    let seen = |event: &Event| matches!(event, Event::PeerRejected { .. });
    assert!(!world.nodes[1].events.iter().any(seen), "a member that is no issuer was shown the ticket");
    world.cut.clear();
    assert!(world.run_until(secs(10), World::all_up), "it did not join once the issuer was there");
}

#[test]
fn a_ticket_alone_shows_its_network_nothing_that_is_readable() {
    // The credential itself is secret too: no byte string of the ticket appears on the wire.
    let mut world = World::new(18);
    world.add(&founder());
    let ticket = world.ticket(2, HOUR);
    let config = Config::join(key(2), ticket.clone());
    assert!(matches!(config.credential, Credential::Ticket(_)));
    world.add(&config);
    assert!(world.run_until(secs(5), World::all_up));
    let name = b"home-2";
    for (_, bytes) in &world.sent {
        assert!(!bytes.windows(16).any(|part| part == ticket.id()));
        assert!(!bytes.windows(name.len()).any(|part| part == name));
        assert!(!bytes.windows(32).any(|part| part == world.id(1).as_bytes()));
        assert!(!bytes.windows(MARKER.len()).any(|part| part == MARKER));
    }
}
