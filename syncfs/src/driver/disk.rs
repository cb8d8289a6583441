//! [`RealDisk`]: the engine's steps on a real directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, Timespec, Timestamps, chmodat, fchmod, fsync, ftruncate, futimens, linkat,
    mkdirat, openat, readlinkat, renameat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::database::{self, Databases, Opened, QUIET, Source};
use super::state::{State, is_same_root};
use super::tree::{Tree, convert, failed, stat_in};
use crate::chunk::{Chunker, Cutting, SQLITE_MAGIC};
use crate::disk::{Disk, DiskError, FileKind, Keep, Listing, Reading, Stat, is_intact};
use crate::hash::ContentHash;
use crate::path::{RelPath, STATE_DIR};
use crate::record::{Chunk, Content};
use crate::status::Problem;

/// From this many files on, one sync of the whole filesystem replaces one of each file.
const GROUP_SYNC: usize = 256;
/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// A real directory.
#[derive(Debug)]
pub(super) struct RealDisk {
    root: PathBuf,
    state: PathBuf,
    tree: Tree,
    marker: OwnedFd,
    staging: OwnedFd,
    aside: Tree,
    databases: Databases,
    /// Names (see [`stage_name`]) of the paths that have a cut.
    cuts: BTreeSet<String>,
    /// The last plain file that chunks were read from.
    last: Option<(RelPath, File)>,
    /// The last stage that was written.
    stage: Option<(RelPath, File)>,
    touched: BTreeSet<Option<RelPath>>,
    touched_aside: BTreeSet<Option<RelPath>>,
    read: BTreeMap<RelPath, Unsynced>,
}

/// A content that was published from here and may not be on the platter yet.
#[derive(Debug)]
enum Unsynced {
    Plain,
    Database(Arc<File>),
}

