//! What is ignored stays where it is, on both sides, whatever happens around it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::fs;

use pair::{LONG, Replica, connect, cut};
use syncfs::Config;

fn ignoring(lines: &[&str]) -> impl FnOnce(&mut Config) {
    let lines = lines.iter().map(|line| (*line).to_owned()).collect();
    move |config| config.ignore = lines
}

#[tokio::test]
async fn what_the_file_names_is_not_replicated_and_the_file_is() {
    let (a, b) = (Replica::new(ignoring(&[])).await, Replica::new(ignoring(&[])).await);
    let _link = connect(&a.folder, &b.folder);
    a.write(".syncignore", "*.log\n/build/\n");
    a.write("x.log", "noise");
    a.write("build/out", "made");
    a.write("src/build/kept", "source");
    a.write(".stfolder/marker", "Syncthing's");
    a.reaches(&b).await;
    assert_eq!(b.read("src/build/kept").unwrap(), "source");
    assert_eq!(b.read(".syncignore").unwrap(), "*.log\n/build/\n");
    for path in ["x.log", "build", ".stfolder"] {
        assert!(!b.path(path).exists(), "{path}");
    }
    // The rules arrived there, too.
    b.write("y.log", "noise of b");
    b.write("build/other", "made by b");
    b.write("plain", "of b");
    b.reaches(&a).await;
    assert!(a.path("plain").exists() && !a.path("y.log").exists() && !a.path("build/other").exists());
    assert_eq!(a.folder.digest().await.unwrap(), b.folder.digest().await.unwrap());
}

#[tokio::test]
async fn a_rule_that_comes_later_deletes_nothing_anywhere() {
    let (a, b) = (Replica::new(ignoring(&[])).await, Replica::new(ignoring(&[])).await);
    let _link = connect(&a.folder, &b.folder);
    a.write("cache/x", "one");
    a.reaches(&b).await;
    a.write(".syncignore", "cache/\n");
    a.reaches(&b).await;
    fs::remove_dir_all(a.path("cache")).unwrap();
    a.reaches(&b).await;
    assert_eq!(b.read("cache/x").unwrap(), "one");
    assert_eq!(a.folder.current_status().await.problems, []);
    // What went away while it was ignored comes back without the rule.
    let mut events = a.folder.subscribe();
    fs::remove_file(a.path(".syncignore")).unwrap();
    a.reaches(&b).await;
    while a.read("cache/x").is_none() {
        let _ = tokio::time::timeout(LONG, events.recv()).await.expect("it is brought back");
    }
    assert_eq!(b.read("cache/x").unwrap(), "one");
}

#[tokio::test]
async fn a_version_of_an_ignored_path_is_acknowledged_and_fetched_when_the_rule_goes() {
    let (a, b) = (Replica::new(ignoring(&[])).await, Replica::new(ignoring(&["*.tmp", "/mine"])).await);
    let link = connect(&a.folder, &b.folder);
    b.write("mine", "of b alone");
    a.write("x.tmp", "of a");
    a.write("mine", "of a");
    a.write("empty.tmp", "");
    a.reaches(&b).await;
    assert!(!b.path("x.tmp").exists() && !b.path("empty.tmp").exists());
    assert_eq!(b.read("mine").unwrap(), "of b alone");
    assert_eq!(a.folder.digest().await.unwrap(), b.folder.digest().await.unwrap());
    cut(link).await;

    let b = b.reopen(ignoring(&[])).await;
    let _link = connect(&a.folder, &b.folder);
    b.reaches(&a).await;
    let token = a.folder.flush().await.unwrap();
    b.folder.reached(&token, LONG).await.unwrap();
    let mut events = b.folder.subscribe();
    while b.read("x.tmp").is_none() || b.read("mine").as_deref() != Some("of a") {
        let _ = tokio::time::timeout(LONG, events.recv()).await.expect("it is brought");
    }
    let conflicts = b.folder.conflicts().await.unwrap();
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert_eq!(b.read(&conflicts[0].kept_as.to_string()).unwrap(), "of b alone");
}

#[tokio::test]
async fn a_directory_that_a_peer_deletes_stays_with_what_is_ignored_in_it() {
    let (a, b) = (Replica::new(ignoring(&[])).await, Replica::new(ignoring(&["*.o"])).await);
    let _link = connect(&a.folder, &b.folder);
    a.write("d/e/x.c", "text");
    a.reaches(&b).await;
    b.write("d/e/x.o", "object");
    b.reaches(&a).await;
    fs::remove_dir_all(a.path("d")).unwrap();
    a.reaches(&b).await;
    assert!(!b.path("d/e/x.c").exists());
    assert_eq!(b.read("d/e/x.o").unwrap(), "object");
    b.reaches(&a).await;
    b.folder.scan().await.unwrap();
    b.reaches(&a).await;
    assert!(!a.path("d").exists(), "the directory does not come back");
    // Something new in it brings it back.
    b.write("d/e/y.c", "more");
    b.reaches(&a).await;
    assert_eq!(a.read("d/e/y.c").unwrap(), "more");
    assert!(!a.path("d/e/x.o").exists());
}

#[tokio::test]
async fn a_followers_ignored_files_are_its_own() {
    let (a, b) = (Replica::new(ignoring(&[])).await, Replica::new(ignoring(&["/cache", "*.o"])).await);
    let _link = connect(&a.folder, &b.folder);
    a.folder.hold(1).await.unwrap();
    a.write("x", "held");
    a.reaches(&b).await;
    b.write("cache/x", "local");
    b.write("made/y.o", "local");
    b.write("stray", "to be undone");
    b.folder.flush().await.unwrap();
    assert!(!b.path("stray").exists());
    assert_eq!((b.read("cache/x").unwrap(), b.read("made/y.o").unwrap()), ("local".into(), "local".into()));
}

#[tokio::test]
async fn a_line_that_is_no_rule_is_a_problem_with_its_number() {
    let a = Replica::new(ignoring(&["[x"])).await;
    a.write(".syncignore", "ok\n[y\n");
    let report = a.folder.scan().await.unwrap();
    let said = &report.problems[0].what;
    assert!(
        said.contains("configured ignore rules, line 1") && said.contains(".syncignore, line 2"),
        "{said}"
    );
}
