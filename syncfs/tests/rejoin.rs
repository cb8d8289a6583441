//! A replica whose index is lost, or that was restored from a backup, or made again under its old key: it rejoins as
//! unknown. Nothing is lost, nothing deleted comes back, nothing is transferred that both have.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use syncfs::{Config, DeviceId, FenceError, Folder, FolderId, Role, Summary, SyncError, WaitError};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(60);

fn connect(a: &Folder, b: &Folder) -> [JoinHandle<Result<Summary, SyncError>>; 2] {
    let (left, right) = tokio::io::duplex(1 << 20);
    [(a.clone(), left), (b.clone(), right)]
        .map(|(folder, stream)| tokio::spawn(async move { folder.sync(stream, None).await }))
}

async fn settle(a: &Folder, b: &Folder) {
    for _ in 0..2 {
        for (writer, reader) in [(a, b), (b, a)] {
            loop {
                let token = writer.flush().await.unwrap();
                match writer.wait(&token, &[reader.device()], LONG).await {
                    Ok(()) => break,
                    // It rejoined meanwhile: a token of the life before says nothing any more.
                    Err(WaitError::Fenced { .. }) => {}
                    Err(error) => panic!("{error}\n{:?}\n{:?}", writer.status(), reader.status()),
                }
            }
        }
    }
    assert_eq!(a.digest().await.unwrap(), b.digest().await.unwrap());
    // The status is that of a moment ago.
    let deadline = Instant::now() + LONG;
    while !a.status().problems.is_empty() || !b.status().problems.is_empty() {
        assert!(Instant::now() < deadline, "{:?}\n{:?}", a.status(), b.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All files of a replica by name, with what is in them.
fn files(root: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn holds(root: &Path, text: &str) -> bool {
    files(root).iter().any(|(_, other)| other == text)
}

fn is_aside(root: &Path, text: &str) -> bool {
    let mut dirs = vec![root.join(".syncfs/aside")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false if fs::read_to_string(&path).unwrap() == text => return true,
                false => {}
            }
        }
    }
    false
}

/// As a backup does it. (No other program is run: while it starts, it would hold the locks of the folders beside.)
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => {
                fs::copy(entry.path(), &target).unwrap();
                let modified = entry.metadata().unwrap().modified().unwrap();
                fs::File::options().append(true).open(&target).unwrap().set_modified(modified).unwrap();
            }
        }
    }
}

struct Pair {
    parent: TempDir,
    roots: [PathBuf; 2],
}

impl Pair {
    /// Two replicas that have the same twenty files, closed.
    async fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let roots = ["a", "b"].map(|name| parent.path().join(name));
        roots.iter().for_each(|root| fs::create_dir(root).unwrap());
        (0..20).for_each(|number| {
            fs::write(roots[0].join(number.to_string()), format!("file {number}")).unwrap()
        });
        let pair = Self { parent, roots };
        let (a, b) = pair.open().await;
        connect(&a, &b);
        settle(&a, &b).await;
        a.close().await;
        b.close().await;
        pair
    }

    fn config(&self, number: usize) -> Config {
        let mut config = Config::new(&self.roots[number]);
        config.device = Some(DeviceId::from_bytes([number as u8 + 1; 32]));
        config.folder = Some(FolderId::from_bytes([7; 16]));
        config
    }

    async fn open(&self) -> (Folder, Folder) {
        (Folder::create(self.config(0)).await.unwrap(), Folder::create(self.config(1)).await.unwrap())
    }

    fn write(&self, number: usize, name: &str, text: &str) {
        fs::write(self.roots[number].join(name), text).unwrap();
    }

    fn remove(&self, number: usize, name: &str) {
        fs::remove_file(self.roots[number].join(name)).unwrap();
    }

    /// What happens while the one replica is closed, to both.
    fn go_apart(&self) {
        self.remove(1, "3");
        self.write(1, "4", "changed at b");
        self.write(0, "5", "changed at a");
        self.remove(0, "6");
        self.write(0, "new", "new at a");
    }

    fn check_after_the_index_was_lost(&self) {
        let [a, b] = &self.roots;
        assert_eq!(files(a), files(b));
        assert!(!a.join("3").exists() && !holds(a, "file 3"), "what was deleted came back");
        assert!(is_aside(a, "file 3"), "it may have been an edit: it is kept");
        assert_eq!(fs::read_to_string(a.join("4")).unwrap(), "changed at b");
        assert_eq!(fs::read_to_string(a.join("5")).unwrap(), "file 5");
        assert!(holds(b, "changed at a"), "an edit is kept as a conflict");
        assert_eq!(fs::read_to_string(a.join("6")).unwrap(), "file 6", "absence is no deletion");
        assert_eq!(fs::read_to_string(b.join("new")).unwrap(), "new at a");
        assert_eq!(files(a).len(), 19 + 1 + 2, "{:?}", files(a));
    }
}

