//! What a session asks its peer for: each chunk once, whoever waits for it, within a window.

use std::collections::{BTreeMap, VecDeque};

use crate::hash::ContentHash;
use crate::wire::{Message, WANT_MAX, Want};

use super::ASKED_MAX;
use super::pending::Key;

/// Bytes of chunks that one session may have asked for and not yet received.
pub const WINDOW_BYTES: u64 = 16 << 20;

/// What a session wants from its peer.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Who waits for a chunk.
    waiting: BTreeMap<ContentHash, Vec<Key>>,
    /// Not asked for yet.
    queue: VecDeque<(Want, u32)>,
    /// Asked for, with basis and length.
    pub(super) asked: BTreeMap<ContentHash, (Option<ContentHash>, u32)>,
    asked_bytes: u64,
}

impl Wants {
    pub(super) fn add(&mut self, want: Want, length: u32, key: &Key) {
        let waiting = self.waiting.entry(want.hash).or_default();
        if waiting.is_empty() {
            self.queue.push_back((want, length));
        }
        if !waiting.contains(key) {
            waiting.push(key.clone());
        }
    }

    /// The next request that fits the window.
    pub(super) fn poll(&mut self) -> Option<Message> {
        let mut wants = Vec::new();
        while wants.len() < WANT_MAX && self.asked.len() < ASKED_MAX {
            let Some(&(want, length)) = self.queue.front() else { break };
            if self.asked_bytes > 0 && self.asked_bytes + u64::from(length) > WINDOW_BYTES {
                break;
            }
            self.queue.pop_front();
            self.asked.insert(want.hash, (want.basis, length));
            self.asked_bytes += u64::from(length);
            wants.push(want);
        }
        (!wants.is_empty()).then_some(Message::Want(wants))
    }

    /// What came for a chunk was of no use: it is asked for again, whole.
    pub(super) fn again(&mut self, hash: &ContentHash) {
        if let Some((_, length)) = self.asked.remove(hash) {
            self.asked_bytes -= u64::from(length);
            self.queue.push_front((Want::whole(*hash), length));
        }
    }

    /// Asks for nothing more.
    pub(super) fn stop(&mut self) {
        for (want, _) in self.queue.drain(..) {
            self.waiting.remove(&want.hash);
        }
    }

    /// The answer to a request came. `None` if there was no such request.
    pub(super) fn answered(&mut self, hash: &ContentHash) -> Option<Vec<Key>> {
        let (_, length) = self.asked.remove(hash)?;
        self.asked_bytes -= u64::from(length);
        Some(self.waiting.remove(hash).unwrap_or_default())
    }
}
