//! Up to eight replicas, the streams between them, and their power.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use syncfs::device::{DeviceId, FolderId, IndexId};
use syncfs::disk::{Abilities, Change, Disk, DiskError, Fault, FileKind, MemoryDisk};
use syncfs::engine::{Engine, Input, SessionId, TRY_AGAIN_MS};
use syncfs::index::{Index, MemoryIndex, Meta};
use syncfs::record::{Record, next_life};
use syncfs::wire::{Message, decode, encode};
use syncfs::{ContentHash, RelPath, Role, StoreError, Token, Violation};

use crate::index::SimIndex;
use crate::invariants::{self, Versions};
use crate::ledger::{Ledger, Taken, Text, Tree, kept, name_of, present, tree};
use crate::rng::Rng;
use crate::users::DATABASE;

pub(crate) type SimEngine = Engine<MemoryDisk, SimIndex>;

pub(crate) struct Replica {
    pub(crate) engine: Option<SimEngine>,
    pub(crate) disk: MemoryDisk,
    pub(crate) able: Abilities,
    pub(crate) taken: Taken,
    /// What programs are about to write in the middle of something, and where.
    pub(crate) edits: BTreeMap<Text, RelPath>,
    /// The index file while no engine runs.
    index: Option<SimIndex>,
    pub(crate) device: DeviceId,
}

impl Replica {
    pub(crate) fn engine(&self) -> &SimEngine {
        self.engine.as_ref().expect("the replica runs")
    }
}

/// One stream between two replicas. One end may know before the other that it ended.
struct Link {
    ends: [(usize, SessionId); 2],
    open: [bool; 2],
    /// Bytes on their way to each end.
    queues: [VecDeque<Vec<u8>>; 2],
}

