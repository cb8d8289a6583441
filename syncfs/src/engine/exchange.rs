//! One session with one peer: introductions, index deltas in both directions, acknowledgements, chunks served.
//!
//! *Sending.* The peer says from which of our sequences on it wants records (`Have`); we send batches in sequence
//! order, as many as its `taken` allows. A batch is *complete* when nothing above it exists: only then does "durable
//! up to here" mean "has everything we had", and only then does a barrier count it.
//!
//! *Receiving.* A record is pending until it is durable, or until a newer one of the same path replaces it, which
//! inherits its place: `durable` never passes a sequence whose path is not settled. A refused record stops it for
//! good; its sender will begin a new index when it learns of the fence.

mod introduction;
mod outgoing;

use std::collections::VecDeque;

use crate::cutting::Mark;
use crate::device::{DeviceId, IndexId};
use crate::disk::Disk;
use crate::error::{StoreError, Violation};
use crate::index::Index;
use crate::path::RelPath;
use crate::record::{VECTOR_DEVICES_MAX, VersionVector};
use crate::status::{Event, Summary, Transfer};
use crate::wire::{Message, Numbered, RECORDS_MAX, Want};

use super::pending::Pending;
use super::wants::Wants;
use super::{Engine, SessionId};

/// Batches in flight to one peer.
pub const BATCHES_MAX: usize = 4;
/// Chunks that one side of a stream may have asked for and not yet received.
pub const ASKED_MAX: usize = 2048;
/// Size at which a message of chunks is full, in bytes; its last chunk may exceed it.
pub const PACK_BYTES: usize = 256 << 10;
/// Encoded size at which a batch is cut, in bytes; one record may exceed it.
pub const BATCH_BYTES: usize = 1 << 20;
/// Versions under way from one peer at which it is asked to pause.
pub const PENDING_MAX: usize = 2048;
/// What their records may take before that, in bytes: those of very large files are long.
pub const PENDING_BYTES: usize = 32 << 20;
/// Versions from one peer that may wait for something else; beyond it the session ends, and starts again from the
/// last acknowledgement.
pub const WAITING_MAX: usize = 1 << 17;
/// What the records of all versions of one peer may take, in bytes; beyond it the session ends, too.
pub const WAITING_BYTES_MAX: usize = 256 << 20;
/// A peer is pinged after this silence of ours, in milliseconds.
pub const PING_AFTER_MS: u64 = 10_000;
/// A session ends after this silence of the peer, in milliseconds.
pub const SILENCE_MAX_MS: u64 = 35_000;

#[derive(Debug, Default)]
pub(super) struct Session {
    expect: Option<DeviceId>,
    pub(super) peer: Option<DeviceId>,
    pub(super) ended: Option<Violation>,
    pub(super) summary: Summary,
    pub(super) wants: Wants,
    greeted: bool,
    farewell: bool,
    /// The last thing that was sent were chunks: records have their turn.
    served: bool,
    /// What was last said of a pause here, and what the peer last said of its own.
    told_pause: Option<String>,
    pause: Option<String>,
    control: VecDeque<Message>,
    serve: VecDeque<Want>,
    last_heard_ms: u64,
    last_sent_ms: u64,
    out: Outgoing,
    inn: Incoming,
}

/// Our records on their way to the peer.
#[derive(Debug, Default)]
struct Outgoing {
    round: u64,
    /// The last sequence sent; `None` until the peer asked.
    cursor: Option<u64>,
    /// The peer could not follow a move.
    full: bool,
    batches: VecDeque<Batch>,
    /// Sequence and knowledge of the last complete batch.
    told: Option<(u64, VersionVector)>,
}

#[derive(Debug)]
struct Batch {
    through: u64,
    complete: bool,
    /// The peer has room for more.
    taken: bool,
}

/// The peer's records on their way in.
#[derive(Debug, Default)]
struct Incoming {
    round: u64,
    index: Option<IndexId>,
    received: u64,
    durable: u64,
    taken: u64,
    complete: Option<(u64, VersionVector, Mark)>,
    /// Up to here it was everything, the last time.
    told: u64,
    refused: Option<u64>,
    /// A move of the peer's could not be followed.
    full: bool,
    acked: (u64, u64),
    /// The peer told that there is nothing new: it is acknowledged once more, as the last session may have ended before the
    /// peer heard so.
    again: bool,
    /// What the peer certainly knows.
    knowledge: VersionVector,
}

