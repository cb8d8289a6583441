//! Notifications of what programs change in the folder, as inotify gives them: of what happens in directories that were listed, under
//! the name that it happened by; behind the change, but before its program does anything else; and no more than the system holds.
//! And the programs that do it while an engine looks.

use std::collections::BTreeSet;

use crate::cutting::Group;
use crate::disk::FileKind;
use crate::path::RelPath;

use super::filesystem::{FileSystem, Ino};
use super::{Act, State};

#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// The directories that were listed.
    dirs: BTreeSet<Ino>,
    /// Of the change that is there already.
    coming: Vec<RelPath>,
    noticed: BTreeSet<RelPath>,
    /// Notifications were lost since the whole folder was last listed.
    lost: bool,
}

impl Watch {
    pub(super) fn add(&mut self, dir: Ino, is_root: bool) {
        self.dirs.insert(dir);
        self.lost &= !is_root;
    }

    fn deliver(&mut self, most: usize) {
        self.noticed.extend(self.coming.drain(..));
        if self.noticed.len() > most {
            self.lost = true;
            self.noticed.clear();
        }
    }
}

impl FileSystem {
    /// A program changes what stands at these paths.
    pub(super) fn tell(&mut self, paths: Vec<RelPath>) {
        self.watch.deliver(self.notices);
        let is_watched =
            |path: &RelPath| self.place(path).is_ok_and(|(dir, _)| self.watch.dirs.contains(&dir));
        self.watch.coming = paths.into_iter().filter(is_watched).collect();
    }
}

impl State {
    /// The engine looks at something. Programs go on meanwhile.
    pub(super) fn look(&mut self) {
        self.files.watch.deliver(self.files.notices);
        if let Some((looks, _)) = self.meanwhile.front_mut() {
            *looks = looks.saturating_sub(1);
        }
        // What programs do is no step of the engine.
        let changes = self.files.changes.take();
        while let Some((0, _)) = self.meanwhile.front()
            && let Some((_, act)) = self.meanwhile.pop_front()
        {
            self.act(act);
        }
        self.files.changes = changes;
    }

    pub(super) fn act(&mut self, act: Act) {
        let files = &mut self.files;
        match act {
            Act::Swap { path, to, target } => {
                if files.find(&to) == Ok(None) && files.rename(&path, &to) {
                    files.make(&path, FileKind::Symlink, &target);
                }
            }
            Act::Edit { path, data, in_place } => drop(files.write(&path, &data, in_place)),
            Act::Elsewhere { path, data } => drop(files.write_elsewhere(&path, &data)),
            Act::Make { path } => drop(files.make(&path, FileKind::Dir, b"")),
            Act::Remove { path } => drop(files.remove(&path)),
        }
    }

    /// See [`crate::disk::Disk::noticed`].
    pub(super) fn noticed(&mut self, group: &Group) -> Option<BTreeSet<RelPath>> {
        let watch = &mut self.files.watch;
        if watch.lost || self.files.notices == 0 {
            return None;
        }
        Some(watch.noticed.extract_if(.., |path| group.holds(path)).collect())
    }

    /// See [`super::MemoryDisk::take_noticed`].
    pub(super) fn take_noticed(&mut self) -> Option<BTreeSet<RelPath>> {
        let (watch, most) = (&mut self.files.watch, self.files.notices);
        watch.deliver(most);
        (!watch.lost && most > 0).then(|| std::mem::take(&mut watch.noticed))
    }
}
