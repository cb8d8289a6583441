//! `syncd branch` and `syncd conflicts --resolve`, on real replicas and a real daemon.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::{Daemon, command, expect_failure, expect_status, run};
use syncfs::{Config, Folder};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

/// With a key, so that a daemon can serve it later.
async fn folder(dir: &TempDir) -> Folder {
    expect_status(&run("syncd", &["init", dir.path().to_str().unwrap()]), 0);
    Folder::open(Config::new(dir.path())).await.unwrap()
}

fn connect(a: &Folder, b: &Folder) {
    let (left, right) = tokio::io::duplex(1 << 20);
    for (folder, stream) in [(a.clone(), left), (b.clone(), right)] {
        tokio::spawn(async move { drop(folder.sync(stream, None).await) });
    }
}

async fn reaches(a: &Folder, b: &Folder) {
    let token = a.flush().await.unwrap();
    a.wait(&token, &[b.device()], LONG).await.unwrap();
}

/// A replica whose writer went on under epoch 1 while another took over with 2; nobody has it open.
async fn fenced() -> TempDir {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (folder(&here).await, folder(&there).await);
    fs::write(here.path().join("note"), "base").unwrap();
    a.hold(1).await.unwrap();
    connect(&a, &b);
    reaches(&a, &b).await;
    a.close().await;
    let a = folder(&here).await;
    fs::write(here.path().join("note"), "the tail").unwrap();
    a.flush().await.unwrap();
    b.hold(2).await.unwrap();
    connect(&a, &b);
    while a.epoch() != 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reaches(&b, &a).await;
    a.close().await;
    here
}

/// A replica with one conflict about `note`.
async fn conflicting() -> TempDir {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (folder(&here).await, folder(&there).await);
    fs::write(there.path().join("note"), "theirs").unwrap();
    b.flush().await.unwrap();
    // Of one folder, as `init` of a directory with files in it would not be.
    connect(&a, &b);
    reaches(&b, &a).await;
    a.close().await;
    fs::write(here.path().join("note"), "ours").unwrap();
    // The later one wins: by more than a tick of the clock.
    tokio::time::sleep(Duration::from_millis(20)).await;
    fs::write(there.path().join("note"), "theirs, again").unwrap();
    b.flush().await.unwrap();
    let a = folder(&here).await;
    connect(&a, &b);
    reaches(&b, &a).await;
    reaches(&a, &b).await;
    a.close().await;
    here
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&expect_status(&run("syncd", arguments), 0)).unwrap()
}

fn serve(dir: &Path) -> Daemon {
    Daemon::start(command("syncd", &["serve", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"]))
}

#[tokio::test]
async fn a_branch_is_listed_compared_and_dropped_served_or_not() {
    let dir = fenced().await;
    let root = dir.path().to_str().unwrap();
    let daemon = serve(dir.path());
    let served = json(&["branch", "list", root, "--json"]);
    let status = json(&["status", root, "--json"]);
    assert_eq!(status["branches"], 1);
    // A follower does not write.
    let name = served[0]["name"].as_str().unwrap();
    assert!(expect_failure("syncd", &["branch", "restore", root, name]).contains("follows the holder"));
    daemon.terminate();
    assert_eq!(json(&["branch", "list", root, "--json"]), served);
    assert_eq!((&served[0]["cause"], &served[0]["paths"]), (&"stale-epoch".into(), &1.into()));
    assert!(expect_status(&run("syncd", &["branch", "list", root]), 0).contains(name));

    let difference = json(&["branch", "diff", root, name, "--json"]);
    assert_eq!((&difference[0]["path"], &difference[0]["change"]), (&"note".into(), &"changed".into()));
    let kept = dir.path().join(".syncfs").join(difference[0]["kept_as"].as_str().unwrap());
    assert_eq!(fs::read_to_string(kept).unwrap(), "the tail");
    let words = expect_status(&run("syncd", &["branch", "diff", root, name]), 0);
    assert!(words.contains("(8 B instead of 4 B)") && words.contains("diff -u "), "{words}");

    assert!(expect_failure("syncd", &["branch", "restore", root, name]).contains("syncd serve"));
    assert!(expect_failure("syncd", &["branch", "diff", root, "no-1-1"]).contains("no branch no-1-1"));
    expect_status(&run("syncd", &["branch", "drop", root, name]), 0);
    assert_eq!(json(&["branch", "list", root, "--json"]), Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_replica_is_checked_served_or_not() {
    let dir = fenced().await;
    let root = dir.path().to_str().unwrap();
    assert!(expect_status(&run("syncd", &["check", root]), 0).contains(": sound"));
    let daemon = serve(dir.path());
    assert!(expect_status(&run("syncd", &["check", root]), 0).contains(": sound"));
    let branch = json(&["branch", "list", root, "--json"])[0]["name"].clone();
    fs::remove_file(dir.path().join(".syncfs/aside").join(branch.as_str().unwrap()).join("note")).unwrap();
    let checked = run("syncd", &["check", root, "--repair", "nothing", "--json"]);
    let report: Value = serde_json::from_str(&expect_status(&checked, 1)).unwrap();
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["finding"], &finding["path"], &finding["detail"]),
        (&"branch".into(), &"note".into(), &branch)
    );
    let words = run("syncd", &["check", root]);
    assert!(String::from_utf8_lossy(&words.stdout).contains("note is not there any more"), "{words:?}");
    assert!(String::from_utf8_lossy(&words.stderr).contains("is not sound"), "{words:?}");
    daemon.terminate();
}

#[tokio::test]
async fn a_conflict_is_ended_by_its_path_or_its_copy() {
    for (keep, text, names) in [
        (&["--keep", "current"][..], "theirs, again", 1),
        (&["--keep", "copy"], "ours", 1),
        (&["--keep", "both", "--as", "note of theirs"], "theirs, again", 2),
    ] {
        let dir = conflicting().await;
        let root = dir.path().to_str().unwrap();
        let _daemon = serve(dir.path());
        let conflicts = json(&["conflicts", root, "--json"]);
        let [conflict] = &conflicts.as_array().unwrap()[..] else { panic!("{conflicts}") };
        let about = if names == 1 { &conflict["path"] } else { &conflict["kept_as"] };
        let resolve = [&["conflicts", root, "--resolve", about.as_str().unwrap()], keep].concat();
        expect_status(&run("syncd", &resolve), 0);
        assert_eq!(json(&["conflicts", root, "--json"]), Value::Array(Vec::new()));
        assert_eq!(fs::read_to_string(dir.path().join("note")).unwrap(), text);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), names + 1, "and .syncfs");
        assert!(expect_failure("syncd", &resolve).contains("not the kept copy of a conflict"));
    }
    expect_status(&run("syncd", &["conflicts", "/", "--resolve", "x"]), 2);
    expect_status(&run("syncd", &["conflicts", "/", "--resolve", "x", "--keep", "both"]), 2);
}
