//! A seeded world of nodes that mount one volume in turn: virtual time, calls that are slow, fail, or take
//! effect and fail; crashes, partitions, callers that go away. `SEED=n` replays one seed, `SEEDS=n` runs
//! more of them.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod random;
mod replica;
mod world;

use std::time::Duration;

use swarmctl::Takeover;
use world::{Faults, World};

/// Runs a scenario for every seed; a failure names its seed.
fn check(scenario: &str, run: impl Fn(u64)) {
    let parse = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match parse("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..parse("SEEDS").unwrap_or(60),
    };
    for seed in seeds {
        eprintln!("{scenario}: SEED={seed}");
        run(seed);
    }
}

#[test]
fn without_faults_every_move_finds_every_write() {
    check("no faults", |seed| {
        let mut world = World::new(seed, 3, Takeover::Wait, Faults::none());
        world.run(Duration::from_secs(900));
        world.heal_and_finish();
        assert!(world.stats.mounted > 5, "too little happened: {:?}", world.stats);
        assert_eq!(world.stats.failed, 0, "{:?}", world.stats);
    });
}

#[test]
fn with_failing_calls_partitions_and_crashes_no_write_is_ever_missing() {
    check("waiting", |seed| {
        let mut world = World::new(seed, 3, Takeover::Wait, Faults::all(seed));
        world.run(Duration::from_secs(900));
        world.heal_and_finish();
        assert!(world.stats.mounted > 3, "too little happened: {:?}", world.stats);
    });
}

#[test]
fn with_takeover_whatever_is_missing_was_announced() {
    check("takeover", |seed| {
        let takeover = Takeover::NewestReplica { after: Duration::from_secs(20) };
        let mut world = World::new(seed, 3, takeover, Faults::all(seed));
        world.run(Duration::from_secs(900));
        world.heal_and_finish();
    });
}

#[test]
fn the_scenarios_reach_what_they_are_about() {
    let mut stats = world::Stats::default();
    for seed in 0..40 {
        let takeover = Takeover::NewestReplica { after: Duration::from_secs(20) };
        for takeover in [Takeover::Wait, takeover] {
            let mut world = World::new(seed, 3, takeover, Faults::all(seed));
            world.run(Duration::from_secs(900));
            stats.add(&world.stats);
        }
    }
    let reached = [
        stats.mounted,
        stats.failed,
        stats.timed_out,
        stats.released,
        stats.not_replicated,
        stats.crashes,
        stats.taken_over,
        stats.announced,
        stats.set_aside,
        stats.cancelled,
        stats.lease_lost,
    ];
    assert!(reached.iter().all(|count| *count > 0), "a case never occurred: {stats:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut world = World::new(seed, 3, Takeover::Wait, Faults::all(seed));
        world.run(Duration::from_secs(300));
        world.trace
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
