//! What goes wrong below a folder: its disk is full, read-only, away, or out of descriptors. The folder says so, waits,
//! and goes on by itself; nothing is lost, and nothing is taken as deleted.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use syncfs::{
    Config, FlushError, Folder, MinFree, Pause, PeerStatus, Status, StoreError, SyncError, Violation,
    WaitError,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(60);

async fn replica(root: &Path) -> Folder {
    Folder::create(Config::new(root)).await.unwrap()
}

/// One end of a stream ends with what the folder says, the other with what it was told.
fn connect(a: &Folder, b: &Folder) -> [JoinHandle<Option<SyncError>>; 2] {
    let (left, right) = tokio::io::duplex(1 << 20);
    [(a.clone(), left), (b.clone(), right)]
        .map(|(folder, stream)| tokio::spawn(async move { folder.sync(stream, None).await.err() }))
}

async fn reaches(a: &Folder, b: &Folder) {
    let token = a.flush().await.unwrap();
    if let Err(error) = a.wait(&token, &[b.device()], LONG).await {
        panic!("{error}\n{:?}\n{:?}", a.status(), b.status());
    }
}

/// Scans until the folder is paused: that is when it notices.
async fn paused(folder: &Folder) -> Pause {
    let deadline = Instant::now() + LONG;
    loop {
        let _ = folder.scan().await;
        if let Some(pause) = folder.status().pause {
            return pause;
        }
        assert!(Instant::now() < deadline, "it never pauses: {:?}", folder.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn goes_on(folder: &Folder) {
    let deadline = Instant::now() + LONG;
    while let Some(pause) = folder.status().pause {
        assert!(Instant::now() < deadline, "it stays paused: {pause:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A replica that is full of files, at a peer that has them all, too.
async fn pair(parent: &TempDir) -> (PathBuf, Folder, Folder) {
    let roots = ["a", "b"].map(|name| parent.path().join(name));
    roots.iter().for_each(|root| fs::create_dir(root).unwrap());
    let (a, b) = (replica(&roots[0]).await, replica(&roots[1]).await);
    (0..20)
        .for_each(|number| fs::write(roots[0].join(number.to_string()), format!("file {number}")).unwrap());
    (roots[0].clone(), a, b)
}

#[tokio::test]
async fn a_directory_that_is_away_pauses_the_folder_and_deletes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let (root, a, b) = pair(&parent).await;
    let [ours, theirs] = connect(&a, &b);
    reaches(&a, &b).await;

    let away = parent.path().join("away");
    fs::rename(&root, &away).unwrap();
    let pause = paused(&a).await;
    assert!(!pause.only_receiving && pause.why.contains("not there"), "{pause:?}");
    // Everybody who asks learns why, and so does the peer.
    assert!(matches!(a.flush().await, Err(FlushError::Store(StoreError::Paused(_)))));
    let told = tokio::time::timeout(LONG, theirs).await.unwrap().unwrap();
    assert!(
        matches!(&told, Some(SyncError::Protocol(Violation::Bye(why))) if why.contains("paused")),
        "{told:?}"
    );
    let ended = ours.await.unwrap();
    assert!(matches!(ended, Some(SyncError::Store(StoreError::Paused(_)))), "{ended:?}");
    // An empty directory in its place is no replica, and no deletion either.
    fs::create_dir(&root).unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(a.current_status().await.pause.is_some());
    fs::remove_dir(&root).unwrap();

    fs::remove_file(away.join("7")).unwrap();
    fs::write(away.join("new"), "written meanwhile").unwrap();
    fs::rename(&away, &root).unwrap();
    goes_on(&a).await;
    connect(&a, &b);
    reaches(&a, &b).await;
    assert!(!parent.path().join("b/7").exists(), "a deletion that somebody made");
    assert!(parent.path().join("b/new").exists() && parent.path().join("b/8").exists());
    assert_eq!(a.digest().await.unwrap(), b.digest().await.unwrap());
}

#[tokio::test]
async fn a_lost_marker_pauses_the_folder_until_it_is_back() {
    let parent = tempfile::tempdir().unwrap();
    let (root, a, b) = pair(&parent).await;
    connect(&a, &b);
    reaches(&a, &b).await;
    let (marker, kept) = (root.join(".syncfs/marker"), root.join(".syncfs/kept"));
    fs::rename(&marker, &kept).unwrap();
    (0..20).for_each(|number| fs::remove_file(root.join(number.to_string())).unwrap());
    paused(&a).await;
    (0..20).for_each(|number| assert!(parent.path().join("b").join(number.to_string()).exists()));
    // A barrier waits as long as it may, then names the pause.
    let token = b.flush().await.unwrap();
    let waited = a.reached(&token, Duration::from_millis(300)).await;
    assert!(matches!(waited, Err(WaitError::Store(StoreError::Paused(_)))), "{waited:?}");
    fs::rename(&kept, &marker).unwrap();
    goes_on(&a).await;
    connect(&a, &b);
    a.reached(&token, LONG).await.unwrap();
}

/// Runs one of the ignored tests of this file in a process of its own that may have few files open.
#[test]
fn a_process_without_descriptors_pauses_and_goes_on() {
    let this = std::env::current_exe().unwrap();
    let script = "ulimit -Sn 64; exec \"$0\" --exact few_descriptors --ignored --nocapture --test-threads=1";
    let output = Command::new("sh").args(["-c", script]).arg(this).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "needs few descriptors: a_process_without_descriptors_pauses_and_goes_on runs it"]
async fn few_descriptors() {
    let parent = tempfile::tempdir().unwrap();
    let (root, a, b) = pair(&parent).await;
    connect(&a, &b);
    reaches(&a, &b).await;
    let mut taken = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file);
    }
    let pause = paused(&a).await;
    assert!(pause.why.contains("open files"), "{pause:?}");
    assert!(matches!(a.flush().await, Err(FlushError::Store(StoreError::Paused(_)))));
    drop(taken);
    fs::write(root.join("after"), "written without descriptors").unwrap();
    goes_on(&a).await;
    goes_on(&b).await;
    connect(&a, &b);
    reaches(&a, &b).await;
    assert!(parent.path().join("b/after").exists() && parent.path().join("b/19").exists());
    assert_eq!(a.digest().await.unwrap(), b.digest().await.unwrap());
}

#[tokio::test]
async fn below_the_room_that_is_to_stay_free_only_fetching_waits() {
    let parent = tempfile::tempdir().unwrap();
    let roots = ["a", "b"].map(|name| parent.path().join(name));
    roots.iter().for_each(|root| fs::create_dir(root).unwrap());
    let a = replica(&roots[0]).await;
    let mut config = Config::new(&roots[1]);
    let b = Folder::create(config.clone()).await.unwrap();
    fs::write(roots[0].join("old"), "to be deleted").unwrap();
    connect(&a, &b);
    reaches(&a, &b).await;
    b.close().await;

    config.min_free = MinFree::Bytes(u64::MAX);
    let b = Folder::open(config.clone()).await.unwrap();
    connect(&a, &b);
    fs::write(roots[0].join("large"), noise(3 << 20)).unwrap();
    fs::remove_file(roots[0].join("old")).unwrap();
    let token = a.flush().await.unwrap();
    let deadline = Instant::now() + LONG;
    let pause = loop {
        if let Some(pause) = b.status().pause.filter(|_| !roots[1].join("old").exists()) {
            break pause;
        }
        assert!(Instant::now() < deadline, "{:?}", b.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(pause.only_receiving && pause.since_ns > 0 && pause.why.contains("stay free"), "{pause:?}");
    fs::write(roots[1].join("small"), "goes out").unwrap();
    reaches(&b, &a).await;
    assert!(roots[0].join("small").exists() && !roots[1].join("large").exists());
    // Who waits is told what it waits for.
    let waited = a.wait(&token, &[b.device()], Duration::from_millis(1)).await.unwrap_err();
    assert!(waited.to_string().contains("is paused") && waited.to_string().contains("stay free"), "{waited}");
    let paused = |peer: &PeerStatus| peer.paused.as_ref().is_some_and(|why| why.contains("stay free"));
    while !a.status().peers.iter().any(paused) {
        assert!(Instant::now() < deadline, "{:?}", a.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    b.close().await;

    config.min_free = MinFree::Bytes(0);
    let b = Folder::open(config).await.unwrap();
    connect(&a, &b);
    reaches(&a, &b).await;
    assert_eq!(fs::read(roots[1].join("large")).unwrap(), noise(3 << 20));
}

/// A small filesystem of its own; unmounted in the end.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs"], dir.path());
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} {}", path.display());
}

/// A small ext4, and the file that it is in.
fn ext4(place: &TempDir) -> (PathBuf, Tmpfs) {
    let (image, mount) = (place.path().join("image"), tempfile::tempdir().unwrap());
    fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F"], &image);
    run("mount", &["-o", "loop", image.to_str().unwrap()], mount.path());
    (image, Tmpfs(mount))
}

fn noise(length: usize) -> Vec<u8> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
#[ignore = "needs root: it mounts a small tmpfs"]
async fn a_full_disk_pauses_and_goes_on_when_there_is_room() {
    let (large, small) = (tempfile::tempdir().unwrap(), Tmpfs::mount("size=8m"));
    let (a, b) = (replica(large.path()).await, replica(small.path()).await);
    fs::write(large.path().join("first"), "fits").unwrap();
    connect(&a, &b);
    reaches(&a, &b).await;
    // The application on the small disk takes all there is.
    let mut taken = Vec::new();
    for number in 0.. {
        let path = small.path().join(".syncfs").join(format!("taken-{number}"));
        let full = fs::write(&path, noise(64 << 10)).is_err();
        taken.push(path);
        if full {
            break;
        }
    }
    fs::write(large.path().join("second"), noise(300 << 10)).unwrap();
    fs::write(large.path().join("first"), "replaced").unwrap();
    let token = a.flush().await.unwrap();
    let lagging = a.wait(&token, &[b.device()], Duration::from_secs(3)).await;
    assert!(matches!(lagging, Err(WaitError::Timeout(_))), "{lagging:?}");
    let pause = b.current_status().await.pause.expect("it says that it waits for room");
    assert!(pause.why.contains("room") || pause.why.contains("full"), "{pause:?}");
    assert_eq!(fs::read_to_string(small.path().join("first")).unwrap(), "fits", "old or new, never half");

    taken.into_iter().for_each(|path| drop(fs::remove_file(path)));
    goes_on(&b).await;
    connect(&a, &b);
    reaches(&a, &b).await;
    assert_eq!(fs::read(small.path().join("second")).unwrap(), noise(300 << 10));
    assert_eq!(a.digest().await.unwrap(), b.digest().await.unwrap());
}

#[tokio::test]
#[ignore = "needs root: it mounts a small ext4 on a loop device"]
async fn a_disk_that_fails_pauses_and_goes_on_once_it_is_mended() {
    let (large, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (image, small) = ext4(&place);
    let root = small.path().join("folder");
    fs::create_dir(&root).unwrap();
    let (a, b) = (replica(large.path()).await, replica(&root).await);
    fs::write(large.path().join("first"), "fits").unwrap();
    connect(&a, &b);
    reaches(&a, &b).await;
    // From here on the filesystem is as after an error of its disk: syncs fail, and it is read-only.
    run("mount", &["-o", "remount,abort"], small.path());
    fs::write(large.path().join("second"), noise(1 << 20)).unwrap();
    fs::write(large.path().join("first"), "replaced").unwrap();
    a.flush().await.unwrap();
    let deadline = Instant::now() + LONG;
    while b.status().pause.is_none() {
        assert!(Instant::now() < deadline, "it never pauses: {:?}", b.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{:?}", b.status().pause);
    assert_eq!(fs::read_to_string(root.join("first")).unwrap(), "fits");
    // Nothing is held open, so it can be mended.
    let deadline = Instant::now() + LONG;
    while !Command::new("umount").arg(small.path()).status().unwrap().success() {
        assert!(Instant::now() < deadline, "the folder holds its disk");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mended = Command::new("e2fsck").args(["-f", "-y"]).arg(&image).output().unwrap();
    println!("{}", String::from_utf8_lossy(&mended.stdout));
    run("mount", &["-o", "loop", image.to_str().unwrap()], small.path());
    goes_on(&b).await;
    connect(&a, &b);
    reaches(&a, &b).await;
    assert_eq!(fs::read(root.join("second")).unwrap(), noise(1 << 20));
    assert_eq!(a.digest().await.unwrap(), b.digest().await.unwrap());
    b.close().await;
}

#[tokio::test]
#[ignore = "needs root: it mounts a small tmpfs"]
async fn a_disk_that_is_unmounted_and_comes_back_deletes_nothing() {
    let (large, small) = (tempfile::tempdir().unwrap(), Tmpfs::mount("size=8m"));
    let elsewhere = tempfile::tempdir().unwrap();
    run("mount", &["--bind", small.path().to_str().unwrap()], elsewhere.path());
    let (a, b) = (replica(large.path()).await, replica(small.path()).await);
    fs::write(large.path().join("first"), "fits").unwrap();
    connect(&a, &b);
    reaches(&a, &b).await;
    run("umount", &["-l"], small.path());
    let pause = paused(&b).await;
    assert!(pause.why.contains("not there") || pause.why.contains("mounted"), "{pause:?}");
    run("mount", &["--bind", elsewhere.path().to_str().unwrap()], small.path());
    goes_on(&b).await;
    connect(&a, &b);
    reaches(&a, &b).await;
    run("umount", &["-l"], elsewhere.path());
    assert!(large.path().join("first").exists());
}

#[tokio::test]
#[ignore = "needs root: it mounts a small ext4 on a loop device, and a tmpfs"]
async fn an_attribute_that_the_filesystem_does_not_take_is_about_its_file_alone() {
    let (large, place) = (Tmpfs::mount("size=8m"), tempfile::tempdir().unwrap());
    let (_, small) = ext4(&place);
    let root = small.path().join("folder");
    fs::create_dir(&root).unwrap();
    let (a, b) = (replica(large.path()).await, replica(&root).await);
    let note = |value: &[u8]| {
        rustix::fs::setxattr(large.path().join("f"), "user.note", value, rustix::fs::XattrFlags::empty())
            .unwrap();
    };
    fs::write(large.path().join("f"), "a file").unwrap();
    note(b"small");
    connect(&a, &b);
    reaches(&a, &b).await;
    // Both ways in which attributes come: with a new content, and alone.
    for with_content in [false, true] {
        note(&[b'x'; 30_000]);
        if with_content {
            fs::write(large.path().join("f"), "a file that was written again").unwrap();
        }
        fs::write(large.path().join("other"), format!("{with_content}")).unwrap();
        let token = a.flush().await.unwrap();
        let lagging = a.wait(&token, &[b.device()], Duration::from_secs(2)).await;
        assert!(matches!(lagging, Err(WaitError::Timeout(_))), "{lagging:?}");
        let Status { problems, pause, .. } = b.status();
        assert!(
            problems.iter().any(|problem| problem.what.contains("user.note has 30000 bytes")),
            "{problems:?}"
        );
        assert_eq!(pause, None);
        assert_eq!(fs::read_to_string(root.join("other")).unwrap(), format!("{with_content}"));
        assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "a file");
    }
    note(b"fits");
    reaches(&a, &b).await;
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "a file that was written again");
    assert_eq!(a.digest().await.unwrap(), b.digest().await.unwrap());
}
