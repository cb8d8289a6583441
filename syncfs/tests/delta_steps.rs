//! Databases that are kept as deltas when the power fails at any step: what was acknowledged is there, what is visible is whole.
#![allow(clippy::unwrap_used, reason = "a test")]

use syncfs::chunk::SQLITE_MAGIC;
use syncfs::device::{DeviceId, FolderId, IndexId};
use syncfs::disk::{Fault, MemoryDisk};
use syncfs::engine::{Engine, Input, SessionId};
use syncfs::index::{MemoryIndex, Meta};
use syncfs::{RelPath, StoreError};

type Memory = Engine<MemoryDisk, MemoryIndex>;

const SESSION: SessionId = SessionId(1);
const VERSIONS: u8 = 3;

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

fn replica(number: u8) -> (Memory, MemoryDisk) {
    let meta = Meta::new(
        DeviceId::from_bytes([number; 32]),
        Some(FolderId::from_bytes([1; 16])),
        IndexId(u64::from(number)),
    );
    let disk = MemoryDisk::default();
    let mut engine = Engine::new(disk.clone(), MemoryIndex::new(meta)).unwrap();
    engine.keep_deltas_from(20_000);
    engine.scan().unwrap();
    (engine, disk)
}

/// Lets the two talk until neither has anything to say.
fn talk(one: &mut Memory, other: &mut Memory) -> Result<(), StoreError> {
    loop {
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
        let ((mut holder, writer), (mut follower, disk)) = (replica(1), replica(2));
        holder.hold(1).unwrap();
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
    at_every_step(Pair::new, commits, |pair, survives| {
        let disk = pair.disk.clone();
        let mut follower = pair.restart(survives);
        assert_eq!(disk.files()[&app()], version(0));
        assert_eq!(follower.materialise(None).unwrap(), 0, "nothing of it is missing");
        let shown = disk.files().remove(&app()).unwrap();
        let newest = (acked.get()..=VERSIONS).find(|number| version(*number) == shown);
        assert!(newest.is_some(), "version {} was acknowledged", acked.get());
    });
}

#[test]
fn what_becomes_visible_is_whole_whenever_the_power_fails() {
    let behind = || {
        let mut pair = Pair::new();
        assert!((1..=VERSIONS).all(|number| pair.commit(number)));
        pair
    };
    let show = |pair: &mut Pair| {
        let shown = pair.follower.materialise(None);
        assert!(shown.is_ok() || pair.disk.is_dead(), "{shown:?}");
    };
    at_every_step(behind, show, |pair, survives| {
        let disk = pair.disk.clone();
        let mut follower = pair.restart(survives);
        let shown = disk.files().remove(&app()).unwrap();
        assert!([0, VERSIONS].iter().any(|number| version(*number) == shown), "all of it, or nothing");
        assert_eq!(follower.materialise(None).unwrap(), 0);
        assert_eq!(disk.files()[&app()], version(VERSIONS));
        assert_eq!(disk.logged_blocks(), 0, "no log is left");
    });
}
