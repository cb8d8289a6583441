//! What people and programs are told: events, the status, problems that need a person.

use std::collections::BTreeMap;

use crate::disk::Disk;
use crate::index::{Index, IndexError};
use crate::path::RelPath;
use crate::status::{Event, PeerStatus, Problem, Status};

use super::Engine;

/// Most events kept for a caller that does not take them; older ones are dropped.
pub const EVENTS_MAX: usize = 4096;
/// Most problems remembered; a folder with more says so for the folder as a whole.
pub const PROBLEMS_MAX: usize = 1000;

impl<D: Disk, I: Index> Engine<D, I> {
    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// A snapshot for people.
    ///
    /// # Errors
    /// If the index fails.
    pub fn status(&self) -> Result<Status, IndexError> {
        let totals = self.index.totals()?;
        let mut peers: BTreeMap<_, _> = self.index.peers()?.into_iter().collect();
        // One that has only just come, too.
        for device in self.sessions.values().filter_map(|session| session.peer) {
            peers.entry(device).or_default();
        }
        let peers = peers.into_iter().map(|(device, state)| {
            let acked = if state.ours == Some(self.meta.index) { state.acked } else { 0 };
            let behind = self.meta.sequence.saturating_sub(acked.max(self.meta.base));
            let (connected, transfer) = (self.is_connected(&device), self.transfer_from(&device));
            PeerStatus { device, connected, acked, behind, paused: self.peer_pause(&device), transfer }
        });
        Ok(Status {
            device: self.meta.device,
            folder: self.meta.folder,
            index: self.meta.index,
            files: totals.files,
            bytes: totals.bytes,
            sequence: self.meta.sequence,
            epoch: self.meta.fences.epoch(),
            role: self.meta.role,
            pending: self.pending.len() as u64,
            peers: peers.collect(),
            problems: self.problems(),
            conflicts: self.index.conflicts()?.len() as u64,
            branches: self.index.branch_count()?,
            refused: self.refused,
            held_deletions: self.held_deletions(),
            direction: self.direction(),
            differing: self.differing(),
            pause: self.room.pause(),
            consistency: self.consistency(),
            unmaterialised: self.unmaterialised(),
            restless: self.restless(),
        })
    }

    /// What needs a person's attention now.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let problem =
            |(path, what): (&Option<RelPath>, &String)| Problem { path: path.clone(), what: what.clone() };
        let problems = self.problems.iter().map(problem).chain(self.left_out.values().cloned());
        problems
            .chain(self.misfits())
            .chain(self.failed_cuts())
            .chain(self.checking.problems())
            .chain(self.too_many_branches())
            .chain(self.rejoining_problem())
            .collect()
    }

    /// Paths that did not hold still when they were read. Give them to [`Input::Touched`](super::Input::Touched) again a little later.
    pub fn unsettled(&mut self) -> Vec<RelPath> {
        std::mem::take(&mut self.unsettled).into_iter().collect()
    }

    /// Whether [`Engine::unsettled`] would give anything.
    #[must_use]
    pub fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    pub(super) fn event(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.remove(0);
        }
        self.events.push(event);
    }

    pub(super) fn problem(&mut self, path: Option<&RelPath>, what: impl ToString) {
        let (path, what) =
            match self.problems.len() < PROBLEMS_MAX || self.problems.contains_key(&path.cloned()) {
                true => (path.cloned(), what.to_string()),
                false => (None, format!("more than {PROBLEMS_MAX} paths have problems")),
            };
        if self.problems.get(&path) != Some(&what) {
            self.problems.insert(path.clone(), what.clone());
            self.event(Event::Problem(Problem { path, what }));
        }
    }

    /// Not readable in one piece: to be looked at again, soon. Beyond the limit the next scan does.
    pub(super) fn unsettle(&mut self, path: &RelPath) {
        if self.unsettled.len() < PROBLEMS_MAX {
            self.unsettled.insert(path.clone());
        }
    }

    pub(super) fn solved(&mut self, path: &RelPath) {
        self.is_at_rest(path);
        if !self.problems.is_empty() {
            self.problems.remove(&Some(path.clone()));
        }
    }
}
