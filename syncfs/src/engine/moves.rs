//! Renames of files and of whole trees: found by the inode, told to a peer in one message, done there as one rename, at
//! no cost in data.
//!
//! A move only abbreviates. The versions are exactly those that writing every path anew and deleting the old ones would
//! have made, under consecutive sequences in path order, so that a peer derives them from what it has. A digest over
//! what was moved proves that it has the same; a peer that cannot follow asks for the versions in full.

use std::collections::BTreeMap;

use crate::device::DeviceId;
use crate::disk::{Disk, FileKind, Stat};
use crate::error::{StoreError, Violation};
use crate::hash::ContentHash;
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::record::{Kind, Record, VECTOR_DEVICES_MAX, VersionVector};
use crate::status::Event;
use crate::wire::{MOVED_MAX, Moved};

use super::intake::is_unchanged;
use super::{Engine, SessionId};

/// Moves remembered for peers that have not heard of them yet; older ones are told path by path.
pub const MOVES_KEPT_MAX: usize = 64;

/// A move that this replica observed.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) moved: Moved,
    /// Who has everything of ours up to here knows what was moved.
    needs: u64,
}

/// One path of a tree that moves.
struct Step {
    old: Entry,
    to: RelPath,
    /// What was deleted at its new place before.
    before: Option<Entry>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Takes up the renames among changed paths; gives back the paths that are still to be looked at.
    pub(super) fn take_up_moves(&mut self, paths: Vec<RelPath>) -> Result<Vec<RelPath>, StoreError> {
        if paths.len() < 2 || self.is_undoing() {
            return Ok(paths);
        }
        let (mut gone, mut rest) = (Vec::new(), Vec::new());
        for path in paths {
            let stands = self.stat(&path);
            let seen = match &stands {
                Ok(None) => {
                    self.index.entry(&path)?.filter(|entry| !entry.stale).and_then(|entry| entry.seen)
                }
                _ => None,
            };
            match seen {
                Some(seen) => gone.push((path, seen)),
                None => rest.push((path, stands.ok().flatten())),
            }
        }
        let mut left = Vec::new();
        for (to, stat) in rest {
            let same =
                |seen: &Stat, stat: &Stat| (seen.kind, seen.dev, seen.ino) == (stat.kind, stat.dev, stat.ino);
            let from = stat.and_then(|stat| gone.iter().position(|(_, seen)| same(seen, &stat)));
            match (from, stat) {
                (Some(at), Some(stat)) if self.observe_move(&gone[at].0, &to, &stat)? => {
                    gone.remove(at);
                }
                _ => left.push(to),
            }
        }
        left.extend(gone.into_iter().map(|(path, _)| path));
        left.sort_unstable();
        Ok(left)
    }

    /// What stood at `from` stands at `to`: if all of it is as the index has seen it, it gets its new versions unread.
    fn observe_move(&mut self, from: &RelPath, to: &RelPath, stat: &Stat) -> Result<bool, StoreError> {
        if self.meta.rejoining {
            return Ok(false);
        }
        let Some(steps) = self.steps(from, to)? else { return Ok(false) };
        if steps.iter().any(|step| step.old.behind.is_some()) {
            return Ok(false);
        }
        let (mut present, mut unread) = (Vec::new(), Vec::new());
        if stat.kind == FileKind::Dir {
            self.walk(Some(to), &mut present, &mut unread)?;
        }
        let mut present: BTreeMap<_, _> = present.into_iter().chain([(to.clone(), *stat)]).collect();
        let mut seen = Vec::new();
        for step in &steps {
            let Some(stat) = present.remove(&step.to) else { return Ok(false) };
            // A rename changes the times of what is renamed, not of what is below it.
            let same = step.to != *to && is_unchanged(&step.old, &stat);
            let fresh = step.to == *to || is_fresh(&step.old);
            let stat = match same {
                true => Some(stat),
                false if fresh => self.read_again(&step.to, &step.old, &stat)?,
                false => None,
            };
            let Some(stat) = stat else { return Ok(false) };
            seen.push(to_look_at_again(stat));
        }
        if !unread.is_empty() {
            return Ok(false);
        }
        let made = Made { moved: self.tell_move(from, to, &steps), needs: needs(&steps) };
        let device = self.meta.device;
        let first = self.meta.sequence + 1;
        let (written, deleted) = records(&steps, &made.moved, device);
        assert_eq!(made.moved.first, first, "nothing was written since");
        for (record, seen) in written.into_iter().zip(seen) {
            self.event(Event::Changed(record.path.clone()));
            self.put(record, Some(seen))?;
        }
        for record in deleted {
            self.event(Event::Changed(record.path.clone()));
            self.put(record, None)?;
        }
        if self.moves.len() == MOVES_KEPT_MAX {
            self.moves.remove(0);
        }
        self.moves.push(made);
        for path in present.into_keys() {
            self.observe_now(&path)?;
        }
        Ok(true)
    }

