//! Replicas in memory that meet, message by message: what holds in between, and not only at the end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use syncfs::chunk::content_of;
use syncfs::cutting::Mark;
use syncfs::device::{DeviceId, FolderId, IndexId};
use syncfs::disk::{Change, FileKind, MemoryDisk};
use syncfs::engine::{EVENTS_MAX, Engine, Input, PENDING_MAX, SILENCE_MAX_MS, SessionId};
use syncfs::fence::Tenure;
use syncfs::index::{Index, MemoryIndex, Meta};
use syncfs::record::{Attributes, Chunk, Content, Kind, Record, VersionVector, next_life};
use syncfs::wire::{Message, Numbered, RECORDS_MAX, VERSION};
use syncfs::{Blob, ContentHash, RelPath, Violation};

type Memory = Engine<MemoryDisk, MemoryIndex>;

struct Replica {
    engine: Memory,
    disk: MemoryDisk,
}

impl Replica {
    fn new(number: u8) -> Self {
        let (device, folder) = (DeviceId::from_bytes([number; 32]), FolderId::from_bytes([1; 16]));
        let meta = Meta::new(device, Some(folder), IndexId(number.into()));
        Self::of(MemoryDisk::default(), MemoryIndex::new(meta))
    }

    fn of(disk: MemoryDisk, index: MemoryIndex) -> Self {
        let mut engine = Engine::new(disk.clone(), index).unwrap();
        engine.scan().unwrap();
        Self { engine, disk }
    }

    fn write(&mut self, path: &str) {
        self.write_text(path, path);
    }

    fn write_text(&mut self, path: &str, text: &str) {
        assert!(self.disk.user_write(&rel(path), text.as_bytes(), false));
        self.engine.scan().unwrap();
    }

    /// Another one that goes on from here, as from a backup.
    fn copy(&self) -> Self {
        Self::of(self.disk.copy(), self.engine.index().clone())
    }

    fn has(&self, path: &str) -> bool {
        self.disk.node(&rel(path)).is_some()
    }
}

