//! Rows of the index as the entries, paths and peers that they are.

use crate::device::IndexId;
use crate::driver::stored::{decode_stat, take_word};
use crate::index::{Behind, Entry, IndexError, PeerState};
use crate::path::RelPath;
use crate::record::{Record, VersionVector};
use crate::wire::decode_kind;

use super::{SqliteIndex, damaged, unsigned};

/// The columns of an entry, as [`SqliteIndex::row_of`] reads them.
pub(super) const ENTRY: &str =
    "SELECT id, path, sequence, writer, epoch, version, kind, seen, stale, mark FROM entry";

/// An entry and its number.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) entry: Entry,
}

impl SqliteIndex {
    pub(super) fn entries(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Entry>, IndexError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(self.row_of(row)?.entry);
        }
        Ok(entries)
    }

    fn row_of(&self, row: &rusqlite::Row<'_>) -> Result<Row, IndexError> {
        let bytes = |column: usize| row.get_ref(column)?.as_blob().map_err(damaged);
        let devices = self.devices.borrow();
        let device = |number: u64| {
            let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            index.and_then(|index| devices.get(index)).copied().ok_or_else(|| damaged("device"))
        };
        let seen = row.get_ref(7)?.as_blob_or_null().map_err(damaged)?;
        let mut version = VersionVector::default();
        let mut pairs = bytes(5)?;
        while !pairs.is_empty() {
            version.raise(device(take_word(&mut pairs)?)?, take_word(&mut pairs)?);
        }
        let record = Record {
            path: RelPath::new(bytes(1)?).map_err(damaged)?,
            kind: decode_kind(bytes(6)?).map_err(damaged)?,
            version,
            by: device(unsigned(row.get(3)?))?,
            epoch: unsigned(row.get(4)?),
        };
        let id = row.get(0)?;
        let behind = |mark: i64| {
            let shown = self.shown.get(&id).cloned().ok_or_else(|| damaged("visible version"))?;
            Ok::<_, IndexError>(Behind { shown, mark: unsigned(mark) })
        };
        let entry = Entry {
            record,
            sequence: unsigned(row.get(2)?),
            seen: seen.map(decode_stat).transpose()?,
            stale: row.get(8)?,
            behind: row.get::<_, Option<i64>>(9)?.map(behind).transpose()?,
        };
        Ok(Row { id, entry })
    }

    pub(super) fn find(&self, path: &RelPath) -> Result<Option<Row>, IndexError> {
        if let Some((_, row)) = self.last.borrow().as_ref().filter(|(last, _)| last == path) {
            return Ok(row.clone());
        }
        let sql = format!("{ENTRY} WHERE path = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([path.as_bytes()])?;
        let row = rows.next()?.map(|row| self.row_of(row)).transpose()?;
        *self.last.borrow_mut() = Some((path.clone(), row.clone()));
        Ok(row)
    }

    pub(super) fn paths(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<RelPath>, IndexError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut paths = Vec::new();
        while let Some(row) = rows.next()? {
            paths.push(path_of(row, 0)?);
        }
        Ok(paths)
    }
}

pub(super) fn path_of(row: &rusqlite::Row<'_>, column: usize) -> Result<RelPath, IndexError> {
    let bytes: Vec<u8> = row.get(column)?;
    RelPath::new(bytes).map_err(damaged)
}

pub(super) fn peer_of(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<PeerState> {
    let life = |word: Option<i64>| word.map(|word| IndexId(unsigned(word)));
    Ok(PeerState {
        theirs: life(row.get(first)?),
        have: unsigned(row.get(first + 1)?),
        ours: life(row.get(first + 2)?),
        acked: unsigned(row.get(first + 3)?),
    })
}
