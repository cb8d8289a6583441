//! [`Cuts`]: the state of each database as of its last cut, how the next one is taken, and how its bytes are read back.
//! The proofs stand in the module's documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use super::image::{Image, Journal, Source, Standing, read_up_to};
use super::{UNWITNESSED, side_names};
use crate::config::SqliteLock;
use crate::disk::{DiskError, Run, Stat};
use crate::driver::tree::failed;
use crate::hash::{Blob, ContentHash};
use crate::path::RelPath;
use crate::record::{Chunk, Content};
use crate::sqlite::blocks::{BLOCK_BYTES, Blocks, Draft, block_of, blocks_in};
use crate::sqlite::wal::{self, End, FRAME_HEADER_BYTES, Log};

/// How often a cut is tried at once.
const ATTEMPTS_MAX: usize = 8;
/// How often one attempt takes up what was committed while it read.
const ROUNDS_MAX: usize = 64;
/// Blocks read at once.
const RUN_BLOCKS: u32 = 256;
/// Blocks read between two looks whether the database still holds still.
const LOOK_BLOCKS: usize = 4096;
/// Bytes of changed blocks that are kept of one database.
const RECENT_BYTES_MAX: usize = 16 << 20;
/// Memory for the states of all databases of a folder, in bytes: enough for 16 GiB of them. Beyond it, the one that was not
/// cut for the longest time is read whole at its next change.
const MEMORY_BYTES_MAX: usize = 160 << 20;

/// The databases of a folder that were cut since it was opened.
#[derive(Debug, Default)]
pub(in crate::driver) struct Cuts {
    /// Whether a database may be locked that holds no pause otherwise.
    pub(in crate::driver) lock: SqliteLock,
    live: BTreeMap<RelPath, Live>,
    clock: u64,
}

/// A database as of its last cut.
#[derive(Debug, Default)]
pub(super) struct Live {
    blocks: Blocks,
    /// The generation of the log that it followed, if there was one.
    log: Option<Log>,
    /// The main file, if a later change of it would show.
    main: Option<Stat>,
    /// Bytes of blocks that changed lately.
    recent: BTreeMap<u32, Vec<u8>>,
    recent_bytes: usize,
    /// A private copy whose state it is: one in which SQLite played back a journal, or one that was made under a lock.
    pub(super) copied: Option<(PathBuf, File)>,
    /// Since when it could not be cut.
    pub(super) restless: Option<Instant>,
    /// When a lock was last taken in vain.
    pub(super) locked_in_vain: Option<Instant>,
    used: u64,
}

impl Cuts {
    /// Takes a cut. Nothing changes if that does not succeed.
    pub(in crate::driver) fn cut(
        &mut self,
        path: &RelPath,
        source: &Source<'_>,
    ) -> Result<Content, DiskError> {
        self.clock += 1;
        let live = self.live.entry(path.clone()).or_default();
        live.used = self.clock;
        live.cut(source, self.lock)?;
        let content = live.blocks.content();
        self.bound();
        Ok(content)
    }

    /// Forgets a path: something else stands there now.
    pub(in crate::driver) fn forget(&mut self, path: &RelPath) {
        self.live.remove(path);
    }

    /// Whether the path was cut.
    pub(in crate::driver) fn has(&self, path: &RelPath) -> bool {
        self.live.contains_key(path)
    }

    /// The bytes of a chunk as of the last cut.
    pub(in crate::driver) fn chunk(
        &self,
        path: &RelPath,
        source: &Source<'_>,
        offset: u64,
        chunk: &Chunk,
    ) -> Result<Option<Blob>, DiskError> {
        match self.live.get(path) {
            Some(live) => live.chunk(source, offset, chunk),
            None => Ok(None),
        }
    }

    /// What changed in a chunk since it had the hash `basis`.
    pub(in crate::driver) fn patch(
        &self,
        path: &RelPath,
        source: &Source<'_>,
        offset: u64,
        chunk: &Chunk,
        basis: &ContentHash,
    ) -> Result<Option<Vec<Run>>, DiskError> {
        match self.live.get(path) {
            Some(live) => live.patch(source, offset, chunk, basis),
            None => Ok(None),
        }
    }

