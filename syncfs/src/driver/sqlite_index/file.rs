//! The index file as such: made, opened, checked.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{SqliteIndex, Witness, damaged, unsigned};
use crate::device::DeviceId;
use crate::fence::{Fence, Fences};
use crate::index::{Index, IndexError, Meta, Totals};
use crate::record::Kind;
use crate::wire::{decode_kind, decode_vector};

/// The version of the schema that this code reads and writes.
const SCHEMA_VERSION: i64 = 1 + STEPS.len() as i64;
/// What the versions after the first added, one after the other: the last statement of each says which it is.
const STEPS: [&str; 6] = [NAMES, BRANCHES, CUTS, REJOINING, BEHIND, DAMAGED];
/// What the second version added: how the names of a file are found.
const NAMES: &str = "
    CREATE TABLE inode (ino INTEGER NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (ino, entry)) STRICT, WITHOUT ROWID;
    CREATE TABLE label (label BLOB NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (label, entry)) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 2";
/// What the third version added.
const BRANCHES: &str = include_str!("branches.sql");
/// What the fourth added: what is cut together, and what is loose.
const CUTS: &str = "ALTER TABLE meta ADD COLUMN cuts BLOB; PRAGMA user_version = 4";
/// What the fifth added: of a replica that rejoins.
const REJOINING: &str = "
    ALTER TABLE meta ADD COLUMN rejoining INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
    PRAGMA user_version = 5";
/// What the sixth added: databases whose visible file is behind, with where the delta log ends and what is visible. That is
/// apart from the entry, which every version writes anew.
const BEHIND: &str = "
    ALTER TABLE entry ADD COLUMN mark INTEGER;
    CREATE TABLE shown (entry INTEGER PRIMARY KEY, kind BLOB NOT NULL) STRICT;
    PRAGMA user_version = 6";
/// What the seventh added: where bytes stand that nobody wrote.
const DAMAGED: &str = "
    CREATE TABLE damaged (path BLOB PRIMARY KEY, root BLOB NOT NULL, repair INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 7";

impl SqliteIndex {
    /// Creates the file of a new replica.
    pub(in crate::driver) fn create(path: &Path, meta: &Meta) -> Result<(), IndexError> {
        let connection = connect(path)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(include_str!("schema.sql"))?;
        // The file's text is of the second version.
        STEPS[1..].iter().try_for_each(|step| connection.execute_batch(step))?;
        let mut index = Self::new(connection, path)?;
        index.in_transaction.set(true);
        index.put_meta(meta)?;
        index.commit()
    }

    /// Opens an existing file.
    pub(in crate::driver) fn open(path: &Path) -> Result<Self, IndexError> {
        let connection = connect(path)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version > SCHEMA_VERSION {
            return Err(IndexError::Newer { found: version, known: SCHEMA_VERSION });
        }
        if version < 1 {
            return Err(IndexError::Damaged(format!("its format is {version}")));
        }
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(IndexError::Damaged(check));
        }
        if version == SCHEMA_VERSION {
            return Self::new(connection, path);
        }
        // All or nothing: a crash leaves an index of the version that it was.
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for (_, step) in (2..).zip(STEPS).filter(|(reached, _)| version < *reached) {
            connection.execute_batch(step)?;
        }
        let mut index = Self::new(connection, path)?;
        index.in_transaction.set(true);
        if version < 2 {
            index.find_names()?;
        }
        index.commit()?;
        Ok(index)
    }

    /// Fills what the second version of the schema added.
    fn find_names(&mut self) -> Result<(), IndexError> {
        let mut after = None;
        loop {
            let page = self.page(after.as_ref(), 1000)?;
            for entry in &page {
                let row = self.find(&entry.record.path)?.ok_or_else(|| damaged("entry"))?;
                self.put_names(row.id, None, Some(entry))?;
            }
            match page.last() {
                Some(last) => after = Some(last.record.path.clone()),
                None => return Ok(()),
            }
        }
    }

    fn new(connection: Connection, path: &Path) -> Result<Self, IndexError> {
        let devices = {
            let mut statement = connection.prepare("SELECT id FROM device ORDER BY number")?;
            let ids = statement.query_map([], |row| Ok(DeviceId::from_bytes(row.get(0)?)))?;
            ids.collect::<Result<Vec<_>, _>>()?
        };
        let sql = "SELECT count(size), coalesce(sum(size), 0) FROM entry";
        let totals = |row: &rusqlite::Row<'_>| {
            Ok(Totals { files: unsigned(row.get(0)?), bytes: unsigned(row.get(1)?) })
        };
        let totals = connection.query_row(sql, [], totals)?;
        let fences = stored_fences(&connection)?;
        let shown = stored_shown(&connection)?;
        let (in_transaction, last) = (Cell::new(false), RefCell::new(None));
        let witness = Witness::beside(path).unwrap_or_else(|| Witness::new(path));
        let devices = RefCell::new(devices);
        Ok(Self { connection, witness, in_transaction, devices, fences, totals, shown, last })
    }
}

fn stored_fences(connection: &Connection) -> Result<Fences, IndexError> {
    let mut statement = connection.prepare("SELECT epoch, holder, base FROM fence ORDER BY epoch")?;
    let mut rows = statement.query([])?;
    let mut fences = Fences::default();
    while let Some(row) = rows.next()? {
        let base: Vec<u8> = row.get(2)?;
        let (epoch, holder) = (unsigned(row.get(0)?), DeviceId::from_bytes(row.get(1)?));
        fences.insert(Fence { epoch, holder, base: decode_vector(&base).map_err(damaged)? });
    }
    Ok(fences)
}

