//! Cuts of real databases, compared with what SQLite itself makes of the same files.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::cut::Cuts;
use super::image::Source;
use super::lock::SharedLock;
use super::side_print;
use crate::chunk::content_of;
use crate::config::SqliteLock;
use crate::disk::DiskError;
use crate::path::RelPath;
use crate::record::Content;

/// A folder with one database, cut as a folder does it.
struct Bench {
    dir: tempfile::TempDir,
    folder: File,
    file: Option<File>,
    cuts: Cuts,
    path: RelPath,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = File::open(dir.path()).unwrap();
        Self { dir, folder, file: None, cuts: Cuts::default(), path: RelPath::new("app.db").unwrap() }
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn with<T>(&mut self, look: impl FnOnce(&mut Cuts, &RelPath, &Source<'_>) -> T) -> T {
        let database = self.database();
        let file = self.file.get_or_insert_with(|| File::open(database).unwrap());
        let copy = self.dir.path().join("private");
        let source = Source { dir: self.folder.as_fd(), name: b"app.db", file, copy: &copy };
        look(&mut self.cuts, &self.path, &source)
    }

    /// A cut, as often as it takes.
    fn cut(&mut self) -> Content {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match self.with(|cuts, path, source| cuts.cut(path, source)) {
                Ok(content) => return content,
                Err(DiskError::Busy(_)) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The bytes of the last cut.
    fn image(&mut self) -> Result<Vec<u8>, DiskError> {
        let to = self.dir.path().join("image");
        let mut file = File::create(&to).unwrap();
        self.with(|cuts, path, source| cuts.write(path, source, &mut file))?;
        Ok(fs::read(&to).unwrap())
    }

    /// What SQLite makes of a copy of these files.
    fn recovered(&self) -> Vec<u8> {
        let copy = tempfile::tempdir().unwrap();
        for side in ["", "-wal", "-journal"] {
            let _ = fs::copy(suffixed(&self.database(), side), copy.path().join(format!("app.db{side}")));
        }
        let path = copy.path().join("app.db");
        let connection = Connection::open(&path).unwrap();
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        connection.close().unwrap();
        fs::read(&path).unwrap()
    }

    fn check(&mut self, what: &str) {
        let content = self.cut();
        let (image, expected) = (self.image().unwrap(), self.recovered());
        assert_eq!(image.len(), expected.len(), "{what}");
        let differs = image.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what}");
        assert_eq!(content, content_of(&image), "{what}");
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

fn open(path: &Path, page_bytes: u32, mode: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection.pragma_update(None, "page_size", page_bytes).unwrap();
    connection.pragma_update(None, "journal_mode", mode).unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    connection.execute_batch("CREATE TABLE IF NOT EXISTS a (n INTEGER PRIMARY KEY, bulk BLOB)").unwrap();
    connection
}

/// So many rows, of so many random bytes each.
fn fill(connection: &Connection, rows: i64, bytes: i64) {
    let sql = "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < ?1)
               INSERT INTO a(bulk) SELECT randomblob(?2) FROM t";
    connection.execute(sql, [rows, bytes]).unwrap();
}

fn step(connection: &Connection, n: u64) {
    let sql = match n % 11 {
        0..=5 => "INSERT INTO a(bulk) VALUES (randomblob(?1 * 97 % 5000))",
        6 => "UPDATE a SET bulk = randomblob(400) WHERE n % 7 = ?1 % 7",
        7 => "DELETE FROM a WHERE n % 5 = ?1 % 5",
        8 => "INSERT INTO a(bulk) SELECT randomblob(3000) FROM a WHERE ?1 > 0 LIMIT 40",
        _ => "UPDATE a SET bulk = randomblob(30) WHERE n = ?1 % 50",
    };
    connection.execute(sql, [n as i64]).unwrap();
    match n % 37 {
        9 => connection.execute_batch("VACUUM").unwrap(),
        17 => connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap(),
        23 => connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap(),
        30 => connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap(),
        _ => {}
    }
}

#[test]
fn every_cut_is_what_sqlite_makes_of_the_files_in_all_modes_and_page_sizes() {
    let cases = [
        ("WAL", 512),
        ("WAL", 4096),
        ("WAL", 65_536),
        ("DELETE", 1024),
        ("TRUNCATE", 4096),
        ("PERSIST", 16_384),
    ];
    for (mode, page_bytes) in cases {
        let mut bench = Bench::new();
        let connection = open(&bench.database(), page_bytes, mode);
        connection.pragma_update(None, "wal_autocheckpoint", 60).unwrap();
        for n in 0..75 {
            step(&connection, n);
            if n % 3 != 1 {
                bench.check(&format!("{mode}, pages of {page_bytes}, step {n}"));
            }
        }
        // A transaction that is open, and one that was undone, show in no cut.
        connection
            .execute_batch("BEGIN; PRAGMA cache_size = 5; UPDATE a SET bulk = randomblob(700)")
            .unwrap();
        bench.check("an open transaction");
        connection.execute_batch("ROLLBACK; UPDATE a SET bulk = 'x' WHERE n = 3").unwrap();
        bench.check("after a rollback");
        drop(connection);
        bench.check("closed");
    }
}

#[test]
fn a_database_whose_application_died_is_cut_as_sqlite_would_recover_it() {
    for mode in ["WAL", "DELETE"] {
        let mut bench = Bench::new();
        let elsewhere = tempfile::tempdir().unwrap();
        let there = elsewhere.path().join("app.db");
        let connection = open(&there, 4096, mode);
        (0..30).for_each(|n| step(&connection, n));
        connection
            .execute_batch("BEGIN; PRAGMA cache_size = 5; UPDATE a SET bulk = randomblob(900)")
            .unwrap();
        connection.execute_batch("PRAGMA cache_spill").unwrap();
        for side in ["", "-wal", "-journal"] {
            let _ = fs::copy(suffixed(&there, side), suffixed(&bench.database(), side));
        }
        let journal = fs::read(suffixed(&there, "-journal")).unwrap_or_default();
        assert_eq!(journal.first().is_some_and(|&byte| byte != 0), mode == "DELETE", "a hot journal");
        bench.check(mode);
        bench.check("once more");
    }
}

#[test]
fn a_cut_in_wal_mode_reads_only_what_is_new_and_knows_what_changed() {
    let mut bench = Bench::new();
    let connection = open(&bench.database(), 4096, "WAL");
    fill(&connection, 4000, 3000);
    let mut before = bench.cut();
    let mut rounds = 0;
    // Through several generations of the log.
    for n in 0..900_u64 {
        let row = 1 + (n * 2_654_435_761) % 4000;
        connection.execute("UPDATE a SET bulk = randomblob(3000) WHERE n = ?1", [row as i64]).unwrap();
        if n % 5 != 0 {
            continue;
        }
        let now = bench.cut();
        let pairs: Vec<_> = before.placed().zip(now.chunks()).filter(|((_, a), b)| a != *b).collect();
        assert!(!pairs.is_empty() && pairs.len() <= 60, "{} chunks", pairs.len());
        let mut bytes = 0;
        for ((offset, old), new) in pairs {
            let runs = bench.with(|cuts, path, source| cuts.patch(path, source, offset, new, &old.hash));
            bytes += runs
                .unwrap()
                .expect("the last cut is remembered")
                .iter()
                .map(|run| run.bytes.len())
                .sum::<usize>();
        }
        assert!(bytes <= 20 * 4096, "{bytes} bytes for five commits");
        (before, rounds) = (now, rounds + 1);
    }
    assert_eq!(rounds, 180);
    assert_eq!(content_of(&bench.recovered()), bench.cut());
}

#[test]
fn cuts_under_constant_writes_are_intact_prefixes_and_cost_no_busy() {
    for mode in ["WAL", "PERSIST"] {
        let mut bench = Bench::new();
        let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
        let database = bench.database();
        let writer = open(&database, 1024, mode);
        writer.pragma_update(None, "wal_autocheckpoint", 200).unwrap();
        writer.execute_batch("CREATE TABLE b (n INTEGER PRIMARY KEY)").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let writer = writer;
                for n in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let sql = format!(
                        "BEGIN; INSERT INTO a VALUES ({n}, randomblob({})); INSERT INTO b VALUES ({n});
                         UPDATE a SET bulk = randomblob(2000) WHERE n = {}; COMMIT",
                        n * 31 % 4000,
                        n / 2
                    );
                    writer.execute_batch(&sql).unwrap();
                    committed.store(n, Ordering::Relaxed);
                    // Generations of the log that pass faster than the database can be read are no test of the proofs.
                    if mode != "WAL" || n % 4 == 0 {
                        std::thread::sleep(Duration::from_millis(12));
                    }
                }
            });
            let stopping = StopOnDrop(&stop);
            let (mut last, mut images) = (0, 0);
            let until = Instant::now() + Duration::from_secs(4);
            while Instant::now() < until {
                let least = committed.load(Ordering::Relaxed);
                bench.cut();
                // Blocks that moved on since may be gone; then there is another cut.
                let Ok(image) = bench.image() else { continue };
                let copy = bench.dir.path().join("copy");
                fs::write(&copy, image).unwrap();
                let count = inspect(&copy);
                assert!(count >= least.max(last), "{count} of {least}, {last}");
                (last, images) = (count, images + 1);
            }
            drop(stopping);
            assert!(images > 10, "{mode}: {images} images");
            println!("{mode}: {images} images, {last} commits");
        });
    }
}

