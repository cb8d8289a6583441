//! What a session says next: an answer that is due, an acknowledgement, a batch of records, chunks, a sign of life.

use crate::cutting::Mark;
use crate::disk::{Disk, Run};
use crate::error::{StoreError, Violation};
use crate::hash::{Blob, ContentHash};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::record::{Chunk, VersionVector};
use crate::status::Event;
use crate::wire::{BYE_BYTES_MAX, CHUNKS_MAX, Message, Numbered, RECORDS_MAX, RUNS_MAX, VERSION};

use super::{
    BATCH_BYTES, BATCHES_MAX, Batch, Engine, PACK_BYTES, PENDING_BYTES, PENDING_MAX, PING_AFTER_MS, SessionId,
};

impl<D: Disk, I: Index> Engine<D, I> {
    /// The next message for a session's stream. Ask again until there is none, whenever the stream can take one.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn poll(&mut self, id: SessionId) -> Result<Option<Message>, StoreError> {
        let message = self.next_message(id)?;
        if message.is_some()
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session.last_sent_ms = self.now_ms;
        }
        Ok(message)
    }

    fn next_message(&mut self, id: SessionId) -> Result<Option<Message>, StoreError> {
        // What is told to a peer must survive a crash of ours: a sequence is never given out twice.
        if std::mem::take(&mut self.founded) {
            self.restate(false)?;
        }
        self.commit()?;
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(None) };
        if let Some(violation) = &session.ended {
            let silent = std::mem::replace(&mut session.farewell, true);
            let mut reason = violation.to_string();
            reason.truncate(reason.floor_char_boundary(BYE_BYTES_MAX));
            return Ok((!silent).then_some(Message::Bye(reason)));
        }
        if !session.greeted {
            session.greeted = true;
            if !self.meta.cuts.groups.is_empty() {
                session.control.push_front(Message::Groups(self.meta.cuts.groups.clone()));
            }
            let (fences, tenure) = (self.meta.fences.iter().cloned().collect(), self.tenure());
            let crate::index::Meta { folder, device, index, .. } = self.meta;
            return Ok(Some(Message::Hello { version: VERSION, folder, device, index, fences, tenure }));
        }
        if let Some(message) = session.control.pop_front() {
            return Ok(Some(message));
        }
        if session.told_pause.as_ref() != self.room.why() {
            session.told_pause = self.room.why().cloned();
            let mut why = session.told_pause.clone();
            why.iter_mut().for_each(|why| why.truncate(why.floor_char_boundary(BYE_BYTES_MAX)));
            return Ok(Some(Message::Paused(why)));
        }
        if let Some(ack) = self.next_ack(id) {
            return Ok(Some(ack));
        }
        let session = self.sessions.get_mut(&id).expect("the session was found above");
        if let Some(want) = session.wants.poll(now_ms) {
            return Ok(Some(want));
        }
        // In turns, so that neither waits for all of the other.
        let serves = !session.serve.is_empty();
        if serves && !std::mem::replace(&mut session.served, true) {
            return self.serve(id).map(Some);
        }
        session.served = false;
        if let Some(batch) = self.next_batch(id)? {
            return Ok(Some(batch));
        }
        if serves {
            return self.serve(id).map(Some);
        }
        let session = self.sessions.get_mut(&id).expect("the session was found above");
        let due = self.now_ms >= session.last_sent_ms + PING_AFTER_MS;
        Ok(due.then_some(Message::Ping))
    }

    /// The peer says how far it is with what was sent to it.
    pub(super) fn ack(
        &mut self,
        id: SessionId,
        round: u64,
        durable: u64,
        taken: u64,
    ) -> Result<(), StoreError> {
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        if session.out.round != round {
            return Ok(());
        }
        if durable > taken || session.out.cursor.is_none_or(|cursor| taken > cursor) {
            session.fail(Violation::Record("an acknowledgement of what was not sent"));
            return Ok(());
        }
        let mut acked = None;
        // A batch stays listed until it is durable; those that are taken no longer count against the window.
        while session.out.batches.front().is_some_and(|batch| batch.through <= durable) {
            let batch = session.out.batches.pop_front().expect("the front was just looked at");
            acked = batch.complete.then_some(batch.through).or(acked);
        }
        session
            .out
            .batches
            .iter_mut()
            .filter(|batch| batch.through <= taken)
            .for_each(|batch| batch.taken = true);
        if let Some(sequence) = acked {
            let peer = session.peer.expect("acknowledgements come after Hello");
            let mut state = self.index.peer(&peer)?;
            if state.ours != Some(self.meta.index) || state.acked < sequence {
                (state.ours, state.acked) = (Some(self.meta.index), sequence);
                // Committed with whatever comes next: after a crash the peer simply says it again.
                self.index.put_peer(&peer, &state)?;
                self.event(Event::Acked { device: peer, sequence });
            }
        }
        Ok(())
    }

    fn next_ack(&mut self, id: SessionId) -> Option<Message> {
        let roomy = self.pending.weighty(id) < PENDING_MAX && self.pending.weighty_bytes(id) < PENDING_BYTES;
        let session = self.sessions.get_mut(&id)?;
        let inn = &mut session.inn;
        // What is durable takes no room any more, even while what came after it takes too much.
        inn.taken = if roomy { inn.received } else { inn.taken.max(inn.durable) };
        let ack = (inn.durable, inn.taken);
        let again = std::mem::take(&mut inn.again);
        if inn.index.is_none() || ack == inn.acked && !again {
            return None;
        }
        inn.acked = ack;
        Some(Message::Ack { round: inn.round, durable: ack.0, taken: ack.1 })
    }

    fn next_batch(&mut self, id: SessionId) -> Result<Option<Message>, StoreError> {
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        let Some(cursor) = session.out.cursor else { return Ok(None) };
        let round = session.out.round;
        if session.out.batches.iter().filter(|batch| !batch.taken).count() >= BATCHES_MAX {
            return Ok(None);
        }
        let now = (self.meta.sequence, &self.meta.knowledge);
        if session.out.told.as_ref().is_some_and(|(sequence, knowledge)| (*sequence, knowledge) == now) {
            return Ok(None);
        }
        let mut entries = self.index.since(cursor, RECORDS_MAX)?;
        let mut exhausted = entries.len() < RECORDS_MAX;
        match self.in_short(id, round, &entries)? {
            Some((0, through, message)) => return Ok(Some(self.tell(id, through, message))),
            Some((before, ..)) => {
                entries.truncate(before);
                exhausted = false;
            }
            None => {}
        }
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        let (mut through, mut bytes) = (cursor, 0);
        let mut records = Vec::new();
        for entry in entries {
            if bytes > BATCH_BYTES {
                exhausted = false;
                break;
            }
            through = entry.sequence;
            // What the peer has seen needs no telling; what stands here against the fence is not told to anyone.
            if entry.stale || session.inn.knowledge.covers(&entry.record.version) {
                continue;
            }
            bytes += entry.record.weight_bytes();
            records.push(Numbered { sequence: entry.sequence, record: entry.record });
        }
        let complete = exhausted && self.stale == 0 && self.knows_own && !self.meta.rejoining;
        if exhausted {
            through = self.meta.sequence;
        }
        let (knowledge, mark) = match complete {
            true => (self.meta.knowledge.clone(), self.meta.cuts.mark.clone()),
            false => (VersionVector::default(), Mark::default()),
        };
        session.out.cursor = Some(through);
        if exhausted {
            session.out.told = Some((self.meta.sequence, self.meta.knowledge.clone()));
        }
        session.out.batches.push_back(Batch { through, complete, taken: false });
        Ok(Some(Message::Records { round, records, through, knowledge, mark, complete }))
    }

    /// The first of these entries, by its number, from which on the peer can be told in short; up to which sequence, and how.
    fn in_short(
        &mut self,
        id: SessionId,
        round: u64,
        entries: &[Entry],
    ) -> Result<Option<(usize, u64, Message)>, StoreError> {
        let moved = self.next_move(id, entries)?;
        let moved = moved.map(|(number, moved)| (number, moved.last(), Message::Moved { round, moved }));
        let edited = self.next_edit(id, entries)?;
        let edited =
            edited.map(|(number, edited)| (number, edited.sequence, Message::Edited { round, edited }));
        Ok([moved, edited].into_iter().flatten().min_by_key(|(number, ..)| *number))
    }

    fn tell(&mut self, id: SessionId, through: u64, message: Message) -> Message {
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        session.out.cursor = Some(through);
        session.out.batches.push_back(Batch { through, complete: false, taken: false });
        message
    }

    /// The next chunks for a peer, as many as fit one message, or that the first of them is not to be had.
    fn serve(&mut self, id: SessionId) -> Result<Message, StoreError> {
        let (mut blobs, mut bytes) = (Vec::new(), 0);
        while bytes < PACK_BYTES && blobs.len() < CHUNKS_MAX {
            let session = self.sessions.get_mut(&id).expect("the caller checked the session");
            // A patch is a message of its own.
            if !blobs.is_empty() && session.serve.front().is_some_and(|want| want.basis.is_some()) {
                break;
            }
            let Some(want) = session.serve.pop_front() else { break };
            let hash = want.hash;
            if let Some(basis) = want.basis
                && let Some(runs) = self.patch(&hash, &basis)?
            {
                return Ok(Message::Patch { hash, runs });
            }
            match self.find(&hash)? {
                Some(blob) => {
                    bytes += blob.bytes().len();
                    blobs.push(blob);
                }
                None if blobs.is_empty() => return Ok(Message::Gone(hash)),
                None => {
                    let session = self.sessions.get_mut(&id).expect("the session was found above");
                    session.control.push_back(Message::Gone(hash));
                }
            }
        }
        Ok(Message::Chunks(blobs))
    }

    /// What changed in a chunk since another stood in its place, if that is known and less than half of it.
    fn patch(&mut self, hash: &ContentHash, basis: &ContentHash) -> Result<Option<Vec<Run>>, StoreError> {
        for place in self.index.locate(hash)? {
            let chunk = Chunk { hash: *hash, length: place.length };
            match self.disk.patch(&place.path, place.offset, &chunk, basis) {
                Ok(Some(runs)) => {
                    let bytes: usize = runs.iter().map(|run| run.bytes.len()).sum();
                    return Ok((bytes <= chunk.length as usize / 2 && runs.len() <= RUNS_MAX).then_some(runs));
                }
                Err(error) if error.is_final() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Reads a chunk. If it is not where the index says, that file has changed: it is looked at again, and its newer
    /// version will reach the peer; or it says the same as before (a database whose log was folded in), and the chunk is
    /// there after all.
    fn find(&mut self, hash: &ContentHash) -> Result<Option<Blob>, StoreError> {
        if let Some(held) = self.cutting.held.get(hash) {
            return Ok(Some(held));
        }
        for _ in 0..2 {
            for place in self.index.locate(hash)? {
                let chunk = Chunk { hash: *hash, length: place.length };
                match self.disk.read_chunk(&place.path, place.offset, &chunk) {
                    Ok(Some(blob)) => return Ok(Some(blob)),
                    Err(error) if error.is_final() => return Err(error.into()),
                    _ => self.look_again(&place.path)?,
                }
            }
        }
        Ok(None)
    }

    fn look_again(&mut self, path: &RelPath) -> Result<(), StoreError> {
        self.observe_now(path)?;
        self.commit()
    }
}
