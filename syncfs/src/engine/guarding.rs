//! The guard against mass deletion: when more than half of a folder's files vanish at once, that is rarely what somebody
//! meant (a disk that came back empty, a container that began anew, a script in the wrong directory), and on peers it would
//! be final. Such an absence is not believed: the files stay in the index and on the peers, a person is told, and either
//! puts them back or says that it was meant.
//!
//! It guards where the files vanished, not where their deletions arrive: a replica that doubted its peers would make every
//! barrier wait for a person. What arrives can be kept in the history. The holder of a lease is not doubted: its application
//! is the authority, and a missing disk shows by the missing marker. A follower deletes nothing; it puts back.

use std::collections::BTreeSet;

use crate::disk::{Disk, Stat};
use crate::error::StoreError;
use crate::index::Index;
use crate::path::RelPath;
use crate::status::{Event, Role, ScanReport};

use super::Engine;
use super::links::NAMES_LOOKED_AT;

/// So many files may vanish at once in any folder.
pub const MASS_DELETION_MIN: u64 = 100;

/// What is held back.
#[derive(Debug)]
pub(super) struct Guard {
    /// More files than this, and more than half, are not believed to be deleted; `None` believes everything.
    min: Option<u64>,
    /// Files that vanished and were not believed, at the last look.
    held: u64,
    confirmed: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self { min: Some(MASS_DELETION_MIN), held: 0, confirmed: false }
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// From how many files on a deletion of more than half of them is held back; `None` for never. By default
    /// [`MASS_DELETION_MIN`].
    pub fn guard_deletions(&mut self, min: Option<u64>) {
        self.guard.min = min;
    }

    /// Files that vanished and are not believed to be deleted.
    #[must_use]
    pub fn held_deletions(&self) -> u64 {
        self.guard.held
    }

    /// What vanished was deleted on purpose: takes up the whole directory as it stands now.
    ///
    /// # Errors
    /// As [`Engine::scan`].
    pub fn confirm_deletions(&mut self) -> Result<ScanReport, StoreError> {
        self.guard.confirmed = true;
        let report = self.scan();
        self.guard.confirmed = false;
        report
    }

    /// Whether the absence of these paths is taken as their deletion. What stands elsewhere was renamed: it is among what else
    /// was `found`, or was taken up before, when its old name was not looked at or still stood.
    pub(super) fn believes(
        &mut self,
        gone: &[RelPath],
        found: &[(RelPath, Stat)],
    ) -> Result<bool, StoreError> {
        let min = match self.guard.min {
            Some(min) if !self.guard.confirmed && self.meta.role != Role::Holder && !self.is_undoing() => min,
            _ => u64::MAX,
        };
        if gone.len() as u64 <= min {
            return Ok(true);
        }
        let found: BTreeSet<_> = found.iter().map(|(_, stat)| stat.identity()).collect();
        let missing: BTreeSet<_> = gone.iter().collect();
        let mut vanished = 0;
        for path in gone {
            let Some(entry) = self.index.entry(path)? else { continue };
            let Some(seen) = entry.seen.filter(|_| entry.record.kind.content().is_some()) else { continue };
            if self.is_ignored_path(path, None, Some(&entry)) {
                continue;
            }
            let renamed = found.contains(&seen.identity()) || self.is_elsewhere(&seen, &missing)?;
            vanished += u64::from(!renamed);
        }
        let files = self.index.totals()?.files;
        if vanished <= min || vanished <= files / 2 {
            return Ok(true);
        }
        if self.guard.held != vanished {
            self.guard.held = vanished;
            self.event(Event::DeletionsHeld { files: vanished, of: files });
        }
        self.tell_held();
        Ok(false)
    }

    /// Whether a file is known by a name that is not missing.
    fn is_elsewhere(&self, seen: &Stat, missing: &BTreeSet<&RelPath>) -> Result<bool, StoreError> {
        for name in self.index.names_of(seen.ino, NAMES_LOOKED_AT)? {
            let entry = self.index.entry(&name)?.filter(|_| !missing.contains(&name));
            if entry.and_then(|entry| entry.seen).is_some_and(|other| other.identity() == seen.identity()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A look at everything found nothing to hold back.
    pub(super) fn release(&mut self) {
        self.guard.held = 0;
    }

    fn tell_held(&mut self) {
        let held = self.guard.held;
        self.problem(
            None,
            format!(
                "{held} files, more than half of the folder, vanished at once: not taken as deleted, peers keep them. Put them \
                 back (is the right disk mounted?), or confirm the deletions if they were meant"
            ),
        );
    }
}
