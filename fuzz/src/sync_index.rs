//! syncfs: an index file that was damaged on the disk, or whose rows hold nonsense.
#![allow(clippy::disallowed_methods, reason = "what is fuzzed is a real replica, in a directory of its own")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::Value;
use syncfs::{Config, Folder, OpenError};
use tempfile::TempDir;

use crate::Seed;
use crate::input::Input;

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(8);
/// What the user wrote.
const FILES: [(&str, &[u8]); 4] =
    [("a", b"a file"), ("dir/b", b"a file in a directory"), ("dir/c", b""), ("dir/d", b"a file")];

/// Operations on the index of a replica that is not open. Whatever they did, the replica opens: with its index, or with one that
/// was built anew while the damaged one stays beside it. Every content that the user wrote is still there.
pub fn index(data: &[u8]) {
    let dir = replica();
    let index = dir.path().join(".syncfs/index.db");
    let mut input = Input::new(data);
    let before = fs::read(&index).expect("a replica has an index");
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        damage(&mut input, &index);
    }
    let damaged = fs::read(&index).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("threads can be had").block_on(open(dir.path()));
    let lost: Vec<_> = FILES.iter().filter(|(_, content)| !contents(dir.path()).contains(*content)).collect();
    assert!(lost.is_empty(), "{lost:?} are lost");
    // Opened by another version, or as it is, it may be written on; nothing of one that was refused is thrown away.
    let kept = contents(dir.path());
    assert!(damaged == before || fs::exists(&index).unwrap_or(false) || kept.contains(&damaged));
}

async fn open(dir: &Path) {
    let opened = tokio::time::timeout(LONG, Folder::open(Config::new(dir))).await.expect("it opens soon");
    match opened {
        Ok(folder) => {
            // A row may show only now that it cannot be read; then the folder begins anew by itself.
            let _ = tokio::time::timeout(LONG, folder.scan()).await.expect("it answers soon");
            let _ = tokio::time::timeout(LONG, folder.digest()).await.expect("it answers soon");
            let _ = tokio::time::timeout(LONG, folder.conflicts()).await.expect("it answers soon");
            tokio::time::timeout(LONG, folder.close()).await.expect("it ends soon");
        }
        Err(OpenError::Store(error)) if error.to_string().contains("newer version") => {}
        Err(error) => panic!("it does not open: {error}"),
    }
}

/// What one operation does to the file.
fn damage(input: &mut Input<'_>, index: &Path) {
    let operation = input.byte() % 8;
    if operation >= 4 {
        return damage_row(input, index);
    }
    let mut bytes = fs::read(index).unwrap_or_default();
    let at = input.u32() as usize % bytes.len().max(1);
    match operation {
        0 => {
            let new = input.slice();
            let end = bytes.len().min(at + new.len());
            bytes[at..end].copy_from_slice(&new[..end - at]);
        }
        1 => bytes.truncate(at),
        2 => {
            let start = at - at % 4096;
            let end = bytes.len().min(start + 4096);
            bytes[start..end].fill(input.byte());
        }
        _ => bytes.extend_from_slice(input.slice()),
    }
    fs::write(index, bytes).expect("the index can be written");
}

/// A value of a row becomes another one, or the row goes: what the database itself cannot notice.
fn damage_row(input: &mut Input<'_>, index: &Path) {
    let choices = [input.byte(), input.byte(), input.byte()].map(usize::from);
    let value = match input.byte() % 4 {
        0 => Value::Null,
        1 => Value::Integer(i64::from_le_bytes(input.array())),
        2 => Value::Text(String::from_utf8_lossy(input.slice()).into_owned()),
        _ => Value::Blob(input.slice().to_vec()),
    };
    let remove = input.byte() % 16 == 15;
    // By now it may be no database any more, or one that takes no such value.
    let _ = change_row(index, choices, &value, remove);
}

fn change_row(
    index: &Path,
    [table, column, row]: [usize; 3],
    value: &Value,
    remove: bool,
) -> Result<(), rusqlite::Error> {
    let connection = Connection::open(index)?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    let list = |sql: &str| {
        let mut statement = connection.prepare(sql)?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?;
        names.collect::<Result<Vec<_>, _>>()
    };
    let tables = list("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let Some(table) = tables.get(table % tables.len().max(1)) else { return Ok(()) };
    let columns = list(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"))?;
    let Some(name) = columns.get(column % columns.len().max(1)) else { return Ok(()) };
    let place = format!("({0}) = (SELECT {0} FROM {table} LIMIT 1 OFFSET {row})", columns.join(", "));
    if remove {
        connection.execute(&format!("DELETE FROM {table} WHERE {place}"), [])?;
    } else {
        connection.execute(&format!("UPDATE {table} SET {name} = ?1 WHERE {place}"), [value])?;
    }
    Ok(())
}

/// A replica with an index, as it is when its daemon has ended.
fn replica() -> TempDir {
    static STATE: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
    let state = STATE.get_or_init(|| {
        let dir = directory();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let made = async {
            let folder = Folder::create(Config::new(dir.path())).await.expect("a replica can be made");
            folder.scan().await.expect("it can be looked through");
            folder.close().await;
        };
        runtime.expect("threads can be had").block_on(made);
        let files = ["index.db", "marker", "witness"].map(|name| PathBuf::from(".syncfs").join(name));
        files
            .into_iter()
            .map(|file| (file.clone(), fs::read(dir.path().join(file)).expect("it is there")))
            .collect()
    });
    let dir = directory();
    fs::create_dir(dir.path().join(".syncfs")).expect("the directory is new");
    for (path, bytes) in state {
        fs::write(dir.path().join(path), bytes).expect("the directory is new");
    }
    dir
}

fn directory() -> TempDir {
    // In memory, if there is such a place: thousands of them are made.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.expect("a directory can be made");
    fs::create_dir(dir.path().join("dir")).expect("the directory is new");
    for (path, content) in FILES {
        fs::write(dir.path().join(path), content).expect("the directory is new");
    }
    dir
}

/// The contents of all files in a directory.
fn contents(dir: &Path) -> BTreeSet<Vec<u8>> {
    let mut contents = BTreeSet::new();
    for entry in fs::read_dir(dir).expect("it is a directory") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            contents.extend(self::contents(&path));
        } else if let Ok(content) = fs::read(&path) {
            contents.insert(content);
        }
    }
    contents
}

/// Seeds of [`index`].
pub fn index_seeds() -> Vec<Seed> {
    let bytes = |operation: u8, at: u32, more: &[u8]| [&[operation], &at.to_le_bytes()[..], more].concat();
    let row = |table: u8, column: u8, row: u8, value: &[u8]| [&[4, table, column, row], value].concat();
    vec![
        ("untouched", Vec::new()),
        ("header", bytes(0, 0, &[4, b'n', b'o', b'n', b'e'])),
        ("newer_format", bytes(0, 60, &[4, 0, 0, 0, 99])),
        ("shorter", bytes(1, 5000, &[])),
        ("empty", bytes(1, 0, &[])),
        ("page_of_zeros", bytes(2, 8192, &[0])),
        ("longer", bytes(3, 0, &[3, 1, 2, 3])),
        ("kind_of_an_entry", row(3, 6, 1, &[3, 3, 3, 255, 255, 0])),
        ("path_of_an_entry", row(3, 1, 0, &[3, 9, b'.', b'.', b'/', b'.', b'.', b'/', b'e', b't', b'c', 0])),
        ("role", row(7, 6, 0, &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("row_is_gone", row(7, 0, 0, &[0, 15])),
    ]
}