impl Session {
    pub(super) fn new(expect: Option<DeviceId>, now_ms: u64) -> Self {
        Self { expect, last_heard_ms: now_ms, last_sent_ms: now_ms, ..Self::default() }
    }

    pub(super) fn deadline(&self) -> u64 {
        (self.last_heard_ms + SILENCE_MAX_MS).min(self.last_sent_ms + PING_AFTER_MS)
    }

    /// Whether everything that the peer has now was offered.
    pub(super) fn is_complete(&self) -> bool {
        self.inn.complete.as_ref().is_some_and(|(through, ..)| *through == self.inn.received)
    }

    /// Whether nothing of the peer's is on its way, as far as it has said; what is refused does not count.
    pub(super) fn has_told_all(&self) -> bool {
        self.ended.is_some() || self.inn.index.is_none() || self.inn.told == self.inn.received
    }

    /// Whether the peer certainly knows everything that this version has seen.
    pub(super) fn peer_covers(&self, version: &VersionVector) -> bool {
        self.ended.is_none() && self.inn.knowledge.covers(version)
    }

    /// Whether the peer wants no moves and edits.
    pub(super) fn wants_full(&self) -> bool {
        self.out.full
    }

    /// Whether what comes with this number belongs to what was last asked for.
    pub(super) fn is_round(&self, round: u64) -> bool {
        self.inn.index.is_some() && self.inn.round == round
    }

    /// Takes note that everything up to `last` was told, with something that begins at `first`.
    pub(super) fn take_through(&mut self, first: u64, last: u64) -> bool {
        let grows = first > self.inn.received && last >= first;
        if grows {
            self.inn.received = last;
        }
        grows
    }

    /// Acknowledges nothing from this sequence on.
    pub(super) fn withhold(&mut self, sequence: u64) {
        self.inn.refused = Some(self.inn.refused.map_or(sequence, |refused| refused.min(sequence)));
    }

    /// Says what is cut together, before anything that is.
    pub(super) fn tell_groups(&mut self, message: Message) {
        if self.greeted && self.ended.is_none() {
            self.control.push_back(message);
        }
    }

    pub(super) fn fail(&mut self, violation: Violation) {
        self.ended.get_or_insert(violation);
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    pub(super) fn received(&mut self, id: SessionId, message: Message) -> Result<(), StoreError> {
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.ended.is_none()) else {
            return Ok(());
        };
        session.last_heard_ms = now_ms;
        if session.peer.is_none() && !matches!(message, Message::Hello { .. } | Message::Bye(_)) {
            session.fail(Violation::Order("the first message must be Hello"));
            return Ok(());
        }
        match message {
            Message::Hello { .. } => self.hello(id, message)?,
            Message::State { folder, index, fences, tenure } => {
                self.stated(id, folder, index, &fences, tenure)?;
            }
            Message::Have { round, index, since, full } => self.have(id, round, index, since, full)?,
            Message::Records { round, records, through, knowledge, mark, complete } => {
                let complete = complete.then_some((knowledge, mark));
                self.records(id, round, records, through, complete)?;
            }
            Message::Moved { round, moved } => self.moved(id, round, moved)?,
            Message::Edited { round, edited } => self.edited(id, round, edited)?,
            Message::Ack { round, durable, taken } => self.ack(id, round, durable, taken)?,
            Message::Want(wants) => {
                session.serve.extend(wants);
                if session.serve.len() > ASKED_MAX {
                    session.fail(Violation::Excess("chunks asked for at once"));
                }
            }
            Message::Chunks(blobs) => blobs.iter().try_for_each(|blob| self.chunk_arrived(id, blob))?,
            Message::Patch { hash, runs } => self.patch_arrived(id, hash, &runs)?,
            Message::Gone(hash) => self.chunk_gone(id, hash),
            Message::Groups(groups) => self.learn_groups(id, groups),
            Message::Refused { path, .. } => self.event(Event::Refused(path)),
            Message::Paused(why) => {
                session.pause.clone_from(&why);
                let device = session.peer.expect("nothing comes before Hello");
                self.event(Event::PeerPaused { device, why });
            }
            Message::Ping => {}
            Message::Bye(reason) => {
                session.farewell = true;
                session.fail(Violation::Bye(reason));
            }
        }
        Ok(())
    }

