//! Streams that come and go: dial for ever, or accept for ever.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use syncfs::{DeviceId, Folder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::web::Accept;

/// Streams of one listener that are served at once; more wait to be accepted.
pub const STREAMS_MAX: usize = 1024;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// How long to wait before the next attempt: twice as long after each failure, from 50 ms to 2 s, less up to a quarter
/// by chance, so that devices that lost each other at once do not all dial at once.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub fn next_pause(&mut self) -> Duration {
        let pause = RETRY_FIRST.saturating_mul(1 << self.failures.min(16)).min(RETRY_LAST);
        self.failures += 1;
        // The keys of a hasher are drawn from the system's entropy.
        let chance = (RandomState::new().hash_one(()) % 256) as u32;
        pause - pause * chance / 1024
    }

    /// It worked: the next failure is a first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// A stream lasted so long; a longer one than the longest pause counts as success.
    pub fn lasted(&mut self, time: Duration) {
        if time > RETRY_LAST {
            self.reset();
        }
    }
}

/// Dials a peer through `connect` and syncs until the stream ends, then again, for ever. Ends when the future is dropped.
///
/// `peer` is the device that must answer: a stream to anybody else is refused by the session.
pub async fn dial<S, F>(folder: Folder, peer: Option<DeviceId>, connect: impl Fn() -> F)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = io::Result<S>>,
{
    let mut backoff = Backoff::default();
    loop {
        match connect().await {
            Ok(stream) => {
                let began = tokio::time::Instant::now();
                match folder.sync(stream, peer).await {
                    Ok(_) => tracing::debug!("sync stream ended"),
                    Err(error) => tracing::debug!(%error, "sync stream failed"),
                }
                backoff.lasted(began.elapsed());
            }
            Err(error) => tracing::debug!(%error, "peer not reachable"),
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// Accepts streams for ever, each served by `serve` in a task of its own, at most [`STREAMS_MAX`] at once. Ends when the
/// listener fails or the future is dropped; the streams end with it.
pub async fn accept<A, F>(mut listener: A, serve: impl Fn(A::Stream) -> F) -> io::Error
where
    A: Accept,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(STREAMS_MAX));
    let mut streams = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        while streams.try_join_next().is_some() {}
        match listener.accept().await {
            Ok(stream) => {
                let serving = serve(stream);
                streams.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            // Out of descriptors or memory, or the dialler is gone already: others may end first.
            Err(error) if error.raw_os_error().is_some() => {
                tracing::warn!(%error, "cannot accept a stream");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_after_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next_pause()).collect();
        for (failures, pause) in pauses.iter().enumerate() {
            let whole = RETRY_FIRST.saturating_mul(1 << failures.min(16)).min(RETRY_LAST);
            assert!(*pause <= whole && *pause >= whole * 3 / 4, "{failures}: {pause:?}");
        }
        backoff.lasted(RETRY_LAST);
        assert!(backoff.next_pause() > RETRY_FIRST);
        backoff.lasted(RETRY_LAST * 2);
        assert!(backoff.next_pause() <= RETRY_FIRST);
    }
}
