//! How branches end without anybody dropping them: by age, and, as far as the folder has all that they hold, by size.
//!
//! Ages are told by the clock on the wall, which may be wrong for a while. So a branch goes only when it was too old at two looks in a
//! row.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::branch::{Branch, What};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::index::{Index, IndexError};
use crate::status::{Event, Problem};

use super::Engine;

/// Pause between two looks at the ages of branches, in milliseconds.
pub const EXPIRE_EVERY_MS: u64 = 3_600_000;
/// What is set aside later than this after a branch began does not belong to it any more, so that nothing goes with a branch
/// long before its own time.
pub(super) const BRANCH_SPAN_NS: i64 = 86_400_000_000_000;

/// The bounds of branches, and what was seen of them.
#[derive(Debug)]
pub(super) struct Expiry {
    age_ns: i64,
    bytes_max: u64,
    next_look_ms: u64,
    /// Those that were too old at the last look, by number.
    old: BTreeSet<u64>,
    /// What they take, if that is too much and cannot be helped.
    too_much: Option<u64>,
}

impl Default for Expiry {
    fn default() -> Self {
        Self { age_ns: i64::MAX, bytes_max: u64::MAX, next_look_ms: 0, old: BTreeSet::new(), too_much: None }
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Says for how long branches are kept, and how many bytes all of them may hold (see [`crate::branch`]). For ever, and any
    /// number, if it is not said.
    pub fn keep_branches(&mut self, age: Duration, bytes_max: u64) {
        self.expiry.age_ns = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        self.expiry.bytes_max = bytes_max;
    }

    /// Looks at the branches, if it is time.
    pub(super) fn expire_branches(&mut self) -> Result<(), StoreError> {
        if self.now_ms < self.expiry.next_look_ms {
            return Ok(());
        }
        self.expiry.next_look_ms = self.now_ms + EXPIRE_EVERY_MS;
        let mut branches = self.index.branches()?;
        let (now_ns, age_ns) = (self.disk.now_ns(), self.expiry.age_ns.saturating_add(BRANCH_SPAN_NS));
        let is_old = |branch: &Branch| now_ns.saturating_sub(branch.began_ns) > age_ns;
        let old: BTreeSet<_> = branches.iter().filter(|one| is_old(one)).map(|one| one.number).collect();
        let before = std::mem::replace(&mut self.expiry.old, old.clone());
        let mut bytes: u64 = branches.iter().map(|branch| branch.bytes).sum();
        // The oldest first.
        while let Some(branch) = branches.pop() {
            let over = bytes > self.expiry.bytes_max;
            let due = old.contains(&branch.number) && before.contains(&branch.number);
            if due || over && self.has_all_of(&branch)? {
                bytes -= branch.bytes;
                self.remove_branch(&branch)?;
                self.event(Event::BranchExpired(branch.name()));
            }
        }
        self.expiry.too_much = (bytes > self.expiry.bytes_max).then_some(bytes);
        Ok(())
    }

    /// Whether everything that a branch holds stands in the folder where it stood.
    fn has_all_of(&self, branch: &Branch) -> Result<bool, IndexError> {
        let mut after = None;
        loop {
            let page = self.index.kept(branch.number, after.as_ref(), 1000)?;
            let Some(last) = page.last() else { return Ok(true) };
            after = Some(last.path.clone());
            for kept in page.iter().filter(|kept| kept.what != What::Deleted) {
                let entry = self.index.entry(&kept.path)?;
                let stands = entry.filter(|entry| !entry.stale && entry.seen.is_some());
                if stands.and_then(|entry| What::of(&entry.record.kind)) != Some(kept.what) {
                    return Ok(false);
                }
            }
        }
    }

    pub(super) fn too_many_branches(&self) -> Option<Problem> {
        let (bytes, most) = (self.expiry.too_much?, self.expiry.bytes_max);
        let what = format!(
            "its branches take {bytes} bytes, more than the {most} that they should: restore what is wanted of them, and drop them"
        );
        Some(Problem { path: None, what })
    }
}
