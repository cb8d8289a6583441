//! Owns the replay window: which counters of a session were seen. A ring of bit blocks as in RFC 6479,
//! so that moving the window clears whole words instead of shifting them.

const BLOCK_BITS: u64 = 64;
const BLOCKS: u64 = 256;
/// How far behind the newest counter a frame may be and still be told from a replay.
pub const WINDOW: u64 = (BLOCKS - 1) * BLOCK_BITS;

/// The counters seen in one direction of one session.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// The newest counter, plus one; zero while none was seen.
    next: u64,
    blocks: Box<[u64]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { next: 0, blocks: vec![0; usize::try_from(BLOCKS).expect("256 fits")].into() }
    }
}

impl ReplayWindow {
    /// Whether `counter` is new; marks it as seen. Call it only after the frame was authenticated.
    pub fn accept(&mut self, counter: u64) -> bool {
        // The last counter value is never used: `next` could not pass it.
        if counter == u64::MAX || counter.saturating_add(WINDOW) < self.next {
            return false;
        }
        let block = counter / BLOCK_BITS;
        if counter >= self.next {
            let newest = self.next.checked_sub(1).map_or(0, |newest| newest / BLOCK_BITS);
            for passed in 1..=(block - newest).min(BLOCKS) {
                self.blocks[slot(newest + passed)] = 0;
            }
            self.next = counter + 1;
        }
        let bit = 1 << (counter % BLOCK_BITS);
        let fresh = self.blocks[slot(block)] & bit == 0;
        self.blocks[slot(block)] |= bit;
        fresh
    }

    /// Whether `counter` is the newest that was accepted.
    pub fn is_newest(&self, counter: u64) -> bool {
        counter.checked_add(1) == Some(self.next)
    }
}

fn slot(block: u64) -> usize {
    usize::try_from(block % BLOCKS).expect("a remainder of 256 fits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_window_ends_exactly_where_it_says() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(WINDOW));
        assert!(window.accept(1), "WINDOW - 1 behind the newest");
        assert!(window.accept(1 + BLOCK_BITS));
        assert!(!window.accept(1));
        assert!(window.accept(WINDOW + 7));
        assert!(!window.accept(2), "too old to tell");
        assert!(window.accept(8));
    }

    #[test]
    fn extreme_counters_neither_panic_nor_pass_twice() {
        let mut window = ReplayWindow::default();
        assert!(!window.accept(u64::MAX));
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX - 1));
        assert!(!window.accept(0));
        assert!(window.is_newest(u64::MAX - 1));
        assert!(!window.is_newest(u64::MAX));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_set(steps in prop::collection::vec((0u64..4, 0u64..WINDOW * 3), 1..400)) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            let mut newest = 0u64;
            for (kind, value) in steps {
                // Forward steps, backward steps, replays and jumps.
                let counter = match kind {
                    0 => newest + value % 5,
                    1 => newest.saturating_sub(value),
                    2 => newest.saturating_sub(value % 200),
                    _ => newest + value,
                };
                let too_old = seen.last().is_some_and(|last: &u64| counter + WINDOW < last + 1);
                let expected = !too_old && seen.insert(counter);
                newest = newest.max(counter);
                prop_assert_eq!(window.accept(counter), expected, "counter {}", counter);
            }
        }
    }
}
