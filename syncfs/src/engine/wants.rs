//! [`Wants`]: the chunks that a session wants from its peer, within a window that fits the line: as much as it carries in a
//! second or two, so that on a slow line a small edit does not queue behind minutes of a large file.

use std::collections::{BTreeMap, VecDeque};

use crate::hash::ContentHash;
use crate::wire::{Message, WANT_MAX, Want};

use super::ASKED_MAX;
use super::pending::Key;

/// Bytes of chunks that one session may have asked for and not yet received, at most.
pub const WINDOW_BYTES: u64 = 16 << 20;
/// The window at the beginning of a session, and the smallest one.
const WINDOW_FIRST_BYTES: u64 = 1 << 20;
const WINDOW_MIN_BYTES: u64 = 64 << 10;
/// The window holds what the line carries in this time, in milliseconds; it is narrowed when an answer takes twice as long.
const WINDOW_MS: u64 = 1000;
/// Contents that lack no more than this are asked for before larger ones.
pub(super) const SMALL_BYTES: u64 = 1 << 20;

/// What a session wants from its peer.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// Who waits for a chunk.
    waiting: BTreeMap<ContentHash, Vec<Key>>,
    /// Not asked for yet: of small contents, and of others.
    small: VecDeque<(Want, u32)>,
    large: VecDeque<(Want, u32)>,
    asked: BTreeMap<ContentHash, Asked>,
    asked_bytes: u64,
    window: Window,
    /// Bytes that are still to come, and that came.
    left_bytes: u64,
    fetched_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    basis: Option<ContentHash>,
    length: u32,
    at_ms: u64,
    /// What was asked for then, this included: so much the line carried until the answer came.
    within_bytes: u64,
}

#[derive(Debug)]
struct Window {
    bytes: u64,
    /// Something had to wait for room in it.
    full: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self { bytes: WINDOW_FIRST_BYTES, full: false }
    }
}

impl Window {
    fn learn(&mut self, asked: &Asked, now_ms: u64) {
        let took_ms = (now_ms - asked.at_ms).max(1);
        let fits = asked.within_bytes * WINDOW_MS / took_ms;
        if took_ms > 2 * WINDOW_MS {
            self.bytes = self.bytes.min(fits).max(WINDOW_MIN_BYTES);
        } else if self.full && fits > self.bytes {
            self.bytes = fits.min(self.bytes * 4).min(WINDOW_BYTES);
            self.full = false;
        }
    }
}

impl Wants {
    pub(super) fn add(&mut self, want: Want, length: u32, key: &Key, small: bool) {
        let waiting = self.waiting.entry(want.hash).or_default();
        if waiting.is_empty() {
            let queue = if small { &mut self.small } else { &mut self.large };
            queue.push_back((want, length));
            self.left_bytes += u64::from(length);
        }
        if !waiting.contains(key) {
            waiting.push(key.clone());
        }
    }

    /// The next request that fits the window.
    pub(super) fn poll(&mut self, now_ms: u64) -> Option<Message> {
        let mut wants = Vec::new();
        while wants.len() < WANT_MAX && self.asked.len() < ASKED_MAX {
            let queue = if self.small.is_empty() { &mut self.large } else { &mut self.small };
            let Some(&(want, length)) = queue.front() else { break };
            if self.asked_bytes > 0 && self.asked_bytes + u64::from(length) > self.window.bytes {
                self.window.full = true;
                break;
            }
            queue.pop_front();
            self.asked_bytes += u64::from(length);
            let within_bytes = self.asked_bytes;
            self.asked.insert(want.hash, Asked { basis: want.basis, length, at_ms: now_ms, within_bytes });
            wants.push(want);
        }
        (!wants.is_empty()).then_some(Message::Want(wants))
    }

    /// The basis and length with which a chunk was asked for.
    pub(super) fn asked(&self, hash: &ContentHash) -> Option<(Option<ContentHash>, u32)> {
        self.asked.get(hash).map(|asked| (asked.basis, asked.length))
    }

    /// What came for a chunk was of no use: it is asked for again, whole.
    pub(super) fn again(&mut self, hash: &ContentHash) {
        if let Some(Asked { length, .. }) = self.asked.remove(hash) {
            self.asked_bytes -= u64::from(length);
            self.small.push_front((Want::whole(*hash), length));
        }
    }

