//! A replica that remembers less than it has told: its index was lost and built anew from the directory, or it was restored
//! from a backup. It rejoins as unknown, not as an authority. Until one peer has told everything,
//!
//! * what stands in its directory, and is not of a version that it remembers, is told to nobody and taken for nothing; where
//!   a peer has the same, it is that version, without a transfer;
//! * what differs from a peer's version is kept beside it as a conflict; what the peers say was deleted is kept in
//!   `aside/`: it may be the version that was deleted, and then must not come back, or a later edit, and then must not be lost;
//! * what is missing was not deleted: it comes back;
//! * it claims to know nothing, so that peers tell it all, its own forgotten writes among it.
//!
//! Then what no peer has, not even as a deletion, is new. Counters go on in a new life, which is a writer of its own in every
//! version vector: whoever knows all that is written from now on is still told what was forgotten. It begins above all that this
//! peer has ever seen of the replica, further on by chance: a life may have been forgotten, too, of which only other peers know
//! (a backup that is restored twice), and the dots of the two must not be the same. They are in one of a thousand such cases.
//!
//! *Copies.* Two replicas under one key (a cloned machine) look like this to each other's peers: each writes under counters that
//! the other never gave out, and they would make each other rejoin for ever. But once a peer has told everything, nothing that an
//! earlier life wrote can be above at this peer; so who would have to rejoin because of it knows that somebody else writes under its
//! key. It ends the session, says so, and tells that peer nothing more; the other one goes on. Nothing is lost: what is written
//! here stays here. So it is, without a copy, where that peer heard only afterwards of a life that was forgotten: a restart ends it.
//!
//! *Nobody remembers.* Where all replicas rejoin, each waits for another. That is not ended by itself: a replica that is
//! away may remember, and what was deleted there would come back. A person says that there is none
//! ([`Engine::rejoin_alone`]); the rest is as at a first meeting: what differs is kept, both of it.
//!
//! A loss is known when the index is opened. A backup is noticed when a peer knows a write of this replica that it never
//! made; what was edited here since the beginning of this run is unknown then, what is older is taken for what it says. Not
//! noticed are edits under a forgotten counter that reach a third replica before a peer that knows better is met.

use std::collections::BTreeSet;

use crate::device::DeviceId;
use crate::disk::{Disk, DiskError, Keep, Stat};
use crate::error::{StoreError, Violation};
use crate::index::{Entry, Index};
use crate::reconcile::conflict_path;
use crate::record::{Record, VersionVector, next_life};
use crate::status::{Event, Problem};

use super::{Engine, SessionId};

/// No replica gives out more.
const COUNTER_MAX: u64 = 1 << 62;

const REJOINING: &str = "its index was lost or is older than what its peers know of it: it waits for a peer to tell it everything, \
     and says nothing for itself until then. If no replica remembers more than this one, say so: `rejoin-alone`";

const CLONED: &str = "another replica writes under this one's key: it is a copy of this one, or this one of it. Peers that have met the \
     other are told nothing more. Give one of the two a key of its own: stop it, remove its state directory (keep `aside/`, \
     if there are branches), and make it a replica anew";

/// This run of an engine.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// The last sequence of the life before: what has more is of this one.
    began_at: u64,
    /// Since counters went on above all that a peer had seen: the peers that have told everything.
    told_all: Option<BTreeSet<DeviceId>>,
    cloned: bool,
}

