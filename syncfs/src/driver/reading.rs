//! A plain file becomes chunks, and is read back chunk by chunk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, fadvise, fstat};
use rustix::io::{Errno, pread};

use super::database::{Opened, QUIET};
use super::disk::RealDisk;
use super::sparse::{has_holes, next_data};
use super::tree::{convert, failed};
use crate::chunk::{Chunker, Cutting, SQLITE_MAGIC};
use crate::disk::{Disk, DiskError, FileKind, Reading, Stat};
use crate::hash::Blob;
use crate::path::RelPath;
use crate::record::{Chunk, Content};

/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// A content that was published from here and may not be on the platter yet.
#[derive(Debug)]
pub(super) enum Unsynced {
    Plain,
    /// Its main file, and its log.
    Database(Arc<File>, Option<File>),
}

/// Cuts and hashes a file that is probably much like the version before; also gives its first bytes. Holes are not read.
pub(super) fn hash(file: &File, before: Option<&Content>) -> Result<(Content, [u8; 16]), DiskError> {
    let size = file.metadata().map_err(|error| failed("stat", error))?.len();
    let (mut first, mut head) = (Vec::new(), [0; 16]);
    read_more(file, 0, size.saturating_add(1), &mut first)?;
    let known = first.len().min(head.len());
    head[..known].copy_from_slice(&first[..known]);
    let cutting = Cutting::choose(size, &head);
    let before = before.filter(|before| Cutting::choose(before.size(), &head) == cutting);
    let mut chunker = Chunker::after(cutting, before.unwrap_or(&Content::default()));
    let mut offset = first.len() as u64;
    chunker.take(|buffer| *buffer = first);
    // Up to here there is no hole.
    let mut data_end = if has_holes(file) { 0 } else { u64::MAX };
    loop {
        if offset >= data_end && offset < size {
            let (start, end) = next_data(file, offset, size);
            chunker.push_zeros(start - offset);
            (offset, data_end) = (start, end);
        }
        // One byte more than there should be, to see the end; unless it is longer by now.
        let end = if offset > size { u64::MAX } else { data_end.min(size.saturating_add(1)) };
        let room = end.saturating_sub(offset);
        match chunker.take(|buffer| read_more(file, offset, room, buffer))? {
            0 => return Ok((chunker.finish(), head)),
            read => offset += read as u64,
        }
    }
}

/// Appends up to so many bytes from a place of a file; says how many.
fn read_more(file: &File, offset: u64, room: u64, buffer: &mut Vec<u8>) -> Result<usize, DiskError> {
    let (filled, room) = (buffer.len(), usize::try_from(room).unwrap_or(READ_BYTES).clamp(1, READ_BYTES));
    buffer.resize(filled + room, 0);
    let read = file.read_at(&mut buffer[filled..], offset).map_err(|error| failed("read", error));
    buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
    read
}

impl RealDisk {
    /// See [`crate::disk::Disk::read`].
    pub(super) fn read_file(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        before: Option<&Content>,
    ) -> Result<Reading, DiskError> {
        self.files_read.fetch_add(1, Ordering::Relaxed);
        self.last = None;
        if stat.size == 0 {
            return Ok(Reading {
                content: Content::default(),
                mtime_ns: stat.mtime_ns,
                stat: as_seen(*stat),
                cut: false,
            });
        }
        match self.databases.open(&self.tree, path, stat)? {
            Opened::Database(file) => self.read_database(path, &file),
            Opened::Plain(file) => self.read_plain(path, &file, stat, before),
        }
    }

    fn read_plain(
        &mut self,
        path: &RelPath,
        file: &File,
        stat: &Stat,
        before: Option<&Content>,
    ) -> Result<Reading, DiskError> {
        let (content, head) = hash(file, before)?;
        let after = fstat(file).map_err(|error| failed("stat", error))?;
        let now = self.stat(path)?;
        let unstable = || DiskError::Busy("the file changes while it is read".to_owned());
        if convert(&after) != *stat
            || now != Some(*stat)
            || content.size() != stat.size
            || head == *SQLITE_MAGIC
        {
            return Err(unstable());
        }
        let again = self.suspects.contains(path);
        let stat = &if again { self.write_again(path, file, stat)? } else { *stat };
        self.cuts.forget(path);
        self.read.insert(path.clone(), Unsynced::Plain);
        Ok(Reading { content, mtime_ns: stat.mtime_ns, stat: as_seen(*stat), cut: false })
    }

    /// See [`crate::disk::Disk::uncache`].
    pub(super) fn let_go_of(&mut self, path: &RelPath) {
        self.last = None;
        if let Ok(Some(stat)) = self.tree.stat(path)
            && stat.kind == FileKind::File
            && stat.size > 0
            && let Ok(opened) = self.databases.open(&self.tree, path, &stat)
        {
            let _ = fadvise(opened.file(), 0, None, Advice::DontNeed);
        }
    }

    /// See [`crate::disk::Disk::read_chunk`].
    pub(super) fn read_back(
        &mut self,
        path: &RelPath,
        offset: u64,
        chunk: &Chunk,
    ) -> Result<Option<Blob>, DiskError> {
        let intact =
            |file: &File| Blob::named(read_exactly(file, offset, chunk.length as usize)?, &chunk.hash);
        if let Some(blob) = self.read_delta(path, offset, chunk)? {
            return Ok(Some(blob));
        }
        if self.cuts.has(path)
            && let Some(file) = self.database(path)?
            && let Some(bytes) =
                self.with_database(path, &file, |cuts, source| cuts.chunk(path, source, offset, chunk))?
        {
            return Ok(Some(bytes));
        }
        if let Some((_, file)) = self.last.as_ref().filter(|(last, _)| last == path)
            && let Some(bytes) = intact(file)
        {
            return Ok(Some(bytes));
        }
        let stat = match self.tree.stat(path) {
            Ok(Some(stat))
                if stat.kind == FileKind::File && stat.size >= offset + u64::from(chunk.length) =>
            {
                stat
            }
            Ok(_) | Err(DiskError::NoParent) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.databases.open(&self.tree, path, &stat) {
            Ok(Opened::Database(file)) => match intact(&file) {
                // After a start the log's share is not known before the first cut.
                None if !self.cuts.has(path) && self.read_database(path, &file).is_ok() => {
                    self.with_database(path, &file, |cuts, source| cuts.chunk(path, source, offset, chunk))
                }
                bytes => Ok(bytes),
            },
            Ok(Opened::Plain(file)) => {
                let bytes = intact(&file);
                self.last = Some((path.clone(), file));
                Ok(bytes)
            }
            Err(DiskError::Changed) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A part of a file, if it is so long; into memory that is not made zeros first.
fn read_exactly(file: &File, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = offset + bytes.len() as u64;
        match pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return None,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(length);
    Some(bytes)
}

/// A fingerprint to compare with later. If it is so fresh that a later change could bear the same times, it is made to
/// differ from any: the file is read once more then.
pub(super) fn as_seen(mut stat: Stat) -> Stat {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let latest = u128::try_from(stat.ctime_ns.max(stat.mtime_ns)).unwrap_or(0);
    if now.saturating_sub(latest) < QUIET.as_nanos() {
        stat.ctime_ns = 0;
    }
    stat
}