    /// Asks for nothing more.
    pub(super) fn stop(&mut self) {
        for (want, length) in self.small.drain(..).chain(self.large.drain(..)) {
            self.waiting.remove(&want.hash);
            self.left_bytes -= u64::from(length);
        }
    }

    /// The answer to a request came. `None` if there was no such request.
    pub(super) fn answered(&mut self, hash: &ContentHash, now_ms: u64) -> Option<Vec<Key>> {
        let asked = self.asked.remove(hash)?;
        self.asked_bytes -= u64::from(asked.length);
        self.left_bytes -= u64::from(asked.length);
        self.window.learn(&asked, now_ms);
        Some(self.waiting.remove(hash).unwrap_or_default())
    }

    /// So many bytes of chunks came.
    pub(super) fn fetched(&mut self, bytes: u64) {
        self.fetched_bytes += bytes;
    }

    /// Bytes of chunks that are still to come, and that came.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.left_bytes, self.fetched_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::SessionId;
    use crate::path::RelPath;

    fn add(wants: &mut Wants, number: u64, length: u32, small: bool) -> ContentHash {
        let hash = ContentHash::of(&number.to_le_bytes());
        let key = (RelPath::new(number.to_string()).unwrap(), SessionId(1));
        wants.add(Want::whole(hash), length, &key, small);
        hash
    }

    fn asked(wants: &mut Wants, now_ms: u64) -> Vec<ContentHash> {
        match wants.poll(now_ms) {
            Some(Message::Want(list)) => list.into_iter().map(|want| want.hash).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_window_follows_the_line_and_small_contents_come_first() {
        let mut wants = Wants::default();
        let chunk = 256 << 10;
        let large: Vec<_> = (0..200).map(|number| add(&mut wants, number, chunk, false)).collect();
        assert_eq!(asked(&mut wants, 0), large[..4], "as much as the first window holds");
        assert!(wants.poll(1).is_none());
        // A line that carries 2 MiB a second gets a window of that.
        wants.answered(&large[0], 125).unwrap();
        assert_eq!(asked(&mut wants, 125).len(), 5);
        assert_eq!(wants.window.bytes, 2 << 20);
        wants.answered(&large[1], 250).unwrap();
        assert_eq!(asked(&mut wants, 250).len(), 1);
        assert_eq!(wants.window.bytes, 2 << 20);
        // A fast line soon gets the largest.
        let mut now = 250;
        while wants.window.bytes < WINDOW_BYTES {
            now += 1;
            let hash = *wants
                .asked
                .iter()
                .find(|(_, asked)| asked.at_ms + 10 > now || asked.at_ms == 250)
                .unwrap()
                .0;
            wants.answered(&hash, now).unwrap();
            wants.poll(now);
        }
        assert!(now < 260, "{now} ms");
        assert_eq!(wants.asked_bytes, WINDOW_BYTES);
        // It becomes slow: down to the smallest, in which one chunk always has room.
        while wants.asked_bytes > 0 {
            now += 8000;
            let hash = *wants.asked.keys().next().unwrap();
            wants.answered(&hash, now).unwrap();
        }
        assert_eq!(wants.window.bytes, WINDOW_MIN_BYTES);
        assert_eq!(asked(&mut wants, now).len(), 1);
        let edit = add(&mut wants, 1000, 100, true);
        let last = *wants.asked.keys().next().unwrap();
        wants.answered(&last, now + 1).unwrap();
        assert_eq!(asked(&mut wants, now + 1)[0], edit);
    }

    #[test]
    fn what_is_left_counts_each_chunk_once() {
        let mut wants = Wants::default();
        let hash = add(&mut wants, 1, 100, true);
        add(&mut wants, 2, 50, false);
        wants.add(Want::whole(hash), 100, &(RelPath::new("other").unwrap(), SessionId(1)), false);
        assert_eq!(wants.progress(), (150, 0));
        asked(&mut wants, 0);
        wants.again(&hash);
        assert_eq!(wants.progress(), (150, 0));
        asked(&mut wants, 0);
        assert_eq!(wants.answered(&hash, 0).unwrap().len(), 2);
        wants.fetched(100);
        assert_eq!(wants.progress(), (50, 100));
        assert!(wants.answered(&hash, 0).is_none());
    }
}
