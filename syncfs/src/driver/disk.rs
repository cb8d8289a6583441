//! [`RealDisk`]: the engine's steps on a real directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RenameFlags, fstat, fsync, mkdirat, renameat, renameat_with, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::aftermath::Aftermath;
use super::attributes;
use super::changes::Changes;
use super::database::{self, Cuts, Databases};
use super::deltas::Deltas;
use super::history::{Kept, now_ns};
use super::keep::{COPY, LINK};
use super::reading::{Unsynced, as_seen};
use super::stage::{OpenStage, Stages};
use super::state::{State, random, stage_name, sweep};
use super::tree::{Tree, convert, dead, failed, stat_in};
use super::watch::Watch;
use crate::branch::What;
use crate::config::MinFree;
use crate::cutting::Group;
use crate::disk::{Disk, DiskError, FileKind, Keep, Listing, Reading, Replaced, Run, Stat};
use crate::hash::{Blob, ContentHash};
use crate::path::{RelPath, STATE_DIR};
use crate::record::{Attributes, Chunk, Content, Owner, Xattrs};
use crate::status::Problem;

/// From this many files on, one sync of the whole filesystem replaces one of each file.
pub(super) const GROUP_SYNC: usize = 256;

/// A real directory.
#[derive(Debug)]
pub(super) struct RealDisk {
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    pub(super) tree: Tree,
    pub(super) marker: OwnedFd,
    pub(super) staging: OwnedFd,
    pub(super) aside: Tree,
    pub(super) databases: Databases,
    pub(super) cuts: Cuts,
    pub(super) deltas: Deltas,
    /// The last plain file that chunks were read from.
    pub(super) last: Option<(RelPath, File)>,
    /// The last stage that was written.
    pub(super) stage: Option<OpenStage>,
    pub(super) stages: Stages,
    touched: BTreeSet<Option<RelPath>>,
    pub(super) touched_aside: BTreeSet<Option<RelPath>>,
    pub(super) read: BTreeMap<RelPath, Unsynced>,
    pub(super) min_free: MinFree,
    /// Contents whose sync failed in an earlier life.
    pub(super) suspects: BTreeSet<RelPath>,
    pub(super) files_read: Arc<AtomicU64>,
    /// `None` if nothing is kept.
    pub(super) history: Option<Kept>,
    pub(super) watch: Watch,
    /// What changed and was not asked for yet.
    pub(super) noticed: Changes,
    /// Notifications were lost since the whole folder was last listed.
    pub(super) lost: bool,
}

impl RealDisk {
    pub(super) fn new(state: &State, min_free: MinFree, aftermath: &Aftermath) -> Result<Self, DiskError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("open a directory", error))
        };
        // Private copies of an earlier run, and what it was about to give its place.
        sweep(&open(&state.dir.join("cuts"))?, |name| name != b"." && name != b"..")?;
        sweep(&open(&state.dir.join("staging"))?, |name| name.ends_with(LINK) || name.ends_with(COPY))?;
        let staging = open(&state.dir.join("staging"))?;
        let disk = Self {
            root: state.root.clone(),
            state: state.dir.clone(),
            tree: Tree::new(open(&state.root)?),
            marker: open(&state.marker_dir())?,
            stages: Stages::left_in(&staging)?,
            staging,
            aside: Tree::new(open(&state.dir.join("aside"))?),
            databases: Databases::default(),
            cuts: Cuts::default(),
            deltas: Deltas::new(open(&state.dir.join("deltas"))?),
            last: None,
            stage: None,
            touched: BTreeSet::new(),
            touched_aside: BTreeSet::new(),
            read: BTreeMap::new(),
            min_free,
            suspects: aftermath.suspects.clone(),
            files_read: Arc::default(),
            history: None,
            watch: Watch::new(),
            noticed: Changes::default(),
            lost: false,
        };
        disk.distrust_stages(aftermath)?;
        Ok(disk)
    }

    pub(super) fn touch(&mut self, path: &RelPath) {
        self.touched.insert(path.parent());
    }

    fn sync_all(
        &mut self,
        read: &BTreeMap<RelPath, Unsynced>,
        touched: &BTreeSet<Option<RelPath>>,
    ) -> Result<(), DiskError> {
        if read.len() + touched.len() >= GROUP_SYNC {
            syncfs(self.tree.fd()).map_err(dead)?;
            return self.sync_aside();
        }
        for (path, unsynced) in read {
            match unsynced {
                Unsynced::Plain => match self.sync_content(path) {
                    // Its directory was moved or removed since it was read: that is looked at next.
                    Err(DiskError::NoParent) => {}
                    other => other?,
                },
                Unsynced::Database(file, log) => {
                    fsync(&**file).map_err(dead)?;
                    log.as_ref().map_or(Ok(()), |log| fsync(log).map_err(dead))?;
                }
            }
        }
        for dir in touched {
            match self.tree.dir(dir.as_ref()) {
                Ok(dir) => fsync(dir).map_err(dead)?,
                // It is gone by now: what it held is gone with it, durably with its parent.
                Err(DiskError::NoParent) => {}
                Err(error) => return Err(error),
            }
        }
        self.sync_aside()
    }
}

