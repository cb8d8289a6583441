//! A plain file becomes chunks.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::tree::failed;
use crate::chunk::{Chunker, Cutting};
use crate::disk::DiskError;
use crate::record::Content;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Cuts and hashes a file; also gives its first bytes.
pub(super) fn hash(file: &File) -> Result<(Content, [u8; 16]), DiskError> {
    let size = file.metadata().map_err(|error| failed("stat", error))?.len();
    let mut buffer = vec![0; READ_BYTES.min(usize::try_from(size).unwrap_or(READ_BYTES).max(1))];
    let (mut offset, mut chunker, mut head) = (0, None, [0; 16]);
    loop {
        let read = file.read_at(&mut buffer, offset).map_err(|error| failed("read", error))?;
        if read == 0 {
            return Ok((chunker.map_or_else(Content::default, Chunker::finish), head));
        }
        let bytes = &buffer[..read];
        if offset == 0 {
            let length = read.min(16);
            head[..length].copy_from_slice(&bytes[..length]);
        }
        chunker.get_or_insert_with(|| Chunker::new(Cutting::choose(size, bytes))).push(bytes);
        offset += read as u64;
    }
}
