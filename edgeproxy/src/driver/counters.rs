//! Owns the numbers that a proxy counts. Relaxed atomics: each is exact, together they are no snapshot of one moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a proxy has counted since its start.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
        #[non_exhaustive]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(super) struct Counting { $(pub(super) $name: Counter,)* }

        impl Counting {
            pub(super) fn read(&self) -> Counters {
                Counters { $($name: self.$name.0.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Client connections accepted.
    connections,
    /// Times that the system refused to accept a connection.
    accept_errors,
    /// TLS handshakes that failed or took too long.
    tls_errors,
    /// Requests answered in any way.
    requests,
    /// Requests answered by a server.
    forwarded,
    /// Requests answered by a redirect to https.
    redirected,
    /// Requests that no route takes.
    not_found,
    /// Requests whose route had no server that could be reached.
    unavailable,
    /// Requests whose server closed the connection without an answer, or gave one that is no HTTP.
    bad_gateway,
    /// Requests whose server did not begin its answer in time.
    gateway_timeouts,
    /// Requests that waited for a live server.
    held,
    /// Requests refused because of what they were: hostile framing, a bad host, forged names.
    refused,
    /// Requests whose body stopped coming.
    body_timeouts,
    /// Connections opened to servers.
    dials,
    /// Dials that failed or took too long.
    dial_errors,
    /// Requests sent over a connection that was open already.
    reused,
    /// Requests sent again because a kept connection turned out to be closed.
    retried,
    /// Connections that became tunnels (WebSocket).
    tunnels,
}

/// One number.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}