    /// Writes the whole database as of the last cut.
    pub(in crate::driver) fn write(
        &self,
        path: &RelPath,
        source: &Source<'_>,
        to: &mut File,
    ) -> Result<(), DiskError> {
        let gone = || DiskError::Busy("the database moved on since its last cut".to_owned());
        let live = self.live.get(path).ok_or_else(gone)?;
        for (offset, chunk) in live.blocks.content().placed() {
            let bytes = live.chunk(source, offset, &chunk)?.ok_or_else(gone)?;
            to.write_all(bytes.bytes()).map_err(|error| failed("write a database", error))?;
        }
        Ok(())
    }

    fn bound(&mut self) {
        let memory = |live: &Live| live.blocks.memory_bytes() + live.recent_bytes;
        while self.live.len() > 1 && self.live.values().map(memory).sum::<usize>() > MEMORY_BYTES_MAX {
            let oldest = self.live.iter().min_by_key(|(_, live)| live.used).map(|(path, _)| path.clone());
            oldest.iter().for_each(|path| drop(self.live.remove(path)));
        }
    }
}

/// A cut in the making.
pub(super) struct Making {
    draft: Draft,
    /// The bytes of its new blocks.
    fresh: BTreeMap<u32, Vec<u8>>,
}

impl Live {
    fn cut(&mut self, source: &Source<'_>, lock: SqliteLock) -> Result<(), DiskError> {
        let cut = match self.cut_beside(source) {
            Err(DiskError::Busy(why)) if lock == SqliteLock::Brief => self.cut_locked(source, why),
            cut => cut,
        };
        match cut {
            Ok(()) => self.restless = None,
            Err(_) => drop(self.restless.get_or_insert_with(Instant::now)),
        }
        cut
    }

    /// Without any lock.
    fn cut_beside(&mut self, source: &Source<'_>) -> Result<(), DiskError> {
        for _ in 0..ATTEMPTS_MAX {
            let taken = match source.log()? {
                Some((file, header)) => self.cut_log(source, &file, header)?,
                None => self.cut_main(source)?,
            };
            if taken {
                return Ok(());
            }
        }
        Err(DiskError::Busy(
            "the database is written without a pause that is long enough to read it".to_owned(),
        ))
    }

    /// Main file and log. `false` if the ground moved.
    fn cut_log(&mut self, source: &Source<'_>, file: &File, header: wal::Header) -> Result<bool, DiskError> {
        let main = *Standing::of(source)?.main()?;
        let known = self.continued(source, file, &header)?;
        let mut whole = known.is_none();
        let (mut log, mut pages) = known.unwrap_or_else(|| (Log::new(header), BTreeSet::new()));
        let mut making: Option<Making> = None;
        for _ in 0..ROUNDS_MAX {
            pages.extend(log.follow(|offset, buffer| read_up_to(file, offset, buffer))?.changed);
            let size = match log.size() {
                Some(size) => size,
                None => source.file.metadata().map_err(|error| failed("stat", error))?.len(),
            };
            let before = making.as_ref().map_or(self.blocks.size(), |making| making.draft.size());
            whole |= making.is_none() && !self.blocks.fits(size);
            let mut todo: BTreeSet<u32> = if whole {
                (0..blocks_in(size)).collect()
            } else {
                Blocks::moved(before, size).chain(blocks_of(&pages, header.page_bytes, size)).collect()
            };
            whole = false;
            pages.clear();
            let making = making.get_or_insert_with(|| self.making(size));
            if !making.draft.resize(size) {
                return Ok(false);
            }
            let image = Image { main: source.file, log: Some((file, &log)), size };
            let below = self.read_blocks(&image, &mut todo, making)?;
            if !below {
                break;
            }
        }
        let Some(making) = making else { return Ok(false) };
        let [name, ..] = side_names(source.name);
        let same_file = source.side(&name)?.is_some_and(|now| is_same_file(&now, file));
        if !same_file || source.log()?.is_none_or(|(_, now)| now != header) {
            return Ok(false);
        }
        self.take(making);
        (self.log, self.main) = (Some(log), Some(main));
        Ok(true)
    }

