//! Databases that are kept as deltas: when they become visible, what an edit of what is visible comes to, and what there is when
//! the power fails at any step (what was acknowledged is there, what is visible is whole).
#![allow(clippy::unwrap_used, reason = "a test")]

use syncfs::chunk::SQLITE_MAGIC;
use syncfs::device::{DeviceId, FolderId, IndexId};
use syncfs::disk::{Abilities, Fault, FileKind, MemoryDisk};
use syncfs::engine::{Engine, Input, SessionId};
use syncfs::index::{MemoryIndex, Meta};
use syncfs::{RelPath, StoreError};

type Memory = Engine<MemoryDisk, MemoryIndex>;

const SESSION: SessionId = SessionId(1);
const VERSIONS: u8 = 3;
/// So many bytes a second are written to rewrite a database without a lease.
const COPIES_BYTES_PER_S: u64 = 4_000;
/// Hence one of 40,000 bytes is, while it is written all the time; and so long after the last write.
const COPIES_MS: u64 = 10_000;
const QUIET_MS: u64 = COPIES_MS / 16;

fn app() -> RelPath {
    RelPath::new("app.db").unwrap()
}

/// A database of some blocks, of which every version changes a few.
fn version(number: u8) -> Vec<u8> {
    let mut bytes = vec![7; 40_000];
    bytes[..16].copy_from_slice(SQLITE_MAGIC);
    for at in [100, 20_000, 30_000 + usize::from(number)] {
        bytes[at] = number;
    }
    bytes
}

fn replica(number: u8, keeps_history: bool) -> (Memory, MemoryDisk) {
    let meta = Meta::new(
        DeviceId::from_bytes([number; 32]),
        Some(FolderId::from_bytes([1; 16])),
        IndexId(u64::from(number)),
    );
    let disk = MemoryDisk::new(Abilities { keeps_history, ..Abilities::default() });
    let mut engine = Engine::new(disk.clone(), MemoryIndex::new(meta)).unwrap();
    engine.keep_deltas_from(20_000, COPIES_BYTES_PER_S);
    engine.scan().unwrap();
    (engine, disk)
}

/// Lets the two talk until neither has anything to say.
fn talk(one: &mut Memory, other: &mut Memory) -> Result<(), StoreError> {
    for _ in 0..1000 {
        let mut said = false;
        for turn in 0..2 {
            let (speaker, listener) =
                if turn == 0 { (&mut *one, &mut *other) } else { (&mut *other, &mut *one) };
            while speaker.work()? {}
            speaker.settle()?;
            while let Some(message) = speaker.poll(SESSION)? {
                listener.handle(0, Input::Received { session: SESSION, message })?;
                said = true;
            }
        }
        if !said && !one.is_busy() && !other.is_busy() {
            return Ok(());
        }
    }
    panic!("they do not come to an end");
}

struct Pair {
    holder: Memory,
    writer: MemoryDisk,
    follower: Memory,
    disk: MemoryDisk,
}

impl Pair {
    /// A holder and a follower that shows the version 0.
    fn new() -> Self {
        Self::of(true, false)
    }

    /// Two that have it, and no lease.
    fn without_a_lease() -> Self {
        Self::of(false, false)
    }

    fn of(leased: bool, keeps_history: bool) -> Self {
        let [(mut holder, writer), (mut follower, disk)] =
            [1, 2].map(|number| replica(number, keeps_history));
        if leased {
            holder.hold(1).unwrap();
        }
        writer.user_write(&app(), &version(0), false);
        holder.scan().unwrap();
        for engine in [&mut holder, &mut follower] {
            engine.handle(0, Input::Opened { session: SESSION, expect: None }).unwrap();
        }
        talk(&mut holder, &mut follower).unwrap();
        assert_eq!(disk.files()[&app()], version(0));
        Self { holder, writer, follower, disk }
    }

    /// Commits once. Returns whether the follower has acknowledged it.
    fn commit(&mut self, number: u8) -> bool {
        self.writer.user_write(&app(), &version(number), false);
        self.holder.scan().unwrap();
        let told = talk(&mut self.holder, &mut self.follower);
        assert!(told.is_ok() || self.disk.is_dead(), "{told:?}");
        self.holder.status().unwrap().peers.iter().all(|peer| peer.behind == 0)
    }

    /// What is visible where nobody writes.
    fn shown(&self) -> Vec<u8> {
        self.disk.files()[&app()].clone()
    }

