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
//! * Main file and side files have been quiet for [`QUIET`]: they are copied raw, and looked at again; if anything
//!   moved, the copy is void. SQLite then replays the copied log or journal in the *copy*.
//! * Not quiet, with a write-ahead log: somebody is writing. A second connection, read-only, copies the database in one
//!   step within one read transaction (SQLite's backup API). It never checkpoints, also not when it closes; in WAL mode
//!   a reader never blocks a writer. Only a restarting or truncating checkpoint, and a change of the journal mode, can
//!   find it in the way, for the milliseconds that one copy takes.
//! * Not quiet, with a rollback journal: the copy is raw, between two commits: no journal before and after, and the same
//!   change counter (bytes 24..28 of the file). If there is no such moment, the cut is tried again later. No lock is
//!   ever taken.
//!
//! Every cut passes `PRAGMA quick_check` before it is published. The header's journal mode (bytes 18, 19) is as the
//! application set it, so that the application finds its mode again on the replica. In WAL mode the change counter means
//! nothing and the backup API does not keep it, so that all cuts of such a database get the same one: the same
//! content then gives the same bytes, whichever way it was read. A database with a rollback journal is copied exactly.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::fstat;

use super::tree::{Tree, convert, failed, stat_in};
use crate::chunk::SQLITE_MAGIC;
use crate::disk::{DiskError, FileKind, Stat};
use crate::path::RelPath;

/// How long files must have been left alone to be copied raw: more than the granularity of their times.
pub(super) const QUIET: Duration = Duration::from_millis(20);
/// The version that introduced WAL mode stands in the header of every cut of a WAL-mode database.
const WRITER_VERSION: u32 = 3_007_000;
/// How often a raw copy between two commits is tried at once.
const ATTEMPTS_MAX: usize = 20;
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
        if let Some(file) = self.find((stat.dev, stat.ino)) {
            return Ok(Opened::Database(file));
        }
        let file = tree.file(path)?;
        let opened = fstat(&file).map_err(|error| failed("stat", error))?;
        let opened = convert(&opened);
        let mut head = [0; 16];
        let is_database = opened.kind == FileKind::File
            && file.read_exact_at(&mut head, 0).is_ok()
            && head == *SQLITE_MAGIC;
        if !is_database {
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

/// What a cut needs to know of its source.
pub(super) struct Source<'a> {
    /// The directory of the main file.
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
    /// The kept descriptor of the main file.
    pub(super) file: &'a File,
    /// A path of the main file for SQLite to open.
    pub(super) path: &'a Path,
}

/// Main file, log and journal as they stand.
#[derive(PartialEq, Eq)]
struct Standing([Option<Stat>; 3]);

impl Standing {
    fn of(source: &Source<'_>) -> Result<Self, DiskError> {
        let [wal, journal, _] = side_names(source.name);
        let dir = source.dir;
        Ok(Self([stat_in(dir, source.name)?, side_stat(dir, &wal)?, side_stat(dir, &journal)?]))
    }

    fn is_quiet(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let quiet = |stat: &Stat| {
            let latest = u64::try_from(stat.mtime_ns.max(stat.ctime_ns)).unwrap_or(0);
            now.saturating_sub(Duration::from_nanos(latest)) >= QUIET
        };
        self.0.iter().flatten().all(quiet)
    }
}

/// Whether the main file and its side files were left alone long enough that a later change shows in their times.
pub(super) fn is_quiet(source: &Source<'_>) -> Result<bool, DiskError> {
    Ok(Standing::of(source)?.is_quiet())
}

/// Takes a cut into the file `to`, which does not exist yet; on an error nothing is left there.
pub(super) fn cut(source: &Source<'_>, to: &Path) -> Result<(), DiskError> {
    let result = take(source, to).and_then(|()| level(to)).and_then(|()| check(to));
    if result.is_err() {
        clear(to);
    }
    result
}

/// Removes a cut, whole or half-made.
pub(super) fn clear(to: &Path) {
    for suffix in ["", "-wal", "-journal", "-shm"] {
        let _ = std::fs::remove_file(with_suffix(to, suffix));
    }
}

fn take(source: &Source<'_>, to: &Path) -> Result<(), DiskError> {
    clear(to);
    let standing = Standing::of(source)?;
    let [_, wal, journal] = &standing.0;
    if standing.is_quiet() {
        copy_still(source, &standing, to)
    } else if wal.is_some() {
        copy_live(source.path, to)
    } else if journal.is_none() || is_cold_journal(source) {
        copy_between_commits(source, to)
    } else {
        Err(DiskError::Busy("the database is in the middle of a commit".to_owned()))
    }
}

/// Writes fixed values for what the ways of copying a WAL-mode database disagree on: change counter (bytes 24..28), the
/// counter for which the header's size field holds (92..96), and the version of the last writer (96..100).
fn level(cut: &Path) -> Result<(), DiskError> {
    let level = || -> std::io::Result<()> {
        let file = File::options().read(true).write(true).open(cut)?;
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0)?;
        if header[18..20] == [2, 2] {
            header[24..28].copy_from_slice(&1_u32.to_be_bytes());
            header[92..96].copy_from_slice(&1_u32.to_be_bytes());
            header[96..100].copy_from_slice(&WRITER_VERSION.to_be_bytes());
            file.write_all_at(&header, 0)?;
        }
        Ok(())
    };
    level().map_err(|error| failed("write a cut", error))
}

