//! The kept versions: contents by their name in `history/` of the state directory, each once, and a row in `history.db` for
//! every version. A content is there before its row, and its row before the version loses its place.
//!
//! A content costs no copy: it is a second name of the inode that is about to be replaced. Only a file with more names than
//! its own is copied, because a program could go on writing through another one. A database that is in use here (it has a
//! log or a journal) is not kept: its file alone is no version.
//!
//! Tidying up is done in small steps while nothing else is to do. A file without a row, or a row without a file, is what a
//! crash left: both go.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, params};
use rustix::fs::{Advice, AtFlags, Mode, OFlags, fadvise, fchmod, fsync, futimens, linkat, openat, unlinkat};
use rustix::io::Errno;

use super::database::Opened;
use super::disk::RealDisk;
use super::reading::hash;
use super::sparse::copy;
use super::tree::{create, dead, failed, stat_in, times};
use crate::config::Config;
use crate::device::DeviceId;
use crate::disk::{DiskError, FileKind, Replaced, Stat};
use crate::error::RestoreError;
use crate::hash::ContentHash;
use crate::history::{History, Version};
use crate::path::RelPath;

/// Paths that one step of tidying up looks at.
const TIDY_PATHS: i64 = 256;
/// Contents that one step removes to get below the bound on their size.
const TIDY_ROOTS: i64 = 64;
/// Contents that are opened at once to be checked.
const CONTENTS: i64 = 16;
/// Most versions that one question is answered with.
pub(super) const VERSIONS_MAX: usize = 10_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS version (
        id INTEGER PRIMARY KEY, path BLOB NOT NULL, root BLOB NOT NULL, size INTEGER NOT NULL, mode INTEGER NOT NULL,
        mtime INTEGER NOT NULL, replaced INTEGER NOT NULL, writer BLOB NOT NULL, deleted INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS by_path ON version (path, replaced);
    CREATE INDEX IF NOT EXISTS by_root ON version (root);
    CREATE INDEX IF NOT EXISTS by_time ON version (replaced);
    PRAGMA user_version = 1";
const VERSION: &str = "id, path, root, size, mode, mtime, replaced, writer, deleted";

/// A kept content, and a version that it is of.
pub(super) type Opening = (Result<File, Errno>, Version);

/// The store.
#[derive(Debug)]
pub(super) struct Kept {
    policy: History,
    bytes_max: u64,
    place: PathBuf,
    dir: OwnedFd,
    rows: Connection,
    /// Where tidying up is: `None` before what a crash left was looked for.
    tidied: Option<Vec<u8>>,
}

impl Kept {
    pub(super) fn open(config: &Config, state: &Path) -> Result<Self, DiskError> {
        let place = state.join("history");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&place, flags, Mode::empty())
            .map_err(|error| failed("open the history", error))?;
        let rows = Connection::open(state.join("history.db")).map_err(broken)?;
        rows.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-512")
            .map_err(broken)?;
        let format: i64 = rows.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(broken)?;
        if format > 1 {
            return Err(broken("it is of a newer version of this program"));
        }
        rows.execute_batch(SCHEMA).map_err(broken)?;
        let (policy, bytes_max) = (config.history, config.history_bytes_max);
        Ok(Self { policy, bytes_max, place, dir, rows, tidied: None })
    }

    /// The versions of a path, or of everything below it, newest first.
    pub(super) fn versions(&self, path: &RelPath) -> Result<Vec<Version>, DiskError> {
        let (from, to) = ([path.as_bytes(), b"/"].concat(), [path.as_bytes(), b"0"].concat());
        let sql = format!(
            "SELECT {VERSION} FROM version WHERE path = ?1 OR path > ?2 AND path < ?3
             ORDER BY replaced DESC, id DESC LIMIT ?4"
        );
        self.query(&sql, params![path.as_bytes(), from, to, VERSIONS_MAX as i64])
    }

    pub(super) fn version(&self, id: u64) -> Result<Option<Version>, DiskError> {
        let sql = format!("SELECT {VERSION} FROM version WHERE id = ?1");
        Ok(self.query(&sql, [id.cast_signed()])?.pop())
    }

    /// The version that stood at each path at or below this one at a moment, as far as it is kept: the first that was
    /// replaced after it.
    pub(super) fn at(&self, path: &RelPath, at_ns: i64) -> Result<Vec<Version>, DiskError> {
        let (from, to) = ([path.as_bytes(), b"/"].concat(), [path.as_bytes(), b"0"].concat());
        // SQLite takes the other columns from the row that has the minimum.
        let sql = format!(
            "SELECT {VERSION}, min(replaced) FROM version
             WHERE (path = ?1 OR path > ?2 AND path < ?3) AND replaced > ?4 GROUP BY path"
        );
        self.query(&sql, params![path.as_bytes(), from, to, at_ns])
    }

    /// The kept contents with the next names after this one, opened, each with the newest version that it is of.
    pub(super) fn contents(&self, after: Option<&ContentHash>) -> Result<Vec<Opening>, DiskError> {
        // SQLite takes the other columns from the row that has the maximum.
        let sql = format!(
            "SELECT {VERSION}, max(id) FROM version WHERE root > ?1 GROUP BY root ORDER BY root LIMIT ?2"
        );
        let after = after.map_or(&[][..], |root| root.as_bytes());
        let versions = self.query(&sql, params![after, CONTENTS])?;
        Ok(versions.into_iter().map(|version| (self.content(&version.root), version)).collect())
    }

    fn content(&self, root: &ContentHash) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.dir, root.to_string(), flags, Mode::empty()).map(File::from)
    }

    fn query(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Version>, DiskError> {
        let mut statement = self.rows.prepare_cached(sql).map_err(broken)?;
        let versions = statement.query_map(values, version_of).map_err(broken)?;
        versions.collect::<Result<_, _>>().map_err(broken)
    }

    fn last_kept(&self, path: &RelPath) -> Result<Option<i64>, rusqlite::Error> {
        let sql = "SELECT max(replaced) FROM version WHERE path = ?1";
        self.rows.prepare_cached(sql)?.query_row([path.as_bytes()], |row| row.get(0))
    }

    fn add(&self, replaced: &Replaced, now_ns: i64) -> Result<(), rusqlite::Error> {
        let sql = "INSERT INTO version VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let stat = &replaced.seen;
        self.rows.prepare_cached(sql)?.execute(params![
            replaced.path.as_bytes(),
            replaced.root.as_bytes(),
            stat.size.cast_signed(),
            stat.mode,
            stat.mtime_ns,
            now_ns,
            replaced.by.as_bytes(),
            replaced.deleted,
        ])?;
        Ok(())
    }

    /// A bounded step of thinning out. Returns whether there is more to do now.
    pub(super) fn tidy(&mut self) -> Result<bool, DiskError> {
        let Some(after) = self.tidied.take() else {
            self.sweep()?;
            self.tidied = Some(Vec::new());
            return Ok(true);
        };
        let sql = "SELECT DISTINCT path FROM version WHERE path > ?1 ORDER BY path LIMIT ?2";
        let paths: Vec<Vec<u8>> = {
            let mut statement = self.rows.prepare_cached(sql).map_err(broken)?;
            let paths = statement.query_map(params![after, TIDY_PATHS], |row| row.get(0)).map_err(broken)?;
            paths.collect::<Result<_, _>>().map_err(broken)?
        };
        let now = now_ns();
        let mut gone = Vec::new();
        for path in &paths {
            let mut statement = self
                .rows
                .prepare_cached(
                    "SELECT id, root, replaced FROM version WHERE path = ?1 ORDER BY replaced, id",
                )
                .map_err(broken)?;
            let rows = statement.query_map([path], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            let rows: Vec<(i64, [u8; 32], i64)> = rows.and_then(Iterator::collect).map_err(broken)?;
            let times: Vec<_> = rows.iter().map(|(_, _, at)| *at).collect();
            gone.extend(self.policy.expired(&times, now).into_iter().map(|at| (rows[at].0, rows[at].1)));
        }
        self.drop(&gone)?;
        let more = paths.len() as i64 == TIDY_PATHS;
        self.tidied = Some(paths.into_iter().next_back().filter(|_| more).unwrap_or_default());
        Ok(more || self.shrink()?)
    }

    /// Drops the oldest versions until the contents fit their bound. Returns whether there is more to drop.
    fn shrink(&mut self) -> Result<bool, DiskError> {
        let sql = "SELECT coalesce(sum(size), 0) FROM (SELECT max(size) AS size FROM version GROUP BY root)";
        let total = self.rows.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(broken)?;
        if total.cast_unsigned() <= self.bytes_max {
            return Ok(false);
        }
        let mut over = total.cast_unsigned() - self.bytes_max;
        let sql = "SELECT id, root, size FROM version ORDER BY replaced, id LIMIT ?1";
        let oldest: Vec<(i64, [u8; 32], i64)> = {
            let mut statement = self.rows.prepare_cached(sql).map_err(broken)?;
            let rows = statement.query_map([TIDY_ROOTS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            rows.and_then(Iterator::collect).map_err(broken)?
        };
        let mut gone = Vec::new();
        for (id, root, size) in oldest {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(size.cast_unsigned());
            gone.push((id, root));
        }
        self.drop(&gone)?;
        Ok(true)
    }

    /// Rows first, durably; then contents that no row names any more.
    fn drop(&mut self, versions: &[(i64, [u8; 32])]) -> Result<(), DiskError> {
        if versions.is_empty() {
            return Ok(());
        }
        let drop = || -> Result<Vec<ContentHash>, rusqlite::Error> {
            let transaction = self.rows.unchecked_transaction()?;
            let mut unnamed = Vec::new();
            for (id, _) in versions {
                transaction.execute("DELETE FROM version WHERE id = ?1", [id])?;
            }
            for (_, root) in versions {
                let sql = "SELECT 1 FROM version WHERE root = ?1 LIMIT 1";
                if transaction.query_row(sql, [root], |_| Ok(())).optional()?.is_none() {
                    unnamed.push(ContentHash::from_bytes(*root));
                }
            }
            transaction.commit()?;
            Ok(unnamed)
        };
        for root in drop().map_err(broken)? {
            self.remove(&root.to_string())?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove a kept version", error)),
        }
    }

    /// Removes what a crash left: files without rows, rows without files.
    fn sweep(&mut self) -> Result<(), DiskError> {
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(&self.place).map_err(|error| failed("list the history", error))? {
            let entry = entry.map_err(|error| failed("list the history", error))?;
            files.insert(entry.file_name().to_string_lossy().into_owned());
        }
        let roots: Vec<ContentHash> = {
            let mut statement = self.rows.prepare("SELECT DISTINCT root FROM version").map_err(broken)?;
            let roots = statement.query_map([], |row| row.get(0).map(ContentHash::from_bytes));
            roots.and_then(Iterator::collect).map_err(broken)?
        };
        for root in roots {
            if !files.remove(&root.to_string()) {
                let sql = "DELETE FROM version WHERE root = ?1";
                self.rows.execute(sql, [root.as_bytes()]).map_err(broken)?;
            }
        }
        files.iter().try_for_each(|name| self.remove(name))?;
        Ok(())
    }
}

impl RealDisk {
    /// See [`crate::disk::Disk::retain`].
    pub(super) fn retain_all(
        &mut self,
        replaced: &[Replaced],
        always: bool,
    ) -> Result<Vec<Option<Stat>>, DiskError> {
        let mut seen = vec![None; replaced.len()];
        let Some(kept) = self.history.take() else { return Ok(seen) };
        let result = self.retain_in(&kept, replaced, always, &mut seen);
        self.history = Some(kept);
        result.map(|()| seen)
    }

    fn retain_in(
        &mut self,
        kept: &Kept,
        replaced: &[Replaced],
        always: bool,
        seen: &mut [Option<Stat>],
    ) -> Result<(), DiskError> {
        let now = now_ns();
        let transaction = kept.rows.unchecked_transaction().map_err(broken)?;
        let mut any = false;
        for (replaced, seen) in replaced.iter().zip(seen) {
            let wanted = always || kept.policy.takes(kept.last_kept(&replaced.path).map_err(broken)?, now);
            if wanted && replaced.seen.side == 0 {
                match self.retain_one(kept, replaced) {
                    Ok(stat) => *seen = stat,
                    Err(DiskError::Changed | DiskError::NoParent) if !always => continue,
                    Err(error) => return Err(error),
                }
                kept.add(replaced, now).map_err(broken)?;
                any = true;
            }
        }
        if any {
            fsync(&kept.dir).map_err(dead)?;
            transaction.commit().map_err(broken)?;
        }
        Ok(())
    }

    /// Gives a content a name in the history. Returns the file's new fingerprint, if that changed it.
    fn retain_one(&mut self, kept: &Kept, replaced: &Replaced) -> Result<Option<Stat>, DiskError> {
        let name = replaced.root.to_string();
        let place = self.tree.place(&replaced.path)?;
        // So fresh when it was read that a later write could bear the same times: only its bytes can tell.
        let fresh = replaced.seen.ctime_ns == 0;
        let mut stands = stat_in(&place.dir, place.name)?.ok_or(DiskError::Changed)?;
        if fresh {
            stands.ctime_ns = 0;
        }
        if stands != replaced.seen {
            return Err(DiskError::Changed);
        }
        if stat_in(&kept.dir, name.as_bytes())?.is_some() {
            return Ok(None);
        }
        let opened = match replaced.seen.size {
            0 => None,
            _ => Some(self.databases.open(&self.tree, &replaced.path, &replaced.seen)?),
        };
        let source = opened.as_ref().map(Opened::file);
        let alone =
            !fresh && source.is_none_or(|file| rustix::fs::fstat(file).is_ok_and(|stat| stat.st_nlink == 1));
        if alone {
            match linkat(&place.dir, place.name, &kept.dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Err(DiskError::Changed),
                Err(error) => return Err(failed("keep a version", error)),
            }
            if let Some(file) = source {
                fsync(file).map_err(dead)?;
            }
            let after = stat_in(&place.dir, place.name)?.ok_or(DiskError::Changed)?;
            return Ok(Some(after));
        }
        let draft = format!("{name}.new");
        let target = create(&kept.dir, &draft)?;
        if let Some(source) = source {
            copy(source, &target).map_err(|error| failed("keep a version", error))?;
        }
        if hash(&target, None)?.0.root() != replaced.root {
            return Err(DiskError::Changed);
        }
        fsync(&target).map_err(dead)?;
        rustix::fs::renameat(&kept.dir, &draft, &kept.dir, &name)
            .map_err(|error| failed("keep a version", error))?;
        Ok(None)
    }

    /// Puts a kept version at a path, as a local program would: complete, by a rename; what stands there is kept first.
    pub(super) fn bring_back(&mut self, version: &Version, to: &RelPath) -> Result<(), RestoreError> {
        let kept = self.history.as_ref().ok_or(RestoreError::Off)?;
        let source = kept.content(&version.root).map_err(|_| RestoreError::Unknown)?;
        let (content, _) = hash(&source, None)?;
        if content.root() != version.root {
            return Err(RestoreError::Damaged(version.path.clone()));
        }
        let draft = format!("restore-{}", version.id);
        let target = create(&self.staging, &draft)?;
        copy(&source, &target).map_err(|error| failed("write a stage", error))?;
        fchmod(&target, Mode::from_raw_mode(version.mode))
            .map_err(|error| failed("set permissions", error))?;
        futimens(&target, &times(version.mtime_ns))
            .map_err(|error| failed("set the modification time", error))?;
        fsync(&target).map_err(dead)?;
        self.make_way(to)?;
        let place = self.tree.place(to)?;
        match rustix::fs::renameat(&self.staging, &draft, &place.dir, place.name) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::NOTEMPTY) => return Err(DiskError::NotEmpty.into()),
            Err(error) => return Err(failed("rename into place", error).into()),
        }
        Ok(fsync(&place.dir).map_err(dead)?)
    }

    /// The directories above a path, as far as they are missing.
    fn make_way(&mut self, to: &RelPath) -> Result<(), DiskError> {
        let mut missing = Vec::new();
        let mut next = to.parent();
        while let Some(dir) = next {
            next = dir.parent();
            match self.tree.stat(&dir) {
                Ok(Some(stat)) if stat.kind == FileKind::Dir => break,
                Ok(None) | Err(DiskError::NoParent) => missing.push(dir),
                Ok(Some(_)) => return Err(DiskError::NoParent),
                Err(error) => return Err(error),
            }
        }
        for dir in missing.into_iter().rev() {
            let place = self.tree.place(&dir)?;
            rustix::fs::mkdirat(&place.dir, place.name, Mode::from_raw_mode(0o755))
                .map_err(|error| failed("create a directory", error))?;
        }
        Ok(())
    }
}

/// Why a kept version cannot be had back, if so: its content is read anew, from the medium.
pub(super) fn fault((content, version): &Opening) -> Option<String> {
    let file = match content {
        Ok(file) => file,
        Err(error) => return Some(format!("its content cannot be opened: {error}")),
    };
    let _ = fadvise(file, 0, None, Advice::DontNeed);
    match hash(file, None) {
        Ok((content, _)) if content.root() == version.root => None,
        Ok(_) => Some("its bytes are not those that were kept".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

pub(super) fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

fn broken(error: impl std::fmt::Display) -> DiskError {
    DiskError::Io { what: "use the history", reason: error.to_string() }
}

fn version_of(row: &Row<'_>) -> rusqlite::Result<Version> {
    let path: Vec<u8> = row.get(1)?;
    let invalid =
        |error| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Blob, Box::new(error));
    Ok(Version {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        path: RelPath::new(path).map_err(invalid)?,
        root: ContentHash::from_bytes(row.get(2)?),
        size: row.get::<_, i64>(3)?.cast_unsigned(),
        mode: row.get(4)?,
        mtime_ns: row.get(5)?,
        replaced_ns: row.get(6)?,
        by: DeviceId::from_bytes(row.get(7)?),
        deleted: row.get(8)?,
    })
}
