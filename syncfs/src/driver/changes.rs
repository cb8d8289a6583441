//! Which of the paths that were notified of have to be looked at: all but those where this replica itself left exactly
//! what stands there.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::inotify::ReadFlags;

use super::database::side_stem;
use super::disk::RealDisk;
use super::tree::stat_in;
use super::watch::is_own;
use crate::cutting::Group;
use crate::disk::Stat;
use crate::path::RelPath;

/// More paths than this at once are answered with a walk of everything.
const PATHS_MAX: usize = 4096;

/// What changed since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Look here, and at what is below.
    pub(super) paths: BTreeSet<RelPath>,
    /// Directories of which only the attributes changed.
    pub(super) attributes: BTreeSet<RelPath>,
    /// Notifications were lost, or are too many.
    pub(super) everything: bool,
}

impl RealDisk {
    /// What changed, but for what was taken out of it already.
    pub(super) fn changes(&mut self) -> Changes {
        self.notice();
        std::mem::take(&mut self.noticed)
    }

    /// Whether there is something that no notification will wake anybody for.
    pub(super) fn has_noticed(&self) -> bool {
        let Changes { paths, attributes, everything } = &self.noticed;
        *everything || !paths.is_empty() || !attributes.is_empty()
    }

    /// See [`crate::disk::Disk::noticed`]. Takes it out of the changes.
    pub(super) fn noticed_in(&mut self, group: &Group) -> Option<BTreeSet<RelPath>> {
        self.notice();
        if self.lost || self.watch.fd().is_none() || self.watch.missing().is_some() {
            return None;
        }
        let Changes { paths, attributes, .. } = &mut self.noticed;
        let mut noticed = BTreeSet::new();
        for changes in [paths, attributes] {
            noticed.extend(changes.extract_if(.., |path| group.holds(path)));
        }
        Some(noticed)
    }

    fn notice(&mut self) {
        let new = self.new_changes();
        let noticed = &mut self.noticed;
        noticed.paths.extend(new.paths);
        noticed.attributes.extend(new.attributes);
        noticed.everything |= new.everything || noticed.paths.len() > PATHS_MAX;
        if noticed.everything {
            self.lost = true;
            noticed.paths.clear();
            noticed.attributes.clear();
        }
    }

    fn new_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        let Some((noticed, own)) = self.watch.take() else {
            changes.everything = true;
            return changes;
        };
        let mut dir = None;
        for (path, what) in noticed {
            let only_attributes = what.contains(ReadFlags::ISDIR | ReadFlags::ATTRIB);
            let other = if only_attributes { what - ReadFlags::ATTRIB } else { what };
            let mut own = own.get(&path);
            let ours = own.take_if(|left| {
                let stands = self.stands(&path, &mut dir);
                is_own(other, left.as_ref(), stands.as_ref())
            });
            if only_attributes && (ours.is_some() || other == ReadFlags::ISDIR) {
                changes.attributes.insert(path);
            } else if ours.is_none() {
                changes.paths.extend(side_stem(&path));
                changes.paths.insert(path);
            }
        }
        changes.everything = changes.paths.len() > PATHS_MAX;
        changes
    }

    /// What stands at a path, whose directory is kept open for the next one: they come in the order of their paths.
    /// If it is replaced meanwhile, that is notified of, and all below it is looked at.
    fn stands(&self, path: &RelPath, open: &mut Option<(Option<RelPath>, OwnedFd)>) -> Option<Stat> {
        let parent = path.parent();
        if open.as_ref().is_none_or(|(dir, _)| *dir != parent) {
            let dir = self.tree.dir(parent.as_ref()).ok()?;
            *open = Some((parent, dir));
        }
        let (_, dir) = open.as_ref()?;
        stat_in(dir, path.name()).ok().flatten()
    }
}
