//! How often a database that is written all the time is cut: at once when it was quiet before, then once a second, and
//! less often while a connected peer has not got the last cut yet, so that a slow link is not asked for ever newer ones.
//! A scan (so a flush) and whatever is about to touch the file cut now. Also since when what holds no pause could not be cut.

use std::collections::BTreeMap;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::index::{Index, IndexError};
use crate::path::RelPath;
use crate::status::Restless;

use super::{Engine, PROBLEMS_MAX};

/// Pause between two cuts of a database under constant writes, in milliseconds.
pub const CUT_EVERY_MS: u64 = 1000;
/// How long a cut is put off at most because a peer has not got the one before, in milliseconds.
pub const CUT_WAIT_MAX_MS: u64 = 10_000;
/// Pause between two looks whether it has, in milliseconds.
const LOOK_EVERY_MS: u64 = 100;

/// The databases that were cut lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When each was last cut; forgotten after [`CUT_WAIT_MAX_MS`].
    cut_ms: BTreeMap<RelPath, u64>,
    /// Changes that were put off, and when they are looked at.
    due_ms: BTreeMap<RelPath, u64>,
    /// Since when what changed could not be read in one piece, nanoseconds since 1970.
    restless_ns: BTreeMap<RelPath, i64>,
}

impl Pace {
    pub(super) fn deadline(&self) -> Option<u64> {
        self.due_ms.values().min().copied()
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// A cut was taken now.
    pub(super) fn was_cut(&mut self, path: &RelPath) {
        let now_ms = self.now_ms;
        self.pace.cut_ms.retain(|_, cut_ms| now_ms < *cut_ms + CUT_WAIT_MAX_MS);
        self.pace.cut_ms.insert(path.clone(), now_ms);
        self.pace.due_ms.remove(path);
    }

    /// A cut did not succeed: the next attempt is not put off.
    pub(super) fn pace_again(&mut self, path: &RelPath) {
        self.pace.cut_ms.remove(path);
    }

    /// What stands there did not hold still long enough to be read. Whenever it was so before, the clock goes on.
    pub(super) fn is_restless(&mut self, path: &RelPath) {
        let now_ns = self.disk.now_ns();
        let restless_ns = &mut self.pace.restless_ns;
        if restless_ns.len() < PROBLEMS_MAX {
            restless_ns.entry(path.clone()).or_insert(now_ns);
        }
    }

    /// It was read, or what was last read stands there.
    pub(super) fn is_at_rest(&mut self, path: &RelPath) {
        if self.pace.restless_ns.remove(path).is_some() {
            self.problems.remove(&Some(path.clone()));
        }
    }

    /// After a scan: of what is not looked at any more nothing is known.
    pub(super) fn forget_restless(&mut self) {
        self.pace.restless_ns.retain(|path, _| self.problems.contains_key(&Some(path.clone())));
    }

    /// What changed and could not be read since.
    #[must_use]
    pub fn restless(&self) -> Vec<Restless> {
        let restless = self.pace.restless_ns.iter().filter_map(|(path, &since_ns)| {
            let why = self.problems.get(&Some(path.clone()))?.clone();
            Some(Restless { path: path.clone(), since_ns, why })
        });
        restless.collect()
    }

    /// Whether a reported change of this path is put off.
    pub(super) fn put_off(&mut self, path: &RelPath) -> Result<bool, StoreError> {
        let Some(&cut_ms) = self.pace.cut_ms.get(path) else { return Ok(false) };
        let due_ms = if self.now_ms < cut_ms + CUT_EVERY_MS {
            cut_ms + CUT_EVERY_MS
        } else if self.now_ms < cut_ms + CUT_WAIT_MAX_MS && self.is_awaited(path)? {
            self.now_ms + LOOK_EVERY_MS
        } else {
            return Ok(false);
        };
        self.pace.due_ms.insert(path.clone(), due_ms);
        Ok(true)
    }

    /// Looks at what was put off and is due.
    pub(super) fn take_up_due(&mut self) -> Result<(), StoreError> {
        let due = self.pace.due_ms.iter().filter(|(_, due_ms)| **due_ms <= self.now_ms);
        let mut due: Vec<_> = due.map(|(path, _)| path.clone()).collect();
        if due.is_empty() {
            return Ok(());
        }
        self.pace.due_ms.retain(|_, due_ms| *due_ms > self.now_ms);
        // Where a group changed is known.
        due.retain(|path| !self.is_to_be_cut(path));
        self.touched(due, true)
    }

    /// Whether a connected peer does not have the current version yet.
    fn is_awaited(&self, path: &RelPath) -> Result<bool, IndexError> {
        let sequence = match self.cutting.cut_at(path) {
            Some(sequence) => Some(sequence),
            None => self.index.entry(path)?.map(|entry| entry.sequence),
        };
        let Some(sequence) = sequence else { return Ok(false) };
        for device in self
            .sessions
            .values()
            .filter(|session| session.ended.is_none())
            .filter_map(|session| session.peer)
        {
            let state = self.index.peer(&device)?;
            if state.ours != Some(self.meta.index) || state.acked < sequence {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
