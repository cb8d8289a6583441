//! A replica checks itself: bytes that changed although nothing wrote them are named, kept, and replaced by the version that
//! belongs there. They never reach a peer.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use pair::{LONG, Pair};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use syncfs::{Cause, Config, ContentHash, Event, Finding, Folder, History, RelPath, Repair};

const GOOD: &[u8] = b"what was written";
const BAD: &[u8] = b"what was WRITTEN";

fn path(name: &str) -> RelPath {
    RelPath::new(name).unwrap()
}

/// A file that was written long ago.
fn write_old(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().append(true).open(path).unwrap().set_modified(hour_ago).unwrap();
}

/// Changes bytes of a file of a closed replica as a bad medium does: nothing shows it. (No program can write a file
/// without another change time, so the index is given that.)
fn rot(root: &Path, name: &str, bytes: &[u8]) {
    let file = File::options().write(true).open(root.join(name)).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
    adopt_times(root, name);
}

fn adopt_times(root: &Path, name: &str) {
    let meta = fs::symlink_metadata(root.join(name)).unwrap();
    let ns = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
    let (mtime, ctime) = (ns(meta.mtime(), meta.mtime_nsec()), ns(meta.ctime(), meta.ctime_nsec()));
    let since = ctime - mtime;
    let kind = if meta.file_type().is_symlink() { 2 } else { 0 };
    let mut seen = Vec::new();
    for mut word in [
        kind,
        u64::from(meta.mode() & 0o7777),
        meta.nlink(),
        u64::from(meta.uid()),
        u64::from(meta.gid()),
        meta.size(),
        mtime.cast_unsigned(),
        (since << 1 ^ since >> 63).cast_unsigned(),
        meta.dev(),
        meta.ino(),
        0,
    ] {
        while word >= 0x80 {
            seen.push(word as u8 | 0x80);
            word >>= 7;
        }
        seen.push(word as u8);
    }
    let index = rusqlite::Connection::open(root.join(".syncfs/index.db")).unwrap();
    let changed = index.execute("UPDATE entry SET seen = ?1 WHERE path = ?2", (seen, name.as_bytes()));
    assert_eq!(changed, Ok(1));
}

/// Two replicas, of which the first is closed while its medium does what `harm` says, and opened again unconnected.
async fn harmed(prepare: impl Fn(&Path), harm: impl Fn(&Path)) -> Pair {
    let mut pair = Pair::new().await;
    prepare(pair.dirs[0].path());
    pair.settle().await;
    pair.disconnect().await;
    pair.folders[0].clone().close().await;
    harm(pair.dirs[0].path());
    // What is read just after it was written is not judged yet: the scan of the opening reads it later than that.
    tokio::time::sleep(Duration::from_millis(100)).await;
    pair.folders[0] = Folder::open(Config::new(pair.dirs[0].path())).await.unwrap();
    pair
}

async fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !what() {
        assert!(Instant::now() < deadline, "it never comes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn damaged(name: &str, repair: bool) -> Vec<Finding> {
    vec![Finding::Damaged { path: path(name), repair }]
}

#[tokio::test]
async fn a_sound_replica_is_told_to_be_sound() {
    let pair = harmed(|root| write_old(&root.join("f"), GOOD), |_| ()).await;
    fs::write(pair.path(0, "new"), "just written").unwrap();
    let report = pair.folders[0].check(Repair::Files).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.files, report.bytes, report.skipped), (1, GOOD.len() as u64, 1));
}

#[tokio::test]
async fn damage_is_named_kept_and_repaired_from_a_peer() {
    let large: Vec<u8> = (0..20_000_000_u32).map(|number| (number.wrapping_mul(number) >> 7) as u8).collect();
    let prepare = |root: &Path| {
        write_old(&root.join("f"), GOOD);
        write_old(&root.join("large"), &large);
    };
    let mut pair = harmed(prepare, |root| rot(root, "f", BAD)).await;
    let mut events = pair.folders[0].subscribe();
    pair.connect();
    until(|| pair.folders[0].status().peers.iter().all(|peer| peer.connected)).await;
    let report = pair.folders[0].check(Repair::Files).await.unwrap();
    assert_eq!(report.findings, damaged("f", true));
    assert_eq!((report.files, report.missed), (2, 0));
    until(|| fs::read(pair.path(0, "f")).unwrap() == GOOD).await;
    while events.recv().await.unwrap() != Event::Repaired(path("f")) {}
    pair.settle().await;
    assert_eq!(fs::read(pair.path(1, "f")).unwrap(), GOOD);
    until(|| pair.folders[0].status().problems.is_empty()).await;
    let branches = pair.folders[0].branches().await.unwrap();
    assert_eq!((branches.len(), branches[0].cause, branches[0].paths), (1, Cause::Damaged, 1));
    let kept = pair.folders[0].diff(&branches[0].name()).await.unwrap()[0].kept_as.clone().unwrap();
    assert_eq!(fs::read(pair.path(0, ".syncfs").join(kept.to_string())).unwrap(), BAD);
    assert!(pair.folders[0].check(Repair::Files).await.unwrap().is_sound());
}

