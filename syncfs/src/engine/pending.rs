//! [`Pending`]: a version that was offered and is not durable here yet. [`Table`]: all of them, listed by what can be
//! done with them, so that no step ever looks through those that it does not concern.
//!
//! Two offers of one path share a stage: they are worked on one after the other.

use std::collections::{BTreeMap, BTreeSet};

use crate::cutting::Group;
use crate::disk::Stat;
use crate::hash::ContentHash;
use crate::path::RelPath;
use crate::record::{Causality, Content, Record};

use super::{OWN, SessionId};

/// Which version: of this path, offered on this stream.
pub(super) type Key = (RelPath, SessionId);

/// Chunks of a content and the offsets at which they are missing, with their lengths.
pub(super) type Missing = BTreeMap<(ContentHash, u64), u32>;

/// Where a chunk that came belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) offsets: Vec<u64>,
    /// It was the last one.
    pub(super) complete: bool,
    /// The record gives the same chunk two lengths, which cannot be.
    pub(super) false_length: bool,
}

/// A version that was offered and is not durable here yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) record: Record,
    /// The sender's sequence; it is not acknowledged before this is done. 0 for a restore.
    pub(super) sequence: u64,
    pub(super) stage: Stage,
    /// Its content is kept as a delta: where the log ends with it, once that is sealed.
    pub(super) delta: Option<u64>,
    /// What stands there while a restore waits: already set aside.
    pub(super) over: Option<Stat>,
    /// Sessions that a restore has asked in vain.
    pub(super) asked: BTreeSet<SessionId>,
    /// What its record takes, in bytes, about.
    bytes: usize,
    listed: List,
}

/// How far a content is together.
#[derive(Debug)]
pub(super) enum Stage {
    /// Chunks from this number on were not looked for yet; the others are there or missing.
    Looking { next: usize, missing: Missing },
    /// Waiting for these.
    Fetching(Missing),
    /// Can be applied. `staged`: its content is complete in its stage; else it did not need any when that was decided.
    Ready { staged: bool },
    /// Cannot be applied before the peer has told everything, or before its directory can stand; see [`super::apply`].
    Deferred { staged: bool },
    /// The peer does not have the content any more: waits for a newer version.
    Gone,
    /// Its content comes under another name of the same file.
    Linked,
}

/// Where a version is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// Its content can be looked for now.
    Looking,
    /// Its turn is yet to come, or its chunks are.
    Waiting,
    Ready,
    Deferred,
    Gone,
}

impl Pending {
    pub(super) fn new(record: Record, sequence: u64) -> Self {
        let stage = Stage::Looking { next: 0, missing: Missing::new() };
        Self {
            bytes: record.weight_bytes(),
            record,
            sequence,
            stage,
            delta: None,
            over: None,
            asked: BTreeSet::new(),
            listed: List::Waiting,
        }
    }

    /// A version to put back over what stands there and is set aside already.
    pub(super) fn restore(record: Record, over: Option<Stat>) -> Self {
        Self { over, ..Self::new(record, 0) }
    }

    /// Starts over, with the content that is there already.
    pub(super) fn restart(&mut self) {
        self.delta = None;
        self.stage = Stage::Looking { next: 0, missing: Missing::new() };
    }

    /// Starts over, and asks everybody again.
    pub(super) fn ask_again(&mut self) {
        self.asked.clear();
        self.restart();
    }

    /// Whether the stage of its path holds what it needs.
    fn owns_stage(&self) -> bool {
        match self.stage {
            Stage::Looking { next, .. } => next > 0,
            Stage::Fetching(_) | Stage::Ready { .. } => true,
            Stage::Deferred { .. } | Stage::Gone | Stage::Linked => false,
        }
    }

    /// Whether its content is in the stage of its path, and an older version must not take that from it: two peers that offer
    /// a cut of a group, the one an older one, would take turns for ever.
    fn waits_in_stage_before(&self, older: &Self) -> bool {
        let (ours, theirs) = (&self.record.version, &older.record.version);
        matches!(self.stage, Stage::Deferred { staged: true }) && ours.compare(theirs) == Causality::Newer
    }

    /// Whether its content will be here soon.
    pub(super) fn is_coming(&self) -> bool {
        matches!(self.stage, Stage::Looking { .. } | Stage::Fetching(_) | Stage::Ready { .. })
    }
}

/// What one session offered.
#[derive(Debug, Default)]
struct Offers {
    /// All of it, by the sender's sequence.
    order: BTreeSet<(u64, RelPath)>,
    deferred: BTreeSet<RelPath>,
    gone: BTreeSet<RelPath>,
    /// What their records take, in bytes: of all of them, and of those that wait for something else.
    bytes: usize,
    idle_bytes: usize,
}

