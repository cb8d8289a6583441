//! `syncd hold`, `follow` and `materialise`: a folder with one writer and a large database, on two real daemons.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use rusqlite::{Connection, OpenFlags};
use support::device::{Device, scrape};
use support::{expect_failure, until};

const FILL: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE notes (text BLOB);
    WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 1000)
    INSERT INTO notes SELECT randomblob(3000) FROM t";

/// How many rows the visible file has, none before it has the table; it is only read, and no side files are made.
fn rows(device: &Device) -> i64 {
    let uri = format!("file:{}?immutable=1", device.path("data/app.db"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let shown = Connection::open_with_flags(uri, flags).unwrap();
    shown.query_row("SELECT count(*) FROM notes", [], |row| row.get(0)).unwrap_or(0)
}

#[test]
fn a_follower_says_what_it_does_not_show_yet_and_shows_it_when_it_is_asked_to_or_the_writer_lets_go() {
    let [a, b] = ["a", "b"].map(|name| Device::new(name, &["data"]));
    a.configure(&[&a], &[("data", "")]);
    assert!(
        expect_failure("syncd", &["serve", "--config", &a.path("syncd.toml")]).contains("this device itself")
    );
    a.configure(&[&b], &[("data", "")]);
    b.configure(&[&a], &[("data", "")]);
    let daemons = [a.serve(), b.serve()];
    a.ask("hold", "data", &["7"]);
    assert!(expect_failure("syncd", &["hold", &a.path("data"), "6"]).contains("epoch 7"));
    let app = Connection::open(a.path("data/app.db")).unwrap();
    app.execute_batch(FILL).unwrap();
    a.wait("data");
    until("the first version", || (rows(&b) == 1000).then_some(()));

    let commit = || app.execute("INSERT INTO notes VALUES ('one more')", []).unwrap();
    commit();
    a.wait("data");
    assert_eq!(rows(&b), 1000, "it is durable there and not visible yet");
    // The status follows what it is about by a moment.
    let status = until("the status", || {
        Some(b.json("status", "data", &[])).filter(|status| status["unmaterialised"][0].is_object())
    });
    assert_eq!(status["role"], "follower");
    let behind = &status["unmaterialised"][0];
    assert_eq!(behind["path"], "app.db");
    let bytes = behind["bytes"].as_u64().unwrap();
    assert!((4096..100_000).contains(&bytes), "{behind}");
    assert!(b.ask("status", "data", &[]).contains("behind: app.db: shows an older version"));
    let metric = format!("syncfs_unmaterialised_bytes{{folder=\"{}\"}} {bytes}\n", b.path("data"));
    until("the metrics", || scrape(&daemons[1]).contains(&metric).then_some(()));

    assert_eq!(b.json("materialise", "data", &["other.db"])["left"], 0);
    assert_eq!(rows(&b), 1000);
    b.ask("materialise", "data", &["app.db"]);
    assert_eq!(rows(&b), 1001);
    assert!(expect_failure("syncd", &["materialise", &b.path("data"), "../app.db"]).contains(".."));

    commit();
    a.wait("data");
    assert_eq!(rows(&b), 1001);
    assert_eq!(a.json("follow", "data", &[])["role"], "follower");
    until("the last version", || (rows(&b) == 1002).then_some(()));
    b.ask("hold", "data", &["8"]);
    until("the other follows", || (a.json("status", "data", &[])["epoch"] == 8).then_some(()));
    assert!(expect_failure("syncd", &["hold", &a.path("data"), "7"]).contains("epoch 8"));
}
