//! Folders of one direction. A replica that only receives takes no local edit for a version: it is set aside and undone, as
//! on a follower. A replica that only sends takes no version of a peer's: it notes which paths differ, and does not
//! acknowledge them. A lease is stronger than both: under one the holder writes and the others follow.
//!
//! *What a receiver finds at its beginning* is neither: until a peer has told everything it may be what the peers have, so it
//! waits where it stands, is told to nobody, and is taken over without a transfer where it is the same. What then turns
//! out to be of nobody else is set aside.

use std::collections::BTreeMap;

use crate::branch::{Cause, Kept};
use crate::config::Direction;
use crate::disk::{Disk, Stat};
use crate::error::StoreError;
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::record::{Kind, Record, VersionVector};
use crate::status::{Event, Role};

use super::{Engine, SessionId};

/// Paths noted as different at most; a sender with more notes the others once these are settled.
pub const DIFFERING_MAX: usize = 1 << 16;

/// The direction, and what it keeps apart.
#[derive(Debug, Default)]
pub(super) struct Course {
    direction: Direction,
    /// Where peers have a version that this replica did not take, and what that has seen.
    differing: BTreeMap<RelPath, VersionVector>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Says in which direction versions pass. Call it before the first scan.
    pub fn direct(&mut self, direction: Direction) {
        self.course.direction = direction;
    }

    /// The direction as it was said.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.course.direction
    }

    /// How many paths have a version at a peer that was not taken; at most [`DIFFERING_MAX`].
    #[must_use]
    pub fn differing(&self) -> u64 {
        self.course.differing.len() as u64
    }

    /// The first of them, in path order.
    #[must_use]
    pub fn differing_paths(&self, most: usize) -> Vec<RelPath> {
        self.course.differing.keys().take(most).cloned().collect()
    }

    pub(super) fn receives_only(&self) -> bool {
        self.course.direction == Direction::Receive
    }

    pub(super) fn sends_only(&self) -> bool {
        self.course.direction == Direction::Send && self.meta.fences.epoch() == 0
    }

    /// Whether local edits are set aside and undone.
    #[must_use]
    pub fn is_undoing(&self) -> bool {
        self.receives_only() || self.meta.role == Role::Follower && self.meta.fences.epoch() > 0
    }

    /// Whether a receiver, or a replica that lost its memory, does not know yet what its peers have.
    pub(super) fn awaits_peers(&self) -> bool {
        let others = self.meta.knowledge.iter().any(|(device, _)| *device != self.meta.device);
        self.meta.rejoining || self.receives_only() && !others
    }

    /// Takes up a local write. That of a receiver waits, and is told to nobody.
    pub(super) fn put_own(&mut self, record: Record, seen: Option<Stat>) -> Result<(), StoreError> {
        if self.meta.rejoining {
            return self.put_found(record, seen);
        }
        if !self.receives_only() {
            return self.put(record, seen);
        }
        self.reconsider(&record.path);
        let sequence = self.next_sequence();
        self.put_entry(&Entry { record, sequence, seen, stale: true, behind: None })
    }

    /// An entry as something to decide about. What waits at a receiver has seen nothing, so that any peer's version takes
    /// its place.
    pub(super) fn as_found(&self, entry: Option<Entry>) -> Option<Entry> {
        let waits = |entry: &Entry| entry.stale && (self.receives_only() || entry.record.version.is_empty());
        entry.map(|mut entry| {
            if waits(&entry) {
                (entry.stale, entry.record.version) = (false, VersionVector::default());
            }
            entry
        })
    }

    /// What waited at a receiver and is about to be replaced by something else is set aside before.
    pub(super) fn keep_found(
        &mut self,
        entry: Option<Entry>,
        record: &Record,
    ) -> Result<Option<Entry>, StoreError> {
        let found = entry.as_ref().filter(|entry| entry.record.version.is_empty());
        let loses =
            found.filter(|entry| !entry.record.kind.is_dir() && !entry.record.kind.holds_same(&record.kind));
        let kept = loses.and_then(|entry| Some((entry.seen?, Kept::of(&entry.record)?)));
        let Some((stood, kept)) = kept else { return Ok(entry) };
        let seen = match entry {
            Some(entry) if record.kind.is_live() && !self.is_undoing() => {
                Some(self.keep_beside(&entry, &stood)?)
            }
            _ => {
                let cause = if self.meta.rejoining { Cause::Rejoined } else { Cause::FollowerEdit };
                self.set_aside(cause, self.meta.fences.epoch(), Some(kept), &stood)?
            }
        };
        let Some(mut stored) = self.index.entry(&record.path)? else { return Ok(None) };
        stored.seen = seen;
        self.put_entry(&stored)?;
        Ok(self.as_found(Some(stored)))
    }

    /// A sender does not take a peer's version: it notes that they differ, and acknowledges nothing from there on.
    pub(super) fn differ(&mut self, id: SessionId, sequence: u64, theirs: &Record) {
        if self.course.differing.len() < DIFFERING_MAX || self.course.differing.contains_key(&theirs.path) {
            let noted = self.course.differing.get(&theirs.path).cloned().unwrap_or_default();
            self.course.differing.insert(theirs.path.clone(), noted.merged(&theirs.version));
            self.event(Event::Differs(theirs.path.clone()));
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.withhold(sequence);
        }
    }

    /// The version that stands here now may have seen what was noted.
    pub(super) fn agree_on(&mut self, path: &RelPath, version: &VersionVector) -> Result<(), StoreError> {
        if self.course.differing.get(path).is_some_and(|noted| version.covers(noted)) {
            self.course.differing.remove(path);
            if self.course.differing.is_empty() {
                return self.ask_all();
            }
        }
        Ok(())
    }

    /// After a lease came: what was noted is taken like any other version.
    pub(super) fn forget_differing(&mut self) -> Result<(), StoreError> {
        if self.course.differing.is_empty() || self.sends_only() {
            return Ok(());
        }
        self.course.differing.clear();
        self.ask_all()
    }

    /// On a replica that only sends: what stands here replaces the versions of peers that differ. Returns how many do.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn override_peers(&mut self) -> Result<u64, StoreError> {
        let differing = std::mem::take(&mut self.course.differing);
        let mut overridden = 0;
        // Entries before their directories, as for any deletion.
        for (path, theirs) in differing.into_iter().rev() {
            if self.observe_now(&path)? == super::intake::Observed::Unclear {
                self.course.differing.insert(path, theirs);
                continue;
            }
            let entry = self.index.entry(&path)?;
            let (kind, seen, ours, behind) = match entry {
                Some(entry) => (entry.record.kind, entry.seen, entry.record.version, entry.behind),
                None => (Kind::Deleted, None, VersionVector::default(), None),
            };
            let (by, epoch) = (self.meta.device, self.meta.fences.epoch());
            let version = ours.merged(&theirs);
            let both = Record { path: path.clone(), kind: kind.clone(), version, by, epoch };
            let record = self.own_version(Some(&both), &path, kind);
            self.put_behind(record, seen, behind)?;
            overridden += 1;
        }
        self.commit()?;
        self.ask_all()?;
        Ok(overridden)
    }
}
