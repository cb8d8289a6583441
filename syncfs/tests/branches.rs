//! What loses its right to be in a leased folder becomes a branch: listed, compared, brought back or dropped, and never
//! lost on the way. And conflicts end as a person says.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pair::{LONG, Replica, connect, cut, eventually, rel};
use rusqlite::Connection;
use syncfs::{Branch, Cause, Change, Config, Event, History, RelPath, Resolution, RestoreError, Role};

fn keeping(history: History) -> impl FnOnce(&mut Config) {
    move |config| config.history = history
}

async fn branches_of(replica: &Replica) -> Vec<Branch> {
    replica.folder.branches().await.unwrap()
}

/// What taking each path of a branch would change.
async fn changes(replica: &Replica, branch: &str) -> Vec<(String, Change)> {
    let differences = replica.folder.diff(branch).await.unwrap();
    differences.iter().map(|one| (one.path.to_string(), one.change)).collect()
}

/// Both replicas, of which `a` wrote on under epoch 1 while `b` took over with 2, after they met again.
async fn fenced(prepare: impl Fn(&Replica), tail: impl Fn(&Replica)) -> (Replica, Replica) {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(History::Off)).await);
    let link = connect(&a.folder, &b.folder);
    prepare(&a);
    a.folder.hold(1).await.unwrap();
    a.reaches(&b).await;
    eventually("the lease to be heard of", || b.folder.status().role == Role::Follower).await;
    cut(link).await;
    tail(&a);
    a.folder.flush().await.unwrap();
    b.folder.hold(2).await.unwrap();
    (a, b)
}

/// Until the tail is set aside on `a` and what belongs there has come; `is_current` looks at one that had been changed.
async fn meet(a: &Replica, b: &Replica, is_current: impl FnMut() -> bool) {
    drop(connect(&a.folder, &b.folder));
    eventually("the fence", || a.folder.epoch() == 2).await;
    let token = b.folder.flush().await.unwrap();
    a.folder.reached(&token, LONG).await.unwrap();
    eventually("the current version", is_current).await;
}

#[tokio::test]
async fn a_stale_tail_is_one_branch_with_its_deletions_and_comes_back_when_the_holder_says_so() {
    let (a, b) = fenced(
        |a| {
            a.write("changed", "base");
            a.write("deleted", "base");
            a.write("d/kept", "base");
        },
        |a| {
            a.write("changed", "tail");
            a.write("d/new", "tail, new");
            fs::remove_file(a.path("deleted")).unwrap();
            std::os::unix::fs::symlink("changed", a.path("link")).unwrap();
        },
    )
    .await;
    b.write("changed", "current");
    meet(&a, &b, || a.read("changed").as_deref() == Some("current") && a.read("d/new").is_none()).await;
    assert_eq!(a.read("deleted").as_deref(), Some("base"), "the deletion was part of the tail");

    // All of it is one branch, and still is after a restart.
    let a = a.reopen(|_| ()).await;
    let branches = branches_of(&a).await;
    assert_eq!(branches.len(), 1, "{branches:?}");
    let branch = &branches[0];
    assert_eq!((branch.epoch, branch.over, branch.cause, branch.paths), (1, 2, Cause::StaleEpoch, 4));
    assert!(branch.began_ns > 1_700_000_000_000_000_000, "{}", branch.began_ns);
    assert_eq!(a.folder.current_status().await.branches, 1);
    assert_eq!(branches_of(&b).await, []);
    let name = branch.name();
    let expected = [
        ("changed", Change::Changed),
        ("d/new", Change::New),
        ("deleted", Change::Deleted),
        ("link", Change::New),
    ];
    assert_eq!(changes(&a, &name).await, expected.map(|(path, change)| (path.to_owned(), change)));
    let differences = a.folder.diff(&name).await.unwrap();
    assert_eq!((differences[0].size, differences[0].current), (Some(4), Some(7)));
    let kept = differences[0].kept_as.clone().unwrap();
    assert_eq!(a.read(&format!(".syncfs/{kept}")).as_deref(), Some("tail"));

    // A follower may not bring it back, the holder may.
    let refused = a.folder.restore_branch(&name, &[], None).await;
    assert_eq!(refused, Err(RestoreError::Follower));
    drop(connect(&a.folder, &b.folder));
    b.reaches(&a).await;
    b.folder.follow().await.unwrap();
    a.folder.hold(3).await.unwrap();
    let restored = a.folder.restore_branch(&name, &[rel("changed"), rel("d")], None).await.unwrap();
    assert_eq!(restored, [rel("changed"), rel("d/new")]);
    let restored = a.folder.restore_branch(&name, &[], None).await.unwrap();
    assert_eq!(restored, [rel("link"), rel("deleted")], "the rest");
    assert_eq!(a.folder.restore_branch(&name, &[], None).await.unwrap(), []);
    a.reaches(&b).await;
    for replica in [&a, &b] {
        assert_eq!(replica.read("changed").as_deref(), Some("tail"));
        assert_eq!(replica.read("d/new").as_deref(), Some("tail, new"));
        assert_eq!(replica.read("deleted"), None);
        assert_eq!(fs::read_link(replica.path("link")).unwrap(), PathBuf::from("changed"));
        // There is no history here: what stood there is kept beside.
        let copies: Vec<_> = replica.names().into_iter().filter(|name| name.contains("conflict")).collect();
        let mut texts: Vec<_> = copies.iter().map(|name| replica.read(name).unwrap()).collect();
        texts.sort();
        assert_eq!(texts, ["base", "current"], "{copies:?}");
    }
    assert!(changes(&a, &name).await.iter().all(|(_, change)| *change == Change::Same));

    a.folder.drop_branch(&name).await.unwrap();
    assert_eq!(branches_of(&a).await, []);
    assert_eq!(fs::read_dir(a.path(".syncfs/aside")).unwrap().count(), 0);
    assert_eq!(a.folder.diff(&name).await, Err(RestoreError::NoBranch(name.clone())));
    assert_eq!(a.folder.drop_branch(&name).await, Err(RestoreError::NoBranch(name)));
}