impl RealDisk {
    pub(super) fn new(state: &State) -> Result<Self, DiskError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed("open a directory", error))
        };
        let mut cuts = BTreeSet::new();
        for entry in
            Dir::new(open(&state.dir.join("cuts"))?).map_err(|error| failed("list the cuts", error))?
        {
            let entry = entry.map_err(|error| failed("list the cuts", error))?;
            if let Some(name) = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(".db")) {
                cuts.insert(name.to_owned());
            }
        }
        Ok(Self {
            root: state.root.clone(),
            state: state.dir.clone(),
            tree: Tree::new(open(&state.root)?),
            marker: open(&state.marker_dir())?,
            staging: open(&state.dir.join("staging"))?,
            aside: Tree::new(open(&state.dir.join("aside"))?),
            databases: Databases::default(),
            cuts,
            last: None,
            stage: None,
            touched: BTreeSet::new(),
            touched_aside: BTreeSet::new(),
            read: BTreeMap::new(),
        })
    }

    fn cut_path(&self, path: &RelPath, suffix: &str) -> PathBuf {
        self.state.join("cuts").join(format!("{}{suffix}", stage_name(path)))
    }

    /// Takes a cut of a database and reads it. The cut before it is kept for one generation, for peers that are still
    /// fetching it.
    fn read_database(&mut self, path: &RelPath, file: &Arc<File>) -> Result<Reading, DiskError> {
        let place = self.tree.place(path)?;
        let mut before = self.full_stat(&place.dir, place.name)?.ok_or(DiskError::Changed)?;
        let fresh = self.cut_path(path, ".new");
        let full = self.root.join(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())));
        let source = Source { dir: place.dir.as_fd(), name: place.name, file, path: &full };
        if !database::is_quiet(&source)? {
            // As in `as_seen`: a later commit could bear the same times.
            before.ctime_ns = 0;
        }
        database::cut(&source, &fresh)?;
        let cut = File::open(&fresh).map_err(|error| failed("open a cut", error))?;
        let (content, _) = hash(&cut)?;
        let current = self.cut_path(path, ".db");
        let _ = std::fs::rename(&current, self.cut_path(path, ".old"));
        std::fs::rename(&fresh, &current).map_err(|error| failed("keep a cut", error))?;
        self.cuts.insert(stage_name(path));
        self.read.insert(path.clone(), Unsynced::Database(Arc::clone(file)));
        // Whatever was committed after `before` was taken has changed the fingerprint, and is seen next time.
        Ok(Reading { content, mtime_ns: before.mtime_ns, stat: before, cut: true })
    }

    fn read_plain(&mut self, path: &RelPath, file: &File, stat: &Stat) -> Result<Reading, DiskError> {
        let (content, head) = hash(file)?;
        let after = rustix::fs::fstat(file).map_err(|error| failed("stat", error))?;
        let now = self.stat(path)?;
        let unstable = || DiskError::Busy("the file changes while it is read".to_owned());
        if convert(&after) != *stat
            || now != Some(*stat)
            || content.size() != stat.size
            || head == *SQLITE_MAGIC
        {
            return Err(unstable());
        }
        if self.cuts.remove(&stage_name(path)) {
            database::clear(&self.cut_path(path, ".db"));
            database::clear(&self.cut_path(path, ".old"));
        }
        self.read.insert(path.clone(), Unsynced::Plain);
        Ok(Reading { content, mtime_ns: stat.mtime_ns, stat: as_seen(*stat), cut: false })
    }

    /// The fingerprint of an entry, side files included; `None` for a side file itself.
    fn full_stat(&mut self, dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>, DiskError> {
        let Some(mut stat) = stat_in(&dir, name)? else { return Ok(None) };
        if stat.kind == FileKind::File {
            stat.side = database::side_print(&dir, name)?;
        }
        Ok(Some(stat))
    }

    /// Side files count only where the main file is a database.
    fn settle_side(&mut self, path: &RelPath, stat: &mut Stat) {
        if stat.side != 0 && !self.databases.is_database(&self.tree, path, stat) {
            stat.side = 0;
        }
    }

    fn open_stage(&mut self, path: &RelPath) -> Result<&File, DiskError> {
        if self.stage.as_ref().is_none_or(|(open, _)| open != path) {
            let name = stage_name(path);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let open = || openat(&self.staging, &name, flags, Mode::from_raw_mode(0o600));
            let file = match open() {
                // It was sealed with a mode that keeps its owner out.
                Err(Errno::ACCESS) => {
                    let _ = chmodat(&self.staging, &name, Mode::from_raw_mode(0o600), AtFlags::empty());
                    open()
                }
                // It was a symlink for an earlier version.
                Err(Errno::LOOP) => {
                    let _ = unlinkat(&self.staging, &name, AtFlags::empty());
                    open()
                }
                other => other,
            };
            self.stage =
                Some((path.clone(), File::from(file.map_err(|error| failed("create a stage", error))?)));
        }
        Ok(self.stage.as_ref().map(|(_, file)| file).expect("it was just put there"))
    }

    /// Replaces a live-looking database by its own standalone cut and removes its side files. The log belongs to this
    /// very content, so a crash between the two steps pairs it with nothing foreign: replaying it changes nothing.
    fn detach_sides(&mut self, path: &RelPath) -> Result<(), DiskError> {
        let place = self.tree.place(path)?;
        let sides = database::side_names(place.name);
        let stand = |name: &Vec<u8>| stat_in(&place.dir, name).map(|stat| stat.is_some());
        if !sides.iter().map(stand).collect::<Result<Vec<_>, _>>()?.contains(&true) {
            return Ok(());
        }
        let Some(stat) = stat_in(&place.dir, place.name)? else { return Ok(()) };
        if !self.databases.is_database(&self.tree, path, &stat) {
            return Ok(());
        }
        if stat.size > 0 && database::side_print(&place.dir, place.name)? != 0 {
            let whole = stage_name(path) + "-whole";
            copy_to(&self.cut_path(path, ".db"), &self.staging, &whole, stat.mode)?;
            renameat(&self.staging, &whole, &place.dir, place.name)
                .map_err(|error| failed("rename", error))?;
            fsync(&place.dir).map_err(dead)?;
        }
        for side in &sides {
            match unlinkat(&place.dir, &side[..], AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("remove a side file", error)),
            }
        }
        fsync(&place.dir).map_err(dead)
    }

    fn keep_aside(&mut self, path: &RelPath, folder: &str) -> Result<String, DiskError> {
        let place = self.tree.place(path)?;
        let kept = RelPath::new([folder.as_bytes(), b"/", path.as_bytes()].concat())
            .map_err(|error| failed("name a place in aside/", error))?;
        let mut parents = Vec::new();
        let mut next = kept.parent();
        while let Some(dir) = next {
            next = dir.parent();
            parents.push(dir);
        }
        self.touched_aside.insert(None);
        for dir in parents.into_iter().rev() {
            let at = self.aside.place(&dir)?;
            match mkdirat(&at.dir, at.name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => self.touched_aside.insert(Some(dir)),
                Err(error) => return Err(failed("create a directory in aside/", error)),
            };
        }
        let at = self.aside.place(&kept)?;
        let mut names = vec![(place.name.to_vec(), at.name.to_vec())];
        for (from, to) in
            database::side_names(place.name)[..2].iter().zip(&database::side_names(at.name)[..2])
        {
            names.push((from.clone(), to.clone()));
        }
        let is_database = stat_in(&place.dir, place.name)?
            .is_some_and(|stat| stat.size > 0 && self.databases.is_database(&self.tree, path, &stat));
        if !is_database {
            names.truncate(1);
        }
        for (number, (from, to)) in names.iter().enumerate() {
            match linkat(&place.dir, &from[..], &at.dir, &to[..], AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOENT) if number == 0 => return Err(DiskError::Changed),
                Err(Errno::EXIST) => return Err(DiskError::Taken),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("keep a file in aside/", error)),
            }
        }
        self.sync_content(path)?;
        self.sync_aside()?;
        Ok(kept.to_string())
    }

    fn keep_beside(&mut self, path: &RelPath, to: &RelPath) -> Result<String, DiskError> {
        let (from, at) = (self.tree.place(path)?, self.tree.place(to)?);
        let stat = stat_in(&from.dir, from.name)?.ok_or(DiskError::Changed)?;
        if self.cuts.contains(&stage_name(path))
            && stat.size > 0
            && self.databases.is_database(&self.tree, path, &stat)
        {
            let whole = stage_name(path) + "-whole";
            copy_to(&self.cut_path(path, ".db"), &self.staging, &whole, stat.mode)?;
            set_mtime(&self.staging, &whole, stat.mtime_ns)?;
            renameat(&self.staging, &whole, &at.dir, at.name).map_err(|error| failed("rename", error))?;
        } else {
            match linkat(&from.dir, from.name, &at.dir, at.name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(DiskError::Taken),
                Err(Errno::NOENT) => return Err(DiskError::Changed),
                Err(error) => return Err(failed("keep a file beside", error)),
            }
            self.sync_content(path)?;
        }
        fsync(&at.dir).map_err(dead)?;
        Ok(to.to_string())
    }

    /// Makes the bytes of a file durable, whoever wrote them.
    fn sync_content(&mut self, path: &RelPath) -> Result<(), DiskError> {
        let Some(stat) = self.tree.stat(path)?.filter(|stat| stat.kind == FileKind::File && stat.size > 0)
        else {
            return Ok(());
        };
        match self.databases.open(&self.tree, path, &stat) {
            Ok(opened) => fsync(opened.file()).map_err(dead),
            Err(DiskError::Changed | DiskError::NoParent) => Ok(()),
            // Not readable, so it was not read from here either.
            Err(_) => Ok(()),
        }
    }

    fn sync_aside(&mut self) -> Result<(), DiskError> {
        for dir in std::mem::take(&mut self.touched_aside).into_iter().rev() {
            fsync(self.aside.dir(dir.as_ref())?).map_err(dead)?;
        }
        Ok(())
    }

    fn touch(&mut self, path: &RelPath) {
        self.touched.insert(path.parent());
    }

    /// What a replacement or removal must find.
    fn check_expected(&mut self, path: &RelPath, expect: Option<&Stat>) -> Result<(), DiskError> {
        let now = match Disk::stat(self, path) {
            Err(DiskError::NoParent) => None,
            other => other?,
        };
        let same = match (&now, expect) {
            (Some(now), Some(expect)) if now.kind == FileKind::Dir => expect.kind == FileKind::Dir,
            (now, expect) => now.as_ref() == expect,
        };
        if same { Ok(()) } else { Err(DiskError::Changed) }
    }
}

