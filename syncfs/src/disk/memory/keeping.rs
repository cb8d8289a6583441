//! The steps that keep: beside, aside, in the history.

use crate::branch::What;
use crate::chunk::content_of;
use crate::disk::{DiskError, FileKind, Keep, Replaced, Stat};
use crate::hash::ContentHash;
use crate::path::RelPath;

use super::filesystem::{Ino, Inode};
use super::{Space, State};

impl State {
    pub(super) fn keep(&mut self, path: &RelPath, to: &Keep) -> Result<String, DiskError> {
        self.step("keep a file")?;
        let ino = self.files.find(path)?.ok_or(DiskError::Changed)?;
        let (space, name) = match to {
            Keep::Beside(to) => {
                let (dir, name) = self.files.place(to)?;
                if self.files.stat(to)?.is_some() {
                    return Err(DiskError::Taken);
                }
                let now = self.files.tick();
                self.files.inode_mut(ino).body.ctime_ns = now;
                self.files.change(vec![(dir, name, Some(ino))]);
                (Space::Tree, to.to_string())
            }
            Keep::Aside(folder) => {
                let name = aside(folder, path);
                // The same file is kept already: the step was done before a crash, or it was edited further.
                match self.files.named(Space::Aside, &name) {
                    Some(other) if other != ino => return Err(DiskError::Taken),
                    Some(_) => {}
                    None => self.link(ino, Space::Aside, name),
                }
                (Space::Aside, format!("{folder}/{path}"))
            }
        };
        let synced = self.sync()?;
        self.files.sync_inode(ino, !synced);
        self.alive()?;
        match space {
            Space::Tree => self.files.sync_names(),
            space => self.files.sync_space(space),
        }
        Ok(name)
    }

    pub(super) fn kept_aside(&self) -> Result<Vec<(String, RelPath)>, DiskError> {
        self.alive()?;
        let names = self.files.inode(Space::Aside.root()).entries.keys();
        Ok(names.filter_map(|name| split(name)).collect())
    }

    pub(super) fn read_aside(&self, folder: &str, path: &RelPath) -> Result<Option<What>, DiskError> {
        self.alive()?;
        let kept = self.files.named(Space::Aside, &aside(folder, path)).ok_or(DiskError::Changed)?;
        let inode = self.files.inode(kept);
        let data = &inode.body.data;
        Ok(match inode.kind {
            FileKind::File => Some(What::File(content_of(data).root(), data.len() as u64)),
            FileKind::Symlink => Some(What::Symlink(ContentHash::of(data))),
            FileKind::Dir | FileKind::Special => None,
        })
    }

    pub(super) fn copy_back(
        &mut self,
        folder: &str,
        path: &RelPath,
        to: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<(), DiskError> {
        self.step("copy back what was set aside")?;
        let (dir, name) = self.files.place(to)?;
        if self.files.stat(to)?.as_ref() != expect {
            return Err(DiskError::Changed);
        }
        let kept = self.files.named(Space::Aside, &aside(folder, path)).ok_or(DiskError::Changed)?;
        let Inode { kind, body, .. } = self.files.inode(kept).clone();
        let ino = self.files.new_inode(kind, body.data, body.attributes);
        self.files.inode_mut(ino).body.mtime_ns = body.mtime_ns;
        let synced = self.sync()?;
        self.files.sync_inode(ino, !synced);
        self.alive()?;
        self.files.inode_mut(ino).published = true;
        self.files.change(vec![(dir, name, Some(ino))]);
        Ok(())
    }

    pub(super) fn drop_aside(&mut self, folder: &str) -> Result<(), DiskError> {
        self.step("remove a branch")?;
        let within = [folder.as_bytes(), b"/"].concat();
        let names = self.files.inode(Space::Aside.root()).entries.keys();
        let gone = names.filter(|name| name.starts_with(&within));
        let gone: Vec<_> = gone.map(|name| (Space::Aside.root(), name.clone(), None)).collect();
        self.files.change(gone);
        if self.sync()? {
            self.files.sync_space(Space::Aside);
        }
        self.alive()
    }

    pub(super) fn retain(
        &mut self,
        replaced: &[Replaced],
        always: bool,
    ) -> Result<Vec<Option<Stat>>, DiskError> {
        let mut seen = vec![None; replaced.len()];
        if !self.files.able.keeps_history {
            return Ok(seen);
        }
        for (replaced, seen) in replaced.iter().zip(&mut seen) {
            self.step("keep a version")?;
            let ino = match self.expected(&replaced.path, &replaced.seen) {
                Err(DiskError::Changed | DiskError::NoParent) if !always => continue,
                other => other?,
            };
            let name = replaced.root.as_bytes().to_vec();
            if self.files.named(Space::History, &name).is_none() {
                self.link(ino, Space::History, name);
                let synced = self.sync()?;
                self.files.sync_inode(ino, !synced);
                self.alive()?;
                *seen = Some(self.files.stat_of(ino));
            }
        }
        if self.sync()? {
            self.files.sync_space(Space::History);
        }
        self.alive()?;
        Ok(seen)
    }

    /// A second name in one of the flat spaces.
    fn link(&mut self, ino: Ino, space: Space, name: Vec<u8>) {
        let now = self.files.tick();
        self.files.inode_mut(ino).body.ctime_ns = now;
        self.files.change(vec![(space.root(), name, Some(ino))]);
    }
}

/// The name in `aside/` of a branch's path.
fn aside(folder: &str, path: &RelPath) -> Vec<u8> {
    [folder.as_bytes(), b"/", path.as_bytes()].concat()
}

/// The branch and the path that a name in `aside/` is of.
fn split(name: &[u8]) -> Option<(String, RelPath)> {
    let at = name.iter().position(|&byte| byte == b'/')?;
    Some((String::from_utf8(name[..at].to_vec()).ok()?, RelPath::new(&name[at + 1..]).ok()?))
}