#[tokio::test]
async fn edits_on_a_follower_are_a_branch_until_a_path_is_edited_twice() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(History::Off)).await);
    drop(connect(&a.folder, &b.folder));
    a.write("x", "held");
    a.folder.hold(1).await.unwrap();
    a.reaches(&b).await;
    eventually("the lease to be heard of", || b.folder.status().role == Role::Follower).await;
    for (path, text) in [("x", "edit"), ("new", "edit too"), ("x", "second edit")] {
        let draft = b.path(".syncfs/draft");
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, b.path(path)).unwrap();
        let undone = || b.read("x").as_deref() == Some("held") && b.read("new").is_none();
        b.folder.scan().await.unwrap();
        eventually("the edit undone", undone).await;
    }
    let branches = branches_of(&b).await;
    let paths: Vec<_> = branches.iter().map(|branch| (branch.cause, branch.epoch, branch.paths)).collect();
    assert_eq!(paths, [(Cause::FollowerEdit, 1, 1), (Cause::FollowerEdit, 1, 2)]);
    let text = |branch: &Branch, path: &str| b.read(&format!(".syncfs/aside/{}/{path}", branch.name()));
    assert_eq!(text(&branches[0], "x").as_deref(), Some("second edit"));
    assert_eq!(text(&branches[1], "x").as_deref(), Some("edit"));
    assert_eq!(text(&branches[1], "new").as_deref(), Some("edit too"));
}

#[tokio::test]
async fn what_the_index_does_not_know_of_is_found_and_what_is_gone_is_no_branch() {
    let (a, b) = fenced(|a| a.write("x", "base"), |a| a.write("x", "tail")).await;
    meet(&a, &b, || a.read("x").as_deref() == Some("base")).await;
    let branch = branches_of(&a).await.remove(0);
    // As a crash leaves it between a second name and the index's commit, or a lost index everything.
    let foreign = branch.name().replace(&format!("-{}-", branch.epoch), "-7-") + "5";
    let place = a.path(".syncfs/aside").join(&foreign);
    fs::create_dir_all(place.join("d")).unwrap();
    fs::write(place.join("d/y"), "found").unwrap();
    fs::create_dir_all(a.path(".syncfs/aside/not a branch")).unwrap();
    fs::write(a.path(".syncfs/aside/not a branch/y"), "left alone").unwrap();
    fs::remove_dir_all(a.path(".syncfs/aside").join(branch.name())).unwrap();
    let a = a.reopen(|_| ()).await;
    let branches = branches_of(&a).await;
    assert_eq!(branches.len(), 1, "{branches:?}");
    assert_eq!((branches[0].name(), branches[0].cause), (foreign.clone(), Cause::Found));
    assert_eq!(changes(&a, &foreign).await, [("d/y".to_owned(), Change::New)]);
    assert_eq!(a.read(".syncfs/aside/not a branch/y").as_deref(), Some("left alone"));
    // Numbers are not given twice.
    drop(connect(&a.folder, &b.folder));
    // What nobody else is known to have is not undone.
    a.reaches(&b).await;
    a.write("x", "edit");
    a.folder.scan().await.unwrap();
    eventually("the edit aside", || a.folder.status().branches == 2).await;
    assert!(branches_of(&a).await[0].number > branches[0].number);
}

