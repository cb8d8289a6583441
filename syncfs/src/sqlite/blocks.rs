//! [`Blocks`]: what a database looked like at its last cut, 36 bytes for each 4 KiB. A block's BLAKE3 chaining value
//! merges with its neighbours' into exactly the hash of their chunk (BLAKE3 is a tree), so that a changed page costs the
//! hashing of one block and a few merges, and the chunk's hash is the plain BLAKE3 of its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::chunk::database_chunk_bytes;
use crate::hash::ContentHash;
use crate::record::{Chunk, Content};

/// Size of a block in bytes.
pub const BLOCK_BYTES: usize = 4096;
/// Cuts of which a chunk's hash is remembered, so that a peer which has one of them is sent only what changed since.
pub const BASES_MAX: usize = 16;

/// The state of a database at a cut.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    size: u64,
    values: Vec<ChainingValue>,
    /// The cut in which each block last changed.
    changed: Vec<u32>,
    chunks: Vec<Chunk>,
    /// Hashes that a chunk had before, each with the last cut that it was of; the newest last.
    before: BTreeMap<u32, Vec<(ContentHash, u32)>>,
    cut: u32,
}

/// What a cut changes: made while the files are read, and taken over only when that was proven consistent.
#[derive(Debug)]
pub struct Draft {
    size: u64,
    values: BTreeMap<u32, ChainingValue>,
}

impl Draft {
    /// The size of the image in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether this block differs from the last cut's.
    #[must_use]
    pub fn changes(&self, block: u32) -> bool {
        self.values.contains_key(&block)
    }

    /// A commit that came meanwhile changed the size; the [blocks that moved](Blocks::moved) have to be read again.
    /// `false` if with this size all blocks would be others.
    #[must_use]
    pub fn resize(&mut self, size: u64) -> bool {
        let same = database_chunk_bytes(self.size) == database_chunk_bytes(size);
        self.size = size;
        same
    }
}

impl Blocks {
    /// The content of the last cut.
    #[must_use]
    pub fn content(&self) -> Content {
        Content::new(self.chunks.clone())
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How much memory this takes, in bytes, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.values.len() * 36 + self.chunks.len() * 36
    }

    /// Whether the blocks of an image of this size can be compared with those of the last cut at all.
    #[must_use]
    pub fn fits(&self, size: u64) -> bool {
        !self.chunks.is_empty() && database_chunk_bytes(self.size) == database_chunk_bytes(size)
    }

    /// Begins the next cut, of an image of `size` bytes. Only blocks that are given to [`Blocks::read`] will differ; all
    /// must be, unless the size [fits](Blocks::fits) and it is known which changed: those, and
    /// [those that moved](Blocks::moved).
    #[must_use]
    pub fn draft(&self, size: u64) -> Draft {
        Draft { size, values: BTreeMap::new() }
    }

    /// The blocks that a change of the size alone makes different from those of a state of `before` bytes: the last one,
    /// and all from there on.
    #[must_use]
    pub fn moved(before: u64, size: u64) -> Range<u32> {
        if size == before {
            return 0..0;
        }
        let last = |size: u64| block_of(size.saturating_sub(1));
        last(before).min(last(size))..blocks_in(size)
    }

    /// Takes note of a block's bytes: [`BLOCK_BYTES`] of them, but for the last. Returns whether they differ from
    /// those of the last cut.
    pub fn read(&self, draft: &mut Draft, block: u32, bytes: &[u8]) -> bool {
        let value = value_of(draft.size, block, bytes);
        let fresh = !self.fits(draft.size) || self.values.get(block as usize) != Some(&value);
        if fresh {
            draft.values.insert(block, value);
        } else {
            draft.values.remove(&block);
        }
        fresh
    }