    /// Time passes there.
    fn tick(&mut self, now_ms: u64) {
        for engine in [&mut self.holder, &mut self.follower] {
            engine.handle(now_ms, Input::Tick).unwrap();
        }
        talk(&mut self.holder, &mut self.follower).unwrap();
    }

    /// Lets both take up what stands, tell it, and show all.
    fn settle(&mut self, what: &str) {
        for _ in 0..2 {
            self.holder.scan().unwrap();
            self.follower.scan().unwrap();
            talk(&mut self.holder, &mut self.follower).unwrap();
            for engine in [&mut self.follower, &mut self.holder] {
                assert_eq!(engine.materialise(None).unwrap(), 0, "{what}: {:?}", engine.problems());
            }
        }
        assert_eq!(self.holder.digest().unwrap(), self.follower.digest().unwrap());
        let texts =
            |disk: &MemoryDisk| disk.tree().into_iter().map(|(path, node)| (path, node.data)).collect();
        let [ours, theirs]: [Vec<_>; 2] = [texts(&self.writer), texts(&self.disk)];
        assert_eq!(ours, theirs);
        assert!(self.follower.problems().is_empty() && self.follower.is_idle());
    }

    /// The follower after a power cut that took all, or nothing, of what was not durable.
    fn restart(self, survives: bool) -> Memory {
        let (_, mut index) = self.follower.into_parts();
        index.crash();
        self.disk.crash(&mut |below| if survives { 0 } else { below - 1 });
        let mut engine = Engine::new(self.disk.clone(), index).unwrap();
        engine.scan().unwrap();
        engine
    }
}

/// Lets the power of the follower fail at the first, second, ... step of `act`, until it comes to its end without.
fn at_every_step(begin: impl Fn() -> Pair, act: impl Fn(&mut Pair), check: impl Fn(Pair, bool)) {
    for survives in [false, true] {
        for step in 1.. {
            let mut pair = begin();
            pair.disk.fail(step, Fault::Power);
            act(&mut pair);
            let done = !pair.disk.is_dead();
            check(pair, survives);
            if done {
                assert!(step > 5, "it takes steps");
                break;
            }
        }
    }
}

#[test]
fn what_was_acknowledged_as_a_delta_can_be_shown_after_a_power_cut_without_any_peer() {
    let acked = std::cell::Cell::new(0);
    let commits = |pair: &mut Pair| {
        acked.set(0);
        for number in 1..=VERSIONS {
            if !pair.commit(number) {
                return;
            }
            acked.set(number);
            assert_eq!(pair.disk.files()[&app()], version(0), "it is kept as a delta");
        }
    };
    let check = |pair: Pair, survives| {
        let disk = pair.disk.clone();
        let mut follower = pair.restart(survives);
        assert_eq!(disk.files()[&app()], version(0));
        assert_eq!(follower.materialise(None).unwrap(), 0, "nothing of it is missing");
        let shown = disk.files().remove(&app()).unwrap();
        let newest = (acked.get()..=VERSIONS).find(|number| version(*number) == shown);
        assert!(newest.is_some(), "version {} was acknowledged", acked.get());
    };
    at_every_step(Pair::new, commits, check);
    at_every_step(Pair::without_a_lease, commits, check);
}

#[test]
fn what_becomes_visible_is_whole_whenever_the_power_fails() {
    let behind = |mut pair: Pair| {
        assert!((1..=VERSIONS).all(|number| pair.commit(number)));
        pair
    };
    let show = |pair: &mut Pair| {
        let shown = pair.follower.materialise(None);
        assert!(shown.is_ok() || pair.disk.is_dead(), "{shown:?}");
    };
    let check = |pair: Pair, survives| {
        let disk = pair.disk.clone();
        let mut follower = pair.restart(survives);
        let shown = disk.files().remove(&app()).unwrap();
        assert!([0, VERSIONS].iter().any(|number| version(*number) == shown), "all of it, or nothing");
        assert_eq!(follower.materialise(None).unwrap(), 0);
        assert_eq!(disk.files()[&app()], version(VERSIONS));
        assert_eq!(disk.logged_blocks(), 0, "no log is left");
    };
    at_every_step(|| behind(Pair::new()), show, check);
    at_every_step(|| behind(Pair::without_a_lease()), show, check);
}

