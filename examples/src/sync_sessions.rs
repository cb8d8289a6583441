//! One session for each folder and peer, although both may dial at once.
//!
//! Whoever dials has no session that it knows of, so a stream that comes in replaces an older one, which its other
//! end has evidently lost. Only when both dial at the same moment both streams are alive: then both sides keep the one
//! that the device with the lower ID dialled.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syncfs::DeviceId;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How long after its beginning a stream that we dialled may still cross with one that the peer dialled.
const CROSSING: Duration = Duration::from_secs(10);

/// A folder's place in its daemon, and a peer.
pub type Pair = (usize, DeviceId);

/// The sessions of a daemon.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<Open>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Open {
    slots: BTreeMap<Pair, Slot>,
    next: u64,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    /// We dialled.
    ours: bool,
    since: Instant,
    /// Dropping it tells the session that another has taken its place.
    _replace: oneshot::Sender<()>,
}

/// The right to run a session; given back when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    sessions: &'a Sessions,
    pair: Pair,
    number: u64,
    replaced: oneshot::Receiver<()>,
}

impl Sessions {
    /// A stream is ready; `ours` if this side dialled it, `lower` if this device's ID is the lower of the two. `None` if
    /// another stream between the two stays.
    pub fn enter(&self, pair: Pair, ours: bool, lower: bool) -> Option<Turn<'_>> {
        let mut open = self.open();
        if let Some(slot) = open.slots.get(&pair) {
            let crossing = ours || slot.ours && slot.since.elapsed() < CROSSING;
            // Of two that cross the lower ID's stays: the new one if it is that.
            if crossing && ours != slot.ours && ours != lower {
                return None;
            }
        }
        open.next += 1;
        let number = open.next;
        let (replace, replaced) = oneshot::channel();
        // Dropping the older slot tells its session to end.
        open.slots.insert(pair, Slot { number, ours, since: Instant::now(), _replace: replace });
        Some(Turn { sessions: self, pair, number, replaced })
    }

    /// Whether a session runs.
    pub fn is_open(&self, pair: Pair) -> bool {
        self.open().slots.contains_key(&pair)
    }

    /// Returns when no session runs.
    pub async fn vacant(&self, pair: Pair) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if !self.is_open(pair) {
                return;
            }
            left.await;
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Returns when another stream takes this one's place.
    pub async fn replaced(&mut self) {
        let _ = (&mut self.replaced).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut open = self.sessions.open();
        if open.slots.get(&self.pair).is_some_and(|slot| slot.number == self.number) {
            open.slots.remove(&self.pair);
            drop(open);
            self.sessions.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Pair = (0, DeviceId::from_bytes([1; 32]));

    fn is_replaced(turn: &mut Turn<'_>) -> bool {
        !matches!(turn.replaced.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    /// Whatever the order in which the two streams arrive at each side, both sides keep the lower device's.
    #[tokio::test]
    async fn of_two_streams_that_cross_both_sides_keep_the_same() {
        for lower in [true, false] {
            for ours_first in [true, false] {
                let sessions = Sessions::default();
                let mut first = sessions.enter(PAIR, ours_first, lower).unwrap();
                let second = sessions.enter(PAIR, !ours_first, lower);
                // The one that must stay is ours exactly if we are the lower.
                let keeps_first = ours_first == lower;
                assert_eq!(second.is_none(), keeps_first, "lower {lower}, ours first {ours_first}");
                assert_eq!(is_replaced(&mut first), !keeps_first);
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_dials_again_has_lost_its_older_stream() {
        let sessions = Sessions::default();
        let mut older = sessions.enter(PAIR, false, true).unwrap();
        let newer = sessions.enter(PAIR, false, true).unwrap();
        assert!(is_replaced(&mut older));
        drop(older);
        assert!(sessions.is_open(PAIR), "the end of the older must not end the newer");
        let other = (1, PAIR.1);
        assert!(!sessions.is_open(other));
        let wait = sessions.vacant(PAIR);
        tokio::pin!(wait);
        assert!(futures_now(&mut wait).await.is_none());
        drop(newer);
        wait.await;
    }

    async fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! { biased; output = future => Some(output), () = std::future::ready(()) => None }
    }
}