    /// Makes the draft the state.
    pub fn take(&mut self, draft: Draft) {
        let chunk_bytes = database_chunk_bytes(draft.size);
        if !self.fits(draft.size) {
            *self = Self { cut: self.cut, ..Self::default() };
        }
        self.cut += 1;
        let mut touched: BTreeSet<u32> = BTreeSet::new();
        if self.size != draft.size {
            let last = |size: u64| u32::try_from(size.saturating_sub(1) / chunk_bytes).unwrap_or(u32::MAX);
            touched.extend([last(self.size), last(draft.size)]);
        }
        self.size = draft.size;
        let blocks = blocks_in(draft.size) as usize;
        self.values.resize(blocks, [0; 32]);
        self.changed.resize(blocks, self.cut);
        for (block, value) in draft.values.into_iter().filter(|(block, _)| (*block as usize) < blocks) {
            self.values[block as usize] = value;
            self.changed[block as usize] = self.cut;
            touched.insert(chunk_of(block, chunk_bytes));
        }
        let chunks = usize::try_from(draft.size.div_ceil(chunk_bytes)).unwrap_or(usize::MAX);
        self.chunks.truncate(chunks);
        self.before.retain(|chunk, _| (*chunk as usize) < chunks);
        for chunk in touched.into_iter().filter(|chunk| (*chunk as usize) < chunks) {
            self.merge(chunk, chunk_bytes);
        }
    }

    /// The blocks of a chunk as of the last cut, from the chunk's offset in bytes; `None` if that is not it.
    #[must_use]
    pub fn of_chunk(&self, offset: u64, chunk: &Chunk) -> Option<Range<u32>> {
        let chunk_bytes = database_chunk_bytes(self.size);
        let number =
            usize::try_from(offset / chunk_bytes).ok().filter(|_| offset.is_multiple_of(chunk_bytes))?;
        (self.chunks.get(number)? == chunk).then(|| {
            let first = block_of(offset);
            first..first + blocks_in(u64::from(chunk.length))
        })
    }

    /// Those of them that changed since the chunk had the hash `basis`, if that is remembered.
    #[must_use]
    pub fn since(&self, offset: u64, chunk: &Chunk, basis: &ContentHash) -> Option<Vec<u32>> {
        let mut blocks = self.of_chunk(offset, chunk)?;
        let number = chunk_of(blocks.start, database_chunk_bytes(self.size));
        let (_, last) = self.before.get(&number)?.iter().rev().find(|(hash, _)| hash == basis)?;
        let changed = |block: &u32| self.changed.get(*block as usize).is_some_and(|cut| cut > last);
        Some(blocks.by_ref().filter(changed).collect())
    }

    /// Whether these are a block's bytes as of the last cut.
    #[must_use]
    pub fn is_current(&self, block: u32, bytes: &[u8]) -> bool {
        bytes.len() == self.block_bytes(block)
            && self.values.get(block as usize) == Some(&value_of(self.size, block, bytes))
    }

    /// How long a block is in bytes; 0 behind the end.
    #[must_use]
    pub fn block_bytes(&self, block: u32) -> usize {
        block_bytes(self.size, block)
    }

    fn merge(&mut self, number: u32, chunk_bytes: u64) {
        let offset = u64::from(number) * chunk_bytes;
        let length = chunk_bytes.min(self.size - offset);
        let values = &self.values[block_of(offset) as usize..][..blocks_in(length) as usize];
        let hash = match values {
            [alone] => *alone,
            _ => {
                let left = left_subtree_len(length);
                let (left_values, right_values) = values.split_at(blocks_in(left) as usize);
                let (left, right) = (merge(left_values, left), merge(right_values, length - left));
                *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
            }
        };
        let length = u32::try_from(length).expect("no chunk is longer than CHUNK_BYTES_MAX");
        let chunk = Chunk { hash: ContentHash::from_bytes(hash), length };
        match self.chunks.get_mut(number as usize) {
            Some(stands) if *stands == chunk => {}
            Some(stands) => {
                let before = self.before.entry(number).or_default();
                if before.len() == BASES_MAX {
                    before.remove(0);
                }
                before.push((stands.hash, self.cut - 1));
                *stands = chunk;
            }
            None => self.chunks.push(chunk),
        }
    }
}

/// The block that holds this byte.
#[must_use]
pub fn block_of(offset: u64) -> u32 {
    u32::try_from(offset / BLOCK_BYTES as u64)
        .expect("a database has at most 2^32 pages of 64 KiB, read in 2^32 blocks")
}

/// How many blocks this many bytes have.
#[must_use]
pub fn blocks_in(size: u64) -> u32 {
    block_of(size.next_multiple_of(BLOCK_BYTES as u64))
}

/// How long a block of an image of `size` bytes is.
#[must_use]
pub fn block_bytes(size: u64, block: u32) -> usize {
    let rest = size.saturating_sub(u64::from(block) * BLOCK_BYTES as u64);
    rest.min(BLOCK_BYTES as u64) as usize
}

