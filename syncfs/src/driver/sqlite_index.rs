//! [`SqliteIndex`]: the [`Index`] in a SQLite file, one open transaction between two commits.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::device::{DeviceId, FolderId, IndexId};
use crate::disk::{FileKind, Stat};
use crate::fence::{Fence, Fences};
use crate::hash::ContentHash;
use crate::index::{Entry, Index, IndexError, Location, Meta, PeerState, Totals};
use crate::path::RelPath;
use crate::reconcile::conflict_of;
use crate::status::{Conflict, Role};
use crate::wire::{decode_record, decode_vector, encode_record, encode_vector};

/// The version of the schema that this code reads and writes.
const SCHEMA_VERSION: i64 = 1;

/// The index in a file.
#[derive(Debug)]
pub(super) struct SqliteIndex {
    connection: Connection,
    in_transaction: Cell<bool>,
}

impl SqliteIndex {
    /// Creates the file of a new replica.
    pub(super) fn create(path: &Path, meta: &Meta) -> Result<(), IndexError> {
        let connection = connect(path)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(include_str!("schema.sql"))?;
        let mut index = Self { connection, in_transaction: Cell::new(true) };
        index.put_meta(meta)?;
        index.commit()
    }

    /// Opens an existing file.
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        let connection = connect(path)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != SCHEMA_VERSION {
            return Err(IndexError(format!(
                "its format is {version}, this version of the program knows {SCHEMA_VERSION}"
            )));
        }
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(IndexError(format!("it is damaged: {check}")));
        }
        Ok(Self { connection, in_transaction: Cell::new(false) })
    }

    fn begin(&self) -> Result<(), IndexError> {
        if !self.in_transaction.replace(true) {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        Ok(())
    }

    fn write(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), IndexError> {
        self.begin()?;
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    fn entries(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Entry>, IndexError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(entry_of(row)?);
        }
        Ok(entries)
    }

    fn fences(&self) -> Result<Fences, IndexError> {
        let mut statement =
            self.connection.prepare_cached("SELECT epoch, holder, base FROM fence ORDER BY epoch")?;
        let mut rows = statement.query([])?;
        let mut fences = Fences::default();
        while let Some(row) = rows.next()? {
            let base: Vec<u8> = row.get(2)?;
            let (epoch, holder) = (unsigned(row.get(0)?), DeviceId::from_bytes(row.get(1)?));
            fences.insert(Fence { epoch, holder, base: decode_vector(&base).map_err(damaged)? });
        }
        Ok(fences)
    }
}

fn connect(path: &Path) -> Result<Connection, IndexError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-4096")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

const ENTRY: &str = "path, sequence, record, seen, stale";

fn entry_of(row: &Row<'_>) -> Result<Entry, IndexError> {
    let record: Vec<u8> = row.get(2)?;
    let seen: Option<Vec<u8>> = row.get(3)?;
    Ok(Entry {
        record: decode_record(&record).map_err(damaged)?,
        sequence: unsigned(row.get(1)?),
        seen: seen.as_deref().map(decode_stat).transpose()?,
        stale: row.get(4)?,
    })
}

impl Index for SqliteIndex {
    fn meta(&self) -> Result<Meta, IndexError> {
        let sql = "SELECT device, folder, life, sequence, knowledge, role, asides FROM meta";
        let fences = self.fences()?;
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let row = rows.next()?.ok_or_else(|| IndexError("it does not say whose it is".to_owned()))?;
        let knowledge: Vec<u8> = row.get(4)?;
        Ok(Meta {
            device: DeviceId::from_bytes(row.get(0)?),
            folder: row.get::<_, Option<[u8; 16]>>(1)?.map(FolderId::from_bytes),
            index: IndexId(unsigned(row.get(2)?)),
            sequence: unsigned(row.get(3)?),
            knowledge: decode_vector(&knowledge).map_err(damaged)?,
            role: match row.get::<_, i64>(5)? {
                0 => Role::Shared,
                1 => Role::Holder,
                _ => Role::Follower,
            },
            asides: unsigned(row.get(6)?),
            fences,
        })
    }

