//! Cuts of groups (see [`crate::cutting`]), on the replica that writes them: all changed paths of a group are read in one
//! window, and become versions together, under consecutive sequences, if nothing in the group changed from before the first
//! read to after the last. Otherwise none does, and the group is looked at again.
//!
//! Fingerprints prove that: a group is only read when every later change would show in them, which takes a pause of a tick of
//! the filesystem's clock (see [`Disk::shows_changes`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::cutting::{CutBy, CutRule, Group, Groups};
use crate::disk::{Disk, DiskError, FileKind, Stat};
use crate::error::StoreError;
use crate::index::Index;
use crate::path::RelPath;
use crate::record::Kind;
use crate::status::{Problem, ScanReport};
use crate::wire::Message;

use super::{Engine, SessionId};

/// Said of a group that is written without a pause.
const RESTLESS: &str =
    "what is cut together with it is written without a pause that is long enough to read it all";

/// How this replica cuts.
#[derive(Debug, Default)]
pub(super) struct Cutting {
    rules: Vec<CutRule>,
    /// Groups, by name, of which something is to be taken up.
    changed: BTreeSet<RelPath>,
    /// The group whose versions are being made.
    open: Option<RelPath>,
    /// Our sequence at the last cut of each.
    cut_at: BTreeMap<RelPath, u64>,
    /// What the last hook of each had to say.
    failed: BTreeMap<RelPath, String>,
    /// The last file that was read, if it was a database.
    pub(super) last_cut: Option<RelPath>,
}

impl Cutting {
    /// Whether a rule says that a path is consistent only while nothing has it open.
    pub(super) fn is_stopped(&self, path: &RelPath) -> bool {
        let stopped = self.rules.iter().filter(|rule| rule.by == CutBy::Stopped);
        stopped.flat_map(|rule| &rule.paths).any(|top| path == top || path.is_below(top))
    }

    /// Whether a group is cut between commands.
    fn has_hook(&self, name: &RelPath) -> bool {
        let hooks = self.rules.iter().filter(|rule| matches!(rule.by, CutBy::Hook(_)));
        hooks.filter_map(|rule| rule.paths.first()).any(|first| first == name)
    }

    pub(super) fn cut_at(&self, name: &RelPath) -> Option<u64> {
        self.cut_at.get(name).copied()
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// How this replica cuts, checked by [`crate::cutting::check_rules`]. To be called before the first [`Engine::scan`].
    pub fn cut_by(&mut self, rules: &[CutRule]) {
        self.cutting.rules = rules.to_vec();
        self.take_over_groups();
    }

    /// The groups of the one writer are those of its rules, if it has any.
    pub(super) fn take_over_groups(&mut self) {
        let own = Groups::of_rules(&self.cutting.rules);
        if self.is_undoing() || self.cutting.rules.is_empty() {
            return;
        }
        let groups = match self.meta.role {
            crate::status::Role::Holder => own,
            _ => united(&self.meta.cuts.groups, &own),
        };
        self.put_groups(groups);
    }

    /// A peer says what is cut together. The holder of the lease knows best.
    pub(super) fn learn_groups(&mut self, from: SessionId, theirs: Groups) {
        let peer = self.sessions.get(&from).and_then(|session| session.peer);
        let holder = self.meta.fences.current().map(|fence| fence.holder);
        if holder.is_some() && holder == peer {
            self.put_groups(theirs);
        } else if self.meta.role != crate::status::Role::Holder {
            self.put_groups(united(&self.meta.cuts.groups, &theirs));
        }
    }

    fn put_groups(&mut self, groups: Groups) {
        if self.meta.cuts.groups == groups {
            return;
        }
        self.meta.cuts.groups = groups;
        self.uncommitted = true;
        for session in self.sessions.values_mut() {
            session.tell_groups(Message::Groups(self.meta.cuts.groups.clone()));
        }
    }

    /// Whether a change at this path is for a cut of its group to take up. Notes that there is one.
    pub(super) fn waits_for_cut(&mut self, path: &RelPath) -> bool {
        let Some(name) = self.group_of(path) else { return false };
        if self.is_undoing() || self.cutting.open.as_ref() == Some(&name) {
            return false;
        }
        if !self.cutting.has_hook(&name) && self.cutting.changed.insert(name.clone()) {
            self.unsettle(&name);
        }
        true
    }

    /// The name of the group that a path belongs to.
    pub(super) fn group_of(&self, path: &RelPath) -> Option<RelPath> {
        self.meta.cuts.groups.of(path).map(|group| group.name().clone())
    }

    /// Cuts the groups of which something changed; with `paced`, no more often than databases are cut.
    pub(super) fn cut_changed(&mut self, paced: bool) -> Result<(), StoreError> {
        for name in std::mem::take(&mut self.cutting.changed) {
            if paced && self.put_off(&name)? {
                self.unsettled.remove(&name);
            } else {
                self.cut_group(&name)?;
            }
        }
        Ok(())
    }

    /// Cuts a group that is cut between commands, now: its commands say that it holds still. Returns whether it did.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn cut_now(&mut self, name: &RelPath) -> Result<bool, StoreError> {
        self.cut_group(name)
    }

    /// How the last attempt ended to cut a group between commands: with an error until the next one.
    pub fn report_cut(&mut self, name: &RelPath, result: Result<(), String>) {
        self.cutting.failed.remove(name);
        if let Err(what) = result {
            self.event(crate::status::Event::Problem(Problem {
                path: Some(name.clone()),
                what: what.clone(),
            }));
            self.cutting.failed.insert(name.clone(), what);
        }
    }