impl Disk for RealDisk {
    fn check_root(&mut self) -> Result<(), DiskError> {
        if !is_same_root(&self.root, self.tree.fd()) {
            return Err(DiskError::Root(format!(
                "{} is not there any more, or another directory is mounted over it",
                self.root.display()
            )));
        }
        match stat_in(&self.marker, b"marker")? {
            Some(_) => Ok(()),
            None => Err(DiskError::Root(format!("the marker in {}/.syncfs is gone", self.root.display()))),
        }
    }

    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        let place = self.tree.place(path)?;
        if self.databases.is_side(&self.tree, &place.dir, path) {
            return Ok(None);
        }
        let mut stat = self.full_stat(&place.dir, place.name)?;
        if let Some(stat) = &mut stat {
            self.settle_side(path, stat);
        }
        Ok(stat)
    }

    fn list(&mut self, dir: Option<&RelPath>) -> Result<Listing, DiskError> {
        let fd = self.tree.dir(dir)?;
        let mut listing = Listing::default();
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

    fn link_target(&mut self, path: &RelPath) -> Result<Vec<u8>, DiskError> {
        let place = self.tree.place(path)?;
        let target = readlinkat(&place.dir, place.name, Vec::new()).map_err(|_| DiskError::Changed)?;
        Ok(target.into_bytes())
    }

    fn read(&mut self, path: &RelPath, stat: &Stat) -> Result<Reading, DiskError> {
        self.last = None;
        if stat.size == 0 {
            return Ok(Reading {
                content: Content::default(),
                mtime_ns: stat.mtime_ns,
                stat: as_seen(*stat),
                cut: false,
            });
        }
        match self.databases.open(&self.tree, path, stat)? {
            Opened::Database(file) => self.read_database(path, &file),
            Opened::Plain(file) => self.read_plain(path, &file, stat),
        }
    }

    fn read_chunk(
        &mut self,
        path: &RelPath,
        offset: u64,
        chunk: &Chunk,
    ) -> Result<Option<Vec<u8>>, DiskError> {
        let intact = |file: &File| {
            let mut bytes = vec![0; chunk.length as usize];
            let read = file.read_exact_at(&mut bytes, offset).is_ok();
            (read && is_intact(&bytes, &chunk.hash)).then_some(bytes)
        };
        if self.cuts.contains(&stage_name(path)) {
            for suffix in [".db", ".old"] {
                if let Some(bytes) = File::open(self.cut_path(path, suffix)).ok().as_ref().and_then(intact) {
                    return Ok(Some(bytes));
                }
            }
        }
        if let Some((_, file)) = self.last.as_ref().filter(|(last, _)| last == path)
            && let Some(bytes) = intact(file)
        {
            return Ok(Some(bytes));
        }
        let stat = match self.tree.stat(path) {
            Ok(Some(stat))
                if stat.kind == FileKind::File && stat.size >= offset + u64::from(chunk.length) =>
            {
                stat
            }
            Ok(_) | Err(DiskError::NoParent) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.databases.open(&self.tree, path, &stat) {
            Ok(Opened::Database(file)) => Ok(intact(&file)),
            Ok(Opened::Plain(file)) => {
                let bytes = intact(&file);
                self.last = Some((path.clone(), file));
                Ok(bytes)
            }
            Err(DiskError::Changed) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn stage_read(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<Option<Vec<u8>>, DiskError> {
        if stat_in(&self.staging, stage_name(path).as_bytes())?.is_none_or(|stat| stat.kind != FileKind::File)
        {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        Ok(self.open_stage(path)?.read_exact_at(&mut bytes, offset).is_ok().then_some(bytes))
    }

    fn stage_write(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.open_stage(path)?.write_all_at(bytes, offset).map_err(|error| failed("write a stage", error))
    }

    fn stage_seal(&mut self, path: &RelPath, size: u64, mode: u32, mtime_ns: i64) -> Result<(), DiskError> {
        let file = self.open_stage(path)?;
        ftruncate(file, size).map_err(|error| failed("cut a stage to size", error))?;
        fchmod(file, Mode::from_raw_mode(mode)).map_err(|error| failed("set permissions", error))?;
        futimens(file, &times(mtime_ns)).map_err(|error| failed("set the modification time", error))?;
        self.stage = None;
        Ok(())
    }

    fn stage_symlink(&mut self, path: &RelPath, target: &[u8]) -> Result<(), DiskError> {
        self.stage_discard(path)?;
        symlinkat(target, &self.staging, stage_name(path)).map_err(|error| failed("create a symlink", error))
    }

    fn stage_sync(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        if paths.len() >= GROUP_SYNC {
            return syncfs(&self.staging).map_err(dead);
        }
        for path in paths {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(&self.staging, stage_name(path), flags, Mode::empty()) {
                Ok(file) => fsync(file).map_err(dead)?,
                // A symlink is part of its directory, which is synced with the tree.
                Err(Errno::LOOP | Errno::NOENT) => {}
                // Sealed with a mode that keeps even its owner from reading: all at once, then.
                Err(_) => syncfs(&self.staging).map_err(dead)?,
            }
        }
        Ok(())
    }

    fn stage_discard(&mut self, path: &RelPath) -> Result<(), DiskError> {
        self.stage = None;
        match unlinkat(&self.staging, stage_name(path), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove a stage", error)),
        }
    }

    fn publish(&mut self, stage: &RelPath, to: &RelPath, expect: Option<&Stat>) -> Result<Stat, DiskError> {
        self.check_expected(to, expect)?;
        self.detach_sides(to)?;
        (self.stage, self.last) = (None, None);
        let place = self.tree.place(to)?;
        match renameat(&self.staging, stage_name(stage), &place.dir, place.name) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::NOTEMPTY) => return Err(DiskError::NotEmpty),
            Err(error) => return Err(failed("rename into place", error)),
        }
        self.touch(to);
        // What a cut held is the old content now.
        if self.cuts.remove(&stage_name(to)) {
            database::clear(&self.cut_path(to, ".db"));
            database::clear(&self.cut_path(to, ".old"));
        }
        stat_in(&place.dir, place.name)?.ok_or(DiskError::Changed)
    }

    fn make_dir(&mut self, path: &RelPath, mode: u32) -> Result<Stat, DiskError> {
        let place = self.tree.place(path)?;
        match mkdirat(&place.dir, place.name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("create a directory", error)),
        }
        let dir = match self.tree.dir(Some(path)) {
            Err(DiskError::NoParent) => return Err(DiskError::Changed),
            other => other?,
        };
        fchmod(&dir, Mode::from_raw_mode(mode)).map_err(|error| failed("set permissions", error))?;
        self.touch(path);
        self.touched.insert(Some(path.clone()));
        stat_in(&place.dir, place.name)?.ok_or(DiskError::Changed)
    }

    fn remove(&mut self, path: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        self.check_expected(path, Some(expect))?;
        self.last = None;
        let place = self.tree.place(path)?;
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
        Ok(())
    }

    fn keep(&mut self, path: &RelPath, to: &Keep) -> Result<String, DiskError> {
        match to {
            Keep::Aside(folder) => self.keep_aside(path, folder),
            Keep::Beside(to) => self.keep_beside(path, to),
        }
    }

    fn sync_tree(&mut self) -> Result<(), DiskError> {
        let read = std::mem::take(&mut self.read);
        let touched = std::mem::take(&mut self.touched);
        if read.len() + touched.len() >= GROUP_SYNC {
            syncfs(self.tree.fd()).map_err(dead)?;
            return self.sync_aside();
        }
        for (path, unsynced) in read {
            match unsynced {
                Unsynced::Plain => self.sync_content(&path)?,
                Unsynced::Database(file) => fsync(&*file).map_err(dead)?,
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

/// The name of a path's stage and cut.
fn stage_name(path: &RelPath) -> String {
    ContentHash::of(path.as_bytes()).to_string()
}

/// Cuts and hashes a file; also gives its first bytes.
fn hash(file: &File) -> Result<(Content, [u8; 16]), DiskError> {
    let size = file.metadata().map_err(|error| failed("stat", error))?.len();
    let mut buffer = vec![0; READ_BYTES.min(usize::try_from(size).unwrap_or(READ_BYTES).max(1))];
    let (mut offset, mut chunker, mut head) = (0, None, [0; 16]);
    loop {
        let read = file.read_at(&mut buffer, offset).map_err(|error| failed("read", error))?;
        if read == 0 {
            return Ok((chunker.map_or_else(Content::default, Chunker::finish), head));
        }
        let bytes = &buffer[..read];
        if offset == 0 {
            let length = read.min(16);
            head[..length].copy_from_slice(&bytes[..length]);
        }
        chunker.get_or_insert_with(|| Chunker::new(Cutting::choose(size, bytes))).push(bytes);
        offset += read as u64;
    }
}

/// A fingerprint to compare with later. If it is so fresh that a later change could bear the same times, it is made to
/// differ from any: the file is read once more then.
fn as_seen(mut stat: Stat) -> Stat {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let latest = u128::try_from(stat.ctime_ns.max(stat.mtime_ns)).unwrap_or(0);
    if now.saturating_sub(latest) < QUIET.as_nanos() {
        stat.ctime_ns = 0;
    }
    stat
}

fn copy_to(from: &Path, dir: &OwnedFd, name: &str, mode: u32) -> Result<(), DiskError> {
    let mut source =
        File::open(from).map_err(|error| DiskError::Busy(format!("the database has no cut: {error}")))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let target = openat(dir, name, flags, Mode::from_raw_mode(0o600))
        .map_err(|error| failed("create a stage", error))?;
    let mut target = File::from(target);
    std::io::copy(&mut source, &mut target).map_err(|error| failed("write a stage", error))?;
    fchmod(&target, Mode::from_raw_mode(mode)).map_err(|error| failed("set permissions", error))?;
    fsync(&target).map_err(dead)
}

fn set_mtime(dir: &OwnedFd, name: &str, mtime_ns: i64) -> Result<(), DiskError> {
    rustix::fs::utimensat(dir, name, &times(mtime_ns), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("set the modification time", error))
}

fn times(mtime_ns: i64) -> Timestamps {
    let time =
        Timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time, last_modification: time }
}

/// After a failed sync nobody knows what is on the platter; trying again would only hide it.
fn dead(error: Errno) -> DiskError {
    DiskError::Dead(format!("a sync failed ({error}); check the disk, then open the folder again"))
}
