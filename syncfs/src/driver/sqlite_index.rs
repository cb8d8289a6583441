//! [`SqliteIndex`]: the [`Index`] in a SQLite file, one open transaction between two commits. The file belongs to this
//! connection alone (the state directory's lock sees to that), which spares a lock for every statement.

mod branches;
mod damage;
mod errors;
mod file;
mod rows;
mod witness;

pub(super) use errors::damaged;
use rows::{ENTRY, Row, path_of, peer_of};
pub(super) use witness::Witness;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, params};

use super::stored::{encode_stat, put_word};
use crate::cutting::CutState;
use crate::device::{DeviceId, FolderId, IndexId};
use crate::fence::Fences;
use crate::hash::ContentHash;
use crate::index::{Entry, Index, IndexError, Location, Meta, PeerState, Totals};
use crate::path::RelPath;
use crate::reconcile::conflict_of;
use crate::record::{Content, Kind, Record};
use crate::status::{Conflict, Role};
use crate::wire::{decode_cuts, decode_kind, decode_vector, encode_cuts, encode_kind, encode_vector};

/// The index in a file.
#[derive(Debug)]
pub(super) struct SqliteIndex {
    connection: Connection,
    witness: Witness,
    in_transaction: Cell<bool>,
    /// By number.
    devices: RefCell<Vec<DeviceId>>,
    fences: Fences,
    totals: Totals,
    /// What is visible of databases whose visible file is behind, by the entry's number.
    shown: BTreeMap<i64, Kind>,
    /// The path that was last looked up, and what stands there: most are asked for several times in a row.
    last: RefCell<Option<(RelPath, Option<Row>)>>,
}

impl SqliteIndex {
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

    /// The number of a device, a new one if it was never named.
    fn number(&self, device: &DeviceId) -> Result<u64, IndexError> {
        let mut devices = self.devices.borrow_mut();
        if let Some(index) = devices.iter().position(|known| known == device) {
            return Ok(index as u64 + 1);
        }
        let number = devices.len() as u64 + 1;
        self.write("INSERT INTO device VALUES (?1, ?2)", params![signed(number), device.as_bytes()])?;
        devices.push(*device);
        Ok(number)
    }

    /// Replaces the places of one content by those of another; what both have is left alone.
    fn put_chunks(&self, id: i64, old: Option<&Content>, new: Option<&Content>) -> Result<(), IndexError> {
        let places = |content: Option<&Content>| -> BTreeSet<_> {
            let placed = content.into_iter().flat_map(Content::placed);
            placed.map(|(start, chunk)| (short(&chunk.hash), signed(start), chunk.length)).collect()
        };
        let (old, new) = (places(old), places(new));
        for (hash, start, _) in old.difference(&new) {
            let sql = "DELETE FROM chunk WHERE hash = ?1 AND entry = ?2 AND start = ?3";
            self.write(sql, params![hash, id, start])?;
        }
        for (hash, start, length) in new.difference(&old) {
            self.write("INSERT INTO chunk VALUES (?1, ?2, ?3, ?4)", params![hash, id, start, length])?;
        }
        Ok(())
    }

    /// Replaces what finds an entry as a name of its file.
    fn put_names(&self, id: i64, old: Option<&Entry>, new: Option<&Entry>) -> Result<(), IndexError> {
        let inode = |entry: Option<&Entry>| entry.and_then(Entry::inode).map(signed);
        let label = |entry: Option<&Entry>| entry.and_then(|entry| entry.record.kind.label().cloned());
        let ([old_ino, new_ino], [old_label, new_label]) = ([old, new].map(inode), [old, new].map(label));
        if old_ino != new_ino {
            if let Some(ino) = old_ino {
                self.write("DELETE FROM inode WHERE ino = ?1 AND entry = ?2", params![ino, id])?;
            }
            if let Some(ino) = new_ino {
                self.write("INSERT INTO inode VALUES (?1, ?2)", params![ino, id])?;
            }
        }
        if old_label != new_label {
            if let Some(label) = old_label {
                let sql = "DELETE FROM label WHERE label = ?1 AND entry = ?2";
                self.write(sql, params![label.as_bytes(), id])?;
            }
            if let Some(label) = new_label {
                self.write("INSERT INTO label VALUES (?1, ?2)", params![label.as_bytes(), id])?;
            }
        }
        Ok(())
    }

    /// Remembers what is visible in the place of the current version, or that it is that one.
    fn put_shown(&mut self, id: i64, shown: Option<&Kind>) -> Result<(), IndexError> {
        if self.shown.get(&id) == shown {
            return Ok(());
        }
        match shown {
            Some(kind) => {
                let values = params![id, encode_kind(kind)];
                self.write("INSERT OR REPLACE INTO shown VALUES (?1, ?2)", values)?;
                self.shown.insert(id, kind.clone());
            }
            None => {
                self.write("DELETE FROM shown WHERE entry = ?1", [id])?;
                self.shown.remove(&id);
            }
        }
        Ok(())
    }