    /// The groups that are cut between commands, by name.
    #[must_use]
    pub fn hooked_groups(&self) -> Vec<RelPath> {
        let groups = self.meta.cuts.groups.iter().map(Group::name);
        groups.filter(|name| self.cutting.has_hook(name)).cloned().collect()
    }

    /// Those of which the last cut did not succeed, and why.
    #[must_use]
    pub fn failed_cuts(&self) -> Vec<Problem> {
        let problem =
            |(path, what): (&RelPath, &String)| Problem { path: Some(path.clone()), what: what.clone() };
        self.cutting.failed.iter().map(problem).collect()
    }

    /// Takes a cut of a group, if something of it changed. Returns whether what stands in it is taken up.
    fn cut_group(&mut self, name: &RelPath) -> Result<bool, StoreError> {
        let Some(group) = self.meta.cuts.groups.of(name).cloned() else { return Ok(true) };
        match self.read_group(&group) {
            Ok(Some(read)) => self.publish_group(name, read),
            Ok(None) => {
                self.is_cut(name);
                Ok(true)
            }
            Err(StoreError::Disk(error)) if !error.is_final() => {
                self.pace_again(name);
                let restless = matches!(error, DiskError::Busy(_) | DiskError::Changed);
                if restless {
                    self.is_restless(name);
                }
                if restless && !self.cutting.has_hook(name) {
                    self.unsettle(name);
                }
                self.problem(Some(name), if restless { RESTLESS.to_owned() } else { error.to_string() });
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// What changed in a group, read in one piece; `None` if nothing did.
    fn read_group(&mut self, group: &Group) -> Result<Option<Read>, StoreError> {
        let before = self.stand(group)?;
        let mut changed = Vec::new();
        for (path, stat) in &before {
            let entry = self.index.entry(path)?;
            let same = entry.as_ref().is_some_and(|entry| entry.is_seen(stat));
            if !same {
                changed.push((path, *stat, entry));
            }
        }
        let gone = self.gone_of(group, &before)?;
        if changed.is_empty() && gone.is_empty() {
            return Ok(None);
        }
        self.note_names(&before);
        for (path, stat) in &before {
            if !self.disk.shows_changes(path, stat)? {
                return Err(DiskError::Changed.into());
            }
        }
        let mut read = Read { changed: Vec::new(), gone, present: before.clone() };
        for (path, stat, entry) in changed {
            let names = self.other_names(path, &stat)?;
            let cut = (path.clone(), self.read_kind(path, &stat, entry.as_ref(), &names)?);
            let is_database = self.cutting.last_cut.as_ref() == Some(path);
            if let (path, Some((kind, seen))) = cut {
                read.changed.push((path, kind, seen, is_database));
            }
        }
        if self.stand(group)? != before {
            return Err(DiskError::Changed.into());
        }
        Ok(Some(read))
    }

    /// All that stands in a group, in path order.
    fn stand(&mut self, group: &Group) -> Result<Vec<(RelPath, Stat)>, StoreError> {
        let (mut present, mut unread) = (Vec::new(), Vec::new());
        for path in group.paths() {
            let Some(stat) = self.stat(path)? else { continue };
            if self.is_ignored_path(path, Some(&stat), None) {
                continue;
            }
            present.push((path.clone(), stat));
            if stat.kind == FileKind::Dir {
                self.walk(Some(path), &mut present, &mut unread)?;
            }
        }
        if !unread.is_empty() {
            return Err(DiskError::Changed.into());
        }
        present.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(present)
    }

    fn gone_of(&self, group: &Group, present: &[(RelPath, Stat)]) -> Result<Vec<RelPath>, StoreError> {
        let mut gone = Vec::new();
        for path in group.paths() {
            let mut known: Vec<_> = self.index.entry(path)?.into_iter().collect();
            known.extend(self.index.below(path)?);
            known.retain(|entry| {
                let path = &entry.record.path;
                let stands = present.binary_search_by(|(other, _)| other.cmp(path)).is_ok();
                entry.record.kind.is_live() && !stands && !self.is_ignored_path(path, None, Some(entry))
            });
            gone.extend(known.into_iter().map(|entry| entry.record.path));
        }
        Ok(gone)
    }

    fn publish_group(&mut self, name: &RelPath, read: Read) -> Result<bool, StoreError> {
        if !self.believes(&read.gone, &read.present)? {
            return Ok(false);
        }
        self.cutting.open = Some(name.clone());
        let result = self.take_up_group(read);
        self.cutting.open = None;
        result?;
        self.is_cut(name);
        self.was_cut(name);
        self.cutting.cut_at.insert(name.clone(), self.meta.sequence);
        Ok(true)
    }

    fn take_up_group(&mut self, read: Read) -> Result<(), StoreError> {
        for (path, kind, seen, is_database) in read.changed {
            self.cutting.last_cut = is_database.then(|| path.clone());
            let entry = self.index.entry(&path)?;
            self.take_up_read(&path, entry, kind, seen)?;
        }
        self.take_up_gone(read.gone, &mut ScanReport::default())
    }

    fn is_cut(&mut self, name: &RelPath) {
        self.cutting.changed.remove(name);
        self.unsettled.remove(name);
        self.solved(name);
    }
}

/// The changed part of a group.
struct Read {
    changed: Vec<(RelPath, Kind, Stat, bool)>,
    gone: Vec<RelPath>,
    present: Vec<(RelPath, Stat)>,
}

fn united(ours: &Groups, theirs: &Groups) -> Groups {
    let mut all = ours.clone();
    for group in theirs.iter() {
        all.add(group.clone());
    }
    all
}
