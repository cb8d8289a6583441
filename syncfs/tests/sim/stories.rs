//! What seeds have found, told on its own.

use syncfs::disk::{Fault, FileKind};
use syncfs::engine::Input;
use syncfs::{RelPath, Role};

use crate::invariants;
use crate::ledger::tree;
use crate::rng::Rng;
use crate::world::{Climate, World};

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// Replicas that all have one file, whose holder is the first; nobody is connected.
fn leased(replicas: usize) -> World {
    let climate = Climate { replicas, faults: false, leases: true, moves: false, databases: false };
    let mut world = World::of(Rng::new(0), climate);
    write(&mut world, 0);
    world.take_lease(0);
    world.calm();
    disconnect(&mut world);
    world
}

fn disconnect(world: &mut World) {
    (0..100).for_each(|_| world.cut_a_link());
}

/// A user of this replica writes the file.
fn write(world: &mut World, replica: usize) -> Vec<u8> {
    let (disk, text) = (world.replicas[replica].disk.clone(), world.ledger.fresh(replica, false));
    let before = tree(&disk);
    assert!(disk.user_write(&path("a"), &text, false));
    world.ledger.wrote(text.clone());
    world.note_act(replica, &before);
    world.scan(replica);
    text
}

fn remove(world: &mut World, replica: usize) {
    let disk = world.replicas[replica].disk.clone();
    let before = tree(&disk);
    assert!(disk.user_remove(&path("a")));
    world.note_act(replica, &before);
    world.scan(replica);
}

/// Where nobody has the version any more that an edit on a follower had replaced, the next holder goes on with that edit; with a
/// deletion, too (databases, seeds 6346, 6730).
#[test]
fn a_holder_goes_on_with_the_edit_that_nothing_can_undo() {
    for is_deletion in [false, true] {
        let mut world = leased(2);
        let edit = match is_deletion {
            true => {
                remove(&mut world, 1);
                None
            }
            false => Some(write(&mut world, 1)),
        };
        world.drive(1);
        write(&mut world, 0);
        world.take_lease(1);
        assert_eq!(world.epoch, 2, "the second one holds");
        world.calm();
        invariants::at_rest(&mut world);
        for replica in &world.replicas {
            assert_eq!(replica.disk.node(&path("a")).map(|node| node.data), edit);
        }
    }
}

/// What was giving way to another kind of entry when that could not be made is not there, but nobody has deleted it: whoever has only
/// that cannot become the holder (databases, seed 5270).
#[test]
fn what_gave_way_is_not_deleted_by_the_next_holder() {
    let mut gave_way = 0;
    for step in 1..12 {
        let mut world = leased(2);
        remove(&mut world, 0);
        assert!(world.replicas[0].disk.user_make(&path("a"), FileKind::Dir, b""));
        world.scan(0);
        world.replicas[1].disk.fail(step, Fault::Io);
        world.open(0, 1);
        for _ in 0..60 {
            world.move_message();
            world.drive(1);
        }
        disconnect(&mut world);
        world.scan(1);
        world.drive(1);
        let stands = world.replicas[1].disk.node(&path("a")).is_some();
        world.take_lease(1);
        gave_way += usize::from(!stands);
        assert!(stands || world.epoch == 1, "step {step}: it holds what it does not have");
        world.calm();
        invariants::at_rest(&mut world);
    }
    assert!(gave_way > 0, "nothing gives way");
}

/// Two followers that lack a version ask each other for it, and then wait (main seeds 2328, 3416).
#[test]
fn a_version_that_nobody_has_is_not_asked_for_for_ever() {
    let mut world = leased(3);
    remove(&mut world, 1);
    remove(&mut world, 2);
    world.open(1, 2);
    world.run_dry();
    assert!(world.replicas[1].disk.node(&path("a")).is_none());
    world.calm();
    assert_eq!(world.replicas[0].engine().meta().role, Role::Holder);
    invariants::at_rest(&mut world);
}

/// A peer's rename of a directory does not hide what a user did to its attributes here (main seed 3034).
#[test]
fn a_directory_that_a_peer_moves_is_looked_at_again() {
    let climate = Climate { replicas: 2, faults: false, leases: false, moves: false, databases: false };
    let mut world = World::of(Rng::new(0), climate);
    let disks = [0, 1].map(|replica: usize| world.replicas[replica].disk.clone());
    disks[0].user_make(&path("d"), FileKind::Dir, b"");
    world.calm();
    disks[1].user_attributes(&path("d"), |dir| drop(dir.xattrs.insert(b"user.tag".to_vec(), vec![1])));
    let before = tree(&disks[0]);
    assert!(disks[0].user_rename(&path("d"), &path("e")));
    world.note_act(0, &before);
    let now_ms = world.now_ms;
    let touched = Input::Touched(vec![path("d"), path("e")]);
    world.run(0, |engine| engine.handle(now_ms, touched));
    world.run_dry();
    assert!(world.counts["moves"] > 0, "it is told as a move");
    world.calm();
    invariants::at_rest(&mut world);
    for disk in disks {
        let tags = disk.node(&path("e")).map(|dir| dir.attributes.xattrs.len());
        assert_eq!(tags, Some(1));
    }
}