    /// The live versions at and below `from` in path order, with their new places; `None` if this is no plain move.
    fn steps(&self, from: &RelPath, to: &RelPath) -> Result<Option<Vec<Step>>, StoreError> {
        let mut old: Vec<_> = self.index.entry(from)?.into_iter().collect();
        old.extend(self.index.below(from)?);
        old.retain(|entry| entry.record.kind.is_live());
        // Not a part of itself, and not over something that lives.
        if old.is_empty() || old.len() > MOVED_MAX || to.is_below(from) || from.is_below(to) || to == from {
            return Ok(None);
        }
        let mut steps = Vec::with_capacity(old.len());
        for entry in old {
            let suffix = &entry.record.path.as_bytes()[from.as_bytes().len()..];
            let Ok(to) = RelPath::new([to.as_bytes(), suffix].concat()) else { return Ok(None) };
            let before = self.index.entry(&to)?;
            let fits = |version: &VersionVector| version.len() < VECTOR_DEVICES_MAX;
            let plain = !entry.stale
                && self.group_of(&entry.record.path).is_none()
                && self.group_of(&to).is_none()
                && entry.seen.is_some_and(|seen| seen.side == 0)
                && fits(&entry.record.version)
                && !self.is_ignored_path(&entry.record.path, None, Some(&entry))
                && !self.is_ignored_path(&to, None, Some(&entry))
                && before.as_ref().is_none_or(|before| {
                    !before.stale && !before.record.kind.is_live() && fits(&before.record.version)
                });
            if !plain {
                return Ok(None);
            }
            steps.push(Step { old: entry, to, before });
        }
        Ok(Some(steps))
    }

    /// What stands at `path`, if it still is what `old` says; a file is read to be sure.
    fn read_again(&mut self, path: &RelPath, old: &Entry, stat: &Stat) -> Result<Option<Stat>, StoreError> {
        let names = self.other_names(path, stat)?;
        match self.read_kind(path, stat, Some(old), &names) {
            Ok(Some((kind, seen))) => Ok((kind == old.record.kind).then_some(seen)),
            Err(error) if error.is_final() => Err(error.into()),
            Ok(None) | Err(_) => Ok(None),
        }
    }

    fn tell_move(&self, from: &RelPath, to: &RelPath, steps: &[Step]) -> Moved {
        Moved {
            from: from.clone(),
            to: to.clone(),
            count: u32::try_from(steps.len()).expect("a move has at most MOVED_MAX paths"),
            first: self.meta.sequence + 1,
            epoch: self.meta.fences.epoch(),
            digest: digest(from, steps),
        }
    }

    /// The first of these entries, by its number, from which on the peer can be told of a move.
    pub(super) fn next_move(
        &mut self,
        id: SessionId,
        entries: &[Entry],
    ) -> Result<Option<(usize, Moved)>, StoreError> {
        if !self.moves.is_empty() {
            for (number, entry) in entries.iter().enumerate() {
                if let Some(moved) = self.move_at(id, entry.sequence)? {
                    return Ok(Some((number, moved)));
                }
            }
        }
        Ok(None)
    }

