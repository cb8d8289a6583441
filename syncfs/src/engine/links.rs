//! Hard links: several names of one file.
//!
//! Names of one file are versions of their own that carry the same *label* ([`Kind::label`]). Whoever finds a second name of
//! an inode gives it the label of the first, and from then on a name keeps its label as long as its inode stays the same:
//! through edits, moves and the end of other names. An edit through one name is reported for that name only, so all the others are
//! looked at, too. What counts is what stands in the folder: names elsewhere, ignored ones and the copies of conflicts make no label.
//!
//! A peer makes a name out of any other of its folder that has the very same version but for its path, as one rename, without any data.
//! Where that cannot be, a name is a file of its own, and keeps its label for the others.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{Disk, DiskError, FileKind, Stat};
use crate::error::StoreError;
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::conflict_of;
use crate::record::{Kind, Record};

use super::Engine;
use super::intake::Observed;

/// How many names of a file are looked at for one that has what is needed.
pub(super) const NAMES_LOOKED_AT: usize = 16;
/// How many other names of a file are looked at at once when it was edited through one; a scan looks at all.
const NAMES_MAX: usize = 4096;
/// Said once of a folder that cannot hold what it carries on.
const NO_LINKS: &str =
    "its filesystem does not take some hard links: those names are files of their own here";

