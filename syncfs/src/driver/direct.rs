//! A large content goes to the disk past the page cache, block by block, from a thread of its own, while the next bytes come.
//! The cache would be a second copy of everything, take as long to fill as the disk to write, and give up for it what
//! applications have there.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::sparse;

/// How much is written at once, in bytes: less keeps the disk waiting.
const BLOCK_BYTES: usize = 1 << 20;
/// How many blocks there are: one is filled while the others are written.
const BLOCKS: usize = 4;
/// Memory and offsets of what is written past the cache are multiples of this, in bytes: the largest sector of a disk.
const ALIGNED_BYTES: usize = 4096;

/// Bytes that follow each other in a file.
#[derive(Debug)]
struct Block {
    memory: Vec<u8>,
    /// Where in memory they begin, aligned.
    begin: usize,
    length: usize,
    offset: u64,
}

impl Block {
    fn new() -> Self {
        let memory = vec![0; BLOCK_BYTES + ALIGNED_BYTES];
        let begin = memory.as_ptr().align_offset(ALIGNED_BYTES).min(ALIGNED_BYTES);
        Self { memory, begin, length: 0, offset: 0 }
    }

    /// A block ends where the next begins, also if it does not begin with one.
    fn room(&self) -> usize {
        BLOCK_BYTES - (self.offset % BLOCK_BYTES as u64) as usize - self.length
    }

    fn push(&mut self, bytes: &[u8]) {
        let at = self.begin + self.length;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn end(&self) -> u64 {
        self.offset + self.length as u64
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.length]
    }

    fn is_aligned(&self) -> bool {
        self.offset.is_multiple_of(ALIGNED_BYTES as u64) && self.length.is_multiple_of(ALIGNED_BYTES)
    }
}

/// Writes bytes that follow each other. Whether all were written, only [`Writer::finish`] says.
pub(super) struct Writer {
    block: Block,
    /// To the thread, and back from it. Nothing is sent any more when it shall end.
    full: Option<SyncSender<Block>>,
    empty: Receiver<Block>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    /// Begins at an offset. `direct` is the same file, opened to be written past the cache.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn start(file: File, direct: File, offset: u64) -> io::Result<Self> {
        let (full, jobs) = sync_channel::<Block>(BLOCKS);
        let (done, empty) = sync_channel(BLOCKS);
        for _ in 1..BLOCKS {
            let _ = done.send(Block::new());
        }
        let run = move || {
            let mut result = Ok(());
            for block in jobs {
                if result.is_ok() {
                    result = write(&file, &direct, &block);
                }
                let _ = done.send(block);
            }
            result
        };
        let thread = std::thread::Builder::new().name("syncfs-write".to_owned()).spawn(run)?;
        let block = Block { offset, ..Block::new() };
        Ok(Self { block, full: Some(full), empty, thread: Some(thread) })
    }

    /// Where the next bytes go.
    pub(super) fn end(&self) -> u64 {
        self.block.end()
    }

    /// Takes what belongs at [`Writer::end`]; waits while too much before it is not written yet.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.block.room().min(bytes.len()));
            self.block.push(now);
            bytes = later;
            if self.block.room() == 0 {
                self.hand_over();
            }
        }
    }

    fn hand_over(&mut self) {
        // Should the thread be gone, its end says so.
        let Ok(next) = self.empty.recv() else { return self.block.length = 0 };
        let next = Block { offset: self.block.end(), length: 0, ..next };
        let block = std::mem::replace(&mut self.block, next);
        if let Some(full) = &self.full {
            let _ = full.send(block);
        }
    }

    /// Returns when everything is written.
    ///
    /// # Errors
    /// The first that there was: nothing behind it was written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.hand_over();
        self.end_thread()
    }

    fn end_thread(&mut self) -> io::Result<()> {
        self.full = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes it broke off")))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.end_thread();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("end", &self.end()).finish_non_exhaustive()
    }
}

/// What cannot pass the cache, or has holes, goes through it; the system keeps the two in step.
fn write(file: &File, direct: &File, block: &Block) -> io::Result<()> {
    let bytes = block.bytes();
    if block.is_aligned() && !sparse::has_zeros(bytes) {
        match direct.write_all_at(bytes, block.offset) {
            // A filesystem that has other ideas of what is aligned.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            result => return result,
        }
    }
    sparse::write(file, block.offset, bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    use rustix::fs::OFlags;

    use super::*;
    use crate::hash::noise;

    fn open(path: &std::path::Path, flags: i32) -> io::Result<File> {
        File::options().read(true).write(true).custom_flags(flags).open(path)
    }

    #[test]
    fn what_passes_the_cache_and_what_does_not_come_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut bytes = noise(9 * BLOCK_BYTES + 12_345);
        bytes[3 * BLOCK_BYTES + 5000..5 * BLOCK_BYTES].fill(0);
        for begin in [0, 777, BLOCK_BYTES] {
            std::fs::write(&path, &bytes[..begin]).unwrap();
            let file = open(&path, 0).unwrap();
            let direct =
                open(&path, OFlags::DIRECT.bits() as i32).unwrap_or_else(|_| open(&path, 0).unwrap());
            let mut writer = Writer::start(file, direct, begin as u64).unwrap();
            for piece in bytes[begin..].chunks(130_001) {
                writer.push(piece);
            }
            assert_eq!(writer.end(), bytes.len() as u64);
            writer.finish().unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "from {begin}");
            let held = std::fs::metadata(&path).unwrap().blocks() * 512;
            assert!(held < bytes.len() as u64 - BLOCK_BYTES as u64, "the hole became {held} bytes");
        }
    }

    #[test]
    fn a_failure_is_told_in_the_end_and_nobody_waits_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let read_only = || File::open(&path).unwrap();
        let mut writer = Writer::start(read_only(), read_only(), 0).unwrap();
        writer.push(&noise(6 * BLOCK_BYTES));
        assert!(writer.finish().is_err());
    }
}