/// All versions that are pending.
#[derive(Debug, Default)]
pub(super) struct Table {
    all: BTreeMap<Key, Pending>,
    looking: BTreeSet<Key>,
    ready: BTreeSet<Key>,
    offers: BTreeMap<SessionId, Offers>,
    /// Who waits for another name of the same file.
    linked: BTreeMap<RelPath, BTreeSet<Key>>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Pending> {
        self.all.get(key)
    }

    /// Adds a version, in the place of an older one of the same path and session.
    pub(super) fn insert(&mut self, session: SessionId, pending: Pending) {
        let key = (pending.record.path.clone(), session);
        self.unlist(&key);
        let offers = self.offers.entry(session).or_default();
        offers.order.insert((pending.sequence, key.0.clone()));
        offers.bytes += pending.bytes;
        self.all.insert(key.clone(), pending);
        self.relist(&key.0);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.unlist(key);
        if self.all.remove(key).is_some() {
            self.relist(&key.0);
        }
    }

    /// Changes one version.
    pub(super) fn update(&mut self, key: &Key, change: impl FnOnce(&mut Pending)) {
        if let Some(pending) = self.all.get_mut(key) {
            change(pending);
            self.relist(&key.0);
        }
    }

    pub(super) fn set_stage(&mut self, key: &Key, stage: Stage) {
        self.update(key, |pending| pending.stage = stage);
    }

    /// Lets one version wait until there is nothing to wait for at another path.
    pub(super) fn wait_for(&mut self, key: &Key, path: RelPath) {
        self.set_stage(key, Stage::Linked);
        self.linked.entry(path).or_default().insert(key.clone());
    }

    pub(super) fn restart(&mut self, key: &Key) {
        self.update(key, Pending::restart);
    }

    /// Changes all versions of a path.
    pub(super) fn update_path(&mut self, path: &RelPath, mut change: impl FnMut(SessionId, &mut Pending)) {
        let mut any = false;
        for ((_, session), pending) in self.all.range_mut(of_path(path)) {
            change(*session, pending);
            any = true;
        }
        if any {
            self.relist(path);
        }
    }

    pub(super) fn has_path(&self, path: &RelPath) -> bool {
        self.all.range(of_path(path)).next().is_some()
    }

    /// Whether a peer's version of something in this directory is still to be applied.
    pub(super) fn has_inside(&self, dir: &RelPath) -> bool {
        self.below(dir).any(|((_, from), pending)| *from != OWN && !matches!(pending.stage, Stage::Gone))
    }

    /// Whether there is a version of this path or of one below it.
    pub(super) fn has_below(&self, top: &RelPath) -> bool {
        self.has_path(top) || self.below(top).next().is_some()
    }

    /// The versions of what is in a directory.
    fn below(&self, dir: &RelPath) -> impl Iterator<Item = (&Key, &Pending)> {
        let near = self.all.range((dir.clone(), OWN)..);
        let near = near.take_while(|((path, _), _)| path.as_bytes().starts_with(dir.as_bytes()));
        near.filter(|((path, _), _)| path.is_below(dir))
    }

    /// The first version whose content can be looked for.
    pub(super) fn first_looking(&self) -> Option<Key> {
        self.looking.first().cloned()
    }

