//! How a content is cut into chunks: small files whole, large ones by content (FastCDC, the 2020 variant), SQLite
//! databases in fixed blocks, because their pages change in place.

use std::sync::LazyLock;

use fastcdc::v2020::FastCDC;

use crate::hash::ContentHash;
use crate::record::{Chunk, Content};

/// The largest chunk that may ever exist, in bytes.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Up to this size, in bytes, a file is one chunk.
pub const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// The shortest chunk of zeros that is told from others, in bytes.
const ZEROS_BYTES_MIN: usize = 16 << 10;
/// The hashes of zeros, for every power of two from [`ZEROS_BYTES_MIN`] to [`CHUNK_BYTES_MAX`]: all lengths at which a long run
/// of zeros is cut.
static ZEROS: LazyLock<Vec<ContentHash>> = LazyLock::new(|| {
    let zeros = vec![0; CHUNK_BYTES_MAX];
    let lengths = (ZEROS_BYTES_MIN.ilog2()..=CHUNK_BYTES_MAX.ilog2()).map(|power| 1 << power);
    lengths.map(|length: usize| ContentHash::of(&zeros[..length])).collect()
});

/// The hash of this many zeros, for the lengths at which a long run of them is cut.
fn zeros(length: usize) -> Option<ContentHash> {
    let power = length.is_power_of_two().then(|| length.ilog2().checked_sub(ZEROS_BYTES_MIN.ilog2()))??;
    ZEROS.get(power as usize).copied()
}

/// Whether a chunk is of a long run of zeros, such as a hole in a file.
#[must_use]
pub fn is_zeros(chunk: &Chunk) -> bool {
    zeros(chunk.length as usize) == Some(chunk.hash)
}

/// How a SQLite database begins.
pub const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The size of a database's chunks in bytes: about a thousand of them, so that the list which every cut sends stays short
/// (36 KB), and at least 16 KiB.
#[must_use]
pub const fn database_chunk_bytes(size: u64) -> u64 {
    let even = size.div_ceil(1024).next_power_of_two();
    if even < 16 << 10 {
        16 << 10
    } else if even > CHUNK_BYTES_MAX as u64 {
        CHUNK_BYTES_MAX as u64
    } else {
        even
    }
}

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cutting {
    /// One chunk.
    Whole,
    /// By content, with this average size in bytes.
    Defined(usize),
    /// Blocks of this size in bytes, a multiple of every SQLite page size up to it.
    Fixed(usize),
}

impl Cutting {
    /// Chooses by size and by the first bytes of the file. Chunks grow with the file, so that the list of a large
    /// one stays in bounds.
    #[must_use]
    pub fn choose(size: u64, head: &[u8]) -> Self {
        let mebibyte = 1 << 20;
        if head.starts_with(SQLITE_MAGIC) {
            return Self::Fixed(database_chunk_bytes(size) as usize);
        }
        match size {
            0..=WHOLE_BYTES_MAX => Self::Whole,
            _ if size < 64 * mebibyte => Self::Defined(64 << 10),
            _ if size < 2048 * mebibyte => Self::Defined(128 << 10),
            _ => Self::Defined(1 << 20),
        }
    }

    /// The largest chunk that this way of cutting makes, in bytes.
    const fn longest(self) -> usize {
        match self {
            Self::Whole => CHUNK_BYTES_MAX,
            Self::Defined(average) => average * 4,
            Self::Fixed(block) => block,
        }
    }
}

/// Cuts a content that arrives piece by piece, holding at most one chunk and one piece in memory.
#[derive(Debug)]
pub struct Chunker {
    cutting: Cutting,
    buffer: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl Chunker {
    /// Begins a content.
    #[must_use]
    pub fn new(cutting: Cutting) -> Self {
        Self { cutting, buffer: Vec::new(), chunks: Vec::new() }
    }

    /// Takes in the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        // A cut is only certain when the longest chunk would fit: later bytes cannot move it then.
        while self.buffer.len() - start >= self.cutting.longest() {
            start += self.cut(start);
        }
        self.buffer.drain(..start);
    }

    /// Takes in so many zeros, without looking at most of them: chunks are the same as if they had been pushed.
    pub fn push_zeros(&mut self, mut count: u64) {
        let longest = self.cutting.longest();
        while count > 0 {
            // In a run of zeros content gives no reason to cut.
            if let (Some(hash), Ok(length)) = (zeros(longest), u32::try_from(longest))
                && self.buffer.iter().all(|&byte| byte == 0)
            {
                count += self.buffer.len() as u64;
                self.buffer.clear();
                while count >= longest as u64 {
                    self.chunks.push(Chunk { hash, length });
                    count -= longest as u64;
                }
                return self.buffer.resize(count as usize, 0);
            }
            let piece = count.min(longest as u64);
            self.push(&vec![0; piece as usize]);
            count -= piece;
        }
    }

