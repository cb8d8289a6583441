//! Owns the bodies that stream through the proxy, and what their end means: a request body that stops coming is cut, a response body that
//! is complete gives its connection back to the pool. Frames are passed on one by one, so the slower side sets the pace.

use super::pool::Lease;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestBodyError {
    /// Nothing came for [`Config::body_idle_timeout`](crate::Config::body_idle_timeout).
    #[error("the request body stopped coming")]
    Idle,
    /// The client closed the connection, or broke the framing.
    #[error("the request body is broken")]
    Client(#[source] hyper::Error),
}

/// When a request body last moved, for whoever waits for the response.
#[derive(Debug)]
pub(super) struct Progress {
    origin: Instant,
    /// Milliseconds since `origin`, or `WAITING`.
    moved_ms: AtomicU64,
}

const WAITING: u64 = u64::MAX;

impl Progress {
    fn new() -> Self {
        Self { origin: Instant::now(), moved_ms: AtomicU64::new(0) }
    }

    /// When the body last moved; now, while it is the client's turn to send.
    pub(super) fn moved_at(&self) -> Instant {
        match self.moved_ms.load(Relaxed) {
            WAITING => Instant::now(),
            ms => self.origin + Duration::from_millis(ms),
        }
    }

    fn moved(&self) {
        self.moved_ms.store(self.origin.elapsed().as_millis() as u64, Relaxed);
    }

    fn waiting(&self) {
        self.moved_ms.store(WAITING, Relaxed);
    }
}

/// A client's body on its way to a server.
#[derive(Debug)]
pub(super) struct RequestBody(Option<Streaming>);

#[derive(Debug)]
struct Streaming {
    incoming: Incoming,
    progress: Arc<Progress>,
    idle_timeout: Duration,
    idle: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, idle_timeout: Duration) -> Self {
        let empty = incoming.is_end_stream();
        Self((!empty).then(|| Streaming {
            incoming,
            progress: Arc::new(Progress::new()),
            idle_timeout,
            idle: None,
        }))
    }

    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// `None` if the body is empty.
    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.0.as_ref().map(|streaming| streaming.progress.clone())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(&mut body.incoming).poll_frame(cx) {
            body.idle = None;
            body.progress.moved();
            return Poll::Ready(frame.map(|frame| frame.map_err(RequestBodyError::Client)));
        }
        body.progress.waiting();
        let timeout = body.idle_timeout;
        ready!(body.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout))).as_mut().poll(cx));
        Poll::Ready(Some(Err(RequestBodyError::Idle)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |body| body.incoming.size_hint())
    }
}

/// What a client gets: a page of the proxy's own, or a server's body.
#[derive(Debug)]
pub(super) enum ResponseBody {
    Own(Full<Bytes>),
    Forwarded { incoming: Incoming, lease: Option<Lease> },
}

impl ResponseBody {
    pub(super) fn own(text: impl Into<Bytes>) -> Self {
        Self::Own(Full::new(text.into()))
    }

    /// A server's body. Its connection goes back to the pool when it ends, and is closed if it is dropped before.
    pub(super) fn forwarded(incoming: Incoming, lease: Lease) -> Self {
        if incoming.is_end_stream() {
            lease.give_back();
            return Self::Forwarded { incoming, lease: None };
        }
        Self::Forwarded { incoming, lease: Some(lease) }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Own(full) => Pin::new(full)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never: Infallible| match never {}))),
            Self::Forwarded { incoming, lease } => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                let ended = match &frame {
                    None => true,
                    Some(frame) => frame.is_ok() && incoming.is_end_stream(),
                };
                if ended && let Some(lease) = lease.take() {
                    lease.give_back();
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(full) => full.is_end_stream(),
            Self::Forwarded { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(full) => full.size_hint(),
            Self::Forwarded { incoming, .. } => incoming.size_hint(),
        }
    }
}
