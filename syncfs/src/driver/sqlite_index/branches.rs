//! Branches in the index's file.

use rusqlite::{OptionalExtension, Row, params};

use super::{SqliteIndex, damaged, path_of, signed, unsigned};
use crate::branch::{Branch, Cause, Kept, LISTED_MAX, What};
use crate::device::DeviceId;
use crate::hash::ContentHash;
use crate::index::{BranchIndex, IndexError};
use crate::path::RelPath;
use crate::wire::{decode_vector, encode_vector};

/// The columns of a path, as [`kept_of`] reads them.
const KEPT: &str = "SELECT path, what, root, size, writer, base FROM kept WHERE branch = ?1";

impl BranchIndex for SqliteIndex {
    fn branches(&self) -> Result<Vec<Branch>, IndexError> {
        let sql = "SELECT number, device, epoch, over, cause, began,
                   (SELECT count(*) FROM kept WHERE kept.branch = number),
                   (SELECT coalesce(sum(size), 0) FROM kept WHERE kept.branch = number)
                   FROM branch ORDER BY number DESC LIMIT ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let branches = statement.query_map([LISTED_MAX as i64], |row| {
            Ok(Branch {
                number: unsigned(row.get(0)?),
                device: DeviceId::from_bytes(row.get(1)?),
                epoch: unsigned(row.get(2)?),
                over: unsigned(row.get(3)?),
                cause: match row.get::<_, i64>(4)? {
                    0 => Cause::StaleEpoch,
                    1 => Cause::FollowerEdit,
                    3 => Cause::Damaged,
                    4 => Cause::Rejoined,
                    _ => Cause::Found,
                },
                began_ns: row.get(5)?,
                paths: unsigned(row.get(6)?),
                bytes: unsigned(row.get(7)?),
            })
        })?;
        Ok(branches.collect::<Result<_, _>>()?)
    }

    fn branch_count(&self) -> Result<u64, IndexError> {
        let mut statement = self.connection.prepare_cached("SELECT count(*) FROM branch")?;
        Ok(unsigned(statement.query_row([], |row| row.get(0))?))
    }

    fn put_branch(&mut self, branch: &Branch) -> Result<(), IndexError> {
        let cause = match branch.cause {
            Cause::StaleEpoch => 0,
            Cause::FollowerEdit => 1,
            Cause::Found => 2,
            Cause::Damaged => 3,
            Cause::Rejoined => 4,
        };
        let (number, epoch, over) = (signed(branch.number), signed(branch.epoch), signed(branch.over));
        let values = params![number, branch.device.as_bytes(), epoch, over, cause, branch.began_ns];
        self.write("INSERT OR REPLACE INTO branch VALUES (?1, ?2, ?3, ?4, ?5, ?6)", values)
    }

    fn drop_branch(&mut self, number: u64) -> Result<(), IndexError> {
        self.write("DELETE FROM kept WHERE branch = ?1", [signed(number)])?;
        self.write("DELETE FROM branch WHERE number = ?1", [signed(number)])
    }

    fn kept(&self, number: u64, after: Option<&RelPath>, limit: usize) -> Result<Vec<Kept>, IndexError> {
        let after = after.map_or(&b""[..], RelPath::as_bytes);
        let sql = format!("{KEPT} AND path > ?2 ORDER BY path LIMIT ?3");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![signed(number), after, limit as i64])?;
        let mut kept = Vec::new();
        while let Some(row) = rows.next()? {
            kept.push(kept_of(row)?);
        }
        Ok(kept)
    }

    fn kept_at(&self, number: u64, path: &RelPath) -> Result<Option<Kept>, IndexError> {
        let mut statement = self.connection.prepare_cached(&format!("{KEPT} AND path = ?2"))?;
        let kept = statement.query_row(params![signed(number), path.as_bytes()], |row| Ok(kept_of(row)));
        kept.optional()?.transpose()
    }

    fn put_kept(&mut self, number: u64, kept: &Kept) -> Result<(), IndexError> {
        let (what, root, size) = match kept.what {
            What::File(root, size) => (0, root.as_bytes().to_vec(), signed(size)),
            What::Symlink(root) => (1, root.as_bytes().to_vec(), 0),
            What::Deleted => (2, Vec::new(), 0),
        };
        let (by, base) = (kept.by.as_bytes(), encode_vector(&kept.base));
        let values = params![signed(number), kept.path.as_bytes(), what, root, size, by, base];
        self.write("INSERT OR REPLACE INTO kept VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", values)
    }
}

fn kept_of(row: &Row<'_>) -> Result<Kept, IndexError> {
    let base: Vec<u8> = row.get(5)?;
    let root = || row.get(2).map(ContentHash::from_bytes);
    Ok(Kept {
        path: path_of(row, 0)?,
        what: match row.get::<_, i64>(1)? {
            0 => What::File(root()?, unsigned(row.get(3)?)),
            1 => What::Symlink(root()?),
            _ => What::Deleted,
        },
        by: DeviceId::from_bytes(row.get(4)?),
        base: decode_vector(&base).map_err(damaged)?,
    })
}
