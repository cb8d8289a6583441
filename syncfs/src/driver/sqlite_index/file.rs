//! The index file as such: made, opened, checked.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::{SqliteIndex, damaged, unsigned};
use crate::device::DeviceId;
use crate::fence::{Fence, Fences};
use crate::index::{Index, IndexError, Meta, Totals};
use crate::wire::decode_vector;

/// The version of the schema that this code reads and writes.
const SCHEMA_VERSION: i64 = 1;

impl SqliteIndex {
    /// Creates the file of a new replica.
    pub(in crate::driver) fn create(path: &Path, meta: &Meta) -> Result<(), IndexError> {
        let connection = connect(path)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(include_str!("schema.sql"))?;
        let mut index = Self::new(connection)?;
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
        if version < SCHEMA_VERSION {
            return Err(IndexError::Damaged(format!("its format is {version}")));
        }
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(IndexError::Damaged(check));
        }
        Self::new(connection)
    }

    fn new(connection: Connection) -> Result<Self, IndexError> {
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
        let (in_transaction, last) = (Cell::new(false), RefCell::new(None));
        Ok(Self { connection, in_transaction, devices: RefCell::new(devices), fences, totals, last })
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

fn connect(path: &Path) -> Result<Connection, IndexError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         PRAGMA cache_size=-4096; PRAGMA wal_autocheckpoint=4000",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
