//! Versions whose content could not be had or placed: a peer that could not read its file, a disk that was full. They are tried
//! again, less and less often.

use std::collections::BTreeSet;

use crate::disk::Disk;
use crate::index::Index;
use crate::path::RelPath;

use super::pending::{Key, Pending, Stage};
use super::{Engine, OWN};

/// Pause before a version whose content could not be had or placed is tried again, in milliseconds.
pub const TRY_AGAIN_MS: u64 = 200;
/// The longest such pause, for a version that was tried in vain again and again, in milliseconds.
pub const TRY_AGAIN_MAX_MS: u64 = 10_000;

/// The last attempt at versions that could not be had.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at_ms: u64,
    pause_ms: u64,
    tried: BTreeSet<Key>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// The path has another version here now: what still waits for content of it may not need it any more.
    pub(super) fn reconsider(&mut self, path: &RelPath) {
        self.pending.update_path(path, |_, pending| {
            if matches!(pending.stage, Stage::Fetching(_) | Stage::Gone) {
                pending.restart();
            }
        });
    }

    /// When offered versions whose content could not be had or placed are due again.
    pub(super) fn try_again_at(&self) -> Option<u64> {
        if self.room.is_short() {
            return None;
        }
        let (mut gone, retry) = (self.gone().peekable(), &self.retry);
        gone.peek()?;
        let pause_ms = if gone.all(|key| retry.tried.contains(&key)) { retry.pause_ms } else { TRY_AGAIN_MS };
        Some(retry.at_ms + pause_ms)
    }

    /// What could not be had or placed. A restore begins again by itself when somebody comes who can be asked.
    fn gone(&self) -> impl Iterator<Item = Key> {
        let alone = self.sessions.values().all(|session| session.ended.is_some() || session.peer.is_none());
        self.pending.gone().filter(move |key| !(alone && key.1 == OWN))
    }

    /// A peer that could not read its file, a disk that was full: neither lasts, and neither announces its end. What was tried in
    /// vain before is tried less and less often.
    pub(super) fn try_again(&mut self) {
        if self.try_again_at().is_some_and(|at| at <= self.now_ms) {
            let gone: BTreeSet<_> = self.gone().collect();
            gone.iter().for_each(|key| self.pending.update(key, Pending::ask_again));
            let again = gone.iter().all(|key| self.retry.tried.contains(key));
            let pause_ms = if again { (self.retry.pause_ms * 2).min(TRY_AGAIN_MAX_MS) } else { TRY_AGAIN_MS };
            self.retry = Retry { at_ms: self.now_ms, pause_ms, tried: gone };
        }
    }

    /// Whether this version was tried again at least once.
    pub(super) fn was_tried(&self, key: &Key) -> bool {
        self.retry.tried.contains(key)
    }
}
