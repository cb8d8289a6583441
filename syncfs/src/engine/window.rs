//! Reading a group as it stood at one moment, while it is written: what changed is read, then what changed meanwhile, and so on,
//! until nothing did while the last of it was read. That moment is as short as the last read is, however large the group.
//!
//! *Notifications* prove that nothing changed, where there are some ([`Disk::noticed`]). One of a change stands in the queue before
//! the call returns that made it, so before the same program, or one that it tells, can change anything else: where a part of the
//! cut was written after another one, the notification of that other one came in time, and the part is in the cut as well.
//! A file of several names can be changed through one that is in no watched directory: then, and where not everything
//! is watched, *fingerprints* of all that stands in the group are compared instead. That takes a walk for each look, and a pause of a tick of
//! the filesystem's clock, in which every later change would show in them (see [`Disk::shows_changes`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::cutting::Group;
use crate::disk::{Disk, DiskError, FileKind, Stat};
use crate::error::StoreError;
use crate::index::Index;
use crate::path::RelPath;
use crate::record::Kind;

use super::Engine;

/// How often at once is looked again at what changed while the rest was read.
const LOOKS_MAX: usize = 16;
/// Paths of a group that are known to have changed, at most; with more, all of it is looked at.
const CHANGED_MAX: usize = 4096;

/// Where a group may be another than the index has seen.
#[derive(Debug)]
pub(super) enum Changed {
    /// At these paths, or below.
    Paths(BTreeSet<RelPath>),
    Anywhere,
}

impl Changed {
    pub(super) fn add(&mut self, path: &RelPath) {
        match self {
            Self::Paths(paths) if paths.len() < CHANGED_MAX => drop(paths.insert(path.clone())),
            _ => *self = Self::Anywhere,
        }
    }

    pub(super) fn first(&self) -> Option<&RelPath> {
        match self {
            Self::Paths(paths) => paths.first(),
            Self::Anywhere => None,
        }
    }
}

/// A member of a group as it was read.
pub(super) struct Member {
    pub(super) kind: Kind,
    pub(super) seen: Stat,
    pub(super) is_database: bool,
}

/// The changed part of a group.
#[derive(Default)]
pub(super) struct Read {
    pub(super) changed: BTreeMap<RelPath, Member>,
    pub(super) gone: BTreeSet<RelPath>,
    /// All that was looked at and stood there.
    pub(super) found: BTreeMap<RelPath, Stat>,
}

impl Read {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }

    /// What is at or below a path is looked at again.
    fn forget(&mut self, top: &RelPath) {
        let other = |path: &RelPath| path != top && !path.is_below(top);
        self.changed.retain(|path, _| other(path));
        self.found.retain(|path, _| other(path));
        self.gone.retain(other);
    }
}

type Standing = BTreeMap<RelPath, Stat>;

impl<D: Disk, I: Index> Engine<D, I> {
    /// Reads what of a group is another than the index has seen, all of it as of one moment. Where that is found to be is added to
    /// `changed`.
    ///
    /// # Errors
    /// [`DiskError::Changed`] and [`DiskError::Busy`] if there was no such moment.
    pub(super) fn read_group(&mut self, group: &Group, changed: &mut Changed) -> Result<Read, StoreError> {
        let noticed = self.disk.noticed(group);
        let mut walked = None;
        let mut todo = match (&*changed, noticed) {
            (Changed::Paths(paths), Some(noticed)) => paths.iter().cloned().chain(noticed).collect(),
            (_, noticed) => {
                let standing = self.stand(group)?;
                let todo = self.unlike(group, &standing)?;
                let by_notice = noticed.is_some() && !standing.values().any(has_names);
                self.cutting.noticed(group.name(), by_notice);
                walked = (!by_notice).then_some(standing);
                todo
            }
        };
        // Between two commands nothing may change at all.
        let looks = if self.cutting.has_hook(group.name()) { 1 } else { LOOKS_MAX };
        let mut read = Read::default();
        for _ in 0..looks {
            if let Some(standing) = &walked {
                self.must_show_changes(standing)?;
            }
            todo.iter().for_each(|path| changed.add(path));
            let mut again = self.look_into(&todo, &mut read)?;
            if walked.is_none() && read.found.values().any(has_names) {
                self.cutting.noticed(group.name(), false);
                *changed = Changed::Anywhere;
                break;
            }
            again.extend(self.changed_since(group, &mut walked)?);
            if again.is_empty() {
                return Ok(read);
            }
            todo = again;
        }
        todo.iter().for_each(|path| changed.add(path));
        Err(DiskError::Changed.into())
    }

