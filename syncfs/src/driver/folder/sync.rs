//! A session: a stream to a peer, and the folder's thread.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::super::stream;
use super::super::worker::{Command, Outgoing};
use super::Folder;
use crate::device::DeviceId;
use crate::engine::SessionId;
use crate::error::{StoreError, SyncError};
use crate::status::Summary;
use crate::wire::{BYE_BYTES_MAX, Message};

/// Messages that may wait for a stream.
const OUTGOING_MAX: usize = 4;
/// How often it is looked whether bytes arrive.
const HEAR_EVERY: Duration = Duration::from_secs(5);
/// For how long a peer that takes nothing any more is listened to.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

impl Folder {
    /// Replicates with the peer at the other end of `stream`, in both directions, until the stream ends, the peer breaks
    /// the protocol, or the folder closes. Both ends make the same call. Changes flow while it runs.
    ///
    /// The stream must be *authenticated and private by the caller* (mesh, TLS): whoever speaks on it may read and write
    /// the folder. `expect` refuses any other device by mistake; it is no authentication.
    ///
    /// Dropping the future ends the session; what was acknowledged stays, and a transfer resumes in the next one.
    ///
    /// # Errors
    /// What ended the session, other than the end of the stream.
    pub async fn sync<S>(&self, stream: S, expect: Option<DeviceId>) -> Result<Summary, SyncError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let session = SessionId(self.shared.next_session.fetch_add(1, Ordering::Relaxed));
        let (outgoing, mut inbox) = mpsc::channel(OUTGOING_MAX);
        self.command(Command::Open(session, expect, outgoing)).await.ok_or(SyncError::Closed)?;
        let nudge = Nudge(self.shared.commands.clone());
        let (mut reader, writer) = tokio::io::split(stream);
        let mut writer = stream::Sender::new(writer);
        let (received, sent, arrived) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let reading = async {
            while let Some((message, bytes)) = stream::receive(&mut reader, &arrived).await? {
                received.fetch_add(bytes, Ordering::Relaxed);
                self.command(Command::Received(session, message)).await.ok_or(SyncError::Closed)?;
            }
            Ok(())
        };
        let writing = async {
            while let Some(next) = inbox.recv().await {
                match next {
                    Outgoing::Message(message) => {
                        sent.fetch_add(writer.send(&message).await?, Ordering::Relaxed);
                        if inbox.is_empty() {
                            writer.flush().await?;
                        }
                        self.command(Command::Nudge).await.ok_or(SyncError::Closed)?;
                    }
                    Outgoing::End(violation) => {
                        writer.shutdown().await?;
                        return Err(SyncError::Protocol(violation));
                    }
                }
            }
            // The folder let go of the stream. If it is paused the peer is told, and comes again.
            let error = self.let_go();
            if let SyncError::Store(why) = &error {
                writer.send(&farewell(why)).await?;
                writer.shutdown().await?;
            }
            Err(error)
        };
        let mut lost = None;
        let result: Result<(), SyncError> = {
            let mut reading = pin!(reading);
            tokio::select! {
                result = &mut reading => result,
                result = writing => match result {
                    // The peer has ended it, and may have said why.
                    Err(error @ SyncError::Io(_)) => {
                        lost = Some(error);
                        timeout(FAREWELL_MAX, reading).await.unwrap_or(Ok(()))
                    }
                    result => result,
                },
                result = self.hear(session, &arrived) => result,
            }
        };
        result?;
        drop(nudge);
        let (reply, summary) = oneshot::channel();
        self.command(Command::Closed(session, reply)).await.ok_or(SyncError::Closed)?;
        let (mut summary, violation) = summary.await.map_err(|_| SyncError::Closed)?;
        // The stream ended; perhaps because this side had something to object to.
        let ended = std::iter::from_fn(|| inbox.try_recv().ok()).find_map(|next| match next {
            Outgoing::End(violation) => Some(violation),
            Outgoing::Message(_) => None,
        });
        if let Some(error) = ended.or(violation).map(SyncError::from).or(lost) {
            return Err(error);
        }
        summary.received_bytes = received.into_inner();
        summary.sent_bytes = sent.into_inner();
        Ok(summary)
    }

    /// While a long message arrives slowly its sender is alive, for ever.
    async fn hear(&self, session: SessionId, arrived: &AtomicU64) -> Result<(), SyncError> {
        let mut before = 0;
        loop {
            tokio::time::sleep(HEAR_EVERY).await;
            let now = arrived.load(Ordering::Relaxed);
            if std::mem::replace(&mut before, now) != now {
                self.command(Command::Heard(session)).await.ok_or(SyncError::Closed)?;
            }
        }
    }

    /// Why the folder's thread does nothing for a stream.
    fn let_go(&self) -> SyncError {
        match &self.shared.status.borrow().pause {
            Some(pause) if !pause.only_receiving => StoreError::Paused(pause.why.clone()).into(),
            _ => SyncError::Closed,
        }
    }
}

fn farewell(why: &StoreError) -> Message {
    let mut reason = why.to_string();
    reason.truncate(reason.floor_char_boundary(BYE_BYTES_MAX));
    Message::Bye(reason)
}

/// Wakes the folder's thread when a session's future is dropped, so that it sees the end of the stream.
struct Nudge(mpsc::Sender<Command>);

impl Drop for Nudge {
    fn drop(&mut self) {
        let _ = self.0.try_send(Command::Nudge);
    }
}
