//! A hostile program swaps a directory of a replica with a symlink to another place, as fast as it can, while versions are
//! applied and restored there.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

mod pair;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pair::Pair;
use rustix::fs::{XattrFlags, setxattr};
use syncfs::{At, History, RelPath, Role};

/// How long each of the tests keeps at it.
const LASTS: Duration = Duration::from_secs(4);
const SECRET: &str = "what stands outside";

/// Everything below a directory: kind, permissions, times and bytes. No symlink is followed; what goes meanwhile is not in it.
fn picture(dir: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, u64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let bytes = if meta.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        all.insert(path, (meta.mode(), meta.mtime(), meta.ctime_nsec(), meta.nlink(), bytes));
    }
    all
}

fn outside() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    for name in ["f0", "f1", "f2", "f3", "sub/f0", "sub/f1"] {
        fs::write(dir.path().join(name), SECRET).unwrap();
    }
    dir
}

struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Swapper {
    /// Swaps `dir` with a symlink to `target`, and back.
    fn start(dir: PathBuf, target: PathBuf) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            let hidden = dir.with_extension("hidden");
            while !stopped.load(Ordering::Relaxed) {
                if fs::rename(&dir, &hidden).is_ok() {
                    let _ = symlink(&target, &dir);
                    std::thread::yield_now();
                    if fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_symlink()) {
                        let _ = fs::remove_file(&dir);
                    }
                    // What came into being meanwhile gives way.
                    if fs::rename(&hidden, &dir).is_err() {
                        let _ = fs::remove_dir_all(&dir);
                        let _ = fs::rename(&hidden, &dir);
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, swaps, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.swaps.load(Ordering::Relaxed)
    }
}

fn holds_no_secret(dir: &Path) {
    for (path, (.., bytes)) in picture(dir) {
        assert!(bytes != SECRET.as_bytes(), "{} was read from outside", path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outside_is_touched_while_versions_are_applied_and_edits_undone() {
    let pair = Pair::new().await;
    fs::create_dir_all(pair.path(0, "d/sub")).unwrap();
    for name in ["d/f0", "d/f1", "d/sub/f0"] {
        fs::write(pair.path(0, name), "first").unwrap();
    }
    pair.settle().await;
    // Only a lease keeps the symlink from becoming a version, which would replace the directory at the writer.
    pair.folders[0].hold(1).await.unwrap();
    while pair.folders[1].status().role != Role::Follower {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let outside = outside();
    let before = picture(outside.path());
    let swapper = Swapper::start(pair.path(1, "d"), outside.path().to_owned());
    let (begun, mut round) = (Instant::now(), 0_u32);
    while begun.elapsed() < LASTS {
        round += 1;
        let name = |number: u32| {
            pair.path(0, &format!("d/{}f{}", if number.is_multiple_of(5) { "sub/" } else { "" }, number % 4))
        };
        fs::write(name(round), format!("round {round}")).unwrap();
        setxattr(name(round), "user.round", &round.to_le_bytes(), XattrFlags::empty()).unwrap();
        match round % 4 {
            0 => fs::set_permissions(name(round), fs::Permissions::from_mode(0o600 + round % 8)).unwrap(),
            1 => drop(fs::remove_file(name(round + 1))),
            2 => drop(fs::rename(name(round), name(round + 2))),
            _ => drop(fs::hard_link(name(round), pair.path(0, &format!("d/link{round}")))),
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let swaps = swapper.stop();
    assert!(swaps > 100, "only {swaps} swaps in {round} rounds");
    assert_eq!(picture(outside.path()), before, "something outside of the folder changed");
    holds_no_secret(pair.dirs[1].path());
    pair.folders[1].scan().await.unwrap();
    pair.settle().await;
    holds_no_secret(pair.dirs[0].path());
    let both = [0, 1].map(|side| {
        let files = picture(&pair.path(side, "d")).into_iter();
        let relative = files.map(|(path, (.., bytes))| {
            (path.strip_prefix(pair.dirs[side].path()).unwrap().to_owned(), bytes)
        });
        relative.collect::<BTreeMap<_, _>>()
    });
    assert_eq!(both[0], both[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outside_is_touched_while_versions_are_restored_and_scanned() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let keep = Duration::from_secs(3600);
    let mut pair = Pair::of(dirs, |mut config| {
        config.history = History::Trash { keep };
        config
    })
    .await;
    fs::create_dir_all(pair.path(0, "d/sub")).unwrap();
    for text in ["first", "second"] {
        for name in ["d/f0", "d/f1", "d/sub/f0"] {
            fs::write(pair.path(0, name), text).unwrap();
        }
        pair.settle().await;
    }
    pair.disconnect().await;
    let outside = outside();
    let before = picture(outside.path());
    let swapper = Swapper::start(pair.path(1, "d"), outside.path().to_owned());
    let (begun, mut restored) = (Instant::now(), 0);
    while begun.elapsed() < LASTS {
        for name in ["d/f0", "d/sub/f0"] {
            let path = RelPath::new(name).unwrap();
            for version in pair.folders[1].history(&path).await.unwrap() {
                restored +=
                    u32::from(pair.folders[1].restore(&path, At::Version(version.id), None).await.is_ok());
            }
        }
        pair.folders[1].scan().await.unwrap();
    }
    let swaps = swapper.stop();
    assert!(swaps > 100, "only {swaps} swaps, {restored} restored");
    assert_eq!(picture(outside.path()), before, "something outside of the folder changed");
    holds_no_secret(pair.dirs[1].path());
}
