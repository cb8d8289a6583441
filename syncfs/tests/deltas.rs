//! Large databases: a commit costs a replica what it changed, and the newest one is shown when it is needed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test touches the world")]

mod database;
mod pair;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use database::{commit, inspect, prepare};
use pair::{LONG, Pair};
use rusqlite::Connection;
use syncfs::{Config, Event, FenceError, Folder, RelPath};

/// A holder and a follower with a database of some MiB, of which the follower has the last commits as deltas only.
async fn with_deltas() -> (Pair, Connection, u64) {
    let pair = Pair::new().await;
    pair.folders[0].hold(1).await.unwrap();
    let mut connection = large(&pair, 1500);
    arrives(&pair.folders[0], &pair.folders[1]).await;
    let before = fs::read(pair.path(1, "app.db")).unwrap();
    let mut n = 0;
    for _ in 0..5 {
        n += 1;
        commit(&mut connection, n).unwrap();
        arrives(&pair.folders[0], &pair.folders[1]).await;
    }
    let shown = fs::read(pair.path(1, "app.db")).unwrap();
    assert!(shown == before, "what is visible is not written with every commit");
    assert_eq!(logs(pair.dirs[1].path()).len(), 1);
    (pair, connection, n)
}

/// A database on the first of two, with so many pages of bulk.
fn large(pair: &Pair, pages: u64) -> Connection {
    let connection = prepare(&pair.path(0, "app.db"), "WAL");
    let bulk = format!(
        "CREATE TABLE big (bulk BLOB);
         WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < {pages})
         INSERT INTO big SELECT randomblob(3000) FROM t"
    );
    connection.execute_batch(&bulk).unwrap();
    connection
}

async fn arrives(writer: &Folder, reader: &Folder) {
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[reader.device()], LONG).await.unwrap();
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir.join(".syncfs/deltas")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