#[test]
fn without_a_lease_a_database_is_shown_soon_after_it_was_written_and_every_now_and_then_meanwhile() {
    let mut pair = Pair::without_a_lease();
    // The engine says when it has to be woken up.
    let wake = |pair: &mut Pair| {
        let now_ms = pair.follower.deadline().unwrap();
        pair.tick(now_ms);
        now_ms
    };
    assert!(pair.commit(1));
    assert_eq!(pair.shown(), version(0));
    assert_eq!((wake(&mut pair), pair.shown()), (QUIET_MS, version(1)));
    // It was rewritten just now.
    pair.tick(2 * QUIET_MS);
    assert!(pair.commit(2));
    pair.tick(COPIES_MS + QUIET_MS - 1);
    assert_eq!(pair.shown(), version(1));
    assert_eq!((wake(&mut pair), pair.shown()), (COPIES_MS + QUIET_MS, version(2)));
    assert_eq!(pair.disk.logged_blocks(), 0);
    // It is written all the time.
    let mut copies = 0;
    for number in 3..100 {
        let before = pair.shown();
        pair.tick(COPIES_MS + QUIET_MS + u64::from(number) * QUIET_MS / 2);
        copies += usize::from(pair.shown() != before);
        assert!(pair.commit(number));
    }
    assert_eq!(copies, 97 / 32);
    // A small one never waits.
    let small = RelPath::new("small.db").unwrap();
    for number in 0..3 {
        let bytes = version(number)[..20_000].to_vec();
        pair.writer.user_write(&small, &bytes, false);
        pair.holder.scan().unwrap();
        talk(&mut pair.holder, &mut pair.follower).unwrap();
        assert_eq!(pair.disk.files()[&small], bytes);
    }
}

/// Something that a user does, for the n-th time.
type Act = fn(&MemoryDisk, u8);

/// Whoever uses the file that is visible has not seen the newest version: both stay.
#[test]
fn an_edit_of_what_is_visible_without_a_lease_is_a_conflict_with_what_is_not() {
    let acts: [(&str, Act); 6] = [
        // In place, and then by another file.
        ("written", |disk, n| assert!(disk.user_write(&app(), &version(70 + n), n == 3))),
        ("no database any more", |disk, n| assert!(disk.user_write(&app(), &[n; 9], false))),
        ("deleted", |disk, _| {
            disk.user_remove(&app());
        }),
        ("renamed", |disk, _| {
            disk.user_rename(&app(), &RelPath::new("other.db").unwrap());
        }),
        ("a directory", |disk, n| {
            if n == 3 {
                disk.user_remove(&app());
                assert!(disk.user_make(&app(), FileKind::Dir, b""));
            }
            let inside = RelPath::new(format!("app.db/inside-{n}")).unwrap();
            assert!(disk.user_write(&inside, &[n; 9], false));
        }),
        ("other permissions", |disk, _| assert!(disk.user_attributes(&app(), |file| file.mode = 0o600))),
    ];
    let cases = [false, true].into_iter().flat_map(|goes_on| acts.iter().map(move |act| (act, goes_on)));
    for ((what, act), goes_on) in cases {
        let mut pair = Pair::of(false, goes_on);
        assert!(pair.commit(1) && pair.commit(2));
        let mut wrote = Vec::new();
        // More than once, before the newest version can come, and the writer may go on meanwhile.
        for more in [3, 4] {
            act(&pair.disk, more);
            wrote.extend(pair.disk.files().into_values().filter(|bytes| *bytes != version(0)));
            pair.follower.scan().unwrap();
            if goes_on {
                pair.writer.user_write(&app(), &version(more), false);
                pair.holder.scan().unwrap();
            }
        }
        pair.settle(what);
        let files: Vec<_> = pair.disk.files().into_values().collect();
        let newest = version(if goes_on { 4 } else { 2 });
        assert!(files.contains(&newest), "{what}: the newest version is lost");
        for edit in wrote {
            assert!(files.contains(&edit), "{what}: the edit {:?} is lost", edit.get(100));
        }
        if *what == "other permissions" && !goes_on {
            assert_eq!((files.len(), pair.writer.node(&app()).unwrap().attributes.mode), (1, 0o600));
        }
    }
}

/// The visible file that it builds on is gone, and its writer has something else by now: it is in no history, and its
/// successor comes.
#[test]
fn what_nobody_can_put_together_any_more_does_not_stop_what_replaces_it() {
    let mut pair = Pair::of(false, true);
    assert!(pair.commit(1));
    assert!(pair.disk.user_remove(&app()));
    let mut other = version(9);
    other.iter_mut().skip(16).for_each(|byte| *byte ^= 0x55);
    assert!(pair.writer.user_write(&app(), &other, false));
    pair.holder.scan().unwrap();
    pair.follower.scan().unwrap();
    pair.settle("its successor");
    assert_eq!(pair.shown(), other);
}
