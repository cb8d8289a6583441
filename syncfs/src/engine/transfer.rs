//! Bringing a version's content together in its stage: what the stage already holds (an interrupted transfer), what
//! other local files hold, and the rest from the peer, within a window. Every byte is checked against its chunk's
//! hash before it enters a stage.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::disk::{Disk, DiskError, Stat, is_intact};
use crate::error::{StoreError, Violation};
use crate::hash::ContentHash;
use crate::index::{Entry, Index, PeerState};
use crate::path::RelPath;
use crate::reconcile::{Decision, reconcile};
use crate::record::{Kind, Record};
use crate::wire::{Message, WANT_MAX};

use super::{Engine, OWN, SessionId};

/// Bytes of chunks that one session may have asked for and not yet received.
pub const WINDOW_BYTES: u64 = 16 << 20;
/// Pause before a version whose content could not be had or placed is tried again, in milliseconds.
pub const TRY_AGAIN_MS: u64 = 200;
/// How much one call of [`Engine::work`] reads, at most about, in bytes.
pub const WORK_BYTES: u64 = 8 << 20;

/// A version that was offered and is not durable here yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) record: Record,
    /// The sender's sequence; it is not acknowledged before this is done. 0 for a restore.
    pub(super) sequence: u64,
    pub(super) stage: Stage,
    /// What stands there while a restore waits: already set aside.
    over: Option<Stat>,
    /// Sessions that a restore has asked in vain.
    asked: BTreeSet<SessionId>,
}

/// How far a content is together.
#[derive(Debug)]
pub(super) enum Stage {
    /// Chunks from this number on were not looked for yet; the others are there or missing.
    Looking { next: usize, missing: BTreeSet<ContentHash> },
    /// Waiting for these.
    Fetching(BTreeSet<ContentHash>),
    /// Can be applied. `staged`: its content is complete in its stage; else it did not need any when that was decided.
    Ready { staged: bool },
    /// Cannot be applied before the peer has told everything, or before its directory can stand; see [`super::apply`].
    Deferred { staged: bool },
    /// The peer does not have the content any more: waits for a newer version.
    Gone,
}

impl Pending {
    pub(super) fn new(record: Record, sequence: u64) -> Self {
        Self {
            record,
            sequence,
            stage: Stage::Looking { next: 0, missing: BTreeSet::new() },
            over: None,
            asked: BTreeSet::new(),
        }
    }

    /// Starts over, with the content that is there already.
    pub(super) fn restart(&mut self) {
        self.stage = Stage::Looking { next: 0, missing: BTreeSet::new() };
    }

    /// Whether it holds content in memory or on its way, for the bound on what a peer may offer at once.
    pub(super) fn is_weighty(&self) -> bool {
        !matches!(self.stage, Stage::Deferred { .. } | Stage::Gone)
    }
}

/// What a session wants from its peer.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Who waits for a chunk.
    waiting: BTreeMap<ContentHash, BTreeSet<(RelPath, SessionId)>>,
    /// Not asked for yet.
    queue: VecDeque<(ContentHash, u32)>,
    /// Asked for, with length.
    asked: BTreeMap<ContentHash, u32>,
    asked_bytes: u64,
}

impl Wants {
    fn add(&mut self, hash: ContentHash, length: u32, key: (RelPath, SessionId)) {
        let waiting = self.waiting.entry(hash).or_default();
        if waiting.is_empty() {
            self.queue.push_back((hash, length));
        }
        waiting.insert(key);
    }

    /// The next request that fits the window.
    pub(super) fn poll(&mut self) -> Option<Message> {
        let mut hashes = Vec::new();
        while hashes.len() < WANT_MAX && self.asked.len() < WANT_MAX * 2 {
            let Some(&(hash, length)) = self.queue.front() else { break };
            if self.asked_bytes > 0 && self.asked_bytes + u64::from(length) > WINDOW_BYTES {
                break;
            }
            self.queue.pop_front();
            self.asked.insert(hash, length);
            self.asked_bytes += u64::from(length);
            hashes.push(hash);
        }
        (!hashes.is_empty()).then_some(Message::Want(hashes))
    }

    /// The answer to a request came. `None` if there was no such request.
    fn answered(&mut self, hash: &ContentHash) -> Option<BTreeSet<(RelPath, SessionId)>> {
        let length = self.asked.remove(hash)?;
        self.asked_bytes -= u64::from(length);
        Some(self.waiting.remove(hash).unwrap_or_default())
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Advances what was offered, by a bounded amount. Returns whether there is more to do right now.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn work(&mut self) -> Result<bool, StoreError> {
        let mut budget = WORK_BYTES;
        let looking =
            |(_, pending): &(&(RelPath, SessionId), &Pending)| matches!(pending.stage, Stage::Looking { .. });
        let keys: Vec<_> =
            self.pending.iter().filter(looking).take(256).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            if budget == 0 {
                return Ok(true);
            }
            if self.is_first_of_path(key) {
                self.gather(key, &mut budget)?;
            }
        }
        Ok(keys.len() == 256)
    }

