//! Cuts of groups (see [`crate::cutting`]), on the replica that writes them: all changed paths of a group are read as they stood
//! at one moment (see `window`), and become versions together, under consecutive sequences. Where there is no such moment, none
//! does, and the group is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use crate::cutting::{CutBy, CutRule, Group, Groups};
use crate::disk::{Disk, DiskError};
use crate::error::StoreError;
use crate::index::Index;
use crate::path::RelPath;
use crate::status::Problem;
use crate::wire::Message;

use super::held::Held;
use super::window::{Changed, Member, Read};
use super::{Engine, SessionId};

/// Said of a group that is written without a pause.
const RESTLESS: &str =
    "what is cut together with it is written without a pause that is long enough to read it all";

/// How this replica cuts.
#[derive(Debug, Default)]
pub(super) struct Cutting {
    rules: Vec<CutRule>,
    /// Groups, by name, of which something is to be taken up, and what.
    changed: BTreeMap<RelPath, Changed>,
    /// Those that are as they were cut last but for where a change is noticed. Not those of which a part was not taken up: the next
    /// cut has to find it.
    noticed: BTreeSet<RelPath>,
    pub(super) held: Held,
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
    pub(super) fn has_hook(&self, name: &RelPath) -> bool {
        let hooks = self.rules.iter().filter(|rule| matches!(rule.by, CutBy::Hook(_)));
        hooks.filter_map(|rule| rule.paths.first()).any(|first| first == name)
    }

    /// Something changed in a group. Returns whether nothing else was to be taken up of it.
    fn change(&mut self, name: RelPath, path: &RelPath) -> bool {
        let is_first = !self.changed.contains_key(&name);
        let new = match self.noticed.contains(&name) {
            true => Changed::Paths(BTreeSet::new()),
            false => Changed::Anywhere,
        };
        self.changed.entry(name).or_insert(new).add(path);
        is_first
    }

    /// Whether the next cut of a group need only look where changes are noticed.
    pub(super) fn noticed(&mut self, name: &RelPath, every: bool) {
        match every {
            true => self.noticed.insert(name.clone()),
            false => self.noticed.remove(name),
        };
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
        // What this replica did not cut before is looked at as a whole.
        self.cutting.noticed.clear();
        self.cutting.changed.values_mut().for_each(|changed| *changed = Changed::Anywhere);
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
        if !self.cutting.has_hook(&name) && self.cutting.change(name, path) {
            self.unsettle(path);
        }
        true
    }

    /// Whether something of this group is to be taken up.
    pub(super) fn is_to_be_cut(&self, name: &RelPath) -> bool {
        self.cutting.changed.contains_key(name)
    }

    /// The name of the group that a path belongs to.
    pub(super) fn group_of(&self, path: &RelPath) -> Option<RelPath> {
        self.meta.cuts.groups.of(path).map(|group| group.name().clone())
    }

    /// Cuts the groups of which something changed; with `paced`, no more often than databases are cut.
    pub(super) fn cut_changed(&mut self, paced: bool) -> Result<(), StoreError> {
        let names: Vec<_> = self.cutting.changed.keys().cloned().collect();
        for name in names {
            if paced && self.put_off(&name)? {
                self.settled(&name);
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
        // Nobody noted what changed where commands say when to look.
        let mut changed = self.cutting.changed.remove(name).unwrap_or(Changed::Anywhere);
        let Some(group) = self.meta.cuts.groups.of(name).cloned() else { return Ok(true) };
        match self.read_group(&group, &mut changed) {
            Ok(read) if read.is_empty() => {
                self.is_cut(name);
                Ok(true)
            }
            Ok(read) => self.publish_group(name, read),
            Err(StoreError::Disk(error)) if !error.is_final() => {
                self.pace_again(name);
                let restless = matches!(error, DiskError::Busy(_) | DiskError::Changed);
                if restless {
                    self.is_restless(name);
                }
                if restless && !self.cutting.has_hook(name) {
                    self.unsettle(changed.first().unwrap_or(name));
                    self.cutting.changed.insert(name.clone(), changed);
                } else {
                    self.cutting.noticed(name, false);
                }
                self.problem(Some(name), if restless { RESTLESS.to_owned() } else { error.to_string() });
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn publish_group(&mut self, name: &RelPath, read: Read) -> Result<bool, StoreError> {
        let found: Vec<_> = read.found.iter().map(|(path, stat)| (path.clone(), *stat)).collect();
        let gone: Vec<_> = read.gone.iter().cloned().collect();
        if !self.believes(&gone, &found)? {
            self.cutting.noticed(name, false);
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
        for (path, Member { kind, seen, is_database }) in read.changed {
            self.cutting.last_cut = is_database.then(|| path.clone());
            let entry = self.index.entry(&path)?;
            self.take_up_read(&path, entry, kind, seen)?;
        }
        // As the cut has it, whatever stands there by now.
        read.gone.iter().rev().try_for_each(|path| self.observe(path, None).map(drop))
    }

    fn is_cut(&mut self, name: &RelPath) {
        self.settled(name);
        self.solved(name);
    }

    /// Nothing of a group has to be looked at soon.
    fn settled(&mut self, name: &RelPath) {
        if let Some(group) = self.meta.cuts.groups.of(name) {
            self.unsettled.retain(|path| !group.holds(path));
        }
    }
}

fn united(ours: &Groups, theirs: &Groups) -> Groups {
    let mut all = ours.clone();
    for group in theirs.iter() {
        all.add(group.clone());
    }
    all
}
