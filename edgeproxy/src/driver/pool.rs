//! Owns the connections to servers that are kept open: the last one given back is the first one used, so that the others can age and go.
//! Bounded per server, in number and in age.

use super::body::RequestBody;
use crate::upstream::Upstream;
use hyper::client::conn::http1::SendRequest;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One connection to a server, ready for a request or about to be.
pub(super) type Sender = SendRequest<RequestBody>;

/// Idle connections, by server.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<HashMap<Upstream, Vec<Idle>>>,
    per_server_max: usize,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

impl Pool {
    pub(super) fn new(per_server_max: usize, idle_timeout: Duration) -> Self {
        Self { idle: Mutex::default(), per_server_max, idle_timeout }
    }

    /// The connection to `upstream` that was used last, if one is open and ready.
    pub(super) fn take(&self, upstream: &Upstream) -> Option<Sender> {
        let mut idle = self.lock();
        let kept = idle.get_mut(upstream)?;
        // One that is not ready still has to finish writing a request that was answered early: it stays for later.
        let at = kept
            .iter()
            .rposition(|idle| idle.sender.is_ready() && idle.since.elapsed() < self.idle_timeout)?;
        Some(kept.remove(at).sender)
    }

    /// Closes the idle connections to `upstream`: one of them proved that it has gone.
    pub(super) fn forget(&self, upstream: &Upstream) {
        self.lock().remove(upstream);
    }

    /// Closes what is too old or was closed by its server. To be called now and then.
    pub(super) fn sweep(&self) {
        self.lock().retain(|_, kept| {
            kept.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < self.idle_timeout);
            !kept.is_empty()
        });
    }

    fn put(&self, upstream: Upstream, sender: Sender) {
        if sender.is_closed() || self.per_server_max == 0 {
            return;
        }
        let mut idle = self.lock();
        let kept = idle.entry(upstream).or_default();
        if kept.len() >= self.per_server_max {
            // The oldest is first.
            kept.remove(0);
        }
        kept.push(Idle { sender, since: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Upstream, Vec<Idle>>> {
        // No operation leaves the map half-changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use, that knows where it belongs. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<Pool>,
    upstream: Upstream,
    sender: Sender,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, upstream: Upstream, sender: Sender) -> Self {
        Self { pool, upstream, sender }
    }

    /// The response was read to its end: others may use the connection.
    pub(super) fn give_back(self) {
        self.pool.put(self.upstream, self.sender);
    }
}