/// Copies files that nobody writes, and lets SQLite recover the copy.
fn copy_still(source: &Source<'_>, before: &Standing, to: &Path) -> Result<(), DiskError> {
    copy_file(source.file, to)?;
    let [wal, journal, _] = side_names(source.name);
    let mut sides = false;
    for (stat, name, suffix) in [(&before.0[1], wal, "-wal"), (&before.0[2], journal, "-journal")] {
        if stat.is_some() {
            sides = true;
            let flags =
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
            let side = rustix::fs::openat(source.dir, &name[..], flags, rustix::fs::Mode::empty())
                .map_err(|_| DiskError::Changed)?;
            copy_file(&File::from(side), &with_suffix(to, suffix))?;
        }
    }
    if Standing::of(source)? != *before {
        return Err(DiskError::Busy("the database changed while it was copied".to_owned()));
    }
    if sides {
        recover(to)
            .map_err(|error| DiskError::Busy(format!("the database's log cannot be replayed: {error}")))?;
    }
    Ok(())
}

/// Brings log or journal of a private copy into its main file.
fn recover(copy: &Path) -> Result<(), rusqlite::Error> {
    let connection = Connection::open(copy)?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    drop(connection);
    for suffix in ["-wal", "-journal", "-shm"] {
        let _ = std::fs::remove_file(with_suffix(copy, suffix));
    }
    Ok(())
}

/// One read transaction of a second connection, while somebody writes in WAL mode.
fn copy_live(from: &Path, to: &Path) -> Result<(), DiskError> {
    let copy = || -> Result<u32, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let source = Connection::open_with_flags(from, flags)?;
        source.busy_timeout(Duration::ZERO)?;
        source.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        source.execute_batch("BEGIN")?;
        let cookie: u32 = source.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
        source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        let mut target = Connection::open(to)?;
        target.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")?;
        rusqlite::backup::Backup::new(&source, &mut target)?.step(-1)?;
        Ok(cookie)
    };
    let cookie =
        copy().map_err(|error| DiskError::Busy(format!("no read transaction on the database: {error}")))?;
    let patch =
        File::options().write(true).open(to).and_then(|file| file.write_all_at(&cookie.to_be_bytes(), 40));
    patch.map_err(|error| failed("write a cut", error))
}

/// Copies the main file in a moment between two commits of a rollback-journal database.
fn copy_between_commits(source: &Source<'_>, to: &Path) -> Result<(), DiskError> {
    for _ in 0..ATTEMPTS_MAX {
        let before = Standing::of(source)?;
        let counter = change_counter(source.file)?;
        let still = before.0[1].is_none() && (before.0[2].is_none() || is_cold_journal(source));
        if !still {
            continue;
        }
        copy_file(source.file, to)?;
        let after = Standing::of(source)?;
        let cold = after.0[2].is_none() || is_cold_journal(source);
        let copied = change_counter(&File::open(to).map_err(|error| failed("open a cut", error))?)?;
        if cold && before.0[0] == after.0[0] && counter == change_counter(source.file)? && counter == copied {
            return Ok(());
        }
    }
    Err(DiskError::Busy("the database is written without a pause that is long enough to copy it".to_owned()))
}

/// A journal of the mode PERSIST or TRUNCATE between transactions: there, but its header is zero.
fn is_cold_journal(source: &Source<'_>) -> bool {
    let [_, journal, _] = side_names(source.name);
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    match rustix::fs::openat(source.dir, &journal[..], flags, rustix::fs::Mode::empty()) {
        Ok(file) => {
            let mut head = [1; 8];
            match File::from(file).read_exact_at(&mut head, 0) {
                Ok(()) => head == [0; 8],
                Err(error) => error.kind() == ErrorKind::UnexpectedEof,
            }
        }
        Err(error) => error == rustix::io::Errno::NOENT,
    }
}

fn change_counter(file: &File) -> Result<[u8; 4], DiskError> {
    let mut counter = [0; 4];
    file.read_exact_at(&mut counter, 24)
        .map_err(|error| DiskError::Busy(format!("no database header: {error}")))?;
    Ok(counter)
}

fn check(cut: &Path) -> Result<(), DiskError> {
    let verdict = || -> Result<String, rusqlite::Error> {
        // Nobody else has it: no locks, and no side files even if its header says WAL.
        let mut uri = "file:".to_owned();
        for &byte in std::os::unix::ffi::OsStrExt::as_bytes(cut.as_os_str()) {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    uri.push(char::from(byte))
                }
                _ => uri.push_str(&format!("%{byte:02x}")),
            }
        }
        uri.push_str("?immutable=1");
        let connection =
            Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)?;
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    };
    match verdict() {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(DiskError::Busy(format!("the database fails its quick_check: {verdict}"))),
        Err(error) => Err(DiskError::Busy(format!("the database cannot be checked: {error}"))),
    }
}

fn copy_file(from: &File, to: &Path) -> Result<(), DiskError> {
    let target = File::options().write(true).create(true).truncate(true).open(to);
    let target = target.map_err(|error| failed("create a cut", error))?;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let read = from.read_at(&mut buffer, offset).map_err(|error| failed("read a database", error))?;
        if read == 0 {
            return Ok(());
        }
        target.write_all_at(&buffer[..read], offset).map_err(|error| failed("write a cut", error))?;
        offset += read as u64;
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_leaves_the_fingerprint_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let application = Connection::open(&path).unwrap();
        application.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE a (n)").unwrap();
        let (opened, file) = (File::open(dir.path()).unwrap(), File::open(&path).unwrap());
        let source = Source { dir: opened.as_fd(), name: b"app.db", file: &file, path: &path };
        let before = side_print(&opened, b"app.db").unwrap();
        std::thread::sleep(Duration::from_millis(5));
        copy_live(&path, &dir.path().join("copy")).unwrap();
        assert_eq!(side_print(&opened, b"app.db").unwrap(), before);
        cut(&source, &dir.path().join("cut")).unwrap();
        assert_eq!(side_print(&opened, b"app.db").unwrap(), before);
    }
}
