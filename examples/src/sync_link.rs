//! Keeps a folder in sync over streams that come and go: dial for ever, or accept for ever.

use std::future::Future;
use std::io;
use std::time::Duration;

use syncfs::{DeviceId, Folder};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::web::Accept;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// Dials a peer through `connect` and syncs until the stream ends, then again, for ever; a failed attempt
/// waits twice as long as the one before, at most 2 s. Ends when the future is dropped.
///
/// `peer` is the device that must answer: a stream to anybody else is refused by the session.
pub async fn dial<S, F>(folder: Folder, peer: Option<DeviceId>, connect: impl Fn() -> F)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = io::Result<S>>,
{
    let mut retry = RETRY_FIRST;
    loop {
        match connect().await {
            Ok(stream) => {
                let began = tokio::time::Instant::now();
                match folder.sync(stream, peer).await {
                    Ok(_) => tracing::debug!("sync stream ended"),
                    Err(error) => tracing::debug!(%error, "sync stream failed"),
                }
                if began.elapsed() > RETRY_LAST {
                    retry = RETRY_FIRST;
                }
            }
            Err(error) => tracing::debug!(%error, "peer not reachable"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_LAST);
    }
}

/// Accepts streams for ever and syncs each in a task of its own, with `peer` or, when there is none, with
/// whoever the listener lets through. Ends when the listener fails or the future is dropped; sessions end with it.
pub async fn accept<A>(folder: Folder, peer: Option<DeviceId>, mut listener: A) -> io::Error
where
    A: Accept,
    A::Stream: Unpin + 'static,
{
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let folder = folder.clone();
                sessions.spawn(async move {
                    if let Err(error) = folder.sync(stream, peer).await {
                        tracing::debug!(%error, "sync stream failed");
                    }
                });
                while sessions.try_join_next().is_some() {}
            }
            Err(error) => return error,
        }
    }
}