#[test]
fn a_transaction_is_in_a_cut_that_is_taken_meanwhile_whole_or_not_at_all() {
    let mut bench = Bench::new();
    let writer = open(&bench.database(), 4096, "PERSIST");
    fill(&writer, 6000, 3900);
    // A check that fails hangs up, and the writer ends.
    let ((begin, begins), (end, ends)) = (channel(), channel());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for round in begins {
                std::thread::sleep(Duration::from_millis(4 * round));
                let sql = "UPDATE a SET bulk = CAST(?1 AS BLOB) || substr(bulk, 9) WHERE n % 50 = 0";
                writer.execute(sql, [10_000_000 + round as i64]).unwrap();
                end.send(()).unwrap();
            }
        });
        let begin = begin;
        let mut before = content_of(&fs::read(bench.database()).unwrap());
        for round in 1..=20_u64 {
            begin.send(round).unwrap();
            let cut = bench.cut();
            ends.recv().unwrap();
            let after = content_of(&fs::read(bench.database()).unwrap());
            assert!(cut == before || cut == after, "round {round}: a part of a transaction");
            before = after;
        }
    });
}

/// Ends the writer also when a check fails: the scope waits for it.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Checks a database; how many transactions it holds.
fn inspect(path: &Path) -> u64 {
    let uri = format!("file:{}?immutable=1", path.display());
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags).unwrap();
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let sql =
        "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b), coalesce((SELECT max(n) FROM b), 0)";
    let (a, b, max): (i64, i64, i64) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert!(a == b && b == max, "{a} {b} {max}");
    a as u64
}

