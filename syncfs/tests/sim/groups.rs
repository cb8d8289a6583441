//! Groups: whatever fails, a replica shows all of a cut or all of the one before, also right after a power cut.

use std::collections::BTreeSet;

use syncfs::disk::{Fault, FileKind};
use syncfs::{Consistency, CutBy, CutRule, RelPath};

use crate::invariants;
use crate::ledger::tree;
use crate::rng::Rng;
use crate::world::{Climate, World};

const DIRS: [&str; 2] = ["g", "g/d"];
const MEMBERS: [&str; 5] = ["g/a", "g/b", "g/d/c", "g/d/e", "h"];

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// The writer's next state of the group: each file is of this version, or not there.
fn write(world: &mut World, version: u64) {
    let disk = world.replicas[0].disk.clone();
    for dir in DIRS {
        disk.user_make(&path(dir), FileKind::Dir, b"");
    }
    let before = tree(&disk);
    for (number, member) in MEMBERS.iter().enumerate() {
        // All but the first come and go from one version to the next.
        if number > 0 && (version >> number) % 4 == 3 {
            disk.user_remove(&path(member));
            continue;
        }
        let mut text = format!("{version}:{member}:").into_bytes();
        // Together more than one message holds.
        if version.is_multiple_of(4) {
            text.resize(100_000, 0);
            let mut hash = blake3::Hasher::new().update(&text).finalize_xof();
            hash.fill(&mut text[100..]);
        }
        assert!(disk.user_write(&path(member), &text, version.is_multiple_of(2)));
        world.ledger.wrote(text);
    }
    world.note_act(0, &before);
}

/// The one version that all files of the group are of; 0 if there are none.
fn version(world: &World, replica: usize) -> u64 {
    let files = world.replicas[replica].disk.files();
    let members =
        files.iter().filter(|(path, _)| MEMBERS.iter().any(|member| path.as_bytes() == member.as_bytes()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found: Vec<_> = members
        .map(|(path, data)| (text(path.as_bytes()), text(data).split(':').next().unwrap().parse().unwrap()))
        .collect();
    let versions: BTreeSet<u64> = found.iter().map(|(_, version)| *version).collect();
    assert!(versions.len() < 2, "replica {replica} shows parts of two cuts: {found:?}");
    let version = versions.into_iter().next().unwrap_or(0);
    let stands = |number: usize| version > 0 && (number == 0 || (version >> number) % 4 != 3);
    let expected: Vec<_> =
        (0..MEMBERS.len()).filter(|number| stands(*number)).map(|number| MEMBERS[number]).collect();
    let found: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(found, expected, "replica {replica} does not show all of version {version}");
    version
}

/// How often the power failed, and how often a replica showed a newer version while the writer went on.
fn run(seed: u64) -> [u64; 2] {
    let mut world = World::of(
        Rng::new(seed),
        Climate { replicas: 3, faults: true, leases: true, moves: false, databases: false },
    );
    let rule = CutRule::new(vec![path("g"), path("h")], CutBy::Live);
    let writer = world.replicas[0].engine.as_mut().unwrap();
    writer.cut_by(&[rule]);
    writer.hold(1).unwrap();
    world.epoch = 1;
    let mut last = 0;
    let (mut seen, mut shown) = ([0; 3], 0);
    for _ in 0..400 {
        world.now_ms += world.rng.below(20);
        match world.rng.below(100) {
            0..4 => {
                last += 1;
                write(&mut world, last);
                world.scan(0);
            }
            4..30 => (1..3).for_each(|replica| world.drive(replica)),
            30..93 => (0..10).for_each(|_| world.move_message()),
            93..97 => world.connect(),
            97 => world.cut_a_link(),
            _ => {
                let victim = 1 + world.rng.below(2) as usize;
                world.replicas[victim].disk.fail(1 + world.rng.below(20), Fault::Power);
            }
        }
        for (replica, seen) in seen.iter_mut().enumerate().skip(1) {
            let version = version(&world, replica);
            assert!(version >= *seen, "replica {replica} goes back from {seen} to {version}");
            shown += u64::from(version > *seen);
            *seen = version;
        }
    }
    world.calm();
    for replica in 0..3 {
        assert_eq!(version(&world, replica), last, "replica {replica}");
        let engine = world.replicas[replica].engine.as_ref().unwrap();
        assert_eq!(engine.consistency(), Consistency::Known, "replica {replica}");
    }
    invariants::at_rest(&mut world);
    [world.crashes, shown]
}

#[test]
fn a_replica_shows_all_of_a_cut_or_all_of_the_one_before() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let only = number("SEED");
    let seeds = only.map_or(0..number("SEEDS").unwrap_or(60), |seed| seed..seed + 1);
    let (mut crashes, mut shown) = (0, 0);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let counts = result.unwrap_or_else(|_| panic!("groups: replay with SEED={seed}"));
        (crashes, shown) = (crashes + counts[0], shown + counts[1]);
    }
    println!("groups: {crashes} crashes, {shown} versions shown");
    assert!(only.is_some() || crashes > 100 && shown > 60, "the simulation exercises too little");
}
