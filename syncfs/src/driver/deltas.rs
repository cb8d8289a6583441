//! Delta logs: what the versions of a database changed since the one that is visible, in `deltas/` of the state directory, one
//! file for each path. A version costs its changed blocks, one write and one sync.
//!
//! A log begins with [`MAGIC`]; then, for each version, the bytes of its changed blocks and a footer: eight bytes for each
//! block (its number and length, in the order of their bytes), where the version begins, how many blocks it has, and a
//! BLAKE3 over these. Whoever knows where a footer ends finds all before it from there; what stands behind it is the torn
//! tail of a crash, or of a version that was given up, and is cut off.
//!
//! The blocks themselves have no hash of their own: they are only ever read as part of a chunk, whose hash is checked.

mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fsync, ftruncate, openat, unlinkat};
use rustix::io::Errno;

use self::places::{Place, Places, RECENT_MAX};
use super::database::read_up_to;
use super::disk::RealDisk;
use super::state::stage_name;
use super::tree::{dead, failed};
use crate::disk::{DiskError, FileKind};
use crate::hash::Blob;
use crate::path::RelPath;
use crate::record::Chunk;
use crate::sqlite::blocks::{BLOCK_BYTES, block_of, blocks_in};

/// How a log begins.
const MAGIC: &[u8; 16] = b"syncfs deltas 1\n";
/// What a footer says of one block.
const ROW_BYTES: u64 = 8;
/// Where the version begins, its blocks, and the hash over both and the rows.
const TRAILER_BYTES: u64 = 8 + 4 + 32;

/// All logs of a folder.
#[derive(Debug)]
pub(super) struct Deltas {
    dir: OwnedFd,
    logs: BTreeMap<RelPath, Log>,
    /// Blocks of a log whose places are in memory.
    recent_max: usize,
}

#[derive(Debug)]
struct Log {
    file: File,
    /// Its name in the directory is not durable yet.
    is_new: bool,
    /// The blocks of all versions up to `mark`, the newest of each.
    places: Places,
    mark: u64,
    /// The blocks of what was written since, and where that ends.
    fresh: Places,
    end: u64,
    /// In the order of their bytes.
    rows: Vec<(u32, u32)>,
    /// Where the sealed version behind `mark` ends.
    sealed: Option<u64>,
}

impl Deltas {
    pub(super) fn new(dir: OwnedFd) -> Self {
        Self { dir, logs: BTreeMap::new(), recent_max: RECENT_MAX }
    }