#[test]
fn a_cut_leaves_no_trace_in_the_files() {
    let mut bench = Bench::new();
    let connection = open(&bench.database(), 4096, "WAL");
    connection.execute_batch("INSERT INTO a(bulk) VALUES ('x')").unwrap();
    let before = side_print(&bench.folder, b"app.db").unwrap();
    std::thread::sleep(Duration::from_millis(5));
    bench.cut();
    assert_eq!(side_print(&bench.folder, b"app.db").unwrap(), before);
    let shared = fs::metadata(suffixed(&bench.database(), "-shm")).unwrap().modified().unwrap();
    bench.cut();
    assert_eq!(fs::metadata(suffixed(&bench.database(), "-shm")).unwrap().modified().unwrap(), shared);
}

#[test]
fn a_journal_in_memory_is_named_and_waited_for() {
    let mut bench = Bench::new();
    let connection = open(&bench.database(), 4096, "MEMORY");
    std::thread::sleep(Duration::from_millis(30));
    connection.execute_batch("INSERT INTO a(bulk) VALUES ('x')").unwrap();
    let error = bench.with(|cuts, path, source| cuts.cut(path, source)).unwrap_err();
    assert!(error.to_string().contains("consistent only at unmount"), "{error}");
    bench.check("left alone");
}

/// Writes rows as fast as it can until it is told to stop. Returns how many, and how many attempts found the file locked.
fn write_without_a_pause(writer: &Connection, stop: &AtomicBool) -> (u64, u64) {
    let (mut rows, mut busy) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        match writer.execute("UPDATE a SET bulk = randomblob(3900) WHERE n = ?1", [1 + rows as i64 % 2000]) {
            Ok(_) => rows += 1,
            Err(error) => {
                assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{error}");
                busy += 1;
            }
        }
    }
    (rows, busy)
}

