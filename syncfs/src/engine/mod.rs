//! The replica as a state machine: [`Engine`] takes messages, disk changes and time, and gives messages and events.
//! No clock, no threads, no entropy; the directory and the index are reached through [`Disk`] and [`Index`], which
//! it was given, so that the simulation runs this very code.
//!
//! The caller's loop, in this order, forever:
//!
//! 1. [`Engine::handle`] an input (a message, a session that began or ended, changed paths, time).
//! 2. [`Engine::work`] while it says that there is more, looking for inputs in between.
//! 3. [`Engine::settle`]: make what is complete durable and visible, in one group.
//! 4. [`Engine::poll`] every session that can take a message, until it has none; take [`Engine::events`].
//!
//! Any `Err` of type [`StoreError`] is final: drop the engine, and open the folder again.

mod apply;
mod barrier;
mod branches;
mod checking;
mod conflicts;
mod consistency;
mod cutting;
mod deltas;
mod directing;
mod edits;
mod exchange;
mod expiring;
mod fencing;
mod grouping;
mod guarding;
mod held;
mod ignoring;
mod intake;
mod keeping;
mod links;
mod moves;
mod pacing;
mod pending;
mod plans;
mod reading;
mod rejoining;
mod reporting;
mod restoring;
mod retrying;
mod room;
mod scanning;
mod transfer;
mod undoing;
mod wants;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use crate::branch::Branch;
use crate::device::{DeviceId, FolderId};
use crate::digest::{Digest, Digester};
use crate::disk::Disk;
use crate::error::{StoreError, Violation};
use crate::index::{Behind, Entry, Index, IndexError, Meta};
use crate::path::RelPath;
use crate::reconcile::conflict_of;
use crate::record::Record;
use crate::status::{Event, Problem, Summary};
use crate::wire::Message;

use exchange::Session;
use moves::Made;
use pending::Table;

pub use deltas::{COPIES_BYTES_PER_S, DELTA_BYTES_MIN, QUIET_MAX_MS};
pub use directing::DIFFERING_MAX;
pub use edits::EDITS_KEPT_MAX;
pub use exchange::{
    ASKED_MAX, BATCH_BYTES, BATCHES_MAX, PACK_BYTES, PENDING_BYTES, PENDING_MAX, PING_AFTER_MS,
    SILENCE_MAX_MS, WAITING_BYTES_MAX, WAITING_MAX,
};
pub use expiring::EXPIRE_EVERY_MS;
pub use guarding::MASS_DELETION_MIN;
pub use moves::MOVES_KEPT_MAX;
pub use pacing::{CUT_EVERY_MS, CUT_WAIT_MAX_MS};
pub use reporting::{EVENTS_MAX, PROBLEMS_MAX};
pub use retrying::{TRY_AGAIN_MAX_MS, TRY_AGAIN_MS};
pub use room::LOOK_FOR_ROOM_MS;
pub use transfer::WORK_BYTES;
pub use wants::WINDOW_BYTES;

/// Names one stream within one run of an engine. The caller never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Not a stream: versions that this replica has to restore on its own disk.
const OWN: SessionId = SessionId(0);

/// What happens to an engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// A stream was opened, by either side; `expect` is who must be at its other end.
    Opened {
        /// A fresh name, not 0.
        session: SessionId,
        /// Who must answer, if that is known.
        expect: Option<DeviceId>,
    },
    /// A message arrived.
    Received {
        /// On this stream.
        session: SessionId,
        /// The message.
        message: Message,
    },
    /// Bytes arrive on this stream, although they are no whole message yet.
    Heard {
        /// This one.
        session: SessionId,
    },
    /// A stream ended.
    Closed {
        /// This one.
        session: SessionId,
    },
    /// Something at or below these paths may have changed.
    Touched(Vec<RelPath>),
    /// The same, for a flush: nothing is put off, however often a database was cut lately.
    Awaited(Vec<RelPath>),
    /// Attributes of these directories may have changed, and nothing below them.
    Adjusted(Vec<RelPath>),
    /// Time passed.
    Tick,
}

