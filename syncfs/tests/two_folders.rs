//! Two (and three) real folders over in-memory and TCP streams.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use syncfs::{
    Config, Event, FenceError, Folder, Problem, Role, Summary, SyncError, Token, Violation, WaitError,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Far more than anything here takes: only a failure waits this long.
const LONG: Duration = Duration::from_secs(60);

struct Replica {
    dir: TempDir,
    folder: Folder,
}

impl Replica {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(Config::new(dir.path())).await.unwrap();
        Self { dir, folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// As editors do: nobody ever sees the file empty.
    fn replace(&self, name: &str, text: &str) {
        let fresh = tempfile::NamedTempFile::new().unwrap();
        fs::write(fresh.path(), text).unwrap();
        fresh.persist(self.path(name)).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".syncfs")
            .collect();
        names.sort();
        names
    }

    async fn reopen(self) -> Self {
        let Self { dir, folder } = self;
        folder.close().await;
        let folder = Folder::open(Config::new(dir.path())).await.unwrap();
        Self { dir, folder }
    }
}

type Link = (JoinHandle<Result<Summary, SyncError>>, JoinHandle<Result<Summary, SyncError>>);

fn connect(a: &Folder, b: &Folder) -> Link {
    let (left, right) = tokio::io::duplex(1 << 20);
    let (a, b) = (a.clone(), b.clone());
    (
        tokio::spawn(async move { a.sync(left, None).await }),
        tokio::spawn(async move { b.sync(right, None).await }),
    )
}

fn cut(link: Link) {
    link.0.abort();
    link.1.abort();
}

/// Both ways: each has what the other has.
async fn settle(a: &Folder, b: &Folder) {
    for _ in 0..3 {
        for (writer, reader) in [(a, b), (b, a)] {
            let token = writer.flush().await.unwrap();
            if let Err(error) = writer.wait(&token, &[reader.device()], LONG).await {
                panic!("{error}\n{:?}\n{:?}", writer.status(), reader.status());
            }
            reader.reached(&token, LONG).await.unwrap();
        }
    }
    assert_eq!(a.digest().await.unwrap(), b.digest().await.unwrap());
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_renamed_directory_is_renamed_there_whatever_is_in_it() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    for number in 0..1000 {
        a.write(&format!("photos/2025/{number:04}.jpg"), format!("picture {number}").repeat(200));
    }
    let link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    cut(link);
    eventually("the first session ends", || a.folder.status().peers.iter().all(|peer| !peer.connected)).await;
    let link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    let inode = fs::metadata(b.path("photos/2025/0007.jpg")).unwrap().ino();
    fs::rename(a.path("photos/2025"), a.path("old")).unwrap();
    let started = Instant::now();
    eventually("the directory arrives", || {
        b.path("old/0999.jpg").exists() && !b.path("photos/2025").exists()
    })
    .await;
    println!("visible after {:?}", started.elapsed());
    let token = a.folder.flush().await.unwrap();
    a.folder.wait(&token, &[b.folder.device()], LONG).await.unwrap();
    assert_eq!(fs::metadata(b.path("old/0007.jpg")).unwrap().ino(), inode, "renamed, not copied");
    assert_eq!(a.folder.digest().await.unwrap(), b.folder.digest().await.unwrap());
    b.folder.close().await;
    let summary = link.0.await.unwrap().unwrap();
    let bytes = summary.sent_bytes + summary.received_bytes;
    println!("{bytes} bytes in the whole session");
    assert!(bytes < 10_000, "{bytes} bytes");
}

#[tokio::test]
async fn a_renamed_file_is_renamed_there_and_renamed_back() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    a.write("one.bin", vec![7; 3_000_000]);
    let _link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    let inode = fs::metadata(b.path("one.bin")).unwrap().ino();
    for (from, to) in [("one.bin", "two.bin"), ("two.bin", "one.bin"), ("one.bin", "deep/er/three.bin")] {
        fs::create_dir_all(a.path("deep/er")).unwrap();
        settle(&a.folder, &b.folder).await;
        fs::rename(a.path(from), a.path(to)).unwrap();
        eventually("the rename arrives", || b.path(to).exists() && !b.path(from).exists()).await;
        assert_eq!(fs::metadata(b.path(to)).unwrap().ino(), inode, "renamed, not copied");
    }
    settle(&a.folder, &b.folder).await;
}

