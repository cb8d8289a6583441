//! What is about to become visible, written down before it does.
//!
//! A crash between a rename and the commit of the index leaves a peer's version standing that the index knows nothing of. Taken for
//! an edit of this replica, it would stand against whatever its writer did next: a deletion would not hold, a newer
//! version would meet a conflict. So the records of a group are committed before its renames, and the first scan after
//! a crash knows what it finds. The plans go with the commit that makes the group durable.

use std::collections::BTreeMap;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::{Decision, reconcile};
use crate::record::{Kind, Record};

use super::Engine;

/// Plans, and those of the life before.
#[derive(Debug, Default)]
pub(super) struct Plans {
    /// What a crash may have left standing; gone after the first complete scan.
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

    /// Whether the next commit is to end them.
    pub(super) fn end(&mut self) -> bool {
        std::mem::take(&mut self.written)
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

    /// Everything was looked at: what the life before had planned is taken up, or never came.
    pub(super) fn plans_are_settled(&mut self) {
        if !self.plans.left.is_empty() {
            self.plans.left.clear();
            (self.plans.written, self.uncommitted) = (true, true);
        }
    }

    /// The version that stands there because the life before put it there, if it did.
    pub(super) fn arrived(&self, path: &RelPath, entry: Option<&Entry>, kind: &Kind) -> Option<Record> {
        // What could not be linked has no label by which it could be known.
        let alone = kind.clone().linked(None);
        let record = self.plans.left.get(path).filter(|record| record.kind.clone().linked(None) == alone)?;
        let newer = matches!(reconcile(entry.map(|entry| &entry.record), record), Decision::Take);
        let fits = newer && entry.is_none_or(|entry| !entry.stale) && self.meta.fences.admit(record);
        fits.then(|| record.clone())
    }
}
