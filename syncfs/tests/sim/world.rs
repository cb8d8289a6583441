//! A few replicas, their users, the streams between them, and everything that goes wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use syncfs::chunk::SQLITE_MAGIC;
use syncfs::cutting::CutState;
use syncfs::device::{DeviceId, FolderId, IndexId};
use syncfs::disk::{Abilities, Fault, FileKind, MemoryDisk};
use syncfs::engine::{Engine, Input, SessionId};

use syncfs::fence::Fences;
use syncfs::index::{Index, MemoryIndex, Meta};
use syncfs::record::VersionVector;
use syncfs::wire::{Message, decode, encode};
use syncfs::{ContentHash, RelPath, Role, StoreError, Token};

use crate::index::SimIndex;
use crate::rng::Rng;

pub(crate) type SimEngine = Engine<MemoryDisk, SimIndex>;

pub(crate) struct Replica {
    pub(crate) engine: Option<SimEngine>,
    pub(crate) disk: MemoryDisk,
    /// The index file while the power is off.
    index: Option<SimIndex>,
    pub(crate) device: DeviceId,
}

/// One stream between two replicas.
struct Link {
    ends: [(usize, SessionId); 2],
    /// Bytes on their way to each end.
    queues: [VecDeque<Vec<u8>>; 2],
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) replicas: Vec<Replica>,
    links: Vec<Link>,
    next_session: u64,
    pub(crate) now_ms: u64,
    next_text: u64,
    /// Every content that a user wrote.
    pub(crate) written: BTreeSet<Vec<u8>>,
    /// Contents that a scan has taken up.
    pub(crate) observed: BTreeSet<Vec<u8>>,
    /// Contents that a user overwrote or deleted, having them before their eyes.
    pub(crate) superseded: BTreeSet<Vec<u8>>,
    /// Contents that a user moved: until both ends were looked at, they are deleted here and not yet new there.
    moved: BTreeSet<Vec<u8>>,
    /// Contents that a crash took before anybody had looked at them.
    pub(crate) excused: BTreeSet<Vec<u8>>,
    /// Contents that a replica had as what is visible and a delta, when a user changed what is visible.
    undermined: BTreeSet<Vec<u8>>,
    /// Contents of a stale tail.
    pub(crate) stale: BTreeSet<Vec<u8>>,
    barriers: Vec<(usize, Token, BTreeSet<Vec<u8>>)>,
    pub(crate) barriers_held: u64,
    pub(crate) epoch: u64,
    trace: blake3::Hasher,
    pub(crate) crashes: u64,
    /// Whether most that is written are databases.
    pub(crate) databases: bool,
    /// Messages about a move.
    pub(crate) moves: u64,
    /// Blocks seen in delta logs.
    pub(crate) deltas: u64,
}

const PATHS: [&str; 9] = ["a", "b", "c.txt", "d", "d/a", "d/b", "d/e", "d/e/a", "f"];
/// What is written here are databases, of which a replica keeps deltas.
const DATABASE: &str = "app.db";

impl World {
    pub(crate) fn new(seed: u64, replicas: usize) -> Self {
        let founded = FolderId::from_bytes([1; 16]);
        let replicas = (0..replicas).map(|number| {
            let device = DeviceId::from_bytes([number as u8 + 1; 32]);
            let meta = Meta {
                device,
                folder: Some(founded),
                index: IndexId(number as u64 + 100),
                sequence: 0,
                base: 0,
                knowledge: VersionVector::default(),
                fences: Fences::default(),
                role: Role::Shared,
                asides: 0,
                cuts: CutState::default(),
                rejoining: false,
            };
            // Root, or not; extended attributes, or not: all four together.
            let able =
                Abilities { is_root: number % 2 == 0, has_xattrs: number % 4 < 2, ..Abilities::default() };
            let disk = MemoryDisk::new(able);
            let index = SimIndex(MemoryIndex::new(meta), disk.clone());
            let engine = Some(open(disk.clone(), index));
            Replica { engine, disk, index: None, device }
        });
        Self {
            rng: Rng::new(seed),
            replicas: replicas.collect(),
            links: Vec::new(),
            next_session: 0,
            now_ms: 0,
            next_text: 0,
            written: BTreeSet::new(),
            observed: BTreeSet::new(),
            superseded: BTreeSet::new(),
            moved: BTreeSet::new(),
            excused: BTreeSet::new(),
            undermined: BTreeSet::new(),
            stale: BTreeSet::new(),
            barriers: Vec::new(),
            barriers_held: 0,
            epoch: 0,
            trace: blake3::Hasher::new(),
            crashes: 0,
            databases: false,
            moves: 0,
            deltas: 0,
        }
    }

