//! Chunks, which are most of what passes a stream, are not copied between a message and its bytes: encoded they are parts beside
//! others, decoded they are parts of the frame.

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(feature = "driver")]
use super::encode;
use super::{DecodeError, Reader, Writer};
use crate::chunk::CHUNK_BYTES_MAX;
use crate::hash::Blob;
use crate::wire::CHUNKS_MAX;
#[cfg(feature = "driver")]
use crate::wire::Message;

/// The bytes of [`encode`] in parts.
#[cfg(feature = "driver")]
pub(crate) fn encode_parts(message: &Message) -> Vec<Cow<'_, [u8]>> {
    match message {
        Message::Chunks(blobs) => parts(blobs),
        _ => vec![encode(message).into()],
    }
}

pub(super) fn parts(blobs: &[Blob]) -> Vec<Cow<'_, [u8]>> {
    let mut head = Writer(vec![7]);
    head.count(blobs.len());
    let mut parts = Vec::with_capacity(2 * blobs.len() + 1);
    for blob in blobs {
        head.count(blob.bytes().len());
        parts.push(std::mem::replace(&mut head, Writer(Vec::new())).0.into());
        parts.push(blob.bytes().into());
    }
    // Of no chunks at all.
    if parts.is_empty() {
        parts.push(head.0.into());
    }
    parts
}

impl Reader<'_> {
    /// The chunks of the frame that is read.
    pub(super) fn chunks(&mut self, frame: &Arc<Vec<u8>>) -> Result<Vec<Blob>, DecodeError> {
        let count = self.count(CHUNKS_MAX, 5, "chunk list")?;
        (0..count).map(|_| self.chunk(frame)).collect()
    }

    fn chunk(&mut self, frame: &Arc<Vec<u8>>) -> Result<Blob, DecodeError> {
        let length = self.bytes(CHUNK_BYTES_MAX, "chunk")?.len();
        let end = frame.len() - self.0.len();
        if length == 0 {
            return Err(DecodeError::Invalid("chunk"));
        }
        Ok(Blob::within(frame, end - length..end))
    }
}