#[tokio::test]
async fn damage_that_nobody_can_repair_stays_named_and_never_becomes_an_edit() {
    let mut pair = harmed(|root| write_old(&root.join("f"), GOOD), |root| rot(root, "f", BAD)).await;
    assert_eq!(pair.folders[0].check(Repair::Files).await.unwrap().findings, damaged("f", true));
    let is_named = |folder: &Folder| {
        let problems = folder.status().problems;
        problems.iter().any(|problem| problem.path == Some(path("f")) && problem.what.contains("damaged"))
    };
    until(|| is_named(&pair.folders[0])).await;
    // Its fingerprint changes: it is read again, and is still what nobody wrote. In the next life, too.
    fs::set_permissions(pair.path(0, "f"), fs::Permissions::from_mode(0o600)).unwrap();
    pair.folders[0].flush().await.unwrap();
    pair.folders[0].clone().close().await;
    fs::set_permissions(pair.path(0, "f"), fs::Permissions::from_mode(0o640)).unwrap();
    pair.folders[0] = Folder::open(Config::new(pair.dirs[0].path())).await.unwrap();
    pair.folders[0].scan().await.unwrap();
    until(|| is_named(&pair.folders[0])).await;
    assert_eq!(fs::read(pair.path(0, "f")).unwrap(), BAD, "what stands there is not taken away");
    assert_eq!(pair.folders[0].branches().await.unwrap().len(), 1);
    pair.connect();
    pair.settle().await;
    until(|| fs::read(pair.path(0, "f")).unwrap() == GOOD).await;
    assert_eq!(fs::read(pair.path(1, "f")).unwrap(), GOOD);
    until(|| !is_named(&pair.folders[0])).await;
}

#[tokio::test]
async fn another_local_file_repairs_as_well_as_a_peer() {
    let prepare = |root: &Path| {
        write_old(&root.join("f"), GOOD);
        write_old(&root.join("copy"), GOOD);
    };
    let pair = harmed(prepare, |root| rot(root, "f", BAD)).await;
    assert_eq!(pair.folders[0].check(Repair::Files).await.unwrap().findings, damaged("f", true));
    until(|| fs::read(pair.path(0, "f")).unwrap() == GOOD).await;
}

#[tokio::test]
async fn a_check_that_may_repair_nothing_changes_nothing_and_a_later_edit_is_an_edit() {
    let mut pair = harmed(|root| write_old(&root.join("f"), GOOD), |root| rot(root, "f", BAD)).await;
    pair.connect();
    until(|| pair.folders[0].status().peers.iter().all(|peer| peer.connected)).await;
    assert_eq!(pair.folders[0].check(Repair::Nothing).await.unwrap().findings, damaged("f", false));
    pair.settle().await;
    assert_eq!(fs::read(pair.path(0, "f")).unwrap(), BAD);
    assert_eq!(fs::read(pair.path(1, "f")).unwrap(), GOOD);
    assert_eq!(pair.folders[0].branches().await.unwrap(), []);
    fs::write(pair.path(0, "f"), "written again").unwrap();
    pair.settle().await;
    assert_eq!(fs::read_to_string(pair.path(1, "f")).unwrap(), "written again");
    until(|| pair.folders[0].status().problems.is_empty()).await;
}

#[tokio::test]
async fn all_names_of_a_damaged_file_are_repaired_and_stay_one_file() {
    let prepare = |root: &Path| {
        write_old(&root.join("a"), GOOD);
        for name in ["b", "c"] {
            fs::hard_link(root.join("a"), root.join(name)).unwrap();
        }
    };
    let harm = |root: &Path| {
        rot(root, "a", BAD);
        ["b", "c"].iter().for_each(|name| adopt_times(root, name));
    };
    let mut pair = harmed(prepare, harm).await;
    pair.connect();
    until(|| pair.folders[0].status().peers.iter().all(|peer| peer.connected)).await;
    // Names whose file is another one by then are seen again by the next check.
    let deadline = Instant::now() + LONG;
    loop {
        let report = pair.folders[0].check(Repair::Files).await.unwrap();
        if report.is_sound() && report.skipped == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{report:?}");
        pair.settle().await;
    }
    pair.settle().await;
    let inodes = ["a", "b", "c"].map(|name| {
        assert_eq!(fs::read(pair.path(0, name)).unwrap(), GOOD, "{name}");
        assert_eq!(fs::read(pair.path(1, name)).unwrap(), GOOD, "{name}");
        pair.meta(0, name).ino()
    });
    assert!(inodes.iter().all(|ino| *ino == inodes[0]), "{inodes:?}");
}