/// One replica. See the module's documentation for how to drive it.
pub struct Engine<D, I> {
    disk: D,
    index: I,
    meta: Meta,
    now_ms: u64,
    sessions: BTreeMap<SessionId, Session>,
    pending: Table,
    /// Directories made for a peer's entries that have no version of their own yet.
    revived: BTreeSet<RelPath>,
    /// The latest moves, for peers that did not hear of them yet.
    moves: Vec<Made>,
    edits: edits::Edits,
    stale: u64,
    /// It has all that it wrote itself, or knows that nobody wants it. Not after its tail was set aside: what that had replaced is to
    /// come from a peer, and it is told of that only as long as it does not claim to know it.
    knows_own: bool,
    retry: retrying::Retry,
    refused: u64,
    uncommitted: bool,
    life: rejoining::Life,
    plans: plans::Plans,
    /// The last run ended after a fence was durable and perhaps before all was done because of it.
    fence_unsettled: bool,
    /// The folder's identity became known, and the peers do not know it yet.
    founded: bool,
    problems: BTreeMap<Option<RelPath>, String>,
    /// Directories with entries that cannot be replicated under their names.
    left_out: BTreeMap<Option<RelPath>, Problem>,
    unsettled: BTreeSet<RelPath>,
    pace: pacing::Pace,
    cutting: cutting::Cutting,
    deltas: deltas::Deltas,
    events: Vec<Event>,
    rules: ignoring::Rules,
    guard: guarding::Guard,
    course: directing::Course,
    room: room::Room,
    links: links::Links,
    checking: checking::Checking,
    expiry: expiring::Expiry,
    /// The newest branch, to which more of the same is added.
    branch: Option<Branch>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Takes over a directory and its index. Call [`Engine::scan`] next.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn new(disk: D, index: I) -> Result<Self, StoreError> {
        let meta = index.meta()?;
        let plans = plans::Plans::of_the_life_before(&index)?;
        let checking = checking::Checking::new(&index)?;
        let life = rejoining::Life::after(meta.sequence);
        let knows_own = meta.sequence == meta.base || meta.knowledge.has_seen(&meta.device, meta.sequence);
        let mut engine = Self {
            disk,
            index,
            meta,
            now_ms: 0,
            sessions: BTreeMap::new(),
            pending: Table::default(),
            revived: BTreeSet::new(),
            moves: Vec::new(),
            edits: edits::Edits::default(),
            stale: 0,
            knows_own,
            retry: retrying::Retry::default(),
            refused: 0,
            uncommitted: false,
            life,
            plans,
            fence_unsettled: true,
            founded: false,
            problems: BTreeMap::new(),
            left_out: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            pace: pacing::Pace::default(),
            cutting: cutting::Cutting::default(),
            deltas: deltas::Deltas::default(),
            events: Vec::new(),
            rules: ignoring::Rules::default(),
            guard: guarding::Guard::default(),
            course: directing::Course::default(),
            room: room::Room::default(),
            links: links::Links::default(),
            checking,
            expiry: expiring::Expiry::default(),
            branch: None,
        };
        engine.branch = engine.newest_branch()?;
        engine.stale = engine.stale_entries()?.len() as u64;
        engine.open_deltas()?;
        Ok(engine)
    }

    /// Takes an input at a time (milliseconds, growing).
    ///
    /// # Errors
    /// If the directory or the index fails; what a peer does wrong only ends its session (see [`Engine::ended`]).
    pub fn handle(&mut self, now_ms: u64, input: Input) -> Result<(), StoreError> {
        self.pass_time(now_ms);
        match input {
            Input::Opened { session, expect } => {
                assert_ne!(session, OWN, "session 0 is the engine's own");
                self.sessions.insert(session, Session::new(expect, self.now_ms));
            }
            Input::Received { session, message } => self.received(session, message)?,
            Input::Heard { session } => self.heard(session),
            Input::Closed { session } => self.close(session),
            Input::Touched(paths) => self.touched(paths, true)?,
            Input::Awaited(paths) => self.touched(paths, false)?,
            Input::Adjusted(dirs) => self.adjusted(&dirs)?,
            Input::Tick => {
                self.end_silent_sessions();
                self.look_for_room()?;
                self.try_again();
                self.expire_branches()?;
                self.take_up_due()?;
            }
        }
        Ok(())
    }