    pub(crate) fn trace(&self) -> ContentHash {
        ContentHash::from_bytes(*self.trace.finalize().as_bytes())
    }

    fn any(&mut self) -> usize {
        self.rng.below(self.replicas.len() as u64) as usize
    }

    /// One random event.
    pub(crate) fn step(&mut self, faults: bool, leases: bool) {
        self.now_ms += self.rng.below(20);

        match self.rng.below(100) {
            0..15 => self.user_act(),
            15..25 => {
                let replica = self.any();
                self.scan(replica);
            }
            25..35 => {
                let replica = self.any();
                self.drive(replica);
            }
            35..80 => self.move_message(),
            80..85 => self.connect(),
            85..88 if faults => self.cut_a_link(),
            88..90 if faults => {
                let replica = self.any();
                self.replicas[replica].disk.fail(1 + self.rng.below(12), Fault::Power);
            }
            90..92 if leases => {
                let replica = self.any();
                self.take_lease(replica);
            }
            92..95 => {
                let replica = self.any();
                self.flush(replica);
            }
            95 => {
                let replica = self.any();
                self.run(replica, |engine| engine.materialise().map(drop));
            }
            _ => self.check_barriers(),
        }
    }

    /// Runs something on a replica; a power cut ends it and starts it again.
    fn run<T>(
        &mut self,
        replica: usize,
        act: impl FnOnce(&mut SimEngine) -> Result<T, StoreError>,
    ) -> Option<T> {
        let engine = self.replicas[replica].engine.as_mut()?;
        match act(engine) {
            Ok(value) => Some(value),
            Err(error) => {
                assert!(self.replicas[replica].disk.is_dead(), "replica {replica}: {error}");
                self.restart(replica);
                None
            }
        }
    }

    fn restart(&mut self, replica: usize) {
        self.crashes += 1;
        self.links.retain(|link| link.ends.iter().all(|(end, _)| *end != replica));
        for other in 0..self.replicas.len() {
            self.close_dangling(other);
        }
        let slot = &mut self.replicas[replica];
        let (_, mut index) = slot.engine.take().map(Engine::into_parts).unwrap();
        let before = present(&slot.disk);
        let logged = slot.disk.durably_logged();
        for torn in slot.disk.crash(&mut |bound| self.rng.below(bound)) {
            assert!(!torn.published, "{} became visible before its bytes were durable", torn.path);
            if torn.path.as_bytes() == DATABASE.as_bytes() {
                self.undermined.extend(logged.clone());
            }
            // A user's, who must not expect anything else.
            self.superseded.insert(torn.data.clone());
            self.written.insert(torn.data);
        }
        index.0.crash();
        let after = present(&slot.disk);
        let lost = before.difference(&after).filter(|text| !self.observed.contains(*text)).cloned();
        self.excused.extend(lost);
        slot.index = Some(index);
        slot.engine = Some(open(slot.disk.clone(), slot.index.take().unwrap()));
        self.scan(replica);
    }

    fn close_dangling(&mut self, replica: usize) {
        let open: BTreeSet<_> = self
            .links
            .iter()
            .flat_map(|link| link.ends)
            .filter(|end| end.0 == replica)
            .map(|end| end.1)
            .collect();
        for session in 1..=self.next_session {
            if !open.contains(&SessionId(session))
                && let Some(engine) = self.replicas[replica].engine.as_mut()
            {
                let closed = engine.handle(self.now_ms, Input::Closed { session: SessionId(session) });
                assert!(closed.is_ok());
            }
        }
    }