#[tokio::test]
async fn a_lost_index_is_built_anew_and_nothing_is_lost_or_comes_back() {
    let pair = Pair::new().await;
    fs::remove_file(pair.roots[0].join(".syncfs/index.db")).unwrap();
    pair.go_apart();
    let (a, b) = pair.open().await;
    assert!(a.current_status().await.problems.iter().any(|problem| problem.what.contains("index was lost")));
    let sessions = connect(&a, &b);
    settle(&a, &b).await;
    pair.check_after_the_index_was_lost();
    a.close().await;
    let [_, at_b] = sessions;
    let received = at_b.await.unwrap().unwrap();
    assert!(received.chunks <= 3, "what both have is not transferred: {received:?}");
    // It is a replica like any other again.
    let (a, _) = (Folder::open(pair.config(0)).await.unwrap(), ());
    connect(&a, &b);
    pair.write(0, "4", "changed at a again");
    pair.remove(0, "7");
    settle(&a, &b).await;
    assert_eq!(fs::read_to_string(pair.roots[1].join("4")).unwrap(), "changed at a again");
    assert!(!pair.roots[1].join("7").exists());
}

#[tokio::test]
async fn a_lost_index_does_not_forget_who_holds_the_lease() {
    let pair = Pair::new().await;
    let (a, b) = pair.open().await;
    connect(&a, &b);
    b.hold(3).await.unwrap();
    settle(&b, &a).await;
    a.close().await;
    b.close().await;
    fs::remove_file(pair.roots[0].join(".syncfs/index.db")).unwrap();
    // Nobody is there to tell it.
    let a = Folder::open(pair.config(0)).await.unwrap();
    assert_eq!((a.current_status().await.epoch, a.current_status().await.role), (3, Role::Follower));
    let taken = a.hold(3).await;
    assert!(matches!(taken, Err(FenceError::Stale { .. })), "{taken:?}");
}

/// Damages an index file, given its bytes.
type Damage = fn(&Path, Vec<u8>);