    /// Whether [`Engine::work`] or [`Engine::settle`] has something to do right now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.pending.iter().any(|(key, pending)| match pending.stage {
            Stage::Looking { .. } => self.is_first_of_path(key),
            Stage::Ready { .. } => true,
            _ => false,
        })
    }

    /// Two offers of one path share a stage: they are worked on one after the other.
    fn is_first_of_path(&self, key: &(RelPath, SessionId)) -> bool {
        let all = (key.0.clone(), OWN)..=(key.0.clone(), SessionId(u64::MAX));
        self.pending.range(all).all(|(other, pending)| match &pending.stage {
            _ if other == key => true,
            Stage::Looking { next: 0, .. } => other > key,
            Stage::Looking { .. } | Stage::Fetching(_) | Stage::Ready { .. } => false,
            Stage::Deferred { .. } | Stage::Gone => true,
        })
    }

    /// Asks for the disk's content of a replicated version back.
    pub(super) fn restore(&mut self, record: Record, over: Option<Stat>) {
        let key = (record.path.clone(), OWN);
        self.pending.insert(key, Pending { over, ..Pending::new(record, 0) });
    }

    /// Whether this, at this path, is an edit that was set aside and waits for its replacement.
    pub(super) fn is_set_aside(&self, path: &RelPath, stat: &Stat) -> bool {
        self.pending.get(&(path.clone(), OWN)).is_some_and(|pending| pending.over.as_ref() == Some(stat))
    }

    /// What stands at a path while its restore waits.
    pub(super) fn over(&self, key: &(RelPath, SessionId)) -> Option<Stat> {
        self.pending.get(key).and_then(|pending| pending.over)
    }

    /// The path has another version here now: what still waits for content of it may not need it any more.
    pub(super) fn reconsider(&mut self, path: &RelPath) {
        let all = (path.clone(), OWN)..=(path.clone(), SessionId(u64::MAX));
        for (_, pending) in self.pending.range_mut(all) {
            if matches!(pending.stage, Stage::Fetching(_) | Stage::Gone) {
                pending.restart();
            }
        }
    }

    /// When offered versions whose content could not be had or placed are due again.
    pub(super) fn try_again_at(&self) -> Option<u64> {
        let gave_up = |(key, pending): (&(RelPath, SessionId), &Pending)| {
            key.1 != OWN && matches!(pending.stage, Stage::Gone)
        };
        self.pending.iter().any(gave_up).then_some(self.tried_again_ms + TRY_AGAIN_MS)
    }

    /// A peer that could not read its file, a disk that was full: neither lasts, and neither announces its end.
    pub(super) fn try_again(&mut self) {
        if self.try_again_at().is_some_and(|at| at <= self.now_ms) {
            self.tried_again_ms = self.now_ms;
            let offered = self.pending.iter_mut().filter(|(key, _)| key.1 != OWN);
            for (_, pending) in offered.filter(|(_, pending)| matches!(pending.stage, Stage::Gone)) {
                pending.restart();
            }
        }
    }

    /// Looks for the next chunks of one version, within the budget.
    fn gather(&mut self, key: &(RelPath, SessionId), budget: &mut u64) -> Result<(), StoreError> {
        let Some(pending) = self.pending.get_mut(key) else { return Ok(()) };
        let Stage::Looking { mut next, mut missing } =
            std::mem::replace(&mut pending.stage, Stage::Ready { staged: false })
        else {
            unreachable!("only versions that are looked for are gathered");
        };
        let record = pending.record.clone();
        if next == 0 && !self.needs_content(key, &record)? {
            return Ok(());
        }
        if next == 0 {
            self.take_stage(key);
        }
        match &record.kind {
            Kind::Symlink { target } => {
                let staged = self.disk.stage_symlink(&key.0, target);
                return self.staged(key, staged);
            }
            Kind::File { content, .. } => {
                for (offset, chunk) in content.placed().skip(next) {
                    if *budget == 0 {
                        break;
                    }
                    *budget = budget.saturating_sub(u64::from(chunk.length));
                    next += 1;
                    match self.place_local(&key.0, offset, chunk) {
                        Ok(true) => {}
                        Ok(false) => drop(missing.insert(chunk.hash)),
                        Err(error) => return self.staged(key, Err(error)),
                    }
                }
                if next < content.chunks().len() {
                    return self.set_stage(key, Stage::Looking { next, missing });
                }
            }
            Kind::Dir { .. } | Kind::Deleted => return Ok(()),
        }
        if missing.is_empty() { self.seal(key) } else { self.fetch(key, missing) }
    }

    /// Removes a stage that no offer of its path needs any more.
    pub(super) fn discard_stage(&mut self, path: &RelPath) -> Result<(), StoreError> {
        let all = (path.clone(), OWN)..=(path.clone(), SessionId(u64::MAX));
        if self.pending.range(all).next().is_none() {
            self.disk.stage_discard(path)?;
        }
        Ok(())
    }

    /// The stage of a path is about to hold this version; what another offer had in it is no longer sure to be there.
    fn take_stage(&mut self, key: &(RelPath, SessionId)) {
        let all = (key.0.clone(), OWN)..=(key.0.clone(), SessionId(u64::MAX));
        for (other, pending) in self.pending.range_mut(all) {
            if let Stage::Deferred { staged } = &mut pending.stage
                && other != key
            {
                *staged = false;
            }
        }
    }

    fn set_stage(&mut self, key: &(RelPath, SessionId), stage: Stage) -> Result<(), StoreError> {
        if let Some(pending) = self.pending.get_mut(key) {
            pending.stage = stage;
        }
        Ok(())
    }

    /// Whether applying this version will put its content somewhere.
    pub(super) fn needs_content(
        &self,
        key: &(RelPath, SessionId),
        record: &Record,
    ) -> Result<bool, StoreError> {
        if key.1 == OWN {
            return Ok(true);
        }
        let entry = self.index.entry(&key.0)?.filter(|entry| !entry.stale);
        if self.is_ignored(record, entry.as_ref()) {
            return Ok(false);
        }
        let same =
            entry.as_ref().is_some_and(|entry| entry.record.kind == record.kind && entry.seen.is_some());
        Ok(match reconcile(entry.as_ref().map(|entry| &entry.record), record) {
            Decision::Keep | Decision::Merge { .. } => false,
            Decision::Take => !same,
            Decision::Conflict { theirs_wins, copy, .. } => !same && (theirs_wins || copy.is_some()),
        })
    }

    /// Whether the content of a version can be had from anywhere, should its file here be gone.
    pub(super) fn is_recoverable(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let record = &entry.record;
        if record.by != self.meta.device
            || self.sessions.values().any(|peer| peer.peer_covers(&record.version))
        {
            return Ok(true);
        }
        let has = |state: &PeerState| state.ours == Some(self.meta.index) && state.acked >= entry.sequence;
        if self.index.peers()?.iter().any(|(_, state)| has(state)) {
            return Ok(true);
        }
        for chunk in record.kind.content().map(|content| content.chunks()).unwrap_or_default() {
            let mut found = false;
            for place in
                self.index.locate(&chunk.hash)?.into_iter().filter(|place| place.length == chunk.length)
            {
                found |= self.disk.read_chunk(&place.path, place.offset, chunk)?.is_some();
            }
            if !found {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts a chunk into the stage if it can be had on this machine.
    fn place_local(
        &mut self,
        path: &RelPath,
        offset: u64,
        chunk: crate::record::Chunk,
    ) -> Result<bool, DiskError> {
        if let Some(bytes) = self.disk.stage_read(path, offset, chunk.length)?
            && is_intact(&bytes, &chunk.hash)
        {
            return Ok(true);
        }
        let places = self.index.locate(&chunk.hash).unwrap_or_default();
        for place in places.into_iter().filter(|place| place.length == chunk.length) {
            match self.disk.read_chunk(&place.path, place.offset, &chunk) {
                Ok(Some(bytes)) => {
                    self.disk.stage_write(path, offset, &bytes)?;
                    return Ok(true);
                }
                Err(error @ DiskError::Dead(_)) => return Err(error),
                _ => {}
            }
        }
        Ok(false)
    }

    fn fetch(
        &mut self,
        key: &(RelPath, SessionId),
        missing: BTreeSet<ContentHash>,
    ) -> Result<(), StoreError> {
        let Some(pending) = self.pending.get_mut(key) else { return Ok(()) };
        let asked = &pending.asked;
        let ready = |(id, session): &(&SessionId, &super::Session)| {
            session.ended.is_none() && session.peer.is_some() && !asked.contains(*id)
        };
        let source = match key.1 {
            // Whoever certainly has it, before whoever may.
            OWN => {
                let version = &pending.record.version;
                let sessions = self.sessions.iter().filter(ready);
                sessions.max_by_key(|(_, session)| session.peer_covers(version)).map(|(id, _)| *id)
            }
            id => Some(id),
        };
        let Some(session) = source.and_then(|id| self.sessions.get_mut(&id)) else {
            // Nobody to ask: the next session that opens starts it again.
            pending.stage = Stage::Gone;
            return Ok(());
        };
        let content = pending.record.kind.content().expect("only files have missing chunks");
        for chunk in content.chunks().iter().filter(|chunk| missing.contains(&chunk.hash)) {
            session.wants.add(chunk.hash, chunk.length, key.clone());
        }
        pending.stage = Stage::Fetching(missing);
        Ok(())
    }

    /// A chunk arrived.
    pub(super) fn chunk_arrived(
        &mut self,
        from: SessionId,
        hash: ContentHash,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let session = self.sessions.get_mut(&from).expect("the caller checked the session");
        let asked = session.wants.asked.get(&hash).copied();
        if asked != u32::try_from(bytes.len()).ok() || !is_intact(bytes, &hash) {
            session.ended = Some(Violation::BadChunk);
            return Ok(());
        }
        session.summary.chunks += 1;
        for key in session.wants.answered(&hash).unwrap_or_default() {
            let Some(pending) = self.pending.get_mut(&key) else { continue };
            let Stage::Fetching(missing) = &mut pending.stage else { continue };
            if !missing.remove(&hash) {
                continue;
            }
            let complete = missing.is_empty();
            let content = pending.record.kind.content().expect("only files have missing chunks").clone();
            let places = content
                .placed()
                .filter(|(_, chunk)| chunk.hash == hash && chunk.length as usize == bytes.len());
            let mut written = Ok(());
            for (offset, _) in places {
                written = written.and_then(|()| self.disk.stage_write(&key.0, offset, bytes));
            }
            if written.is_err() {
                self.staged(&key, written)?;
            } else if complete {
                self.seal(&key)?;
            }
        }
        Ok(())
    }

    /// The peer does not have a chunk any more.
    pub(super) fn chunk_gone(&mut self, from: SessionId, hash: ContentHash) {
        let session = self.sessions.get_mut(&from).expect("the caller checked the session");
        let Some(keys) = session.wants.answered(&hash) else {
            session.ended = Some(Violation::BadChunk);
            return;
        };
        for key in keys {
            if let Some(pending) = self.pending.get_mut(&key)
                && matches!(&pending.stage, Stage::Fetching(missing) if missing.contains(&hash))
            {
                if key.1 == OWN {
                    pending.asked.insert(from);
                    pending.restart();
                } else {
                    pending.stage = Stage::Gone;
                }
            }
        }
    }

    fn seal(&mut self, key: &(RelPath, SessionId)) -> Result<(), StoreError> {
        let Some(pending) = self.pending.get(key) else { return Ok(()) };
        let Kind::File { mode, mtime_ns, content } = pending.record.kind.clone() else { return Ok(()) };
        if content.chunks().is_empty()
            && let Err(error) = self.disk.stage_write(&key.0, 0, b"")
        {
            return self.staged(key, Err(error));
        }
        // Everything was checked on its way in; what counts is what is in the stage now.
        for (offset, chunk) in content.placed() {
            match self.disk.stage_read(&key.0, offset, chunk.length) {
                Ok(Some(bytes)) if is_intact(&bytes, &chunk.hash) => {}
                Ok(_) => {
                    self.pending.get_mut(key).into_iter().for_each(Pending::restart);
                    return Ok(());
                }
                Err(error) => return self.staged(key, Err(error)),
            }
        }
        let sealed = self.disk.stage_seal(&key.0, content.size(), mode, mtime_ns);
        self.staged(key, sealed)
    }

    /// What became of a step on a stage. A disk that is full, or the like, stops this version and says so.
    fn staged(
        &mut self,
        key: &(RelPath, SessionId),
        result: Result<(), DiskError>,
    ) -> Result<(), StoreError> {
        match result {
            Ok(()) => self.set_stage(key, Stage::Ready { staged: true }),
            Err(error @ (DiskError::Dead(_) | DiskError::Root(_))) => Err(error.into()),
            Err(error) => {
                self.problem(Some(&key.0), format!("cannot stage a peer's version: {error}"));
                self.set_stage(key, Stage::Gone)
            }
        }
    }

    /// Forgets what a session offered; its stages stay, to resume from. Restores start again.
    pub(super) fn forget_offers(&mut self, session: SessionId) {
        self.pending.retain(|(_, from), _| *from != session);
        self.restart_restores();
    }

    /// Restores that lost their source, or had none, look again.
    pub(super) fn restart_restores(&mut self) {
        let own = self.pending.iter_mut().filter(|((_, from), _)| *from == OWN);
        own.for_each(|(_, pending)| {
            pending.asked.clear();
            pending.restart();
        });
    }
}
