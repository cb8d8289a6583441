//! A live SQLite database whose state tells whether it is a prefix of what was committed.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// Row `n` of both tables is written in transaction `n`, with some bulk that moves pages around.
pub(crate) fn prepare(path: &Path, mode: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection.pragma_update(None, "journal_mode", mode).unwrap();
    connection
        .execute_batch(
            "BEGIN;
             CREATE TABLE a (n INTEGER PRIMARY KEY, bulk BLOB);
             CREATE TABLE b (n INTEGER PRIMARY KEY, bulk BLOB);
             COMMIT;",
        )
        .unwrap();
    connection
}

pub(crate) fn commit(connection: &mut Connection, n: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute("INSERT INTO a VALUES (?1, randomblob(300))", [n as i64])?;
    transaction.execute("UPDATE a SET bulk = randomblob(200) WHERE n = ?1", [(n / 2) as i64])?;
    transaction.execute("INSERT INTO b VALUES (?1, randomblob(700))", [n as i64])?;
    transaction.commit()
}

/// What a copied database holds: integrity, and how many transactions, checked to be a prefix.
pub(crate) fn inspect(path: &Path) -> u64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", path.display());
    let connection = Connection::open_with_flags(uri, flags).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    if tables == 0 {
        return 0;
    }
    let count = |table: &str| -> (u64, u64) {
        let sql = format!("SELECT count(*), coalesce(max(n), 0) FROM {table}");
        connection
            .query_row(&sql, [], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
            .unwrap()
    };
    let (a, b) = (count("a"), count("b"));
    assert_eq!(a, b, "both tables at the same transaction");
    assert_eq!(a.0, a.1, "no transaction is missing before the last");
    a.0
}
