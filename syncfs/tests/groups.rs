//! Groups of paths are cut together and arrive together, and a replica knows whether what it has is consistent: real
//! directories, real databases.
#![cfg(feature = "driver")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use syncfs::{Config, Consistency, CutBy, CutRule, FlushError, Folder, Hook, RelPath};

const LONG: Duration = Duration::from_secs(60);

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

/// A database and a directory of objects.
fn both() -> Vec<CutRule> {
    vec![CutRule::new(vec![path("objects"), path("app.db")], CutBy::Live)]
}

async fn open(dir: &Path, cuts: Vec<CutRule>) -> Folder {
    let mut config = Config::new(dir);
    config.cuts = cuts;
    Folder::create(config).await.unwrap()
}

fn connect(a: &Folder, b: &Folder) -> [tokio::task::JoinHandle<()>; 2] {
    let (left, right) = tokio::io::duplex(1 << 16);
    [(a.clone(), left), (b.clone(), right)].map(|(folder, stream)| {
        tokio::spawn(async move {
            let _ = folder.sync(stream, None).await;
        })
    })
}

fn open_database(dir: &Path) -> Connection {
    let database = Connection::open(dir.join("app.db")).unwrap();
    database.busy_timeout(Duration::ZERO).unwrap();
    database
        .execute_batch(
            "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS object (name TEXT NOT NULL, bytes INTEGER NOT NULL)",
        )
        .unwrap();
    std::fs::create_dir_all(dir.join("objects")).unwrap();
    database
}

/// An object, and then the row that names it.
fn write(dir: &Path, database: &Connection, number: usize) {
    let text = format!("{number}:").repeat(200 + number % 50);
    let name = format!("{number:05}");
    std::fs::write(dir.join("objects/new"), &text).unwrap();
    std::fs::rename(dir.join("objects/new"), dir.join("objects").join(&name)).unwrap();
    database.execute("INSERT INTO object VALUES (?1, ?2)", (&name, text.len() as i64)).unwrap();
    // The oldest go, each after its row.
    if number >= 40 {
        let old = format!("{:05}", number - 40);
        database.execute("DELETE FROM object WHERE name = ?1", [&old]).unwrap();
        std::fs::remove_file(dir.join("objects").join(&old)).unwrap();
    }
}

/// What a program would find that started here: every row has its object, and all objects but the one in the making have
/// their row. Returns the last number.
fn examine(dir: &Path) -> usize {
    let database = Connection::open(dir.join("app.db")).unwrap();
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut rows = database.prepare("SELECT name, bytes FROM object ORDER BY name").unwrap();
    let rows: Vec<(String, u64)> = rows
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for (name, bytes) in &rows {
        let found = std::fs::metadata(dir.join("objects").join(name));
        assert_eq!(found.map(|found| found.len()).ok(), Some(*bytes), "the object {name} of a row");
    }
    let objects = std::fs::read_dir(dir.join("objects")).unwrap();
    let alone = objects.filter(|object| {
        let name = object.as_ref().unwrap().file_name();
        !rows.iter().any(|(row, _)| *row == name.to_string_lossy())
    });
    assert!(alone.count() <= 1, "objects without a row: more than one was in the making");
    rows.last().map_or(0, |(name, _)| name.parse().unwrap())
}

