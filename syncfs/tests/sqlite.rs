//! Live SQLite databases: the application never notices, and every state that a replica shows is a consistent prefix
//! of what was committed.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod database;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use database::{commit, inspect, prepare};
use rusqlite::Connection;
use syncfs::{Config, Event, Folder};

const LONG: Duration = Duration::from_secs(60);

async fn connect(a: &Folder, b: &Folder) {
    let (left, right) = tokio::io::duplex(1 << 20);
    let (a, b) = (a.clone(), b.clone());
    tokio::spawn(async move { a.sync(left, None).await });
    tokio::spawn(async move { b.sync(right, None).await });
}

/// What a replica shows: each state is opened as soon as it is there, and examined from what was opened.
struct Shown {
    stop: Arc<AtomicBool>,
    looking: std::thread::JoinHandle<()>,
    examining: std::thread::JoinHandle<Vec<u64>>,
}

impl Shown {
    /// Watches a path. Every state must be intact, a prefix of what was committed, and none before the last one.
    fn of(replica: PathBuf, committed: Arc<AtomicU64>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let (found, states) = std::sync::mpsc::channel::<fs::File>();
        let looking = std::thread::spawn(move || {
            let mut inode = 0;
            loop {
                let is_last = ended.load(Ordering::Relaxed);
                if let Ok(file) = fs::File::open(&replica) {
                    let now = file.metadata().unwrap().ino();
                    if now != inode {
                        inode = now;
                        found.send(file).expect("the other thread examines them");
                    }
                }
                if is_last {
                    break;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let examining = std::thread::spawn(move || {
            let dir = tempfile::tempdir().unwrap();
            let copy = dir.path().join("copy");
            let mut counts: Vec<u64> = Vec::new();
            for mut file in states {
                std::io::copy(&mut file, &mut fs::File::create(&copy).unwrap()).unwrap();
                let count = inspect(&copy);
                let last = counts.last().copied().unwrap_or(0);
                assert!(count >= last, "a replica never goes back: {count} after {last}");
                assert!(count <= committed.load(Ordering::Relaxed) + 1);
                counts.push(count);
            }
            counts
        });
        Self { stop, looking, examining }
    }

    /// How many transactions each state held.
    fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().unwrap();
        self.examining.join().unwrap()
    }
}

/// Writes for a while with `busy_timeout = 0`; every state that the replica shows meanwhile is examined.
async fn write_and_watch(mode: &'static str, pause: Duration, duration: Duration) {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Folder::create(Config::new(left.path())).await.unwrap();
    let b = Folder::create(Config::new(right.path())).await.unwrap();
    let mut events = b.subscribe();
    connect(&a, &b).await;
    let (source, replica) = (left.path().join("app.db"), right.path().join("app.db"));
    let stop = Arc::new(AtomicBool::new(false));
    let committed = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let (stop, committed, source) = (Arc::clone(&stop), Arc::clone(&committed), source.clone());
        move || {
            let mut connection = prepare(&source, mode);
            let mut busy = 0;
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                match commit(&mut connection, n + 1) {
                    Ok(()) => n += 1,
                    Err(error) => {
                        println!("{error}");
                        busy += 1;
                    }
                }
                committed.store(n, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
            (n, busy, connection)
        }
    });
    let shown = Shown::of(replica.clone(), Arc::clone(&committed));
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    let (total, busy, connection) = writer.join().unwrap();
    let token = a.flush().await.unwrap();
    a.wait(&token, &[b.device()], LONG).await.unwrap();
    b.materialise(None).await.unwrap();
    let states = shown.end();
    let path = syncfs::RelPath::new("app.db").unwrap();
    let events: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    let times = |event: &Event| events.iter().filter(|it| *it == event).count();
    let (applied, shown) = (times(&Event::Applied(path.clone())), times(&Event::Materialised(path)));
    println!("{mode}: {total} commits, {applied} versions, {} replica states, {busy} busy", states.len());
    assert_eq!(busy, 0, "the application noticed");
    assert_eq!(states.last(), Some(&total), "the barrier covers every commit");
    // Once it is large, not every version is shown.
    let shown = if shown > 0 { shown } else { applied };
    assert!(states.len() >= shown, "a state that nobody examined");
    assert!(states.len() as u64 > duration.as_secs() / 3, "it was updated while the application wrote");
    let names: Vec<_> = fs::read_dir(right.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "app.db" || name == ".syncfs"), "no side files: {names:?}");
    drop(connection);
}

const SHORT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_writer_in_wal_mode_never_notices_and_its_replica_is_always_consistent() {
    write_and_watch("WAL", Duration::from_millis(5), SHORT).await;
}

#[tokio::test]
async fn a_writer_with_a_rollback_journal_never_notices_and_its_replica_is_always_consistent() {
    write_and_watch("DELETE", Duration::from_millis(30), SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a minute: run with --ignored"]
async fn writers_in_both_modes_notice_nothing_in_a_minute() {
    let minute = Duration::from_secs(60);
    let wal = tokio::spawn(write_and_watch("WAL", Duration::from_millis(5), minute));
    let journal = tokio::spawn(write_and_watch("DELETE", Duration::from_millis(30), minute));
    wal.await.unwrap();
    journal.await.unwrap();
}

#[tokio::test]
async fn locks_of_an_embedded_application_survive_our_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let mut connection = prepare(&path, "DELETE");
    commit(&mut connection, 1).unwrap();
    let folder = Folder::create(Config::new(dir.path())).await.unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..3 {
        folder.scan().await.unwrap();
    }
    assert!(is_locked_for_others(&path), "the lock is gone");
    connection.execute_batch("ROLLBACK").unwrap();
    folder.close().await;
}

/// Only another process sees which locks this one holds: this test binary, started again for [`PROBE`] alone.
fn is_locked_for_others(database: &Path) -> bool {
    let probe = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process_tries_to_write", "--nocapture"])
        .env(PROBE, database)
        .output()
        .unwrap();
    assert!(probe.status.success(), "{}", String::from_utf8_lossy(&probe.stderr));
    let said = String::from_utf8_lossy(&probe.stdout).into_owned();
    assert!(said.contains("probe: locked") || said.contains("probe: free"), "{said}");
    said.contains("probe: locked")
}

/// Names the database that the other process tries.
const PROBE: &str = "SYNCFS_TEST_LOCK_PROBE";

#[test]
fn another_process_tries_to_write() {
    // As an ordinary test it tries a database that nobody locks.
    let dir = tempfile::tempdir().unwrap();
    let (database, expected) = match std::env::var_os(PROBE) {
        Some(database) => (PathBuf::from(database), None),
        None => (dir.path().join("free.db"), Some("free")),
    };
    let connection = Connection::open(database).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    let seen = match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
        Ok(()) => "free",
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => "locked",
        Err(error) => panic!("{error}"),
    };
    println!("probe: {seen}");
    assert!(expected.is_none_or(|expected| expected == seen));
}

#[tokio::test]
async fn the_application_moves_to_the_replica_and_back_with_its_journal_mode() {
    for mode in ["WAL", "DELETE"] {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let a = Folder::create(Config::new(dirs[0].path())).await.unwrap();
        let b = Folder::create(Config::new(dirs[1].path())).await.unwrap();
        connect(&a, &b).await;
        let nodes = [&a, &b];
        let mut n = 0;
        for epoch in 1..=4_u64 {
            let (here, there) = (epoch as usize % 2, (epoch as usize + 1) % 2);
            nodes[here].hold(epoch).await.unwrap();
            let path = dirs[here].path().join("app.db");
            let mut connection = if n == 0 {
                prepare(&path, mode)
            } else {
                let connection = Connection::open(&path).unwrap();
                connection.busy_timeout(Duration::ZERO).unwrap();
                connection
            };
            let now: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
            assert_eq!(now.to_uppercase(), mode);
            let count: i64 = connection.query_row("SELECT count(*) FROM b", [], |row| row.get(0)).unwrap();
            assert_eq!(count as u64, n, "every commit made the move");
            for _ in 0..20 {
                n += 1;
                commit(&mut connection, n).unwrap();
            }
            // Every other time the application does not get to close its database.
            if epoch % 2 == 0 {
                std::mem::forget(connection)
            } else {
                drop(connection)
            }
            let token = nodes[here].flush().await.unwrap();
            nodes[here].follow().await.unwrap();
            nodes[there].reached(&token, LONG).await.unwrap();
        }
        assert!(a.conflicts().await.unwrap().is_empty() && b.conflicts().await.unwrap().is_empty());
        for dir in &dirs {
            let aside = fs::read_dir(dir.path().join(".syncfs/aside")).unwrap().count();
            assert_eq!(aside, 0, "nothing had to be set aside");
        }
    }
}

#[tokio::test]
async fn a_small_commit_costs_little_on_the_wire() {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Folder::create(Config::new(left.path())).await.unwrap();
    let b = Folder::create(Config::new(right.path())).await.unwrap();
    let mut connection = prepare(&left.path().join("app.db"), "WAL");
    connection.execute_batch("CREATE TABLE big (bulk BLOB)").unwrap();
    connection
        .execute("WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 4000) INSERT INTO big SELECT randomblob(1000) FROM t", [])
        .unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let (one, two) = tokio::io::duplex(1 << 20);
    let (fa, fb, one) = (a.clone(), b.clone(), Counted(one, Arc::clone(&sent)));
    let session = tokio::spawn(async move { fa.sync(one, None).await });
    tokio::spawn(async move { fb.sync(two, None).await });
    let token = a.flush().await.unwrap();
    a.wait(&token, &[b.device()], LONG).await.unwrap();
    b.close().await;
    // How the session ends is not what this is about.
    let _ = session.await.unwrap();
    let first = sent.swap(0, Ordering::Relaxed);
    let b = Folder::open(Config::new(right.path())).await.unwrap();
    commit(&mut connection, 1).unwrap();
    let (one, two) = tokio::io::duplex(1 << 20);
    let (fa, fb, one) = (a.clone(), b.clone(), Counted(one, Arc::clone(&sent)));
    let session = tokio::spawn(async move { fa.sync(one, None).await });
    tokio::spawn(async move { fb.sync(two, None).await });
    let token = a.flush().await.unwrap();
    a.wait(&token, &[b.device()], LONG).await.unwrap();
    b.close().await;
    let _ = session.await.unwrap();
    let second = sent.load(Ordering::Relaxed);
    println!("first {first} bytes, one commit later {second} bytes");
    assert!(first > 4_000_000 && second < 200_000, "{first} then {second}");
}

#[tokio::test]
async fn the_wire_carries_pages_and_not_chunks() {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Folder::create(Config::new(left.path())).await.unwrap();
    let b = Folder::create(Config::new(right.path())).await.unwrap();
    let connection = prepare(&left.path().join("app.db"), "WAL");
    let bulk = "CREATE TABLE big (n INTEGER PRIMARY KEY, bulk BLOB);
                WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 12000)
                INSERT INTO big(bulk) SELECT randomblob(3000) FROM t";
    connection.execute_batch(bulk).unwrap();
    let (one, two) = tokio::io::duplex(1 << 20);
    let sent = Arc::new(AtomicU64::new(0));
    let (fa, fb) = (a.clone(), b.clone());
    let one = Counted(one, Arc::clone(&sent));
    tokio::spawn(async move { fa.sync(one, None).await });
    tokio::spawn(async move { fb.sync(two, None).await });
    let token = a.flush().await.unwrap();
    a.wait(&token, &[b.device()], LONG).await.unwrap();
    let first = sent.load(Ordering::Relaxed);
    assert!(first > 36_000_000, "{first}");
    let cuts = 10;
    for n in 0..cuts {
        // Five pages: those of the rows, and none beside.
        for row in 0..5 {
            let row = (n * 5 + row) * 211 + 1;
            connection.execute("UPDATE big SET bulk = randomblob(3000) WHERE n = ?1", [row]).unwrap();
        }
        let token = a.flush().await.unwrap();
        a.wait(&token, &[b.device()], LONG).await.unwrap();
    }
    let pages = cuts as u64 * 5 * 4096;
    let bytes = sent.load(Ordering::Relaxed) - first;
    println!("{pages} bytes of pages changed, {bytes} on the wire, the lists of chunks included");
    // A list has 36 bytes for each of 576 chunks.
    assert!(bytes < 3 * pages + cuts as u64 * 22_000, "{bytes} for {pages}");
    let copy = right.path().join(".syncfs/copy");
    fs::copy(right.path().join("app.db"), &copy).unwrap();
    inspect(&copy);
}