#[tokio::test]
async fn a_rename_where_the_peer_has_something_else_costs_nobody_anything() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    a.write("dir/one", "1");
    a.write("dir/two", "2");
    let link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    cut(link);
    eventually("the session ends", || b.folder.status().peers.iter().all(|peer| !peer.connected)).await;
    // An edit and a new file at the peer that the rename does not know of.
    b.write("dir/two", "edited meanwhile");
    b.write("dir/three", "3");
    b.folder.scan().await.unwrap();
    fs::rename(a.path("dir"), a.path("moved")).unwrap();
    eventually("the rename is seen", || a.folder.status().sequence > 3).await;
    let _link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    for replica in [&a, &b] {
        assert_eq!(replica.read("moved/one").as_deref(), Some("1"));
        assert_eq!(replica.read("dir/two").as_deref(), Some("edited meanwhile"), "an edit beats a deletion");
        assert_eq!(replica.read("dir/three").as_deref(), Some("3"));
    }
}

#[tokio::test]
async fn whoever_took_or_left_the_lease_sees_it_in_the_status() {
    let a = Replica::new().await;
    a.write("note", "n");
    for epoch in 1..=20 {
        a.folder.hold(epoch).await.unwrap();
        assert_eq!((a.folder.epoch(), a.folder.status().role), (epoch, Role::Holder));
        a.folder.follow().await.unwrap();
        assert_eq!(a.folder.status().role, Role::Follower);
    }
}

#[tokio::test]
async fn the_current_status_is_of_now() {
    let a = Replica::new().await;
    for round in 0..10 {
        let before = a.folder.current_status().await.sequence;
        a.write("file", format!("edit {round}"));
        a.folder.scan().await.unwrap();
        assert!(a.folder.current_status().await.sequence > before);
    }
    let last = a.folder.current_status().await;
    a.folder.clone().close().await;
    assert_eq!(a.folder.current_status().await.sequence, last.sequence);
}

