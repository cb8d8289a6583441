//! [`ContentHash`]: the name of a chunk and of a whole content, BLAKE3, 32 bytes. [`Blob`]: bytes under their true name.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The BLAKE3 hash of some bytes. Equal hashes are taken as equal bytes everywhere in this crate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes 32 bytes that already are a hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The bytes of a chunk, together with their hash, which only hashing them can have given.
#[derive(Clone)]
pub struct Blob {
    hash: ContentHash,
    /// They, and what they came with.
    frame: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Blob {
    /// Hashes `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::within(&Arc::new(bytes), range)
    }

    /// Hashes this part of `frame`, which stays as long as it does.
    pub(crate) fn within(frame: &Arc<Vec<u8>>, range: Range<usize>) -> Self {
        Self { hash: ContentHash::of(&frame[range.clone()]), frame: Arc::clone(frame), range }
    }

    /// `bytes`, if they are what `hash` names.
    #[must_use]
    pub fn named(bytes: Vec<u8>, hash: &ContentHash) -> Option<Self> {
        let blob = Self::new(bytes);
        (blob.hash == *hash).then_some(blob)
    }

    /// Their hash.
    #[must_use]
    pub const fn hash(&self) -> &ContentHash {
        &self.hash
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.frame[self.range.clone()]
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Blob {}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} bytes)", self.hash, self.bytes().len())
    }
}

/// Bytes without any pattern, always the same.
#[cfg(all(test, feature = "driver"))]
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut noise = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}