impl Disk for RealDisk {
    fn check_root(&mut self) -> Result<(), DiskError> {
        self.root_stands()
    }

    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        let place = self.tree.place(path)?;
        self.stat_at(&place, path)
    }

    fn list(&mut self, dir: Option<&RelPath>) -> Result<Listing, DiskError> {
        let fd = self.tree.dir(dir)?;
        let mut listing = Listing::default();
        self.watch.add(dir, &fd);
        self.lost &= dir.is_some();
        if let Some(why) = self.watch.missing() {
            listing.problems.push(Problem { path: None, what: why.to_owned() });
        }
        let mut side_like = false;
        for entry in Dir::read_from(&fd).map_err(|error| failed("list a directory", error))? {
            let entry = entry.map_err(|error| failed("list a directory", error))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || name == STATE_DIR {
                continue;
            }
            let path = match RelPath::child(dir, name) {
                Ok(path) => path,
                Err(error) => {
                    let what = format!("{}: {error}", String::from_utf8_lossy(name));
                    listing.problems.push(Problem { path: dir.cloned(), what });
                    continue;
                }
            };
            if let Some(stat) = stat_in(&fd, name)? {
                side_like |= database::side_stem(&path).is_some();
                listing.entries.push((path, stat));
            }
        }
        if side_like {
            let (databases, tree) = (&mut self.databases, &self.tree);
            listing.entries.retain(|(path, _)| !databases.is_side(tree, &fd, path));
            for (path, stat) in listing.entries.iter_mut().filter(|(_, stat)| stat.kind == FileKind::File) {
                stat.side = database::side_print(&fd, path.name())?;
                self.settle_side(path, stat);
            }
        }
        Ok(listing)
    }

    fn is_root(&self) -> bool {
        attributes::is_root()
    }

    fn xattrs(&mut self, path: &RelPath, stat: &Stat) -> Result<(Option<Xattrs>, Stat), DiskError> {
        let pinned = self.tree.pin(path)?;
        let now = convert(&fstat(&pinned).map_err(|error| failed("stat", error))?);
        if (now.dev, now.ino) != (stat.dev, stat.ino) {
            return Err(DiskError::Changed);
        }
        Ok((attributes::read_xattrs(&pinned)?, as_seen(*stat)))
    }

    fn link_target(&mut self, path: &RelPath) -> Result<Vec<u8>, DiskError> {
        self.target_of(path)
    }

    fn read(&mut self, path: &RelPath, stat: &Stat, before: Option<&Content>) -> Result<Reading, DiskError> {
        self.read_file(path, stat, before)
    }

    fn shows_changes(&mut self, path: &RelPath, stat: &Stat) -> Result<bool, DiskError> {
        self.is_settled(path, stat)
    }

    fn noticed(&mut self, group: &Group) -> Option<BTreeSet<RelPath>> {
        self.noticed_in(group)
    }

    fn uncache(&mut self, path: &RelPath) {
        self.let_go_of(path);
    }

    fn read_chunk(&mut self, path: &RelPath, offset: u64, chunk: &Chunk) -> Result<Option<Blob>, DiskError> {
        self.read_back(path, offset, chunk)
    }

    fn patch(
        &mut self,
        path: &RelPath,
        offset: u64,
        chunk: &Chunk,
        basis: &ContentHash,
    ) -> Result<Option<Vec<Run>>, DiskError> {
        if !self.cuts.has(path) {
            return Ok(None);
        }
        let Some(file) = self.database(path)? else { return Ok(None) };
        self.with_database(path, &file, |cuts, source| cuts.patch(path, source, offset, chunk, basis))
    }

    fn room(&mut self) -> Result<(), DiskError> {
        self.look_for_room()
    }

    fn stage_read(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<Option<Vec<u8>>, DiskError> {
        self.read_stage(path, offset, length)
    }

    fn stage_write(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.write_stage(path, offset, bytes)
    }

    fn stage_zeros(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<(), DiskError> {
        self.clear_stage(path, offset, length)
    }

    fn stage_seal(
        &mut self,
        path: &RelPath,
        size: u64,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<(), DiskError> {
        self.seal_stage(path, size, attributes, mtime_ns)
    }

    fn stage_symlink(
        &mut self,
        path: &RelPath,
        target: &[u8],
        owner: Option<Owner>,
    ) -> Result<(), DiskError> {
        self.symlink_stage(path, target, owner)
    }

    fn stage_sync(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        self.sync_stage(paths)
    }

    fn stage_discard(&mut self, path: &RelPath) -> Result<(), DiskError> {
        self.discard_stage(path)
    }

    fn takes_delta(&mut self, path: &RelPath, seen: &Stat) -> Result<bool, DiskError> {
        Ok(seen.side == 0 && seen.nlink == 1 && self.databases.is_database(&self.tree, path, seen))
    }

    fn delta_reset(&mut self, path: &RelPath, mark: u64) -> Result<bool, DiskError> {
        self.deltas.reset(path, mark)
    }

    fn delta_sweep(&mut self) -> Result<(), DiskError> {
        self.deltas.sweep()
    }

    fn delta_write(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.write_delta(path, offset, bytes)
    }

    fn delta_seal(&mut self, path: &RelPath) -> Result<u64, DiskError> {
        self.deltas.seal(path)
    }

    fn delta_sync(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        self.deltas.sync(paths)
    }

    fn publish(&mut self, stage: &RelPath, to: &RelPath, expect: Option<&Stat>) -> Result<Stat, DiskError> {
        let place = self.place_of(to, expect)?;
        if expect.is_some() {
            self.detach_sides(to)?;
        }
        self.stage.take_if(|open| open.path == *stage);
        self.last = None;
        let name = stage_name(stage);
        let inode = |stat: Stat| (stat.dev, stat.ino);
        let staged = stat_in(&self.staging, name.as_bytes())?.map(inode);
        match renameat(&self.staging, &name, &place.dir, place.name) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::NOTEMPTY) => return Err(DiskError::NotEmpty),
            Err(error) => return Err(failed("rename into place", error)),
        }
        self.stages.published(&name);
        self.touch(to);
        // What a cut held is the old content now.
        self.cuts.forget(to);
        // Somebody may have replaced it since: that is not what was published.
        let stat = stat_in(&place.dir, place.name)?.filter(|stat| Some(inode(*stat)) == staged);
        let stat = stat.ok_or(DiskError::Changed)?;
        self.watch.did(to, Some(stat));
        Ok(stat)
    }

    fn link(
        &mut self,
        from: &RelPath,
        seen: &Stat,
        to: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<Stat, DiskError> {
        self.link_as(from, seen, to, expect)
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        let old = self.place_of(from, Some(expect))?;
        self.last = None;
        let new = self.tree.place(to)?;
        match renameat_with(&old.dir, old.name, &new.dir, new.name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(DiskError::Taken),
            Err(Errno::NOENT) => return Err(DiskError::Changed),
            Err(error) => return Err(failed("rename", error)),
        }
        self.touch(from);
        self.touch(to);
        self.watch.did(from, None);
        self.watch.did(to, stat_in(&new.dir, new.name)?);
        Ok(())
    }

    fn replace(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        expect_from: &Stat,
        expect_to: Option<&Stat>,
    ) -> Result<(), DiskError> {
        let place = self.place_of(from, Some(expect_from))?;
        self.put_over((&place.dir, place.name), to, expect_to)?;
        self.touch(from);
        self.cuts.forget(from);
        Ok(())
    }

    fn make_dir(&mut self, path: &RelPath, attributes: &Attributes) -> Result<Stat, DiskError> {
        let place = self.tree.place(path)?;
        let new = match mkdirat(&place.dir, place.name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed("create a directory", error)),
        };
        let dir = match self.tree.dir(Some(path)) {
            Err(DiskError::NoParent) => return Err(DiskError::Changed),
            other => other?,
        };
        self.watch.add(Some(path), &dir);
        let is_empty = || Dir::read_from(&dir).is_ok_and(|dir| dir.take(3).count() == 2);
        let ours = new && is_empty();
        attributes::apply(&dir, attributes, ours)?;
        self.touch(path);
        self.touched.insert(Some(path.clone()));
        let stat = stat_in(&place.dir, place.name)?.ok_or(DiskError::Changed)?;
        if ours {
            self.watch.did(path, Some(stat));
        }
        Ok(stat)
    }

    fn adjust(
        &mut self,
        path: &RelPath,
        expect: &Stat,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<Stat, DiskError> {
        self.adjust_in_place(path, expect, attributes, mtime_ns)
    }

    fn remove(&mut self, path: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        let place = self.place_of(path, Some(expect))?;
        self.last = None;
        let is_dir = expect.kind == FileKind::Dir;
        let sides = expect.kind == FileKind::File
            && expect.size > 0
            && self.databases.is_database(&self.tree, path, expect);
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(&place.dir, place.name, flags) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Err(DiskError::NotEmpty),
            Err(error) => return Err(failed("remove", error)),
        }
        if sides {
            for side in database::side_names(place.name) {
                let _ = unlinkat(&place.dir, &side[..], AtFlags::empty());
            }
        }
        self.touch(path);
        self.watch.did(path, None);
        Ok(())
    }

    fn keep(&mut self, path: &RelPath, to: &Keep) -> Result<String, DiskError> {
        match to {
            Keep::Aside(folder) => self.keep_aside(path, folder),
            Keep::Beside(to) => self.keep_beside(path, to),
        }
    }

    fn kept_aside(&mut self) -> Result<Vec<(String, RelPath)>, DiskError> {
        self.list_aside()
    }

    fn read_aside(&mut self, folder: &str, path: &RelPath) -> Result<Option<What>, DiskError> {
        self.what_is_aside(folder, path)
    }

    fn copy_back(
        &mut self,
        folder: &str,
        path: &RelPath,
        to: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<(), DiskError> {
        self.copy_from_aside(folder, path, to, expect)
    }

    fn drop_aside(&mut self, folder: &str) -> Result<(), DiskError> {
        self.remove_aside(folder)
    }

    fn now_ns(&self) -> i64 {
        now_ns()
    }

    fn chance(&mut self) -> Result<u64, DiskError> {
        random().map(u64::from_le_bytes).map_err(|error| failed("draw a random number", error))
    }

    fn keeps_history(&self) -> bool {
        self.history.is_some()
    }

    fn retain(&mut self, replaced: &[Replaced], always: bool) -> Result<Vec<Option<Stat>>, DiskError> {
        self.retain_all(replaced, always)
    }

    fn sync_tree(&mut self) -> Result<(), DiskError> {
        let read = std::mem::take(&mut self.read);
        let touched = std::mem::take(&mut self.touched);
        let synced = self.sync_all(&read, &touched);
        if synced.is_err() {
            self.suspects.extend(read.into_keys());
        }
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_directory_that_goes_between_a_read_and_the_commit_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path());
        State::init(&config).unwrap();
        let (state, _, _) = State::open(&config, false).unwrap();
        let mut disk = RealDisk::new(&state, config.min_free, &Aftermath::default()).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/file"), "read, not yet synced").unwrap();
        let path = RelPath::new("d/file").unwrap();
        let stat = disk.stat(&path).unwrap().unwrap();
        disk.read(&path, &stat, None).unwrap();
        std::fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
        assert_eq!(disk.sync_tree(), Ok(()));
    }
}