    /// See [`crate::disk::Disk::delta_reset`].
    pub(super) fn reset(&mut self, path: &RelPath, mark: u64) -> Result<bool, DiskError> {
        if mark == 0 {
            self.logs.remove(path);
            return match unlinkat(&self.dir, stage_name(path), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(true),
                Err(error) => Err(failed("remove a delta log", error)),
            };
        }
        match self.logs.get_mut(path) {
            Some(log) if log.sealed == Some(mark) => {
                let fresh = std::mem::replace(&mut log.fresh, Places::new(self.recent_max));
                log.places.absorb(&self.dir, fresh)?;
                (log.mark, log.sealed) = (mark, None);
            }
            Some(log) if log.mark == mark => log.give_up(self.recent_max)?,
            _ => match self.open(path, mark)? {
                Some(log) => drop(self.logs.insert(path.clone(), log)),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// See [`crate::disk::Disk::delta_sweep`].
    pub(super) fn sweep(&self) -> Result<(), DiskError> {
        let known: BTreeSet<_> = self.logs.keys().map(stage_name).collect();
        for entry in Dir::read_from(&self.dir).map_err(|error| failed("list the delta logs", error))? {
            let entry = entry.map_err(|error| failed("list the delta logs", error))?;
            let name = entry.file_name();
            let known = name.to_str().is_ok_and(|name| known.contains(name));
            if !known && !matches!(name.to_bytes(), b"." | b"..") {
                unlinkat(&self.dir, name, AtFlags::empty())
                    .map_err(|error| failed("remove a delta log", error))?;
            }
        }
        Ok(())
    }

    /// See [`crate::disk::Disk::delta_seal`].
    pub(super) fn seal(&mut self, path: &RelPath) -> Result<u64, DiskError> {
        let log = self.log(path)?;
        if log.rows.is_empty() {
            return Ok(log.mark);
        }
        let start = log.mark;
        let mut footer = Vec::with_capacity(log.rows.len() * ROW_BYTES as usize + TRAILER_BYTES as usize);
        for (block, length) in &log.rows {
            footer.extend_from_slice(&block.to_le_bytes());
            footer.extend_from_slice(&length.to_le_bytes());
        }
        footer.extend_from_slice(&start.to_le_bytes());
        let count = u32::try_from(log.rows.len()).expect("a database has at most 2^32 blocks");
        footer.extend_from_slice(&count.to_le_bytes());
        let hash = blake3::hash(&footer);
        footer.extend_from_slice(hash.as_bytes());
        let write = log.file.write_all_at(&footer, log.end);
        write.map_err(|error| failed("write a delta log", error))?;
        log.end += footer.len() as u64;
        log.rows.clear();
        log.sealed = Some(log.end);
        Ok(log.end)
    }

    /// See [`crate::disk::Disk::delta_sync`].
    pub(super) fn sync(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        let mut any_new = false;
        for path in paths {
            let Some(log) = self.logs.get_mut(path) else { continue };
            fsync(&log.file).map_err(dead)?;
            any_new |= std::mem::take(&mut log.is_new);
        }
        if any_new { fsync(&self.dir).map_err(dead) } else { Ok(()) }
    }

    /// The log of a path, a new one if there is none.
    fn log(&mut self, path: &RelPath) -> Result<&mut Log, DiskError> {
        if !self.logs.contains_key(path) {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = openat(&self.dir, stage_name(path), flags, Mode::from_raw_mode(0o600));
            let file = File::from(file.map_err(|error| failed("create a delta log", error))?);
            file.write_all_at(MAGIC, 0).map_err(|error| failed("write a delta log", error))?;
            let mark = MAGIC.len() as u64;
            let log = Log::new(file, Places::new(self.recent_max), mark, self.recent_max);
            self.logs.insert(path.clone(), Log { is_new: true, ..log });
        }
        Ok(self.logs.get_mut(path).expect("it was just put there"))
    }

    /// Opens a log that ends, as far as it counts, at `mark`. `None` if it is not there, or not whole.
    fn open(&self, path: &RelPath, mark: u64) -> Result<Option<Log>, DiskError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match openat(&self.dir, stage_name(path), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(failed("open a delta log", error)),
        };
        let Some(versions) = versions_of(&file, mark) else { return Ok(None) };
        let mut places = Places::new(self.recent_max);
        for version in versions.iter().rev() {
            if !version.each_block(&file, |block, place| places.insert(&self.dir, block, place))? {
                return Ok(None);
            }
        }
        ftruncate(&file, mark).map_err(|error| failed("cut a delta log", error))?;
        Ok(Some(Log::new(file, places, mark, self.recent_max)))
    }
}

impl Log {
    fn new(file: File, places: Places, mark: u64, recent_max: usize) -> Self {
        let (fresh, rows) = (Places::new(recent_max), Vec::new());
        Self { file, is_new: false, places, mark, fresh, end: mark, rows, sealed: None }
    }

    /// Forgets what was written since the last version that counts.
    fn give_up(&mut self, recent_max: usize) -> Result<(), DiskError> {
        if self.end > self.mark {
            ftruncate(&self.file, self.mark).map_err(|error| failed("cut a delta log", error))?;
        }
        self.fresh = Places::new(recent_max);
        self.rows.clear();
        (self.end, self.sealed) = (self.mark, None);
        Ok(())
    }

    /// Lays the blocks of these places over what was read from the visible file.
    fn overlay(&self, places: &Places, offset: u64, buffer: &mut [u8]) -> Result<bool, DiskError> {
        let (first, end) = (block_of(offset), blocks_in(offset + buffer.len() as u64));
        let mut any = false;
        for (block, (at, length)) in places.among(first, end)? {
            // Chunks begin at a block.
            let from = (u64::from(block) * BLOCK_BYTES as u64 - offset) as usize;
            let length = (length as usize).min(buffer.len() - from);
            read_up_to(&self.file, at, &mut buffer[from..from + length])?;
            any = true;
        }
        Ok(any)
    }

    /// Adds blocks that follow one another.
    fn append(&mut self, dir: &OwnedFd, first: u32, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, self.end).map_err(|error| failed("write a delta log", error))?;
        for (block, part) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            self.fresh.insert(dir, block, (self.end, part.len() as u32))?;
            self.rows.push((block, part.len() as u32));
            self.end += part.len() as u64;
        }
        Ok(())
    }
}

/// One version in a log.
struct Logged {
    /// Where its bytes begin.
    start: u64,
    /// Where its footer begins, and where that ends.
    rows_at: u64,
    end: u64,
}

/// The versions that end at or before `mark`, the newest first; `None` if a footer is damaged.
fn versions_of(file: &File, mark: u64) -> Option<Vec<Logged>> {
    let head = MAGIC.len() as u64;
    let mut magic = [0; 16];
    file.read_exact_at(&mut magic, 0).ok().filter(|()| magic == *MAGIC)?;
    if file.metadata().ok()?.len() < mark {
        return None;
    }
    let (mut versions, mut end) = (Vec::new(), mark);
    while end > head {
        let mut trailer = [0; TRAILER_BYTES as usize];
        let trailer_at = end.checked_sub(TRAILER_BYTES)?;
        file.read_exact_at(&mut trailer, trailer_at).ok()?;
        let start = u64::from_le_bytes(trailer[..8].try_into().ok()?);
        let count = u32::from_le_bytes(trailer[8..12].try_into().ok()?);
        let rows_at = trailer_at.checked_sub(u64::from(count) * ROW_BYTES)?;
        if start < head || start >= rows_at {
            return None;
        }
        versions.push(Logged { start, rows_at, end });
        end = start;
    }
    (end == head).then_some(versions)
}