fn chunk_of(block: u32, chunk_bytes: u64) -> u32 {
    (u64::from(block) * BLOCK_BYTES as u64 / chunk_bytes) as u32
}

/// The chaining value of a block at its place in its chunk; of one that is a chunk by itself, the hash.
fn value_of(size: u64, block: u32, bytes: &[u8]) -> ChainingValue {
    let chunk_bytes = database_chunk_bytes(size);
    let offset = u64::from(block) * BLOCK_BYTES as u64;
    let within = offset % chunk_bytes;
    if within == 0 && size - offset <= BLOCK_BYTES as u64 {
        return *blake3::hash(bytes).as_bytes();
    }
    blake3::Hasher::new().set_input_offset(within).update(bytes).finalize_non_root()
}

fn merge(values: &[ChainingValue], length: u64) -> ChainingValue {
    match values {
        [one] => *one,
        _ => {
            let left = left_subtree_len(length);
            let (left_values, right_values) = values.split_at(blocks_in(left) as usize);
            merge_subtrees_non_root(
                &merge(left_values, left),
                &merge(right_values, length - left),
                Mode::Hash,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{SQLITE_MAGIC, content_of};

    fn image(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(length)
        .collect();
        bytes[..16].copy_from_slice(SQLITE_MAGIC);
        bytes
    }

    fn block(bytes: &[u8], block: u32) -> &[u8] {
        &bytes[block as usize * BLOCK_BYTES..][..block_bytes(bytes.len() as u64, block)]
    }

    fn whole(bytes: &[u8]) -> Blocks {
        let mut blocks = Blocks::default();
        let mut draft = blocks.draft(bytes.len() as u64);
        (0..blocks_in(bytes.len() as u64)).for_each(|n| assert!(blocks.read(&mut draft, n, block(bytes, n))));
        blocks.take(draft);
        blocks
    }

    #[test]
    fn chunks_are_those_of_an_ordinary_reading() {
        for length in [512, 4096, 4608, 16_384, 16_896, 20_480, 300_000, 17 << 20, (17 << 20) + 512] {
            let bytes = image(length, length as u64);
            assert_eq!(whole(&bytes).content(), content_of(&bytes), "{length}");
        }
    }

    #[test]
    fn changed_blocks_give_the_chunks_of_the_whole_image_as_it_grows_and_shrinks() {
        let mut bytes = image(1 << 20, 5);
        let mut blocks = whole(&bytes);
        for (step, length) in [
            1 << 20,
            (1 << 20) + 512,
            1_100_000,
            1_100_800,
            909_312,
            900_096,
            900_096,
            16_384,
            16_896,
            20_480,
            512,
        ]
        .into_iter()
        .enumerate()
        {
            let before = bytes.len() as u64;
            bytes.resize(length, step as u8);
            let at = (step * 77_777 + 100) % length;
            bytes[at] ^= 1;
            let mut draft = blocks.draft(length as u64);
            let mut touched: BTreeSet<u32> = Blocks::moved(before, length as u64).collect();
            touched.insert(block_of(at as u64));
            for n in touched {
                blocks.read(&mut draft, n, block(&bytes, n));
            }
            blocks.take(draft);
            assert_eq!(blocks.content(), content_of(&bytes), "step {step}");
        }
    }

    #[test]
    fn what_changed_since_a_remembered_hash_is_known() {
        let mut bytes = image(100_000, 9);
        let mut blocks = whole(&bytes);
        let first = blocks.content().chunks()[1];
        for n in 0..=BASES_MAX {
            bytes[16_384 + (n % 3) * BLOCK_BYTES] ^= 1 + n as u8;
            let touched = 4 + (n % 3) as u32;
            let mut draft = blocks.draft(100_000);
            assert!(blocks.read(&mut draft, touched, block(&bytes, touched)));
            blocks.take(draft);
            let now = blocks.content().chunks()[1];
            let since = blocks.since(16_384, &now, &first.hash);
            let expected: Vec<u32> = (4..5 + n.min(2) as u32).collect();
            // One more than are remembered: the first is forgotten.
            assert_eq!(since, (n < BASES_MAX).then_some(expected), "{n}");
            assert_eq!(blocks.since(0, &now, &first.hash), None, "another chunk");
            assert_eq!(blocks.since(16_384, &first, &first.hash), None, "not the current one");
            assert!(blocks.is_current(touched, block(&bytes, touched)));
            assert!(!blocks.is_current(touched + 4, block(&bytes, touched)));
        }
    }
}
