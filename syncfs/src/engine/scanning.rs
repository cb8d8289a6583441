//! The walk of a whole folder beside its index, both in path order: what stands as the index has seen it costs one
//! comparison, and only the rest is ever in memory as a whole.

use std::cmp::Ordering;

use crate::disk::{Disk, FileKind, Stat};
use crate::error::StoreError;
use crate::index::{Entry, Index, IndexError};
use crate::path::RelPath;
use crate::status::ScanReport;

use super::Engine;

/// Entries of the index that are in memory at once.
const PAGE: usize = 1000;
/// Entries that are taken up and committed at once where the index knows of none.
const FIRST_AT_ONCE: usize = 20_000;

/// A path, and the fingerprint of what stands there.
type Standing = (RelPath, Stat);

/// What a walk came to.
pub(super) struct Compared {
    /// What is in the index and was not found, in path order.
    pub(super) gone: Vec<RelPath>,
    /// What was taken up.
    pub(super) found: Vec<Standing>,
    /// Directories that could not be read; `None` is the folder itself.
    pub(super) unread: Vec<Option<RelPath>>,
}

/// An entry of a directory; or, without a fingerprint, what is in it.
struct Step {
    path: RelPath,
    stat: Option<Stat>,
}

impl Step {
    /// As whole paths are ordered: what is in `a` comes as `a/`, behind `a-b`.
    fn order(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.path.as_bytes().iter().copied().chain(self.stat.is_none().then_some(b'/'))
    }
}

/// The index, page by page.
struct Known {
    page: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    after: Option<RelPath>,
    ended: bool,
}

impl Known {
    fn new() -> Self {
        Self { page: Vec::new().into_iter().peekable(), after: None, ended: false }
    }

    /// The next entry, if it comes no later than `path`; any for `None`.
    fn next(&mut self, index: &impl Index, path: Option<&RelPath>) -> Result<Option<Entry>, IndexError> {
        if self.page.peek().is_none() && !self.ended {
            let page = index.page(self.after.as_ref(), PAGE)?;
            self.ended = page.len() < PAGE;
            self.after = page.last().map(|last| last.record.path.clone());
            self.page = page.into_iter().peekable();
        }
        Ok(self.page.next_if(|entry| path.is_none_or(|path| entry.record.path <= *path)))
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Takes up what stands in the folder and is not as the index has seen it.
    pub(super) fn compare(&mut self, report: &mut ScanReport) -> Result<Compared, StoreError> {
        let (mut gone, mut unread) = (Vec::new(), Vec::new());
        let (mut suspects, mut known) = (Vec::new(), Known::new());
        // Nothing was moved here or is missing, so nothing has to be kept until all is known: a million files need no memory.
        let is_first = self.index.page(None, 1)?.is_empty();
        let mut linked = Vec::new();
        let mut lose = |entry: Entry, unread: &[Option<RelPath>]| {
            let path = entry.record.path;
            let hidden = unread.iter().any(|dir| dir.as_ref().is_none_or(|dir| path.is_below(dir)));
            if entry.record.kind.is_live() && !hidden {
                gone.push(path);
            }
        };
        let mut steps = self.steps_in(None, &mut unread)?;
        while let Some(Step { path, stat }) = steps.pop() {
            let Some(stat) = stat else {
                steps.extend(self.steps_in(Some(&path), &mut unread)?);
                continue;
            };
            report.seen += 1;
            let mut same = false;
            while let Some(entry) = known.next(&self.index, Some(&path))? {
                match entry.record.path == path {
                    true => same = entry.is_seen(&stat),
                    false => lose(entry, &unread),
                }
            }
            if is_first && stat.kind == FileKind::File && stat.nlink > 1 {
                // Names of one file are taken up together.
                linked.push((path, stat));
            } else if !same {
                suspects.push((path, stat));
            }
            if is_first && suspects.len() >= FIRST_AT_ONCE {
                self.take_up(&suspects, report)?;
                self.commit()?;
                suspects.clear();
            }
        }
        suspects.append(&mut linked);
        while let Some(entry) = known.next(&self.index, None)? {
            lose(entry, &unread);
        }
        self.take_up(&suspects, report)?;
        Ok(Compared { gone, found: suspects, unread })
    }

    /// What a directory holds, the last first.
    fn steps_in(
        &mut self,
        dir: Option<&RelPath>,
        unread: &mut Vec<Option<RelPath>>,
    ) -> Result<Vec<Step>, StoreError> {
        let mut steps = Vec::new();
        for (path, stat) in self.entries_of(dir, unread)? {
            if stat.kind == FileKind::Dir {
                steps.push(Step { path: path.clone(), stat: None });
            }
            steps.push(Step { path, stat: Some(stat) });
        }
        steps.sort_unstable_by(|a, b| b.order(a));
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceId, FolderId, IndexId};
    use crate::disk::MemoryDisk;
    use crate::index::{MemoryIndex, Meta};

    #[test]
    fn a_first_scan_is_the_same_in_parts() {
        let (device, folder) = (DeviceId::from_bytes([1; 32]), FolderId::from_bytes([1; 16]));
        let disk = MemoryDisk::default();
        let count = 2 * FIRST_AT_ONCE as u64 + 10;
        for n in 0..count {
            let path = RelPath::new(format!("file-{n:06}")).unwrap();
            assert!(disk.user_write(&path, &n.to_le_bytes(), false));
        }
        let index = MemoryIndex::new(Meta::new(device, Some(folder), IndexId(1)));
        let mut engine = Engine::new(disk, index).unwrap();
        assert_eq!(engine.scan().unwrap().changed, count);
        assert_eq!(engine.status().unwrap().files, count);
        let again = engine.scan().unwrap();
        assert_eq!((again.seen, again.changed, again.deleted), (count, 0, 0));
    }

    #[test]
    fn steps_are_ordered_as_whole_paths() {
        let path = |path: &str| RelPath::new(path).unwrap();
        let stat = None;
        let inside = Step { path: path("a"), stat };
        for (before, after) in [("a", "a-b"), ("a", "a.b"), ("a", "a0")] {
            let (before, after) = (path(before), path(after));
            let after_inside = Step { path: after.clone(), stat };
            let child = path("a/z");
            assert_eq!(inside.order(&after_inside), child.cmp(&after), "{before} {after}");
        }
    }
}
