//! Handing to the history what is about to lose its place (see [`crate::history`]), in one group for everything that a settle
//! replaces.

use crate::branch::What;
use crate::disk::{Disk, DiskError, Keep, Replaced, Stat};
use crate::error::{RestoreError, StoreError};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::{Decision, conflict_path, reconcile};

use super::intake::Observed;
use super::{Engine, OWN, SessionId};

impl<D: Disk, I: Index> Engine<D, I> {
    /// Keeps the files that these versions replace. A history that fails (a full disk) does not stop the folder: what is
    /// replaced was seen by whoever wrote its successor.
    pub(super) fn keep_replaced(&mut self, ready: &[(RelPath, SessionId)]) -> Result<(), StoreError> {
        if !self.disk.keeps_history() || self.sends_only() {
            return Ok(());
        }
        let mut replaced = Vec::new();
        for key in ready {
            if self.delta(key).is_some() {
                continue;
            }
            // An edit that nobody has looked at is not what the successor has seen.
            if self.observe_now(&key.0)? == Observed::Unclear {
                continue;
            }
            let (Some(entry), Some(pending)) = (self.index.entry(&key.0)?, self.pending.get(key)) else {
                continue;
            };
            let theirs = &pending.record;
            // What is visible while it is behind goes when it is materialised; another version waits for that.
            let (is_own, is_behind) = (key.1 == OWN, entry.behind.is_some());
            let standing = entry.standing();
            let changes = is_own == is_behind
                && standing.record.kind.content() != theirs.kind.content()
                && (is_own || reconcile(Some(&entry.record), theirs) == Decision::Take)
                && !self.is_ignored(theirs, Some(&entry))
                && !self.checking.is_damaged(&key.0);
            if let (Some(seen), Some(content)) = (entry.seen, standing.record.kind.content())
                && changes
                && !entry.stale
            {
                let (root, deleted) = (content.root(), !theirs.kind.is_live());
                replaced.push(Replaced { path: key.0.clone(), seen, root, by: theirs.by, deleted });
            }
        }
        self.retain(&replaced, false)
    }

    fn retain(&mut self, replaced: &[Replaced], always: bool) -> Result<(), StoreError> {
        if replaced.is_empty() {
            return Ok(());
        }
        let seen = match self.disk.retain(replaced, always) {
            Ok(seen) => seen,
            Err(error) if error.is_final() => return Err(error.into()),
            Err(error) if always => return Err(error.into()),
            Err(error) => {
                self.problem(None, format!("what peers replace is not kept: {error}"));
                return Ok(());
            }
        };
        // The second name changed the file's fingerprint.
        for (replaced, seen) in replaced.iter().zip(seen).filter(|(_, seen)| seen.is_some()) {
            if let Some(mut entry) = self.index.entry(&replaced.path)?
                && entry.seen == Some(replaced.seen)
            {
                entry.seen = seen;
                self.put_entry(&entry)?;
                self.pending.update(&(replaced.path.clone(), OWN), |pending| pending.over = seen);
            }
        }
        Ok(())
    }

    /// Prepares a path for a local write of this program: what stands there is taken up, and kept, in the history or else
    /// beside it as the copy of a conflict.
    ///
    /// # Errors
    /// [`RestoreError::Follower`] where the write would be undone; [`RestoreError::Busy`] if what stands there cannot be read.
    pub fn make_room(&mut self, path: &RelPath) -> Result<(), RestoreError> {
        self.make_room_unless(path, None)
    }

    /// The same, but what is to be written anyway needs no room.
    pub(super) fn make_room_unless(
        &mut self,
        path: &RelPath,
        what: Option<What>,
    ) -> Result<(), RestoreError> {
        if self.is_undoing() {
            return Err(RestoreError::Follower);
        }
        self.is_known_now(path)?;
        let Some(entry) = self.index.entry(path)? else { return Ok(()) };
        let stands = What::of(&entry.record.kind).filter(|stands| *stands != What::Deleted);
        match (entry.seen, stands) {
            (Some(_), Some(_)) if stands != what => self.keep_standing(entry, true),
            _ => Ok(()),
        }
    }

    /// Keeps what stands at a path before it loses its place to a local write; a history that is off, and a database that is in
    /// use, leave only the copy of a conflict, if `beside` is allowed.
    pub(super) fn keep_standing(&mut self, entry: Entry, beside: bool) -> Result<(), RestoreError> {
        let Some(seen) = entry.seen else { return Ok(()) };
        match entry.record.kind.content() {
            Some(content) if self.disk.keeps_history() && seen.side == 0 => {
                let (root, by) = (content.root(), self.meta.device);
                let path = entry.record.path;
                let replaced = Replaced { path: path.clone(), seen, root, by, deleted: false };
                match self.retain(&[replaced], true) {
                    // Also if it is so fresh that a later write could bear the same times.
                    Err(StoreError::Disk(DiskError::Changed)) => Err(RestoreError::Busy(path)),
                    Err(StoreError::Disk(error @ DiskError::Io { .. })) => Err(error.into()),
                    other => Ok(other?),
                }
            }
            _ if beside => self.keep_copy(entry, seen),
            _ => Ok(()),
        }
    }

    fn keep_copy(&mut self, entry: Entry, stood: Stat) -> Result<(), RestoreError> {
        let path = entry.record.path.clone();
        let copy = conflict_path(&entry.record);
        self.is_known_now(&copy)?;
        if self.index.entry(&copy)?.is_none_or(|entry| !entry.record.kind.is_live()) {
            match self.disk.keep(&path, &Keep::Beside(copy.clone())) {
                Ok(_) => {}
                Err(DiskError::Changed | DiskError::Taken) => return Err(RestoreError::Busy(path)),
                Err(error) => return Err(error.into()),
            }
            self.uncommitted = true;
        }
        let Some(seen) = self.still_stands(&path, &stood)? else { return Err(RestoreError::Busy(path)) };
        self.record_copy(copy, entry.record.clone())?;
        Ok(self.put_entry(&Entry { seen: Some(seen), ..entry })?)
    }

    /// Whether anything is kept at all.
    #[must_use]
    pub fn keeps_history(&self) -> bool {
        self.disk.keeps_history()
    }

    /// The disk, for what only the driver's can do.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }
}