impl Life {
    pub(super) fn after(sequence: u64) -> Self {
        Self { began_at: sequence, ..Self::default() }
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    pub(super) fn rejoining_problem(&self) -> Option<Problem> {
        let what = if self.life.cloned { CLONED } else { REJOINING };
        (self.life.cloned || self.meta.rejoining).then(|| Problem { path: None, what: what.to_owned() })
    }

    /// Whether a peer knows a write of this replica (the last one of each life) that it has not made, as far as it remembers. Then it
    /// rejoins.
    pub(super) fn remembers_less(
        &mut self,
        id: SessionId,
        known: impl IntoIterator<Item = u64>,
    ) -> Result<bool, StoreError> {
        let (mut counter, mut forgotten) = (0, false);
        for known in known {
            counter = counter.max(known);
            forgotten |= self.is_forgotten(known);
        }
        if counter <= self.meta.sequence && !forgotten {
            return Ok(false);
        }
        if counter > COUNTER_MAX {
            let session = self.sessions.get_mut(&id).expect("the caller checked the session");
            session.fail(Violation::Record("a counter of this replica that it cannot reach"));
            return Ok(true);
        }
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        let peer = session.peer.filter(|_| !self.meta.rejoining);
        if peer.is_some_and(|peer| self.life.told_all.as_ref().is_some_and(|told| told.contains(&peer))) {
            session.fail(Violation::Cloned);
            self.life.cloned = true;
            self.event(Event::Problem(Problem { path: None, what: CLONED.to_owned() }));
            return Ok(true);
        }
        self.rejoin(counter).map(|()| true)
    }

    /// Whether this replica gave a counter out in a life that it does not remember at all: it was made anew under an old key.
    fn is_forgotten(&self, counter: u64) -> bool {
        let met = self.life.told_all.is_some()
            || self.meta.knowledge.iter().any(|(device, _)| *device != self.meta.device);
        // The base itself is no write's: a peer that was told of none has heard just that.
        (1..self.meta.base).contains(&counter) && !self.meta.rejoining && !met
    }

    fn rejoin(&mut self, known: u64) -> Result<(), StoreError> {
        self.problem(None, REJOINING);
        // Whoever never met anyone has no versions that others know.
        let met = self.meta.knowledge.iter().any(|(device, _)| *device != self.meta.device);
        let (device, since) = (self.meta.device, if met { self.life.began_at } else { 0 });
        let mut edits = Vec::new();
        self.each_entry(|entry| {
            let record = &entry.record;
            if !entry.stale && record.by == device && record.counter() > since {
                edits.push(entry.clone());
            }
        })?;
        self.meta.sequence = next_life(self.meta.sequence.max(known), self.disk.chance()?);
        self.meta.base = self.meta.sequence;
        self.meta.rejoining = true;
        self.life.began_at = self.meta.sequence;
        self.life.told_all.get_or_insert_default();
        for entry in edits {
            // What is found is what is visible.
            let Entry { record, seen, .. } = self.shown(entry)?;
            match record.kind.is_live() {
                true => self.put_found(record, seen)?,
                // Nothing was deleted here: what the peers have comes back.
                false => self.forget(&record.path)?,
            }
        }
        self.begin_index()?;
        self.restate(true)
    }

    /// Remembers what stands at a path without saying that it is a version.
    pub(super) fn put_found(&mut self, record: Record, seen: Option<Stat>) -> Result<(), StoreError> {
        self.reconsider(&record.path);
        let sequence = self.next_sequence();
        let record = Record { version: VersionVector::default(), ..record };
        self.put_entry(&Entry { record, sequence, seen, stale: true, behind: None })
    }

    /// What stands at a path differs from a peer's version that takes its place: it becomes a version of its own, beside.
    /// Returns its fingerprint after that.
    pub(super) fn keep_beside(&mut self, entry: &Entry, stood: &Stat) -> Result<Stat, StoreError> {
        let path = &entry.record.path;
        let copy = loop {
            // A counter that was never used gives a name that was never used, unless a crash left it.
            let loser = self.own_version(None, path, entry.record.kind.clone());
            let copy = conflict_path(&loser);
            match self.disk.keep(path, &Keep::Beside(copy.clone())) {
                Ok(_) => break copy,
                Err(DiskError::Taken) => drop(self.next_sequence()),
                Err(error) => return Err(error.into()),
            }
        };
        let now = self.still_stands(path, stood)?.ok_or(DiskError::Changed)?;
        let record = self.own_version(None, &copy, entry.record.kind.clone());
        let seen = self.stat(&copy)?;
        self.put(record, seen)?;
        Ok(now)
    }

    /// A peer has told everything, and all of it stands here: what else was found is this replica's own.
    pub(super) fn rejoined(&mut self, peer: DeviceId) -> Result<(), StoreError> {
        if let Some(told_all) = &mut self.life.told_all {
            told_all.insert(peer);
        }
        if !self.end_rejoining() || self.is_undoing() {
            // Whoever follows has no versions of its own.
            return Ok(());
        }
        self.put_all_found()
    }

    /// No peer remembers more than this replica: it does not wait for one any more, and what was found here is its own, also where
    /// it follows. A peer that remembers all the same may get back what was deleted there. Returns whether this
    /// replica was rejoining.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn rejoin_alone(&mut self) -> Result<bool, StoreError> {
        self.scan()?;
        if !self.end_rejoining() {
            return Ok(false);
        }
        self.put_all_found()?;
        self.commit()?;
        Ok(true)
    }

    fn end_rejoining(&mut self) -> bool {
        let was = std::mem::take(&mut self.meta.rejoining);
        if was {
            self.uncommitted = true;
            self.problems.retain(|_, what| what != REJOINING);
        }
        was
    }

    fn put_all_found(&mut self) -> Result<(), StoreError> {
        for entry in self.stale_entries()?.into_iter().filter(|entry| entry.record.version.is_empty()) {
            let record = self.own_version(None, &entry.record.path, entry.record.kind);
            self.put(record, entry.seen)?;
        }
        Ok(())
    }
}