    /// What of the last cut still stands under this generation of the log, and the pages that changed since it other than
    /// by frames which are still to be followed. `None`: everything has to be compared.
    fn continued(
        &self,
        source: &Source<'_>,
        file: &File,
        header: &wal::Header,
    ) -> Result<Option<(Log, BTreeSet<u32>)>, DiskError> {
        let main = *Standing::of(source)?.main()?;
        let Some(before) = self.main.as_ref().filter(|before| before.ino == main.ino) else {
            return Ok(None);
        };
        let Some(log) = &self.log else {
            // Nothing was written into the main file since: all that is new is in the log.
            return Ok((*before == main).then(|| (Log::new(*header), BTreeSet::new())));
        };
        if log.header() == header {
            return Ok(stands(log, file)?.then(|| (log.clone(), BTreeSet::new())));
        }
        let next = log.header().sequence.wrapping_add(1) == header.sequence;
        if !next || log.header().page_bytes != header.page_bytes {
            return Ok(None);
        }
        let mut old = log.clone();
        let rest = old.follow(|offset, buffer| read_up_to(file, offset, buffer))?;
        // Where another frame stands behind it, the old generation ended there, unless the new one has come so far: then
        // it has overwritten the last one before, too.
        let ended = rest.end == End::Foreign && old.frames() > 0 && stands(&old, file)?;
        Ok(ended.then(|| (Log::new(*header), rest.changed)))
    }

    /// The main file alone. `false` if the ground moved.
    fn cut_main(&mut self, source: &Source<'_>) -> Result<bool, DiskError> {
        let before = source.settled()?;
        let main = *before.main()?;
        let untouched = self.log.is_none() && self.main.as_ref() == Some(&main);
        match source.journal()? {
            // Either way of ending this transaction gives another time, or this very content.
            Journal::Hot if untouched => return Ok(true),
            Journal::Hot => return self.cut_recovered(source, &before),
            Journal::Cold(_) if untouched => return Ok(true),
            Journal::Cold(changed_ns) => {
                if source.header()?.size.is_some_and(|size| size > main.size) {
                    return Err(DiskError::Busy("the database is shorter than its header says".to_owned()));
                }
                if changed_ns < main.mtime_ns && before.age() < UNWITNESSED {
                    return Err(DiskError::Busy(
                        "the database is written without a journal on the disk (journal_mode OFF or MEMORY): \
                         consistent only at unmount, or when it is left alone for half a second"
                            .to_owned(),
                    ));
                }
            }
        }
        let mut making = self.making(main.size);
        let image = Image { main: source.file, log: None, size: main.size };
        let blocks = blocks_in(main.size);
        for first in (0..blocks).step_by(LOOK_BLOCKS) {
            let end = blocks.min(first.saturating_add(LOOK_BLOCKS as u32));
            self.read_blocks(&image, &mut (first..end).collect(), &mut making)?;
            if Standing::of(source)? != before {
                return Ok(false);
            }
        }
        self.take(making);
        self.main = Some(main);
        Ok(true)
    }

    pub(super) fn making(&self, size: u64) -> Making {
        Making { draft: self.blocks.draft(size), fresh: BTreeMap::new() }
    }

    /// Reads blocks of an image into a cut. Returns whether any of it came from the main file.
    pub(super) fn read_blocks(
        &self,
        image: &Image<'_>,
        todo: &mut BTreeSet<u32>,
        making: &mut Making,
    ) -> Result<bool, DiskError> {
        // The blocks of a first cut are all new: nobody has anything to patch.
        let keep = self.blocks.fits(image.size);
        let (mut below, mut buffer) = (false, Vec::new());
        while let Some(first) = todo.pop_first() {
            let mut end = first + 1;
            while end - first < RUN_BLOCKS && todo.first() == Some(&end) {
                todo.pop_first();
                end += 1;
            }
            below |= image.read(first, end, &mut buffer)?;
            for (block, bytes) in (first..end).zip(buffer.chunks(BLOCK_BYTES)) {
                let new = self.blocks.read(&mut making.draft, block, bytes);
                if !new {
                    making.fresh.remove(&block);
                } else if keep && making.fresh.len() * BLOCK_BYTES < RECENT_BYTES_MAX {
                    making.fresh.insert(block, bytes.to_vec());
                } else {
                    making.fresh.remove(&block);
                }
            }
        }
        Ok(below)
    }

    /// The cut was proven.
    pub(super) fn take(&mut self, making: Making) {
        self.recent.retain(|block, _| !making.draft.changes(*block));
        self.blocks.take(making.draft);
        (self.log, self.main) = (None, None);
        if let Some((path, _)) = self.copied.take() {
            let _ = std::fs::remove_file(path);
        }
        let size = self.blocks.size();
        self.recent.retain(|block, _| *block < blocks_in(size));
        if (self.recent.len() + making.fresh.len()) * BLOCK_BYTES > RECENT_BYTES_MAX {
            self.recent.clear();
        }
        self.recent.extend(making.fresh);
        self.recent_bytes = self.recent.values().map(Vec::len).sum();
    }