    /// The move that begins with this sequence, if the peer can follow it and nothing of it has changed since.
    fn move_at(&mut self, id: SessionId, sequence: u64) -> Result<Option<Moved>, StoreError> {
        let Some(at) = self.moves.iter().position(|made| made.moved.first == sequence) else {
            return Ok(None);
        };
        let session = self.sessions.get(&id).expect("the caller checked the session");
        let Some(peer) = session.peer.filter(|_| !session.wants_full()) else { return Ok(None) };
        let state = self.index.peer(&peer)?;
        let made = &self.moves[at];
        if state.ours != Some(self.meta.index) || state.acked < made.needs {
            return Ok(None);
        }
        let whole = self.index.since(sequence - 1, 2 * made.moved.count as usize)?;
        if whole.last().is_some_and(|last| last.sequence == made.moved.last())
            && whole.len() == 2 * made.moved.count as usize
        {
            return Ok(Some(made.moved.clone()));
        }
        self.moves.remove(at);
        Ok(None)
    }

    /// A peer moved something. Done here as one rename where everything is as the peer had it; else each version is
    /// taken like any other; or asked for in full.
    pub(super) fn moved(&mut self, id: SessionId, round: u64, moved: Moved) -> Result<(), StoreError> {
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        let Some(peer) = session.peer else { return Ok(()) };
        if !session.is_round(round) {
            return Ok(());
        }
        if !session.take_through(moved.first, moved.last()) {
            session.fail(Violation::Record("sequences do not grow"));
            return Ok(());
        }
        if self.sends_only() {
            return self.ask_full(id);
        }
        let steps = self.steps(&moved.from, &moved.to)?;
        let steps = steps.filter(|steps| {
            steps.len() == moved.count as usize && digest(&moved.from, steps) == moved.digest
        });
        let Some(steps) = steps else { return self.ask_full(id) };
        let (written, deleted) = records(&steps, &moved, peer);
        let all: Vec<_> = written.into_iter().chain(deleted).collect();
        let may_rename = self.may_rename(&moved, &all)?;
        if may_rename {
            self.plan(&all)?;
        }
        if may_rename && self.rename(&moved, &steps)? {
            return self.renamed(id, &moved, &steps, all);
        }
        for (record, sequence) in all.into_iter().zip(moved.first..) {
            if self.sessions.get(&id).is_some_and(|session| session.is_round(round)) {
                self.offered(id, sequence, record)?;
            }
        }
        Ok(())
    }

    /// Whether nothing else is under way there, and no fence or role stands against it.
    fn may_rename(&self, moved: &Moved, records: &[Record]) -> Result<bool, StoreError> {
        let ours = self.known(&self.meta.device);
        let busy = [&moved.from, &moved.to].into_iter().any(|top| self.pending.has_below(top));
        let known = |record: &Record| record.version.counter(&self.meta.device) <= ours;
        Ok(!busy && records.iter().all(|record| known(record) && self.meta.fences.admit(record)))
    }