impl Pair {
    /// Closes the follower and opens it again, not connected.
    async fn reopen(&mut self, between: impl FnOnce(&Path)) {
        self.disconnect().await;
        self.folders[1].clone().close().await;
        between(self.dirs[1].path());
        self.folders[1] = Folder::open(Config::new(self.dirs[1].path())).await.unwrap();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn all_is_shown(folder: &Folder) {
    // A status of a moment ago may not know yet of what came last.
    let shown = async {
        while !folder.current_status().await.unmaterialised.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, shown).await.expect("all is shown");
}

#[tokio::test]
async fn the_deltas_of_a_replica_survive_its_restart_and_are_there_once_it_holds() {
    let (mut pair, _connection, n) = with_deltas().await;
    let mut whole = 0;
    // What a crash leaves of a version that was not committed.
    let tear = |dir: &Path| {
        let log = logs(dir).remove(0);
        whole = fs::metadata(&log).unwrap().len();
        assert!(whole < 200_000, "five commits cost {whole} bytes");
        let torn = [&fs::read(&log).unwrap()[..], &[7; 9000]].concat();
        fs::write(&log, torn).unwrap();
    };
    pair.reopen(tear).await;
    let [_, b] = &pair.folders;
    assert_eq!(fs::metadata(&logs(pair.dirs[1].path())[0]).unwrap().len(), whole);
    let behind = b.current_status().await.unmaterialised;
    assert_eq!((behind[0].path.to_string().as_str(), behind[0].bytes, behind.len()), ("app.db", whole, 1));
    b.hold(2).await.unwrap();
    assert_eq!(inspect(&pair.path(1, "app.db")), n);
    assert!(logs(pair.dirs[1].path()).is_empty() && b.current_status().await.unmaterialised.is_empty());
}

#[tokio::test]
async fn what_a_follower_shows_is_the_last_commit_once_the_holder_lets_go() {
    let (mut pair, mut connection, mut n) = with_deltas().await;
    let right = pair.dirs[1].path().to_owned();
    pair.folders[0].follow().await.unwrap();
    all_is_shown(&pair.folders[1]).await;
    assert_eq!(inspect(&pair.path(1, "app.db")), n);
    assert!(logs(&right).is_empty());
    // It takes the same lease up again: commits cost little again.
    pair.folders[0].hold(1).await.unwrap();
    let before = pair.meta(1, "app.db").ino();
    n += 1;
    commit(&mut connection, n).unwrap();
    arrives(&pair.folders[0], &pair.folders[1]).await;
    assert_eq!(pair.meta(1, "app.db").ino(), before);
    assert_eq!(logs(&right).len(), 1);
    // A replica that was away meanwhile hears of it when it is back.
    pair.reopen(|_| {}).await;
    pair.folders[0].follow().await.unwrap();
    assert_eq!(pair.folders[1].current_status().await.unmaterialised.len(), 1);
    pair.connect();
    all_is_shown(&pair.folders[1]).await;
    assert_eq!(inspect(&pair.path(1, "app.db")), n);
}

#[tokio::test]
async fn a_follower_that_is_not_connected_to_the_holder_hears_that_it_let_go_and_took_up_again() {
    let (pair, mut connection, mut n) = with_deltas().await;
    let ([a, b], dir) = (&pair.folders, tempfile::tempdir().unwrap());
    let shown = dir.path().join("app.db");
    let c = Folder::create(Config::new(dir.path())).await.unwrap();
    let (left, right) = tokio::io::duplex(1 << 20);
    for (folder, stream) in [(b.clone(), left), (c.clone(), right)] {
        tokio::spawn(async move { drop(folder.sync(stream, None).await) });
    }
    for round in 0..2 {
        a.hold(1).await.unwrap();
        arrives(a, b).await;
        arrives(b, &c).await;
        let before = shown.metadata().unwrap().ino();
        n += 1;
        commit(&mut connection, n).unwrap();
        arrives(a, b).await;
        arrives(b, &c).await;
        assert_eq!(shown.metadata().unwrap().ino(), before, "{round}: it is kept as a delta");
        until("the status says so", || c.status().unmaterialised.len() == 1).await;
        a.follow().await.unwrap();
        all_is_shown(&c).await;
        assert_eq!(inspect(&shown), n, "{round}");
    }
}

#[tokio::test]
async fn one_database_is_shown_and_another_stays_behind() {
    let (pair, connection, n) = with_deltas().await;
    fs::create_dir(pair.path(0, "more")).unwrap();
    connection.execute("VACUUM INTO ?1", [pair.path(0, "more/other.db").to_str().unwrap()]).unwrap();
    arrives(&pair.folders[0], &pair.folders[1]).await;
    let mut other = Connection::open(pair.path(0, "more/other.db")).unwrap();
    commit(&mut other, n + 1).unwrap();
    arrives(&pair.folders[0], &pair.folders[1]).await;
    let b = &pair.folders[1];
    let behind = || b.status().unmaterialised.iter().map(|one| one.path.to_string()).collect::<Vec<_>>();
    until("both are behind", || behind() == ["app.db", "more/other.db"]).await;
    let path = |path: &str| RelPath::new(path).unwrap();
    for nothing in ["more/other.d", "app.db/x", "mor"] {
        assert_eq!(b.materialise(Some(&path(nothing))).await.unwrap(), 0);
    }
    assert_eq!(fs::read_dir(pair.path(1, ".syncfs/deltas")).unwrap().count(), 2);
    assert_eq!(b.materialise(Some(&path("more"))).await.unwrap(), 0);
    until("one is shown", || behind() == ["app.db"]).await;
    assert_eq!(inspect(&pair.path(1, "more/other.db")), n + 1);
    assert_eq!(b.materialise(None).await.unwrap(), 0);
    all_is_shown(b).await;
    assert_eq!(inspect(&pair.path(1, "app.db")), n);
}

#[tokio::test]
async fn a_damaged_delta_log_is_fetched_again() {
    let (mut pair, _connection, n) = with_deltas().await;
    let damage = |dir: &Path| {
        let log = logs(dir).remove(0);
        let mut bytes = fs::read(&log).unwrap();
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        fs::write(&log, bytes).unwrap();
    };
    pair.reopen(damage).await;
    let held = pair.folders[1].hold(2).await;
    assert!(matches!(held, Err(FenceError::Resyncing(1))), "the last commits are not there");
    pair.connect();
    all_is_shown(&pair.folders[1]).await;
    pair.folders[1].hold(2).await.unwrap();
    assert_eq!(inspect(&pair.path(1, "app.db")), n);
}

#[tokio::test]
async fn an_edit_of_what_is_visible_is_kept_and_the_last_commit_comes_back() {
    let (pair, _connection, n) = with_deltas().await;
    let shown = pair.path(1, "app.db");
    let mut events = pair.folders[1].subscribe();
    fs::write(&shown, "an edit").unwrap();
    let branch = loop {
        let event = tokio::time::timeout(LONG, events.recv()).await.unwrap().unwrap();
        if let Event::SetAside { branch, .. } = event {
            break branch;
        }
    };
    let kept = pair.path(1, ".syncfs/aside").join(branch).join("app.db");
    assert_eq!(fs::read_to_string(kept).unwrap(), "an edit");
    until("it comes back", || fs::read(&shown).unwrap().starts_with(b"SQLite format 3")).await;
    assert_eq!(inspect(&shown), n);
}

#[tokio::test]
async fn without_a_lease_the_last_commit_is_shown_by_itself() {
    let pair = Pair::new().await;
    let mut connection = large(&pair, 1500);
    arrives(&pair.folders[0], &pair.folders[1]).await;
    let mut events = pair.folders[1].subscribe();
    for n in 1..=5 {
        commit(&mut connection, n).unwrap();
        arrives(&pair.folders[0], &pair.folders[1]).await;
        assert!(inspect(&pair.path(1, "app.db")) <= n, "a commit before");
    }
    until("the last one is shown", || inspect(&pair.path(1, "app.db")) == 5).await;
    all_is_shown(&pair.folders[1]).await;
    assert!(logs(pair.dirs[1].path()).is_empty());
    // It did not come as a whole file.
    while !matches!(tokio::time::timeout(LONG, events.recv()).await, Ok(Ok(Event::Materialised(_)))) {}
}

#[tokio::test]
async fn whoever_writes_to_an_older_state_without_a_lease_finds_both_kept() {
    let pair = Pair::new().await;
    // It is rewritten every ten seconds at most.
    let mut connection = large(&pair, 12_000);
    arrives(&pair.folders[0], &pair.folders[1]).await;
    let shown = pair.path(1, "app.db");
    commit(&mut connection, 1).unwrap();
    arrives(&pair.folders[0], &pair.folders[1]).await;
    until("the first one is shown", || inspect(&shown) == 1).await;
    commit(&mut connection, 2).unwrap();
    arrives(&pair.folders[0], &pair.folders[1]).await;
    assert_eq!(inspect(&shown), 1);
    let local = Connection::open(&shown).unwrap();
    local.execute_batch("CREATE TABLE mine (n); INSERT INTO mine VALUES (7)").unwrap();
    drop(local);
    until("the conflict is found", || pair.folders[1].status().conflicts == 1).await;
    pair.settle().await;
    pair.folders[1].materialise(None).await.unwrap();
    assert_eq!(inspect(&shown), 2);
    for (side, folder) in pair.folders.iter().enumerate() {
        let conflict = folder.conflicts().await.unwrap().remove(0);
        let kept = pair.path(side, &conflict.kept_as.to_string());
        assert_eq!(inspect(&kept), 1);
        let mine = Connection::open(kept).unwrap().query_row("SELECT n FROM mine", [], |row| row.get(0));
        assert_eq!(mine, Ok(7));
    }
}