    fn chunk(&self, source: &Source<'_>, offset: u64, chunk: &Chunk) -> Result<Option<Blob>, DiskError> {
        let Some(blocks) = self.blocks.of_chunk(offset, chunk) else { return Ok(None) };
        let mut bytes = Vec::new();
        self.with_image(source, |image| image.read(blocks.start, blocks.end, &mut bytes))?;
        for (block, part) in blocks.zip(bytes.chunks_mut(BLOCK_BYTES)) {
            if self.blocks.is_current(block, part) {
                continue;
            }
            match self.block(source, block)? {
                Some(kept) => part.copy_from_slice(&kept),
                None => return Ok(None),
            }
        }
        Ok(Blob::named(bytes, &chunk.hash))
    }

    fn patch(
        &self,
        source: &Source<'_>,
        offset: u64,
        chunk: &Chunk,
        basis: &ContentHash,
    ) -> Result<Option<Vec<Run>>, DiskError> {
        let Some(changed) = self.blocks.since(offset, chunk, basis) else { return Ok(None) };
        let mut runs: Vec<Run> = Vec::new();
        for block in changed {
            let Some(bytes) = self.block(source, block)? else { return Ok(None) };
            let at = u64::from(block) * BLOCK_BYTES as u64 - offset;
            let at = u32::try_from(at).expect("a block of a chunk is within it");
            match runs.last_mut() {
                Some(run) if run.offset as usize + run.bytes.len() == at as usize => {
                    run.bytes.extend_from_slice(&bytes)
                }
                _ => runs.push(Run { offset: at, bytes }),
            }
        }
        Ok(Some(runs))
    }

    /// The bytes of a block as of the last cut, from wherever they still are.
    fn block(&self, source: &Source<'_>, block: u32) -> Result<Option<Vec<u8>>, DiskError> {
        if let Some(bytes) = self.recent.get(&block) {
            return Ok(Some(bytes.clone()));
        }
        let mut bytes = Vec::new();
        self.with_image(source, |image| image.read(block, block + 1, &mut bytes))?;
        if !self.blocks.is_current(block, &bytes) {
            // A checkpoint may have moved it from the log to the main file.
            let image = Image { main: source.file, log: None, size: self.blocks.size() };
            image.read(block, block + 1, &mut bytes)?;
        }
        Ok(self.blocks.is_current(block, &bytes).then_some(bytes))
    }

    /// The files as they were followed; what they hold by now has to be checked.
    fn with_image<T>(
        &self,
        source: &Source<'_>,
        read: impl FnOnce(&Image<'_>) -> Result<T, DiskError>,
    ) -> Result<Option<T>, DiskError> {
        let main = self.copied.as_ref().map_or(source.file, |(_, file)| file);
        let now = if self.log.is_some() { source.log()? } else { None };
        let log = match (&now, &self.log) {
            (Some((file, header)), Some(log)) if header == log.header() => Some((file, log)),
            _ => None,
        };
        read(&Image { main, log, size: self.blocks.size() }).map(Some)
    }
}

/// The blocks that hold these pages.
fn blocks_of(pages: &BTreeSet<u32>, page_bytes: u32, size: u64) -> impl Iterator<Item = u32> {
    let spans = pages.iter().map(move |&page| {
        let start = u64::from(page - 1) * u64::from(page_bytes);
        (start, (start + u64::from(page_bytes)).min(size))
    });
    spans.filter(|(start, end)| start < end).flat_map(|(start, end)| block_of(start)..blocks_in(end))
}

/// Whether the last committed frame is still where it was.
fn stands(log: &Log, file: &File) -> Result<bool, DiskError> {
    let Some((offset, expected)) = log.last() else { return Ok(true) };
    let mut found = [0; FRAME_HEADER_BYTES];
    Ok(read_up_to(file, offset, &mut found)? == FRAME_HEADER_BYTES && found == expected)
}

fn is_same_file(a: &File, b: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
    inode(a).is_some_and(|a| Some(a) == inode(b))
}
