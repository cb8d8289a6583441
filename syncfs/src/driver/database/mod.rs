//! SQLite databases: how their files are read without disturbing the application, and how a *cut* is taken, a
//! complete standalone copy of the database as of one committed transaction.
//!
//! # The lock trap
//!
//! POSIX locks belong to a process and an inode: when a process closes *any* descriptor of a file, it loses *all* its
//! locks on it. An application that is embedded in this process, or simply shares it, would lose the locks of its open
//! database the moment this crate closed a descriptor of that file, and two writers could then corrupt it. So the
//! main file of a database is never opened and closed raw: its descriptor is kept in a process-wide registry, by
//! device and inode, and reused until the folder closes. An empty file, which may be a database about to be, is not
//! opened at all. `-wal` and `-journal` files carry no locks and may be; `-shm` files do, and are never opened here.
//! SQLite itself knows the trap: its own connections in one process share their descriptors.
//!
//! # The cut
//!
//! Nothing is ever asked of SQLite: no second connection, no lock, no touch of `-shm`, no checkpoint, so there is nothing
//! that the application could notice. A cut ([`cut`]) is read beside it and *proven* afterwards.
//!
//! * *With a write-ahead log* the state as of the last commit is the main file, overlaid with the newest committed frame
//!   of each page. What a checkpoint writes into the main file while it is read comes from frames of this very
//!   generation of the log: if the log's header is the same before and after, and all frames that were committed by the
//!   end are laid over what was read, the image is exactly the last commit. The next cut reads only the new
//!   frames. When the log was begun anew meanwhile, the rest of the old generation usually still stands behind the new
//!   frames and is followed to its end first; where that cannot be proven, everything is read (and compared) once.
//! * *Without*, the main file is complete whenever no journal would be played back. It is read whole and compared,
//!   and that counts if the file's times, which were older than the clock's last tick when reading began, are still the
//!   same. A database with `journal_mode` OFF or MEMORY does not show when it is complete: it is read once it
//!   was left alone for [`UNWITNESSED`]. So is one whose application died in a transaction: its journal is played
//!   back by SQLite, in a private copy.
//!
//! *With a lock*, and only if [`SqliteLock::Brief`](crate::SqliteLock::Brief) allows it, a database without a log is copied that
//! could not be read for half a second: under SQLite's own shared lock, for about 5 ms, and then from the copy. The lock belongs
//! to the kept descriptor (`F_OFD_SETLK`), so that it is no part of the trap above.
//!
//! A cut is not stored. Its blocks' hashes are kept ([`crate::sqlite::blocks`]), and for a while the bytes of those that
//! changed; all else is read back from the live files and checked. A checkpoint writes exactly the bytes of the log, so
//! the same state gives the same image whichever way it is read.

mod copied;
mod cut;
mod image;
mod lock;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::fstat;

pub(super) use cut::Cuts;
pub(super) use image::{Source, read_up_to};

use super::tree::{Tree, convert, failed, stat_in};
use crate::chunk::SQLITE_MAGIC;
use crate::disk::{DiskError, FileKind, Stat};
use crate::path::RelPath;

/// How long a file must have been left alone for its times to show a later change: more than their granularity.
pub(super) const QUIET: Duration = Duration::from_millis(20);
/// How long a database must have been left alone that does not show whether it is complete.
pub(super) const UNWITNESSED: Duration = Duration::from_millis(500);
/// The files beside a database that belong to it and are never replicated.
const SIDES: [&[u8]; 3] = [b"-wal", b"-journal", b"-shm"];

type Inode = (u64, u64);

static REGISTRY: Mutex<BTreeMap<Inode, Weak<File>>> = Mutex::new(BTreeMap::new());

/// The descriptors of databases that one folder keeps open.
#[derive(Debug, Default)]
pub(super) struct Databases {
    held: BTreeMap<Inode, Arc<File>>,
}

/// A regular file, open for reading.
pub(super) enum Opened {
    /// A database: its descriptor stays open.
    Database(Arc<File>),
    /// Anything else.
    Plain(File),
}

impl Opened {
    pub(super) fn file(&self) -> &File {
        match self {
            Self::Database(file) => file,
            Self::Plain(file) => file,
        }
    }
}

impl Databases {
    /// Opens a file that is not empty, through the registry.
    pub(super) fn open(&mut self, tree: &Tree, path: &RelPath, stat: &Stat) -> Result<Opened, DiskError> {
        assert!(stat.size > 0, "an empty file may be a database about to be: it is not opened");
        // What was written over one from its first byte on is none any more.
        let is_still = |file: &File| stat.side != 0 || is_database(file);
        if let Some(file) = self.find((stat.dev, stat.ino)).filter(|file| is_still(file)) {
            return Ok(Opened::Database(file));
        }
        let file = tree.file(path)?;
        let opened = fstat(&file).map_err(|error| failed("stat", error))?;
        let opened = convert(&opened);
        if opened.kind != FileKind::File || !is_database(&file) {
            return Ok(Opened::Plain(file));
        }
        Ok(Opened::Database(self.hold((opened.dev, opened.ino), file)))
    }

