//! Resolving a conflict: a person says which of two versions the folder goes on with. Ordinary local writes, each in one step,
//! so that two replicas on which the same conflict is resolved at once converge like after any two writes.

use crate::disk::{Disk, DiskError};
use crate::error::{RestoreError, StoreError};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::conflict_of;
use crate::status::Resolution;

use super::Engine;

impl<D: Disk, I: Index> Engine<D, I> {
    /// Ends the conflict whose kept copy is at `copy`. The version that does not stay goes into the history, if there is one.
    ///
    /// # Errors
    /// [`RestoreError::NoConflict`] if there is no such copy; [`RestoreError::Follower`] where the write would be undone;
    /// [`RestoreError::Busy`] if one of the two is being written; [`RestoreError::Taken`], [`RestoreError::Directory`] if
    /// something is in the way. Nothing was done then.
    pub fn resolve_conflict(&mut self, copy: &RelPath, resolution: &Resolution) -> Result<(), RestoreError> {
        if self.is_undoing() {
            return Err(RestoreError::Follower);
        }
        let no_conflict = || RestoreError::NoConflict(copy.clone());
        let path = conflict_of(copy).ok_or_else(no_conflict)?.path;
        self.is_known_now(copy)?;
        let kept = self.standing(copy)?.ok_or_else(no_conflict)?;
        match resolution {
            Resolution::Current => self.give_up(kept)?,
            Resolution::Copy => self.promote(kept, &path)?,
            Resolution::Both(name) => self.rename_copy(kept, name)?,
        }
        Ok(self.commit()?)
    }

    /// What stands at a path and may lose its place.
    fn standing(&self, path: &RelPath) -> Result<Option<Entry>, StoreError> {
        let stands = |entry: &Entry| entry.record.kind.is_live() && entry.seen.is_some() && !entry.stale;
        Ok(self.index.entry(path)?.filter(stands))
    }

    fn give_up(&mut self, kept: Entry) -> Result<(), RestoreError> {
        let copy = kept.record.path.clone();
        self.keep_standing(kept, false)?;
        let seen = self.standing(&copy)?.and_then(|entry| entry.seen);
        let seen = seen.ok_or_else(|| RestoreError::Busy(copy.clone()))?;
        self.disk.remove(&copy, &seen).map_err(|error| blocked(&copy, error))?;
        self.uncommitted = true;
        self.observe_now(&copy)?;
        Ok(())
    }

    fn promote(&mut self, kept: Entry, path: &RelPath) -> Result<(), RestoreError> {
        let copy = &kept.record.path;
        self.is_known_now(path)?;
        let current = self.standing(path)?;
        if current.as_ref().is_some_and(|entry| entry.record.kind.is_dir()) {
            return Err(RestoreError::Directory(path.clone()));
        }
        if let Some(current) = current {
            self.keep_standing(current, false)?;
        }
        let expect = self.standing(path)?.and_then(|entry| entry.seen);
        let from = self.idle(&kept)?;
        self.disk.replace(copy, path, &from, expect.as_ref()).map_err(|error| blocked(path, error))?;
        self.uncommitted = true;
        // The winner first: a peer never hears that the copy is gone before it hears where its content is.
        self.observe_now(path)?;
        self.observe_now(copy)?;
        Ok(())
    }

    fn rename_copy(&mut self, kept: Entry, name: &RelPath) -> Result<(), RestoreError> {
        let copy = &kept.record.path;
        let from = self.idle(&kept)?;
        self.disk.rename(copy, name, &from).map_err(|error| blocked(name, error))?;
        self.uncommitted = true;
        self.observe_now(name)?;
        self.observe_now(copy)?;
        Ok(())
    }

    /// The fingerprint of a copy that can be moved: a database with a log would leave that behind.
    fn idle(&self, kept: &Entry) -> Result<crate::disk::Stat, RestoreError> {
        let busy = || RestoreError::Busy(kept.record.path.clone());
        kept.seen.filter(|seen| seen.side == 0).ok_or_else(busy)
    }
}

fn blocked(path: &RelPath, error: DiskError) -> RestoreError {
    match error {
        DiskError::Changed => RestoreError::Busy(path.clone()),
        DiskError::Taken | DiskError::NoParent => RestoreError::Taken(path.clone()),
        DiskError::NotEmpty => RestoreError::Directory(path.clone()),
        error => error.into(),
    }
}