    fn put_meta(&mut self, meta: &Meta) -> Result<(), IndexError> {
        let role = match meta.role {
            Role::Shared => 0,
            Role::Holder => 1,
            Role::Follower => 2,
        };
        self.write(
            "INSERT OR REPLACE INTO meta VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                meta.device.as_bytes(),
                meta.folder.map(|folder| *folder.as_bytes()),
                signed(meta.index.0),
                signed(meta.sequence),
                encode_vector(&meta.knowledge),
                role,
                signed(meta.asides),
            ],
        )?;
        if self.fences()? != meta.fences {
            self.write("DELETE FROM fence", [])?;
            for fence in meta.fences.iter() {
                let values =
                    params![signed(fence.epoch), fence.holder.as_bytes(), encode_vector(&fence.base)];
                self.write("INSERT INTO fence VALUES (?1, ?2, ?3)", values)?;
            }
        }
        Ok(())
    }

    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, IndexError> {
        let found = self.entries(&format!("SELECT {ENTRY} FROM entry WHERE path = ?1"), [path.as_bytes()])?;
        Ok(found.into_iter().next())
    }

    fn put(&mut self, entry: &Entry) -> Result<(), IndexError> {
        let path = entry.record.path.as_bytes();
        let content = entry.record.kind.content();
        let before = self.entry(&entry.record.path)?;
        if before.as_ref().and_then(|before| before.record.kind.content()) != content {
            self.write("DELETE FROM chunk WHERE path = ?1", [path])?;
            for (offset, chunk) in content.into_iter().flat_map(|content| content.placed()) {
                let values = params![chunk.hash.as_bytes(), path, signed(offset), chunk.length];
                self.write("INSERT INTO chunk VALUES (?1, ?2, ?3, ?4)", values)?;
            }
        }
        if conflict_of(&entry.record.path).is_some() {
            let sql = match entry.record.kind.is_live() {
                true => "INSERT OR IGNORE INTO conflict VALUES (?1)",
                false => "DELETE FROM conflict WHERE kept_as = ?1",
            };
            self.write(sql, [path])?;
        }
        let values = params![
            path,
            signed(entry.sequence),
            encode_record(&entry.record),
            entry.seen.as_ref().map(encode_stat),
            entry.stale,
            content.map(|content| signed(content.size())),
        ];
        self.write("INSERT OR REPLACE INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6)", values)
    }

    fn forget(&mut self, path: &RelPath) -> Result<(), IndexError> {
        self.write("DELETE FROM chunk WHERE path = ?1", [path.as_bytes()])?;
        self.write("DELETE FROM conflict WHERE kept_as = ?1", [path.as_bytes()])?;
        self.write("DELETE FROM entry WHERE path = ?1", [path.as_bytes()])
    }

    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Vec<Entry>, IndexError> {
        let after = after.map_or(&b""[..], RelPath::as_bytes);
        let sql = format!("SELECT {ENTRY} FROM entry WHERE path > ?1 ORDER BY path LIMIT ?2");
        self.entries(&sql, params![after, limit as i64])
    }

    fn below(&self, dir: &RelPath) -> Result<Vec<Entry>, IndexError> {
        let (from, to) = ([dir.as_bytes(), b"/"].concat(), [dir.as_bytes(), b"0"].concat());
        let sql = format!("SELECT {ENTRY} FROM entry WHERE path > ?1 AND path < ?2 ORDER BY path");
        self.entries(&sql, params![from, to])
    }

    fn since(&self, sequence: u64, limit: usize) -> Result<Vec<Entry>, IndexError> {
        let sql = format!("SELECT {ENTRY} FROM entry WHERE sequence > ?1 ORDER BY sequence LIMIT ?2");
        self.entries(&sql, params![signed(sequence), limit as i64])
    }

    fn locate(&self, hash: &ContentHash) -> Result<Vec<Location>, IndexError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT path, start, length FROM chunk WHERE hash = ?1 LIMIT 4")?;
        let mut rows = statement.query([hash.as_bytes()])?;
        let mut places = Vec::new();
        while let Some(row) = rows.next()? {
            let (offset, length) = (unsigned(row.get(1)?), row.get(2)?);
            places.push(Location { path: path_of(row, 0)?, offset, length });
        }
        Ok(places)
    }

    fn peer(&self, device: &DeviceId) -> Result<PeerState, IndexError> {
        let sql = "SELECT theirs, have, ours, acked FROM peer WHERE device = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let state = statement.query_row([device.as_bytes()], |row| peer_of(row, 0)).optional()?;
        Ok(state.unwrap_or_default())
    }

    fn put_peer(&mut self, device: &DeviceId, state: &PeerState) -> Result<(), IndexError> {
        let life = |index: Option<IndexId>| index.map(|index| signed(index.0));
        let values = params![
            device.as_bytes(),
            life(state.theirs),
            signed(state.have),
            life(state.ours),
            signed(state.acked)
        ];
        self.write("INSERT OR REPLACE INTO peer VALUES (?1, ?2, ?3, ?4, ?5)", values)
    }

    fn peers(&self) -> Result<Vec<(DeviceId, PeerState)>, IndexError> {
        let sql = "SELECT device, theirs, have, ours, acked FROM peer ORDER BY device";
        let mut statement = self.connection.prepare_cached(sql)?;
        let peers =
            statement.query_map([], |row| Ok((DeviceId::from_bytes(row.get(0)?), peer_of(row, 1)?)))?;
        Ok(peers.collect::<Result<_, _>>()?)
    }

    fn conflicts(&self) -> Result<Vec<Conflict>, IndexError> {
        let mut statement =
            self.connection.prepare_cached("SELECT kept_as FROM conflict ORDER BY kept_as")?;
        let mut rows = statement.query([])?;
        let mut conflicts = Vec::new();
        while let Some(row) = rows.next()? {
            conflicts.extend(conflict_of(&path_of(row, 0)?));
        }
        Ok(conflicts)
    }

    fn totals(&self) -> Result<Totals, IndexError> {
        let sql = "SELECT count(size), coalesce(sum(size), 0) FROM entry";
        let totals =
            |row: &Row<'_>| Ok(Totals { files: unsigned(row.get(0)?), bytes: unsigned(row.get(1)?) });
        Ok(self.connection.prepare_cached(sql)?.query_row([], totals)?)
    }

    fn commit(&mut self) -> Result<(), IndexError> {
        if self.in_transaction.replace(false) {
            self.connection.execute_batch("COMMIT")?;
        }
        Ok(())
    }
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