#[test]
fn a_database_without_a_pause_is_cut_under_a_brief_lock_if_that_is_allowed() {
    for (mode, lock) in
        [("DELETE", SqliteLock::Never), ("DELETE", SqliteLock::Brief), ("PERSIST", SqliteLock::Brief)]
    {
        let mut bench = Bench::new();
        bench.cuts.lock = lock;
        let writer = open(&bench.database(), 4096, mode);
        fill(&writer, 2000, 3900);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let writer = writer;
                write_without_a_pause(&writer, &stop)
            });
            let stopping = StopOnDrop(&stop);
            let (mut images, mut locked) = (0, 0);
            // A lock that came at a bad moment is tried again.
            let enough = Duration::from_secs(if lock == SqliteLock::Never { 2 } else { 60 });
            let until = Instant::now() + enough;
            while Instant::now() < until && locked < 2 {
                match bench.with(|cuts, path, source| cuts.cut(path, source)) {
                    Ok(content) => {
                        let image = bench.image().unwrap_or_default();
                        if bench.dir.path().join("private.db").exists() {
                            // Read from the private copy: it is there however much was written since.
                            assert_eq!(content_of(&image), content);
                            locked += 1;
                        }
                        if !image.is_empty() {
                            let copy = bench.dir.path().join("copy");
                            fs::write(&copy, image).unwrap();
                            assert_eq!(integrity(&copy), "ok");
                            images += 1;
                        }
                    }
                    Err(DiskError::Busy(_)) => std::thread::sleep(Duration::from_millis(20)),
                    Err(error) => panic!("{error}"),
                }
            }
            drop(stopping);
            let (rows, busy) = writing.join().unwrap();
            println!(
                "{mode}, {lock:?}: {rows} commits, {busy} busy, {images} images, {locked} of them locked"
            );
            match lock {
                SqliteLock::Never => assert_eq!((busy, locked), (0, 0)),
                SqliteLock::Brief => assert!(locked > 0, "no lock was found"),
            }
        });
    }
}

#[test]
fn a_lock_keeps_writers_out_and_nobody_else_and_survives_descriptors_of_this_process() {
    let bench = Bench::new();
    let writer = open(&bench.database(), 4096, "DELETE");
    writer.execute_batch("INSERT INTO a(bulk) VALUES ('x')").unwrap();
    let file = File::open(bench.database()).unwrap();
    let insert = || writer.execute_batch("INSERT INTO a(bulk) VALUES ('y')");
    let lock = SharedLock::take(&file).unwrap().unwrap();
    assert!(!lock.is_reserved().unwrap());
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(lock.is_reserved().unwrap(), "a transaction may begin");
    writer.execute_batch("INSERT INTO a(bulk) VALUES ('z')").unwrap();
    let refused = writer.execute_batch("COMMIT").unwrap_err();
    assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "and does not end");
    writer.query_row("SELECT count(*) FROM a", [], |_| Ok(())).unwrap();
    // A lock of the process would be gone with this.
    drop(File::open(bench.database()).unwrap());
    writer.execute_batch("COMMIT").unwrap_err();
    drop(lock);
    writer.execute_batch("COMMIT").unwrap();
    insert().unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert!(SharedLock::take(&file).unwrap().is_none(), "a writer is at work");
    writer.execute_batch("COMMIT").unwrap();
}

#[test]
fn a_database_that_its_application_keeps_locked_is_not_copied_and_named() {
    let mut bench = Bench::new();
    bench.cuts.lock = SqliteLock::Brief;
    let writer = open(&bench.database(), 4096, "MEMORY");
    writer.execute_batch("PRAGMA locking_mode = EXCLUSIVE").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let why = loop {
        writer.execute_batch("INSERT INTO a(bulk) VALUES ('x')").unwrap();
        match bench.with(|cuts, path, source| cuts.cut(path, source)) {
            Err(DiskError::Busy(why)) if why.contains("exclusive lock") => break why,
            Err(DiskError::Busy(_)) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20))
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(why.contains("consistent only at unmount"), "{why}");
    bench.check("left alone");
}

fn integrity(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}
