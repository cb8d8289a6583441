//! New versions of large files, told to a peer as what differs from the version that it has: a list of all chunks is
//! often longer than what changed.
//!
//! As with a move, this only abbreviates: a peer that has another version asks for it in full.

use std::collections::VecDeque;

use crate::disk::Disk;
use crate::error::{StoreError, Violation};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::record::{Content, Kind, Record};
use crate::wire::Edited;

use super::{Engine, SessionId};

/// Replaced chunk lists remembered for peers that have not heard of their successors yet; after older ones, a version is
/// told in full.
pub const EDITS_KEPT_MAX: usize = 8;
/// Shorter lists are told in full.
const CHUNKS_MIN: usize = 64;

/// The latest edits.
#[derive(Debug, Default)]
pub(super) struct Edits(VecDeque<Made>);

#[derive(Debug)]
struct Made {
    path: RelPath,
    sequence: u64,
    /// What stood there before.
    basis: Content,
    /// Who has everything of ours up to here has that.
    needs: u64,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// A record is about to take the place of what the index has.
    pub(super) fn remember_edit(&mut self, record: &Record, sequence: u64) -> Result<(), StoreError> {
        if long_content(record).is_none() {
            return Ok(());
        }
        let before = self.index.entry(&record.path)?.filter(|before| !before.stale);
        if let Some((before, basis)) = before.and_then(|before| {
            let basis = long_content(&before.record)?.clone();
            Some((before, basis))
        }) {
            self.edits.0.truncate(EDITS_KEPT_MAX - 1);
            let path = record.path.clone();
            self.edits.0.push_front(Made { path, sequence, basis, needs: before.sequence });
        }
        Ok(())
    }

    /// The first of these entries, by its number, that the peer can be told of as an edit.
    pub(super) fn next_edit(
        &mut self,
        id: SessionId,
        entries: &[Entry],
    ) -> Result<Option<(usize, Edited)>, StoreError> {
        let session = self.sessions.get(&id).expect("the caller checked the session");
        let Some(peer) = session.peer.filter(|_| !session.wants_full() && !self.edits.0.is_empty()) else {
            return Ok(None);
        };
        let state = self.index.peer(&peer)?;
        let acked = if state.ours == Some(self.meta.index) { state.acked } else { 0 };
        for (number, entry) in entries.iter().enumerate() {
            let made = self.edits.0.iter().find(|made| made.sequence == entry.sequence);
            let usable = made.filter(|made| made.needs <= acked && made.path == entry.record.path);
            if let Some(made) = usable.filter(|_| !entry.stale && !session.peer_covers(&entry.record.version))
                && let Some(edited) = in_short(entry, &made.basis)
            {
                return Ok(Some((number, edited)));
            }
        }
        Ok(None)
    }

    /// A peer edited something. If this replica has what it was, the version is whole again; else it is asked for in full.
    pub(super) fn edited(&mut self, id: SessionId, round: u64, edited: Edited) -> Result<(), StoreError> {
        let session = self.sessions.get_mut(&id).expect("the caller checked the session");
        if !session.is_round(round) {
            return Ok(());
        }
        if !session.take_through(edited.sequence, edited.sequence) {
            session.fail(Violation::Record("sequences do not grow"));
            return Ok(());
        }
        let entry = self.index.entry(&edited.record.path)?.filter(|entry| !entry.stale);
        let basis = entry.as_ref().and_then(|entry| entry.record.kind.content());
        let sequence = edited.sequence;
        match basis.and_then(|basis| whole(edited, basis)) {
            Some(record) => self.offered(id, sequence, record),
            None => self.ask_full(id),
        }
    }
}

fn long_content(record: &Record) -> Option<&Content> {
    record.kind.content().filter(|content| content.chunks().len() >= CHUNKS_MIN)
}

/// `None` if nothing is spared.
fn in_short(entry: &Entry, basis: &Content) -> Option<Edited> {
    let mut record = entry.record.clone();
    let Kind::File { content, .. } = &mut record.kind else { return None };
    let (old, new) = (basis.chunks(), content.chunks());
    let first = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let ends = old[first..].iter().rev().zip(new[first..].iter().rev());
    let last = ends.take_while(|(old, new)| old == new).count();
    if first + last == 0 {
        return None;
    }
    let (begin, end) = (u32::try_from(first).ok()?, u32::try_from(last).ok()?);
    *content = Content::new(new[first..new.len() - last].to_vec());
    Some(Edited { sequence: entry.sequence, record, basis: basis.root(), first: begin, last: end })
}

/// The record with all its chunks, if `basis` is what it is about.
fn whole(edited: Edited, basis: &Content) -> Option<Record> {
    let Edited { mut record, first, last, .. } = edited;
    let Kind::File { content, .. } = &mut record.kind else { return None };
    let chunks = basis.chunks();
    let (begin, end) = (chunks.get(..first as usize)?, chunks.len().checked_sub(last as usize)?);
    if basis.root() != edited.basis || end < begin.len() {
        return None;
    }
    *content = Content::new([begin, content.chunks(), &chunks[end..]].concat());
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceId;
    use crate::hash::ContentHash;
    use crate::record::{Attributes, Chunk};

    fn content(names: &[u8]) -> Content {
        Content::new(names.iter().map(|name| Chunk { hash: ContentHash::of(&[*name]), length: 9 }).collect())
    }

    fn entry(names: &[u8]) -> Entry {
        let by = DeviceId::from_bytes([9; 32]);
        let attributes = Attributes::of_mode(0o644);
        let kind = Kind::File { attributes, mtime_ns: 1, content: content(names), link: None };
        let path = RelPath::new("large").unwrap();
        let record = Record { path, kind, version: [(by, 7)].into_iter().collect(), by, epoch: 0 };
        Entry { record, sequence: 7, seen: None, stale: false, behind: None }
    }

    #[test]
    fn an_edit_says_what_is_new_and_is_whole_again_where_its_basis_stands() {
        for (old, new, told) in [
            (&b"abcdef"[..], &b"abxdef"[..], 1),
            (b"abcdef", b"xyabcdef", 2),
            (b"abcdef", b"abcdefx", 1),
            (b"abcdef", b"abef", 0),
            (b"aaaa", b"aaaaaa", 2),
            (b"aaaa", b"aa", 0),
            (b"abc", b"abc", 0),
        ] {
            let entry = entry(new);
            let edited = in_short(&entry, &content(old)).unwrap();
            assert_eq!(edited.record.kind.content().unwrap().chunks().len(), told, "{old:?} {new:?}");
            assert_eq!(whole(edited.clone(), &content(old)), Some(entry.record));
            assert_eq!(whole(edited.clone(), &content(b"other")), None);
            for (first, last) in [(u32::MAX, 0), (0, u32::MAX), (4, 4)] {
                assert_eq!(whole(Edited { first, last, ..edited.clone() }, &content(&old[..3])), None);
            }
        }
        assert_eq!(in_short(&entry(b"abc"), &content(b"xyz")), None);
    }
}