fn through_sqlite(path: &Path, sql: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

const DAMAGES: [(&str, Damage); 11] = [
    ("missing", |path, _| fs::remove_file(path).unwrap()),
    ("empty", |path, _| fs::write(path, b"").unwrap()),
    ("text", |path, _| fs::write(path, "not an index\n".repeat(500)).unwrap()),
    ("zeros", |path, bytes| fs::write(path, vec![0; bytes.len()]).unwrap()),
    ("half", |path, bytes| fs::write(path, &bytes[..bytes.len() / 2]).unwrap()),
    ("a header only", |path, bytes| fs::write(path, &bytes[..100]).unwrap()),
    ("flipped headers of pages", |path, mut bytes| {
        bytes.chunks_mut(4096).skip(1).for_each(|page| page[0] ^= 0xff);
        fs::write(path, bytes).unwrap();
    }),
    ("a row that is none", |path, _| through_sqlite(path, "UPDATE entry SET kind = x'ff' WHERE id = 5")),
    ("an owner that is none", |path, _| through_sqlite(path, "DELETE FROM meta")),
    ("a table that is missing", |path, _| through_sqlite(path, "DROP TABLE chunk")),
    ("somebody else's database", |path, _| {
        fs::remove_file(path).unwrap();
        through_sqlite(path, "CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')");
    }),
];

#[tokio::test]
async fn an_index_that_is_damaged_in_any_way_is_set_aside_and_built_anew() {
    for (what, damage) in DAMAGES {
        println!("{what}");
        let pair = Pair::new().await;
        let path = pair.roots[0].join(".syncfs/index.db");
        damage(&path, fs::read(&path).unwrap());
        pair.go_apart();
        let (a, b) = pair.open().await;
        let kept = pair.roots[0].join(".syncfs/index.db.damaged-1");
        assert!(what == "missing" || kept.exists(), "{what}: it is not kept");
        connect(&a, &b);
        settle(&a, &b).await;
        pair.check_after_the_index_was_lost();
    }
}

#[tokio::test]
async fn a_backup_that_was_restored_overwrites_nothing_and_its_edits_are_kept() {
    let pair = Pair::new().await;
    let backup = pair.parent.path().join("backup");
    copy(&pair.roots[0], &backup);
    // A week passes: writes of both, under counters that the backup does not know of.
    let (a, b) = pair.open().await;
    connect(&a, &b);
    pair.write(0, "1", "changed at a in the week");
    pair.remove(0, "2");
    pair.write(0, "later", "written at a in the week");
    pair.write(1, "8", "changed at b in the week");
    settle(&a, &b).await;
    a.close().await;
    fs::remove_dir_all(&pair.roots[0]).unwrap();
    copy(&backup, &pair.roots[0]);
    // The restored one is used before it meets anybody.
    pair.write(0, "1", "changed after the restore");
    pair.write(0, "9", "changed after the restore, too");
    pair.write(0, "fresh", "written after the restore");
    let a = Folder::open(pair.config(0)).await.unwrap();
    connect(&a, &b);
    settle(&a, &b).await;
    let [one, other] = &pair.roots;
    assert_eq!(files(one), files(other));
    assert!(!one.join("2").exists(), "what was deleted came back");
    assert_eq!(fs::read_to_string(one.join("1")).unwrap(), "changed at a in the week");
    assert_eq!(fs::read_to_string(one.join("8")).unwrap(), "changed at b in the week");
    for text in [
        "changed after the restore",
        "changed after the restore, too",
        "written after the restore",
        "written at a in the week",
    ] {
        assert!(holds(other, text), "lost: {text}");
    }
}

#[tokio::test]
async fn a_replica_that_is_made_again_under_its_old_key_is_let_in() {
    let pair = Pair::new().await;
    fs::remove_dir_all(pair.roots[0].join(".syncfs")).unwrap();
    pair.go_apart();
    let (a, b) = pair.open().await;
    connect(&a, &b);
    settle(&a, &b).await;
    pair.check_after_the_index_was_lost();
}

#[tokio::test]
async fn where_nobody_remembers_nothing_ends_by_itself_and_a_word_is_a_first_meeting() {
    let pair = Pair::new().await;
    let [a_root, b_root] = &pair.roots;
    for root in [a_root, b_root] {
        fs::remove_file(root.join(".syncfs/index.db")).unwrap();
    }
    pair.write(0, "1", "changed at a");
    pair.write(1, "2", "changed at b");
    pair.write(0, "3", "changed at both, here at a");
    pair.write(1, "3", "changed at both, here at b");
    pair.remove(1, "4");
    pair.write(1, "new", "new at b");
    let (a, b) = pair.open().await;
    connect(&a, &b);
    for folder in [&a, &b] {
        let deadline = Instant::now() + LONG;
        while !folder.status().peers.iter().any(|peer| peer.connected) {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for folder in [&a, &b] {
        folder.scan().await.unwrap();
        assert!(
            folder
                .current_status()
                .await
                .problems
                .iter()
                .any(|problem| problem.what.contains("rejoin-alone"))
        );
    }
    assert!(!a_root.join("new").exists(), "a replica that remembers could know better");
    assert!(a.rejoin_alone().await.unwrap());
    settle(&a, &b).await;
    assert!(!b.rejoin_alone().await.unwrap(), "the other one rejoined by that");
    assert_eq!(files(a_root), files(b_root));
    for text in
        ["changed at a", "file 1", "changed at b", "file 2", "here at a", "here at b", "file 4", "new at b"]
    {
        assert!(files(a_root).iter().any(|(_, other)| other.ends_with(text)), "lost: {text}");
    }
    assert_eq!(files(a_root).len(), 20 + 3 + 1, "{:?}", files(a_root));
}

#[tokio::test]
async fn of_two_copies_of_a_replica_one_is_named_and_the_other_goes_on() {
    let mut pair = Pair::new().await;
    let clone_root = pair.parent.path().join("clone");
    copy(&pair.roots[0], &clone_root);
    let (a, b) = pair.open().await;
    pair.roots[0].clone_from(&clone_root);
    let clone = Folder::open(pair.config(0)).await.unwrap();
    let is_named = |folder: &Folder| folder.status().problems.iter().any(|found| found.what.contains("key"));
    let roots = [clone_root.with_file_name("a"), clone_root, pair.roots[1].clone()];
    let mut sessions = Vec::new();
    let deadline = Instant::now() + LONG;
    let mut written = 0;
    while !is_named(&a) && !is_named(&clone) {
        assert!(Instant::now() < deadline, "{:?}\n{:?}", a.status(), clone.status());
        for (number, root) in roots[..2].iter().enumerate() {
            fs::write(root.join(format!("{number}-{written}")), format!("text {written} of {number}"))
                .unwrap();
        }
        written += 1;
        for folder in [&a, &clone] {
            if !folder.status().peers.iter().any(|peer| peer.connected) {
                sessions.extend(connect(folder, &b));
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!is_named(&a) || !is_named(&clone), "both are named");
    let (survivor, root) = if is_named(&a) { (&clone, &roots[1]) } else { (&a, &roots[0]) };
    connect(survivor, &b);
    settle(survivor, &b).await;
    fs::write(root.join("later"), "it goes on").unwrap();
    settle(survivor, &b).await;
    assert!(holds(&roots[2], "it goes on"));
    // Whatever was written at either stands there still, or where the other two have it.
    for (number, root) in roots[..2].iter().enumerate() {
        for written in 0..written {
            let text = format!("text {written} of {number}");
            assert!(holds(root, &text) || holds(&roots[2], &text), "lost: {text}");
        }
    }
    assert_eq!(fs::read_to_string(roots[2].join("7")).unwrap(), "file 7");
}
