//! What seeds have found, told on its own.

use syncfs::disk::{Fault, FileKind, MemoryDisk};
use syncfs::engine::Input;
use syncfs::{Direction, RelPath, Role};

use crate::invariants;
use crate::ledger::{kept, tree};
use crate::rng::Rng;
use crate::users::{DATABASE, database};
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

/// Moves messages until a replica has heard of a takeover.
fn hear_of(world: &mut World, replica: usize, epoch: u64) {
    while world.replicas[replica].engine().meta().fences.epoch() < epoch {
        world.move_message();
    }
}

/// A user of this replica writes the file.
fn write(world: &mut World, replica: usize) -> Vec<u8> {
    let text = world.ledger.fresh(replica, false);
    write_at(world, replica, "a", &text);
    world.scan(replica);
    text
}

fn write_at(world: &mut World, replica: usize, at: &str, text: &[u8]) {
    let disk = world.replicas[replica].disk.clone();
    let before = tree(&disk);
    assert!(disk.user_write(&path(at), text, false));
    world.ledger.wrote(text.to_vec());
    world.note_act(replica, &before);
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

/// A directory that a user of a follower made in the place of a file stays until what belongs there is complete, whatever that is by
/// then (databases, seed 2101).
#[test]
fn a_directory_in_the_place_of_a_file_stays_until_its_replacement_is_complete() {
    for becomes_dir in [false, true] {
        let mut world = leased(2);
        let made_by = |world: &mut World, replica: usize, inside: Option<&str>| {
            remove(world, replica);
            let (disk, text) = (world.replicas[replica].disk.clone(), world.ledger.fresh(replica, false));
            let before = tree(&disk);
            assert!(disk.user_make(&path("a"), FileKind::Dir, b""));
            if let Some(inside) = inside {
                assert!(disk.user_write(&path(inside), &text, false));
                world.ledger.wrote(text);
            }
            world.note_act(replica, &before);
            world.scan(replica);
        };
        made_by(&mut world, 1, Some("a/edit"));
        let disk = world.replicas[1].disk.clone();
        assert!(disk.node(&path("a/edit")).is_none(), "what is in it is set aside");
        let kind = |disk: &MemoryDisk| disk.node(&path("a")).map(|node| node.kind);
        assert_eq!(kind(&disk), Some(FileKind::Dir), "nothing else is here yet");
        if becomes_dir {
            made_by(&mut world, 0, None);
        }
        world.calm();
        invariants::at_rest(&mut world);
        let kept = if becomes_dir { FileKind::Dir } else { FileKind::File };
        assert_eq!(kind(&disk), Some(kept));
    }
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

/// The tail of a lease that is over is set aside, and then goes; an edit that was made in between, and that nobody has looked at, does
/// not go with it.
#[test]
fn an_edit_of_what_was_set_aside_does_not_go_with_it() {
    let mut edited = 0;
    for messages in 0..24 {
        let mut world = leased(2);
        let (tail, disk) = (path("tail"), world.replicas[0].disk.clone());
        let edit = |world: &mut World| {
            let text = world.ledger.fresh(0, false);
            write_at(world, 0, "tail", &text);
            text
        };
        edit(&mut world);
        world.scan(0);
        world.take_lease(1);
        assert_eq!(world.epoch, 2, "the second one holds");
        world.open(0, 1);
        for _ in 0..messages {
            world.move_message();
            world.drive(0);
        }
        if disk.node(&tail).is_none() {
            break;
        }
        let text = edit(&mut world);
        edited += 1;
        // Nobody looks at it meanwhile.
        world.run_dry();
        world.calm();
        invariants::at_rest(&mut world);
        assert!(kept(&disk).contains(&text), "after {messages} messages");
    }
    assert!(edited > 3, "it was edited {edited} times");
}

/// A directory stays for what is new in it, and the file that was to take its place is kept beside it, wherever that fails for the first
/// time (databases, seed 71575).
#[test]
fn what_a_directory_keeps_out_is_kept_beside_it() {
    for step in 1..30 {
        let climate = Climate { replicas: 2, faults: false, leases: false, moves: false, databases: false };
        let mut world = World::of(Rng::new(0), climate);
        let disks = [0, 1].map(|replica: usize| world.replicas[replica].disk.clone());
        assert!(disks[0].user_make(&path("d"), FileKind::Dir, b""));
        world.calm();
        disconnect(&mut world);
        let texts = [0, 1].map(|replica| world.ledger.fresh(replica, false));
        write_at(&mut world, 0, "d/new", &texts[0]);
        assert!(disks[1].user_remove(&path("d")));
        write_at(&mut world, 1, "d", &texts[1]);
        (0..2).for_each(|replica| world.scan(replica));
        world.open(0, 1);
        disks[0].fail(step, Fault::Io);
        for _ in 0..60 {
            world.move_message();
            world.drive(0);
        }
        world.calm();
        invariants::at_rest(&mut world);
        for disk in &disks {
            let found: Vec<_> = tree(disk).texts.into_values().collect();
            assert!(texts.iter().all(|text| found.contains(text)), "step {step}: {:?}", tree(disk).paths);
        }
    }
}

/// What a replica's own tail had replaced is not at a peer that lacks the latest, too. It comes from one that has it, or does not belong
/// to what the replica holds next (databases, seed 99135).
#[test]
fn a_replica_does_not_claim_what_it_lost_with_its_tail() {
    for holds in [false, true] {
        let mut world = leased(3);
        let first = tree(&world.replicas[0].disk).texts.remove(&path("a")).unwrap();
        let replaced = write(&mut world, 0);
        world.open(0, 2);
        world.run_dry();
        disconnect(&mut world);
        let tail = write(&mut world, 0);
        world.take_lease(2);
        assert_eq!(world.epoch, 2, "the third one holds");
        world.open(1, 2);
        hear_of(&mut world, 1, 2);
        disconnect(&mut world);
        world.open(0, 1);
        world.run_dry();
        disconnect(&mut world);
        let text = |world: &World, replica: usize| {
            world.replicas[replica].disk.node(&path("a")).map(|node| node.data)
        };
        assert_eq!(text(&world, 0), Some(first.clone()), "the second one has nothing newer");
        if holds {
            world.take_lease(0);
            assert_eq!(world.epoch, 3, "the first one holds again");
        }
        world.calm();
        invariants::at_rest(&mut world);
        let stays = if holds { &first } else { &replaced };
        assert!((0..3).all(|replica| text(&world, replica).as_ref() == Some(stays)));
        assert!(kept(&world.replicas[0].disk).contains(&tail), "the tail is set aside");
    }
}

/// A stale tail in a directory does not keep it against what the holder put in its place, or deleted; nor does what a receiver found
/// there at its beginning (databases, seed 71575).
#[test]
fn a_directory_goes_with_the_stale_tail_in_it() {
    for (is_deletion, receives) in [(false, false), (true, false), (false, true), (true, true)] {
        let climate = Climate { replicas: 2, faults: false, leases: true, moves: false, databases: false };
        let mut world = if receives { World::of(Rng::new(0), climate) } else { leased(2) };
        if receives {
            world.replicas[0].engine.as_mut().unwrap().direct(Direction::Receive);
        }
        assert!(world.replicas[0].disk.user_make(&path("d"), FileKind::Dir, b""));
        world.scan(0);
        if is_deletion && !receives {
            world.calm();
            disconnect(&mut world);
        }
        let tail = world.ledger.fresh(0, false);
        write_at(&mut world, 0, "d/tail", &tail);
        world.scan(0);
        if !receives {
            world.take_lease(1);
            assert_eq!(world.epoch, 2, "the second one holds");
        }
        let disk = world.replicas[1].disk.clone();
        let before = tree(&disk);
        disk.user_remove(&path("d"));
        world.note_act(1, &before);
        let text = world.ledger.fresh(1, false);
        if !is_deletion {
            write_at(&mut world, 1, "d", &text);
        }
        world.scan(1);
        world.calm();
        invariants::at_rest(&mut world);
        for replica in &world.replicas {
            let stands = replica.disk.node(&path("d")).map(|node| node.data);
            assert_eq!(stands, (!is_deletion).then(|| text.clone()));
        }
        assert!(kept(&world.replicas[0].disk).contains(&tail), "the tail is set aside");
    }
}

/// What the holder built on, a follower can have again, also where it has forgotten that peers have it: its edit is undone (databases,
/// seed 9283).
#[test]
fn a_follower_undoes_an_edit_of_what_the_holder_built_on() {
    let mut world = leased(2);
    world.take_lease(1);
    let text = write(&mut world, 1);
    world.calm();
    disconnect(&mut world);
    let tail = world.ledger.fresh(1, false);
    write_at(&mut world, 1, "tail", &tail);
    world.scan(1);
    world.take_lease(0);
    assert_eq!(world.epoch, 3, "the first one holds again");
    world.open(0, 1);
    hear_of(&mut world, 1, 3);
    disconnect(&mut world);
    let edit = write(&mut world, 1);
    world.calm();
    invariants::at_rest(&mut world);
    for replica in &world.replicas {
        assert_eq!(replica.disk.node(&path("a")).map(|node| node.data), Some(text.clone()));
    }
    assert!(kept(&world.replicas[1].disk).contains(&edit), "the edit is set aside");
}

/// A version of which only a delta was left goes with what that builds on: where nobody has it any more, what others wrote meanwhile takes
/// its place (databases, seed 8796); where somebody may have it, it is waited for.
#[test]
fn a_version_that_an_overwritten_delta_held_is_given_up_where_nobody_has_it() {
    let climate = Climate { replicas: 3, faults: false, leases: false, moves: false, databases: true };
    let write = |world: &mut World, replica: usize| {
        let text = world.ledger.fresh(replica, false);
        let text = database(&text, &mut world.rng);
        write_at(world, replica, DATABASE, &text);
        world.scan(replica);
        text
    };
    for somebody_has_it in [false, true] {
        let mut world = World::of(Rng::new(0), climate);
        write(&mut world, 0);
        world.calm();
        disconnect(&mut world);
        let kept_as_delta = write(&mut world, 0);
        world.open(0, 1);
        world.run_dry();
        assert_eq!(world.replicas[1].engine().unmaterialised().len(), 1, "the second one has a delta");
        disconnect(&mut world);
        world.replicas[1].disk.user_attributes(&path(DATABASE), |file| file.mode = 0o600);
        world.scan(1);
        // All of it is overwritten.
        let edit = world.ledger.fresh(1, false);
        write_at(&mut world, 1, DATABASE, &edit);
        world.scan(1);
        let other = write(&mut world, if somebody_has_it { 2 } else { 0 });
        world.open(1, 2);
        world.run_dry();
        world.calm();
        invariants::at_rest(&mut world);
        let texts: Vec<_> = tree(&world.replicas[2].disk).texts.into_values().collect();
        assert!(texts.contains(&edit) && texts.contains(&other), "both stand");
        assert_eq!(texts.contains(&kept_as_delta), somebody_has_it);
    }
}

/// A replica that wrote, and only receives from then on, lost its epoch meanwhile: its tail is set aside, what its user does there before
/// a peer has told everything is kept as well, and what the others have of it comes back.
#[test]
fn a_receiver_takes_back_what_it_wrote_before_its_stale_tail() {
    const ACTS: [&str; 3] = ["nothing", "write", "remove"];
    for seed in 0..90 {
        let (tail, later) = (ACTS[seed % 3], ACTS[seed / 3 % 3]);
        let mut world = leased(3);
        // Who speaks first.
        world.rng = Rng::new(seed as u64);
        let act = |world: &mut World, act: &str| match act {
            "write" => drop(write(world, 0)),
            "remove" if world.replicas[0].disk.node(&path("a")).is_some() => remove(world, 0),
            _ => {}
        };
        act(&mut world, tail);
        world.take_lease(1);
        world.stop(0);
        world.start(0);
        world.replicas[0].engine.as_mut().unwrap().direct(Direction::Receive);
        world.scan(0);
        world.open(0, 1);
        hear_of(&mut world, 0, 2);
        act(&mut world, later);
        for _ in 0..100 {
            world.move_message();
            (0..2).for_each(|replica| world.drive(replica));
        }
        world.calm();
        let text = |replica: usize| world.replicas[replica].disk.node(&path("a")).map(|node| node.data);
        assert!(text(0).is_some() && text(0) == text(1), "seed {seed}, {tail}, {later}: {:?}", text(0));
        invariants::at_rest(&mut world);
    }
}
