//! Restores: versions that this replica has to put back on its own disk, with content of its own or of whichever peer has it.

use crate::disk::{Disk, Stat};
use crate::error::StoreError;
use crate::index::Index;
use crate::path::RelPath;
use crate::record::Record;

use super::pending::{Key, Pending};
use super::{Engine, OWN};

impl<D: Disk, I: Index> Engine<D, I> {
    /// Asks for the disk's content of a replicated version back.
    pub(super) fn restore(&mut self, record: Record, over: Option<Stat>) {
        self.pending.insert(OWN, Pending::restore(record, over));
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

    /// Ends all restores; gives back their paths.
    pub(super) fn give_up_restores(&mut self) -> Vec<RelPath> {
        let own = self.pending.of_session(OWN);
        own.iter().for_each(|key| self.pending.remove(key));
        own.into_iter().map(|(path, _)| path).collect()
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
            self.pending.update(&key, |pending| {
                pending.asked.clear();
                pending.restart();
            });
        }
    }
}
