//! Where the newest bytes of each changed block stand in a log. The latest of them are in memory; when those are too many, they go
//! to a file without a name, so that a database of any size costs no more memory. That file is never synced: the log's
//! footers say the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::super::database::read_up_to;
use super::super::tree::failed;
use crate::disk::DiskError;

/// Blocks in memory before they go to the file: about 10 MiB, for 1 GiB of changed pages.
pub(super) const RECENT_MAX: usize = 1 << 18;
/// What the file has for each block of the image, in their order.
const SLOT_BYTES: usize = 8;
/// Bits of a slot for the length of the block; its place has the others. A slot of zero is of no block.
const LENGTH_BITS: u32 = 13;
/// Slots that are read at once.
const PAGE_SLOTS: u32 = 8192;
/// The name that the file has for a moment. What a crash leaves of it is swept away with logs that nobody knows.
const NAME: &str = "places";

/// Where the bytes of a block stand, and how many they are.
pub(super) type Place = (u64, u32);

#[derive(Debug)]
pub(super) struct Places {
    recent: BTreeMap<u32, Place>,
    recent_max: usize,
    older: Option<File>,
}

impl Places {
    pub(super) fn new(recent_max: usize) -> Self {
        Self { recent: BTreeMap::new(), recent_max, older: None }
    }

    /// The newest bytes of a block stand there; `dir` is where the file is made.
    pub(super) fn insert(&mut self, dir: &OwnedFd, block: u32, place: Place) -> Result<(), DiskError> {
        self.recent.insert(block, place);
        if self.recent.len() > self.recent_max { self.spill(dir) } else { Ok(()) }
    }

    /// Takes over what is newer.
    pub(super) fn absorb(&mut self, dir: &OwnedFd, newer: Self) -> Result<(), DiskError> {
        if let Some(file) = &newer.older {
            let length =
                file.metadata().map_err(|error| failed("read the places of a delta log", error))?.len();
            let count = u32::try_from(length / SLOT_BYTES as u64).expect("blocks have numbers of 32 bits");
            for first in (0..count).step_by(PAGE_SLOTS as usize) {
                for (block, place) in slots(file, first, first.saturating_add(PAGE_SLOTS).min(count))? {
                    self.insert(dir, block, place)?;
                }
            }
        }
        newer.recent.into_iter().try_for_each(|(block, place)| self.insert(dir, block, place))
    }

    /// The blocks from `first` to before `end` that the log has, in their order.
    pub(super) fn among(&self, first: u32, end: u32) -> Result<Vec<(u32, Place)>, DiskError> {
        let recent = self.recent.range(first..end).map(|(block, place)| (*block, *place));
        let Some(file) = &self.older else { return Ok(recent.collect()) };
        let mut all: BTreeMap<_, _> = slots(file, first, end)?.into_iter().collect();
        all.extend(recent);
        Ok(all.into_iter().collect())
    }

    fn spill(&mut self, dir: &OwnedFd) -> Result<(), DiskError> {
        let file = match &mut self.older {
            Some(file) => file,
            none => none.insert(nameless(dir)?),
        };
        let mut run: Vec<u8> = Vec::new();
        let mut first = 0;
        let mut blocks = self.recent.iter().peekable();
        while let Some((&block, &(at, length))) = blocks.next() {
            if run.is_empty() {
                first = block;
            }
            run.extend_from_slice(&(at << LENGTH_BITS | u64::from(length)).to_le_bytes());
            let goes_on = blocks.peek().is_some_and(|(next, _)| **next == block + 1);
            if !goes_on || run.len() >= PAGE_SLOTS as usize * SLOT_BYTES {
                let write = file.write_all_at(&run, u64::from(first) * SLOT_BYTES as u64);
                write.map_err(|error| failed("write the places of a delta log", error))?;
                run.clear();
            }
        }
        self.recent.clear();
        Ok(())
    }
}

fn slots(file: &File, first: u32, end: u32) -> Result<Vec<(u32, Place)>, DiskError> {
    let mut bytes = vec![0; (end - first) as usize * SLOT_BYTES];
    read_up_to(file, u64::from(first) * SLOT_BYTES as u64, &mut bytes)?;
    let slots = (first..end).zip(bytes.as_chunks::<SLOT_BYTES>().0);
    let slots = slots.map(|(block, slot)| (block, u64::from_le_bytes(*slot))).filter(|(_, slot)| *slot > 0);
    let place = |slot: u64| (slot >> LENGTH_BITS, (slot & ((1 << LENGTH_BITS) - 1)) as u32);
    Ok(slots.map(|(block, slot)| (block, place(slot))).collect())
}

fn nameless(dir: &OwnedFd) -> Result<File, DiskError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(dir, NAME, flags, Mode::from_raw_mode(0o600));
    let file = file.map_err(|error| failed("create the places of a delta log", error))?;
    unlinkat(dir, NAME, AtFlags::empty())
        .map_err(|error| failed("create the places of a delta log", error))?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_same_however_few_are_in_memory() {
        let home = tempfile::tempdir().unwrap();
        let dir = OwnedFd::from(File::open(home.path()).unwrap());
        let (mut few, mut all) = (Places::new(5), BTreeMap::new());
        let mut seed = 1_u32;
        for round in 0..20_u64 {
            let mut version = Places::new(3);
            for n in 0..round {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Some follow one another, some are far apart, and the last block of an image may be short.
                let block = (seed >> 24) % 40 + if n % 5 == 0 { 9000 } else { 0 };
                let place = (16 + (round * 100 + n) * 4096, if n == 3 { 1 } else { 4096 });
                version.insert(&dir, block, place).unwrap();
                all.insert(block, place);
            }
            few.absorb(&dir, version).unwrap();
            assert!(few.recent.len() <= 5);
            for (first, end) in [(0, 64), (10, 20), (8990, 9100), (0, 1), (1 << 20, 1 << 21)] {
                let expected: Vec<_> = all.range(first..end).map(|(block, place)| (*block, *place)).collect();
                assert_eq!(few.among(first, end).unwrap(), expected, "{round}: {first}..{end}");
            }
        }
        assert!(few.older.is_some());
        assert_eq!(home.path().read_dir().unwrap().count(), 0, "it has no name");
    }
}