fn rel(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

/// Connects two replicas until nobody has anything to say, or this is so. Whether it came to be so.
fn meet(a: &mut Replica, b: &mut Replica, until: impl Fn(&Replica, &Replica) -> bool) -> bool {
    let session = SessionId(1);
    for end in [&mut *a, &mut *b] {
        end.engine.handle(0, Input::Opened { session, expect: None }).unwrap();
    }
    let (mut quiet, mut to_b) = (0, true);
    while quiet < 4 && !until(a, b) {
        let (from, to) = if to_b { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
        to_b = !to_b;
        quiet += 1;
        if let Some(message) = from.engine.poll(session).unwrap() {
            to.engine.handle(0, Input::Received { session, message }).unwrap();
            quiet = 0;
        }
        if until(a, b) {
            break;
        }
        for end in [&mut *a, &mut *b] {
            while end.engine.work().unwrap() {}
            end.engine.settle().unwrap();
        }
    }
    for end in [&mut *a, &mut *b] {
        end.engine.handle(0, Input::Closed { session }).unwrap();
    }
    quiet < 4
}

fn meet_for_good(a: &mut Replica, b: &mut Replica) {
    meet(a, b, |_, _| false);
    assert_eq!(a.engine.digest().unwrap(), b.engine.digest().unwrap());
}

#[test]
fn what_goes_away_before_a_peer_has_told_everything_was_not_deleted() {
    let (mut a, mut b) = (Replica::new(1), Replica::new(2));
    a.write("old");
    b.write("of b");
    meet_for_good(&mut a, &mut b);
    let mut backup = a.copy();
    a.write("forgotten");
    meet_for_good(&mut a, &mut b);
    assert!(meet(&mut backup, &mut b, |backup, _| backup.engine.meta().rejoining), "it is noticed");
    for path in ["old", "of b"] {
        assert!(backup.disk.user_remove(&rel(path)));
    }
    backup.engine.scan().unwrap();
    meet_for_good(&mut backup, &mut b);
    for path in ["old", "of b", "forgotten"] {
        assert!(backup.has(path) && b.has(path), "{path} is gone");
    }
}

/// A replica's key came back without its index, and the counters of its new life begin, by chance, behind those of the old one. Whoever
/// has seen those of the new one must not pass for one who has seen the old ones.
#[test]
fn a_replica_made_anew_under_its_old_key_does_not_claim_what_it_never_saw() {
    for base in [next_life(0, 0), next_life(0, 1) + 5] {
        let (mut a, mut b, mut c) = (Replica::new(1), Replica::new(2), Replica::new(3));
        (0..4).for_each(|number| a.write(&format!("old {number}")));
        meet_for_good(&mut a, &mut b);
        let meta = Meta { index: IndexId(9), sequence: base, base, ..Replica::new(1).engine.meta().clone() };
        let mut anew = Replica::of(MemoryDisk::default(), MemoryIndex::new(meta));
        anew.write("new");
        // As from a backup, but deleted since: it is not to come back.
        anew.write("old 1");
        assert!(b.disk.user_remove(&rel("old 1")));
        b.engine.scan().unwrap();
        // It is told, and rejoins, before it has told that of which it cannot know that it was deleted.
        meet(&mut b, &mut anew, |_, _| false);
        meet_for_good(&mut b, &mut anew);
        meet_for_good(&mut anew, &mut c);
        meet_for_good(&mut c, &mut b);
        for path in ["old 0", "old 3", "new"] {
            assert!([&anew, &b, &c].iter().all(|replica| replica.has(path)), "{base}: {path} is gone");
        }
        assert!(
            ![&anew, &b, &c].iter().any(|replica| replica.has("old 1")),
            "{base}: a deleted file is back"
        );
    }
}

#[test]
fn what_is_written_after_a_backup_is_new_to_whoever_saw_more_of_what_was_forgotten() {
    let (mut a, mut b, mut c) = (Replica::new(1), Replica::new(2), Replica::new(3));
    a.write("old");
    meet_for_good(&mut a, &mut b);
    meet_for_good(&mut a, &mut c);
    let mut backup = a.copy();
    a.write("forgotten");
    meet_for_good(&mut a, &mut b);
    (0..30).for_each(|number| a.write(&format!("forgotten {number}")));
    meet_for_good(&mut a, &mut c);
    // Under counters of which only c knows that they were given out.
    meet_for_good(&mut backup, &mut b);
    (0..60).for_each(|number| backup.write(&format!("new {number}")));
    // Those that do not know it hear of it, whomever they meet first.
    meet_for_good(&mut backup, &mut b);
    meet_for_good(&mut b, &mut c);
    meet_for_good(&mut backup, &mut c);
    for path in ["old", "forgotten", "forgotten 29", "new 0", "new 59"] {
        assert!([&backup, &b, &c].iter().all(|replica| replica.has(path)), "{path} is gone");
    }
}

/// Each time it meets first who knows of half of the lives after the restores before, and then who knows of all.
#[test]
fn a_backup_that_is_restored_again_and_again_gives_no_counter_out_twice() {
    let (mut a, mut c) = (Replica::new(1), Replica::new(2));
    let mut halves = [3, 4].map(Replica::new);
    a.write("old");
    meet_for_good(&mut a, &mut c);
    let backup = a.copy();
    a.write("forgotten");
    halves.iter_mut().for_each(|half| meet_for_good(&mut a, half));
    let mut given = BTreeSet::new();
    for restore in 0..8 {
        let mut restored = backup.copy();
        meet_for_good(&mut restored, &mut halves[restore % 2]);
        restored.write_text("same", &format!("text of {restore}"));
        assert!(given.insert(restored.engine.meta().sequence), "restore {restore}");
        meet_for_good(&mut restored, &mut c);
        for replica in [&restored, &c] {
            assert!(replica.has("forgotten"), "restore {restore}");
            let texts: Vec<_> = replica.disk.files().into_values().collect();
            for text in (0..=restore).map(|restore| format!("text of {restore}").into_bytes()) {
                assert!(texts.contains(&text), "restore {restore}: {} is gone", text.escape_ascii());
            }
        }
    }
    halves.iter_mut().for_each(|half| meet_for_good(half, &mut c));
}

#[test]
fn a_barrier_does_not_count_a_batch_after_which_more_of_the_same_comes() {
    let (mut a, mut b) = (Replica::new(1), Replica::new(2));
    let before: Vec<_> = (0..10).map(|number| format!("before {number}")).collect();
    // Without contents: the first batch is durable before anything is fetched.
    for path in &before {
        assert!(a.disk.user_write(&rel(path), b"", false));
    }
    a.engine.scan().unwrap();
    let token = a.engine.token().unwrap();
    let peers = [b.engine.meta().device];
    // More than one batch, and what came first is told last.
    for number in 0..RECORDS_MAX {
        assert!(a.disk.user_write(&rel(&format!("then {number}")), b"", false));
    }
    a.engine.scan().unwrap();
    a.write(&before[0]);
    let holds = |a: &Replica| a.engine.lagging(&token, &peers).unwrap().is_empty();
    assert!(meet(&mut a, &mut b, |a, _| holds(a)), "the barrier holds at last");
    before.iter().for_each(|path| assert!(b.has(path), "{path} is not there"));
}

#[test]
fn events_that_nobody_takes_do_not_pile_up() {
    let mut a = Replica::new(1);
    for number in 0..=EVENTS_MAX {
        assert!(a.disk.user_write(&rel(&number.to_string()), b"", false));
    }
    a.engine.scan().unwrap();
    assert_eq!(a.engine.events().len(), EVENTS_MAX);
}

/// A peer that is nothing but what it says.
struct Said {
    session: SessionId,
    device: DeviceId,
    round: u64,
}

impl Said {
    fn hello(to: &mut Replica, number: u8) -> Self {
        let (session, device) = (SessionId(number.into()), DeviceId::from_bytes([number; 32]));
        to.engine.handle(0, Input::Opened { session, expect: None }).unwrap();
        let mut said = Self { session, device, round: 0 };
        let (folder, index, fences) = (to.engine.meta().folder, IndexId(1), Vec::new());
        let tenure = Tenure::default();
        said.say(to, Message::Hello { version: VERSION, folder, device, index, fences, tenure });
        while let Some(message) = to.engine.poll(session).unwrap() {
            if let Message::Have { round, .. } = message {
                said.round = round;
            }
        }
        said
    }

    fn say(&self, to: &mut Replica, message: Message) {
        to.engine.handle(0, Input::Received { session: self.session, message }).unwrap();
        while to.engine.work().unwrap() {}
    }

    fn offer(&self, to: &mut Replica, sequence: u64, path: &str, kind: Kind, complete: bool) {
        let mut version = to.engine.index().entry(&rel(path)).unwrap().map(|entry| entry.record.version);
        let version = version.get_or_insert_default();
        version.raise(self.device, sequence);
        let record = Record { path: rel(path), kind, version: version.clone(), by: self.device, epoch: 0 };
        let records = vec![Numbered { sequence, record }];
        let (knowledge, mark, round) = (VersionVector::default(), Mark::default(), self.round);
        self.say(to, Message::Records { round, records, through: sequence, knowledge, mark, complete });
    }

    fn offer_file(&self, to: &mut Replica, path: &str, text: &[u8]) {
        let content = Content::new(vec![Chunk { hash: ContentHash::of(text), length: text.len() as u32 }]);
        let (attributes, mtime_ns) = (Attributes::of_mode(0o644), 1);
        self.offer(to, 1, path, Kind::File { attributes, mtime_ns, content, link: None }, false);
        while let Some(message) = to.engine.poll(self.session).unwrap() {
            if let Message::Want(_) = message {
                self.say(to, Message::Chunks(vec![Blob::new(text.to_vec())]));
            }
        }
        to.engine.settle().unwrap();
    }

    /// New files after this sequence, none of which comes. Returns the last sequence.
    fn offer_batch(&self, to: &mut Replica, after: u64) -> u64 {
        let record = |sequence: u64| {
            let chunk = Chunk { hash: ContentHash::of(&sequence.to_le_bytes()), length: 8 };
            let (attributes, content) = (Attributes::of_mode(0o644), Content::new(vec![chunk]));
            let kind = Kind::File { attributes, mtime_ns: 1, content, link: None };
            let version = [(self.device, sequence)].into_iter().collect();
            let record =
                Record { path: rel(&sequence.to_string()), kind, version, by: self.device, epoch: 0 };
            Numbered { sequence, record }
        };
        let through = after + RECORDS_MAX as u64;
        let records = (after + 1..=through).map(record).collect();
        let (round, knowledge, mark) = (self.round, VersionVector::default(), Mark::default());
        self.say(to, Message::Records { round, records, through, knowledge, mark, complete: false });
        through
    }
}

#[test]
fn a_peer_is_asked_to_pause_while_too_much_of_what_it_told_is_under_way() {
    let mut a = Replica::new(1);
    let b = Said::hello(&mut a, 2);
    let (mut taken, mut told) = (0, 0);
    while told < 2 * PENDING_MAX as u64 {
        told = b.offer_batch(&mut a, told);
        while let Some(message) = a.engine.poll(b.session).unwrap() {
            if let Message::Ack { taken: now, .. } = message {
                taken = now;
            }
        }
    }
    assert!((1..=PENDING_MAX as u64).contains(&taken), "room for {taken}");
    assert!(a.engine.ended(b.session).is_none(), "what was on its way before it heard so is no offence");
}

/// A replica's numbers begin anywhere: of those before its first one nothing is to come, however much of the others is under way.
#[test]
fn what_is_acknowledged_as_durable_is_acknowledged_as_taken() {
    let mut a = Replica::new(1);
    let b = Said::hello(&mut a, 2);
    let mut told = 1000;
    while told < 1000 + PENDING_MAX as u64 {
        told = b.offer_batch(&mut a, told);
    }
    a.engine.settle().unwrap();
    let mut acks = Vec::new();
    while let Some(message) = a.engine.poll(b.session).unwrap() {
        if let Message::Ack { durable, taken, .. } = message {
            acks.push((durable, taken));
        }
    }
    assert_eq!(acks, [(1000, 1000)]);
}

/// 9. A counter that a peer has heard of is never given out again.
#[test]
fn what_a_peer_is_told_survives_a_crash() {
    let mut a = Replica::new(1);
    a.write("known");
    let b = Said::hello(&mut a, 2);
    let index = a.engine.meta().index;
    b.say(&mut a, Message::Have { round: 1, index, since: 0, full: false });
    assert!(a.disk.user_write(&rel("new"), b"new", false));
    a.engine.handle(0, Input::Touched(vec![rel("new")])).unwrap();
    let mut told = 0;
    while let Some(message) = a.engine.poll(b.session).unwrap() {
        let mut left = a.engine.index().clone();
        left.crash();
        if let Message::Records { records, .. } = message {
            told = records.iter().map(|numbered| numbered.sequence).fold(told, u64::max);
        }
        assert!(told <= left.meta().unwrap().sequence, "{told} would be given out again");
    }
    assert_eq!(told, a.engine.meta().sequence);
}

/// A session ends when its peer says nothing for long, and not because this replica did not listen.
#[test]
fn a_silent_peer_is_left_and_whoever_stood_still_accuses_nobody() {
    let mut a = Replica::new(1);
    let b = Said::hello(&mut a, 2);
    let mut now_ms = 0;
    let mut pass = |a: &mut Replica, ms: u64| {
        now_ms += ms;
        a.engine.handle(now_ms, Input::Tick).unwrap();
        a.engine.ended(b.session).cloned()
    };
    assert_eq!(pass(&mut a, 10 * SILENCE_MAX_MS), None, "it stood still");
    for _ in 1..SILENCE_MAX_MS / 5000 {
        assert_eq!(pass(&mut a, 5000), None);
    }
    assert_eq!(pass(&mut a, 5000), Some(Violation::Silent(SILENCE_MAX_MS / 1000)));
}

/// A deletion and something new in it come from different peers (databases, seed 40464).
#[test]
fn a_directory_stays_for_what_is_to_stand_in_it() {
    let mut a = Replica::new(1);
    let dir = Kind::Dir { attributes: Attributes::of_mode(0o755) };
    assert!(a.disk.user_make(&rel("g"), FileKind::Dir, b""));
    a.write("g/d");
    let [b, c] = [2, 3].map(|number| Said::hello(&mut a, number));
    c.offer(&mut a, 1, "g/d/x", dir, true);
    a.engine.settle().unwrap();
    assert!(!a.has("g/d/x"), "nothing can stand in a file");
    a.disk.take_changes();
    b.offer(&mut a, 1, "g/d", Kind::Deleted, false);
    b.offer(&mut a, 2, "g", Kind::Deleted, true);
    a.engine.settle().unwrap();
    assert!(a.has("g/d/x"));
    let went = |change: &Change| change.place.1 == b"g" && change.after.is_none();
    assert!(!a.disk.take_changes().iter().any(went), "a directory was gone for a moment");
}

/// A directory came with what is in it, and its own version was yet to come (databases, seed 105438). A holder waits for nobody's.
#[test]
fn a_holder_gives_a_directory_that_came_without_a_version_one_of_its_own() {
    let mut a = Replica::new(1);
    a.write("its own");
    let b = Said::hello(&mut a, 2);
    let dir = Kind::Dir { attributes: Attributes::of_mode(0o755) };
    b.offer(&mut a, 1, "g/d", dir, false);
    a.engine.settle().unwrap();
    let known = |a: &Replica, path: &str| a.engine.index().entry(&rel(path)).unwrap().is_some();
    assert!(a.has("g/d") && !known(&a, "g"));
    a.engine.hold(1).unwrap();
    let unsettled = a.engine.unsettled();
    a.engine.handle(0, Input::Touched(unsettled)).unwrap();
    assert!(known(&a, "g"));
}

#[test]
fn two_versions_that_wait_for_their_directory_are_not_taken_for_each_other() {
    let mut a = Replica::new(1);
    a.write("d");
    let [b, c] = [2, 3].map(|number| Said::hello(&mut a, number));
    // Nothing can stand in a file: both wait, and there is one stage for them.
    b.offer_file(&mut a, "d/x", b"of b");
    c.offer_file(&mut a, "d/x", b"of c, and longer");
    for peer in [&b, &c] {
        let dir = Kind::Dir { attributes: Attributes::of_mode(0o755) };
        peer.offer(&mut a, 2, "d", dir, true);
        for _ in 0..4 {
            a.engine.settle().unwrap();
            while a.engine.work().unwrap() {}
            while let Some(message) = a.engine.poll(peer.session).unwrap() {
                if let Message::Want(wants) = message {
                    let text = if peer.session == b.session { &b"of b"[..] } else { b"of c, and longer" };
                    assert_eq!(wants[0].hash, ContentHash::of(text));
                    peer.say(&mut a, Message::Chunks(vec![Blob::new(text.to_vec())]));
                }
            }
        }
    }
    for entry in a.engine.index().page(None, 100).unwrap() {
        let stands = a.disk.node(&entry.record.path).expect("it stands there");
        let content = entry.record.kind.content().map(Content::root);
        assert_eq!(content.is_none(), stands.kind == FileKind::Dir);
        assert!(content.is_none_or(|root| root == content_of(&stands.data).root()), "{}", entry.record.path);
    }
    let texts: Vec<_> = a.disk.files().into_values().collect();
    assert!([&b"of b"[..], b"of c, and longer"].iter().all(|text| texts.iter().any(|other| other == text)));
}
