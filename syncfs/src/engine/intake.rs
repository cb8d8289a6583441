//! Local changes: what stands on the disk is compared with the index, and what differs becomes a new version of this
//! replica, or, on a follower of a leased folder, is set aside and undone.
//!
//! Absence is evidence of a deletion only where a directory could be read completely and the root is there.

use crate::branch::{Cause, Kept, What};
use crate::disk::{Disk, DiskError, FileKind, Stat};
use crate::error::{StoreError, Unfit};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::record::{FILE_CHUNKS_MAX, Kind, VECTOR_DEVICES_MAX, are_fit_xattrs};
use crate::status::{Event, Problem, ScanReport};

use super::ignoring::ignore_file;
use super::scanning::Compared;
use super::{Engine, PROBLEMS_MAX};

/// What an entry turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    Same,
    Changed,
    Deleted,
    /// It could not be taken up; it keeps its last version.
    Unclear,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Walks the whole directory, takes up what changed, and commits.
    ///
    /// # Errors
    /// If the directory is not there, or the index fails; nothing is deleted then.
    pub fn scan(&mut self) -> Result<ScanReport, StoreError> {
        self.disk.check_root()?;
        let mut report = ScanReport::default();
        self.problems.clear();
        self.left_out.clear();
        self.load_rules()?;
        self.finish_groups()?;
        let Compared { mut gone, found, unread } = self.compare(&mut report)?;
        if self.believes(&gone, &found)? {
            self.release();
            self.take_up_gone(std::mem::take(&mut gone), &mut report)?;
        }
        self.cut_changed(false)?;
        self.look_at_names()?;
        self.go_on_repairing()?;
        self.forget_restless();
        self.settle_plans(&gone, &unread);
        self.commit()?;
        if std::mem::take(&mut self.fence_unsettled) {
            if self.retire()? {
                self.restate(true)?;
            }
            self.find_branches()?;
        }
        report.problems = self.problems();
        Ok(report)
    }

    /// Takes up what changed at or below these paths, without committing; with `paced`, databases no more often than they
    /// are cut. Other ignore rules are about everything.
    pub(super) fn touched(&mut self, paths: Vec<RelPath>, paced: bool) -> Result<(), StoreError> {
        self.disk.check_root()?;
        if paths.contains(&ignore_file()) && self.load_rules()? {
            return self.scan().map(drop);
        }
        let (mut present, mut gone) = (Vec::new(), Vec::new());
        for path in self.take_up_moves(paths)? {
            if !(self.waits_for_cut(&path) || paced && self.put_off(&path)?) {
                self.scan_path(&path, &mut present, &mut gone)?;
            }
        }
        gone.sort_unstable();
        gone.dedup();
        if self.believes(&gone, &present)? {
            self.take_up_gone(gone, &mut ScanReport::default())?;
        }
        self.cut_changed(paced)?;
        self.look_at_names()
    }

    /// The same for directories of which only the attributes may have changed.
    pub(super) fn adjusted(&mut self, dirs: &[RelPath]) -> Result<(), StoreError> {
        self.disk.check_root()?;
        dirs.iter().try_for_each(|dir| self.observe_now(dir).map(drop))
    }

    /// The same for one path and what is below it; collects what was found and what was not.
    fn scan_path(
        &mut self,
        path: &RelPath,
        found: &mut Vec<(RelPath, Stat)>,
        gone: &mut Vec<RelPath>,
    ) -> Result<(), StoreError> {
        let stat = match self.stat(path) {
            Ok(stat) => stat,
            Err(error) => return self.unclear(path, error).map(drop),
        };
        if stat.is_some() && self.is_ignored_path(path, stat.as_ref(), None) {
            return Ok(());
        }
        let (mut present, mut unread) = (Vec::new(), Vec::new());
        if let Some(stat) = stat {
            present.push((path.clone(), stat));
            if stat.kind == FileKind::Dir {
                self.walk(Some(path), &mut present, &mut unread)?;
            }
        }
        self.take_up(&present, &mut ScanReport::default())?;
        let mut known: Vec<_> = self.index.below(path)?.into_iter().map(|entry| entry.record.path).collect();
        known.push(path.clone());
        present.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        known.retain(|path| {
            let stands = present.binary_search_by(|(other, _)| other.cmp(path)).is_ok();
            !stands && !unread.iter().any(|dir| dir.as_ref().is_none_or(|dir| path.is_below(dir)))
        });
        gone.extend(known);
        found.extend(present);
        Ok(())
    }

    pub(super) fn take_up(
        &mut self,
        present: &[(RelPath, Stat)],
        report: &mut ScanReport,
    ) -> Result<(), StoreError> {
        self.note_names(present);
        for (path, stat) in present {
            if self.observe(path, Some(*stat))? == Observed::Changed {
                report.changed += 1;
            }
        }
        Ok(())
    }

    /// Children before their directories, so that a peer can apply deletions in this order. Whatever the listing
    /// said, an entry is gone only if it is still not there now.
    pub(super) fn take_up_gone(
        &mut self,
        gone: Vec<RelPath>,
        report: &mut ScanReport,
    ) -> Result<(), StoreError> {
        for path in gone.into_iter().rev() {
            let stat = self.stat(&path);
            report.deleted += u64::from(self.observe_stat(&path, stat)? == Observed::Deleted);
        }
        Ok(())
    }

    pub(super) fn walk(
        &mut self,
        dir: Option<&RelPath>,
        present: &mut Vec<(RelPath, Stat)>,
        unread: &mut Vec<Option<RelPath>>,
    ) -> Result<(), StoreError> {
        let mut todo = vec![dir.cloned()];
        while let Some(dir) = todo.pop() {
            let entries = self.entries_of(dir.as_ref(), unread)?;
            let dirs = entries.iter().filter(|(_, stat)| stat.kind == FileKind::Dir);
            todo.extend(dirs.map(|(path, _)| Some(path.clone())));
            present.extend(entries);
        }
        Ok(())
    }

    /// What a directory holds that is not ignored; nothing, and a note of that, if it cannot be read completely.
    pub(super) fn entries_of(
        &mut self,
        dir: Option<&RelPath>,
        unread: &mut Vec<Option<RelPath>>,
    ) -> Result<Vec<(RelPath, Stat)>, StoreError> {
        match self.disk.list(dir) {
            Ok(listing) => {
                self.leave_out(dir, listing.problems);
                let mut entries = listing.entries;
                entries.retain(|(path, stat)| !self.is_ignored_entry(path, stat.kind == FileKind::Dir));
                Ok(entries)
            }
            Err(error) if error.is_final() => Err(error.into()),
            // Gone since its parent was listed: the event for that is on its way, or the next scan sees it.
            Err(error) => {
                self.problem(dir, format!("cannot list the directory: {error}"));
                dir.iter().for_each(|dir| self.unsettle(dir));
                unread.push(dir.cloned());
                Ok(Vec::new())
            }
        }
    }

    /// Remembers that a directory has entries which cannot be replicated, until it is listed again.
    fn leave_out(&mut self, dir: Option<&RelPath>, problems: Vec<Problem>) {
        let more = problems.len().saturating_sub(1);
        let Some(mut problem) = problems.into_iter().next() else {
            self.left_out.remove(&dir.cloned());
            return;
        };
        if more > 0 {
            problem.what += &format!(" (and {more} more in this directory)");
        }
        if self.left_out.get(&dir.cloned()) != Some(&problem) && self.left_out.len() < PROBLEMS_MAX {
            self.left_out.insert(dir.cloned(), problem.clone());
            self.event(Event::Problem(problem));
        }
    }

    /// Looks at one path now. A directory that is gone is looked at with all that was in it, soon: peers must hear of its
    /// entries first, and whether it was moved, or is held back, does not show here.
    pub(super) fn observe_now(&mut self, path: &RelPath) -> Result<Observed, StoreError> {
        let stat = self.stat(path);
        if stat == Ok(None) && self.knows_entries(path)? {
            self.unsettle(path);
            return Ok(Observed::Unclear);
        }
        self.observe_stat(path, stat)
    }

    fn observe_stat(
        &mut self,
        path: &RelPath,
        stat: Result<Option<Stat>, DiskError>,
    ) -> Result<Observed, StoreError> {
        match stat {
            Ok(stat) => self.observe(path, stat),
            Err(error) => self.unclear(path, error),
        }
    }

    /// Whether the index knows a directory with entries there.
    fn knows_entries(&self, dir: &RelPath) -> Result<bool, StoreError> {
        let stood = |entry: &Entry| entry.record.kind.is_live() && entry.seen.is_some();
        if !self.index.entry(dir)?.is_some_and(|entry| entry.record.kind.is_dir() && stood(&entry)) {
            return Ok(false);
        }
        Ok(self.index.below(dir)?.iter().any(stood))
    }

    /// What stands at the path; something without a parent directory is simply not there.
    pub(super) fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        match self.disk.stat(path) {
            Err(DiskError::NoParent) => Ok(None),
            other => other,
        }
    }

    pub(super) fn observe(&mut self, path: &RelPath, stat: Option<Stat>) -> Result<Observed, StoreError> {
        match self.look_at(path, stat) {
            // The ground moved below it.
            Err(StoreError::Disk(DiskError::NoParent)) => self.unclear(path, DiskError::Changed),
            // One path is no reason to stop for; a disk without room is about all of them.
            Err(StoreError::Disk(error)) if !matches!(error, DiskError::Full { .. }) => {
                self.unclear(path, error)
            }
            other => other,
        }
    }

    fn look_at(&mut self, path: &RelPath, stat: Option<Stat>) -> Result<Observed, StoreError> {
        let entry = self.index.entry(path)?;
        let ignored = self.is_ignored_path(path, stat.as_ref(), entry.as_ref());
        let Some(stat) = stat else {
            self.solved(path);
            return match entry {
                Some(entry) if !entry.record.kind.is_live() => Ok(Observed::Same),
                Some(entry) if ignored => self.lose_sight(entry),
                Some(_) if self.waits_for_cut(path) => Ok(Observed::Unclear),
                Some(entry) => self.observe_absence(entry),
                None => Ok(Observed::Same),
            };
        };
        let same = entry.as_ref().is_some_and(|entry| entry.is_seen(&stat));
        if same
            || ignored
            || self.is_set_aside(path, &stat)
            || self.revived.contains(path) && stat.kind == FileKind::Dir
            || self.is_remnant(path, entry.as_ref(), &stat)?
        {
            self.is_at_rest(path);
            return Ok(Observed::Same);
        }
        if self.arrived(path, entry.as_ref(), &stat)? {
            return Ok(Observed::Changed);
        }
        if self.waits_for_cut(path) {
            return Ok(Observed::Unclear);
        }
        let names = self.other_names(path, &stat)?;
        let standing = entry.as_ref().map(Entry::standing);
        let (kind, stat) = match self.read_kind(path, &stat, standing.as_ref(), &names) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Observed::Unclear),
            Err(error) => return self.unclear(path, error),
        };
        self.solved(path);
        self.take_up_read(path, entry, kind, stat)
    }

    /// What was read at a path becomes a version, if it is another one.
    pub(super) fn take_up_read(
        &mut self,
        path: &RelPath,
        entry: Option<Entry>,
        kind: Kind,
        stat: Stat,
    ) -> Result<Observed, StoreError> {
        if self.is_known_damage(path, entry.as_ref(), &kind, &stat)? {
            return Ok(Observed::Same);
        }
        if entry.as_ref().is_none_or(|entry| entry.record.kind != kind) {
            self.look_at_others(path, &stat)?;
        }
        match entry {
            Some(entry) if entry.behind.is_some() && entry.seen.is_some() => {
                self.observe_behind(path, entry, kind, stat)
            }
            Some(mut entry) if entry.record.kind == kind && !(entry.stale && entry.seen.is_none()) => {
                let restored = entry.seen.is_none();
                entry.behind = None;
                entry.seen = Some(stat);
                self.put_entry(&entry)?;
                if restored {
                    self.pending.remove(&(path.clone(), super::OWN));
                }
                Ok(Observed::Same)
            }
            Some(entry) if (entry.behind.is_some() || self.is_noted(&entry, &stat)) && !self.is_undoing() => {
                self.part(path, entry, kind, &stat)
            }
            entry if self.must_undo(entry.as_ref())? => {
                self.undo(path, entry, &kind, &stat).map(|()| Observed::Changed)
            }
            entry => self.publish_own(path, entry, kind, Some(stat)),
        }
    }

    /// A directory that may not be, or not any more, and still stands for what is ignored in it.
    fn is_remnant(&mut self, path: &RelPath, entry: Option<&Entry>, stat: &Stat) -> Result<bool, StoreError> {
        let unwanted = entry.map_or(self.is_undoing(), |entry| !entry.record.kind.is_live());
        Ok(unwanted && stat.kind == FileKind::Dir && self.holds_only_ignored(path)?)
    }

    /// What stands at a path, or that nothing does, becomes a version of this replica.
    pub(super) fn publish_own(
        &mut self,
        path: &RelPath,
        entry: Option<Entry>,
        kind: Kind,
        stat: Option<Stat>,
    ) -> Result<Observed, StoreError> {
        let record = self.own_version(entry.as_ref().map(|entry| &entry.record), path, kind);
        if let Some(unfit) = unfit(&record) {
            self.problem(Some(path), unfit);
            return Ok(Observed::Unclear);
        }
        self.put_own(record, stat)?;
        self.event(Event::Changed(path.clone()));
        Ok(if stat.is_some() { Observed::Changed } else { Observed::Deleted })
    }

    fn observe_absence(&mut self, mut entry: Entry) -> Result<Observed, StoreError> {
        let path = entry.record.path.clone();
        if entry.stale {
            self.lose_stale(entry)?;
            return Ok(Observed::Same);
        }
        let kept = entry.behind.is_some() || self.gave_way(&entry.record)?;
        if entry.seen.is_none() || kept || self.must_undo(Some(&entry))? {
            let stood = entry.seen.is_some() || self.over(&(path.clone(), super::OWN)).is_some();
            if stood && !kept && !entry.record.kind.is_dir() {
                let (by, base) = (self.meta.device, entry.record.version.clone());
                let kept = Kept { path: path.clone(), what: What::Deleted, by, base };
                self.keep_deletion(Cause::FollowerEdit, self.meta.fences.epoch(), &kept)?;
            }
            entry.seen = None;
            self.put_entry(&entry)?;
            self.restore(entry.record, None);
            return Ok(Observed::Same);
        }
        self.publish_own(&path, Some(entry), Kind::Deleted, None)
    }

    /// Remembers why a path could not be taken up; only a dead disk or a missing root goes further.
    pub(super) fn unclear(&mut self, path: &RelPath, error: DiskError) -> Result<Observed, StoreError> {
        match error {
            error if error.is_final() => Err(error.into()),
            // Its directory went meanwhile, so it is not there either.
            DiskError::Changed | DiskError::NoParent => {
                self.unsettle(path);
                Ok(Observed::Unclear)
            }
            error => {
                if matches!(error, DiskError::Busy(_)) {
                    self.unsettle(path);
                    self.is_restless(path);
                }
                self.problem(Some(path), error);
                Ok(Observed::Unclear)
            }
        }
    }
}

/// Whether what stands there is what the index has seen. A directory's times change with its entries: they say only that
/// its extended attributes may have changed.
pub(super) fn is_unchanged(entry: &Entry, stat: &Stat) -> bool {
    let own = |stat: &Stat| (stat.kind, stat.mode, stat.owner, stat.dev, stat.ino);
    let same = |seen: &Stat| seen == stat || stat.kind == FileKind::Dir && own(seen) == own(stat);
    entry.record.kind.is_live() && entry.seen.as_ref().is_some_and(same)
}

fn unfit(record: &crate::record::Record) -> Option<Unfit> {
    if record.version.len() > VECTOR_DEVICES_MAX {
        return Some(Unfit::TooManyDevices);
    }
    if record.kind.attributes().is_some_and(|attributes| !are_fit_xattrs(&attributes.xattrs)) {
        return Some(Unfit::XattrsTooLarge);
    }
    record.kind.content().filter(|content| content.chunks().len() > FILE_CHUNKS_MAX).map(|_| Unfit::TooLarge)
}
