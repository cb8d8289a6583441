//! `aside/`: what is kept of branches (see [`crate::branch`]), a directory for each, contents under their own paths. They are
//! second names of the files that stood in the folder; a database has its log or journal beside it.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rusqlite::Connection;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fsync, openat, readlinkat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::attributes;
use super::database::{side_names, side_print};
use super::disk::RealDisk;
use super::reading::hash;
use super::sparse::copy;
use super::state::stage_name;
use super::tree::{create, dead, failed, stat_in};
use crate::branch::What;
use crate::disk::{DiskError, FileKind, Stat};
use crate::hash::ContentHash;
use crate::path::RelPath;

/// The name of a branch that is being removed. It is no branch's name.
const DROPPED: &str = "dropped";

impl RealDisk {
    pub(super) fn list_aside(&mut self) -> Result<Vec<(String, RelPath)>, DiskError> {
        let _ = self.clear_dropped();
        let mut kept = Vec::new();
        let mut todo: Vec<Option<RelPath>> = vec![None];
        while let Some(dir) = todo.pop() {
            let fd = self.aside.dir(dir.as_ref())?;
            for entry in Dir::read_from(&fd).map_err(|error| failed("list what is aside", error))? {
                let entry = entry.map_err(|error| failed("list what is aside", error))?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let Ok(path) = RelPath::child(dir.as_ref(), name) else { continue };
                let is_side = self.databases.is_side(&self.aside, &fd, &path);
                match stat_in(&fd, name)?.map(|stat| stat.kind) {
                    Some(FileKind::Dir) => todo.push(Some(path)),
                    Some(FileKind::File | FileKind::Symlink) if !is_side => kept.extend(split(&path)),
                    _ => {}
                }
            }
        }
        Ok(kept)
    }

    pub(super) fn what_is_aside(&mut self, folder: &str, path: &RelPath) -> Result<Option<What>, DiskError> {
        let kept = place_of(folder, path)?;
        Ok(match self.aside.stat(&kept)? {
            Some(stat) if stat.kind == FileKind::Symlink => {
                Some(What::Symlink(ContentHash::of(self.kept_target(&kept)?.as_bytes())))
            }
            Some(stat) if stat.kind == FileKind::File && stat.size == 0 => {
                Some(What::File(crate::record::Content::default().root(), 0))
            }
            Some(stat) if stat.kind == FileKind::File => {
                let opened = self.databases.open(&self.aside, &kept, &stat)?;
                let (content, _) = hash(opened.file(), None)?;
                Some(What::File(content.root(), content.size()))
            }
            _ => None,
        })
    }

    fn kept_target(&self, kept: &RelPath) -> Result<CString, DiskError> {
        let place = self.aside.place(kept)?;
        readlinkat(&place.dir, place.name, Vec::new()).map_err(|error| failed("read a symlink", error))
    }