fn damaged(error: impl std::fmt::Display) -> IndexError {
    IndexError(format!("a row is damaged: {error}"))
}

fn path_of(row: &Row<'_>, column: usize) -> Result<RelPath, IndexError> {
    let bytes: Vec<u8> = row.get(column)?;
    RelPath::new(bytes).map_err(damaged)
}

fn peer_of(row: &Row<'_>, first: usize) -> rusqlite::Result<PeerState> {
    let life = |word: Option<i64>| word.map(|word| IndexId(unsigned(word)));
    Ok(PeerState {
        theirs: life(row.get(first)?),
        have: unsigned(row.get(first + 1)?),
        ours: life(row.get(first + 2)?),
        acked: unsigned(row.get(first + 3)?),
    })
}

/// SQLite has signed words only: the same 64 bits.
const fn signed(word: u64) -> i64 {
    word.cast_signed()
}

const fn unsigned(word: i64) -> u64 {
    word.cast_unsigned()
}

fn encode_stat(stat: &Stat) -> Vec<u8> {
    let kind = match stat.kind {
        FileKind::File => 0,
        FileKind::Dir => 1,
        FileKind::Symlink => 2,
        FileKind::Special => 3,
    };
    let times = [stat.mtime_ns.cast_unsigned(), stat.ctime_ns.cast_unsigned()];
    let words = [kind, stat.size, u64::from(stat.mode), times[0], times[1], stat.dev, stat.ino, stat.side];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn decode_stat(bytes: &[u8]) -> Result<Stat, IndexError> {
    let (words, []) = bytes.as_chunks::<8>() else { return Err(damaged("fingerprint")) };
    let &[kind, size, mode, mtime, ctime, dev, ino, side] = words else { return Err(damaged("fingerprint")) };
    let word = u64::from_le_bytes;
    Ok(Stat {
        kind: match word(kind) {
            0 => FileKind::File,
            1 => FileKind::Dir,
            2 => FileKind::Symlink,
            _ => FileKind::Special,
        },
        size: word(size),
        mode: u32::try_from(word(mode)).map_err(damaged)?,
        mtime_ns: word(mtime).cast_signed(),
        ctime_ns: word(ctime).cast_signed(),
        dev: word(dev),
        ino: word(ino),
        side: word(side),
    })
}