#[tokio::test]
async fn a_tree_arrives_with_modes_times_links_and_empty_directories() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    a.write("docs/readme.txt", "hello");
    a.write("docs/large.bin", (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
    a.write("empty.txt", "");
    fs::create_dir(a.path("nothing")).unwrap();
    fs::set_permissions(a.path("docs/readme.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("../outside", a.path("link")).unwrap();
    let _link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    assert_eq!(b.read("docs/readme.txt").as_deref(), Some("hello"));
    assert_eq!(fs::read(b.path("docs/large.bin")).unwrap(), fs::read(a.path("docs/large.bin")).unwrap());
    assert_eq!(fs::read(b.path("empty.txt")).unwrap(), b"");
    assert!(b.path("nothing").is_dir());
    assert_eq!(fs::read_link(b.path("link")).unwrap(), Path::new("../outside"));
    let meta = |replica: &Replica| fs::metadata(replica.path("docs/readme.txt")).unwrap();
    assert_eq!(meta(&b).permissions().mode() & 0o7777, 0o640);
    assert_eq!(meta(&a).modified().unwrap(), meta(&b).modified().unwrap());
    assert_eq!(a.folder.status().folder, b.folder.status().folder);
}

#[tokio::test]
async fn an_edit_is_visible_at_the_peer_within_milliseconds() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let _link = connect(&a.folder, &b.folder);
    a.write("file", "start");
    settle(&a.folder, &b.folder).await;
    let mut times = Vec::new();
    for number in 0..20 {
        let text = format!("edit {number}");
        let begin = Instant::now();
        a.write("file", &text);
        eventually("the edit at the peer", || b.read("file").as_deref() == Some(&text)).await;
        times.push(begin.elapsed());
    }
    times.sort();
    println!("edit -> visible: median {:?}, worst {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_secs(2), "median {:?}", times[10]);
}

#[tokio::test]
async fn concurrent_edits_both_survive_on_both_sides() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let link = connect(&a.folder, &b.folder);
    a.write("notes.txt", "base");
    settle(&a.folder, &b.folder).await;
    cut(link);
    a.replace("notes.txt", "from a");
    b.replace("notes.txt", "from b");
    let _link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    for replica in [&a, &b] {
        let names = replica.names();
        assert_eq!(names.len(), 2, "{names:?}");
        let copy = names.iter().find(|name| name.contains(".conflict-")).unwrap();
        let mut texts = [replica.read("notes.txt").unwrap(), replica.read(copy).unwrap()];
        texts.sort();
        assert_eq!(texts, ["from a", "from b"]);
    }
    let conflicts = a.folder.conflicts().await.unwrap();
    assert_eq!((conflicts.len(), &conflicts), (1, &b.folder.conflicts().await.unwrap()));
    assert!(conflicts.iter().all(|conflict| conflict.path.as_bytes() == b"notes.txt"));
}

#[tokio::test]
async fn an_edit_survives_a_concurrent_deletion_and_so_does_its_directory() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let link = connect(&a.folder, &b.folder);
    a.write("dir/kept.txt", "base");
    a.write("dir/other.txt", "base");
    settle(&a.folder, &b.folder).await;
    cut(link);
    fs::remove_dir_all(a.path("dir")).unwrap();
    b.write("dir/kept.txt", "edited");
    let _link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    for replica in [&a, &b] {
        assert_eq!(replica.read("dir/kept.txt").as_deref(), Some("edited"));
        assert_eq!(replica.read("dir/other.txt"), None);
    }
}

#[tokio::test]
async fn deletions_and_renames_of_trees_arrive() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let _link = connect(&a.folder, &b.folder);
    for number in 0..50 {
        a.write(&format!("old/{}/{number}", number % 5), format!("file {number}"));
    }
    settle(&a.folder, &b.folder).await;
    fs::rename(a.path("old"), a.path("new")).unwrap();
    settle(&a.folder, &b.folder).await;
    assert!(!b.path("old").exists());
    assert_eq!(b.read("new/3/13").as_deref(), Some("file 13"));
    fs::remove_dir_all(a.path("new")).unwrap();
    settle(&a.folder, &b.folder).await;
    assert!(b.names().is_empty());
}

#[tokio::test]
async fn a_file_becomes_a_directory_and_back() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let _link = connect(&a.folder, &b.folder);
    a.write("thing", "file");
    settle(&a.folder, &b.folder).await;
    fs::remove_file(a.path("thing")).unwrap();
    a.write("thing/inside", "x");
    settle(&a.folder, &b.folder).await;
    assert_eq!(b.read("thing/inside").as_deref(), Some("x"));
    fs::remove_dir_all(a.path("thing")).unwrap();
    a.write("thing", "file again");
    settle(&a.folder, &b.folder).await;
    assert_eq!(b.read("thing").as_deref(), Some("file again"));
}

#[tokio::test]
async fn a_transfer_that_was_cut_resumes_without_fetching_twice() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let mut seed = 1_u64;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    });
    let size = 24 << 20;
    a.write("large", noise.take(size).collect::<Vec<_>>());
    a.folder.flush().await.unwrap();
    let (left, right) = tokio::io::duplex(64 << 10);
    let (fa, fb) = (a.folder.clone(), b.folder.clone());
    let one = tokio::spawn(async move { fa.sync(left, None).await });
    let two = tokio::spawn(async move { fb.sync(right, None).await });
    let staging = b.path(".syncfs/staging");
    let staged = || {
        fs::read_dir(&staging)
            .unwrap()
            .flatten()
            .map(|file| file.metadata().unwrap().blocks() * 512)
            .sum::<u64>()
    };
    eventually("a part of the file", || staged() > size as u64 / 4).await;
    one.abort();
    two.abort();
    let b = b.reopen().await;
    assert_eq!(b.read("large"), None);
    let link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    assert_eq!(fs::read(b.path("large")).unwrap(), fs::read(a.path("large")).unwrap());
    b.folder.clone().close().await;
    let summary = link.0.await.unwrap().unwrap_or_default();
    println!("sent after the cut: {} of {size}", summary.sent_bytes);
    assert!(summary.sent_bytes < size as u64 * 9 / 10, "{} bytes", summary.sent_bytes);
}