fn stored_shown(connection: &Connection) -> Result<BTreeMap<i64, Kind>, IndexError> {
    let mut statement = connection.prepare("SELECT entry, kind FROM shown")?;
    let mut rows = statement.query([])?;
    let mut shown = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let kind: Vec<u8> = row.get(1)?;
        shown.insert(row.get(0)?, decode_kind(&kind).map_err(damaged)?);
    }
    Ok(shown)
}

fn connect(path: &Path) -> Result<Connection, IndexError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // A plan does not depend on values. Else a statement is planned anew each time that it is taken from the cache, which
    // forgets the values of the last time: that takes longer than most statements run.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         PRAGMA cache_size=-4096; PRAGMA wal_autocheckpoint=4000",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::cutting::CutState;
    use crate::device::IndexId;
    use crate::disk::{FileKind, Stat};
    use crate::index::{BranchIndex, Entry};
    use crate::path::RelPath;
    use crate::record::{Attributes, Content, Kind, Owner, Record};

    #[test]
    fn a_statement_is_planned_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("index.db");
        let meta = Meta::new(DeviceId::from_bytes([7; 32]), None, IndexId(1));
        SqliteIndex::create(&file, &meta).unwrap();
        let index = SqliteIndex::open(&file).unwrap();
        for hash in 2..5 {
            let sql = "SELECT path FROM chunk JOIN entry ON entry.id = chunk.entry WHERE hash = ?1";
            let mut statement = index.connection.prepare_cached(sql).unwrap();
            assert!(statement.query([hash]).unwrap().next().unwrap().is_none());
            assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
        }
    }

    #[test]
    fn an_index_of_the_first_version_is_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("index.db");
        let device = DeviceId::from_bytes([7; 32]);
        let meta = Meta { sequence: 1, ..Meta::new(device, None, IndexId(1)) };
        SqliteIndex::create(&file, &meta).unwrap();
        assert_eq!(SqliteIndex::open(&file).unwrap().meta(), Ok(meta.clone()));
        let (path, label) = (RelPath::new("b").unwrap(), RelPath::new("a").unwrap());
        let kind = Kind::File {
            attributes: Attributes::of_mode(0o644),
            mtime_ns: 0,
            content: Content::default(),
            link: Some(label.clone()),
        };
        let version = [(device, 1)].into_iter().collect();
        let record = Record { path: path.clone(), kind, version, by: device, epoch: 0 };
        let (owner, kind) = (Owner { uid: 0, gid: 0 }, FileKind::File);
        let (mode, mtime_ns, ctime_ns, dev, ino, nlink) = (0o644, 0, 0, 1, 42, 2);
        let seen = Stat { kind, size: 0, mode, mtime_ns, ctime_ns, dev, ino, nlink, owner, side: 0 };
        let entry = Entry { record, sequence: 1, seen: Some(seen), stale: false, behind: None };
        let mut index = SqliteIndex::open(&file).unwrap();
        index.put(&entry).unwrap();
        index.commit().unwrap();
        index
            .connection
            .execute_batch(
                "DROP TABLE inode; DROP TABLE label; DROP TABLE branch; DROP TABLE kept; DROP TABLE shown;
                 DROP TABLE damaged;
                 ALTER TABLE meta DROP COLUMN cuts; ALTER TABLE meta DROP COLUMN rejoining;
                 ALTER TABLE meta DROP COLUMN base; ALTER TABLE entry DROP COLUMN mark; PRAGMA user_version = 1",
            )
            .unwrap();
        drop(index);
        for _ in 0..2 {
            let index = SqliteIndex::open(&file).unwrap();
            assert_eq!(index.names_of(42, 9).unwrap(), std::slice::from_ref(&path));
            assert_eq!(index.labelled(&label, 9).unwrap(), std::slice::from_ref(&path));
            assert_eq!(index.branches().unwrap(), []);
            let found = index.meta().unwrap();
            assert!(found.cuts.mark.loose.has_more(), "of what stood there nothing is known");
            assert_eq!(Meta { cuts: CutState::default(), ..found }, meta);
        }
    }

    const FIRST_SCHEMA: &str = include_str!("../../../tests/vectors/index-1.sql");

    #[test]
    fn an_index_of_the_first_format_is_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        Connection::open(&path).unwrap().execute_batch(FIRST_SCHEMA).unwrap();
        let index = SqliteIndex::open(&path).unwrap();
        let meta = index.meta().unwrap();
        assert_eq!((meta.sequence, meta.asides, meta.rejoining), (7, 3, false));
        drop(index);
        assert_eq!(SqliteIndex::open(&path).unwrap().meta().unwrap(), meta);
    }

    #[test]
    fn a_newer_format_is_refused_with_words_and_an_impossible_one_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(FIRST_SCHEMA).unwrap();
        connection.execute_batch("PRAGMA user_version = 99").unwrap();
        drop(connection);
        let refused = SqliteIndex::open(&path).unwrap_err();
        assert_eq!(refused, IndexError::Newer { found: 99, known: SCHEMA_VERSION });
        assert!(refused.to_string().contains("use the newer version"), "{refused}");
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = -5").unwrap();
        assert!(matches!(SqliteIndex::open(&path), Err(IndexError::Damaged(_))));
    }
}
