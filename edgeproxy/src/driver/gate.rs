//! Owns the gate between a client's socket and the HTTP parser: bytes pass as they are until strict [`Framing`] refuses one.
//!
//! The refused byte is replaced by NUL, which no HTTP message may contain outside of a body of known length, and nothing follows it: the
//! parser answers 400 and closes, whatever it would have made of the original. Once the connection is a tunnel everything passes.

use crate::framing::{Framing, Violation};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Opens the gate for good: what follows is not HTTP.
#[derive(Debug, Clone, Default)]
pub(super) struct Tunnel(Arc<AtomicBool>);

impl Tunnel {
    /// To be called before the client can know that its connection is a tunnel.
    pub(super) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A client's byte stream that carries nothing but strictly framed HTTP/1.1, or a tunnel.
pub(super) struct Gate<S, F> {
    stream: S,
    framing: Framing,
    tunnel: Tunnel,
    refused: bool,
    /// Told once, when a byte is refused.
    on_violation: F,
}

impl<S, F: FnMut(Violation)> Gate<S, F> {
    pub(super) fn new(stream: S, tunnel: Tunnel, on_violation: F) -> Self {
        Self { stream, framing: Framing::new(), tunnel, refused: false, on_violation }
    }
}

impl<S: AsyncRead + Unpin, F: FnMut(Violation) + Unpin> AsyncRead for Gate<S, F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if gate.refused {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut gate.stream).poll_read(cx, buf))?;
        if gate.tunnel.is_open() {
            return Poll::Ready(Ok(()));
        }
        if let Err((offset, violation)) = gate.framing.check(&buf.filled()[before..]) {
            gate.refused = true;
            (gate.on_violation)(violation);
            buf.filled_mut()[before + offset] = 0;
            buf.set_filled(before + offset + 1);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Gate<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
