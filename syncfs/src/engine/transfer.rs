//! Bringing a version's content together in its stage: what the stage already holds (an interrupted transfer), what
//! other local files hold, and the rest from the peer, within a window. Every byte is checked against its chunk's
//! hash before it enters a stage, or where it is found in one.

use std::collections::BTreeMap;

use crate::chunk::is_zeros;
use crate::disk::{Disk, DiskError, Run, is_intact};
use crate::error::{StoreError, Violation};
use crate::hash::{Blob, ContentHash};
use crate::index::{Entry, Index, PeerState};
use crate::path::RelPath;
use crate::reconcile::{Decision, reconcile};
use crate::record::{Chunk, Kind, Record};
use crate::wire::Want;

use super::apply::can_adjust;
use super::pending::{Fetched, Key, Missing, Stage, content_of};
use super::wants::SMALL_BYTES;
use super::{Engine, OWN, SessionId};

/// How much one call of [`Engine::work`] reads, at most about, in bytes.
pub const WORK_BYTES: u64 = 8 << 20;
/// How many versions one call of [`Engine::work`] looks for.
const WORK_VERSIONS: usize = 256;

impl<D: Disk, I: Index> Engine<D, I> {
    /// Advances what was offered, by a bounded amount. Returns whether there is more to do right now.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn work(&mut self) -> Result<bool, StoreError> {
        let mut budget = WORK_BYTES;
        for _ in 0..WORK_VERSIONS {
            let Some(key) = self.pending.first_looking() else { return Ok(false) };
            self.gather(&key, &mut budget)?;
            if budget == 0 {
                break;
            }
        }
        Ok(self.pending.first_looking().is_some())
    }

    /// Whether [`Engine::work`] or [`Engine::settle`] has something to do right now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.pending.is_busy()
    }

    /// Looks for the next chunks of one version, within the budget.
    pub(super) fn gather(&mut self, key: &Key, budget: &mut u64) -> Result<(), StoreError> {
        let Some(pending) = self.pending.get(key) else { return Ok(()) };
        let record = pending.record.clone();
        let begins = matches!(pending.stage, Stage::Looking { next: 0, .. });
        if begins {
            if !self.needs_content(key, &record)? {
                self.pending.set_stage(key, Stage::Ready { staged: false });
                return Ok(());
            }
            if let Some(label) = self.comes_with(key, &record) {
                self.pending.wait_for(key, label);
                return Ok(());
            }
            self.take_stage(key, &record);
            let delta = self.begin_delta(key, &record)?.then_some(0);
            self.pending.update(key, |pending| pending.delta = delta);
        }
        match &record.kind {
            Kind::File { .. } if begins && !self.has_room()? => {
                self.pending.set_stage(key, Stage::Gone);
                Ok(())
            }
            Kind::File { .. } => self.gather_file(key, &record, budget),
            Kind::Symlink { owner, target } => {
                let staged = self.disk.stage_symlink(&key.0, target, *owner);
                self.staged(key, staged)
            }
            Kind::Dir { .. } | Kind::Deleted => {
                self.pending.set_stage(key, Stage::Ready { staged: false });
                Ok(())
            }
        }
    }

    /// The other name under which the file that a version is a name of is on its way. Only an earlier one, so that no two
    /// wait for each other.
    fn comes_with(&self, key: &Key, record: &Record) -> Option<RelPath> {
        let label = record.kind.label().filter(|label| **label < record.path && key.1 != OWN)?;
        let other = self.pending.get(&(label.clone(), key.1))?;
        (other.is_coming() && other.record.kind == record.kind).then(|| label.clone())
    }

    fn gather_file(&mut self, key: &Key, record: &Record, budget: &mut u64) -> Result<(), StoreError> {
        let (mut next, mut missing, mut delta) = (0, Missing::new(), false);
        self.pending.update(key, |pending| {
            delta = pending.delta.is_some();
            if let Stage::Looking { next: begun, missing: known } = &mut pending.stage {
                (next, missing) = (*begun, std::mem::take(known));
            }
        });
        let content = content_of(record);
        let entry = if delta { self.index.entry(&key.0)? } else { None };
        let base = entry.as_ref().and_then(|entry| entry.record.kind.content());
        for (offset, chunk) in content.placed().skip(next) {
            if base.is_some_and(|base| base.chunks().get(next) == Some(&chunk)) {
                next += 1;
                continue;
            }
            if *budget == 0 {
                break;
            }
            next += 1;
            if is_zeros(&chunk) {
                let cleared = match delta {
                    true => self.disk.delta_write(&key.0, offset, &vec![0; chunk.length as usize]),
                    false => self.disk.stage_zeros(&key.0, offset, chunk.length),
                };
                if cleared.is_err() {
                    return self.staged(key, cleared);
                }
                continue;
            }
            *budget = budget.saturating_sub(u64::from(chunk.length));
            match self.place_local(&key.0, delta, offset, chunk) {
                Ok(true) => {}
                Ok(false) => drop(missing.insert((chunk.hash, offset), chunk.length)),
                Err(error) => return self.staged(key, Err(error)),
            }
        }
        if next < content.chunks().len() {
            self.pending.set_stage(key, Stage::Looking { next, missing });
            Ok(())
        } else if missing.is_empty() {
            self.seal(key)
        } else {
            self.fetch(key, missing)
        }
    }

    /// Removes a stage that no offer of its path needs any more.
    pub(super) fn discard_stage(&mut self, path: &RelPath) -> Result<(), StoreError> {
        if !self.pending.has_path(path) {
            self.disk.stage_discard(path)?;
        }
        Ok(())
    }

    /// The stage of a path is about to hold this version; what another offer had in it is no longer sure to be there, unless
    /// it is the same.
    fn take_stage(&mut self, key: &Key, record: &Record) {
        self.pending.update_path(&key.0, |session, pending| {
            if let Stage::Deferred { staged } = &mut pending.stage
                && session != key.1
                && pending.record.kind != record.kind
            {
                *staged = false;
            }
        });
    }

    /// Whether applying this version will put its content somewhere.
    pub(super) fn needs_content(&self, key: &Key, record: &Record) -> Result<bool, StoreError> {
        if key.1 == OWN {
            return Ok(true);
        }
        let entry = self.as_found(self.index.entry(&key.0)?).filter(|entry| !entry.stale);
        if self.sends_only() || self.is_ignored(record, entry.as_ref()) {
            return Ok(false);
        }
        let same = entry.as_ref().is_some_and(|entry| {
            entry.seen.is_some() && entry.record.kind == record.kind || can_adjust(entry, record).is_some()
        });
        Ok(match reconcile(entry.as_ref().map(|entry| &entry.record), record) {
            Decision::Keep | Decision::Merge { .. } => false,
            Decision::Take => !same && self.other_name(record)?.is_none(),
            Decision::Conflict { theirs_wins, copy, .. } => !same && (theirs_wins || copy.is_some()),
        })
    }

    /// Whether the content of a version can be had from anywhere, should its file here be gone.
    pub(super) fn is_recoverable(&mut self, entry: &Entry) -> Result<bool, StoreError> {
        let record = &entry.record;
        let holder = self.meta.fences.current().filter(|fence| fence.holder != self.meta.device);
        if record.by != self.meta.device
            // What the holder built on it has, or a newer one, whatever peers have acknowledged in this life of the index.
            || holder.is_some_and(|fence| record.is_known_to(&fence.base))
            || self.sessions.values().any(|peer| peer.peer_covers(&record.version))
        {
            return Ok(true);
        }
        let has = |state: &PeerState| state.ours == Some(self.meta.index) && state.acked >= entry.sequence;
        if self.index.peers()?.iter().any(|(_, state)| has(state)) {
            return Ok(true);
        }
        self.is_here(record)
    }

    /// Whether all content of a version can be read on this replica.
    pub(super) fn is_here(&mut self, record: &Record) -> Result<bool, StoreError> {
        for chunk in record.kind.content().map(|content| content.chunks()).unwrap_or_default() {
            let mut found = is_zeros(chunk);
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
        delta: bool,
        offset: u64,
        chunk: Chunk,
    ) -> Result<bool, DiskError> {
        if !delta
            && let Some(bytes) = self.disk.stage_read(path, offset, chunk.length)?
            && is_intact(&bytes, &chunk.hash)
        {
            return Ok(true);
        }
        let places = self.index.locate(&chunk.hash).unwrap_or_default();
        for place in places.into_iter().filter(|place| place.length == chunk.length) {
            match self.disk.read_chunk(&place.path, place.offset, &chunk) {
                Ok(Some(blob)) => {
                    self.place(path, delta, offset, blob.bytes())?;
                    return Ok(true);
                }
                Err(error) if error.is_final() => return Err(error),
                _ => {}
            }
        }
        Ok(false)
    }

    fn place(&mut self, path: &RelPath, delta: bool, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        match delta {
            true => self.disk.delta_write(path, offset, bytes),
            false => self.disk.stage_write(path, offset, bytes),
        }
    }

    fn fetch(&mut self, key: &Key, missing: Missing) -> Result<(), StoreError> {
        // What stands in the same places of the version that is here.
        let entry = self.index.entry(&key.0)?;
        let current = entry.as_ref().and_then(|entry| entry.record.kind.content());
        let bases: BTreeMap<u64, ContentHash> = current
            .into_iter()
            .flat_map(|content| content.placed())
            .map(|(offset, chunk)| (offset, chunk.hash))
            .collect();
        let Some(pending) = self.pending.get(key) else { return Ok(()) };
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
            self.pending.set_stage(key, Stage::Gone);
            return Ok(());
        };
        let small = missing.values().map(|length| u64::from(*length)).sum::<u64>() <= SMALL_BYTES;
        for (offset, chunk) in content_of(&pending.record).placed() {
            if missing.contains_key(&(chunk.hash, offset)) {
                let basis = bases.get(&offset).copied();
                session.wants.add(Want { hash: chunk.hash, basis }, chunk.length, key, small);
            }
        }
        self.pending.set_stage(key, Stage::Fetching(missing));
        Ok(())
    }

    /// What differs in a chunk from the basis that this replica named.
    pub(super) fn patch_arrived(
        &mut self,
        from: SessionId,
        hash: ContentHash,
        runs: &[Run],
    ) -> Result<(), StoreError> {
        let session = self.sessions.get_mut(&from).expect("the caller checked the session");
        let asked = session.wants.asked(&hash);
        let Some((Some(basis), length)) =
            asked.filter(|(_, length)| runs.iter().all(|run| run.end() <= *length as usize))
        else {
            session.ended = Some(Violation::BadChunk);
            return Ok(());
        };
        let mut patched = None;
        for place in self.index.locate(&basis)? {
            let chunk = Chunk { hash: basis, length: place.length };
            match self.disk.read_chunk(&place.path, place.offset, &chunk) {
                Ok(Some(blob)) => {
                    patched = Blob::named(patch(blob.bytes(), length, runs), &hash);
                    break;
                }
                Err(error) if error.is_final() => return Err(error.into()),
                _ => {}
            }
        }
        match patched {
            Some(blob) => self.chunk_arrived(from, &blob),
            None => {
                self.sessions.entry(from).and_modify(|session| session.wants.again(&hash));
                Ok(())
            }
        }
    }

    /// A chunk arrived.
    pub(super) fn chunk_arrived(&mut self, from: SessionId, blob: &Blob) -> Result<(), StoreError> {
        let now_ms = self.now_ms;
        let session = self.sessions.get_mut(&from).expect("the caller checked the session");
        if session.ended.is_some() {
            return Ok(());
        }
        let length = session.wants.asked(blob.hash()).map(|(_, length)| length);
        let Some(length) = length.filter(|length| *length as usize == blob.bytes().len()) else {
            session.ended = Some(Violation::BadChunk);
            return Ok(());
        };
        session.summary.chunks += 1;
        session.wants.fetched(blob.bytes().len() as u64);
        for key in session.wants.answered(blob.hash(), now_ms).unwrap_or_default() {
            let Some(Fetched { offsets, complete, false_length }) =
                self.pending.fetched(&key, blob.hash(), length)
            else {
                continue;
            };
            if false_length {
                self.pending.set_stage(&key, Stage::Gone);
                if let Some(session) = self.sessions.get_mut(&key.1) {
                    session.ended = Some(Violation::Record("one chunk of two lengths"));
                }
                continue;
            }
            if !self.has_room()? {
                self.pending.set_stage(&key, Stage::Gone);
                continue;
            }
            let delta = self.pending.get(&key).is_some_and(|pending| pending.delta.is_some());
            let write = |offset| self.place(&key.0, delta, offset, blob.bytes());
            let written = offsets.into_iter().try_for_each(write);
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
        let now_ms = self.now_ms;
        let session = self.sessions.get_mut(&from).expect("the caller checked the session");
        let Some(keys) = session.wants.answered(&hash, now_ms) else {
            session.ended = Some(Violation::BadChunk);
            return;
        };
        for key in keys {
            if self.pending.fetched(&key, &hash, 0).is_none() {
                continue;
            }
            self.pending.update(&key, |pending| match key.1 {
                OWN => {
                    pending.asked.insert(from);
                    pending.restart();
                }
                _ => pending.stage = Stage::Gone,
            });
        }
    }

    fn seal(&mut self, key: &Key) -> Result<(), StoreError> {
        let Some(pending) = self.pending.get(key) else { return Ok(()) };
        let Kind::File { attributes, mtime_ns, content, .. } = &pending.record.kind else { return Ok(()) };
        if pending.delta.is_some() {
            let sealed = self.disk.delta_seal(&key.0);
            if let Ok(mark) = sealed {
                self.pending.update(key, |pending| pending.delta = Some(mark));
            }
            return self.staged(key, sealed.map(drop));
        }
        let sealed = match content.chunks() {
            [] => self.disk.stage_write(&key.0, 0, b""),
            _ => Ok(()),
        };
        let sealed =
            sealed.and_then(|()| self.disk.stage_seal(&key.0, content.size(), attributes, *mtime_ns));
        self.staged(key, sealed)
    }

    /// What became of a step on a stage. A disk that is full, or the like, stops this version and says so.
    fn staged(&mut self, key: &Key, result: Result<(), DiskError>) -> Result<(), StoreError> {
        match result {
            Ok(()) => self.pending.set_stage(key, Stage::Ready { staged: true }),
            Err(error) if error.is_final() => return Err(error.into()),
            Err(error) => {
                match &error {
                    DiskError::Full { .. } => self.run_short(&error),
                    _ => self.problem(Some(&key.0), format!("cannot stage a peer's version: {error}")),
                }
                self.pending.set_stage(key, Stage::Gone);
            }
        }
        Ok(())
    }

    /// Lets what is being fetched wait; what came of it stays in its stage.
    pub(super) fn stop_fetching(&mut self) {
        let sessions = self.sessions.keys().copied().chain([OWN]);
        let keys: Vec<_> = sessions.flat_map(|session| self.pending.of_session(session)).collect();
        for key in keys {
            self.pending.update(&key, |pending| {
                if matches!(pending.stage, Stage::Fetching(_)) {
                    pending.stage = Stage::Gone;
                }
            });
        }
        self.sessions.values_mut().for_each(|session| session.wants.stop());
    }

    /// Forgets what a session offered; its stages stay, to resume from. Restores start again.
    pub(super) fn forget_offers(&mut self, session: SessionId) {
        self.pending.of_session(session).iter().for_each(|key| self.pending.remove(key));
        self.restart_restores();
    }
}

/// Changes `runs` in the bytes of a basis, brought to `length`.
fn patch(basis: &[u8], length: u32, runs: &[Run]) -> Vec<u8> {
    let mut bytes = basis.to_vec();
    bytes.resize(length as usize, 0);
    for run in runs {
        bytes[run.offset as usize..run.end()].copy_from_slice(&run.bytes);
    }
    bytes
}
