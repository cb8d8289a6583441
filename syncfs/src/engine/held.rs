//! The contents of small files of the latest cuts, as they were read. Such a file (a reference of a git repository, say) is often
//! another one before a peer has asked for it, and a cut of which a part cannot be had is of no use to anybody.

use std::collections::{BTreeMap, VecDeque};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::hash::{Blob, ContentHash};
use crate::index::Index;
use crate::path::RelPath;
use crate::record::Content;

use super::Engine;

/// Larger files are not held.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// What is held together, in bytes.
const HELD_BYTES_MAX: usize = 2 << 20;
/// What each content takes besides its bytes, about.
const BESIDE_BYTES: usize = 200;

#[derive(Debug, Default)]
pub(super) struct Held {
    blobs: BTreeMap<ContentHash, Blob>,
    /// The oldest first.
    order: VecDeque<ContentHash>,
    bytes: usize,
}

impl Held {
    pub(super) fn get(&self, hash: &ContentHash) -> Option<Blob> {
        self.blobs.get(hash).cloned()
    }

    fn add(&mut self, blob: Blob) {
        let takes = |blob: &Blob| blob.bytes().len() + BESIDE_BYTES;
        self.bytes += takes(&blob);
        let hash = *blob.hash();
        match self.blobs.insert(hash, blob) {
            Some(same) => self.bytes -= takes(&same),
            None => self.order.push_back(hash),
        }
        while self.bytes > HELD_BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.blobs.remove(&oldest).map_or(0, |blob| takes(&blob));
        }
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Holds the content of a file that was just read, if it is small. Returns whether it is still the same.
    pub(super) fn hold_content(&mut self, path: &RelPath, content: &Content) -> Result<bool, StoreError> {
        if content.size() <= FILE_BYTES_MAX {
            for (offset, chunk) in content.placed() {
                match self.disk.read_chunk(path, offset, &chunk) {
                    Ok(Some(blob)) => self.cutting.held.add(blob),
                    Err(error) if error.is_final() => return Err(error.into()),
                    _ => return Ok(false),
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let mut held = Held::default();
        let blob = |number: u32| Blob::new(number.to_le_bytes().repeat(10_000));
        let most = (HELD_BYTES_MAX / (40_000 + BESIDE_BYTES)) as u32;
        (0..=most).for_each(|number| held.add(blob(number)));
        held.add(blob(most));
        assert!(held.get(blob(0).hash()).is_none() && held.get(blob(1).hash()).is_some());
        assert_eq!(held.get(blob(most).hash()), Some(blob(most)));
        assert_eq!((held.blobs.len(), held.order.len()), (most as usize, most as usize));
    }
}
