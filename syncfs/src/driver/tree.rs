//! [`Tree`]: the folder's directory as a file descriptor. Every step resolves its path from there, beneath it and
//! through real directories only (`openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), so that no symlink, however
//! it is swapped meanwhile, leads out of the folder.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, openat, openat2, statat};
use rustix::io::Errno;

use crate::disk::{DiskError, FileKind, Stat};
use crate::path::RelPath;
use crate::record::Owner;

/// Whether this kernel lacks `openat2` (before 5.6, or hidden by a sandbox).
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// An open directory that is the top of everything.
#[derive(Debug)]
pub(super) struct Tree(OwnedFd);

/// The directory that holds an entry, and the entry's name in it.
pub(super) struct Place<'a> {
    pub(super) dir: OwnedFd,
    pub(super) name: &'a [u8],
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self(root)
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Opens the directory that holds `path`.
    pub(super) fn place<'a>(&self, path: &'a RelPath) -> Result<Place<'a>, DiskError> {
        let dir = self.dir(path.parent().as_ref())?;
        Ok(Place { dir, name: path.name() })
    }

    /// Opens a directory; the top for `None`.
    pub(super) fn dir(&self, path: Option<&RelPath>) -> Result<OwnedFd, DiskError> {
        let path = path.map_or(&b"."[..], RelPath::as_bytes);
        match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => Ok(dir),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(DiskError::NoParent),
            Err(error) => Err(failed("open a directory", error)),
        }
    }

    /// Opens a regular file to read; never a symlink, and never blocking on a pipe.
    pub(super) fn file(&self, path: &RelPath) -> Result<File, DiskError> {
        match self.open(path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => Ok(File::from(file)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(DiskError::Changed),
            Err(error) => Err(failed("open", error)),
        }
    }

    /// An entry itself, not opened for anything but its attributes.
    pub(super) fn pin(&self, path: &RelPath) -> Result<OwnedFd, DiskError> {
        match self.open(path.as_bytes(), OFlags::PATH) {
            Ok(pinned) => Ok(pinned),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(DiskError::Changed),
            Err(error) => Err(failed("open", error)),
        }
    }

    pub(super) fn stat(&self, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        let place = self.place(path)?;
        stat_in(&place.dir, place.name)
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match openat2(&self.0, path, flags, Mode::empty(), resolve) {
                Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        self.open_by_steps(path, flags)
    }

    /// One name at a time, none of them a symlink.
    fn open_by_steps(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut dir = openat(&self.0, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mut names = path.split(|&byte| byte == b'/').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                return openat(&dir, name, flags | OFlags::NOFOLLOW, Mode::empty());
            }
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = openat(&dir, name, step, Mode::empty())?;
        }
        Err(Errno::NOENT)
    }
}

/// What stands under a name in an open directory.
pub(super) fn stat_in(dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>, DiskError> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(convert(&stat))),
        // Nothing can have a name that is too long, such as that of a log beside a name of full length.
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(error) => Err(failed("stat", error)),
    }
}

/// A file to write from nothing, in a directory of this replica's own, for its owner's eyes only.
pub(super) fn create(dir: impl AsFd, name: &str) -> Result<File, DiskError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(dir, name, flags, Mode::from_raw_mode(0o600));
    Ok(File::from(file.map_err(|error| failed("create a file", error))?))
}

/// The system's fingerprint as ours; `side` is filled in by whoever knows of databases.
#[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between architectures")]
pub(super) fn convert(stat: &rustix::fs::Stat) -> Stat {
    use rustix::fs::FileType;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Special,
    };
    let time =
        |seconds: i64, nanoseconds: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    Stat {
        kind,
        size: stat.st_size as u64,
        mode: stat.st_mode & 0o7777,
        mtime_ns: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime_ns: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        dev: stat.st_dev as u64,
        ino: stat.st_ino as u64,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        owner: Owner { uid: stat.st_uid, gid: stat.st_gid },
        side: 0,
    }
}

/// A step that the system refused: about this entry, about room, or about everything.
pub(super) fn failed(what: &'static str, error: impl Into<io::Error>) -> DiskError {
    let error = error.into();
    let reason = error.to_string();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => DiskError::Full { what, reason },
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::ROFS) => {
            DiskError::Unusable { what, reason }
        }
        _ => DiskError::Io { what, reason },
    }
}

/// A modification time for the calls that set one.
pub(super) fn times(mtime_ns: i64) -> Timestamps {
    let time =
        Timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time, last_modification: time }
}

/// After a failed sync nobody knows what is on the platter; trying again would only hide it.
pub(super) fn dead(error: Errno) -> DiskError {
    DiskError::Dead(format!("a sync failed ({error}): check the disk; what is not durable is written again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_symlink_leads_anywhere_with_and_without_openat2() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::fs::write(folder.path().join("real/file"), "f").unwrap();
        let tree = Tree::new(OwnedFd::from(File::open(folder.path()).unwrap()));
        let (bad, good) = (RelPath::new("link/secret").unwrap(), RelPath::new("real/file").unwrap());
        assert_eq!(tree.file(&bad).unwrap_err(), DiskError::Changed);
        assert_eq!(tree.stat(&bad).unwrap_err(), DiskError::NoParent);
        assert!(tree.file(&good).is_ok());
        assert!(tree.open_by_steps(bad.as_bytes(), OFlags::RDONLY).is_err());
        assert!(tree.open_by_steps(good.as_bytes(), OFlags::RDONLY).is_ok());
        assert!(tree.open_by_steps(b"link", OFlags::RDONLY).is_err());
    }
}
