//! Branches when the power fails at any step: what was set aside is listed, a restore loses nothing, a drop is whole.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::time::Duration;

use syncfs::device::{DeviceId, FolderId, IndexId};
use syncfs::disk::{Act, Fault, MemoryDisk};
use syncfs::engine::{EXPIRE_EVERY_MS, Engine, Input};
use syncfs::index::{MemoryIndex, Meta};
use syncfs::{Change, Event, RelPath, RestoreError};

type Memory = Engine<MemoryDisk, MemoryIndex>;

fn rel(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

/// Opens the folder after whatever happened; what a power cut took is as `survives` says: nothing or everything.
fn restart(engine: Memory, disk: &MemoryDisk, survives: bool) -> Memory {
    let (_, mut index) = engine.into_parts();
    index.crash();
    disk.crash(&mut |below| if survives { 0 } else { below - 1 });
    let mut engine = Engine::new(disk.clone(), index).unwrap();
    engine.scan().unwrap();
    engine
}

/// A replica that follows, and a local edit that nobody has looked at yet.
fn edited_follower() -> (Memory, MemoryDisk) {
    let meta = Meta::new(DeviceId::from_bytes([1; 32]), Some(FolderId::from_bytes([1; 16])), IndexId(1));
    let disk = MemoryDisk::default();
    let mut engine = Engine::new(disk.clone(), MemoryIndex::new(meta)).unwrap();
    engine.scan().unwrap();
    engine.hold(1).unwrap();
    engine.follow().unwrap();
    disk.user_write(&rel("one"), b"first edit", false);
    disk.user_write(&rel("two"), b"second edit", false);
    (engine, disk)
}

/// Lets the power fail at the first, second, ... step of `act`, until it comes to its end without.
fn at_every_step(
    begin: impl Fn() -> (Memory, MemoryDisk),
    act: impl Fn(&mut Memory) -> bool,
    check: impl Fn(&mut Memory, &MemoryDisk),
) {
    for survives in [false, true] {
        for step in 1.. {
            let (mut engine, disk) = begin();
            disk.fail(step, Fault::Power);
            let done = act(&mut engine);
            assert_eq!(done, !disk.is_dead());
            let mut engine = restart(engine, &disk, survives);
            check(&mut engine, &disk);
            if done {
                assert!(step > 2, "it takes steps");
                break;
            }
        }
    }
}

/// The paths of all branches.
fn listed(engine: &Memory) -> Vec<String> {
    let branches = engine.branches().unwrap();
    let paths = branches.iter().flat_map(|branch| engine.differences(&branch.name()).unwrap());
    let mut paths: Vec<_> = paths.map(|one| one.path.to_string()).collect();
    paths.sort();
    paths
}

#[test]
fn what_is_set_aside_is_listed_whenever_the_power_fails() {
    at_every_step(
        edited_follower,
        |engine| engine.scan().is_ok(),
        |engine, disk| {
            // Bytes that no program made durable may be gone, but a file that stood is set aside then.
            assert_eq!(disk.files().len(), 0, "the edits are undone");
            let kept = listed(engine);
            let names: BTreeSet<_> = kept.iter().cloned().collect();
            assert_eq!(kept.len(), names.len(), "each once: {kept:?}");
            assert_eq!(disk.kept().len(), kept.len(), "all that is kept is listed");
        },
    );
}

/// What a program puts in the place of an edit while that is set aside was looked at by nobody.
#[test]
fn an_edit_that_comes_while_another_is_set_aside_is_not_lost() {
    for in_place in [false, true] {
        for step in 1.. {
            let (mut engine, disk) = edited_follower();
            let before = disk.steps();
            let edit = Act::Edit { path: rel("one"), data: b"third edit".to_vec(), in_place };
            disk.fail(step, Fault::Program(edit));
            engine.scan().unwrap();
            if disk.steps() < before + step {
                assert!(step > 4, "it takes steps");
                break;
            }
            let kept = disk.kept().into_iter().map(|node| node.data);
            let found: Vec<_> = disk.files().into_values().chain(kept).collect();
            assert!(found.contains(&b"third edit".to_vec()), "step {step}, in place {in_place}: {found:?}");
        }
    }
}

fn holder_with_a_branch() -> (Memory, MemoryDisk) {
    let (mut engine, disk) = edited_follower();
    engine.scan().unwrap();
    assert_eq!(listed(&engine), ["one", "two"]);
    engine.hold(2).unwrap();
    disk.user_write(&rel("one"), b"what stands", false);
    engine.scan().unwrap();
    (engine, disk)
}

fn name(engine: &Memory) -> String {
    engine.branches().unwrap()[0].name()
}

#[test]
fn a_restore_that_the_power_cuts_short_loses_nothing_and_can_be_done_again() {
    let restore = |engine: &mut Memory| {
        let branch = name(engine);
        match engine.restore_branch(&branch, &[], None, &mut Vec::new()) {
            Ok(()) => true,
            Err(RestoreError::Disk(_) | RestoreError::Store(_)) => false,
            Err(error) => panic!("{error}"),
        }
    };
    at_every_step(holder_with_a_branch, restore, |engine, disk| {
        let texts = || disk.files().into_values().collect::<BTreeSet<_>>();
        assert!(texts().contains(&b"what stands"[..]), "it is where it was, or beside");
        assert_eq!(listed(engine), ["one", "two"]);
        assert!(restore(engine));
        let wanted = [&b"what stands"[..], b"first edit", b"second edit"].map(<[u8]>::to_vec);
        assert_eq!(texts(), BTreeSet::from(wanted));
        let branch = name(engine);
        assert!(engine.differences(&branch).unwrap().iter().all(|one| one.change == Change::Same));
    });
}

#[test]
fn a_branch_is_dropped_whole_or_stays_whole() {
    let drop_it = |engine: &mut Memory| {
        let branch = name(engine);
        engine.drop_branch(&branch).is_ok()
    };
    at_every_step(holder_with_a_branch, drop_it, |engine, disk| {
        let left = listed(engine);
        assert!(left.is_empty() || left == ["one", "two"], "{left:?}");
        assert_eq!(disk.kept().len(), left.len());
    });
}

/// Looks at the branches, an hour after the last look.
fn look(engine: &mut Memory, hours: &mut u64) {
    *hours += 1;
    engine.handle(*hours * EXPIRE_EVERY_MS, Input::Tick).unwrap();
}

#[test]
fn a_branch_goes_when_it_is_too_old_at_two_looks_and_a_clock_that_is_wrong_once_ends_nothing() {
    let (mut engine, disk) = edited_follower();
    engine.scan().unwrap();
    engine.keep_branches(Duration::from_secs(10 * 86_400), 1 << 30);
    let day_ns = 86_400_000_000_000;
    let mut hours = 0;
    look(&mut engine, &mut hours);
    // The clock is wrong for a while.
    disk.jump(1000 * day_ns);
    look(&mut engine, &mut hours);
    disk.jump(-1000 * day_ns);
    look(&mut engine, &mut hours);
    assert_eq!(listed(&engine), ["one", "two"]);
    // What is set aside a week later is another branch.
    disk.jump(7 * day_ns);
    disk.user_write(&rel("three"), b"third edit", false);
    engine.scan().unwrap();
    assert_eq!(engine.branches().unwrap().len(), 2);
    disk.jump(5 * day_ns);
    look(&mut engine, &mut hours);
    assert_eq!(listed(&engine), ["one", "three", "two"]);
    look(&mut engine, &mut hours);
    assert_eq!(listed(&engine), ["three"]);
    assert_eq!(disk.kept().len(), 1);
    assert!(engine.events().iter().any(|event| matches!(event, Event::BranchExpired(_))));
}

#[test]
fn too_many_bytes_end_only_a_branch_of_which_the_folder_has_everything() {
    let (mut engine, disk) = holder_with_a_branch();
    engine.keep_branches(Duration::from_secs(10 * 86_400), 5);
    let is_told =
        |engine: &Memory| engine.problems().iter().any(|problem| problem.what.contains("branches take"));
    let mut hours = 0;
    look(&mut engine, &mut hours);
    assert_eq!(listed(&engine), ["one", "two"]);
    assert!(is_told(&engine));
    disk.user_write(&rel("one"), b"first edit", false);
    disk.user_write(&rel("two"), b"second edit", false);
    engine.scan().unwrap();
    look(&mut engine, &mut hours);
    assert_eq!(listed(&engine), Vec::<String>::new());
    assert!(!is_told(&engine));
}