    /// What changed since this was last asked.
    fn changed_since(
        &mut self,
        group: &Group,
        walked: &mut Option<Standing>,
    ) -> Result<BTreeSet<RelPath>, StoreError> {
        let Some(before) = walked else {
            return Ok(self.disk.noticed(group).ok_or(DiskError::Changed)?);
        };
        let now = self.stand(group)?;
        let other = |one: &Standing, two: &Standing| -> Vec<RelPath> {
            let other = one.iter().filter(|(path, stat)| two.get(*path) != Some(*stat));
            other.map(|(path, _)| path.clone()).collect()
        };
        let changed = [other(before, &now), other(&now, before)].concat();
        *before = now;
        Ok(changed.into_iter().collect())
    }

    fn must_show_changes(&mut self, standing: &Standing) -> Result<(), DiskError> {
        for (path, stat) in standing {
            if !self.disk.shows_changes(path, stat)? {
                return Err(DiskError::Changed);
            }
        }
        Ok(())
    }

    /// Reads what stands at these paths, and below them, as far as the index has not seen it so. Returns what has to be looked at
    /// again, because it changed meanwhile.
    fn look_into(
        &mut self,
        todo: &BTreeSet<RelPath>,
        read: &mut Read,
    ) -> Result<BTreeSet<RelPath>, StoreError> {
        let (mut found, mut gone) = (Standing::new(), Vec::new());
        for top in todo {
            read.forget(top);
            self.stand_at(top, &mut found)?;
            gone.extend(self.gone_from(top, &found)?);
        }
        read.gone.extend(gone);
        let list: Vec<_> = found.iter().map(|(path, stat)| (path.clone(), *stat)).collect();
        self.note_names(&list);
        read.found.extend(found);
        let mut again = BTreeSet::new();
        for (path, stat) in list {
            let entry = self.index.entry(&path)?;
            if entry.as_ref().is_some_and(|entry| entry.is_seen(&stat)) {
                continue;
            }
            let names = self.other_names(&path, &stat)?;
            match self.read_kind(&path, &stat, entry.as_ref(), &names) {
                Ok(Some((kind, seen))) => {
                    let is_database = self.cutting.last_cut.as_ref() == Some(&path);
                    let content = kind.content().filter(|_| !is_database);
                    if content.map_or(Ok(true), |content| self.hold_content(&path, content))? {
                        read.changed.insert(path, Member { kind, seen, is_database });
                    } else {
                        again.insert(path);
                    }
                }
                Ok(None) => {}
                Err(DiskError::Changed | DiskError::Busy(_) | DiskError::NoParent) => {
                    again.insert(path);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(again)
    }

    /// All that stands in a group.
    fn stand(&mut self, group: &Group) -> Result<Standing, StoreError> {
        let mut standing = Standing::new();
        group.paths().iter().try_for_each(|path| self.stand_at(path, &mut standing))?;
        Ok(standing)
    }

    /// What stands at a path, and below it.
    fn stand_at(&mut self, path: &RelPath, standing: &mut Standing) -> Result<(), StoreError> {
        let Some(stat) = self.stat(path)? else { return Ok(()) };
        if self.is_ignored_path(path, Some(&stat), None) {
            return Ok(());
        }
        standing.insert(path.clone(), stat);
        if stat.kind == FileKind::Dir {
            let (mut present, mut unread) = (Vec::new(), Vec::new());
            self.walk(Some(path), &mut present, &mut unread)?;
            if !unread.is_empty() {
                return Err(DiskError::Changed.into());
            }
            standing.extend(present);
        }
        Ok(())
    }

    /// Where a group is not as the index has seen it.
    fn unlike(&mut self, group: &Group, standing: &Standing) -> Result<BTreeSet<RelPath>, StoreError> {
        let mut unlike = BTreeSet::new();
        for (path, stat) in standing {
            if !self.index.entry(path)?.is_some_and(|entry| entry.is_seen(stat)) {
                unlike.insert(path.clone());
            }
        }
        for path in group.paths() {
            unlike.extend(self.gone_from(path, standing)?);
        }
        Ok(unlike)
    }

    /// What the index has at and below a path, and does not stand there.
    fn gone_from(&self, path: &RelPath, standing: &Standing) -> Result<Vec<RelPath>, StoreError> {
        let mut known: Vec<_> = self.index.entry(path)?.into_iter().collect();
        known.extend(self.index.below(path)?);
        known.retain(|entry| {
            let path = &entry.record.path;
            let stands = standing.contains_key(path);
            entry.record.kind.is_live() && !stands && !self.is_ignored_path(path, None, Some(entry))
        });
        Ok(known.into_iter().map(|entry| entry.record.path).collect())
    }
}

fn has_names(stat: &Stat) -> bool {
    stat.kind == FileKind::File && stat.nlink > 1
}