#[tokio::test]
async fn a_damaged_symlink_needs_no_peer() {
    let make = |root: &Path, target: &str| {
        std::os::unix::fs::symlink(target, root.join("l")).unwrap();
        let hour_ago = Timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: hour_ago, last_modification: hour_ago };
        utimensat(CWD, root.join("l"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    let harm = |root: &Path| {
        fs::remove_file(root.join("l")).unwrap();
        make(root, "elsewhere");
        adopt_times(root, "l");
    };
    let pair = harmed(|root| make(root, "somewhere"), harm).await;
    assert_eq!(pair.folders[0].check(Repair::Files).await.unwrap().findings, damaged("l", true));
    until(|| fs::read_link(pair.path(0, "l")).unwrap() == Path::new("somewhere")).await;
    let branches = pair.folders[0].branches().await.unwrap();
    let kept = pair.folders[0].diff(&branches[0].name()).await.unwrap()[0].kept_as.clone().unwrap();
    let kept = pair.path(0, ".syncfs").join(kept.to_string());
    assert_eq!(fs::read_link(kept).unwrap(), Path::new("elsewhere"));
}

#[tokio::test]
async fn a_damaged_database_is_replaced_only_where_that_was_said() {
    let prepare = |root: &Path| {
        let file = root.join("db");
        let sql = "CREATE TABLE notes (text); INSERT INTO notes VALUES ('what was written')";
        rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        File::options().append(true).open(&file).unwrap().set_modified(hour_ago).unwrap();
    };
    let harm = |root: &Path| {
        let bytes = fs::read(root.join("db")).unwrap();
        let at = bytes.windows(GOOD.len()).position(|part| part == GOOD).unwrap();
        rot(root, "db", &[&bytes[..at], BAD].concat());
    };
    let mut pair = harmed(prepare, harm).await;
    let note = |side| {
        let connection = rusqlite::Connection::open(pair.path(side, "db")).unwrap();
        connection
            .query_row("SELECT text FROM notes", [], |row| {
                row.get::<_, Vec<u8>>(0).or(row.get::<_, String>(0).map(String::into_bytes))
            })
            .unwrap()
    };
    let (before, found) = (note(0), pair.folders[0].check(Repair::Files).await.unwrap().findings);
    assert_eq!((before, found), (BAD.to_vec(), damaged("db", false)));
    pair.connect();
    pair.settle().await;
    let note = |side| fs::read(pair.path(side, "db")).unwrap();
    assert_ne!(note(0), note(1), "its application may have it open");
    assert_eq!(pair.folders[0].check(Repair::All).await.unwrap().findings, damaged("db", true));
    until(|| note(0) == note(1)).await;
}

#[tokio::test]
async fn a_kept_version_whose_bytes_changed_or_went_is_named() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let keep = |mut config: Config| {
        config.history = History::Trash { keep: Duration::from_secs(3600) };
        config
    };
    let pair = Pair::of(dirs, keep).await;
    let names: Vec<_> = (0..20).map(|number| format!("f {number}")).collect();
    for text in ["before", "after"] {
        names.iter().for_each(|name| fs::write(pair.path(0, name), format!("{text} {name}")).unwrap());
        pair.settle().await;
    }
    let versions = async |name: &str| pair.folders[1].history(&path(name)).await.unwrap();
    let report = pair.folders[1].check(Repair::Files).await.unwrap();
    assert!(report.is_sound() && report.kept == 20, "{report:?}");

    let (bad, gone) = (versions("f 7").await.remove(0), versions("f 12").await.remove(0));
    let place = |root: ContentHash| pair.path(1, ".syncfs/history").join(root.to_string());
    fs::write(place(bad.root), "BEFORE f 7").unwrap();
    fs::remove_file(place(gone.root)).unwrap();
    let report = pair.folders[1].check(Repair::Files).await.unwrap();
    let mut found = Vec::new();
    for finding in &report.findings {
        let Finding::Version { path, id, why } = finding else { panic!("{finding:?}") };
        found.push((path.to_string(), *id, why.contains("not those that were kept")));
    }
    found.sort();
    assert_eq!(found, [("f 12".to_owned(), gone.id, false), ("f 7".to_owned(), bad.id, true)]);
    assert_eq!((report.kept, versions("f 7").await.len()), (20, 1), "nothing is deleted");
}