#[tokio::test]
async fn three_replicas_in_a_line_pass_changes_and_barriers_on() {
    let (a, b, c) = (Replica::new().await, Replica::new().await, Replica::new().await);
    a.write("file", "from a");
    let (_ab, _bc) = (connect(&a.folder, &b.folder), connect(&b.folder, &c.folder));
    let token = a.folder.flush().await.unwrap();
    c.folder.reached(&token, LONG).await.unwrap();
    assert_eq!(c.read("file").as_deref(), Some("from a"));
    c.write("back", "from c");
    let token: Token = c.folder.flush().await.unwrap().to_string().parse().unwrap();
    a.folder.reached(&token, LONG).await.unwrap();
    assert_eq!(a.read("back").as_deref(), Some("from c"));
}

#[tokio::test]
async fn a_barrier_names_who_lags() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    a.write("file", "x");
    let token = a.folder.flush().await.unwrap();
    let short = Duration::from_millis(50);
    let Err(WaitError::Timeout(lags)) = a.folder.wait(&token, &[b.folder.device()], short).await else {
        panic!("nobody is connected");
    };
    assert_eq!((lags[0].device, lags[0].connected), (b.folder.device(), false));
    assert!(lags[0].behind > 0);
    assert!(matches!(b.folder.reached(&token, short).await, Err(WaitError::Timeout(_))));
}

#[tokio::test]
async fn tcp_carries_it_too() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (fa, fb, device) = (a.folder.clone(), b.folder.clone(), a.folder.device());
    tokio::spawn(async move { fa.sync(listener.accept().await.unwrap().0, None).await });
    tokio::spawn(async move {
        fb.sync(tokio::net::TcpStream::connect(address).await.unwrap(), Some(device)).await
    });
    for number in 0..300 {
        a.write(&format!("many/{number}"), format!("{number}"));
    }
    settle(&a.folder, &b.folder).await;
    assert_eq!(b.read("many/299").as_deref(), Some("299"));
}

#[tokio::test]
async fn a_fenced_holder_keeps_its_tail_aside_and_a_follower_undoes_edits() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let link = connect(&a.folder, &b.folder);
    a.write("data", "base");
    a.folder.hold(1).await.unwrap();
    settle(&a.folder, &b.folder).await;
    eventually("the lease to be heard of", || b.folder.status().role == Role::Follower).await;
    cut(link);
    a.write("data", "stale");
    a.write("only-stale", "tail");
    let token = a.folder.flush().await.unwrap();
    b.folder.hold(2).await.unwrap();
    b.write("data", "current");
    let _link = connect(&a.folder, &b.folder);
    eventually("the fence", || a.folder.epoch() == 2).await;
    settle(&a.folder, &b.folder).await;
    for replica in [&a, &b] {
        assert_eq!(replica.read("data").as_deref(), Some("current"));
        assert_eq!(replica.names(), ["data"]);
    }
    let kept = |name: &str| {
        let folders = fs::read_dir(a.path(".syncfs/aside")).unwrap().flatten();
        folders.map(|folder| folder.path().join(name)).find_map(|path| fs::read_to_string(path).ok())
    };
    assert_eq!((kept("data").as_deref(), kept("only-stale").as_deref()), (Some("stale"), Some("tail")));
    assert!(matches!(a.folder.hold(1).await, Err(FenceError::Stale { seen: 2, .. })));
    let waited = a.folder.wait(&token, &[b.folder.device()], Duration::from_millis(10)).await;
    assert_eq!(waited, Err(WaitError::Fenced { epoch: 2 }));

    a.write("data", "not allowed");
    a.write("new", "not allowed");
    eventually("the edit undone", || a.read("data").as_deref() == Some("current") && a.read("new").is_none())
        .await;
    fs::remove_file(a.path("data")).unwrap();
    eventually("the deletion undone", || a.read("data").as_deref() == Some("current")).await;
    assert_eq!(b.read("data").as_deref(), Some("current"));
}

