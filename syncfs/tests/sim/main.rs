//! Seeded simulation of the real engine on disks that forget. `SEED=17 cargo test --test sim` replays one seed (with `TRACE=1` it
//! tells what happens); `SEEDS=10000` runs more of them, from `SEED` on.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod groups;
mod index;
mod invariants;
mod ledger;
mod power;
mod rng;
mod stories;
mod users;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use syncfs::disk::{Fault, FileKind};
use syncfs::record::Owner;
use syncfs::{ContentHash, RelPath};

use rng::Rng;
use world::{Climate, World};

/// What happens in every plain run.
const HAPPENS: [&str; 4] =
    ["failed sync: sync", "lost indexes", "mass deletions held back", "restored backups"];

/// Seeds of the plain run, besides a fresh one.
const SEEDS: u64 = 200;

/// Seeds that once found something: a deletion before a power cut that was taken for something that gave way; a backup from before
/// a life that was forgotten with it, which was taken for a copy; a replica that said nothing until its time had caught up, a
/// program's write that came twice, and a power cut that was undone, which were the simulation's doing.
const FOUND: [u64; 5] = [11_660, 956, 32_039, 54_967, 67_363];
/// As well, with databases: a merged version under another's counter; a deletion after a crash that was taken so; a directory that a
/// user made where a stale file stood; one that went before what was to take its place had come; versions of its own that a replica
/// forgot with a stale tail, twice; a version that nobody had any more; an edit on a follower that was taken for what nobody can undo;
/// a log that could not be read when its replica began; a directory that went just before something came into it; a copy that could
/// not be made beside a stale directory; a version that had seen more than the holder's; one that its writer had lost; a directory
/// of a holder's that came without a version; and, which were the simulation's doing, a disk without room at the start, a deletion that
/// a lost version gave way to, an old plan that had come true, the end of a delta, a copy that a user removed before what it was a copy
/// of went.
const FOUND_WITH_DATABASES: [u64; 19] = [
    11_280, 11_380, 1826, 2101, 3377, 5803, 8796, 9283, 10_040, 40_464, 71_575, 71_533, 99_135, 105_438,
    70_523, 71_340, 71_968, 41_508, 102_496,
];

fn run(seed: u64) -> (ContentHash, World) {
    run_in(World::new(seed))
}

fn run_in(mut world: World) -> (ContentHash, World) {
    let steps = 300 + 100 * world.replicas.len();
    for step in 0..steps {
        world.step();
        if world.climate.moves && step % 40 == 0 {
            world.move_in_quiet();
        }
        if world.climate.databases && step % 25 == 0 {
            world.write_database();
        }
    }
    world.calm();
    invariants::at_rest(&mut world);
    world.count("crashes", world.crashes);
    (world.trace(), world)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// What a run that fails says.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// What worlds counted.
type Counts = BTreeMap<String, u64>;

fn counted(counts: &Counts, what: &str) -> u64 {
    counts.get(what).copied().unwrap_or_default()
}

/// Runs a world for each seed, on all processors; what the worlds counted, summed up. Panics with the commands that replay the
/// seeds that fail.
fn explore(name: &str, seeds: &[u64], run: impl Fn(u64) -> World + Sync) -> Counts {
    let next = AtomicUsize::new(0);
    let share = || {
        let mut outcomes = Vec::new();
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let counts = catch_unwind(AssertUnwindSafe(|| run(seed).counts)).map_err(|panic| {
                format!("SEED={seed} cargo test -p syncfs --test sim {name} # {}", words(&*panic))
            });
            // At once, as a long run may be cut short.
            if let Err(why) = &counts {
                eprintln!("{why}");
            }
            outcomes.push(counts);
        }
        outcomes
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        shares.into_iter().flat_map(|share| share.join().unwrap()).collect()
    });
    let failed: Vec<_> = outcomes.iter().filter_map(|counts| counts.as_ref().err()).cloned().collect();
    assert!(failed.is_empty(), "these seeds fail; replay one with:\n{}", failed.join("\n"));
    let mut sums = Counts::new();
    for (what, times) in outcomes.into_iter().flatten().flatten() {
        *sums.entry(what).or_default() += times;
    }
    sums.iter().for_each(|(what, times)| println!("{name}: {times} {what}"));
    sums
}

/// From the environment, or so many.
fn seeds(count: u64) -> Vec<u64> {
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), count) => (seed..seed + count.unwrap_or(1)).collect(),
        (None, wanted) => (0..wanted.unwrap_or(count)).collect(),
    }
}

#[test]
fn the_invariants_hold_in_every_seed() {
    let mut seeds = seeds(SEEDS);
    if number("SEED").is_none() {
        let fresh = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        println!("a fresh seed: {fresh}");
        seeds.push(fresh);
        seeds.extend(FOUND);
    }
    let counts = explore("invariants", &seeds, |seed| run(seed).1);
    if number("SEED").is_none() {
        for what in HAPPENS {
            assert!(counted(&counts, what) > 0, "the simulation exercises too little: {what}");
        }
        let often = ["crashes", "barriers", "moves"].map(|what| counted(&counts, what));
        assert!(often.iter().all(|sum| 2 * sum > seeds.len() as u64), "the simulation exercises too little");
    }
}

