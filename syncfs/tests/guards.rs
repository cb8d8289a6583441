//! What looks like the end of a folder is not believed before somebody says so.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use syncfs::device::{DeviceId, FolderId, IndexId};
use syncfs::disk::{FileKind, MemoryDisk};
use syncfs::engine::{Engine, Input};
use syncfs::index::{Index, MemoryIndex, Meta};
use syncfs::{Config, Event, FlushError, Folder, RelPath};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

async fn replica(mass_deletion: Option<u64>) -> (TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.mass_deletion = mass_deletion;
    let folder = Folder::create(config).await.unwrap();
    (dir, folder)
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

fn fill(dir: &Path, count: usize) {
    fs::create_dir(dir).unwrap();
    (0..count).for_each(|number| fs::write(dir.join(number.to_string()), number.to_string()).unwrap());
}

#[tokio::test]
async fn more_than_half_gone_at_once_is_held_until_it_is_confirmed() {
    let ((dir, a), (other, b)) = (replica(Some(10)).await, replica(Some(10)).await);
    connect(&a, &b);
    fill(&dir.path().join("d"), 20);
    fs::write(dir.path().join("keep"), "kept").unwrap();
    reaches(&a, &b).await;
    let mut events = a.subscribe();

    // As a disk that comes back empty: the files are away before anybody looks.
    fs::rename(dir.path().join("d"), dir.path().join(".syncfs/away")).unwrap();
    let refused = a.flush().await;
    assert!(matches!(refused, Err(FlushError::Held(20))), "{refused:?}");
    let held = async {
        loop {
            if let Event::DeletionsHeld { files, of } = events.recv().await.unwrap() {
                return (files, of);
            }
        }
    };
    assert_eq!(tokio::time::timeout(LONG, held).await.unwrap(), (20, 21));
    a.scan().await.unwrap();
    let report = a.scan().await.unwrap();
    assert!(report.deleted == 0 && report.problems.iter().any(|problem| problem.what.contains("20 files")));
    // The rest of the folder goes on.
    fs::write(dir.path().join("keep"), "changed").unwrap();
    let mut applied = b.subscribe();
    while fs::read_to_string(other.path().join("keep")).unwrap() != "changed" {
        let _ = tokio::time::timeout(LONG, applied.recv()).await.unwrap();
    }
    assert!(other.path().join("d/19").exists());

    // Back again: nothing was lost, and nothing is held.
    fs::rename(dir.path().join(".syncfs/away"), dir.path().join("d")).unwrap();
    reaches(&a, &b).await;
    assert!(a.scan().await.unwrap().problems.is_empty());

    // Meant this time.
    fs::rename(dir.path().join("d"), dir.path().join(".syncfs/away")).unwrap();
    assert!(a.flush().await.is_err());
    assert_eq!(a.confirm_deletions().await.unwrap().deleted, 21);
    reaches(&a, &b).await;
    assert!(!other.path().join("d").exists());
}

#[tokio::test]
async fn half_of_a_folder_a_rename_and_a_folder_without_the_guard_are_believed() {
    let (dir, a) = replica(Some(10)).await;
    for name in ["d", "e"] {
        fill(&dir.path().join(name), 15);
    }
    a.flush().await.unwrap();
    fs::remove_dir_all(dir.path().join("e")).unwrap();
    a.flush().await.unwrap();
    fs::rename(dir.path().join("d"), dir.path().join("f")).unwrap();
    a.flush().await.unwrap();
    assert_eq!(a.current_status().await.held_deletions, 0);

    let (dir, a) = replica(None).await;
    fill(&dir.path().join("d"), 150);
    a.flush().await.unwrap();
    fs::remove_dir_all(dir.path().join("d")).unwrap();
    a.flush().await.unwrap();
}

#[tokio::test]
async fn the_holders_deletions_are_believed() {
    let (dir, a) = replica(Some(10)).await;
    fill(&dir.path().join("d"), 20);
    a.hold(1).await.unwrap();
    fs::remove_dir_all(dir.path().join("d")).unwrap();
    a.flush().await.unwrap();
    assert_eq!(a.scan().await.unwrap().deleted, 0, "it was taken up by the flush");
}

#[tokio::test]
async fn what_stands_under_another_name_is_not_lost() {
    let (dir, a) = replica(Some(10)).await;
    fs::create_dir(dir.path().join("old")).unwrap();
    fill(&dir.path().join("old/d"), 20);
    for name in ["old/e", "f"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        for number in 0..20 {
            let file = format!("{number}");
            fs::hard_link(dir.path().join("old/d").join(&file), dir.path().join(name).join(&file)).unwrap();
        }
    }
    a.flush().await.unwrap();
    // What was read just after it was written is looked at again, and would be found anew.
    tokio::time::sleep(Duration::from_millis(200)).await;
    a.scan().await.unwrap();
    let away = |name: &str| fs::rename(dir.path().join(name), dir.path().join(".syncfs").join(name)).unwrap();
    // Two thirds of the names at once.
    away("old");
    a.flush().await.unwrap();
    away("f");
    assert!(matches!(a.flush().await, Err(FlushError::Held(20))), "the last name is");
}

#[tokio::test]
async fn what_was_put_back_is_noticed() {
    let (dir, a) = replica(Some(10)).await;
    fill(&dir.path().join("d"), 20);
    a.flush().await.unwrap();
    let held = async |wanted: u64| {
        let mut events = a.subscribe();
        while a.status().held_deletions != wanted {
            let _ = tokio::time::timeout(Duration::from_millis(100), events.recv()).await;
        }
    };
    for _ in 0..2 {
        fs::rename(dir.path().join("d"), dir.path().join(".syncfs/away")).unwrap();
        tokio::time::timeout(LONG, held(20)).await.expect("nobody asks, and it is held");
        fs::rename(dir.path().join(".syncfs/away"), dir.path().join("d")).unwrap();
        tokio::time::timeout(LONG, held(0)).await.expect("nobody asks, and it is released");
    }
}

/// A peer that hears of the directory's end alone takes what is in it for something that nobody knew of, and keeps it.
#[test]
fn a_directory_goes_after_what_was_in_it() {
    let rel = |path: &str| RelPath::new(path).unwrap();
    let meta = Meta::new(DeviceId::from_bytes([1; 32]), Some(FolderId::from_bytes([1; 16])), IndexId(1));
    let disk = MemoryDisk::default();
    disk.user_make(&rel("d"), FileKind::Dir, b"");
    disk.user_write(&rel("d/file"), b"content", false);
    let mut engine = Engine::new(disk.clone(), MemoryIndex::new(meta)).unwrap();
    engine.scan().unwrap();

    // Its attributes changed, and when that is looked at it was moved away.
    disk.user_rename(&rel("d"), &rel("e"));
    engine.handle(0, Input::Adjusted(vec![rel("d")])).unwrap();
    let is_live = |engine: &Engine<_, MemoryIndex>, path: &str| {
        engine.index().entry(&rel(path)).unwrap().is_some_and(|entry| entry.record.kind.is_live())
    };
    assert!(is_live(&engine, "d/file") && is_live(&engine, "d"));
    let again = engine.unsettled();
    engine.handle(0, Input::Touched(again)).unwrap();
    let sequence = |path: &str| engine.index().entry(&rel(path)).unwrap().unwrap().sequence;
    assert!(!is_live(&engine, "d/file") && !is_live(&engine, "d"));
    assert!(sequence("d/file") < sequence("d"));
}