#[tokio::test]
async fn a_missing_root_is_never_a_deletion() {
    let (a, b) = (Replica::new().await, Replica::new().await);
    let _link = connect(&a.folder, &b.folder);
    a.write("precious", "x");
    settle(&a.folder, &b.folder).await;
    let away = a.dir.path().with_extension("away");
    fs::rename(a.dir.path(), &away).unwrap();
    fs::create_dir(a.dir.path()).unwrap();
    assert!(a.folder.scan().await.is_err());
    assert!(matches!(
        Folder::open(Config::new(a.dir.path())).await,
        Err(syncfs::OpenError::NotInitialised(_))
    ));
    fs::remove_dir(a.dir.path()).unwrap();
    fs::rename(&away, a.dir.path()).unwrap();
    assert_eq!(b.read("precious").as_deref(), Some("x"));
    let a = a.reopen().await;
    let _link = connect(&a.folder, &b.folder);
    settle(&a.folder, &b.folder).await;
    assert_eq!(b.read("precious").as_deref(), Some("x"));
}

#[tokio::test]
async fn opening_says_what_is_wrong() {
    use syncfs::OpenError;
    let dir = tempfile::tempdir().unwrap();
    let missing = Folder::open(Config::new(dir.path().join("missing"))).await;
    assert!(matches!(missing, Err(OpenError::NotFound(_))));
    assert!(matches!(Folder::open(Config::new(dir.path())).await, Err(OpenError::NotInitialised(_))));
    let device = Folder::init(Config::new(dir.path())).await.unwrap();
    assert_eq!(Folder::init(Config::new(dir.path())).await.unwrap(), device, "init is idempotent");
    let mut other = Config::new(dir.path());
    other.device = Some(syncfs::DeviceId::from_bytes([7; 32]));
    assert!(matches!(Folder::init(other.clone()).await, Err(OpenError::WrongDevice { .. })));
    assert!(matches!(Folder::open(other).await, Err(OpenError::WrongDevice { .. })));
    let folder = Folder::open(Config::new(dir.path())).await.unwrap();
    assert_eq!(folder.device(), device);
    assert!(matches!(Folder::open(Config::new(dir.path())).await, Err(OpenError::Locked(_))));
    folder.close().await;
    fs::remove_file(dir.path().join(".syncfs/index.db")).unwrap();
    fs::remove_file(dir.path().join(".syncfs/witness")).unwrap();
    assert!(matches!(Folder::open(Config::new(dir.path())).await, Err(OpenError::State { .. })));
}

#[tokio::test]
async fn two_different_folders_refuse_each_other() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    dirs.iter().for_each(|dir| fs::write(dir.path().join("file"), "x").unwrap());
    let a = Folder::create(Config::new(dirs[0].path())).await.unwrap();
    let b = Folder::create(Config::new(dirs[1].path())).await.unwrap();
    let (left, right) = tokio::io::duplex(1 << 16);
    let (one, two) = tokio::join!(a.sync(left, None), b.sync(right, None));
    assert!(one.is_err() && two.is_err());
    assert!(
        [&one, &two].iter().any(|end| matches!(end, Err(SyncError::Protocol(Violation::WrongFolder { .. })))),
        "{one:?} {two:?}"
    );
}

#[tokio::test]
async fn special_files_are_named_and_skipped() {
    let a = Replica::new().await;
    let socket = std::os::unix::net::UnixListener::bind(a.path("socket")).unwrap();
    let mut events = a.folder.subscribe();
    let report = a.folder.scan().await.unwrap();
    drop(socket);
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.path.as_ref().is_some_and(|path| path.as_bytes() == b"socket"))
    );
    let is_problem = |event: &Event| matches!(event, Event::Problem(Problem { .. }));
    assert!(is_problem(&events.recv().await.unwrap()));
}