    /// Files and bytes, without one entry and with another.
    fn count(&mut self, old: Option<&Content>, new: Option<&Content>) {
        if let Some(content) = old {
            self.totals.files -= 1;
            self.totals.bytes -= content.size();
        }
        if let Some(content) = new {
            self.totals.files += 1;
            self.totals.bytes += content.size();
        }
    }
}

impl Index for SqliteIndex {
    fn meta(&self) -> Result<Meta, IndexError> {
        let sql =
            "SELECT device, folder, life, sequence, knowledge, role, asides, cuts, rejoining, base FROM meta";
        let fences = self.fences.clone();
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let row =
            rows.next()?.ok_or_else(|| IndexError::Damaged("it does not say whose it is".to_owned()))?;
        let (knowledge, cuts): (Vec<u8>, Option<Vec<u8>>) = (row.get(4)?, row.get(7)?);
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
            cuts: match cuts {
                Some(cuts) => decode_cuts(&cuts).map_err(damaged)?,
                None => CutState::unknown(),
            },
            rejoining: row.get(8)?,
            base: unsigned(row.get(9)?),
            fences,
        })
    }

    fn put_meta(&mut self, meta: &Meta) -> Result<(), IndexError> {
        self.witness.cover(meta)?;
        let role = match meta.role {
            Role::Shared => 0,
            Role::Holder => 1,
            Role::Follower => 2,
        };
        self.write(
            "INSERT OR REPLACE INTO meta VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                meta.device.as_bytes(),
                meta.folder.map(|folder| *folder.as_bytes()),
                signed(meta.index.0),
                signed(meta.sequence),
                encode_vector(&meta.knowledge),
                role,
                signed(meta.asides),
                encode_cuts(&meta.cuts),
                meta.rejoining,
                signed(meta.base),
            ],
        )?;
        if self.fences != meta.fences {
            self.fences = meta.fences.clone();
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
        Ok(self.find(path)?.map(|row| row.entry))
    }

    fn put(&mut self, entry: &Entry) -> Result<(), IndexError> {
        let Record { path, kind, version, by, epoch } = &entry.record;
        let content = kind.content();
        let before = self.find(path)?;
        self.begin()?;
        let writer = signed(self.number(by)?);
        let mut pairs = Vec::with_capacity(16);
        for (device, counter) in version.iter() {
            put_word(&mut pairs, self.number(device)?);
            put_word(&mut pairs, *counter);
        }
        let (sequence, epoch, kind_bytes) = (signed(entry.sequence), signed(*epoch), encode_kind(kind));
        let seen = entry.seen.as_ref().map(encode_stat);
        let size = content.map(|content| signed(content.size()));
        let mark = entry.behind.as_ref().map(|behind| signed(behind.mark));
        let id = match &before {
            Some(Row { id, .. }) => {
                self.write(
                    "UPDATE entry SET sequence = ?2, writer = ?3, epoch = ?4, version = ?5, kind = ?6, seen = ?7,
                     stale = ?8, size = ?9, mark = ?10 WHERE id = ?1",
                    params![id, sequence, writer, epoch, pairs, kind_bytes, seen, entry.stale, size, mark],
                )?;
                *id
            }
            None => {
                self.write(
                    "INSERT INTO entry VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                    params![
                        path.as_bytes(),
                        sequence,
                        writer,
                        epoch,
                        pairs,
                        kind_bytes,
                        seen,
                        entry.stale,
                        size,
                        mark
                    ],
                )?;
                self.connection.last_insert_rowid()
            }
        };
        let old = before.as_ref().and_then(|row| row.entry.record.kind.content());
        if old != content {
            self.put_chunks(id, old, content)?;
        }
        self.count(old, content);
        self.put_names(id, before.as_ref().map(|row| &row.entry), Some(entry))?;
        self.put_shown(id, entry.behind.as_ref().map(|behind| &behind.shown))?;
        if conflict_of(path).is_some() {
            let sql = match kind.is_live() {
                true => "INSERT OR IGNORE INTO conflict VALUES (?1)",
                false => "DELETE FROM conflict WHERE kept_as = ?1",
            };
            self.write(sql, [path.as_bytes()])?;
        }
        *self.last.borrow_mut() = Some((path.clone(), Some(Row { id, entry: entry.clone() })));
        Ok(())
    }

    fn forget(&mut self, path: &RelPath) -> Result<(), IndexError> {
        let Some(Row { id, entry }) = self.find(path)? else { return Ok(()) };
        let old = entry.record.kind.content();
        self.put_chunks(id, old, None)?;
        self.count(old, None);
        self.put_names(id, Some(&entry), None)?;
        self.put_shown(id, None)?;
        self.write("DELETE FROM conflict WHERE kept_as = ?1", [path.as_bytes()])?;
        self.write("DELETE FROM entry WHERE id = ?1", [id])?;
        *self.last.borrow_mut() = Some((path.clone(), None));
        Ok(())
    }

    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Vec<Entry>, IndexError> {
        let after = after.map_or(&b""[..], RelPath::as_bytes);
        let sql = format!("{ENTRY} WHERE path > ?1 ORDER BY path LIMIT ?2");
        self.entries(&sql, params![after, limit as i64])
    }

    fn below(&self, dir: &RelPath) -> Result<Vec<Entry>, IndexError> {
        let (from, to) = ([dir.as_bytes(), b"/"].concat(), [dir.as_bytes(), b"0"].concat());
        let sql = format!("{ENTRY} WHERE path > ?1 AND path < ?2 ORDER BY path");
        self.entries(&sql, params![from, to])
    }

    fn since(&self, sequence: u64, limit: usize) -> Result<Vec<Entry>, IndexError> {
        let sql = format!("{ENTRY} WHERE sequence > ?1 ORDER BY sequence LIMIT ?2");
        self.entries(&sql, params![signed(sequence), limit as i64])
    }

    fn locate(&self, hash: &ContentHash) -> Result<Vec<Location>, IndexError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT path, start, length FROM chunk JOIN entry ON entry.id = chunk.entry WHERE hash = ?1 LIMIT 4")?;
        let mut rows = statement.query([short(hash)])?;
        let mut places = Vec::new();
        while let Some(row) = rows.next()? {
            let (offset, length) = (unsigned(row.get(1)?), row.get(2)?);
            places.push(Location { path: path_of(row, 0)?, offset, length });
        }
        Ok(places)
    }

    fn names_of(&self, ino: u64, limit: usize) -> Result<Vec<RelPath>, IndexError> {
        let sql = "SELECT path FROM inode JOIN entry ON entry.id = inode.entry WHERE ino = ?1
                   ORDER BY sequence DESC LIMIT ?2";
        self.paths(sql, params![signed(ino), limit as i64])
    }

    fn labelled(&self, label: &RelPath, limit: usize) -> Result<Vec<RelPath>, IndexError> {
        let sql = "SELECT path FROM label JOIN entry ON entry.id = label.entry WHERE label = ?1
                   ORDER BY sequence DESC LIMIT ?2";
        self.paths(sql, params![label.as_bytes(), limit as i64])
    }

    fn behind(&self) -> Result<Vec<Entry>, IndexError> {
        self.entries(&format!("{ENTRY} WHERE id IN (SELECT entry FROM shown) ORDER BY path"), [])
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

    fn plan(&mut self, record: &Record) -> Result<(), IndexError> {
        let values = params![
            record.path.as_bytes(),
            encode_kind(&record.kind),
            encode_vector(&record.version),
            record.by.as_bytes(),
            signed(record.epoch),
        ];
        self.write("INSERT INTO plan VALUES (?1, ?2, ?3, ?4, ?5)", values)
    }

    fn plans(&self) -> Result<Vec<Record>, IndexError> {
        let mut statement =
            self.connection.prepare_cached("SELECT path, kind, version, writer, epoch FROM plan")?;
        let mut rows = statement.query([])?;
        let mut plans = Vec::new();
        while let Some(row) = rows.next()? {
            let (kind, version): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(2)?);
            plans.push(Record {
                path: path_of(row, 0)?,
                kind: decode_kind(&kind).map_err(damaged)?,
                version: decode_vector(&version).map_err(damaged)?,
                by: DeviceId::from_bytes(row.get(3)?),
                epoch: unsigned(row.get(4)?),
            });
        }
        Ok(plans)
    }

    fn clear_plans(&mut self) -> Result<(), IndexError> {
        self.write("DELETE FROM plan", [])
    }

    fn totals(&self) -> Result<Totals, IndexError> {
        Ok(self.totals)
    }

    fn commit(&mut self) -> Result<(), IndexError> {
        if self.in_transaction.replace(false) {
            self.connection.execute_batch("COMMIT")?;
        }
        Ok(())
    }
}

/// SQLite has signed words only: the same 64 bits.
const fn signed(word: u64) -> i64 {
    word.cast_signed()
}

const fn unsigned(word: i64) -> u64 {
    word.cast_unsigned()
}

/// The part of a chunk's hash that leads to its places.
fn short(hash: &ContentHash) -> i64 {
    let [head, ..] = hash.as_bytes().as_chunks::<8>().0 else { unreachable!("a hash has 32 bytes") };
    i64::from_le_bytes(*head)
}