/// What is known of names besides the index.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Inodes with several names among what is being taken up.
    standing: BTreeMap<(u64, u64), u32>,
    /// Other names of files that were edited.
    to_look: BTreeSet<RelPath>,
    /// Versions that could not be made a name of the file that they are a name of.
    apart: BTreeSet<RelPath>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// What is about to be taken up: its names are known to each other from the first on.
    pub(super) fn note_names(&mut self, present: &[(RelPath, Stat)]) {
        self.links.standing.clear();
        let several = |(path, stat): &&(RelPath, Stat)| {
            stat.kind == FileKind::File && stat.nlink > 1 && conflict_of(path).is_none()
        };
        for (_, stat) in present.iter().filter(several) {
            *self.links.standing.entry((stat.dev, stat.ino)).or_default() += 1;
        }
    }

    /// Other names of what stands at a path, as far as the index knows, the last changed first.
    pub(super) fn other_names(&self, path: &RelPath, stat: &Stat) -> Result<Vec<Entry>, StoreError> {
        self.names(path, stat, NAMES_LOOKED_AT)
    }

    fn names(&self, path: &RelPath, stat: &Stat, limit: usize) -> Result<Vec<Entry>, StoreError> {
        if stat.kind != FileKind::File || stat.nlink < 2 {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for name in self.index.names_of(stat.ino, limit)? {
            if name != *path && conflict_of(&name).is_none() {
                names.extend(self.index.entry(&name)?);
            }
        }
        names.retain(|entry| !entry.stale && is_inode(entry, stat));
        Ok(names)
    }

    /// The content of a file that was just read under another name: the same fingerprint is the same file.
    pub(super) fn read_as(&self, stat: &Stat, names: &[Entry]) -> Option<(Kind, Stat)> {
        let mut sound = names.iter().filter(|entry| !self.checking.is_damaged(&entry.record.path));
        let same = sound.find(|entry| entry.seen == Some(*stat) && stat.side == 0)?;
        Some((same.standing().record.kind, *stat))
    }

    /// The label of what stands at a path.
    pub(super) fn label(
        &self,
        path: &RelPath,
        stat: &Stat,
        entry: Option<&Entry>,
        names: &[Entry],
    ) -> Option<RelPath> {
        let before = entry.filter(|entry| entry.record.kind.is_live() && is_inode(entry, stat));
        let kept = before.and_then(|entry| entry.record.kind.label());
        if kept.is_some() || before.is_some() && self.is_undoing() {
            return kept.cloned();
        }
        if stat.nlink < 2 || conflict_of(path).is_some() {
            return None;
        }
        let given = names.iter().filter_map(|entry| entry.record.kind.label()).min();
        let first = || names.iter().map(|entry| &entry.record.path).min();
        let standing = self.links.standing.get(&(stat.dev, stat.ino)).is_some_and(|names| *names > 1);
        given.or_else(first).or(standing.then_some(path)).cloned()
    }

    /// A file changed under one of its names: so it did under the others.
    pub(super) fn look_at_others(&mut self, path: &RelPath, stat: &Stat) -> Result<(), StoreError> {
        let names = self.names(path, stat, NAMES_MAX)?.into_iter();
        let changed = names.filter(|entry| entry.seen != Some(*stat)).map(|entry| entry.record.path);
        self.links.to_look.extend(changed);
        Ok(())
    }

    /// Looks at them.
    pub(super) fn look_at_names(&mut self) -> Result<(), StoreError> {
        while let Some(path) = self.links.to_look.pop_first() {
            if self.observe_now(&path)? == Observed::Unclear {
                self.unsettle(&path);
            }
        }
        Ok(())
    }

    /// Another name of the file that a version is a name of, as the index knows it.
    pub(super) fn other_name(&self, record: &Record) -> Result<Option<(RelPath, Stat)>, StoreError> {
        let Some(label) = record.kind.label().filter(|_| !self.links.apart.contains(&record.path)) else {
            return Ok(None);
        };
        let mut paths = self.index.labelled(label, NAMES_LOOKED_AT)?;
        // It may not have heard of its label yet.
        paths.push(label.clone());
        paths.retain(|path| *path != record.path && conflict_of(path).is_none());
        for path in paths.into_iter().filter(|path| !self.checking.is_damaged(path)) {
            let Some(Entry { record: other, seen: Some(seen), stale: false, behind: None, .. }) =
                self.index.entry(&path)?
            else {
                continue;
            };
            let unaware = path == *label && other.kind.label().is_none();
            let kind = if unaware { other.kind.linked(Some(label.clone())) } else { other.kind };
            if kind == record.kind && seen.side == 0 && !self.is_ignored_path(&path, Some(&seen), None) {
                return Ok(Some((path, seen)));
            }
        }
        Ok(None)
    }

    /// Makes a version a name of the file that it is a name of. `None` if it must be a file of its own.
    pub(super) fn link(
        &mut self,
        record: &Record,
        expect: Option<&Stat>,
    ) -> Result<Option<Stat>, StoreError> {
        let Some((other, _)) = self.other_name(record)? else { return Ok(None) };
        // Its fingerprint changes with each of its names; and it may have been edited.
        self.observe_now(&other)?;
        let Some((other, seen)) = self.other_name(record)? else { return Ok(None) };
        match self.place_link(&other, &seen, &record.path, expect) {
            Ok(now) => {
                if let Some(entry) = self.index.entry(&other)? {
                    self.put_entry(&Entry { seen: Some(now), ..entry })?;
                }
                Ok(Some(now))
            }
            Err(StoreError::Disk(DiskError::Io { .. })) => {
                self.problem(None, NO_LINKS);
                self.links.apart.insert(record.path.clone());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn place_link(
        &mut self,
        other: &RelPath,
        seen: &Stat,
        path: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<Stat, StoreError> {
        let dir = expect.filter(|stat| stat.kind == FileKind::Dir);
        dir.map_or(Ok(()), |dir| self.give_way(path, dir))?;
        self.make_parents(path)?;
        Ok(self.disk.link(other, seen, path, expect.filter(|_| dir.is_none()))?)
    }

    /// A name of a file was given to another one, or is gone. Nothing else about the others changed by that: they need not be
    /// read again.
    pub(super) fn lost_name(&mut self, path: &RelPath, before: Option<&Stat>) -> Result<(), StoreError> {
        let Some(before) = before else { return Ok(()) };
        let print = |stat: &Stat| Stat { nlink: 0, ctime_ns: 0, ..*stat };
        for entry in self.other_names(path, before)? {
            let known = entry.seen == Some(*before);
            if let Some(now) = self.stat(&entry.record.path)?
                && known
                && print(&now) == print(before)
            {
                self.put_entry(&Entry { seen: Some(now), ..entry })?;
            }
        }
        Ok(())
    }

    /// A path has another version: whether that can be a link is to be seen.
    pub(super) fn may_link_again(&mut self, path: &RelPath) {
        self.links.apart.remove(path);
    }
}

/// Whether an entry was seen to be this inode.
fn is_inode(entry: &Entry, stat: &Stat) -> bool {
    entry.seen.is_some_and(|seen| (seen.kind, seen.dev, seen.ino) == (stat.kind, stat.dev, stat.ino))
}