/// What a seed draws for its world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Climate {
    pub(crate) replicas: usize,
    pub(crate) faults: bool,
    pub(crate) leases: bool,
    /// Renames between rounds of rest.
    pub(crate) moves: bool,
    /// A database that is written all the time, and kept as deltas.
    pub(crate) databases: bool,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) climate: Climate,
    pub(crate) replicas: Vec<Replica>,
    links: Vec<Link>,
    next_session: u64,
    pub(crate) now_ms: u64,
    /// The latest that it was when the time was set back.
    pub(crate) latest_ms: u64,
    pub(crate) ledger: Ledger,
    versions: Versions,
    barriers: Vec<(usize, Token, BTreeSet<Text>)>,
    pub(crate) epoch: u64,
    /// Where a user acted last: there, others soon do, too.
    pub(crate) busy: RelPath,
    /// Who was given the current epoch.
    pub(crate) holder: Option<usize>,
    /// From how many files on a mass deletion is held back.
    pub(crate) guard: u64,
    trace: blake3::Hasher,
    pub(crate) crashes: u64,
    /// How often what happened, by its name.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Replicas that cannot reach the others, a bit each.
    pub(crate) apart: u64,
    /// What cannot be read from the next power cut on.
    pub(crate) hides: Option<RelPath>,
    /// A replica as it was when everybody had the same.
    pub(crate) backup: Option<(usize, MemoryDisk, SimIndex)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let climate = Climate {
            replicas: 2 + [0, 0, 1, 1, 1, 2, 2, 3, 4, 6][rng.below(10) as usize],
            faults: rng.chance(75),
            leases: rng.chance(40),
            moves: rng.chance(40),
            databases: false,
        };
        Self::of(rng, climate)
    }

    pub(crate) fn of(mut rng: Rng, climate: Climate) -> Self {
        let keeps_history = rng.chance(40);
        let guard = 4 + rng.below(4);
        let replicas = (0..climate.replicas).map(|number| {
            let device = DeviceId::from_bytes([number as u8 + 1; 32]);
            let meta = Meta::new(device, Some(FolderId::from_bytes([1; 16])), IndexId(number as u64 + 100));
            // Root, or not; extended attributes, or not: all four together.
            let (is_root, has_xattrs) = (number % 2 == 0, number % 4 < 2);
            let able = Abilities { is_root, has_xattrs, keeps_history, ..Abilities::default() };
            let disk = MemoryDisk::new(able);
            let index = Some(SimIndex::new(MemoryIndex::new(meta), disk.clone()));
            let (taken, edits) = (Taken::default(), BTreeMap::new());
            Replica { engine: None, disk, able, taken, edits, index, device }
        });
        let mut world = Self {
            rng,
            climate,
            replicas: replicas.collect(),
            links: Vec::new(),
            next_session: 0,
            now_ms: 0,
            latest_ms: 0,
            ledger: Ledger::default(),
            versions: Versions::default(),
            barriers: Vec::new(),
            epoch: 0,
            busy: RelPath::new("a").unwrap(),
            holder: None,
            guard,
            trace: blake3::Hasher::new(),
            crashes: 0,
            counts: BTreeMap::new(),
            apart: 0,
            hides: None,
            backup: None,
        };
        (0..world.replicas.len()).for_each(|replica| world.start(replica));
        world
    }

    pub(crate) fn trace(&self) -> ContentHash {
        ContentHash::from_bytes(*self.trace.finalize().as_bytes())
    }

    pub(crate) fn count(&mut self, what: impl Into<String>, times: u64) {
        *self.counts.entry(what.into()).or_default() += times;
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("TRACE").is_some() {
            eprintln!("{:>8} {}", self.now_ms, what());
        }
    }

    pub(crate) fn any(&mut self) -> usize {
        self.rng.below(self.replicas.len() as u64) as usize
    }

    /// One random event.
    pub(crate) fn step(&mut self) {
        self.now_ms += self.rng.below(20);
        let Climate { faults, leases, databases, .. } = self.climate;
        match self.rng.below(100) {
            0..14 => self.user_act(),
            14..24 => {
                let replica = self.any();
                self.scan(replica);
            }
            24..36 => {
                let replica = self.any();
                self.drive(replica);
            }
            36..80 => self.move_message(),
            80..85 => self.connect(),
            85..88 if faults => self.cut_a_link(),
            88..91 if faults => self.fault(),
            91 if databases => {
                let replica = self.any();
                self.run(replica, |engine| engine.materialise(None).map(drop));
            }
            91 => self.accident(),
            92 if leases => {
                let replica = self.any();
                match self.rng.below(10) {
                    0..8 => self.take_lease(replica),
                    _ => self.hold_again(replica),
                }
            }
            93..97 => {
                let replica = self.any();
                self.flush(replica);
            }
            _ => self.check_barriers(),
        }
        for replica in &self.replicas {
            self.trace.update(&replica.disk.steps().to_le_bytes());
        }
    }

    /// Runs something on a replica, and looks at what it did. A failure ends the engine: a power cut or a failed sync
    /// starts it again, a folder that is not there waits.
    pub(crate) fn run<T>(
        &mut self,
        replica: usize,
        act: impl FnOnce(&mut SimEngine) -> Result<T, StoreError>,
    ) -> Option<T> {
        let slot = &mut self.replicas[replica];
        let engine = slot.engine.as_mut()?;
        let before = (!slot.edits.is_empty()).then(|| tree(&slot.disk));
        slot.disk.take_changes();
        let result = act(engine);
        self.look(replica, before);
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.say(|| format!("{replica} ends: {error}"));
                self.stop(replica);
                // Where it is not the power, the cause lasts.
                if self.replicas[replica].disk.is_dead() {
                    self.restart(replica);
                } else {
                    let stood = tree(&self.replicas[replica].disk).paths;
                    self.note_unfinished(replica, &stood);
                }
                None
            }
        }
    }

    /// Checks what holds at every step.
    fn look(&mut self, replica: usize, before: Option<Tree>) {
        let slot = &mut self.replicas[replica];
        let changes = slot.disk.take_changes();
        let engine = slot.engine.as_ref().expect("it just ran");
        let (after, edits) = (tree(&slot.disk), slot.edits.clone());
        tell(self.now_ms, replica, &changes, engine, &self.ledger);
        if let Some(before) = before {
            // What a program overwrote in the middle of something, it had seen.
            let kept = kept(&slot.disk);
            slot.edits.retain(|text, path| {
                let here = changes.iter().filter(|change| change.place.1 == path.name());
                let here = here.flat_map(|change| [&change.before, &change.after]).flatten();
                let mut here: Vec<_> = here.map(|(_, old)| old.clone()).collect();
                here.extend(after.texts.get(path).cloned());
                let done = here.contains(text) || kept.contains(text);
                if done {
                    // A symlink took the place of a directory, which has another name now.
                    let inside = |other: &&RelPath| *other == path || other.is_below(path);
                    let moved = before.texts.iter().filter(|(path, _)| inside(path));
                    self.ledger.touched.extend(moved.map(|(_, text)| text.clone()));
                    slot.taken.gone.extend(before.paths.iter().filter(inside).cloned());
                    here.extend(before.texts.get(path).cloned());
                    self.ledger.superseded.extend(here.into_iter().filter(|old| old != text));
                }
                !done
            });
        }
        let (entries, metas) = std::mem::take(&mut *engine.index().committed.borrow_mut());
        for (entry, deletes) in entries {
            if deletes {
                invariants::no_destruction_from_absence(slot, &entry.record.path);
            }
            self.versions.causality(&entry);
            let record = &entry.record;
            if let Some(text) = name_of(&record.kind).and_then(|name| self.ledger.written.get(&name)) {
                let is_new = self.ledger.observed.insert(text.clone());
                let own = record.by == slot.device && record.counter() == entry.sequence;
                if is_new && own && engine.meta().fences.epoch() < self.epoch {
                    self.ledger.stale.insert(text.clone());
                }
                // Where two versions met, the one that stays is written anew.
                let copied = |conflict: &syncfs::Conflict| conflict.path == record.path;
                if own && !is_new {
                    let met = engine.index().met.borrow().contains(&record.path)
                        || engine.index().conflicts().unwrap().iter().any(copied);
                    self.ledger.touched.extend(met.then(|| text.clone()));
                }
            }
            // What was seen may have been taken away since.
            if record.kind.is_live() && entry.seen.is_some() && after.paths.contains(&record.path) {
                slot.taken.gone.remove(&record.path);
                slot.taken.replaced.remove(&record.path);
            }
            if !record.kind.is_live() {
                self.ledger.deleted.extend(slot.taken.deleted.remove(&record.path));
            }
        }
        slot.taken.deleted.retain(|path, _| !after.paths.contains(path));
        for meta in &metas {
            self.versions.knowledge_grows(meta);
            self.versions.single_writer(meta);
        }
        engine.index().met.borrow_mut().clear();
        let mut came = std::mem::take(&mut *engine.index().came.borrow_mut());
        came.retain(|_| engine.is_undoing());
        invariants::atomic_visibility(&self.ledger, &changes, &edits, &came);
        invariants::no_clobber(slot, engine.index(), &changes, &self.ledger, &edits);
        assert!(slot.engine.as_mut().unwrap().events().len() <= syncfs::engine::EVENTS_MAX, "14: events");
    }

    /// The engine ends, and with it its streams.
    pub(crate) fn stop(&mut self, replica: usize) {
        let (_, mut index) = self.replicas[replica].engine.take().map(Engine::into_parts).unwrap();
        index.crash();
        self.replicas[replica].index = Some(index);
        for link in 0..self.links.len() {
            for side in 0..2 {
                if self.links[link].ends[side].0 == replica {
                    self.links[link].open[side] = false;
                    self.links[link].queues[side].clear();
                }
            }
        }
    }

    /// After a power cut or a failed sync.
    fn restart(&mut self, replica: usize) {
        let slot = &mut self.replicas[replica];
        self.crashes += 1;
        let step = slot.disk.died_at().expect("it is dead");
        if slot.disk.reopen() {
            let stood = tree(&slot.disk).paths;
            self.note_unfinished(replica, &stood);
            self.count(format!("failed sync: {step}"), 1);
            self.start(replica);
            return self.scan(replica);
        }
        *self.counts.entry(format!("power cut: {step}")).or_default() += 1;
        let (before, stood) = (present(&slot.disk), tree(&slot.disk).paths);
        let logged = slot.disk.durably_logged();
        for torn in slot.disk.crash(&mut |bound| self.rng.below(bound)) {
            assert!(!torn.published, "5: {} became visible before its bytes were durable", torn.path);
            if torn.path.as_bytes() == DATABASE.as_bytes() {
                self.ledger.undermined.extend(logged.clone());
            }
            // A user's, who must not expect anything else.
            self.ledger.wrote(torn.data.clone());
            self.ledger.superseded.insert(torn.data.clone());
            // Nothing is the text of several files, so it says nothing of a deletion.
            self.ledger.touched.insert(torn.data);
        }
        let after = present(&slot.disk);
        let lost = before.difference(&after).filter(|text| !self.ledger.observed.contains(*text)).cloned();
        self.ledger.excused.extend(lost);
        self.ledger.excused.extend(std::mem::take(&mut slot.edits).into_keys());
        slot.taken.deleted.clear();
        slot.taken.gone.append(&mut slot.taken.replaced);
        self.hides.take().iter().for_each(|path| slot.disk.set_unreadable(path, true));
        self.note_unfinished(replica, &stood);
        self.start(replica);
        self.scan(replica);
    }

    /// What a peer had deleted when the engine ended is gone without an act of a user's here. But what was giving way to
    /// another kind of entry is no deletion.
    fn note_unfinished(&mut self, replica: usize, stood: &BTreeSet<RelPath>) {
        let slot = &mut self.replicas[replica];
        let index = slot.index.as_ref().expect("the engine ended");
        let entries = index.page(None, usize::MAX).unwrap().into_iter().map(|entry| entry.record.path);
        // A plan that came true earlier may be there until a look that sees everything.
        let is_true = |record: &Record| {
            let entry = index.entry(&record.path).unwrap();
            entry.is_some_and(|entry| entry.record.version.covers(&record.version))
        };
        let plans =
            index.plans().unwrap().into_iter().filter(|record| record.kind.is_live() && !is_true(record));
        let planned: BTreeSet<_> = plans.map(|record| record.path).collect();
        let stands = tree(&slot.disk).paths;
        let gone =
            |path: &RelPath| !stood.contains(path) && !stands.contains(path) && !planned.contains(path);
        slot.taken.gone.extend(entries.filter(gone));
    }

    pub(crate) fn start(&mut self, replica: usize) {
        let slot = &mut self.replicas[replica];
        let mut index = slot.index.take().expect("the engine does not run");
        match Engine::new(slot.disk.clone(), index.clone()) {
            Ok(mut engine) => {
                engine.guard_deletions(Some(self.guard));
                engine.keep_deltas_from(20_000, 4_000);
                slot.engine = Some(engine);
            }
            Err(error) => {
                // A delta log that cannot be read now may hold the only copy: it is not given up for that.
                let is_disk =
                    matches!(error, StoreError::Disk(DiskError::Io { .. } | DiskError::Full { .. }));
                assert!(error.is_final() || is_disk, "it cannot start: {error}");
                index.crash();
                slot.index = Some(index);
                if slot.disk.is_dead() {
                    self.restart(replica);
                }
            }
        }
    }

    pub(crate) fn scan(&mut self, replica: usize) {
        self.run(replica, |engine| engine.scan().map(drop));
    }

    pub(crate) fn drive(&mut self, replica: usize) {
        if self.replicas[replica].engine.is_none() {
            // What it stumbled over may have gone.
            self.start(replica);
            return self.scan(replica);
        }
        let now_ms = self.now_ms;
        self.run(replica, |engine| engine.handle(now_ms, Input::Tick));
        let rounds = 1 + self.rng.below(4);
        for _ in 0..rounds {
            self.run(replica, |engine| engine.work().map(drop));
        }
        self.run(replica, |engine| engine.settle());
    }

    pub(crate) fn connect(&mut self) {
        let (a, b) = (self.any(), self.any());
        // A second stream between the same two is fine, too.
        let apart = (self.apart >> a ^ self.apart >> b) & 1 == 1;
        if a != b && !apart && self.links.len() < 2 * self.replicas.len() {
            self.open(a, b);
        }
    }

    pub(crate) fn open(&mut self, a: usize, b: usize) {
        self.next_session += 1;
        let session = SessionId(self.next_session);
        let open = [a, b].map(|end| {
            let now_ms = self.now_ms;
            self.run(end, |engine| engine.handle(now_ms, Input::Opened { session, expect: None })).is_some()
        });
        self.links.push(Link { ends: [(a, session), (b, session)], open, queues: Default::default() });
    }

    /// One end of a stream ends; the other still gets what is on its way, until it ends, too.
    pub(crate) fn cut_a_link(&mut self) {
        if !self.links.is_empty() {
            let link = self.rng.below(self.links.len() as u64) as usize;
            let side = self.rng.below(2) as usize;
            self.close(link, side);
            self.links.retain(|link| link.open != [false, false]);
        }
    }

    /// The network falls into two parts, or is whole again.
    pub(crate) fn part(&mut self) {
        self.apart = if self.rng.chance(60) { self.rng.below(1 << self.replicas.len()) } else { 0 };
        let apart = self.apart;
        for link in 0..self.links.len() {
            let [a, b] = self.links[link].ends.map(|(replica, _)| apart >> replica & 1);
            if a != b {
                self.links[link].queues.iter_mut().for_each(VecDeque::clear);
                (0..2).for_each(|side| self.close(link, side));
            }
        }
        self.links.retain(|link| link.open != [false, false]);
    }

    fn close(&mut self, link: usize, side: usize) {
        if std::mem::replace(&mut self.links[link].open[side], false) {
            let (replica, session) = self.links[link].ends[side];
            let now_ms = self.now_ms;
            self.run(replica, |engine| engine.handle(now_ms, Input::Closed { session }));
        }
    }

    /// Takes a message from a replica into a stream, or from a stream into a replica.
    pub(crate) fn move_message(&mut self) {
        if !self.links.is_empty() {
            let link = self.rng.below(self.links.len() as u64) as usize;
            let side = self.rng.below(2) as usize;
            if self.rng.chance(50) && self.links[link].queues[1 - side].len() < 8 {
                self.send(link, side);
            } else {
                self.deliver(link, side);
            }
            self.links.retain(|link| link.open != [false, false]);
        }
    }

    /// Whether there was something to send.
    fn send(&mut self, link: usize, side: usize) -> bool {
        let (replica, session) = self.links[link].ends[side];
        if !self.links[link].open[side] {
            return false;
        }
        match self.run(replica, |engine| engine.poll(session)) {
            Some(Some(message)) => {
                let bytes = encode(&message);
                self.trace.update(&bytes);
                if self.links[link].open[1 - side] {
                    self.links[link].queues[1 - side].push_back(bytes);
                }
                true
            }
            Some(None) => {
                match self.replicas[replica].engine().ended(session) {
                    None => {}
                    // A clock jumped, or the other end ends.
                    Some(Violation::Silent(_) | Violation::Bye(_)) => self.close(link, side),
                    Some(violation) => panic!("replica {replica} objects to an honest peer: {violation}"),
                }
                false
            }
            None => false,
        }
    }

    /// Whether there was something to deliver.
    fn deliver(&mut self, link: usize, side: usize) -> bool {
        let (replica, session) = self.links[link].ends[side];
        let Some(bytes) = self.links[link].queues[side].pop_front() else { return false };
        let message: Message = decode(&bytes).expect("what one replica encodes another decodes");
        self.count("moves", u64::from(matches!(message, Message::Moved { .. })));
        let now_ms = self.now_ms;
        self.say(|| format!("{replica} gets {message:?}"));
        self.run(replica, |engine| engine.handle(now_ms, Input::Received { session, message }));
        true
    }

    pub(crate) fn take_lease(&mut self, replica: usize) {
        let next = self.epoch + 1;
        let held = self.run(replica, |engine| match engine.hold(next) {
            Ok(()) => Ok(true),
            Err(syncfs::FenceError::Store(error)) => Err(error),
            Err(_) => Ok(false),
        });
        let Some(engine) = self.replicas[replica].engine.as_ref() else { return };
        // A lease whose holder's power fails may have begun.
        if held != Some(true) && engine.meta().fences.epoch() < next {
            return;
        }
        (self.epoch, self.holder) = (next, Some(replica));
        // Whatever the new holder does not have is a stale tail from now on; what it has is not, whatever was before.
        let entries = engine.index().page(None, usize::MAX).unwrap();
        let names = entries.iter().filter_map(|entry| name_of(&entry.record.kind));
        let known = names.filter_map(|name| self.ledger.written.get(&name)).cloned();
        // What stands there and could not be read is the holder's, too, once it can be.
        let stands = tree(&self.replicas[replica].disk).texts.into_values();
        let known: BTreeSet<_> = known.chain(stands).collect();
        self.ledger.stale.retain(|text| !known.contains(text));
        let tail = self.ledger.observed.iter().filter(|text| !known.contains(*text));
        let tail: Vec<_> = tail.filter(|text| !self.ledger.superseded.contains(*text)).cloned().collect();
        self.say(|| format!("{replica} holds {next}"));
        self.ledger.stale.extend(tail);
    }

    /// Whoever holds the current lease says so once more.
    fn hold_again(&mut self, replica: usize) {
        let epoch = self.epoch;
        if self.holder != Some(replica) {
            return;
        }
        self.run(replica, |engine| match engine.hold(epoch) {
            Err(syncfs::FenceError::Store(error)) => Err(error),
            _ => Ok(()),
        });
    }

    fn flush(&mut self, replica: usize) {
        // As `Folder::flush` does: what could not be read is in no token.
        let before = tree(&self.replicas[replica].disk);
        let whole = self.run(replica, |engine| Ok(engine.scan()?.problems.is_empty()));
        let token = self.replicas[replica].engine.as_ref().and_then(SimEngine::token);
        let Some(token) = token.filter(|_| whole == Some(true)) else { return };
        // What a program writes in the middle of it comes after the token, and what was set aside is not the folder's.
        let after: BTreeSet<_> = tree(&self.replicas[replica].disk).texts.into_values().collect();
        let texts = before.texts.into_values().filter(|text| after.contains(text)).collect();
        self.barriers.push((replica, token, texts));
        if self.barriers.len() > 4 {
            self.barriers.remove(0);
        }
    }

    fn check_barriers(&mut self) {
        let mut held = 0;
        for (writer, token, texts) in &self.barriers {
            for peer in (0..self.replicas.len()).filter(|peer| peer != writer) {
                let Some(engine) = self.replicas[*writer].engine.as_ref() else { continue };
                let Ok(lags) = engine.lagging(token, &[self.replicas[peer].device]) else { continue };
                invariants::lags_are_named(&lags);
                if lags.is_empty() {
                    held += 1;
                    invariants::barrier_truth(self, peer, texts);
                }
            }
        }
        self.count("barriers", held);
    }

    /// A rename in a moment when everybody has the same, so that it can be told in short; then perhaps a power cut.
    pub(crate) fn move_in_quiet(&mut self) {
        self.calm();
        match self.rng.below(10) {
            0..2 => self.back_up(),
            2 => self.restore_backup(),
            3 => self.lose_index(),
            _ => {}
        }
        let replica = self.any();
        let (from, to) = (self.a_path(), self.a_path());
        let before = tree(&self.replicas[replica].disk);
        if !self.replicas[replica].disk.user_rename(&from, &to) {
            return;
        }
        self.note_act(replica, &before);
        if self.climate.faults && self.rng.chance(50) {
            let victim = self.any();
            self.replicas[victim].disk.fail(1 + self.rng.below(8), Fault::Power);
        }
        if self.rng.chance(20) {
            // Somebody uses the old place, or the file at the other end, meanwhile.
            self.busy.clone_from(&from);
            self.user_act();
        }
        let now_ms = self.now_ms;
        self.run(replica, |engine| engine.handle(now_ms, Input::Touched(vec![from, to])));
        for _ in 0..40 {
            self.move_message();
        }
    }

    fn back_up(&mut self) {
        let replica = self.any();
        let slot = &self.replicas[replica];
        let mut index = slot.engine().index().clone();
        index.crash();
        let mut copy = SimIndex::new(index.memory, slot.disk.clone());
        copy.known = index.known;
        self.backup = Some((replica, slot.disk.copy(), copy));
    }

    /// A replica is again as it was, with its index, when all others have moved on, and then is among them again.
    fn restore_backup(&mut self) {
        // Of a lease that it had forgotten it would not know that it is over.
        if let Some((replica, disk, index)) = self.backup.take().filter(|_| self.epoch == 0) {
            self.count("restored backups", 1);
            self.say(|| format!("{replica} is restored from a backup"));
            self.remember(replica, Some(&disk), index);
        }
    }

    /// Only the folder and the state beside the index remain.
    fn lose_index(&mut self) {
        let replica = self.any();
        // Without a holder, what nobody has any more is waited for.
        if self.holder == Some(replica) {
            return;
        }
        self.count("lost indexes", 1);
        self.say(|| format!("{replica} loses its index"));
        let before = self.replicas[replica].engine().meta().clone();
        let base = next_life(
            before.sequence,
            self.replicas[replica].disk.clone().chance().expect("a memory gives it"),
        );
        let meta = Meta {
            sequence: base,
            base,
            role: if before.fences.epoch() > 0 { Role::Follower } else { Role::Shared },
            fences: before.fences,
            asides: before.asides,
            rejoining: true,
            ..Meta::new(before.device, before.folder, IndexId(before.index.0.wrapping_add(1 << 40)))
        };
        let index = SimIndex::new(MemoryIndex::new(meta), self.replicas[replica].disk.clone());
        self.remember(replica, None, index);
    }

    /// The replica goes on with this index, and perhaps that disk; somebody may use the folder before it meets the others.
    fn remember(&mut self, replica: usize, disk: Option<&MemoryDisk>, index: SimIndex) {
        let before = present(&self.replicas[replica].disk);
        self.stop(replica);
        let slot = &mut self.replicas[replica];
        if let Some(disk) = disk {
            slot.disk.restore(disk);
        }
        let lost = present(&slot.disk);
        self.ledger.excused.extend(before.difference(&lost).cloned());
        slot.index = Some(index);
        slot.taken = Taken::default();
        // What it had acknowledged, it may not have any more.
        self.barriers.clear();
        self.versions.forgets(self.replicas[replica].device);
        self.start(replica);
        self.scan(replica);
        // What is written after a restore has a counter that peers may have for something else, until one is met.
        if disk.is_none() && self.rng.chance(50) {
            self.user_act();
        }
        self.calm();
    }

    /// No more faults: everybody connects to everybody and does all there is to do.
    pub(crate) fn calm(&mut self) {
        self.apart = 0;
        // An engine's time never goes back. Whoever still waits for it says nothing, and would be taken for dead.
        self.now_ms = self.now_ms.max(self.latest_ms);
        for link in 0..self.links.len() {
            (0..2).for_each(|side| self.close(link, side));
        }
        self.links.clear();
        for replica in 0..self.replicas.len() {
            let slot = &mut self.replicas[replica];
            slot.disk.heal();
            self.ledger.excused.extend(std::mem::take(&mut slot.edits).into_keys());
            let before = tree(&slot.disk);
            let disk = slot.disk.clone();
            let special = disk.tree().into_iter().filter(|(_, node)| node.kind == FileKind::Special);
            special.for_each(|(path, _)| assert!(disk.user_remove(&path)));
            self.note_act(replica, &before);
            if self.replicas[replica].engine.is_none() {
                self.start(replica);
            }
            self.scan(replica);
            if self.replicas[replica].engine.as_ref().is_some_and(|engine| engine.held_deletions() > 0) {
                // Somebody says that it was meant.
                self.run(replica, |engine| engine.confirm_deletions().map(drop));
            }
        }
        for a in 0..self.replicas.len() {
            (0..a).for_each(|b| self.open(a, b));
        }
        self.run_dry();
        (0..self.replicas.len()).for_each(|replica| self.scan(replica));
        self.run_dry();
        // Every version is durable everywhere; now it is to be seen, too.
        for replica in 0..self.replicas.len() {
            self.run(replica, |engine| engine.materialise(None).map(drop));
        }
        self.run_dry();
    }

    /// Until nobody has anything to say, or to try again.
    pub(crate) fn run_dry(&mut self) {
        let mut quiet = 0;
        for round in 0.. {
            // 14. Bounded.
            assert!(round < 3000, "14: the replicas do not come to rest: {}", self.busy_with());
            let idle = self.replicas.iter().all(|replica| replica.engine().is_idle());
            // Nobody says when a disk has room again.
            let paused =
                self.replicas.iter().any(|replica| replica.engine().status().unwrap().pause.is_some());
            quiet = if self.pump() { 0 } else { quiet + 1 };
            if quiet > 0 && idle || quiet > 5 && !paused {
                return;
            }
            if quiet > 0 {
                self.now_ms += TRY_AGAIN_MS;
            }
        }
    }

    /// What each replica has left to do.
    fn busy_with(&mut self) -> String {
        let busy = |replica: &mut Replica| {
            let engine = replica.engine.as_mut().expect("the replica runs");
            let (idle, busy, unsettled) = (engine.is_idle(), engine.is_busy(), engine.unsettled());
            format!("idle {idle}, busy {busy}, unsettled {unsettled:?}, {:?}", engine.problems())
        };
        self.replicas.iter_mut().map(busy).collect::<Vec<_>>().join("; ")
    }

    /// Everything that can be said and done once. Whether there was anything.
    pub(crate) fn pump(&mut self) -> bool {
        let mut any = false;
        for link in 0..self.links.len() {
            for side in 0..2 {
                while self.send(link, side) {
                    any = true;
                }
                while self.deliver(link, side) {
                    any = true;
                }
            }
        }
        for replica in 0..self.replicas.len() {
            let Some(engine) = self.replicas[replica].engine.as_mut() else { continue };
            let unsettled = engine.unsettled();
            any |= !unsettled.is_empty();
            let now_ms = self.now_ms;
            self.run(replica, |engine| engine.handle(now_ms, Input::Touched(unsettled)));
            self.run(replica, |engine| engine.handle(now_ms, Input::Tick));
            self.run(replica, |engine| engine.work().map(drop));
            self.run(replica, |engine| engine.settle());
            any |= self.replicas[replica].engine().is_busy();
        }
        any
    }
}

/// With `TRACE` set: what a replica did.
fn tell(now_ms: u64, replica: usize, changes: &[Change], engine: &SimEngine, ledger: &Ledger) {
    if std::env::var_os("TRACE").is_none() {
        return;
    }
    let short = |text: &Text| String::from_utf8_lossy(&text[..text.len().min(12)]).into_owned();
    let seen = |seen: &Option<(FileKind, Text)>| seen.as_ref().map(|(kind, text)| (*kind, short(text)));
    for Change { place, before, after } in changes {
        let name = String::from_utf8_lossy(&place.1);
        eprintln!("{now_ms:>8} {replica} changes {name}: {:?} -> {:?}", seen(before), seen(after));
    }
    for (entry, _) in &engine.index().committed.borrow().0 {
        let record = &entry.record;
        let text = name_of(&record.kind).and_then(|name| ledger.written.get(&name)).map(short);
        let (stale, is_seen) = (entry.stale, entry.seen.is_some());
        let Record { path, version, .. } = record;
        let live = record.kind.is_live();
        eprintln!(
            "{now_ms:>8} {replica} commits {path} {version:?} {text:?}, live {live}, stale {stale}, seen {is_seen}"
        );
    }
}
