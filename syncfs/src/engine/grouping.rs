//! Versions of a group (see [`crate::cutting`]) become visible together, on a replica that gets them from a peer: when the
//! peer has told everything, so that no part of a cut is missing, and all their contents are durable in their stages. Then
//! nothing is left to do but renames, in a row. They are planned (see `plans`), deletions among them, and a start
//! after a crash finishes them before anything else: the index, and so whoever takes the folder over, knows whole cuts only.
//!
//! What changes here at that very moment can still stand against one of the renames. The rest of the group is loose then
//! (see `consistency`), until the peer's next complete batch.

use std::collections::BTreeMap;

use crate::disk::{Disk, is_intact};
use crate::error::StoreError;
use crate::hash::ContentHash;
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::{Decision, reconcile};
use crate::record::{Kind, Record};

use super::exchange::Session;
use super::intake::Observed;
use super::pending::{Key, Stage};
use super::{Engine, OWN, SessionId};

/// What one peer offers of one group.
type Unit = (SessionId, RelPath);

impl<D: Disk, I: Index> Engine<D, I> {
    /// Of versions that could be applied, leaves those of groups that can be applied whole; the others wait.
    pub(super) fn whole_groups(&mut self, ready: Vec<Key>) -> Result<Vec<Key>, StoreError> {
        if self.meta.cuts.groups.is_empty() {
            return Ok(ready);
        }
        let (mut units, mut whole) = (BTreeMap::<Unit, Vec<Key>>::new(), Vec::new());
        for key in ready {
            match self.group_of(&key.0).filter(|_| key.1 != OWN) {
                Some(name) => units.entry((key.1, name)).or_default().push(key),
                None => whole.push(key),
            }
        }
        for (unit, members) in units {
            let can_go = self.is_whole(&unit, &members)?;
            for key in members {
                let staged = self.is_staged(&key);
                match self.pending.get(&key).map(|pending| &pending.stage) {
                    Some(Stage::Ready { .. } | Stage::Deferred { .. }) if can_go => {
                        self.pending.set_stage(&key, Stage::Ready { staged });
                        whole.push(key);
                    }
                    Some(Stage::Ready { .. }) => self.pending.set_stage(&key, Stage::Deferred { staged }),
                    _ => {}
                }
            }
        }
        whole.sort_unstable();
        Ok(whole)
    }

    /// Whether nothing of a cut is missing, nor stands anything against it here.
    fn is_whole(&mut self, unit: &Unit, members: &[Key]) -> Result<bool, StoreError> {
        let told_all = self.sessions.get(&unit.0).is_some_and(Session::is_complete);
        let offered =
            self.meta.cuts.groups.of(&unit.1).map_or(0, |group| self.pending.count_in(unit.0, group));
        if !told_all || offered != members.len() {
            return Ok(false);
        }
        let mut whole = true;
        for key in members {
            let before = self.index.entry(&key.0)?.map(|entry| entry.sequence);
            if self.observe_now(&key.0)? == Observed::Unclear {
                whole = false;
                continue;
            }
            let Some(record) = self.pending.get(key).map(|pending| pending.record.clone()) else {
                whole = false;
                continue;
            };
            let same = self.index.entry(&key.0)?.map(|entry| entry.sequence) == before;
            let has_content = matches!(record.kind, Kind::File { .. } | Kind::Symlink { .. });
            if !same || has_content && !self.is_staged(key) && self.needs_content(key, &record)? {
                self.pending.restart(key);
                whole = false;
            }
        }
        Ok(whole)
    }

    /// After a crash between the renames of a group: does the rest of them.
    pub(super) fn finish_groups(&mut self) -> Result<(), StoreError> {
        let left = self.plans.left();
        let left: Vec<_> = left.filter(|record| self.group_of(&record.path).is_some()).cloned().collect();
        let (live, gone): (Vec<_>, Vec<_>) = left.into_iter().partition(|record| record.kind.is_live());
        for record in live.into_iter().chain(gone.into_iter().rev()) {
            let path = record.path.clone();
            match self.finish_one(record) {
                Ok(true) => {}
                Ok(false) => self.meta.cuts.mark.loose.insert(path),
                Err(StoreError::Disk(error)) if !error.is_final() => {
                    self.problem(
                        Some(&path),
                        format!("cannot finish a cut that a crash interrupted: {error}"),
                    );
                    self.meta.cuts.mark.loose.insert(path);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns whether the version stands there now.
    fn finish_one(&mut self, record: Record) -> Result<bool, StoreError> {
        let path = record.path.clone();
        let entry = self.index.entry(&path)?;
        let takes = reconcile(entry.as_ref().map(|entry| &entry.record), &record) == Decision::Take;
        if !takes || !self.meta.fences.admit(&record) || entry.as_ref().is_some_and(|entry| entry.stale) {
            return Ok(!takes);
        }
        let stands = self.stat(&path)?;
        if stands.is_none() && !record.kind.is_live() {
            self.put(record, None)?;
            return Ok(true);
        }
        let untouched = stands == entry.as_ref().and_then(|entry| entry.seen);
        if let (false, Some(stat)) = (untouched, stands) {
            let Some(seen) = self.stands(&record, &stat)? else { return Ok(false) };
            self.put(record, Some(seen))?;
            return Ok(true);
        }
        if !self.stage_holds(&record, entry.as_ref())? && self.other_name(&record)?.is_none() {
            return Ok(false);
        }
        self.replace(entry, record, true)?;
        self.discard_stage(&path)?;
        Ok(true)
    }

    /// Whether the content that a version needs is complete in its stage.
    fn stage_holds(&mut self, record: &Record, entry: Option<&Entry>) -> Result<bool, StoreError> {
        if let Kind::Symlink { owner, target } = &record.kind {
            self.disk.stage_symlink(&record.path, target, *owner)?;
        }
        let Some(content) = record.kind.content() else { return Ok(true) };
        if entry.is_some_and(|entry| super::apply::can_adjust(entry, record).is_some()) {
            return Ok(true);
        }
        let whole = [(0, ContentHash::of(b""), 0)].into_iter();
        let chunks = content.placed().map(|(offset, chunk)| (offset, chunk.hash, chunk.length));
        for (offset, hash, length) in whole.chain(chunks) {
            let bytes = self.disk.stage_read(&record.path, offset, length)?;
            if !bytes.is_some_and(|bytes| is_intact(&bytes, &hash)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
