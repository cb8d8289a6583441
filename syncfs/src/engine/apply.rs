//! Making a peer's versions visible and durable: stage and sync, publish by rename, sync the directories, commit the
//! index, and only then acknowledge. Whatever stands at a path is replaced only if it is exactly what the index has
//! seen; an edit that was not looked at yet becomes a version first, and then, where it must, a conflict.
//!
//! A directory is never removed with entries in it. What a deletion did not know of keeps its directory: that becomes
//! a new version, which the peer gets back. As tombstones may arrive after their directory's, that is decided only
//! when the peer has told everything.

use crate::disk::{Disk, DiskError, FileKind, Stat};
use crate::error::{StoreError, Unfit};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::{Decision, conflict_path, reconcile};
use crate::record::{Attributes, Kind, Record, VECTOR_DEVICES_MAX};
use crate::status::Event;

use super::exchange::Session;
use super::pending::{Key, Stage};
use super::{Engine, OWN};

/// Said once of a folder that cannot hold what it carries on.
pub(super) const NO_XATTRS: &str = "its filesystem has no extended attributes: they reach other replicas through this \
    one, and are not applied here";

/// What became of one version.
pub(super) enum Outcome {
    /// It is decided, and durable with the next commit.
    Done,
    /// It waits for what the peer still has to tell.
    Defer,
    /// The ground moved: look again.
    Again,
    /// It cannot be applied now, and a person is told why; the peer is not told that it was.
    Stuck(String),
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Applies, in one group, everything that is complete; commits; acknowledges.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        // What was done may be what something else waited for.
        while self.settle_once()? {}
        self.advance()?;
        self.materialise_due()?;
        self.settle_revived()
    }

    /// Directories that were made for what is in them, without a version of their own: one that holds nothing once
    /// the peers have told everything came and went with its entries; one that holds something lives again.
    fn settle_revived(&mut self) -> Result<(), StoreError> {
        if self.revived.is_empty()
            || !self.pending.is_empty()
            || !self.sessions.values().all(Session::has_told_all)
        {
            return Ok(());
        }
        self.end_revived()
    }

    /// The same where nobody else is waited for.
    pub(super) fn end_revived(&mut self) -> Result<(), StoreError> {
        for dir in std::mem::take(&mut self.revived).into_iter().rev() {
            if self.index.entry(&dir)?.is_some_and(|entry| entry.record.kind.is_live()) {
                continue;
            }
            let removed = match self.stat(&dir) {
                Ok(Some(stat)) if stat.kind == FileKind::Dir => self.disk.remove(&dir, &stat),
                _ => Ok(()),
            };
            match removed {
                Ok(()) => self.uncommitted = true,
                Err(error) if error.is_final() => return Err(error.into()),
                Err(_) => self.unsettle(&dir),
            }
        }
        Ok(())
    }

    fn settle_once(&mut self) -> Result<bool, StoreError> {
        let ready = self.ready();
        let ready = self.whole_groups(ready)?;
        if ready.is_empty() { Ok(false) } else { self.settle_group(ready) }
    }

    /// Returns whether any of these versions was applied.
    pub(super) fn settle_group(&mut self, ready: Vec<Key>) -> Result<bool, StoreError> {
        self.disk.check_root()?;
        let staged = ready.iter().filter(|key| self.is_staged(key));
        let (deltas, stages): (Vec<_>, Vec<_>) = staged.partition(|key| self.delta(key).is_some());
        let paths = |keys: Vec<&Key>| keys.into_iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        let (deltas, stages) = (paths(deltas), paths(stages));
        self.disk.stage_sync(&stages)?;
        self.disk.delta_sync(&deltas)?;
        self.keep_replaced(&ready)?;
        self.plan_group(&ready)?;
        // Directories before their entries; then deletions, entries before their directories.
        let is_deletion =
            |key: &Key| self.pending.get(key).is_some_and(|pending| !pending.record.kind.is_live());
        let (deletions, rest): (Vec<_>, Vec<_>) = ready.into_iter().partition(is_deletion);
        let mut done = Vec::new();
        for key in rest.into_iter().chain(deletions.into_iter().rev()) {
            self.settle_one(key, &mut done)?;
        }
        self.commit()?;
        let progress = !done.is_empty();
        for (path, session) in done {
            self.discard_stage(&path)?;
            if let Some(session) = self.sessions.get_mut(&session) {
                session.summary.applied += 1;
            }
        }
        Ok(progress)
    }

    /// What waits for more to be told is not planned anew each time.
    fn plan_group(&mut self, ready: &[Key]) -> Result<(), StoreError> {
        if self.sends_only() {
            return Ok(());
        }
        let theirs = ready.iter().filter(|key| key.1 != OWN).filter_map(|key| self.pending.get(key));
        let theirs =
            theirs.filter(|pending| matches!(pending.stage, Stage::Ready { .. }) && pending.delta.is_none());
        let records: Vec<_> = theirs.map(|pending| pending.record.clone()).collect();
        self.plan(&records)
    }

    /// Versions that can be applied now, in the order of their paths. A deferred one can once its peer has told
    /// everything.
    fn ready(&self) -> Vec<Key> {
        let mut ready: Vec<_> = self.pending.ready().cloned().collect();
        let complete = self.sessions.iter().filter(|(_, session)| session.is_complete());
        ready.extend(complete.flat_map(|(id, _)| self.pending.deferred(*id)));
        ready.sort_unstable();
        ready
    }

    pub(super) fn is_staged(&self, key: &Key) -> bool {
        let stage = self.pending.get(key).map(|pending| &pending.stage);
        matches!(stage, Some(Stage::Ready { staged: true } | Stage::Deferred { staged: true }))
    }

    /// Where the log ends with this version, if that is where its content is.
    pub(super) fn delta(&self, key: &Key) -> Option<u64> {
        self.pending.get(key).and_then(|pending| pending.delta)
    }

    fn settle_one(&mut self, key: Key, done: &mut Vec<Key>) -> Result<(), StoreError> {
        let Some(pending) = self.pending.get(&key) else { return Ok(()) };
        let (record, sequence) = (pending.record.clone(), pending.sequence);
        if key.1 != OWN && !self.meta.fences.admit(&record) {
            self.pending.remove(&key);
            self.refuse(key.1, sequence, &record.path);
            return Ok(());
        }
        let last = self.sessions.get(&key.1).is_none_or(|session| session.is_complete());
        let staged = self.is_staged(&key);
        let outcome = match key.1 {
            OWN => self.restore_one(&key, record),
            _ => self.apply_one(&key, record, staged, last),
        };
        match outcome {
            Ok(Outcome::Done) => {
                self.solved(&key.0);
                self.pending.remove(&key);
                // The same from another peer has lost its stage by that.
                self.pending.update_path(&key.0, |_, same| {
                    if matches!(same.stage, Stage::Deferred { staged: true }) {
                        same.restart();
                    }
                });
                done.push(key);
            }
            Ok(Outcome::Defer) => self.pending.set_stage(&key, Stage::Deferred { staged }),
            Ok(Outcome::Again) | Err(StoreError::Disk(DiskError::Changed | DiskError::Taken)) => {
                self.pending.restart(&key);
            }
            Ok(Outcome::Stuck(why)) => {
                self.pending.set_stage(&key, Stage::Deferred { staged });
                self.problem(Some(&key.0), why);
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                self.pending.set_stage(&key, Stage::Gone);
                if let StoreError::Disk(full @ DiskError::Full { .. }) = &error {
                    self.run_short(full);
                }
                self.problem(Some(&key.0), format!("cannot apply a peer's version: {error}"));
            }
        }
        Ok(())
    }

    /// Applies a peer's version to what stands here now.
    fn apply_one(
        &mut self,
        key: &Key,
        record: Record,
        staged: bool,
        last: bool,
    ) -> Result<Outcome, StoreError> {
        let path = record.path.clone();
        let before = self.index.entry(&path)?;
        if self.observe_now(&path)? == super::intake::Observed::Unclear {
            return Ok(Outcome::Stuck("waits until the local file can be read in one piece".to_owned()));
        }
        let entry = self.as_found(self.index.entry(&path)?);
        if entry.as_ref().map(|entry| entry.sequence) != before.map(|entry| entry.sequence) {
            return Ok(Outcome::Again);
        }
        if self.is_ignored(&record, entry.as_ref()) {
            return self.note(entry, record);
        }
        // An edit that nobody had looked at, or another peer's version, may have changed what is needed.
        if !staged
            && matches!(record.kind, Kind::File { .. } | Kind::Symlink { .. })
            && self.needs_content(key, &record)?
        {
            return Ok(Outcome::Again);
        }
        let ours = entry.clone().filter(|entry| !entry.stale);
        // Of a version that cannot be taken as a delta after all nothing is staged.
        let in_log = staged && self.delta(key).is_some();
        let decision = reconcile(ours.as_ref().map(|entry| &entry.record), &record);
        if let Decision::Merge { version, .. } | Decision::Conflict { version, .. } = &decision {
            // The resolution of a conflict is a write of this replica's own.
            if version.len_with(&self.meta.device, self.meta.sequence + 1) > VECTOR_DEVICES_MAX {
                return Ok(Outcome::Stuck(Unfit::TooManyDevices.to_string()));
            }
        }
        match decision {
            Decision::Keep => {
                let version = ours.map(|entry| entry.record.version).unwrap_or_default();
                self.agree_on(&path, &version)?;
                Ok(Outcome::Done)
            }
            Decision::Merge { theirs, version } => {
                let entry = entry.expect("merging is with something");
                self.merge(entry, record, theirs, version)?;
                Ok(Outcome::Done)
            }
            Decision::Take | Decision::Conflict { .. } if self.sends_only() => {
                let sequence = self.pending.get(key).map_or(0, |pending| pending.sequence);
                self.differ(key.1, sequence, &record);
                Ok(Outcome::Done)
            }
            Decision::Take => match (self.as_delta(key, entry.as_ref(), &record, staged), entry) {
                (Some(mark), Some(entry)) => {
                    self.take_delta(entry, record, mark)?;
                    Ok(Outcome::Done)
                }
                _ if in_log => Ok(Outcome::Again),
                // What nobody has any more is in no history either.
                (_, Some(entry))
                    if entry.behind.is_some() && self.disk.keeps_history() && self.want_current(&path)? =>
                {
                    Ok(Outcome::Again)
                }
                (_, entry) => {
                    let entry = self.keep_found(entry, &record)?;
                    self.replace(entry, record, last)
                }
            },
            Decision::Conflict { .. } if in_log => Ok(Outcome::Again),
            Decision::Conflict { version, .. }
                if entry.as_ref().is_some_and(|entry| entry.behind.is_some()) =>
            {
                self.current_first(entry, record, version, last)
            }
            Decision::Conflict { theirs_wins, version, copy } => {
                let ours = entry.expect("a conflict is with something");
                self.keep_both(ours, record, theirs_wins, version, copy, last)
            }
        }
    }

    /// Puts a version in the place of what stands there, which it has seen.
    pub(super) fn replace(
        &mut self,
        entry: Option<Entry>,
        record: Record,
        last: bool,
    ) -> Result<Outcome, StoreError> {
        let path = record.path.clone();
        let entry = entry.map(|entry| entry.standing());
        let same = entry.as_ref().filter(|entry| entry.record.kind == record.kind && !entry.stale);
        if let Some(seen) =
            same.map(|entry| entry.seen).filter(|seen| seen.is_some() || !record.kind.is_live())
        {
            return self.took(record, seen);
        }
        // An edit that was set aside stands there until its replacement: that may be this one, too.
        let planned = entry.as_ref().and_then(|entry| entry.seen).or(self.over(&(path.clone(), OWN)));
        // Most files are new, and the step itself looks whether nothing stands there.
        if planned.is_none() && matches!(record.kind, Kind::File { link: None, .. } | Kind::Symlink { .. }) {
            match self.place_file(&path, None) {
                Err(StoreError::Disk(DiskError::Changed | DiskError::NoParent | DiskError::NotEmpty)) => {}
                placed => return self.took(record, Some(placed?)),
            }
        }
        let expect = self.stat(&path)?;
        if !is_as_planned(expect.as_ref(), planned.as_ref()) {
            return Ok(Outcome::Again);
        }
        // What is to stand in a directory keeps it, also where nothing does yet: it is not gone for a moment.
        let is_dir = expect.is_some_and(|stat| stat.kind == FileKind::Dir);
        if is_dir && !record.kind.is_live() && self.pending.has_inside(&path) {
            return Ok(Outcome::Defer);
        }
        let placed = match &record.kind {
            Kind::Deleted => self.take_away(&path, expect.as_ref()).map(|()| None).map_err(StoreError::from),
            Kind::Dir { attributes } => self.place_dir(&path, attributes, expect.as_ref()).map(Some),
            Kind::File { .. } | Kind::Symlink { .. } => {
                let adjusted = entry.as_ref().and_then(|entry| can_adjust(entry, &record));
                match (adjusted, &expect) {
                    _ if self.other_name(&record)?.is_some() => match self.link(&record, expect.as_ref()) {
                        Ok(None) => return Ok(Outcome::Again),
                        linked => linked,
                    },
                    (Some((attributes, mtime_ns)), Some(expect)) => {
                        let adjusted = self.disk.adjust(&path, expect, attributes, mtime_ns);
                        adjusted.map(Some).map_err(StoreError::from)
                    }
                    _ => self.place_file(&path, expect.as_ref()).map(Some),
                }
            }
        };
        match placed {
            Ok(seen) => {
                self.lost_name(&path, expect.as_ref())?;
                self.took(record, seen)
            }
            // What is in it may be about to go, too.
            Err(StoreError::Disk(DiskError::NotEmpty)) if !last || self.pending.has_inside(&path) => {
                Ok(Outcome::Defer)
            }
            Err(StoreError::Disk(DiskError::NotEmpty))
                if !record.kind.is_live() && self.holds_only_ignored(&path)? =>
            {
                self.took(record, None)
            }
            Err(StoreError::Disk(DiskError::NotEmpty)) if self.is_undoing() => self.empty_out(&path),
            Err(StoreError::Disk(DiskError::NotEmpty)) => self.reassert(entry, record),
            Err(StoreError::Disk(DiskError::NoParent)) if !last => Ok(Outcome::Defer),
            Err(StoreError::Disk(DiskError::NoParent)) => {
                Ok(Outcome::Stuck("its directory is a file or symlink here".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    fn took(&mut self, record: Record, seen: Option<Stat>) -> Result<Outcome, StoreError> {
        if let (Some(attributes), Some(seen)) = (record.kind.attributes(), seen)
            && !attributes.xattrs.is_empty()
            && self.disk.xattrs(&record.path, &seen).is_ok_and(|(xattrs, _)| xattrs.is_none())
        {
            self.problem(None, NO_XATTRS);
        }
        self.event(Event::Applied(record.path.clone()));
        self.put(record, seen)?;
        Ok(Outcome::Done)
    }

    fn take_away(&mut self, path: &RelPath, expect: Option<&Stat>) -> Result<(), DiskError> {
        expect.map_or(Ok(()), |expect| self.disk.remove(path, expect))
    }

    pub(super) fn place_dir(
        &mut self,
        path: &RelPath,
        attributes: &Attributes,
        expect: Option<&Stat>,
    ) -> Result<Stat, StoreError> {
        if let Some(other) = expect.filter(|stat| stat.kind != FileKind::Dir) {
            self.give_way(path, other)?;
        }
        self.make_parents(path)?;
        Ok(self.disk.make_dir(path, attributes)?)
    }

    pub(super) fn place_file(&mut self, path: &RelPath, expect: Option<&Stat>) -> Result<Stat, StoreError> {
        let dir = expect.filter(|stat| stat.kind == FileKind::Dir);
        dir.map_or(Ok(()), |dir| self.give_way(path, dir))?;
        let expect = expect.filter(|_| dir.is_none());
        let placed = self.disk.publish(path, path, expect);
        if placed != Err(DiskError::NoParent) {
            return Ok(placed?);
        }
        self.make_parents(path)?;
        Ok(self.disk.publish(path, path, expect)?)
    }

    /// Removes what is of another kind than its successor. Should that not come to stand there, nobody has deleted anything.
    pub(super) fn give_way(&mut self, path: &RelPath, stands: &Stat) -> Result<(), StoreError> {
        self.disk.remove(path, stands)?;
        self.pending.update(&(path.clone(), OWN), |restore| restore.over = None);
        match self.index.entry(path)? {
            Some(entry) if entry.record.kind.is_live() => self.put_entry(&Entry { seen: None, ..entry }),
            _ => Ok(()),
        }
    }

    /// A peer's entry may come before its directory's record, or outlive a deletion of the directory.
    pub(super) fn make_parents(&mut self, path: &RelPath) -> Result<(), DiskError> {
        let mut missing = Vec::new();
        let mut next = path.parent();
        while let Some(dir) = next {
            match self.stat(&dir)? {
                None => missing.push(dir.clone()),
                Some(stat) if stat.kind == FileKind::Dir => break,
                Some(_) => return Err(DiskError::NoParent),
            }
            next = dir.parent();
        }
        for dir in missing.into_iter().rev() {
            self.disk.make_dir(&dir, &Attributes::of_mode(0o755))?;
            self.revived.insert(dir);
        }
        Ok(())
    }

    /// What a directory holds here that nobody else has is set aside, so that the directory can go; a stale tail in it was.
    fn empty_out(&mut self, path: &RelPath) -> Result<Outcome, StoreError> {
        self.empty(path)?;
        for entry in self.index.below(path)?.into_iter().rev().filter(|entry| entry.stale) {
            self.drop_stale_entry(&entry)?;
        }
        let left = self.disk.list(Some(path))?;
        if left.entries.is_empty() && left.problems.is_empty() {
            return Ok(Outcome::Again);
        }
        Ok(Outcome::Stuck("something in the directory cannot be set aside".to_owned()))
    }

    /// A directory stays because it holds what the peer's version did not know of.
    pub(super) fn reassert(&mut self, entry: Option<Entry>, theirs: Record) -> Result<Outcome, StoreError> {
        let path = theirs.path.clone();
        let Some(stat) = self.stat(&path)? else { return Ok(Outcome::Again) };
        let ours = entry.map(|entry| entry.record);
        let both = ours
            .as_ref()
            .map(|ours| Record { version: ours.version.merged(&theirs.version), ..ours.clone() });
        let attributes = match ours.as_ref().map(|ours| &ours.kind) {
            Some(Kind::Dir { attributes }) => attributes.clone(),
            _ => Attributes { owner: Some(stat.owner), ..Attributes::of_mode(stat.mode) },
        };
        if theirs.kind.is_live() {
            let copy = conflict_path(&theirs);
            if !self.place_copy(&path, &copy, true)? {
                return Ok(Outcome::Again);
            }
            self.record_copy(copy, theirs.clone())?;
        }
        let kind = Kind::Dir { attributes };
        let record = self.own_version(Some(both.as_ref().unwrap_or(&theirs)), &path, kind);
        self.put(record, Some(stat))?;
        Ok(Outcome::Done)
    }
}

/// The attributes and time to set, if that is all in which a version differs from the file that stands there. One with
/// several names is replaced instead, as the others may have other versions.
pub(super) fn can_adjust<'a>(entry: &Entry, record: &'a Record) -> Option<(&'a Attributes, i64)> {
    let only_name = entry.seen.is_some_and(|seen| seen.nlink == 1) && !entry.stale;
    match (&entry.record.kind, &record.kind) {
        (Kind::File { content: ours, .. }, Kind::File { attributes, mtime_ns, content, .. })
            if only_name && ours == content =>
        {
            Some((attributes, *mtime_ns))
        }
        _ => None,
    }
}

/// Whether what stands there is what the index has seen: nothing if it has seen nothing, else the very same file. A directory may
/// stand in any place: its own record is yet to come, or a user made it where a stale version stood; it goes only when it is empty.
fn is_as_planned(stands: Option<&Stat>, planned: Option<&Stat>) -> bool {
    stands == planned || stands.is_some_and(|stands| stands.kind == FileKind::Dir)
}
