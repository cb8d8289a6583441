//! What of a replica is known to be consistent: which paths are *loose* in what stands here (see [`crate::cutting`]).
//!
//! It is a fact about one state of the folder: a complete batch of records brings the one that its sender has, and what is
//! loose in it. Between two of them, whatever arrives is loose, unless it is cut as one.

use crate::chunk::database_chunk_bytes;
use crate::cutting::{Consistency, Loose};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::index::Index;
use crate::record::{Content, Record};

use super::Engine;

impl<D: Disk, I: Index> Engine<D, I> {
    /// Whether what stands here is a state that an application can start from.
    #[must_use]
    pub fn consistency(&self) -> Consistency {
        let mark = &self.meta.cuts.mark;
        let nothing = self.meta.sequence == self.meta.base && self.meta.knowledge.is_empty();
        if nothing || self.awaits_peers() || !mark.seen.iter().all(|(device, _)| self.known(device) > 0) {
            return Consistency::Incomplete;
        }
        match mark.loose.is_empty() {
            true => Consistency::Known,
            false => Consistency::Unknown {
                paths: mark.loose.iter().cloned().collect(),
                more: mark.loose.has_more(),
            },
        }
    }

    /// Nothing has the folder open, and all of it is taken up: what stands here is consistent. A replica that follows
    /// cannot say so of what others wrote.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn seal_folder(&mut self) -> Result<(), StoreError> {
        if !self.is_undoing() && !self.meta.cuts.mark.loose.is_empty() {
            // Under a sequence of its own, so that peers hear of it.
            let sequence = self.next_sequence();
            let mark = &mut self.meta.cuts.mark;
            mark.loose = Loose::default();
            mark.see(&[(self.meta.device, sequence)].into_iter().collect());
        }
        self.commit()
    }

    /// Another version of a path stands here.
    pub(super) fn note_change(&mut self, record: &Record) -> Result<(), StoreError> {
        let path = &record.path;
        let before = self.index.entry(path)?;
        let cut = match record.by == self.meta.device {
            true => self.cutting.last_cut.as_ref() == Some(path),
            false => record.kind.content().is_some_and(is_like_database),
        };
        let mark = &mut self.meta.cuts.mark;
        mark.see(&record.version);
        if cut && !self.cutting.is_stopped(path) || self.meta.cuts.groups.of(path).is_some() {
            mark.loose.remove(path);
        } else if record.kind.is_dir()
            || !record.kind.is_live() && before.is_some_and(|before| before.record.kind.is_dir())
        {
            // It holds nothing by itself.
        } else {
            mark.loose.insert(path.clone());
        }
        Ok(())
    }
}

/// Whether a content is cut as only those of databases are.
fn is_like_database(content: &Content) -> bool {
    let even = database_chunk_bytes(content.size());
    let Some((last, chunks)) = content.chunks().split_last() else { return false };
    !chunks.is_empty()
        && u64::from(last.length) <= even
        && chunks.iter().all(|chunk| u64::from(chunk.length) == even)
}
