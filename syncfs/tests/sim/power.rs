//! A power cut at every step that the disk of a replica takes while two meet that were apart.

use syncfs::RelPath;
use syncfs::disk::{Fault, FileKind, MemoryDisk};

use crate::invariants;
use crate::ledger::tree;
use crate::rng::Rng;
use crate::world::{Climate, World};

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// Something that a user of a replica does; nobody has looked at it yet.
fn act(world: &mut World, replica: usize, act: impl FnOnce(&MemoryDisk)) {
    let disk = world.replicas[replica].disk.clone();
    let before = tree(&disk);
    act(&disk);
    world.note_act(replica, &before);
}

fn write(world: &mut World, replica: usize, at: &str) {
    let text = world.ledger.fresh(replica, false);
    act(world, replica, |disk| assert!(disk.user_write(&path(at), &text, false), "{at}"));
    world.ledger.wrote(text);
}

fn make(world: &mut World, replica: usize, at: &str, kind: FileKind) {
    let text = if kind == FileKind::Symlink { world.ledger.fresh(replica, false) } else { Vec::new() };
    act(world, replica, |disk| assert!(disk.user_make(&path(at), kind, &text), "{at}"));
    if kind == FileKind::Symlink {
        world.ledger.wrote(text);
    }
}

/// Two replicas in step, which then each went their own way: edits of the same file and of others, a tree that was renamed and one
/// in which somebody wrote meanwhile, deletions, and entries of another kind in the place of what was there.
fn apart(seed: u64, leases: bool) -> World {
    let climate = Climate { replicas: 2, faults: false, leases, moves: false, databases: false };
    let mut world = World::of(Rng::new(seed), climate);
    make(&mut world, 0, "tree", FileKind::Dir);
    make(&mut world, 0, "tree/deep", FileKind::Dir);
    make(&mut world, 0, "gone", FileKind::Dir);
    for at in ["both", "mine", "yours", "deleted", "tree/a", "tree/deep/b", "gone/c", "file", "other"] {
        write(&mut world, 0, at);
    }
    make(&mut world, 0, "dir", FileKind::Dir);
    make(&mut world, 0, "link", FileKind::Symlink);
    if leases {
        world.take_lease(0);
    }
    world.calm();
    (0..100).for_each(|_| world.cut_a_link());

    write(&mut world, 0, "both");
    write(&mut world, 0, "mine");
    act(&mut world, 0, |disk| assert!(disk.user_rename(&path("tree"), &path("moved"))));
    for at in ["deleted", "gone/c", "gone", "file", "dir", "link"] {
        act(&mut world, 0, |disk| assert!(disk.user_remove(&path(at)), "{at}"));
    }
    make(&mut world, 0, "file", FileKind::Dir);
    write(&mut world, 0, "file/inside");
    write(&mut world, 0, "dir");
    write(&mut world, 0, "link");

    write(&mut world, 1, "both");
    write(&mut world, 1, "yours");
    write(&mut world, 1, "tree/deep/b");
    write(&mut world, 1, "gone/c");
    write(&mut world, 1, "file");
    act(&mut world, 1, |disk| assert!(disk.user_remove(&path("other"))));
    make(&mut world, 1, "other", FileKind::Symlink);
    world
}

/// They look, and meet, until nothing is left to say.
fn meet(world: &mut World) {
    (0..2).for_each(|replica| world.scan(replica));
    let mut met = None;
    for round in 0.. {
        assert!(round < 1000, "they do not come to rest");
        // Whoever starts again is met again.
        if met != Some(world.crashes) {
            met = Some(world.crashes);
            world.open(0, 1);
        } else if !world.pump() {
            return;
        }
    }
}

#[test]
fn nothing_is_lost_whenever_the_power_fails() {
    for (leases, replica) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        for step in 1.. {
            let mut world = apart(step, leases);
            world.replicas[replica].disk.fail(step, Fault::Power);
            meet(&mut world);
            let is_over = world.crashes == 0;
            world.calm();
            invariants::at_rest(&mut world);
            if is_over {
                println!("replica {replica}, leases {leases}: {} steps", step - 1);
                assert!(step > 20, "it takes more steps");
                break;
            }
        }
    }
}