    pub(super) fn copy_from_aside(
        &mut self,
        folder: &str,
        path: &RelPath,
        to: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<(), DiskError> {
        let kept = place_of(folder, path)?;
        let stat = self.aside.stat(&kept)?.ok_or(DiskError::Changed)?;
        let draft = stage_name(to) + "-back";
        match stat.kind {
            FileKind::File => self.draft_file(&kept, &stat, &draft)?,
            FileKind::Symlink => {
                let target = self.kept_target(&kept)?;
                let _ = unlinkat(&self.staging, &draft, AtFlags::empty());
                symlinkat(target, &self.staging, &draft)
                    .map_err(|error| failed("create a symlink", error))?;
                attributes::give_link(&self.staging, &draft, Some(stat.owner))?;
            }
            FileKind::Dir | FileKind::Special => return Err(DiskError::Changed),
        }
        let staging = self.staging.try_clone().map_err(|error| failed("open a directory", error))?;
        self.put_over((&staging, draft.as_bytes()), to, expect)
    }

    /// A complete copy of what is kept: of a database together with its log or journal, as one file.
    fn draft_file(&mut self, kept: &RelPath, stat: &Stat, draft: &str) -> Result<(), DiskError> {
        let place = self.aside.place(kept)?;
        let before = (stat_in(&place.dir, place.name)?, side_print(&place.dir, place.name)?);
        let target = create(&self.staging, draft)?;
        let mut is_database = false;
        if stat.size > 0 {
            // A program may still have it open: a database is not closed under it.
            let opened = self.databases.open(&self.aside, kept, stat)?;
            copy(opened.file(), &target).map_err(|error| failed("copy a file", error))?;
            is_database = before.1 != 0 && self.databases.is_database(&self.aside, kept, stat);
        }
        if is_database {
            let sides = side_names(place.name);
            for (side, name) in sides[..2].iter().zip(&side_names(draft.as_bytes())[..2]) {
                self.draft_side(&place.dir, side, name)?;
            }
        }
        if before != (stat_in(&place.dir, place.name)?, side_print(&place.dir, place.name)?) {
            return Err(DiskError::Busy("a program still writes to what is kept aside".to_owned()));
        }
        if is_database {
            self.fold_sides(draft)?;
        }
        attributes::finish_copy(&target, self.aside.pin(kept)?, stat)
    }

    fn draft_side(&self, dir: &OwnedFd, side: &[u8], draft: &[u8]) -> Result<(), DiskError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match openat(dir, side, flags, Mode::empty()) {
            Err(Errno::NOENT) => match unlinkat(&self.staging, draft, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(failed("remove a stage", error)),
            },
            Err(error) => Err(failed("open what is kept aside", error)),
            Ok(source) => {
                let target = create(&self.staging, &String::from_utf8_lossy(draft))?;
                copy(&File::from(source), &target).map_err(|error| failed("copy a file", error))
            }
        }
    }

    /// SQLite itself plays the log or journal into the private copy.
    fn fold_sides(&self, draft: &str) -> Result<(), DiskError> {
        let what = "read a database that is kept aside";
        let broken = |error: rusqlite::Error| DiskError::Io { what, reason: error.to_string() };
        let rows = Connection::open(self.state.join("staging").join(draft)).map_err(broken)?;
        rows.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(broken)?;
        rows.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(broken)?;
        drop(rows);
        for side in side_names(draft.as_bytes()) {
            let _ = unlinkat(&self.staging, &side[..], AtFlags::empty());
        }
        Ok(())
    }

    /// Renames an entry over `to`, if that is exactly as expected; a live database there is parted from its side files first.
    pub(super) fn put_over(
        &mut self,
        from: (&OwnedFd, &[u8]),
        to: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<(), DiskError> {
        let place = self.place_of(to, expect)?;
        self.detach_sides(to)?;
        self.last = None;
        match renameat(from.0, from.1, &place.dir, place.name) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::NOTEMPTY) => return Err(DiskError::NotEmpty),
            Err(error) => return Err(failed("rename into place", error)),
        }
        self.touch(to);
        // What a cut held is the old content now.
        self.cuts.forget(to);
        Ok(())
    }

    pub(super) fn remove_aside(&mut self, folder: &str) -> Result<(), DiskError> {
        self.clear_dropped()?;
        match renameat(self.aside.fd(), folder, self.aside.fd(), DROPPED) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed("remove a branch", error)),
        }
        fsync(self.aside.fd()).map_err(dead)?;
        self.clear_dropped()
    }

    fn clear_dropped(&self) -> Result<(), DiskError> {
        match std::fs::remove_dir_all(self.state.join("aside").join(DROPPED)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove a branch", error))
            }
            _ => Ok(()),
        }
    }
}

/// The place of a branch's path in `aside/`.
pub(super) fn place_of(folder: &str, path: &RelPath) -> Result<RelPath, DiskError> {
    let place = OsStr::new(folder).as_bytes();
    RelPath::new([place, b"/", path.as_bytes()].concat())
        .map_err(|error| failed("name a place in aside/", std::io::Error::other(error)))
}

/// The branch and the path that a place in `aside/` is of.
fn split(place: &RelPath) -> Option<(String, RelPath)> {
    let bytes = place.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'/')?;
    Some((String::from_utf8(bytes[..at].to_vec()).ok()?, RelPath::new(&bytes[at + 1..]).ok()?))
}
