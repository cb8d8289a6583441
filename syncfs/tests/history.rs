//! What a peer replaces or deletes can be had back, for as long and as much as the policy says.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pair::{LONG, Replica, connect, rel};
use syncfs::{At, Config, History, RestoreError, Version};

const TRASH: History = History::Trash { keep: Duration::from_secs(3600) };
const STAGGERED: History = History::Staggered { max_age: Duration::from_secs(86_400) };

fn keeping(history: History) -> impl FnOnce(&mut Config) {
    move |config| (config.history, config.history_bytes_max) = (history, u64::MAX)
}

async fn versions(replica: &Replica, name: &str) -> Vec<Version> {
    replica.folder.history(&rel(name)).await.unwrap()
}

fn kept_files(replica: &Replica) -> usize {
    fs::read_dir(replica.path(".syncfs/history")).unwrap().count()
}

fn now_ns() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

#[tokio::test]
async fn what_a_peer_overwrites_and_deletes_comes_back_as_an_ordinary_write() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(STAGGERED)).await);
    connect(&a.folder, &b.folder);
    a.write("d/x", "first");
    a.write("d/y", "stays");
    a.reaches(&b).await;
    let inode = fs::metadata(b.path("d/x")).unwrap().ino();
    a.write("d/x", "second, longer");
    a.reaches(&b).await;
    fs::remove_file(a.path("d/x")).unwrap();
    a.reaches(&b).await;

    // Within half a minute one version of a path is kept: the first.
    let versions = versions(&b, "d/x").await;
    assert_eq!(versions.len(), 1);
    assert_eq!((versions[0].size, versions[0].by, versions[0].deleted), (5, a.folder.device(), false));
    let kept = b.path(".syncfs/history").join(versions[0].root.to_string());
    assert_eq!(fs::metadata(kept).unwrap().ino(), inode, "it cost no copy");

    let written = b.folder.restore(&rel("d/x"), At::Version(versions[0].id), None).await.unwrap();
    assert_eq!(written, [rel("d/x")]);
    b.reaches(&a).await;
    assert_eq!(a.read("d/x").unwrap(), "first");
    assert_eq!(b.folder.conflicts().await.unwrap(), []);
    assert!(matches!(a.folder.restore(&rel("d/x"), At::Version(1), None).await, Err(RestoreError::Off)));
}

#[tokio::test]
async fn a_restore_keeps_what_it_replaces_and_can_go_elsewhere() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(STAGGERED)).await);
    connect(&a.folder, &b.folder);
    a.write("x", "first");
    a.reaches(&b).await;
    a.write("x", "second");
    a.reaches(&b).await;
    // An edit that nobody has looked at yet.
    b.write("x", "of b, unseen");
    let first = versions(&b, "x").await.pop().unwrap();
    b.folder.restore(&rel("x"), At::Version(first.id), None).await.unwrap();
    assert_eq!(b.read("x").unwrap(), "first");
    let newest = versions(&b, "x").await.remove(0);
    b.folder.restore(&rel("x"), At::Version(newest.id), Some(&rel("back/x"))).await.unwrap();
    assert_eq!(b.read("back/x").unwrap(), "of b, unseen");
    b.reaches(&a).await;
    assert_eq!((a.read("x").unwrap(), a.read("back/x").unwrap()), ("first".into(), "of b, unseen".into()));
}

#[tokio::test]
async fn a_directory_goes_back_to_a_moment() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(STAGGERED)).await);
    connect(&a.folder, &b.folder);
    for name in ["d/x", "d/e/y", "d/z", "other"] {
        a.write(name, "before");
    }
    a.reaches(&b).await;
    let moment = now_ns();
    fs::remove_dir_all(a.path("d/e")).unwrap();
    a.write("d/x", "after!");
    a.write("other", "after!");
    a.reaches(&b).await;
    let mut written = b.folder.restore(&rel("d"), At::Time(moment), None).await.unwrap();
    written.sort();
    assert_eq!(written, [rel("d/e/y"), rel("d/x")]);
    b.reaches(&a).await;
    assert_eq!((a.read("d/e/y").unwrap(), a.read("d/x").unwrap()), ("before".into(), "before".into()));
    assert_eq!(a.read("other").unwrap(), "after!");
    let nothing = b.folder.restore(&rel("d"), At::Time(now_ns()), None).await;
    assert!(matches!(nothing, Err(RestoreError::Unknown)), "{nothing:?}");
}