impl Logged {
    /// Every block and where it stands. `false` if the footer is damaged.
    fn each_block(
        &self,
        file: &File,
        mut visit: impl FnMut(u32, Place) -> Result<(), DiskError>,
    ) -> Result<bool, DiskError> {
        let mut footer = vec![0; (self.end - self.rows_at) as usize];
        let Ok(()) = file.read_exact_at(&mut footer, self.rows_at) else { return Ok(false) };
        let (said, hash) = footer.split_at(footer.len() - 32);
        if blake3::hash(said).as_bytes()[..] != *hash {
            return Ok(false);
        }
        let rows = &said[..said.len() - 12];
        let mut at = self.start;
        for [block, length] in rows.as_chunks::<4>().0.as_chunks::<2>().0 {
            let (block, length) = (u32::from_le_bytes(*block), u32::from_le_bytes(*length));
            if length as usize > BLOCK_BYTES {
                return Ok(false);
            }
            visit(block, (at, length))?;
            at += u64::from(length);
        }
        Ok(at == self.rows_at)
    }
}

impl RealDisk {
    /// The bytes of a chunk with the log over what is visible, if that has the hash.
    pub(super) fn read_delta(
        &mut self,
        path: &RelPath,
        offset: u64,
        chunk: &Chunk,
    ) -> Result<Option<Blob>, DiskError> {
        if !self.deltas.logs.contains_key(path) {
            return Ok(None);
        }
        let base = self.visible(path, offset, chunk.length as usize)?;
        let log = &self.deltas.logs[path];
        let mut bytes = base.clone();
        if log.overlay(&log.places, offset, &mut bytes)? | log.overlay(&log.fresh, offset, &mut bytes)?
            && let Some(blob) = Blob::named(bytes, &chunk.hash)
        {
            return Ok(Some(blob));
        }
        // Of the version before the one that is being written.
        let mut bytes = base;
        let any = log.overlay(&log.places, offset, &mut bytes)?;
        Ok(if any { Blob::named(bytes, &chunk.hash) } else { None })
    }

    /// Adds to the log what differs from the newest version in it.
    pub(super) fn write_delta(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "chunks of a database begin at a block");
        let mut before = self.visible(path, offset, bytes.len())?;
        self.deltas.log(path)?;
        let Deltas { dir, logs, .. } = &mut self.deltas;
        let log = logs.get_mut(path).expect("it was just asked for");
        log.overlay(&log.places, offset, &mut before)?;
        log.overlay(&log.fresh, offset, &mut before)?;
        let blocks: Vec<_> = bytes.chunks(BLOCK_BYTES).zip(before.chunks(BLOCK_BYTES)).collect();
        let mut next = 0;
        while next < blocks.len() {
            let end = next + blocks[next..].iter().take_while(|(new, old)| new != old).count();
            if end > next {
                let run = &bytes[next * BLOCK_BYTES..bytes.len().min(end * BLOCK_BYTES)];
                log.append(dir, block_of(offset) + next as u32, run)?;
            }
            next = end + 1;
        }
        Ok(())
    }

    /// Bytes of the visible file; zeroes where it has none.
    fn visible(&mut self, path: &RelPath, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let mut bytes = vec![0; length];
        let stat = match self.tree.stat(path) {
            Ok(Some(stat)) if stat.kind == FileKind::File && stat.size > offset => stat,
            Ok(_) | Err(DiskError::NoParent) => return Ok(bytes),
            Err(error) => return Err(error),
        };
        match self.databases.open(&self.tree, path, &stat) {
            Ok(opened) => read_up_to(opened.file(), offset, &mut bytes).map(drop)?,
            Err(DiskError::Changed) => {}
            Err(error) => return Err(error),
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_says_the_same_when_it_is_opened_again_however_few_places_are_in_memory() {
        let home = tempfile::tempdir().unwrap();
        let dir = || OwnedFd::from(File::open(home.path()).unwrap());
        let path = RelPath::new("app.db").unwrap();
        let image = |deltas: &Deltas| {
            let mut bytes = vec![0; 40 * BLOCK_BYTES];
            let log = &deltas.logs[&path];
            log.overlay(&log.places, 0, &mut bytes).unwrap();
            bytes
        };
        let mut deltas = Deltas { recent_max: 2, ..Deltas::new(dir()) };
        let (mut mark, mut expected) = (0, vec![0; 40 * BLOCK_BYTES]);
        for version in 1..20_u32 {
            deltas.log(&path).unwrap();
            let log = deltas.logs.get_mut(&path).unwrap();
            for (first, count) in [(version, 1), (version * 7 % 30, 3)] {
                let run = vec![version as u8; count * BLOCK_BYTES];
                log.append(&deltas.dir, first, &run).unwrap();
                expected[first as usize * BLOCK_BYTES..][..run.len()].copy_from_slice(&run);
            }
            mark = deltas.seal(&path).unwrap();
            assert!(deltas.reset(&path, mark).unwrap());
            assert!(image(&deltas) == expected, "{version}");
        }
        let mut again = Deltas { recent_max: 2, ..Deltas::new(dir()) };
        assert!(again.reset(&path, mark).unwrap());
        assert!(image(&again) == expected, "opened again");
    }
}
