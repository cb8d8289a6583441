//! Conflicts: two versions that were written at once both stay, side by side, until a person says which of them the folder
//! goes on with. That is an ordinary local write, in one step, so that two replicas on which the same conflict is resolved at
//! once converge like after any two writes.

use crate::disk::{Disk, DiskError, Keep};
use crate::error::{RestoreError, StoreError};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::conflict_of;
use crate::record::{Record, VersionVector};
use crate::status::Resolution;

use super::Engine;
use super::apply::Outcome;
use super::intake::Observed;

impl<D: Disk, I: Index> Engine<D, I> {
    /// Both say the same: the one stands for both, and both histories were seen.
    pub(super) fn merge(
        &mut self,
        ours: Entry,
        theirs: Record,
        named: bool,
        version: VersionVector,
    ) -> Result<(), StoreError> {
        let stands = if named { theirs } else { ours.record };
        self.put_behind(Record { version, ..stands }, ours.seen, ours.behind)
    }

    /// Both were written at once. The loser stands beside the winner, durably, before the resolution exists.
    pub(super) fn keep_both(
        &mut self,
        ours: Entry,
        theirs: Record,
        theirs_wins: bool,
        version: VersionVector,
        copy: Option<RelPath>,
        last: bool,
    ) -> Result<Outcome, StoreError> {
        let path = theirs.path.clone();
        if theirs_wins && copy.is_some() && ours.seen.is_none() {
            return Ok(Outcome::Stuck("waits for the version that a peer's is to be kept beside".to_owned()));
        }
        let loser = if theirs_wins { ours.record.clone() } else { theirs.clone() };
        if let Some(copy) = &copy
            && !self.place_copy(&path, copy, !theirs_wins)?
        {
            return Ok(Outcome::Again);
        }
        let seen = match ours.seen {
            Some(stood) => self.still_stands(&path, &stood)?,
            None => self.stat(&path)?,
        };
        if seen.is_some() != ours.seen.is_some() {
            return Ok(Outcome::Again);
        }
        if let Some(copy) = copy {
            self.record_copy(copy, loser)?;
        }
        let seen_both = Record { version, ..theirs.clone() };
        if theirs_wins {
            let resolved = self.own_version(Some(&seen_both), &path, theirs.kind);
            return self.replace(Some(Entry { seen, ..ours }), resolved, last);
        }
        let resolved = self.own_version(Some(&seen_both), &path, ours.record.kind);
        self.put(resolved, seen)?;
        Ok(Outcome::Done)
    }

    /// A loser comes to stand at `copy`, unless it does already: what is staged for the path, or what stands there. Returns whether it
    /// is clear what stands at `copy`.
    pub(super) fn place_copy(
        &mut self,
        path: &RelPath,
        copy: &RelPath,
        staged: bool,
    ) -> Result<bool, StoreError> {
        if self.observe_now(copy)? == Observed::Unclear {
            return Ok(false);
        }
        let taken = self.index.entry(copy)?.is_some_and(|entry| entry.record.kind.is_live());
        if !taken && staged {
            self.make_parents(copy)?;
            self.disk.publish(path, copy, None)?;
        } else if !taken {
            self.disk.keep(path, &Keep::Beside(copy.clone()))?;
        }
        Ok(true)
    }

    /// The copy of a loser becomes a version. It comes before the resolution in this replica's
    /// sequence, so that peers hear of it first.
    pub(super) fn record_copy(&mut self, copy: RelPath, loser: Record) -> Result<(), StoreError> {
        let before = self.index.entry(&copy)?.map(|entry| entry.record);
        if before.as_ref().is_none_or(|before| !before.kind.is_live()) {
            let seen = self.stat(&copy)?;
            let record = self.own_version(before.as_ref(), &copy, loser.kind.linked(None));
            self.put(record, seen)?;
        }
        Ok(())
    }

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