#[test]
fn databases_kept_as_deltas_lose_nothing() {
    let mut seeds = seeds(100);
    if number("SEED").is_none() {
        seeds.extend(FOUND_WITH_DATABASES);
    }
    let counts = explore("databases", &seeds, |seed| {
        let (faults, leases) = (seed % 3 > 0, seed % 4 > 0);
        let climate = Climate { replicas: 3, faults, leases, moves: false, databases: true };
        run_in(World::of(Rng::new(seed), climate)).1
    });
    let deltas = counted(&counts, "blocks in logs");
    assert!(number("SEED").is_some() || deltas > seeds.len() as u64, "too few deltas are kept");
}

/// A version of a peer's that a crash left standing, between its rename and the commit, is no edit: what its writer
/// does next replaces it, and a deletion holds. Also where the first look after the crash cannot see it.
#[test]
fn what_a_crash_left_standing_is_not_taken_for_an_edit() {
    let (dir, path) = (RelPath::new("d").unwrap(), RelPath::new("d/a").unwrap());
    let mut crashes = 0;
    for (step, hidden) in (0..120).map(|number| (number / 2, number % 2 > 0)) {
        let mut world = World::of(
            Rng::new(step),
            Climate { replicas: 2, faults: false, leases: false, moves: false, databases: false },
        );
        let write = |world: &mut World, text: &[u8]| {
            let disk = &world.replicas[0].disk;
            disk.user_make(&dir, FileKind::Dir, b"");
            assert!(disk.user_write(&path, text, false));
            // What only root can apply, and the other replica is not.
            disk.user_attributes(&dir, |dir| dir.mode = 0o2775);
            disk.user_attributes(&path, |file| file.owner = Some(Owner { uid: 7, gid: 8 }));
            world.ledger.wrote(text.to_vec());
            world.scan(0);
        };
        write(&mut world, b"first");
        if step % 2 == 0 {
            world.calm();
        }
        write(&mut world, b"second");
        world.ledger.superseded.insert(b"first".to_vec());
        world.replicas[1].disk.fail(step / 2 + 1, Fault::Power);
        world.hides = hidden.then(|| dir.clone());
        world.connect();
        while world.crashes == 0 && world.now_ms < 300 {
            world.now_ms += 1;
            world.move_message();
            world.drive(1);
        }
        crashes += world.crashes;
        world.replicas[1].disk.set_unreadable(&dir, false);
        world.scan(1);
        let before = ledger::tree(&world.replicas[0].disk);
        world.replicas[0].disk.user_remove(&dir);
        world.note_act(0, &before);
        world.ledger.superseded.insert(b"second".to_vec());
        world.scan(0);
        world.calm();
        let found = ledger::tree(&world.replicas[1].disk).paths;
        assert!(found.is_empty(), "step {step}: what was deleted is back: {found:?}");
        invariants::at_rest(&mut world);
    }
    assert!(crashes > 24, "the power failed only {crashes} times");
}

/// Where a file gives way to a directory, or a directory to a file, and that fails in the middle (seed 1286 once), nobody has
/// deleted anything.
#[test]
fn what_gives_way_to_another_kind_is_not_deleted() {
    let path = RelPath::new("a").unwrap();
    for step in 0..48 {
        let (becomes_dir, is_power, after) = (step % 2 == 0, step % 4 < 2, step / 4 + 1);
        let mut world = World::of(
            Rng::new(step),
            Climate { replicas: 2, faults: false, leases: false, moves: false, databases: false },
        );
        for make_dir in [!becomes_dir, becomes_dir] {
            let disk = world.replicas[0].disk.clone();
            let before = ledger::tree(&disk);
            disk.user_remove(&path);
            if make_dir {
                assert!(disk.user_make(&path, FileKind::Dir, b""));
            } else {
                let text = world.ledger.fresh(0, false);
                assert!(disk.user_write(&path, &text, false));
                world.ledger.wrote(text);
            }
            world.note_act(0, &before);
            world.scan(0);
            if make_dir == becomes_dir {
                let fault = if is_power { Fault::Power } else { Fault::Io };
                world.replicas[1].disk.fail(after, fault);
                world.connect();
                for _ in 0..60 {
                    world.move_message();
                    world.drive(1);
                }
                world.scan(1);
            }
            world.calm();
        }
        assert_eq!(
            world.replicas[1].disk.node(&path).map(|node| node.kind == FileKind::Dir),
            Some(becomes_dir)
        );
        invariants::at_rest(&mut world);
    }
}

/// 15. Determinism.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..8 {
        assert_eq!(run(seed).0, run(seed).0, "15: seed {seed}");
    }
    assert_ne!(run(1).0, run(2).0);
}
