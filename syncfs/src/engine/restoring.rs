//! Restores: versions that this replica has to put back on its own disk, with content of its own or of whichever peer has it.

use crate::disk::{Disk, Stat};
use crate::error::StoreError;
use crate::index::Index;
use crate::path::RelPath;
use crate::record::Record;

use super::pending::{Key, Pending};
use super::{Engine, OWN};

impl<D: Disk, I: Index> Engine<D, I> {
    /// Asks for the disk's content of a replicated version back. A restore that is under way goes on: it knows whom it has asked in
    /// vain, and would ask them for ever.
    pub(super) fn restore(&mut self, record: Record, over: Option<Stat>) {
        let before = self.pending.get(&(record.path.clone(), OWN));
        if before.is_none_or(|before| before.record != record || before.over != over) {
            self.pending.insert(OWN, Pending::restore(record, over));
        }
    }

    /// How many restores are under way, with somebody to ask; what is only materialised is here already.
    pub(super) fn restoring(&self) -> Result<u64, StoreError> {
        let mut count = self.pending.weighty(OWN) as u64;
        for (path, _) in self.pending.of_session(OWN) {
            let entry = self.index.entry(&path)?;
            let is_here = entry.is_some_and(|entry| entry.seen.is_some() && entry.behind.is_some());
            count = count.saturating_sub(u64::from(is_here));
        }
        Ok(count)
    }

    /// Whether this, at this path, is an edit that was set aside and waits for its replacement.
    pub(super) fn is_set_aside(&self, path: &RelPath, stat: &Stat) -> bool {
        self.over(&(path.clone(), OWN)).as_ref() == Some(stat)
    }

    /// What stands at a path while its restore waits.
    pub(super) fn over(&self, key: &Key) -> Option<Stat> {
        self.pending.get(key).and_then(|pending| pending.over)
    }

    /// Restores that lost their source, or had none, look again.
    pub(super) fn restart_restores(&mut self) {
        for key in self.pending.of_session(OWN) {
            self.pending.update(&key, Pending::ask_again);
        }
    }
}