    /// Versions that can be applied, in the order of their paths.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Key> {
        self.ready.iter()
    }

    /// Whether anything can be looked for or applied.
    pub(super) fn is_busy(&self) -> bool {
        !self.looking.is_empty() || !self.ready.is_empty()
    }

    /// Versions of a session that wait for what it still has to tell.
    pub(super) fn deferred(&self, session: SessionId) -> impl Iterator<Item = Key> {
        let paths = self.offers.get(&session).into_iter().flat_map(|offers| &offers.deferred);
        paths.map(move |path| (path.clone(), session))
    }

    /// Every version that a session offered.
    pub(super) fn of_session(&self, session: SessionId) -> Vec<Key> {
        let offers = self.offers.get(&session).into_iter().flat_map(|offers| &offers.order);
        offers.map(|(_, path)| (path.clone(), session)).collect()
    }

    /// Versions whose content could not be had or placed.
    pub(super) fn gone(&self) -> impl Iterator<Item = Key> {
        let offers = self.offers.iter();
        offers.flat_map(|(session, offers)| offers.gone.iter().map(|path| (path.clone(), *session)))
    }

    /// How many versions of a session there are.
    pub(super) fn count(&self, session: SessionId) -> usize {
        self.offers.get(&session).map_or(0, |offers| offers.order.len())
    }

    /// How many of them are of one group.
    pub(super) fn count_in(&self, session: SessionId, group: &Group) -> usize {
        let of = |path: &RelPath| {
            let top = usize::from(self.all.contains_key(&(path.clone(), session)));
            top + self.below(path).filter(|((_, from), _)| *from == session).count()
        };
        group.paths().iter().map(of).sum()
    }

    /// How many of them hold content in memory or on its way, for the bound on what a peer may offer at once.
    pub(super) fn weighty(&self, session: SessionId) -> usize {
        let weighty = |offers: &Offers| offers.order.len() - offers.deferred.len() - offers.gone.len();
        self.offers.get(&session).map_or(0, weighty)
    }

    /// What their records take, in bytes.
    pub(super) fn weighty_bytes(&self, session: SessionId) -> usize {
        self.offers.get(&session).map_or(0, |offers| offers.bytes - offers.idle_bytes)
    }

    /// What the records of all versions of a session take, in bytes.
    pub(super) fn bytes(&self, session: SessionId) -> usize {
        self.offers.get(&session).map_or(0, |offers| offers.bytes)
    }

    /// The lowest sequence of a session's versions.
    pub(super) fn first_sequence(&self, session: SessionId) -> Option<u64> {
        self.offers.get(&session)?.order.first().map(|(sequence, _)| *sequence)
    }

    /// A chunk of this length came for a version that fetches it, or will not come.
    pub(super) fn fetched(&mut self, key: &Key, hash: &ContentHash, length: u32) -> Option<Fetched> {
        let Stage::Fetching(missing) = &mut self.all.get_mut(key)?.stage else { return None };
        let here = missing.range((*hash, 0)..=(*hash, u64::MAX));
        let here: Vec<_> = here.map(|((_, offset), length)| (*offset, *length)).collect();
        let false_length = here.iter().any(|(_, stated)| *stated != length);
        let offsets: Vec<_> = here.into_iter().map(|(offset, _)| offset).collect();
        for offset in &offsets {
            missing.remove(&(*hash, *offset));
        }
        let complete = missing.is_empty();
        (!offsets.is_empty()).then_some(Fetched { offsets, complete, false_length })
    }

    fn unlist(&mut self, key: &Key) {
        let Some(pending) = self.all.get(key) else { return };
        self.looking.remove(key);
        self.ready.remove(key);
        if let Some(offers) = self.offers.get_mut(&key.1) {
            offers.order.remove(&(pending.sequence, key.0.clone()));
            offers.bytes -= pending.bytes;
            if offers.deferred.remove(&key.0) || offers.gone.remove(&key.0) {
                offers.idle_bytes -= pending.bytes;
            }
            if offers.order.is_empty() {
                self.offers.remove(&key.1);
            }
        }
    }

    /// Lists the versions of a path where they belong now.
    fn relist(&mut self, path: &RelPath) {
        let versions = || self.all.range(of_path(path));
        // Whoever has begun goes on; else the first one begins, unless a newer one is there and waits.
        let owner = versions().find(|(_, pending)| pending.owns_stage());
        let begins = |(_, pending): &(&Key, &Pending)| {
            matches!(pending.stage, Stage::Looking { .. })
                && !versions().any(|(_, other)| other.waits_in_stage_before(pending))
        };
        let turn = owner.or_else(|| versions().find(begins)).map(|(key, _)| key.1);
        for (key, pending) in self.all.range_mut(of_path(path)) {
            let list = match pending.stage {
                Stage::Looking { .. } if turn == Some(key.1) => List::Looking,
                Stage::Looking { .. } | Stage::Fetching(_) | Stage::Linked => List::Waiting,
                Stage::Ready { .. } => List::Ready,
                Stage::Deferred { .. } => List::Deferred,
                Stage::Gone => List::Gone,
            };
            let before = std::mem::replace(&mut pending.listed, list);
            if before == list {
                continue;
            }
            let offers = self.offers.entry(key.1).or_default();
            match before {
                List::Looking => drop(self.looking.remove(key)),
                List::Waiting => {}
                List::Ready => drop(self.ready.remove(key)),
                List::Deferred => drop(offers.deferred.remove(path)),
                List::Gone => drop(offers.gone.remove(path)),
            }
            let idle = |list| matches!(list, List::Deferred | List::Gone);
            offers.idle_bytes -= if idle(before) { pending.bytes } else { 0 };
            offers.idle_bytes += if idle(list) { pending.bytes } else { 0 };
            match list {
                List::Looking => drop(self.looking.insert(key.clone())),
                List::Waiting => {}
                List::Ready => drop(self.ready.insert(key.clone())),
                List::Deferred => drop(offers.deferred.insert(path.clone())),
                List::Gone => drop(offers.gone.insert(path.clone())),
            }
        }
        self.release(path);
    }

    /// Nothing comes at a path any more: those that waited for it go on.
    fn release(&mut self, path: &RelPath) {
        let comes = |table: &Self| table.all.range(of_path(path)).any(|(_, pending)| pending.is_coming());
        if self.linked.contains_key(path) && !comes(self) {
            for key in self.linked.remove(path).unwrap_or_default() {
                if self.get(&key).is_some_and(|pending| matches!(pending.stage, Stage::Linked)) {
                    self.restart(&key);
                }
            }
        }
    }
}

