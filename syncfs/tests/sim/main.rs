//! Seeded simulation of the real engine on disks that forget. `SEED=17 cargo test --test sim` replays one seed;
//! `SEEDS=10000` runs more of them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod check;
mod groups;
mod index;
mod rng;
mod world;

use syncfs::disk::{Fault, FileKind};
use syncfs::record::Owner;
use syncfs::{ContentHash, RelPath};
use world::World;

#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    replicas: usize,
    steps: u32,
    faults: bool,
    leases: bool,
    /// Renames between rounds of rest.
    moves: bool,
    /// A database that is written all the time.
    databases: bool,
}

fn run(scenario: Scenario, seed: u64) -> (ContentHash, World) {
    let mut world = World::new(seed, scenario.replicas);
    world.databases = scenario.databases;
    for step in 0..scenario.steps {
        world.step(scenario.faults, scenario.leases);
        if scenario.moves && step % 25 == 0 {
            world.move_in_quiet(scenario.faults);
        }
        if scenario.databases && step % 25 == 0 {
            world.write_database();
        }
    }
    world.calm();
    check::check(&mut world);
    (world.trace(), world)
}

fn run_seeds(scenario: Scenario, count: u64) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let only = number("SEED");
    let seeds = only.map_or(0..number("SEEDS").unwrap_or(count), |seed| seed..seed + 1);
    let (mut crashes, mut barriers, mut moves, mut deltas) = (0, 0, 0, 0);
    for seed in seeds {
        let name = scenario.name;
        let result = std::panic::catch_unwind(|| run(scenario, seed));
        let (_, world) = result.unwrap_or_else(|_| panic!("{name}: replay with SEED={seed}"));
        crashes += world.crashes;
        barriers += world.barriers_held;
        moves += world.moves;
        deltas += world.deltas;
    }
    println!(
        "{}: {crashes} crashes, {barriers} barriers checked, {moves} moves told, {deltas} blocks in logs",
        scenario.name
    );
    if scenario.faults && only.is_none() {
        assert!(crashes > count / 2 && barriers > count / 2, "the scenario exercises too little");
    }
    assert!(!scenario.databases || only.is_some() || deltas > count, "the scenario keeps too few deltas");
    assert!(!scenario.moves || only.is_some() || moves > count / 2, "the scenario moves too little");
}

const PEACE: Scenario = Scenario {
    name: "peace",
    replicas: 3,
    steps: 500,
    faults: false,
    leases: false,
    moves: false,
    databases: false,
};
const FAULTS: Scenario = Scenario {
    name: "faults",
    replicas: 3,
    steps: 700,
    faults: true,
    leases: false,
    moves: false,
    databases: false,
};
const LEASES: Scenario = Scenario {
    name: "leases",
    replicas: 3,
    steps: 700,
    faults: true,
    leases: true,
    moves: false,
    databases: false,
};

#[test]
fn replicas_converge_and_lose_nothing_while_all_write() {
    run_seeds(PEACE, 40);
}

#[test]
fn crashes_at_every_step_and_cut_streams_lose_nothing() {
    run_seeds(FAULTS, 100);
}

#[test]
fn two_and_four_replicas_survive_the_same() {
    run_seeds(Scenario { name: "two", replicas: 2, ..FAULTS }, 30);
    run_seeds(Scenario { name: "four", replicas: 4, steps: 900, ..FAULTS }, 20);
}

#[test]
fn renames_told_in_short_lose_nothing() {
    run_seeds(Scenario { name: "moves in peace", moves: true, ..PEACE }, 40);
    run_seeds(Scenario { name: "moves", moves: true, ..FAULTS }, 60);
    run_seeds(Scenario { name: "moves and leases", moves: true, ..LEASES }, 50);
}

#[test]
fn databases_kept_as_deltas_lose_nothing() {
    run_seeds(Scenario { name: "databases in peace", databases: true, leases: true, ..PEACE }, 30);
    run_seeds(Scenario { name: "databases and leases", databases: true, ..LEASES }, 60);
}

#[test]
fn stale_epochs_are_kept_aside_and_never_merged() {
    run_seeds(LEASES, 100);
}

/// A version of a peer's that a crash left standing, between its rename and the commit, is no edit: what its writer
/// does next replaces it, and a deletion holds.
#[test]
fn what_a_crash_left_standing_is_not_taken_for_an_edit() {
    let path = RelPath::new("d/a").unwrap();
    let mut crashes = 0;
    for step in 0..60 {
        let mut world = World::new(step, 2);
        let write = |world: &mut World, text: &[u8]| {
            let disk = &world.replicas[0].disk;
            disk.user_make(&RelPath::new("d").unwrap(), FileKind::Dir, b"");
            assert!(disk.user_write(&path, text, false));
            // What only root can apply, and the other replica is not.
            disk.user_attributes(&RelPath::new("d").unwrap(), |dir| dir.mode = 0o2775);
            disk.user_attributes(&path, |file| file.owner = Some(Owner { uid: 7, gid: 8 }));
            world.written.insert(text.to_vec());
            world.scan(0);
        };
        write(&mut world, b"first");
        if step % 2 == 0 {
            world.calm();
        }
        write(&mut world, b"second");
        world.superseded.insert(b"first".to_vec());
        world.replicas[1].disk.fail(step / 2 + 1, Fault::Power);
        world.connect();
        while world.crashes == 0 && world.now_ms < 300 {
            world.now_ms += 1;
            world.move_message();
            world.drive(1);
        }
        crashes += world.crashes;
        world.replicas[0].disk.user_remove(&RelPath::new("d").unwrap());
        world.superseded.insert(b"second".to_vec());
        world.scan(0);
        world.calm();
        let found = world.replicas[1].disk.tree();
        assert!(found.is_empty(), "step {step}: what was deleted is back: {:?}", found.keys());
        check::check(&mut world);
    }
    assert!(crashes > 12, "the power failed only {crashes} times");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..3 {
        assert_eq!(run(LEASES, seed).0, run(LEASES, seed).0);
    }
    assert_ne!(run(FAULTS, 1).0, run(FAULTS, 2).0);
}