    fn find(&mut self, inode: Inode) -> Option<Arc<File>> {
        if let Some(file) = self.held.get(&inode) {
            return Some(Arc::clone(file));
        }
        let registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        let file = registry.get(&inode)?.upgrade()?;
        self.held.insert(inode, Arc::clone(&file));
        Some(file)
    }

    fn hold(&mut self, inode: Inode, file: File) -> Arc<File> {
        // No path leads to a file without a name: nobody contends for its locks any more.
        self.held.retain(|_, file| fstat(&**file).is_ok_and(|stat| stat.st_nlink > 0));
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        registry.retain(|_, file| file.strong_count() > 0);
        let file = Arc::new(file);
        registry.insert(inode, Arc::downgrade(&file));
        self.held.insert(inode, Arc::clone(&file));
        file
    }

    /// Whether a file that stands in `dir` is a database, or is empty and may become one.
    pub(super) fn is_database(&mut self, tree: &Tree, path: &RelPath, stat: &Stat) -> bool {
        stat.kind == FileKind::File
            && (stat.size == 0 || matches!(self.open(tree, path, stat), Ok(Opened::Database(_))))
    }

    /// Whether the path is a side file of a database, or what one left behind.
    pub(super) fn is_side(&mut self, tree: &Tree, dir: impl AsFd, path: &RelPath) -> bool {
        let Some(stem) = side_stem(path) else { return false };
        match stat_in(&dir, stem.name()) {
            Ok(Some(stat)) => self.is_database(tree, &stem, &stat),
            _ => is_leftover(tree, path),
        }
    }
}

fn is_database(file: &File) -> bool {
    let mut head = [0; 16];
    file.read_exact_at(&mut head, 0).is_ok() && head == *SQLITE_MAGIC
}

/// `x` for `x-wal`, `x-journal` and `x-shm`.
pub(super) fn side_stem(path: &RelPath) -> Option<RelPath> {
    let suffix = SIDES.iter().find(|suffix| path.name().ends_with(suffix))?;
    RelPath::new(&path.as_bytes()[..path.as_bytes().len() - suffix.len()]).ok()
}

/// The names of a database's side files, `-wal` and `-journal` first.
pub(super) fn side_names(name: &[u8]) -> [Vec<u8>; 3] {
    SIDES.map(|suffix| [name, suffix].concat())
}

/// Fingerprints what beside the main file belongs to the database's content; 0 if there is nothing.
pub(super) fn side_print(dir: impl AsFd, name: &[u8]) -> Result<u64, DiskError> {
    let mut hasher = blake3::Hasher::new();
    let mut any = false;
    for side in &side_names(name)[..2] {
        if let Some(stat) = side_stat(&dir, side)? {
            any = true;
            for word in [stat.ino, stat.size, stat.mtime_ns as u64] {
                hasher.update(&word.to_le_bytes());
            }
        }
        hasher.update(b"/");
    }
    let word = hasher.finalize().as_bytes()[..8].try_into().expect("a hash has more than eight bytes");
    Ok(if any { u64::from_le_bytes(word).max(1) } else { 0 })
}

/// When log or journal last changed; the earliest time if there is neither.
pub(super) fn side_mtime_ns(dir: impl AsFd, name: &[u8]) -> Result<i64, DiskError> {
    let mut latest = i64::MIN;
    for side in &side_names(name)[..2] {
        latest = side_stat(&dir, side)?.map_or(latest, |stat| latest.max(stat.mtime_ns));
    }
    Ok(latest)
}

/// A log or journal that holds something. Its change time says nothing: SQLite sets the owner of both whenever root
/// opens them, also to read, so that a cut would look like a change, and be answered with another cut, for ever.
fn side_stat(dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>, DiskError> {
    let stat = stat_in(dir, name)?.filter(|stat| stat.size > 0);
    Ok(stat.map(|stat| Stat { ctime_ns: 0, ..stat }))
}

/// A log or journal whose database is gone, by its first bytes.
fn is_leftover(tree: &Tree, path: &RelPath) -> bool {
    if path.name().ends_with(b"-shm") {
        return matches!(tree.stat(path), Ok(Some(stat)) if stat.size > 0 && stat.size % 32_768 == 0);
    }
    let mut head = [0; 8];
    let read = tree.file(path).is_ok_and(|file| file.read_exact_at(&mut head, 0).is_ok());
    read && (head[..3] == [0x37, 0x7f, 0x06] || head == [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7])
}

#[cfg(test)]
mod tests;