/// Counts what is written into a stream.
struct Counted(tokio::io::DuplexStream, Arc<AtomicU64>);

impl tokio::io::AsyncRead for Counted {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Counted {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let written = std::pin::Pin::new(&mut self.0).poll_write(context, bytes);
        if let std::task::Poll::Ready(Ok(count)) = &written {
            self.1.fetch_add(*count as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[tokio::test]
async fn a_database_under_constant_writes_is_cut_at_once_and_then_once_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::create(Config::new(dir.path())).await.unwrap();
    let mut connection = prepare(&dir.path().join("app.db"), "WAL");
    folder.flush().await.unwrap();
    let mut events = folder.subscribe();
    let begin = Instant::now();
    let mut cuts = 0;
    for n in 1.. {
        if begin.elapsed() > Duration::from_millis(2500) {
            break;
        }
        commit(&mut connection, n).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Ok(event) = events.try_recv() {
            cuts += u64::from(matches!(event, syncfs::Event::Changed(_)));
        }
    }
    assert!((1..=3).contains(&cuts), "{cuts} cuts");
}

#[tokio::test]
async fn a_flush_has_what_was_written_right_after_a_cut_even_if_it_can_only_be_read_later() {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = Folder::create(Config::new(left.path())).await.unwrap();
    let b = Folder::create(Config::new(right.path())).await.unwrap();
    connect(&a, &b).await;
    let mut writer = prepare(&left.path().join("app.db"), "DELETE");
    for mode in ["DELETE", "MEMORY"] {
        // Without a journal on the disk, a database is read once it was left alone for half a second.
        writer.pragma_update(None, "journal_mode", mode).unwrap();
        let n = inspect(&left.path().join("app.db")) + 1;
        commit(&mut writer, n).unwrap();
        let token = a.flush().await.unwrap();
        a.wait(&token, &[b.device()], LONG).await.unwrap();
        assert_eq!(inspect(&right.path().join("app.db")), n, "{mode}");
    }
}
