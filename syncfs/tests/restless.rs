//! Databases without a pause that is long enough to read them: the status says since when, and a brief lock, where it is
//! allowed, gets their replicas on.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pair::{LONG, Pair};
use rusqlite::{Connection, ErrorCode};
use syncfs::{RelPath, SqliteLock};

/// Commits a row every 20 ms, without a journal on the disk: such a database shows only when it is left alone, or locked,
/// whether it is complete.
struct Writer {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(path: PathBuf) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count, database) = (Arc::clone(&stop), Arc::clone(&committed), path.clone());
        let thread = std::thread::spawn(move || {
            let connection = Connection::open(database).unwrap();
            connection.busy_timeout(Duration::from_secs(5)).unwrap();
            connection.pragma_update(None, "journal_mode", "MEMORY").unwrap();
            connection.execute_batch("CREATE TABLE a (n INTEGER PRIMARY KEY, bulk BLOB)").unwrap();
            for n in 1.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let insert = "INSERT INTO a VALUES (?1, randomblob(900))";
                while let Err(error) = connection.execute(insert, [n]) {
                    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy), "{error}");
                }
                count.store(n as u64, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { path, stop, committed, thread: Some(thread) }
    }

    fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

/// How many rows a database holds that nobody writes, and that is intact.
fn rows(database: &Path) -> u64 {
    let connection = Connection::open(database).unwrap();
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let sql = "SELECT count(*), coalesce(max(n), 0) FROM a";
    let (count, last): (i64, i64) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(count, last, "a prefix of what was committed");
    count as u64
}

#[tokio::test]
async fn the_status_says_since_when_a_database_holds_no_pause() {
    let pair = Pair::new().await;
    let a = &pair.folders[0];
    let began_ns = now_ns();
    let mut writer = Writer::start(pair.path(0, "app.db"));
    until("it is named", || !a.status().restless.is_empty()).await;
    let first = a.current_status().await.restless;
    assert_eq!((first.len(), &first[0].path), (1, &RelPath::new("app.db").unwrap()));
    assert!((began_ns..=now_ns()).contains(&first[0].since_ns), "{first:?}");
    assert!(first[0].why.contains("consistent only at unmount"), "{first:?}");
    let seen = writer.committed();
    until("more is written", || writer.committed() > seen + 50).await;
    // A look through the whole folder does not begin the time anew.
    a.scan().await.unwrap();
    let later = a.current_status().await.restless;
    assert_eq!(later[0].since_ns, first[0].since_ns, "no attempt succeeded between");
    writer.stop();
    until("it is at rest", || a.status().restless.is_empty()).await;
    pair.settle().await;
    assert_eq!(rows(&pair.path(1, "app.db")), writer.committed());
}

#[tokio::test]
async fn a_restless_path_that_is_removed_is_restless_no_more() {
    let pair = Pair::new().await;
    let a = &pair.folders[0];
    let mut writer = Writer::start(pair.path(0, "app.db"));
    until("it is named", || !a.status().restless.is_empty()).await;
    std::fs::remove_file(&writer.path).unwrap();
    until("it is forgotten", || a.status().restless.is_empty()).await;
    writer.stop();
}

#[tokio::test]
async fn with_brief_locks_a_replica_follows_a_database_without_a_pause() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let pair = Pair::of(dirs, |mut config| {
        config.sqlite_lock = SqliteLock::Brief;
        config
    })
    .await;
    let [a, b] = &pair.folders;
    let mut writer = Writer::start(pair.path(0, "app.db"));
    let replica = pair.path(1, "app.db");
    let mut last = 0;
    for _ in 0..3 {
        let least = writer.committed();
        until("a newer state arrives", || {
            // Replaced by rename: what was opened stays one state.
            let Ok(bytes) = std::fs::read(&replica) else { return false };
            let copy = pair.path(1, ".syncfs/copy");
            std::fs::write(&copy, bytes).unwrap();
            let count = rows(&copy);
            assert!(count >= last, "{count} after {last}");
            last = count;
            count > least
        })
        .await;
    }
    // A barrier holds while it is written.
    let least = writer.committed();
    let token = a.flush().await.unwrap();
    a.wait(&token, &[b.device()], LONG).await.unwrap();
    assert!(rows(&replica) >= least);
    writer.stop();
}