    /// Asks for the peer's records after what is durable here, and forgets what it said of an older index.
    fn ask(&mut self, id: SessionId, index: IndexId) -> Result<(), StoreError> {
        self.forget_offers(id);
        let sends_only = self.sends_only();
        let open = |session: &&mut Session| session.ended.is_none() && self.meta.folder.is_some();
        let Some(session) = self.sessions.get_mut(&id).filter(open) else { return Ok(()) };
        let peer = session.peer.expect("asking comes after Hello");
        let state = self.index.peer(&peer)?;
        let since = if state.theirs == Some(index) { state.have } else { 0 };
        let (round, full) = (session.inn.round + 1, session.inn.full || sends_only);
        session.inn = Incoming {
            round,
            index: Some(index),
            received: since,
            durable: since,
            taken: since,
            acked: (since, since),
            told: u64::MAX,
            full,
            ..Incoming::default()
        };
        session.control.push_back(Message::Have { round, index, since, full });
        Ok(())
    }

    /// Asks again, for versions in full: what the peer moved is not what stands here.
    pub(super) fn ask_full(&mut self, id: SessionId) -> Result<(), StoreError> {
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        session.inn.full = true;
        session.inn.index.map_or(Ok(()), |index| self.ask(id, index))
    }

    /// Asks every peer again for what is not durable here.
    pub(super) fn ask_all(&mut self) -> Result<(), StoreError> {
        let ids: Vec<_> =
            self.sessions.iter().filter_map(|(id, session)| Some((*id, session.inn.index?))).collect();
        ids.into_iter().try_for_each(|(id, index)| self.ask(id, index))
    }

    /// After this replica's index began a new life, or it learned of a fence, or of how its holder stands: tells every peer, and asks again.
    pub(super) fn restate(&mut self, afresh: bool) -> Result<(), StoreError> {
        let fences = self.meta.fences.iter().cloned().collect();
        let (folder, index, tenure) = (self.meta.folder, self.meta.index, self.tenure());
        let state = Message::State { folder, index, fences, tenure };
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        for id in ids {
            let session = self.sessions.get_mut(&id).expect("the key was just listed");
            if !session.greeted || session.ended.is_some() {
                continue;
            }
            session.control.push_back(state.clone());
            if afresh {
                session.out = Outgoing::default();
                if let Some(index) = session.inn.index {
                    self.ask(id, index)?;
                }
            }
        }
        Ok(())
    }

    fn have(
        &mut self,
        id: SessionId,
        round: u64,
        index: IndexId,
        since: u64,
        full: bool,
    ) -> Result<(), StoreError> {
        if index != self.meta.index || self.remembers_less(id, [since])? {
            return Ok(());
        }
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        session.out = Outgoing { round, cursor: Some(since), full, ..Outgoing::default() };
        Ok(())
    }

    fn records(
        &mut self,
        id: SessionId,
        round: u64,
        records: Vec<Numbered>,
        through: u64,
        complete: Option<(VersionVector, Mark)>,
    ) -> Result<(), StoreError> {
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        if session.inn.index.is_none() || session.inn.round != round {
            return Ok(());
        }
        let mut last = session.inn.received;
        let grow = records
            .iter()
            .all(|numbered| numbered.sequence > std::mem::replace(&mut last, numbered.sequence));
        if !grow || through < last {
            session.fail(Violation::Record("sequences do not grow"));
            return Ok(());
        }
        let own = self.meta.device;
        if self.remembers_less(id, complete.iter().flat_map(|(knowledge, _)| knowledge.counters(&own)))? {
            return Ok(());
        }
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        session.inn.received = through;
        if let Some((knowledge, mark)) = complete {
            session.inn.complete = Some((through, knowledge, mark));
            session.inn.told = through;
            session.inn.again |= records.is_empty();
        }
        for Numbered { sequence, record } in records {
            // One of them may have begun another round.
            if self.sessions.get(&id).is_some_and(|session| session.is_round(round)) {
                self.offered(id, sequence, record)?;
            }
        }
        Ok(())
    }

    pub(super) fn offered(
        &mut self,
        id: SessionId,
        sequence: u64,
        record: crate::record::Record,
    ) -> Result<(), StoreError> {
        let own = self.meta.device;
        if self.remembers_less(id, record.version.counters(&own))? {
            return Ok(());
        }
        if !self.meta.fences.admit(&record) {
            self.refuse(id, sequence, &record.path);
            return Ok(());
        }
        let key = (record.path.clone(), id);
        let first = self.pending.get(&key).map_or(sequence, |pending| pending.sequence);
        self.pending.insert(id, Pending::new(record, first));
        Ok(())
    }