    fn user_act(&mut self) {
        let replica = self.any();
        let mut path = RelPath::new(PATHS[self.rng.below(PATHS.len() as u64) as usize]).unwrap();
        let act = self.rng.below(100);
        if self.databases && self.epoch == 0 && self.rng.chance(20) {
            path = RelPath::new(DATABASE).unwrap();
        }
        let other = RelPath::new(PATHS[self.rng.below(PATHS.len() as u64) as usize]).unwrap();
        let disk = self.replicas[replica].disk.clone();
        let (before, logged) = (disk.files(), disk.durably_logged());
        let mut renamed = Vec::new();
        match act {
            0..60 => {
                self.next_text += 1;
                let mut text = format!("{replica}:{}:", self.next_text).into_bytes();
                let bulk = if act < 4 { 150_000 } else { 0 };
                text.resize(text.len() + bulk, self.next_text as u8);
                if path.as_bytes() == DATABASE.as_bytes() {
                    text = database(&text, &mut self.rng);
                }
                if disk.user_write(&path, &text, act.is_multiple_of(2)) {
                    self.written.insert(text);
                }
            }
            60..75 => drop(disk.user_make(&path, FileKind::Dir, b"")),
            75..84 => drop(disk.user_remove(&path)),
            84..88 => {
                if before.contains_key(&path) && disk.user_rename(&path, &other) {
                    self.moved.extend(before.get(&path).cloned());
                    renamed = vec![path, other];
                }
            }
            88..97 => {
                let below = |name: &RelPath| *name == path || name.is_below(&path);
                if !before.contains_key(&other) && disk.user_rename(&path, &other) {
                    self.moved
                        .extend(before.iter().filter(|(name, _)| below(name)).map(|(_, text)| text.clone()));
                    renamed = vec![path, other];
                }
            }
            _ => {
                disk.user_attributes(&path, |given| given.mode = if act == 97 { 0o755 } else { 0o700 });
            }
        }
        let after = disk.files();
        let database = RelPath::new(DATABASE).unwrap();
        if before.get(&database) != after.get(&database) {
            self.undermined.extend(logged);
        }
        let everywhere: BTreeSet<_> = after.values().collect();
        // A text that was moved may still stand at its old place elsewhere: there it is not what a user keeps.
        let gone = before.into_iter().filter(|(name, text)| {
            let here = after.get(name) == Some(text) || !renamed.is_empty();
            !everywhere.contains(text) || !here && self.moved.contains(text)
        });
        self.superseded.extend(gone.map(|(_, text)| text));
        let now_ms = self.now_ms;
        if self.rng.chance(80) {
            // As the watcher reports it.
            self.run(replica, |engine| engine.handle(now_ms, Input::Touched(renamed)));
        }
    }

    /// A rename in a moment when everybody has the same, so that it can be told in short; then perhaps a power cut.
    pub(crate) fn move_in_quiet(&mut self, faults: bool) {
        self.calm();
        let replica = self.any();
        let [from, to] =
            [(); 2].map(|()| RelPath::new(PATHS[self.rng.below(PATHS.len() as u64) as usize]).unwrap());
        let disk = self.replicas[replica].disk.clone();
        let before = disk.files();
        if before.contains_key(&to) || !disk.user_rename(&from, &to) {
            return;
        }
        let below = |name: &RelPath| *name == from || name.is_below(&from);
        self.moved.extend(before.into_iter().filter(|(name, _)| below(name)).map(|(_, text)| text));
        if faults && self.rng.chance(50) {
            let victim = self.any();
            self.replicas[victim].disk.fail(1 + self.rng.below(8), Fault::Power);
        }
        if self.rng.chance(20) {
            // Somebody uses the old place, or an old file at the other end, meanwhile.
            self.user_act();
        }
        let now_ms = self.now_ms;
        self.run(replica, |engine| engine.handle(now_ms, Input::Touched(vec![from, to])));
        for _ in 0..40 {
            self.move_message();
        }
    }