/// The content of a version, which only a file has.
pub(super) fn content_of(record: &Record) -> &Content {
    record.kind.content().expect("only files have missing chunks")
}

fn of_path(path: &RelPath) -> std::ops::RangeInclusive<Key> {
    (path.clone(), OWN)..=(path.clone(), SessionId(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceId;
    use crate::record::Kind;

    fn offer(path: &str, sequence: u64) -> Pending {
        let by = DeviceId::from_bytes([9; 32]);
        let version = [(by, sequence.max(1))].into_iter().collect();
        let path = RelPath::new(path).unwrap();
        Pending::new(Record { path, kind: Kind::Deleted, version, by, epoch: 0 }, sequence)
    }

    fn key(path: &str, session: u64) -> Key {
        (RelPath::new(path).unwrap(), SessionId(session))
    }

    #[test]
    fn offers_of_one_path_take_turns_and_whoever_began_goes_on() {
        let mut table = Table::default();
        table.insert(SessionId(2), offer("a", 5));
        table.set_stage(&key("a", 2), Stage::Looking { next: 1, missing: Missing::new() });
        // A session with a lower number, and a restore: both wait.
        table.insert(SessionId(1), offer("a", 7));
        table.insert(OWN, offer("a", 0));
        assert_eq!(table.first_looking(), Some(key("a", 2)));
        table.set_stage(&key("a", 2), Stage::Fetching(Missing::new()));
        assert_eq!(table.first_looking(), None);
        assert!(!table.is_busy());
        table.set_stage(&key("a", 2), Stage::Gone);
        assert_eq!(table.first_looking(), Some(key("a", 0)));
        table.remove(&key("a", 0));
        assert_eq!(table.first_looking(), Some(key("a", 1)));
        assert_eq!(table.gone().collect::<Vec<_>>(), [key("a", 2)]);
    }

    #[test]
    fn counts_and_sequences_are_those_of_each_session() {
        let mut table = Table::default();
        for (path, sequence) in [("a", 3), ("b", 1), ("c", 2)] {
            table.insert(SessionId(1), offer(path, sequence));
        }
        table.insert(SessionId(2), offer("a", 9));
        assert_eq!((table.count(SessionId(1)), table.weighty(SessionId(1))), (3, 3));
        table.set_stage(&key("b", 1), Stage::Deferred { staged: false });
        table.set_stage(&key("c", 1), Stage::Gone);
        assert_eq!((table.count(SessionId(1)), table.weighty(SessionId(1))), (3, 1));
        assert_eq!(table.deferred(SessionId(1)).collect::<Vec<_>>(), [key("b", 1)]);
        assert_eq!(table.first_sequence(SessionId(1)), Some(1));
        table.remove(&key("b", 1));
        assert_eq!(table.first_sequence(SessionId(1)), Some(2));
        // A newer version of the same path keeps its place.
        table.insert(SessionId(1), offer("c", 2));
        assert_eq!((table.count(SessionId(1)), table.weighty(SessionId(1))), (2, 2));
        table.of_session(SessionId(1)).iter().for_each(|key| table.remove(key));
        assert_eq!((table.count(SessionId(1)), table.len()), (0, 1));
        assert_eq!(table.first_sequence(SessionId(1)), None);
    }

    #[test]
    fn a_chunk_fills_every_place_where_it_is_missing() {
        let mut table = Table::default();
        table.insert(SessionId(1), offer("a", 1));
        let (x, y) = (ContentHash::of(b"x"), ContentHash::of(b"y"));
        let missing = [((x, 0), 1), ((y, 1), 1), ((x, 2), 2)].into_iter().collect();
        table.set_stage(&key("a", 1), Stage::Fetching(missing));
        let fetched = Fetched { offsets: vec![0, 2], complete: false, false_length: true };
        assert_eq!(table.fetched(&key("a", 1), &x, 1), Some(fetched));
        assert_eq!(table.fetched(&key("a", 1), &x, 1), None);
        let fetched = Fetched { offsets: vec![1], complete: true, false_length: false };
        assert_eq!(table.fetched(&key("a", 1), &y, 1), Some(fetched));
    }
}