/// A writer that commits a file and a row again and again; its replica is cut off at any moment, opened for writing, and has
/// a state that the writer had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_and_its_database_arrive_as_of_one_moment() {
    let home = tempfile::tempdir().unwrap();
    let database = open_database(home.path());
    write(home.path(), &database, 0);
    let writer = open(home.path(), both()).await;
    writer.hold(1).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = std::thread::spawn({
        let (stop, dir) = (Arc::clone(&stop), home.path().to_owned());
        move || {
            let mut number = 1;
            while !stop.load(Ordering::Relaxed) {
                write(&dir, &database, number);
                number += 1;
                std::thread::sleep(Duration::from_millis(3));
            }
            number - 1
        }
    });
    let (mut last, mut states) = (0, 0);
    let away = tempfile::tempdir().unwrap();
    for round in 0..6u64 {
        // It is told of the group; its own rules name none.
        let replica = open(away.path(), Vec::new()).await;
        let streams = connect(&writer, &replica);
        let moment = Instant::now() + Duration::from_millis(700 + 237 * round);
        tokio::time::sleep_until(moment.into()).await;
        streams.iter().for_each(|stream| stream.abort());
        replica.close().await;
        if away.path().join("app.db").exists() {
            states += 1;
            let found = examine(away.path());
            assert!(found >= last, "row {last} was here, now {found} is the last");
            last = found;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let written = writing.join().unwrap();
    assert!(states >= 4 && last > 0, "{states} states, up to row {last} of {written}");
    let replica = open(away.path(), Vec::new()).await;
    let _streams = connect(&writer, &replica);
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();
    replica.hold(2).await.unwrap();
    assert_eq!(examine(away.path()), written);
}

/// The number of the last row that a replica shows, which is written by nobody else.
fn shown(dir: &Path) -> Option<usize> {
    let uri = format!("file:{}?immutable=1", dir.join("app.db").display());
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let database = Connection::open_with_flags(uri, flags).ok()?;
    database
        .query_row("SELECT max(number) FROM row", [], |row| row.get::<_, i64>(0))
        .ok()
        .map(|number| number as usize)
}

/// As git and its user do: an object, a reference to it, and a row that names it, with never a pause of a tick of the filesystem's
/// clock; among so many objects that a walk of them takes longer than any pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_written_all_the_time_is_cut_all_the_same() {
    let (home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let object = |number: usize| format!("objects/{:02x}/{number}", number % 256);
    for number in 0..256 {
        std::fs::create_dir_all(home.path().join(format!("objects/{number:02x}"))).unwrap();
    }
    for number in 100_000..103_000 {
        std::fs::write(home.path().join(object(number)), number.to_string()).unwrap();
    }
    let database = open_database(home.path());
    database.execute_batch("CREATE TABLE row (number INTEGER PRIMARY KEY, object TEXT NOT NULL)").unwrap();
    let (writer, replica) = (open(home.path(), both()).await, open(away.path(), Vec::new()).await);
    writer.hold(1).await.unwrap();
    let _streams = connect(&writer, &replica);
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = std::thread::spawn({
        let (stop, dir) = (Arc::clone(&stop), home.path().to_owned());
        move || {
            let mut written = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let (number, pause) = (written.len(), Duration::from_millis(2));
                std::fs::write(dir.join("objects/new"), number.to_string().repeat(30)).unwrap();
                std::thread::sleep(pause);
                std::fs::rename(dir.join("objects/new"), dir.join(object(number))).unwrap();
                std::thread::sleep(pause);
                std::fs::write(dir.join("objects/head.lock"), number.to_string()).unwrap();
                std::fs::rename(dir.join("objects/head.lock"), dir.join("objects/head")).unwrap();
                std::thread::sleep(pause);
                database.execute("INSERT INTO row VALUES (?1, ?2)", (number as i64, object(number))).unwrap();
                written.push(Instant::now());
                std::thread::sleep(pause);
            }
            written
        }
    });
    let (mut seen, deadline) = (Vec::new(), Instant::now() + LONG);
    while seen.len() < 8 {
        assert!(Instant::now() < deadline, "{} cuts came: {:?}", seen.len(), writer.status());
        if let Some(number) = shown(away.path())
            && seen.last().is_none_or(|(last, _)| number > *last)
        {
            seen.push((number, Instant::now()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let written = writing.join().unwrap();
    for (number, at) in &seen {
        println!("row {number} of {} is {:?} old", written.len(), at.duration_since(written[*number]));
    }
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();
    assert_eq!(shown(away.path()), Some(written.len() - 1));
}

/// Databases and groups are consistent at any time; any other file only once nothing has it open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_knows_whether_what_it_has_is_consistent() {
    let (home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let database = open_database(home.path());
    write(home.path(), &database, 0);
    let writer = open(home.path(), both()).await;
    writer.hold(1).await.unwrap();
    let replica = open(away.path(), Vec::new()).await;
    assert_eq!(replica.current_status().await.consistency, Consistency::Incomplete);
    let _streams = connect(&writer, &replica);
    let reach = async |token| {
        writer.wait(&token, &[replica.device()], LONG).await.unwrap();
        replica.reached(&token, LONG).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(writer.current_status().await.consistency, replica.current_status().await.consistency);
        replica.current_status().await.consistency
    };
    assert_eq!(reach(writer.flush().await.unwrap()).await, Consistency::Known);
    std::fs::write(home.path().join("plain"), "somebody may have it open").unwrap();
    let loose = Consistency::Unknown { paths: vec![path("plain")], more: false };
    assert_eq!(reach(writer.flush().await.unwrap()).await, loose);
    write(home.path(), &database, 1);
    assert_eq!(reach(writer.flush().await.unwrap()).await, loose, "a cut says nothing of other files");
    assert_eq!(reach(writer.seal().await.unwrap()).await, Consistency::Known);
    write(home.path(), &database, 2);
    assert_eq!(reach(writer.flush().await.unwrap()).await, Consistency::Known, "of a group each cut is");

    // It lasts, and a replica tells others.
    std::fs::write(home.path().join("plain"), "again").unwrap();
    assert_eq!(reach(writer.flush().await.unwrap()).await, loose);
    let third = tempfile::tempdir().unwrap();
    let third = open(third.path(), Vec::new()).await;
    let _more = connect(&replica, &third);
    let token = replica.flush().await.unwrap();
    replica.wait(&token, &[third.device()], LONG).await.unwrap();
    third.reached(&token, LONG).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(third.current_status().await.consistency, loose);
    replica.close().await;
    let replica = open(away.path(), Vec::new()).await;
    assert_eq!(replica.current_status().await.consistency, loose);
    replica.hold(2).await.unwrap();
    assert_eq!(replica.current_status().await.consistency, loose, "whoever takes it over has what there is");
    replica.seal().await.unwrap();
    assert_eq!(replica.current_status().await.consistency, Consistency::Known);
}

fn hook(before: &str, after: &str) -> Vec<CutRule> {
    let command = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let hook = Hook {
        before: command(before),
        after: command(after),
        timeout: Duration::from_secs(20),
        every: Duration::from_secs(3600),
    };
    vec![CutRule::new(vec![path("dump")], CutBy::Hook(hook))]
}

/// A dump is what its command left, at each flush; never what stood there in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_is_cut_between_its_commands_and_only_there() {
    let (home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(home.path().join("state"), "one").unwrap();
    // The dump exists only between the two commands; outside of it something unfinished stands there.
    let rules = hook("mkdir -p dump && cp state dump/state", "echo unfinished > dump/state");
    let writer = open(home.path(), rules).await;
    writer.hold(1).await.unwrap();
    let replica = open(away.path(), Vec::new()).await;
    let _streams = connect(&writer, &replica);
    for text in ["one", "two", "three"] {
        std::fs::write(home.path().join("state"), text).unwrap();
        let token = writer.flush().await.unwrap();
        writer.wait(&token, &[replica.device()], LONG).await.unwrap();
        assert_eq!(std::fs::read_to_string(away.path().join("dump/state")).unwrap(), text);
        std::fs::write(home.path().join("dump/other"), "half a dump").unwrap();
        writer.scan().await.unwrap();
        assert!(!away.path().join("dump/other").exists());
        std::fs::remove_file(home.path().join("dump/other")).unwrap();
    }
    // With nothing open no command is needed: what stands there is taken as it is.
    let token = writer.seal().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();
    assert_eq!(std::fs::read_to_string(away.path().join("dump/state")).unwrap(), "unfinished\n");
    assert_eq!(writer.current_status().await.consistency, Consistency::Known);
}

/// A command that fails: no cut, the last one stays, and whoever asks is told why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_fails_leaves_the_last_cut_and_says_why() {
    let (home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(home.path().join("dump")).unwrap();
    std::fs::write(home.path().join("dump/state"), "the first").unwrap();
    let before = "if [ -e broken ]; then echo ugly > dump/state; echo the server is gone >&2; exit 7; fi";
    let writer = open(home.path(), hook(before, "touch released")).await;
    writer.hold(1).await.unwrap();
    let replica = open(away.path(), Vec::new()).await;
    let _streams = connect(&writer, &replica);
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();
    std::fs::write(home.path().join("broken"), "").unwrap();
    std::fs::remove_file(home.path().join("released")).unwrap();
    let Err(FlushError::Unstable(problems)) = writer.flush().await else { panic!("a token without the cut") };
    assert_eq!(problems[0].path, Some(path("dump")));
    assert_eq!(problems[0].what, "not cut: sh ended with exit code 7: the server is gone");
    assert!(home.path().join("released").exists(), "the second command is run whatever became of the first");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(std::fs::read_to_string(away.path().join("dump/state")).unwrap(), "the first");
    assert!(writer.current_status().await.problems.contains(&problems[0]));
    std::fs::remove_file(home.path().join("broken")).unwrap();
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();
    assert_eq!(std::fs::read_to_string(away.path().join("dump/state")).unwrap(), "ugly\n");
    assert_eq!(writer.current_status().await.problems, []);
}

/// What was not taken up is a part of the next cut, or there is none.
#[tokio::test]
async fn deletions_that_are_held_hold_the_rest_of_their_group() {
    let (home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(home.path().join("objects")).unwrap();
    for number in 0..20 {
        std::fs::write(home.path().join(format!("objects/{number}")), number.to_string()).unwrap();
    }
    std::fs::write(home.path().join("note"), "old").unwrap();
    let mut config = Config::new(home.path());
    config.cuts = vec![CutRule::new(vec![path("objects"), path("note")], CutBy::Live)];
    config.mass_deletion = Some(10);
    let writer = Folder::create(config).await.unwrap();
    let replica = open(away.path(), Vec::new()).await;
    let _streams = connect(&writer, &replica);
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();
    // Cut once more, as what was notified of.
    std::fs::write(home.path().join("note"), "newer").unwrap();
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();

    std::fs::rename(home.path().join("objects"), home.path().join(".syncfs/away")).unwrap();
    let refused = writer.flush().await;
    assert!(matches!(refused, Err(FlushError::Held(20))), "{refused:?}");
    for round in 0..20 {
        std::fs::write(home.path().join("note"), format!("newest {round}")).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(std::fs::read_to_string(away.path().join("note")).unwrap(), "newer");
    }
    writer.confirm_deletions().await.unwrap();
    let token = writer.flush().await.unwrap();
    writer.wait(&token, &[replica.device()], LONG).await.unwrap();
    assert_eq!(std::fs::read_to_string(away.path().join("note")).unwrap(), "newest 19");
    assert!(!away.path().join("objects").exists());
}
