//! Damage in the index's file, and of it.

use rusqlite::params;

use super::{SqliteIndex, path_of};
use crate::hash::ContentHash;
use crate::index::{Damage, DamageIndex, IndexError};
use crate::path::RelPath;

impl DamageIndex for SqliteIndex {
    fn damaged(&self) -> Result<Vec<(RelPath, Damage)>, IndexError> {
        let mut statement = self.connection.prepare_cached("SELECT path, root, repair FROM damaged")?;
        let mut rows = statement.query([])?;
        let mut damaged = Vec::new();
        while let Some(row) = rows.next()? {
            let damage = Damage { root: ContentHash::from_bytes(row.get(1)?), repair: row.get(2)? };
            damaged.push((path_of(row, 0)?, damage));
        }
        Ok(damaged)
    }

    fn put_damaged(&mut self, path: &RelPath, damage: Option<&Damage>) -> Result<(), IndexError> {
        match damage {
            Some(Damage { root, repair }) => {
                let values = params![path.as_bytes(), root.as_bytes(), repair];
                self.write("INSERT OR REPLACE INTO damaged VALUES (?1, ?2, ?3)", values)
            }
            None => self.write("DELETE FROM damaged WHERE path = ?1", [path.as_bytes()]),
        }
    }

    /// More than is looked at at each start: also whether what finds the rows and the rows agree.
    fn verify(&mut self) -> Result<(), IndexError> {
        let check = "PRAGMA integrity_check(1)";
        match self.connection.query_row(check, [], |row| row.get::<_, String>(0))? {
            sound if sound == "ok" => Ok(()),
            damaged => Err(IndexError::Damaged(damaged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn an_index_whose_rows_and_lookups_disagree_is_damaged_although_it_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(include_str!("../../../tests/vectors/index-1.sql")).unwrap();
        drop(connection);
        assert_eq!(SqliteIndex::open(&path).unwrap().verify(), Ok(()));
        // A row that a lookup finds by what it was: the lookup was not there when the row was written.
        let batch = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        batch(
            "INSERT INTO device VALUES (99, zeroblob(32));
             INSERT INTO entry (id, path, sequence, writer, epoch, version, kind, stale, size)
             VALUES (99, x'61', 99, 99, 0, x'', x'', 0, 1);
             CREATE INDEX sizes ON entry (size);
             CREATE TABLE old AS SELECT * FROM sqlite_schema WHERE name = 'sizes'",
        );
        batch("PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'sizes'");
        batch("UPDATE entry SET size = 2 WHERE id = 99");
        batch("PRAGMA writable_schema = ON; INSERT INTO sqlite_schema SELECT * FROM old");
        let mut index = SqliteIndex::open(&path).unwrap();
        assert!(matches!(index.verify(), Err(IndexError::Damaged(_))));
    }
}