    /// Will not take a version of a stale epoch, and says so. Nothing from here on is acknowledged.
    pub(super) fn refuse(&mut self, id: SessionId, sequence: u64, path: &RelPath) {
        let epoch = self.meta.fences.epoch();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.withhold(sequence);
            if session.control.len() < RECORDS_MAX * BATCHES_MAX {
                session.control.push_back(Message::Refused { path: path.clone(), epoch });
            }
        }
        self.refused += 1;
        self.event(Event::Refused(path.clone()));
    }

    /// After pending versions became durable: how far every peer's index is taken over now.
    pub(super) fn advance(&mut self) -> Result<(), StoreError> {
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        for id in ids {
            let first = self.pending.first_sequence(id).unwrap_or(u64::MAX);
            let session = self.sessions.get_mut(&id).expect("the key was just listed");
            if self.pending.count(id) > WAITING_MAX || self.pending.bytes(id) > WAITING_BYTES_MAX {
                session.fail(Violation::Excess("versions that wait for something that does not come"));
            }
            let (Some(peer), Some(index)) = (session.peer, session.inn.index) else { continue };
            let bound = first.min(session.inn.refused.unwrap_or(u64::MAX)) - 1;
            let durable = session.inn.received.min(bound);
            let complete = session.inn.complete.take_if(|(through, ..)| *through <= durable);
            if durable == session.inn.durable && complete.is_none() || session.ended.is_some() {
                continue;
            }
            let knowledge = complete.as_ref().map(|(through, knowledge, _)| {
                let mut all = self.meta.knowledge.merged(knowledge);
                all.raise(peer, *through);
                all
            });
            // This replica's own place in it is needed, too.
            let (own, next) = (self.meta.device, self.meta.sequence + 1);
            if knowledge.as_ref().is_some_and(|all| all.len_with(&own, next) > VECTOR_DEVICES_MAX) {
                session.fail(Violation::Excess("devices that are said to have written in the folder"));
                continue;
            }
            session.inn.durable = durable;
            let mut state = self.index.peer(&peer)?;
            (state.theirs, state.have) = (Some(index), durable);
            self.index.put_peer(&peer, &state)?;
            self.uncommitted = true;
            if let (Some((_, theirs, mark)), Some(knowledge)) = (complete, knowledge) {
                session.inn.knowledge = session.inn.knowledge.merged(&theirs);
                self.meta.cuts.mark.complete(&mark);
                self.meta.knowledge = knowledge;
                let current = self.meta.fences.current();
                self.knows_own |= current.is_none_or(|fence| self.meta.knowledge.covers(&fence.base));
                self.drop_stale(peer)?;
            }
        }
        self.commit()
    }

    pub(super) fn close(&mut self, id: SessionId) {
        if let Some(peer) = self.sessions.remove(&id).and_then(|session| session.peer) {
            self.event(Event::Disconnected(peer));
        }
        self.forget_offers(id);
    }

    pub(super) fn heard(&mut self, id: SessionId) {
        let now_ms = self.now_ms;
        self.sessions.entry(id).and_modify(|session| session.last_heard_ms = now_ms);
    }

    fn session_with(&self, device: &DeviceId) -> Option<(&SessionId, &Session)> {
        let open = |session: &Session| session.ended.is_none() && session.peer.as_ref() == Some(device);
        self.sessions.iter().find(|(_, session)| open(session))
    }

    /// Why a peer fetches nothing for now.
    pub(super) fn peer_pause(&self, device: &DeviceId) -> Option<String> {
        self.session_with(device)?.1.pause.clone()
    }

    /// What is on its way from a peer, and what of it came since its session began.
    pub(super) fn transfer_from(&self, device: &DeviceId) -> Transfer {
        self.session_with(device).map_or_else(Transfer::default, |(id, session)| {
            let (left_bytes, done_bytes) = session.wants.progress();
            Transfer { left_files: self.pending.count(*id) as u64, left_bytes, done_bytes }
        })
    }

    /// Bytes of chunks that came in all sessions that are open.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.sessions.values().map(|session| session.wants.progress().1).sum()
    }

    /// While this replica stood still itself (a machine that slept, a long step), it could hear nobody: that says nothing of its peers.
    pub(super) fn pass_time(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.now_ms);
        self.now_ms += passed_ms;
        if passed_ms > 2 * PING_AFTER_MS {
            self.sessions.values_mut().for_each(|session| session.last_heard_ms += passed_ms);
        }
    }

    pub(super) fn end_silent_sessions(&mut self) {
        for session in self.sessions.values_mut() {
            if self.now_ms >= session.last_heard_ms + SILENCE_MAX_MS {
                session.fail(Violation::Silent(SILENCE_MAX_MS / 1000));
            }
        }
    }
}
