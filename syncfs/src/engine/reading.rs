//! What stands at a path, as a version says it.

use crate::disk::{Disk, DiskError, FileKind, Reading, Stat};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::record::{Attributes, CAPABILITY, Kind, Owner, Xattrs};

use super::Engine;

impl<D: Disk, I: Index> Engine<D, I> {
    pub(super) fn read_kind(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        entry: Option<&Entry>,
        names: &[Entry],
    ) -> Result<Option<(Kind, Stat)>, DiskError> {
        Ok(match stat.kind {
            FileKind::Dir => {
                let (attributes, seen) = self.read_attributes(path, stat, entry, true)?;
                Some((Kind::Dir { attributes }, seen))
            }
            FileKind::Symlink => {
                let target = self.disk.link_target(path)?;
                Some((Kind::Symlink { owner: Some(self.owner(stat, entry)), target }, *stat))
            }
            FileKind::Special => {
                self.problem(Some(path), "a socket, pipe or device: never replicated");
                None
            }
            FileKind::File => {
                let label = self.label(path, stat, entry, names);
                if let Some((kind, seen)) = self.read_as(stat, names) {
                    return Ok(Some((kind.linked(label), seen)));
                }
                let before = entry.and_then(|entry| entry.record.kind.content());
                let Reading { content, stat, mut mtime_ns, cut } = self.disk.read(path, stat, before)?;
                self.cutting.last_cut = cut.then(|| path.clone());
                if cut {
                    self.was_cut(path);
                }
                let before = match entry.map(|entry| &entry.record.kind) {
                    Some(Kind::File { mtime_ns, content: before, .. }) if *before == content => {
                        Some(*mtime_ns)
                    }
                    _ => None,
                };
                if let (true, Some(before)) = (cut, before) {
                    mtime_ns = before;
                }
                // What changes from here on changes the fingerprint, too.
                let (attributes, seen) = self.read_attributes(path, &stat, entry, before.is_some())?;
                Some((Kind::File { attributes, mtime_ns, content, link: label }, seen))
            }
        })
    }

    /// Attributes as they stand; but what cannot stand here, or was not applied, keeps what the record says of it, as
    /// long as nobody changed what stands instead. Set-uid bits and capabilities are those of one content only.
    fn read_attributes(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        entry: Option<&Entry>,
        same_content: bool,
    ) -> Result<(Attributes, Stat), DiskError> {
        let (xattrs, seen) = self.disk.xattrs(path, stat)?;
        let before = entry.filter(|entry| entry.record.kind.is_dir() == (stat.kind == FileKind::Dir));
        let attributes = before.and_then(|entry| entry.record.kind.attributes());
        let was_mode = before.and_then(|entry| entry.seen).map(|seen| seen.mode);
        let mode = match attributes {
            Some(before) if was_mode == Some(stat.mode) && same_content => before.mode,
            Some(before) if was_mode == Some(stat.mode) => before.mode & 0o1777 | stat.mode & 0o6000,
            _ => stat.mode,
        };
        let none = Xattrs::new();
        let carried = attributes.map_or(&none, |before| &before.xattrs).iter();
        let carried = carried.filter(|(name, _)| same_content || name.as_slice() != CAPABILITY);
        let xattrs = match xattrs {
            Some(xattrs) if self.disk.is_root() => xattrs,
            Some(xattrs) => carried
                .filter(|(name, _)| name.as_slice() == CAPABILITY)
                .map(|(name, value)| (name.clone(), value.clone()))
                .chain(xattrs)
                .collect(),
            None => carried.map(|(name, value)| (name.clone(), value.clone())).collect(),
        };
        Ok((Attributes { mode, owner: Some(self.owner(stat, entry)), xattrs }, seen))
    }

    /// The owner as it stands, or as the record says where it could not be applied.
    fn owner(&self, stat: &Stat, entry: Option<&Entry>) -> Owner {
        let before = entry.and_then(|entry| Some((entry.record.kind.owner()?, entry.seen)));
        match before {
            Some((owner, seen))
                if !self.disk.is_root() || seen.is_some_and(|seen| seen.owner == stat.owner) =>
            {
                owner
            }
            _ => stat.owner,
        }
    }
}