    /// When [`Input::Tick`] is due, in milliseconds.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let sessions =
            self.sessions.values().filter(|session| session.ended.is_none()).map(Session::deadline);
        sessions
            .chain(self.try_again_at())
            .chain(self.pace.deadline())
            .chain(self.room.deadline())
            .chain(self.materialise_at())
            .min()
    }

    /// Why a session must be closed, if it must. Send what [`Engine::poll`] still gives (a farewell), then close it.
    #[must_use]
    pub fn ended(&self, session: SessionId) -> Option<&Violation> {
        self.sessions.get(&session)?.ended.as_ref()
    }

    /// What a session did so far.
    #[must_use]
    pub fn summary(&self, session: SessionId) -> Summary {
        self.sessions.get(&session).map(|session| session.summary.clone()).unwrap_or_default()
    }

    /// This replica's own state.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The index, to read from.
    #[must_use]
    pub fn index(&self) -> &I {
        &self.index
    }

    /// Ends the engine and gives back what it was made of.
    pub fn into_parts(self) -> (D, I) {
        (self.disk, self.index)
    }

    /// Whether nothing is under way: all that was offered is durable here.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && !self.uncommitted
    }

    /// The whole folder as one hash.
    ///
    /// # Errors
    /// If the index fails.
    pub fn digest(&self) -> Result<Digest, IndexError> {
        let mut digester = Digester::default();
        self.each_entry(|entry| {
            if !entry.stale {
                digester.add(&entry.record);
            }
        })?;
        Ok(digester.finish())
    }

    fn known(&self, device: &DeviceId) -> u64 {
        if *device == self.meta.device { self.meta.sequence } else { self.meta.knowledge.counter(device) }
    }

    fn is_connected(&self, device: &DeviceId) -> bool {
        self.sessions.values().any(|session| session.ended.is_none() && session.peer == Some(*device))
    }

    fn each_entry(&self, mut visit: impl FnMut(&Entry)) -> Result<(), IndexError> {
        let mut after = None;
        loop {
            let page = self.index.page(after.as_ref(), 1000)?;
            page.iter().for_each(&mut visit);
            match page.last() {
                Some(last) => after = Some(last.record.path.clone()),
                None => return Ok(()),
            }
        }
    }

    /// Gives out the next sequence.
    fn next_sequence(&mut self) -> u64 {
        self.meta.sequence += 1;
        self.uncommitted = true;
        self.meta.sequence
    }

    /// A new version of this replica's own, that has seen `before`.
    fn own_version(&mut self, before: Option<&Record>, path: &RelPath, kind: crate::record::Kind) -> Record {
        if self.meta.folder.is_none() && !self.receives_only() {
            self.meta.folder = Some(folder_of(&self.meta.device));
            self.founded = true;
        }
        let mut version = before.map(|record| record.version.clone()).unwrap_or_default();
        version.raise(self.meta.device, self.meta.sequence + 1);
        Record { path: path.clone(), kind, version, by: self.meta.device, epoch: self.meta.fences.epoch() }
    }

    /// Puts an entry under the next sequence.
    fn put(&mut self, record: Record, seen: Option<crate::disk::Stat>) -> Result<(), StoreError> {
        self.put_behind(record, seen, None)
    }

    fn put_behind(
        &mut self,
        record: Record,
        seen: Option<crate::disk::Stat>,
        behind: Option<Behind>,
    ) -> Result<(), StoreError> {
        // A restore was of the version before.
        self.pending.remove(&(record.path.clone(), OWN));
        self.reconsider(&record.path);
        self.may_link_again(&record.path);
        self.tell_of_conflict(&record)?;
        self.agree_on(&record.path, &record.version)?;
        self.note_change(&record)?;
        let sequence = self.next_sequence();
        self.remember_edit(&record, sequence)?;
        self.look_at_damage(&record, seen)?;
        self.put_entry(&Entry { record, sequence, seen, stale: false, behind })
    }

    /// Forgets a path altogether.
    fn forget(&mut self, path: &RelPath) -> Result<(), StoreError> {
        self.pending.remove(&(path.clone(), OWN));
        self.count_stale(path, false)?;
        self.note_gone(path);
        self.is_sound_again(path)?;
        self.uncommitted = true;
        Ok(self.index.forget(path)?)
    }

    /// A copy that a conflict kept has come, of this replica's making or of a peer's.
    fn tell_of_conflict(&mut self, record: &Record) -> Result<(), StoreError> {
        if let Some(conflict) = conflict_of(&record.path).filter(|_| record.kind.is_live()) {
            let before = self.index.entry(&record.path)?;
            if before.is_none_or(|before| !before.record.kind.is_live()) {
                self.event(Event::Conflict(conflict));
            }
        }
        Ok(())
    }

    fn put_entry(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.count_stale(&entry.record.path, entry.stale)?;
        self.note_behind(entry);
        self.uncommitted = true;
        Ok(self.index.put(entry)?)
    }

    fn count_stale(&mut self, path: &RelPath, stale: bool) -> Result<(), StoreError> {
        if self.stale > 0 || stale {
            let before = self.index.entry(path)?.is_some_and(|entry| entry.stale);
            self.stale = self.stale + u64::from(stale) - u64::from(before);
        }
        Ok(())
    }

    /// Makes the disk and then the index durable.
    fn commit(&mut self) -> Result<(), StoreError> {
        if self.uncommitted {
            self.disk.sync_tree()?;
            self.end_plans()?;
            if self.knows_own {
                self.meta.knowledge.raise(self.meta.device, self.meta.sequence);
            }
            self.index.put_meta(&self.meta)?;
            self.index.commit()?;
            self.uncommitted = false;
            self.drop_logs()?;
        }
        Ok(())
    }
}

/// The identity of a folder that this replica founded.
fn folder_of(founder: &DeviceId) -> FolderId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"syncfs folder").update(founder.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    FolderId::from_bytes(id)
}
