//! Owns one request and its response with one server: over a kept connection if there is one, else over a new one.
//!
//! What may be sent twice: a request that was never written, and one without a body whose method is idempotent (RFC 9110, 9.2.2) if the
//! kept connection turns out to have been closed by the server before. Anything else might have reached the application.

use super::{
    Shared,
    body::{RequestBody, RequestBodyError},
    pool::{Lease, Sender},
};
use crate::upstream::Upstream;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use std::{error::Error, fmt, io, pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// A kept connection that the server has closed fails within a round trip. One that fails later was alive when the request went
/// out: the server died over it, and sending it again would only make the client wait twice.
const STALE_WINDOW: Duration = Duration::from_millis(250);

/// A response, and the connection that its body comes from.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
}

/// Why there is no response.
pub(super) enum Failure {
    /// No connection could be made; nothing was sent, so another server may be asked.
    NotSent(Box<Request<RequestBody>>),
    /// The server vanished while it had the request.
    Unreachable(io::Error),
    /// The server took too long to begin its response.
    NoAnswer,
    /// The client's body ended early.
    RequestBody(RequestBodyError),
    /// The server closed the connection, or did not speak HTTP.
    Broken(hyper::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(_) => f.write_str("no connection"),
            Self::Unreachable(error) => write!(f, "the server vanished: {error}"),
            Self::NoAnswer => f.write_str("no response in time"),
            Self::RequestBody(error) => error.fmt(f),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

/// Sends the request to `upstream` and waits for the head of the response.
pub(super) async fn exchange(
    proxy: &Arc<Shared>,
    upstream: &Upstream,
    mut request: Request<RequestBody>,
) -> Result<Answered, Failure> {
    if let Some(sender) = proxy.pool.take(upstream) {
        let replay = replay(&request);
        let sent_at = Instant::now();
        match send(proxy, upstream, sender, request).await {
            Err(Failure::NotSent(back)) => request = *back,
            Err(Failure::Broken(_)) if replay.is_some() && sent_at.elapsed() < STALE_WINDOW => {
                request = replay.expect("was just checked");
            }
            done => {
                if done.is_ok() {
                    proxy.counting.reused.add();
                }
                return done;
            }
        }
        proxy.counting.retried.add();
    }
    match dial(proxy, upstream).await {
        Ok(sender) => send(proxy, upstream, sender, request).await,
        Err(error) => {
            proxy.counting.dial_errors.add();
            proxy.pool.forget(upstream);
            tracing::debug!(%upstream, %error, "cannot connect to a server");
            Err(Failure::NotSent(Box::new(request)))
        }
    }
}

/// A copy of a request that may be sent twice.
fn replay(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.method().is_idempotent() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

async fn dial(proxy: &Shared, upstream: &Upstream) -> Result<Sender, io::Error> {
    proxy.counting.dials.add();
    let connect = async {
        let stream = proxy.dialer.dial(upstream).await?;
        http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(io::Error::other)
    };
    let (sender, connection) =
        timeout(proxy.config.dial_timeout, connect).await.map_err(io::Error::from)??;
    tokio::spawn(async move {
        // Whoever waits on the connection learns of its end by himself.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "server connection ended");
        }
    });
    Ok(sender)
}

async fn send(
    proxy: &Arc<Shared>,
    upstream: &Upstream,
    mut sender: Sender,
    request: Request<RequestBody>,
) -> Result<Answered, Failure> {
    let progress = request.body().progress();
    let wait = proxy.config.response_header_timeout;
    let mut sending = pin!(sender.try_send_request(request));
    let mut deadline = Instant::now() + wait;
    let sent = loop {
        if let Ok(sent) = timeout_at(deadline, sending.as_mut()).await {
            break sent;
        }
        // The server's time begins when the body stopped moving.
        match progress.as_ref().map(|progress| progress.moved_at() + wait) {
            Some(later) if later > deadline => deadline = later,
            _ => {
                proxy.pool.forget(upstream);
                return Err(Failure::NoAnswer);
            }
        }
    };
    match sent {
        Ok(response) => {
            let lease = Lease::new(proxy.pool.clone(), upstream.clone(), sender);
            Ok(Answered { response, lease })
        }
        Err(mut failed) => {
            if let Some(back) = failed.take_message() {
                return Err(Failure::NotSent(Box::new(back)));
            }
            let failure = classify(failed.into_error());
            if !matches!(failure, Failure::RequestBody(_)) {
                // What happened to this connection has happened, or will, to those that are idle.
                proxy.pool.forget(upstream);
            }
            Err(failure)
        }
    }
}

/// Finds out whose fault it is.
fn classify(error: hyper::Error) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = cause {
        match inner.downcast_ref::<RequestBodyError>() {
            Some(RequestBodyError::Idle) => return Failure::RequestBody(RequestBodyError::Idle),
            Some(RequestBodyError::Client(_)) => {
                return Failure::RequestBody(RequestBodyError::Client(error));
            }
            None => {}
        }
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && matches!(
                io.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            )
        {
            return Failure::Unreachable(io.kind().into());
        }
        cause = inner.source();
    }
    Failure::Broken(error)
}
