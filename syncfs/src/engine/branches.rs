//! Branches: setting versions aside, comparing them with the folder, and bringing them back as local writes.
//!
//! A version is kept before it loses its place, and the index says so no later than that it has lost it. What a crash left
//! in `aside/` without a word in the index is found at the next start.

use std::collections::BTreeSet;

use crate::branch::{Branch, Cause, Difference, Kept, LISTED_MAX, What};
use crate::disk::{Disk, DiskError, FileKind, Keep, Stat};
use crate::error::{RestoreError, StoreError};
use crate::index::{Entry, Index, IndexError};
use crate::path::RelPath;
use crate::record::{Attributes, Kind};
use crate::status::Event;

use super::Engine;
use super::expiring::BRANCH_SPAN_NS;
use super::intake::Observed;

impl<D: Disk, I: Index> Engine<D, I> {
    /// Gives what stands at a path a second name in a branch. Returns its fingerprint after that, or `None` if something else,
    /// or nothing, stands there by then.
    pub(super) fn set_aside(
        &mut self,
        cause: Cause,
        epoch: u64,
        kept: Option<Kept>,
        stood: &Stat,
    ) -> Result<Option<Stat>, StoreError> {
        let Some(kept) = kept else { return Ok(None) };
        let mut branch = self.open_branch(cause, epoch)?;
        loop {
            match self.disk.keep(&kept.path, &Keep::Aside(branch.name())) {
                Ok(_) => break,
                // The branch has another version of this path already.
                Err(DiskError::Taken) => branch = self.begin_branch(cause, epoch)?,
                Err(DiskError::Changed | DiskError::NoParent) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        self.put_kept(&branch, &kept)?;
        self.still_stands(&kept.path, stood)
    }

    /// The fingerprint of what got a second name, which changed its ctime; `None` if a program put something else in its
    /// place meanwhile, or wrote to it: nobody has looked at that, so it must not lose its place.
    pub(super) fn still_stands(&mut self, path: &RelPath, stood: &Stat) -> Result<Option<Stat>, StoreError> {
        let now = self.stat(path)?.filter(|now| now.identity() == stood.identity());
        if now.is_none() {
            self.unsettle(path);
        }
        Ok(now)
    }

    /// The same for an edit that may not be, of what `entry` says.
    pub(super) fn set_edit_aside(
        &mut self,
        path: &RelPath,
        entry: Option<&Entry>,
        kind: &Kind,
        stood: &Stat,
    ) -> Result<Option<Stat>, StoreError> {
        let what = What::of(kind);
        let base = entry.map(|entry| entry.record.version.clone()).unwrap_or_default();
        let kept = what.map(|what| Kept { path: path.clone(), what, by: self.meta.device, base });
        match entry.filter(|entry| entry.stale) {
            Some(stale) => self.set_aside(Cause::StaleEpoch, stale.record.epoch, kept, stood),
            None => self.set_aside(Cause::FollowerEdit, self.meta.fences.epoch(), kept, stood),
        }
    }

    /// A deletion leaves nothing but its word: one of a stale tail, or one on a follower, which is undone.
    pub(super) fn keep_deletion(&mut self, cause: Cause, epoch: u64, kept: &Kept) -> Result<(), StoreError> {
        let mut branch = self.open_branch(cause, epoch)?;
        match self.index.kept_at(branch.number, &kept.path)? {
            Some(known) if known == *kept => return Ok(()),
            Some(_) => branch = self.begin_branch(cause, epoch)?,
            None => {}
        }
        self.put_kept(&branch, kept)
    }

    fn put_kept(&mut self, branch: &Branch, kept: &Kept) -> Result<(), StoreError> {
        self.uncommitted = true;
        self.index.put_kept(branch.number, kept)?;
        self.event(Event::SetAside { path: kept.path.clone(), branch: branch.name() });
        Ok(())
    }

    /// The newest branch, if this belongs to it, or a new one.
    fn open_branch(&mut self, cause: Cause, epoch: u64) -> Result<Branch, StoreError> {
        let over = self.meta.fences.epoch();
        let age_ns = |branch: &Branch| self.disk.now_ns().saturating_sub(branch.began_ns);
        let same = |branch: &&Branch| {
            (branch.cause, branch.epoch, branch.over) == (cause, epoch, over)
                && (0..BRANCH_SPAN_NS).contains(&age_ns(branch))
        };
        match self.branch.as_ref().filter(same) {
            Some(branch) => Ok(branch.clone()),
            None => self.begin_branch(cause, epoch),
        }
    }

    fn begin_branch(&mut self, cause: Cause, epoch: u64) -> Result<Branch, StoreError> {
        self.meta.asides += 1;
        let (number, device, over) = (self.meta.asides, self.meta.device, self.meta.fences.epoch());
        let began_ns = self.disk.now_ns();
        let branch = Branch { number, device, epoch, over, cause, began_ns, paths: 0, bytes: 0 };
        self.uncommitted = true;
        self.index.put_branch(&branch)?;
        self.branch = Some(branch.clone());
        Ok(branch)
    }

    pub(super) fn newest_branch(&self) -> Result<Option<Branch>, IndexError> {
        Ok(self.index.branches()?.into_iter().next())
    }

    /// Takes up what stands in `aside/` and is not in the index: a crash came between the two, or the index is a new one.
    /// A branch whose directory is gone was dropped.
    pub(super) fn find_branches(&mut self) -> Result<(), StoreError> {
        let kept = self.disk.kept_aside()?;
        let stands: BTreeSet<_> = kept.iter().map(|(folder, _)| folder.as_str()).collect();
        for branch in self.index.branches()? {
            if !stands.contains(branch.name().as_str()) && self.has_content(branch.number)? {
                self.uncommitted = true;
                self.index.drop_branch(branch.number)?;
            }
        }
        let mut known: BTreeSet<_> = self.index.branches()?.into_iter().map(|branch| branch.number).collect();
        let (device, over, began_ns) = (self.meta.device, self.meta.fences.epoch(), self.disk.now_ns());
        for (folder, path) in kept {
            let Some((epoch, number)) = Branch::parse(&folder) else { continue };
            let cause = Cause::Found;
            let branch = Branch { number, device, epoch, over, cause, began_ns, paths: 0, bytes: 0 };
            if branch.name() != folder || self.index.kept_at(number, &path)?.is_some() {
                continue;
            }
            let Some(what) = self.disk.read_aside(&folder, &path)? else { continue };
            if known.insert(number) {
                self.index.put_branch(&branch)?;
            }
            self.meta.asides = self.meta.asides.max(number);
            self.uncommitted = true;
            let base = crate::record::VersionVector::default();
            self.index.put_kept(number, &Kept { path, what, by: device, base })?;
        }
        self.branch = self.newest_branch()?;
        self.commit()
    }

    fn has_content(&self, number: u64) -> Result<bool, IndexError> {
        let mut after = None;
        loop {
            let page = self.index.kept(number, after.as_ref(), 1000)?;
            if page.iter().any(|kept| kept.what != What::Deleted) {
                return Ok(true);
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last.path),
                None => return Ok(false),
            }
        }
    }

    /// The branches that this replica keeps, the newest first; at most [`LISTED_MAX`].
    ///
    /// # Errors
    /// If the index fails.
    pub fn branches(&self) -> Result<Vec<Branch>, IndexError> {
        self.index.branches()
    }

    fn named_branch(&self, name: &str) -> Result<Branch, RestoreError> {
        let branches = self.index.branches()?;
        let found = branches.into_iter().find(|branch| branch.name() == name);
        found.ok_or_else(|| RestoreError::NoBranch(name.to_owned()))
    }

    /// A branch compared with the folder as it is now, in path order; at most [`LISTED_MAX`] paths.
    ///
    /// # Errors
    /// [`RestoreError::NoBranch`]; if the index fails.
    pub fn differences(&self, name: &str) -> Result<Vec<Difference>, RestoreError> {
        let branch = self.named_branch(name)?;
        let mut differences = Vec::new();
        for kept in self.index.kept(branch.number, None, LISTED_MAX)? {
            let entry = self.index.entry(&kept.path)?.filter(|entry| !entry.stale);
            let current = entry.as_ref().map(|entry| &entry.record.kind);
            differences.push(Difference::of(&branch, &kept, current));
        }
        Ok(differences)
    }

    /// Brings versions of a branch back, as local writes of this replica: those at and below `paths`, or all if there are
    /// none; to where they stood, or to the directory `to`. What stands there is kept, in the history or else beside it as
    /// the copy of a conflict. What is the same already is left alone. Adds to `restored` the paths that were written or deleted, so
    /// that a call after [`RestoreError::Busy`] goes on with it.
    ///
    /// # Errors
    /// As [`Engine::make_room`]; [`RestoreError::NoBranch`]; [`RestoreError::Unknown`] if nothing of `paths` is in the
    /// branch. What was restored before the error stays.
    pub fn restore_branch(
        &mut self,
        name: &str,
        paths: &[RelPath],
        to: Option<&RelPath>,
        restored: &mut Vec<RelPath>,
    ) -> Result<(), RestoreError> {
        let branch = self.named_branch(name)?;
        let (mut deletions, mut any) = (Vec::new(), false);
        let wanted = |kept: &Kept| {
            paths.is_empty() || paths.iter().any(|path| kept.path == *path || kept.path.is_below(path))
        };
        let mut after = None;
        loop {
            let page = self.index.kept(branch.number, after.as_ref(), 1000)?;
            let Some(last) = page.last() else { break };
            after = Some(last.path.clone());
            for kept in page.into_iter().filter(&wanted) {
                any = true;
                let target = match to {
                    Some(to) => RelPath::new([to.as_bytes(), b"/", kept.path.as_bytes()].concat())
                        .map_err(|_| RestoreError::Taken(kept.path.clone()))?,
                    None => kept.path.clone(),
                };
                match kept.what {
                    What::Deleted if to.is_none() => deletions.push(target),
                    What::Deleted => {}
                    _ if self.take_back(&branch, &kept, &target)? => restored.push(target),
                    _ => {}
                }
            }
        }
        // Entries before their directories.
        for path in deletions.into_iter().rev() {
            if self.delete_again(&path)? {
                restored.push(path);
            }
        }
        self.commit()?;
        if any { Ok(()) } else { Err(RestoreError::Unknown) }
    }

    fn take_back(&mut self, branch: &Branch, kept: &Kept, target: &RelPath) -> Result<bool, RestoreError> {
        self.make_room_unless(target, Some(kept.what))?;
        let entry = self.index.entry(target)?.filter(|entry| entry.record.kind.is_live());
        if entry.as_ref().is_some_and(|entry| What::of(&entry.record.kind) == Some(kept.what)) {
            return Ok(false);
        }
        if entry.as_ref().is_some_and(|entry| entry.record.kind.is_dir()) {
            return Err(RestoreError::Directory(target.clone()));
        }
        self.make_directories(target)?;
        let expect = entry.and_then(|entry| entry.seen);
        match self.disk.copy_back(&branch.name(), &kept.path, target, expect.as_ref()) {
            Ok(()) => {}
            Err(DiskError::Changed | DiskError::Busy(_)) => return Err(RestoreError::Busy(target.clone())),
            Err(error) => return Err(error.into()),
        }
        self.uncommitted = true;
        self.observe_now(target)?;
        Ok(true)
    }

    fn delete_again(&mut self, path: &RelPath) -> Result<bool, RestoreError> {
        self.make_room(path)?;
        let Some(entry) = self.index.entry(path)?.filter(|entry| entry.record.kind.is_live()) else {
            return Ok(false);
        };
        let Some(seen) = entry.seen else { return Ok(false) };
        match self.disk.remove(path, &seen) {
            Ok(()) => {}
            // The deletion did not know of what is in it.
            Err(DiskError::NotEmpty) => return Ok(false),
            Err(DiskError::Changed) => return Err(RestoreError::Busy(path.clone())),
            Err(error) => return Err(error.into()),
        }
        self.uncommitted = true;
        self.observe_now(path)?;
        Ok(true)
    }

    /// The directories above a path, as far as they are missing, as a local program would make them.
    fn make_directories(&mut self, path: &RelPath) -> Result<(), RestoreError> {
        let mut missing = Vec::new();
        let mut next = path.parent();
        while let Some(dir) = next {
            match self.stat(&dir)? {
                Some(stat) if stat.kind == FileKind::Dir => break,
                Some(_) => return Err(RestoreError::Taken(dir)),
                None => next = dir.parent(),
            }
            missing.push(dir);
        }
        for dir in missing.into_iter().rev() {
            self.disk.make_dir(&dir, &Attributes::of_mode(0o755))?;
            self.uncommitted = true;
            self.observe_now(&dir)?;
        }
        Ok(())
    }

    /// Forgets a branch and removes what it keeps.
    ///
    /// # Errors
    /// [`RestoreError::NoBranch`]; as the system says.
    pub fn drop_branch(&mut self, name: &str) -> Result<(), RestoreError> {
        let branch = self.named_branch(name)?;
        Ok(self.remove_branch(&branch)?)
    }

    pub(super) fn remove_branch(&mut self, branch: &Branch) -> Result<(), StoreError> {
        self.disk.drop_aside(&branch.name())?;
        self.uncommitted = true;
        self.index.drop_branch(branch.number)?;
        self.branch = self.newest_branch()?;
        self.commit()
    }

    /// Whether what stands at a path could be read, so that a local write of this program knows what it replaces.
    pub(super) fn is_known_now(&mut self, path: &RelPath) -> Result<(), RestoreError> {
        match self.observe_now(path)? {
            Observed::Unclear => Err(RestoreError::Busy(path.clone())),
            _ if !self.materialise_now(path)? => Err(RestoreError::Busy(path.clone())),
            _ => Ok(()),
        }
    }
}