    /// The content of everything pushed.
    #[must_use]
    pub fn finish(mut self) -> Content {
        let mut start = 0;
        while start < self.buffer.len() {
            start += self.cut(start);
        }
        Content::new(self.chunks)
    }

    fn cut(&mut self, start: usize) -> usize {
        let rest = &self.buffer[start..];
        let length = match self.cutting {
            Cutting::Whole => rest.len().min(CHUNK_BYTES_MAX),
            Cutting::Fixed(block) => rest.len().min(block),
            Cutting::Defined(average) => {
                FastCDC::new(rest, average / 4, average, average * 4).cut(0, rest.len()).1
            }
        };
        let bytes = &rest[..length];
        let length_field = u32::try_from(length).expect("no chunk is longer than CHUNK_BYTES_MAX");
        self.chunks.push(Chunk { hash: ContentHash::of(bytes), length: length_field });
        length
    }
}

/// Cuts a content that is in memory.
#[must_use]
pub fn content_of(bytes: &[u8]) -> Content {
    let mut chunker = Chunker::new(Cutting::choose(bytes.len() as u64, bytes));
    chunker.push(bytes);
    chunker.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn noise(length: usize, mut seed: u64) -> Vec<u8> {
        std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        })
        .take(length)
        .collect()
    }

    #[test]
    fn pieces_make_no_difference() {
        let bytes = noise(900_000, 1);
        for cutting in [Cutting::Whole, Cutting::Fixed(4096), Cutting::Defined(64 << 10)] {
            let whole = {
                let mut chunker = Chunker::new(cutting);
                chunker.push(&bytes);
                chunker.finish()
            };
            let mut chunker = Chunker::new(cutting);
            bytes.chunks(7919).for_each(|piece| chunker.push(piece));
            assert_eq!(chunker.finish(), whole, "{cutting:?}");
            assert_eq!(whole.size(), 900_000);
        }
    }

    #[test]
    fn zeros_that_are_not_looked_at_make_no_difference() {
        let (before, after) = (noise(100_001, 5), noise(70_000, 6));
        for cutting in [Cutting::Fixed(16 << 10), Cutting::Defined(64 << 10), Cutting::Defined(1 << 20)] {
            for count in [1, 5000, 300_000, 9 << 20] {
                let (mut looked, mut skipped) = (Chunker::new(cutting), Chunker::new(cutting));
                for chunker in [&mut looked, &mut skipped] {
                    chunker.push(&before);
                }
                looked.push(&vec![0; count]);
                skipped.push_zeros(count as u64);
                for chunker in [&mut looked, &mut skipped] {
                    chunker.push(&after);
                }
                let content = skipped.finish();
                assert_eq!(looked.finish(), content, "{cutting:?}, {count}");
                let zeros = content.chunks().iter().filter(|chunk| is_zeros(chunk)).count();
                assert!(count < 9 << 20 || zeros > 0, "{cutting:?}: no chunk is known to be zeros");
            }
        }
    }

    #[test]
    fn an_insert_at_the_front_changes_few_chunks() {
        let bytes = noise(4 << 20, 2);
        let before = content_of(&bytes);
        let after = content_of(&[b"x", &bytes[..]].concat());
        let known: BTreeSet<_> = before.chunks().iter().map(|chunk| chunk.hash).collect();
        let fresh = after.chunks().iter().filter(|chunk| !known.contains(&chunk.hash)).count();
        assert!(fresh <= 3, "{fresh} of {} chunks are new", after.chunks().len());
    }

    #[test]
    fn one_page_of_a_database_changes_one_chunk() {
        let mut bytes = [&SQLITE_MAGIC[..], &noise(1 << 20, 3)].concat();
        let before = content_of(&bytes);
        bytes[500_000] ^= 1;
        let after = content_of(&bytes);
        let changed = before.chunks().iter().zip(after.chunks()).filter(|(a, b)| a != b).count();
        assert_eq!(changed, 1);
    }

    #[test]
    fn small_files_are_one_chunk_and_empty_ones_none() {
        assert_eq!(content_of(&noise(64 << 10, 4)).chunks().len(), 1);
        assert!(content_of(&noise((64 << 10) + 1, 4)).chunks().len() <= 5);
        assert!(content_of(b"").chunks().is_empty());
    }
}
