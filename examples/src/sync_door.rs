//! Who may come in: the first line of a stream to `syncd`, and the loop that lets peers in by it.
//!
//! The dialler says `syncd/1 DEVICE\n`; the listener goes on only if that device is one that it was told of, and
//! the session then holds the peer to it. The line is a claim, not a proof: streams are not authenticated, which is
//! why `syncd` keeps to private networks. What TLS with pinned keys will prove later takes this line's place.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use syncfs::{DeviceId, Folder};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The most streams that are served at once; more wait to be accepted.
pub const SESSIONS_MAX: usize = 64;
/// The longest first line.
pub const LINE_MAX_BYTES: usize = 128;
/// How long a dialler may take to say it.
pub const LINE_DEADLINE: Duration = Duration::from_secs(5);

const GREETING: &str = "syncd/1 ";

/// Why a stream was not let in.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The stream broke.
    #[error("the stream broke before its first line: {0}")]
    Io(#[from] io::Error),
    /// It did not say who it is in time.
    #[error("no first line within {} s", LINE_DEADLINE.as_secs())]
    Slow,
    /// It does not speak this protocol.
    #[error("the first line is not `syncd/1 DEVICE`: not a syncd, or another version")]
    Foreign,
    /// It is nobody that this replica was told of.
    #[error("{0} is not among the --peer devices")]
    Unknown(DeviceId),
}

/// Says who dials.
pub async fn knock(stream: &mut (impl AsyncWrite + Unpin), own: DeviceId) -> io::Result<()> {
    stream.write_all(format!("{GREETING}{own}\n").as_bytes()).await
}

/// Reads who dials; nothing beyond the line is consumed.
pub async fn open(stream: &mut (impl AsyncRead + Unpin), known: &[DeviceId]) -> Result<DeviceId, DoorError> {
    let line =
        tokio::time::timeout(LINE_DEADLINE, read_line(stream)).await.map_err(|_| DoorError::Slow)??;
    let device = line.strip_prefix(GREETING).and_then(|id| id.parse::<DeviceId>().ok());
    let device = device.ok_or(DoorError::Foreign)?;
    if known.contains(&device) { Ok(device) } else { Err(DoorError::Unknown(device)) }
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> Result<String, DoorError> {
    let mut line = Vec::new();
    while line.len() < LINE_MAX_BYTES {
        match stream.read_u8().await? {
            b'\n' => return String::from_utf8(line).map_err(|_| DoorError::Foreign),
            byte => line.push(byte),
        }
    }
    Err(DoorError::Foreign)
}

/// Lets the known devices in and syncs with each, for ever; sessions end when the future is dropped.
pub async fn accept(folder: Folder, known: Vec<DeviceId>, listener: TcpListener) {
    let known: Arc<[DeviceId]> = known.into();
    let places = Arc::new(Semaphore::new(SESSIONS_MAX));
    let mut sessions = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        while sessions.try_join_next().is_some() {}
        let (mut stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: let others end first.
                tracing::warn!(%error, "cannot accept a stream");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (folder, known) = (folder.clone(), known.clone());
        sessions.spawn(async move {
            let _place = place;
            let peer = match open(&mut stream, &known).await {
                Ok(peer) => peer,
                Err(error) => return tracing::info!(%from, %error, "not let in"),
            };
            // Without it small messages wait for the peer's delayed acknowledgements.
            let _ = stream.set_nodelay(true);
            match folder.sync(stream, Some(peer)).await {
                Ok(summary) => tracing::info!(%from, %peer, ?summary, "a sync stream ended"),
                Err(error) => tracing::info!(%from, %peer, %error, "a sync stream failed"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn opened(bytes: &[u8], known: &[DeviceId]) -> (Result<DeviceId, DoorError>, Vec<u8>) {
        let mut stream = io::Cursor::new(bytes.to_vec());
        let outcome = open(&mut stream, known).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (outcome, rest)
    }

    #[tokio::test]
    async fn a_known_device_comes_in_and_nothing_beyond_its_line_is_consumed() {
        let (friend, stranger) = (DeviceId::from_bytes([1; 32]), DeviceId::from_bytes([2; 32]));
        let mut line = Vec::new();
        knock(&mut line, friend).await.unwrap();
        assert!(line.len() <= LINE_MAX_BYTES);
        line.extend_from_slice(b"first message");
        let (outcome, rest) = opened(&line, &[friend]).await;
        assert_eq!((outcome.unwrap(), &rest[..]), (friend, &b"first message"[..]));
        let (outcome, _) = opened(&line, &[stranger]).await;
        assert!(matches!(outcome, Err(DoorError::Unknown(device)) if device == friend));
    }

    #[tokio::test]
    async fn whatever_else_knocks_is_turned_away() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"syncd/2 x\n", b"syncd/1 nobody\n", b"\xff\n", &[b'a'; 4096]]
        {
            assert!(matches!(opened(bytes, &[]).await.0, Err(DoorError::Foreign)));
        }
        assert!(matches!(opened(b"syncd/1 ", &[]).await.0, Err(DoorError::Io(_))));
    }
}