#[tokio::test]
async fn equal_contents_are_kept_once_and_a_file_of_more_names_is_copied() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(TRASH)).await);
    connect(&a.folder, &b.folder);
    a.write("x", "the same");
    a.write("y", "the same");
    a.write("z", "linked");
    a.reaches(&b).await;
    let outside = b.dir.path().parent().unwrap().join(format!("outside-{}", std::process::id()));
    fs::hard_link(b.path("z"), &outside).unwrap();
    for name in ["x", "y", "z"] {
        fs::remove_file(a.path(name)).unwrap();
    }
    a.reaches(&b).await;
    assert_eq!(kept_files(&b), 2);
    fs::write(&outside, "scribbled over").unwrap();
    fs::remove_file(outside).unwrap();
    let z = versions(&b, "z").await.remove(0);
    assert!(z.deleted);
    b.folder.restore(&rel("z"), At::Version(z.id), None).await.unwrap();
    assert_eq!(b.read("z").unwrap(), "linked");
}

#[tokio::test]
async fn what_a_crash_left_and_what_is_too_much_is_tidied_up() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(TRASH)).await);
    connect(&a.folder, &b.folder);
    for name in ["x", "y", "z"] {
        a.write(name, &format!("{name:>1000}"));
    }
    a.reaches(&b).await;
    for name in ["x", "y", "z"] {
        fs::remove_file(a.path(name)).unwrap();
        a.reaches(&b).await;
    }
    assert_eq!(kept_files(&b), 3);
    // A file without a row, a row without a file, and a bound that one version fits.
    let y = versions(&b, "y").await.remove(0).root;
    fs::remove_file(b.path(".syncfs/history").join(y.to_string())).unwrap();
    fs::write(b.path(".syncfs/history/stray"), "").unwrap();
    let b = b.reopen(|config| config.history_bytes_max = 1500).await;
    let settled = async {
        while kept_files(&b) != 1 || versions(&b, "x").await.len() + versions(&b, "y").await.len() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, settled).await.unwrap();
    assert_eq!(versions(&b, "z").await.len(), 1, "the newest one stays");
}

#[tokio::test]
async fn a_kept_version_that_was_written_to_is_not_restored() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(TRASH)).await);
    connect(&a.folder, &b.folder);
    a.write("x", "first");
    a.reaches(&b).await;
    let mut open = fs::File::options().write(true).open(b.path("x")).unwrap();
    a.write("x", "second");
    a.reaches(&b).await;
    std::io::Write::write_all(&mut open, b"FIRST").unwrap();
    let version = versions(&b, "x").await.remove(0);
    let refused = b.folder.restore(&rel("x"), At::Version(version.id), None).await;
    assert!(matches!(refused, Err(RestoreError::Damaged(_))), "{refused:?}");
    assert_eq!(b.read("x").unwrap(), "second");
}

#[tokio::test]
async fn a_follower_does_not_restore_into_the_folder() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(TRASH)).await);
    connect(&a.folder, &b.folder);
    a.folder.hold(1).await.unwrap();
    a.write("x", "first");
    a.reaches(&b).await;
    a.write("x", "second");
    a.reaches(&b).await;
    let version = versions(&b, "x").await.remove(0);
    let refused = b.folder.restore(&rel("x"), At::Version(version.id), None).await;
    assert!(matches!(refused, Err(RestoreError::Follower)), "{refused:?}");
}