#[tokio::test]
async fn a_database_of_a_stale_tail_comes_back_with_its_log() {
    let rows = |path: PathBuf| -> Vec<i64> {
        let connection = Connection::open(path).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let mut statement = connection.prepare("SELECT n FROM t ORDER BY n").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let writer = std::sync::Mutex::new(None);
    let (a, b) = fenced(
        |a| {
            let connection = Connection::open(a.path("app.db")).unwrap();
            connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").unwrap();
            connection.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
            *writer.lock().unwrap() = Some(connection);
        },
        |_| writer.lock().unwrap().as_ref().unwrap().execute_batch("INSERT INTO t VALUES (2)").unwrap(),
    )
    .await;
    let inode = || fs::metadata(a.path("app.db")).unwrap().ino();
    let of_the_tail = inode();
    meet(&a, &b, || inode() != of_the_tail).await;
    // Only now, so that the log of what was set aside is not folded in by anybody but us.
    std::mem::forget(writer.lock().unwrap().take());
    assert_eq!(rows(a.path("app.db")), [1]);
    let name = branches_of(&a).await[0].name();
    assert!(a.path(&format!(".syncfs/aside/{name}/app.db-wal")).exists());
    b.folder.follow().await.unwrap();
    b.reaches(&a).await;
    a.folder.hold(3).await.unwrap();
    let to = rel("recovered");
    assert_eq!(a.folder.restore_branch(&name, &[], Some(&to)).await.unwrap(), [rel("recovered/app.db")]);
    assert_eq!(rows(a.path("recovered/app.db")), [1, 2]);
    assert_eq!(rows(a.path("app.db")), [1]);
}

/// Two replicas with one conflict, on both, about `x`: `loser` is the copy.
async fn conflict(history: History) -> (Replica, Replica, RelPath) {
    let (a, b) = (Replica::new(keeping(history)).await, Replica::new(keeping(history)).await);
    let link = connect(&a.folder, &b.folder);
    a.write("x", "base");
    a.reaches(&b).await;
    cut(link).await;
    b.write("x", "loser");
    b.folder.scan().await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    a.write("x", "winner");
    a.folder.scan().await.unwrap();
    let link = connect(&a.folder, &b.folder);
    a.reaches(&b).await;
    b.reaches(&a).await;
    let copy = a.folder.conflicts().await.unwrap().remove(0).kept_as;
    assert_eq!(
        (a.read("x").as_deref(), a.read(&copy.to_string()).as_deref()),
        (Some("winner"), Some("loser"))
    );
    cut(link).await;
    (a, b, copy)
}

async fn together(a: &Replica, b: &Replica) {
    drop(connect(&a.folder, &b.folder));
    for _ in 0..2 {
        a.reaches(b).await;
        b.reaches(a).await;
    }
    assert_eq!(a.folder.digest().await.unwrap(), b.folder.digest().await.unwrap());
    assert_eq!(a.names(), b.names());
}

#[tokio::test]
async fn a_conflict_ends_as_a_person_says() {
    let trash = History::Trash { keep: Duration::from_secs(3600) };
    for (resolution, names, x, lost) in [
        (Resolution::Current, &["x"][..], "winner", Some("copy")),
        (Resolution::Copy, &["x"], "loser", Some("x")),
        (Resolution::Both(rel("y")), &["x", "y"], "winner", None),
    ] {
        let (a, b, copy) = conflict(trash).await;
        a.folder.resolve(&copy, resolution.clone()).await.unwrap();
        assert_eq!(
            (a.names(), a.read("x").as_deref()),
            (names.iter().map(ToString::to_string).collect(), Some(x))
        );
        assert_eq!(a.folder.conflicts().await.unwrap(), []);
        let lost = lost.map(|lost| if lost == "copy" { copy.clone() } else { rel(lost) });
        if let Some(lost) = lost {
            let versions = a.folder.history(&lost).await.unwrap();
            let kept = a.path(".syncfs/history").join(versions[0].root.to_string());
            let text = if lost == copy { "loser" } else { "winner" };
            assert_eq!(fs::read_to_string(kept).unwrap(), text, "{resolution:?}");
        }
        together(&a, &b).await;
        assert_eq!(b.read("x").as_deref(), Some(x));
        let again = a.folder.resolve(&copy, resolution).await;
        assert_eq!(again, Err(RestoreError::NoConflict(copy)));
    }
}

#[tokio::test]
async fn a_conflict_that_two_resolve_at_once_converges() {
    let ways =
        [Resolution::Current, Resolution::Copy, Resolution::Both(rel("y")), Resolution::Both(rel("z"))];
    for (one, two) in [(0, 1), (0, 2), (1, 2), (2, 3), (1, 1)] {
        let (a, b, copy) = conflict(History::Off).await;
        a.folder.resolve(&copy, ways[one].clone()).await.unwrap();
        b.folder.resolve(&copy, ways[two].clone()).await.unwrap();
        together(&a, &b).await;
        assert_eq!(a.read(&copy.to_string()), None);
        let texts: Vec<_> = a.names().iter().filter_map(|name| a.read(name)).collect();
        assert!(texts.contains(&"winner".to_owned()) || texts.contains(&"loser".to_owned()), "{texts:?}");
        if one == 2 {
            assert_eq!(a.names(), ["x", "y", "z"]);
        }
    }
}

#[tokio::test]
async fn nothing_is_in_the_way_of_a_resolution_and_no_reader_finds_nothing() {
    let (a, _b, copy) = conflict(History::Off).await;
    a.write("taken", "t");
    let taken = a.folder.resolve(&copy, Resolution::Both(rel("taken"))).await;
    assert_eq!(taken, Err(RestoreError::Taken(rel("taken"))));
    let nowhere = a.folder.resolve(&copy, Resolution::Both(rel("no/such"))).await;
    assert_eq!(nowhere, Err(RestoreError::Taken(rel("no/such"))));
    let unknown = a.folder.resolve(&rel("x"), Resolution::Current).await;
    assert_eq!(unknown, Err(RestoreError::NoConflict(rel("x"))));
    assert_eq!(a.read(&copy.to_string()).as_deref(), Some("loser"), "nothing was done");

    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (done, path) = (Arc::clone(&done), a.path("x"));
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&path).expect("it never vanishes");
                assert!(text == "winner" || text == "loser", "{text}");
            }
        })
    };
    a.folder.resolve(&copy, Resolution::Copy).await.unwrap();
    done.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    assert_eq!(a.read("x").as_deref(), Some("loser"));
}

#[tokio::test]
async fn a_deletion_on_a_follower_is_undone_and_told() {
    let (a, b) = (Replica::new(keeping(History::Off)).await, Replica::new(keeping(History::Off)).await);
    let _link = connect(&a.folder, &b.folder);
    a.write("note", "kept");
    a.folder.hold(1).await.unwrap();
    a.reaches(&b).await;
    let mut events = b.folder.subscribe();
    fs::remove_file(b.path("note")).unwrap();
    b.folder.flush().await.unwrap();
    eventually("it is back", || b.read("note").as_deref() == Some("kept")).await;
    let [branch] = &branches_of(&b).await[..] else { panic!("one branch") };
    assert_eq!((branch.cause, branch.paths, branch.bytes), (Cause::FollowerEdit, 1, 0));
    assert_eq!(changes(&b, &branch.name()).await, [("note".to_owned(), Change::Deleted)]);
    let told = Event::SetAside { path: rel("note"), branch: branch.name() };
    while events.recv().await.unwrap() != told {}
}