    /// One rename, if both places are exactly as the index has seen them.
    fn rename(&mut self, moved: &Moved, steps: &[Step]) -> Result<bool, StoreError> {
        let top = steps.first().and_then(|step| step.old.seen).expect("steps are never empty, and were seen");
        let (mut present, mut unread) = (Vec::new(), Vec::new());
        if top.kind == FileKind::Dir {
            self.walk(Some(&moved.from), &mut present, &mut unread)?;
        }
        let stands = match self.stat(&moved.from) {
            Ok(Some(stat)) => stat,
            _ => return Ok(false),
        };
        present.push((moved.from.clone(), stands));
        present.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let same = present
            .iter()
            .zip(steps)
            .all(|((path, stat), step)| *path == step.old.record.path && is_unchanged(&step.old, stat));
        if !unread.is_empty()
            || steps.iter().any(|step| step.old.behind.is_some())
            || self.holds_ignored(steps)?
            || present.len() != steps.len()
            || !same
            || !matches!(self.stat(&moved.to), Ok(None))
        {
            return Ok(false);
        }
        let renamed =
            self.make_parents(&moved.to).and_then(|()| self.disk.rename(&moved.from, &moved.to, &stands));
        match renamed {
            Ok(()) => Ok(true),
            Err(error) if error.is_final() => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Whether something in these directories is left alone: it would move along.
    fn holds_ignored(&mut self, steps: &[Step]) -> Result<bool, StoreError> {
        let dirs = steps.iter().map(|step| &step.old.record).filter(|record| record.kind.is_dir());
        for dir in dirs {
            match self.disk.list(Some(&dir.path)) {
                Ok(listing) => {
                    let is_dir = |stat: &Stat| stat.kind == FileKind::Dir;
                    let mut entries = listing.entries.iter();
                    if entries.any(|(path, stat)| self.is_ignored_entry(path, is_dir(stat))) {
                        return Ok(true);
                    }
                }
                Err(error) if error.is_final() => return Err(error.into()),
                Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    fn renamed(
        &mut self,
        id: SessionId,
        moved: &Moved,
        steps: &[Step],
        records: Vec<Record>,
    ) -> Result<(), StoreError> {
        let top = self.stat(&moved.to)?;
        let top = top.filter(|top| steps[0].old.seen.is_some_and(|seen| seen.identity() == top.identity()));
        let seen = steps.iter().enumerate().map(|(number, step)| {
            if number == 0 { top.map(to_look_at_again).or(step.old.seen) } else { step.old.seen }
        });
        let seen: Vec<_> = seen.chain(std::iter::repeat_n(None, steps.len())).collect();
        for (record, seen) in records.into_iter().zip(seen) {
            self.event(Event::Applied(record.path.clone()));
            self.put(record, seen)?;
        }
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        session.summary.applied += 2 * u64::from(moved.count);
        Ok(())
    }
}

/// A rename changes a directory's times, so they do not say any more whether its extended attributes have changed.
fn to_look_at_again(stat: Stat) -> Stat {
    if stat.kind == FileKind::Dir { Stat { ctime_ns: 0, ..stat } } else { stat }
}

/// Whether a file was read so soon after its last change that its fingerprint does not say whether it is the same.
fn is_fresh(entry: &Entry) -> bool {
    entry.seen.is_some_and(|seen| seen.kind == FileKind::File && seen.ctime_ns == 0)
}

/// The versions that a move makes: of the new paths in path order, then of the old ones, entries before their
/// directories.
fn records(steps: &[Step], moved: &Moved, by: DeviceId) -> (Vec<Record>, Vec<Record>) {
    let record = |path: &RelPath, kind: &Kind, seen: Option<&VersionVector>, counter: u64| {
        let mut version = seen.cloned().unwrap_or_default();
        version.raise(by, counter);
        Record { path: path.clone(), kind: kind.clone(), version, by, epoch: moved.epoch }
    };
    let written = steps.iter().zip(moved.first..).map(|(step, counter)| {
        record(
            &step.to,
            &step.old.record.kind,
            step.before.as_ref().map(|before| &before.record.version),
            counter,
        )
    });
    let deleted = steps.iter().rev().zip(moved.first + u64::from(moved.count)..).map(|(step, counter)| {
        record(&step.old.record.path, &Kind::Deleted, Some(&step.old.record.version), counter)
    });
    (written.collect(), deleted.collect())
}

fn needs(steps: &[Step]) -> u64 {
    let sequences =
        steps.iter().flat_map(|step| step.before.iter().chain([&step.old])).map(|entry| entry.sequence);
    sequences.max().unwrap_or(0)
}

/// What both replicas must have had there before: equal vectors mean equal contents.
fn digest(from: &RelPath, steps: &[Step]) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    let mut vector = |version: Option<&VersionVector>| {
        let version = version.into_iter().flat_map(VersionVector::iter).collect::<Vec<_>>();
        hasher.update(&(version.len() as u64).to_le_bytes());
        for (device, counter) in version {
            hasher.update(device.as_bytes()).update(&counter.to_le_bytes());
        }
    };
    let mut names = blake3::Hasher::new();
    for step in steps {
        let suffix = &step.old.record.path.as_bytes()[from.as_bytes().len()..];
        names.update(&(suffix.len() as u64).to_le_bytes()).update(suffix);
        vector(Some(&step.old.record.version));
        vector(step.before.as_ref().map(|before| &before.record.version));
    }
    hasher.update(names.finalize().as_bytes());
    ContentHash::from_bytes(*hasher.finalize().as_bytes())
}
