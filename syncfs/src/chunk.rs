//! How a content is cut into chunks: small files whole, large ones by content (FastCDC, the 2020 variant), SQLite
//! databases in fixed blocks, because their pages change in place.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use fastcdc::v2020::{FastCDC, Normalization, cut, select_masks};

use crate::hash::ContentHash;
use crate::record::{Chunk, Content};

/// The largest chunk that may ever exist, in bytes.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Up to this size, in bytes, a file is one chunk.
pub const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// How much of a content that was cut stays in memory until room is made for more, in bytes.
const BUFFER_BYTES: usize = 2 << 20;
/// What a cut depends on: so many bytes before it, and one behind it.
const WINDOW_BYTES: usize = 64;
/// The shortest chunk of zeros that is told from others, in bytes.
const ZEROS_BYTES_MIN: usize = 16 << 10;
/// The hashes of zeros, for every power of two from [`ZEROS_BYTES_MIN`] to [`CHUNK_BYTES_MAX`]: all lengths at which a long run
/// of zeros is cut.
static ZEROS: LazyLock<Vec<ContentHash>> = LazyLock::new(|| {
    let (block, mut hasher, mut length) = ([0; ZEROS_BYTES_MIN], blake3::Hasher::new(), 0);
    let lengths = (ZEROS_BYTES_MIN.ilog2()..=CHUNK_BYTES_MAX.ilog2()).map(|power| 1 << power);
    let hash = |next: usize| {
        while length < next {
            hasher.update(&block);
            length += block.len();
        }
        ContentHash::from_bytes(*hasher.finalize().as_bytes())
    };
    lengths.map(hash).collect()
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

    /// Whether a chunk ends after `length` of these bytes, of which there are as many as the longest chunk has, if none ends
    /// before; in doubt not.
    fn ends_at(self, bytes: &[u8], length: usize) -> bool {
        let Self::Defined(average) = self else { return length == self.longest() };
        let (shortest, longest) = (average / 4, average * 4);
        if length <= shortest || length >= longest {
            return length == longest;
        }
        // The hash that rolls through the content has forgotten all but these bytes. Where it does not know all of them
        // yet it may see an end that is none: then this one is in doubt.
        let from = shortest.max(length.saturating_sub(WINDOW_BYTES) & !1);
        let (strict, lax) = select_masks(average, Normalization::Level1);
        let end = cut(&bytes[..longest], from, average, longest, strict, lax, strict << 1, lax << 1).1;
        end == length
    }
}

/// Cuts a content that arrives piece by piece, holding little more than one chunk and one piece in memory.
#[derive(Debug)]
pub struct Chunker {
    cutting: Cutting,
    buffer: Vec<u8>,
    /// So much of the buffer is cut already.
    done: usize,
    chunks: Vec<Chunk>,
    before: Before,
}

/// The chunks of an earlier version, which most chunks of the next one are: to know one again, it need only be hashed.
#[derive(Debug, Default)]
struct Before {
    content: Content,
    /// Which of them is likely to come next.
    next: usize,
    /// Where each of them stands; made when one was not the likely one.
    places: BTreeMap<ContentHash, usize>,
}

impl Before {
    /// After a chunk that was not the likely one.
    fn look_for(&mut self, hash: &ContentHash) {
        if self.places.is_empty() {
            let chunks = self.content.chunks().iter().enumerate();
            self.places = chunks.map(|(place, chunk)| (chunk.hash, place)).collect();
        }
        if let Some(place) = self.places.get(hash) {
            self.next = place + 1;
        }
    }
}

impl Chunker {
    /// Begins a content.
    #[must_use]
    pub fn new(cutting: Cutting) -> Self {
        Self::after(cutting, &Content::default())
    }

    /// Begins a content that is probably much like another one, which was cut in the same way. The chunks are the same as
    /// without it.
    #[must_use]
    pub fn after(cutting: Cutting, before: &Content) -> Self {
        let before = Before { content: before.clone(), ..Before::default() };
        Self { cutting, buffer: Vec::new(), done: 0, chunks: Vec::new(), before }
    }

    /// Takes in the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.take(|buffer| buffer.extend_from_slice(bytes));
    }

    /// Takes in what `read` appends to the buffer that it is given. Returns what `read` does.
    pub fn take<T>(&mut self, read: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.done >= BUFFER_BYTES {
            self.buffer.drain(..std::mem::take(&mut self.done));
        }
        let taken = read(&mut self.buffer);
        // A cut is only certain when the longest chunk would fit: later bytes cannot move it then.
        while self.buffer.len() - self.done >= self.cutting.longest() {
            let chunk = self.known().unwrap_or_else(|| self.cut());
            self.add(chunk);
        }
        taken
    }

    /// Takes in so many zeros, without looking at most of them: chunks are the same as if they had been pushed.
    pub fn push_zeros(&mut self, mut count: u64) {
        let longest = self.cutting.longest();
        while count > 0 {
            let rest = &self.buffer[self.done..];
            // In a run of zeros content gives no reason to cut.
            if let (Some(hash), Ok(length)) = (zeros(longest), u32::try_from(longest))
                && rest.iter().all(|&byte| byte == 0)
            {
                count += rest.len() as u64;
                self.done = 0;
                self.buffer.clear();
                self.before.look_for(&hash);
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
        while self.done < self.buffer.len() {
            let chunk = self.cut();
            self.add(chunk);
        }
        Content::new(self.chunks)
    }

    fn add(&mut self, chunk: Chunk) {
        self.done += chunk.length as usize;
        self.chunks.push(chunk);
    }

    /// The next chunk, if it is the likely one of those before.
    fn known(&mut self) -> Option<Chunk> {
        let chunk = *self.before.content.chunks().get(self.before.next)?;
        let rest = &self.buffer[self.done..];
        let length = chunk.length as usize;
        let is_known = self.cutting.ends_at(rest, length) && ContentHash::of(&rest[..length]) == chunk.hash;
        is_known.then(|| {
            self.before.next += 1;
            chunk
        })
    }

    fn cut(&mut self) -> Chunk {
        let rest = &self.buffer[self.done..];
        let length = match self.cutting {
            Cutting::Whole => rest.len().min(CHUNK_BYTES_MAX),
            Cutting::Fixed(block) => rest.len().min(block),
            Cutting::Defined(average) => {
                FastCDC::new(rest, average / 4, average, average * 4).cut(0, rest.len()).1
            }
        };
        let hash = ContentHash::of(&rest[..length]);
        self.before.look_for(&hash);
        let length = u32::try_from(length).expect("no chunk is longer than CHUNK_BYTES_MAX");
        Chunk { hash, length }
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
    fn what_is_known_of_the_version_before_makes_no_difference() {
        let before = noise(6 << 20, 8);
        let zeros = vec![0; 1 << 20];
        let edits = [
            before.clone(),
            [b"x", &before[..]].concat(),
            [&before[..3 << 20], &noise(100_000, 9), &before[3 << 20..]].concat(),
            [&before[..1 << 20], &before[2 << 20..5 << 20]].concat(),
            [&before[4 << 20..], &before[..4 << 20], &before[..500_001]].concat(),
            [&before[..1 << 20], &zeros, &zeros, &zeros, &before[1 << 20..]].concat(),
            before[..5_000_001].to_vec(),
            noise(5 << 20, 10),
        ];
        for cutting in [Cutting::Whole, Cutting::Fixed(16 << 10), Cutting::Defined(64 << 10)] {
            let alone = |bytes: &[u8]| {
                let mut chunker = Chunker::new(cutting);
                chunker.push(bytes);
                chunker.finish()
            };
            let known = alone(&before);
            for (number, bytes) in edits.iter().enumerate() {
                let mut chunker = Chunker::after(cutting, &known);
                bytes.chunks(100_003).for_each(|piece| chunker.push(piece));
                assert_eq!(chunker.finish(), alone(bytes), "{cutting:?}, edit {number}");
            }
            // Whatever the list is: only what has its hash, and ends where a chunk ends, is taken from it.
            let odd =
                Content::new(before.chunks(70_000).map(|piece| content_of(piece).chunks()[0]).collect());
            let mut chunker = Chunker::after(cutting, &odd);
            chunker.push(&before);
            assert_eq!(chunker.finish(), known, "{cutting:?}");
        }
    }

    #[test]
    fn a_version_much_like_the_one_before_is_known_again_without_looking_for_its_cuts() {
        let bytes = noise(8 << 20, 11);
        let cutting = Cutting::Defined(64 << 10);
        let mut chunker = Chunker::new(cutting);
        chunker.push(&bytes);
        let before = chunker.finish();
        let mut chunker = Chunker::after(cutting, &before);
        chunker.buffer = [b"x", &bytes[..]].concat();
        let (mut known, mut cut) = (0, 0);
        while chunker.buffer.len() - chunker.done >= cutting.longest() {
            let chunk = match chunker.known() {
                Some(chunk) => (chunk, known += 1).0,
                None => (chunker.cut(), cut += 1).0,
            };
            chunker.add(chunk);
        }
        // The insert is in the first; the second says which is likely to come.
        assert!(cut <= 3 && known > 80, "{cut} looked for, {known} known again");
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
