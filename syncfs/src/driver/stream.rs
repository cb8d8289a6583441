//! A byte stream as messages: a `u32` length, little-endian, then the message, compressed while the stream is what
//! everything waits for ([`Line`]).

use std::io::{ErrorKind, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::time::Instant;

use crate::error::{SyncError, Violation};
use crate::wire::frame::{self, COMPRESSED};
use crate::wire::{DecodeError, FRAME_BYTES_MAX, Message, decode_frame, encode_parts};

/// Over so long a time it is judged what a stream waits for.
const JUDGED_OVER: Duration = Duration::from_millis(250);
/// A faster line carries bytes as quickly as they are compressed and written on the other side, or nearly so.
const SLOW_BYTES_PER_SECOND: u64 = 32 << 20;

/// Memory for a message before any of it arrived, at most: a chunk of all but the largest files fits.
const FIRST_BYTES: usize = (1 << 20) + 64;

/// The next message and its size on the stream; `None` at a clean end. Counts bytes in `arrived` as they come.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    arrived: &AtomicU64,
) -> Result<Option<(Message, u64)>, SyncError> {
    let mut word = [0; 4];
    match stream.read_exact(&mut word).await {
        Ok(_) => {}
        Err(error) if is_end(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let word = u32::from_le_bytes(word);
    let length = (word & !COMPRESSED) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Violation::Decode(DecodeError::Limit("frame")).into());
    }
    // Memory grows with what really arrives, not with what was announced.
    let mut bytes = Vec::with_capacity(length.min(FIRST_BYTES));
    let mut body = stream.take(length as u64);
    while bytes.len() < length {
        match body.read_buf(&mut bytes).await {
            Ok(0) => return Ok(None),
            Ok(count) => drop(arrived.fetch_add(count as u64, Ordering::Relaxed)),
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    if word & COMPRESSED != 0 {
        bytes = frame::decompress(&bytes).map_err(Violation::Decode)?;
    }
    let message = decode_frame(bytes).map_err(Violation::Decode)?;
    Ok(Some((message, length as u64 + 4)))
}

/// The sending side of a stream.
pub(super) struct Sender<W> {
    stream: BufWriter<W>,
    line: Line,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    pub(super) fn new(stream: W) -> Self {
        Self { stream: BufWriter::with_capacity(64 << 10, stream), line: Line::new(Instant::now()) }
    }

    /// Writes a message; [`Sender::flush`] is the caller's. Returns its size on the stream.
    pub(super) async fn send(&mut self, message: &Message) -> Result<u64, SyncError> {
        let mut body = encode_parts(message);
        let mut flag = 0;
        if self.line.is_slow
            && let Some(short) = frame::compress(&body.concat())
        {
            (body, flag) = (vec![short.into()], COMPRESSED);
        }
        let length = body.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(length).expect("a message is smaller than its frame limit");
        let began = Instant::now();
        let word = (length | flag).to_le_bytes();
        let mut parts: Vec<_> =
            [&word[..]].into_iter().chain(body.iter().map(|part| &**part)).map(IoSlice::new).collect();
        let mut parts = &mut parts[..];
        while !parts.is_empty() {
            match self.stream.write_vectored(parts).await? {
                0 => return Err(std::io::Error::from(ErrorKind::WriteZero).into()),
                count => IoSlice::advance_slices(&mut parts, count),
            }
        }
        self.line.took(u64::from(length), began, Instant::now());
        Ok(u64::from(length) + 4)
    }

    pub(super) async fn flush(&mut self) -> Result<(), SyncError> {
        let began = Instant::now();
        self.stream.flush().await?;
        self.line.took(0, began, Instant::now());
        Ok(())
    }

    pub(super) async fn shutdown(&mut self) -> Result<(), SyncError> {
        Ok(self.stream.shutdown().await?)
    }
}

/// What a stream waits for. It is slow while most of the time goes by in writing to it, and little gets through: then
/// compressing costs nothing that anybody waits for.
#[derive(Debug)]
struct Line {
    since: Instant,
    writing: Duration,
    bytes: u64,
    is_slow: bool,
}

impl Line {
    fn new(now: Instant) -> Self {
        Self { since: now, writing: Duration::ZERO, bytes: 0, is_slow: false }
    }

    fn took(&mut self, bytes: u64, began: Instant, now: Instant) {
        self.writing += now - began;
        self.bytes += bytes;
        let passed = now - self.since;
        if passed >= JUDGED_OVER {
            let carried = u128::from(self.bytes) * 1_000_000 / passed.as_micros().max(1);
            let is_slow = self.writing * 2 > passed && carried < u128::from(SLOW_BYTES_PER_SECOND);
            *self = Self { is_slow, ..Self::new(now) };
        }
    }
}

fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes messages of a size, each taking so long, with so long a pause before it; is the line slow then?
    fn is_slow(bytes: u64, writing_ms: u64, pause_ms: u64) -> bool {
        let mut now = Instant::now();
        let mut line = Line::new(now);
        for _ in 0..1000 {
            let began = now + Duration::from_millis(pause_ms);
            now = began + Duration::from_millis(writing_ms);
            line.took(bytes, began, now);
        }
        line.is_slow
    }

    #[test]
    fn a_line_is_slow_when_everything_waits_for_it_and_little_gets_through() {
        assert!(is_slow(256 << 10, 200, 1), "1.3 MB/s and nothing else to do");
        assert!(!is_slow(256 << 10, 1, 10), "the disk is what it waits for");
        assert!(!is_slow(256 << 10, 2, 0), "130 MB/s");
        assert!(!is_slow(100, 1, 1000), "now and then a small message");
    }
}
