//! A byte stream as messages: a `u32` length, little-endian, then the message.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};

use crate::error::{SyncError, Violation};
use crate::wire::{DecodeError, FRAME_BYTES_MAX, Message, decode, encode};

/// The next message and its size on the stream; `None` at a clean end.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(Message, u64)>, SyncError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if is_end(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Violation::Decode(DecodeError::Limit("frame")).into());
    }
    // Memory grows with what really arrives, not with what was announced.
    let mut bytes = Vec::with_capacity(length.min(64 << 10));
    match stream.take(length as u64).read_to_end(&mut bytes).await {
        Ok(_) if bytes.len() == length => {}
        Ok(_) => return Ok(None),
        Err(error) if is_end(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let message = decode(&bytes).map_err(Violation::Decode)?;
    Ok(Some((message, length as u64 + 4)))
}

/// Writes a message; [`AsyncWriteExt::flush`] is the caller's. Returns its size on the stream.
pub(super) async fn send(
    stream: &mut BufWriter<impl AsyncWrite + Unpin>,
    message: &Message,
) -> Result<u64, SyncError> {
    let bytes = encode(message);
    let length = u32::try_from(bytes.len()).expect("a message is smaller than its frame limit");
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(&bytes).await?;
    Ok(u64::from(length) + 4)
}

fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}