    /// An application on the holder, or the first replica, commits a few times; the others follow as far as they get.
    pub(crate) fn write_database(&mut self) {
        let path = RelPath::new(DATABASE).unwrap();
        let role = |replica: &Replica| replica.engine.as_ref().unwrap().meta().role;
        let writer = match self.replicas.iter().position(|replica| role(replica) == Role::Holder) {
            Some(holder) => holder,
            None if self.epoch == 0 => 0,
            None => return,
        };
        for _ in 0..1 + self.rng.below(4) {
            self.next_text += 1;
            let text = database(format!("{writer}:{}:", self.next_text).as_bytes(), &mut self.rng);
            let disk = self.replicas[writer].disk.clone();
            let before = disk.files().remove(&path);
            let logged = disk.durably_logged();
            if !disk.user_write(&path, &text, self.rng.chance(80)) {
                return;
            }
            self.written.insert(text);
            self.superseded.extend(before);
            self.undermined.extend(logged);
            self.scan(writer);
            for round in 0..120 {
                self.connect();
                self.move_message();
                if round % 4 == 0 {
                    let replica = self.any();
                    self.drive(replica);
                }
            }
        }
        self.deltas += self.replicas.iter().map(|replica| replica.disk.logged_blocks() as u64).sum::<u64>();
    }

    pub(crate) fn scan(&mut self, replica: usize) {
        if self.run(replica, |engine| engine.scan().map(drop)).is_some() {
            self.note_observed(replica);
        }
    }

    fn note_observed(&mut self, replica: usize) {
        let texts: Vec<_> = self.replicas[replica].disk.files().into_values().collect();
        let engine = self.replicas[replica].engine.as_ref().unwrap();
        for text in texts {
            if self.written.contains(&text)
                && self.observed.insert(text.clone())
                && engine.meta().fences.epoch() < self.epoch
            {
                self.stale.insert(text);
            }
        }
    }

    pub(crate) fn drive(&mut self, replica: usize) {
        let rounds = 1 + self.rng.below(4);
        for _ in 0..rounds {
            self.run(replica, |engine| engine.work().map(drop));
        }
        self.run(replica, |engine| engine.settle());
    }

    pub(crate) fn connect(&mut self) {
        let (a, b) = (self.any(), self.any());
        // A second stream between the same two is fine, too.
        if a != b && self.links.len() < 6 {
            self.next_session += 1;
            let session = SessionId(self.next_session);
            let opened = [a, b].map(|end| {
                let now_ms = self.now_ms;
                self.run(end, |engine| engine.handle(now_ms, Input::Opened { session, expect: None }))
                    .is_some()
            });
            if opened == [true, true] {
                self.links.push(Link { ends: [(a, session), (b, session)], queues: Default::default() });
            }
        }
    }

    pub(crate) fn cut_a_link(&mut self) {
        if !self.links.is_empty() {
            let link = self.links.remove(self.rng.below(self.links.len() as u64) as usize);
            for (replica, session) in link.ends {
                let now_ms = self.now_ms;
                self.run(replica, |engine| engine.handle(now_ms, Input::Closed { session }));
            }
        }
    }

    /// Takes a message from a replica into a stream, or from a stream into a replica.
    pub(crate) fn move_message(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let number = self.rng.below(self.links.len() as u64) as usize;
        let side = self.rng.below(2) as usize;
        let (replica, session) = self.links[number].ends[side];
        if self.rng.chance(50) && self.links[number].queues[1 - side].len() < 8 {
            let polled = self.run(replica, |engine| engine.poll(session));
            if let Some(Some(message)) = polled {
                let bytes = encode(&message);
                self.trace.update(&bytes);
                self.links[number].queues[1 - side].push_back(bytes);
            } else if polled.is_some() {
                let engine = self.replicas[replica].engine.as_ref().unwrap();
                if let Some(violation) = engine.ended(session) {
                    panic!("replica {replica} objects to an honest peer: {violation}");
                }
            }
        } else if let Some(bytes) = self.links[number].queues[side].pop_front() {
            let message: Message = decode(&bytes).expect("what one replica encodes another decodes");
            self.moves += u64::from(matches!(message, Message::Moved { .. }));
            let now_ms = self.now_ms;
            self.run(replica, |engine| engine.handle(now_ms, Input::Received { session, message }));
        }
    }

