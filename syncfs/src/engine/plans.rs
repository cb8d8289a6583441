//! What is about to become visible, written down before it does.
//!
//! A crash between a rename and the commit of the index leaves a peer's version standing that the index knows nothing of. Taken for
//! an edit of this replica, it would stand against whatever its writer did next: a deletion would not hold, a newer
//! version would meet a conflict. So the records of a group are committed before its renames, and the first scan after
//! a crash knows what it finds. The plans go with the commit that makes the group durable.

use std::collections::BTreeMap;

use crate::disk::{Disk, FileKind, Stat};
use crate::error::StoreError;
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::{Decision, reconcile};
use crate::record::{Kind, Record};
use crate::status::Event;

use super::Engine;

/// Plans, and those of the life before.
#[derive(Debug, Default)]
pub(super) struct Plans {
    /// What a crash may have left standing; gone after a scan that looked there.
    left: BTreeMap<RelPath, Record>,
    /// The index holds plans that are done with the next commit.
    written: bool,
}

impl Plans {
    pub(super) fn of_the_life_before(index: &impl Index) -> Result<Self, StoreError> {
        let left = index.plans()?.into_iter().map(|record| (record.path.clone(), record)).collect();
        Ok(Self { left, written: false })
    }

    /// What a crash may have left standing, in path order.
    pub(super) fn left(&self) -> impl Iterator<Item = &Record> {
        self.left.values()
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Writes down, durably, what the next steps make visible.
    pub(super) fn plan<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<(), StoreError> {
        // A deletion shows by itself that it was done; those of a group must be.
        let planned = |record: &&Record| record.kind.is_live() || self.group_of(&record.path).is_some();
        let planned: Vec<_> = records.into_iter().filter(planned).collect();
        if planned.is_empty() {
            return Ok(());
        }
        if self.plans.written {
            self.commit()?;
        }
        for record in planned {
            self.index.plan(record)?;
        }
        self.uncommitted = true;
        self.commit()?;
        // Whatever becomes of them, the next commit ends them.
        (self.plans.written, self.uncommitted) = (true, true);
        Ok(())
    }

    /// Everything was looked at but what is in directories that could not be read, and what is held back as a mass deletion
    /// (in path order): the rest of what the life before had planned is taken up, or never came.
    pub(super) fn settle_plans(&mut self, held: &[RelPath], unread: &[Option<RelPath>]) {
        let before = self.plans.left.len();
        self.plans.left.retain(|path, _| {
            let hidden = |dir: &Option<RelPath>| dir.as_ref().is_none_or(|dir| path.is_below(dir));
            held.binary_search(path).is_ok() || unread.iter().any(hidden)
        });
        if self.plans.left.len() < before {
            (self.plans.written, self.uncommitted) = (true, true);
        }
    }

    /// Plans end with a commit, except for those of the life before whose places were not looked at yet.
    pub(super) fn end_plans(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.plans.written) {
            self.index.clear_plans()?;
            self.plans.left.values().try_for_each(|record| self.index.plan(record))?;
        }
        Ok(())
    }

    /// Whether the life before had planned a directory in the place of this version, or another version in the place of this
    /// directory: if nothing stands there, it was giving way, and nobody has deleted it.
    pub(super) fn gave_way(&mut self, record: &Record) -> Result<bool, StoreError> {
        let planned = self.plans.left.get(&record.path).filter(|planned| planned.kind.is_live());
        let Some(planned) = planned.filter(|planned| planned.kind.is_dir() != record.kind.is_dir()) else {
            return Ok(false);
        };
        Ok(match reconcile(Some(record), planned) {
            Decision::Take => true,
            // What loses is kept beside, durably, before it gives way.
            Decision::Conflict { theirs_wins: true, copy: Some(copy), .. } => self.stat(&copy)?.is_some(),
            Decision::Conflict { theirs_wins, .. } => theirs_wins,
            Decision::Keep | Decision::Merge { .. } => false,
        })
    }

    /// Takes up the version that stands there because the life before put it there, if it did.
    pub(super) fn arrived(
        &mut self,
        path: &RelPath,
        entry: Option<&Entry>,
        stat: &Stat,
    ) -> Result<bool, StoreError> {
        let Some(record) = self.plans.left.get(path).cloned() else { return Ok(false) };
        let newer = matches!(reconcile(entry.map(|entry| &entry.record), &record), Decision::Take);
        if !newer || entry.is_some_and(|entry| entry.stale) || !self.meta.fences.admit(&record) {
            return Ok(false);
        }
        let seen = match &record.kind {
            // It may have been made, and not been given its attributes any more.
            Kind::Dir { attributes } if stat.kind == FileKind::Dir => {
                match self.disk.make_dir(path, attributes) {
                    Err(error) if error.is_final() => return Err(error.into()),
                    made => made.ok(),
                }
            }
            _ => self.stands(&record, stat)?,
        };
        let Some(seen) = seen else { return Ok(false) };
        self.event(Event::Applied(path.clone()));
        self.put(record, Some(seen))?;
        Ok(true)
    }

    /// The fingerprint of what stands there, if that is this version, as far as it can be applied here.
    pub(super) fn stands(&mut self, record: &Record, stat: &Stat) -> Result<Option<Stat>, StoreError> {
        let (sequence, seen, stale) = (0, None, false);
        let entry = Entry { record: record.clone(), sequence, seen, stale, behind: None };
        let (mut kind, seen) = match self.read_kind(&record.path, stat, Some(&entry), &[]) {
            Ok(Some(read)) => read,
            Err(error) if error.is_final() => return Err(error.into()),
            Ok(None) | Err(_) => return Ok(None),
        };
        if let (Kind::File { attributes, .. }, Some(given)) = (&mut kind, record.kind.attributes())
            && !self.disk.is_root()
            && attributes.mode == given.mode & 0o1777
        {
            attributes.mode = given.mode;
        }
        // What could not be linked has no label by which it could be known.
        Ok((kind.linked(None) == record.kind.clone().linked(None)).then_some(seen))
    }
}
