//! A stream that is counted and, if asked, slowed down: how a device keeps to its share of a line.
//!
//! A [`Pace`] is a token bucket that any number of streams draw from, so a limit holds for a peer and not only for each
//! of its streams. It bounds the average; after a pause at most [`BURST`] of it is made up for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How much of a pause may be made up for at full speed.
pub const BURST: Duration = Duration::from_millis(100);
/// The smallest limit, in bytes a second: on a slower line a chunk would take longer than anybody waits for an edit.
pub const BYTES_PER_SECOND_MIN: u64 = 8 << 10;
/// What one wait is for at least: fewer, larger steps.
const STEP_BYTES: u64 = 4 << 10;

/// A number of bytes a second that streams share.
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    bytes: u64,
    filled: Instant,
}

impl Pace {
    /// At most so many bytes a second, at least [`BYTES_PER_SECOND_MIN`].
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        let per_second = bytes_per_second.max(BYTES_PER_SECOND_MIN);
        Self { per_second, bucket: Mutex::new(Bucket { bytes: 0, filled: Instant::now() }) }
    }

    fn burst(&self) -> u64 {
        (self.per_second / 10).max(STEP_BYTES)
    }

    /// Takes up to `wanted` bytes; or says when some will be there.
    fn take(&self, wanted: u64) -> Result<u64, Instant> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let nanos = u128::from(self.per_second) * now.duration_since(bucket.filled).as_nanos();
        let earned = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
        if earned > 0 {
            bucket.bytes = bucket.bytes.saturating_add(earned).min(self.burst());
            bucket.filled = now;
        }
        let step = wanted.min(STEP_BYTES);
        if bucket.bytes >= step {
            let taken = wanted.min(bucket.bytes);
            bucket.bytes -= taken;
            return Ok(taken);
        }
        let missing = step - bucket.bytes;
        Err(now + Duration::from_nanos(missing * 1_000_000_000 / self.per_second + 1))
    }

    /// Gives back what was taken and not used.
    fn give_back(&self, bytes: u64) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.bytes = (bucket.bytes + bytes).min(self.burst());
    }
}

/// How many bytes passed, counted while they pass.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// One direction of a stream and where it waits.
#[derive(Debug, Default)]
struct Side {
    pace: Option<Arc<Pace>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Side {
    /// How many of `wanted` bytes may pass now.
    fn poll_take(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        let Some(pace) = &self.pace else { return Poll::Ready(wanted) };
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match pace.take(wanted as u64) {
                Ok(taken) => return Poll::Ready(usize::try_from(taken).unwrap_or(wanted)),
                Err(at) => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
    }

    fn give_back(&self, bytes: usize) {
        if let Some(pace) = &self.pace {
            pace.give_back(bytes as u64);
        }
    }
}

/// A stream that is counted and keeps to a pace in each direction.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    traffic: Arc<Traffic>,
    sending: Side,
    receiving: Side,
}

impl<S> Metered<S> {
    /// Counts into `traffic`; `None` for a direction without a limit.
    pub fn new(
        stream: S,
        traffic: Arc<Traffic>,
        send: Option<Arc<Pace>>,
        receive: Option<Arc<Pace>>,
    ) -> Self {
        let side = |pace| Side { pace, sleep: None };
        Self { stream, traffic, sending: side(send), receiving: side(receive) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = if this.receiving.pace.is_none() {
            Pin::new(&mut this.stream).poll_read(cx, buffer)
        } else {
            let taken = ready!(this.receiving.poll_take(cx, buffer.remaining()));
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(taken));
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut part);
            let got = part.filled().len();
            buffer.advance(got);
            this.receiving.give_back(taken - got);
            polled
        };
        let got = buffer.filled().len() - before;
        this.traffic.received.fetch_add(got as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = ready!(this.sending.poll_take(cx, bytes.len()));
        let polled = Pin::new(&mut this.stream).poll_write(cx, &bytes[..taken]);
        let sent = match &polled {
            Poll::Ready(Ok(sent)) => *sent,
            _ => 0,
        };
        this.sending.give_back(taken - sent);
        this.traffic.sent.fetch_add(sent as u64, Ordering::Relaxed);
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.sending.pace.is_some() {
            // Small steps anyway.
            let first = parts.iter().find(|part| !part.is_empty());
            return self.poll_write(cx, first.map_or(&[], |part| part));
        }
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        if let Poll::Ready(Ok(sent)) = &polled {
            this.traffic.sent.fetch_add(*sent as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const BYTES: usize = 96 << 10;

    async fn pass(send: Option<u64>, receive: Option<u64>) -> (Duration, Arc<Traffic>) {
        let (left, right) = tokio::io::duplex(1 << 20);
        let pace = |limit: Option<u64>| limit.map(|limit| Arc::new(Pace::new(limit)));
        let traffic = Arc::new(Traffic::default());
        let mut sender = Metered::new(left, Arc::clone(&traffic), pace(send), None);
        let mut receiver = Metered::new(right, Arc::clone(&traffic), None, pace(receive));
        let began = Instant::now();
        let bytes: Vec<u8> = (0..BYTES).map(|n| n as u8).collect();
        let mut got = vec![0; BYTES];
        let (sent, received) = tokio::join!(sender.write_all(&bytes), receiver.read_exact(&mut got));
        sent.and(received).unwrap();
        assert_eq!(got, bytes);
        (began.elapsed(), traffic)
    }

    /// 96 KiB at 256 KiB a second, less the burst: at least 0.25 s. Only a lower bound: the machine may be slow.
    #[tokio::test]
    async fn a_limit_holds_in_each_direction_and_everything_is_counted() {
        for (send, receive) in [(Some(256 << 10), None), (None, Some(256 << 10))] {
            let (took, traffic) = pass(send, receive).await;
            assert!(took >= Duration::from_millis(250), "{took:?}");
            assert_eq!((traffic.sent(), traffic.received()), (BYTES as u64, BYTES as u64));
        }
        pass(None, None).await;
    }

    #[tokio::test]
    async fn two_streams_share_one_pace() {
        let pace = Arc::new(Pace::new(BYTES_PER_SECOND_MIN));
        let took = (0..2).map(|_| pace.take(1 << 20).unwrap_or(0)).sum::<u64>();
        assert!(took <= pace.burst(), "{took} bytes at once");
    }
}