    fn take_lease(&mut self, replica: usize) {
        let next = self.epoch + 1;
        let held = self.run(replica, |engine| match engine.hold(next) {
            Ok(()) => Ok(true),
            Err(syncfs::FenceError::Store(error)) => Err(error),
            Err(_) => Ok(false),
        });
        if held != Some(true) {
            // A lease whose holder's power fails may have begun.
            let seen =
                self.replicas[replica].engine.as_ref().map_or(0, |engine| engine.meta().fences.epoch());
            if seen < next {
                return;
            }
        }
        self.epoch = next;
        self.note_observed(replica);
        // Whatever the new holder does not have is a stale tail from now on; what it has is not, whatever was before.
        let engine = self.replicas[replica].engine.as_ref().unwrap();
        let mut known = BTreeSet::new();
        let mut after = None;
        loop {
            let page = engine.index().page(after.as_ref(), 100).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.record.path.clone());
            known.extend(
                page.iter().filter_map(|entry| entry.record.kind.content().map(|content| content.root())),
            );
        }
        let root = |text: &Vec<u8>| syncfs::chunk::content_of(text).root();
        let tail = self
            .observed
            .iter()
            .filter(|text| !known.contains(&root(text)) && !self.superseded.contains(*text));
        let tail: Vec<_> = tail.cloned().collect();
        self.stale.retain(|text| !known.contains(&root(text)));
        self.stale.extend(tail);
    }

    fn flush(&mut self, replica: usize) {
        self.scan(replica);
        let Some(engine) = self.replicas[replica].engine.as_ref() else { return };
        let Some(token) = engine.token() else { return };
        let texts = self.replicas[replica].disk.files().into_values().collect();
        self.barriers.push((replica, token, texts));
        if self.barriers.len() > 4 {
            self.barriers.remove(0);
        }
    }

    /// A barrier that holds means: the peer would still have it all after a power cut right now.
    fn check_barriers(&mut self) {
        for (writer, token, texts) in std::mem::take(&mut self.barriers) {
            for peer in (0..self.replicas.len()).filter(|peer| *peer != writer) {
                let device = self.replicas[peer].device;
                let Some(engine) = self.replicas[writer].engine.as_ref() else { continue };
                if engine.lagging(&token, &[device]).is_ok_and(|lags| lags.is_empty()) {
                    self.barriers_held += 1;
                    let durable = self.replicas[peer].disk.durable();
                    let everywhere: BTreeSet<_> =
                        self.replicas.iter().flat_map(|replica| replica.disk.durable()).collect();
                    for text in texts.iter().filter(|text| self.written.contains(*text)) {
                        // A version that lost a conflict elsewhere reaches the peer as a copy, later.
                        let lost = self.is_conflict_copy(text) || self.moved.contains(text);
                        let lost = lost || self.undermined.contains(text);
                        let gone = self.superseded.contains(text) || self.stale.contains(text) || lost;
                        assert!(
                            durable.contains(text) || gone || self.is_aside(text),
                            "replica {peer} acknowledged {:?} but does not have it durably (elsewhere: {})",
                            String::from_utf8_lossy(&text[..text.len().min(12)]),
                            everywhere.contains(text)
                        );
                    }
                }
            }
            self.barriers.push((writer, token, texts));
        }
        self.barriers.truncate(4);
    }

    fn is_conflict_copy(&self, text: &Vec<u8>) -> bool {
        let is_copy = |name: &RelPath| name.as_bytes().windows(10).any(|part| part == b".conflict-");
        let mut files = self.replicas.iter().flat_map(|replica| replica.disk.files());
        files.any(|(name, kept)| kept == *text && is_copy(&name))
    }

    fn is_aside(&self, text: &Vec<u8>) -> bool {
        self.replicas.iter().any(|replica| replica.disk.kept().contains(text))
    }

    /// No more faults: everybody connects to everybody and does all there is to do.
    pub(crate) fn calm(&mut self) {
        self.replicas.iter().for_each(|replica| replica.disk.heal());
        while !self.links.is_empty() {
            self.cut_a_link();
        }
        for a in 0..self.replicas.len() {
            self.scan(a);
            for b in 0..a {
                self.next_session += 1;
                let session = SessionId(self.next_session);
                for end in [a, b] {
                    let now_ms = self.now_ms;
                    self.run(end, |engine| engine.handle(now_ms, Input::Opened { session, expect: None }));
                }
                self.links.push(Link { ends: [(a, session), (b, session)], queues: Default::default() });
            }
        }
        self.run_dry();
        // Every version is durable everywhere; now it is to be seen, too.
        for replica in 0..self.replicas.len() {
            self.run(replica, |engine| engine.materialise().map(drop));
        }
        self.run_dry();
    }

    /// Until nobody has anything to say.
    pub(crate) fn run_dry(&mut self) {
        for round in 0.. {
            assert!(round < 2000, "the replicas do not come to rest");
            let mut moved = false;
            for number in 0..self.links.len() {
                for side in 0..2 {
                    let (replica, session) = self.links[number].ends[side];
                    while let Some(Some(message)) = self.run(replica, |engine| engine.poll(session)) {
                        let bytes = encode(&message);
                        self.trace.update(&bytes);
                        self.links[number].queues[1 - side].push_back(bytes);
                        moved = true;
                    }
                    let engine = self.replicas[replica].engine.as_ref().unwrap();
                    assert_eq!(engine.ended(session), None, "an honest peer is objected to");
                    while let Some(bytes) = self.links[number].queues[side].pop_front() {
                        let message: Message = decode(&bytes).unwrap();
                        self.moves += u64::from(matches!(message, Message::Moved { .. }));
                        let now_ms = self.now_ms;
                        self.run(replica, |engine| {
                            engine.handle(now_ms, Input::Received { session, message })
                        });
                        moved = true;
                    }
                }
            }
            for replica in 0..self.replicas.len() {
                let unsettled = self.replicas[replica].engine.as_mut().unwrap().unsettled();
                let now_ms = self.now_ms;
                moved |= !unsettled.is_empty();
                self.run(replica, |engine| engine.handle(now_ms, Input::Touched(unsettled)));
                self.run(replica, |engine| engine.work().map(drop));
                self.run(replica, |engine| engine.settle());
                moved |= self.replicas[replica].engine.as_ref().unwrap().is_busy();
            }

            if !moved {
                return;
            }
        }
    }

    /// Files of every replica by path.
    pub(crate) fn trees(&self) -> Vec<BTreeMap<RelPath, Vec<u8>>> {
        self.replicas.iter().map(|replica| replica.disk.files()).collect()
    }

    pub(crate) fn asides(&self) -> BTreeSet<Vec<u8>> {
        self.replicas.iter().flat_map(|replica| replica.disk.kept()).collect()
    }
}

/// A database that holds a text here and there; the rest is always the same.
fn database(text: &[u8], rng: &mut Rng) -> Vec<u8> {
    let length = if rng.chance(80) { 40_000 } else { 30_000 + rng.below(20_000) as usize };
    let mut bytes = vec![7; length];
    let text = &text[..text.len().min(100)];
    let middle = rng.below(25_000) as usize;
    for at in [16, 100 + middle, length - text.len()] {
        bytes[at..at + text.len()].copy_from_slice(text);
    }
    bytes[..16].copy_from_slice(SQLITE_MAGIC);
    bytes
}

fn open(disk: MemoryDisk, index: SimIndex) -> SimEngine {
    let mut engine = Engine::new(disk, index).unwrap();
    engine.keep_deltas_from(20_000);
    engine
}

fn present(disk: &MemoryDisk) -> BTreeSet<Vec<u8>> {
    disk.files().into_values().chain(disk.kept()).collect()
}
