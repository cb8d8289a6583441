//! Slow lines: a session stays up, what can be said in short is, and a small edit does not wait for a large transfer.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncfs::limit::{Metered, Pace, Traffic};
use syncfs::{Config, Folder, Summary, SyncError};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(60);

async fn replica() -> (TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::create(Config::new(dir.path())).await.unwrap();
    (dir, folder)
}

type Session = JoinHandle<Result<Summary, SyncError>>;

/// A line from `a` to `b` that carries so many bytes a second; `traffic` counts them.
fn connect(a: &Folder, b: &Folder, per_second: u64, traffic: &Arc<Traffic>) -> (Session, Session) {
    let (left, right) = tokio::io::duplex(64 << 10);
    let pace = Some(Arc::new(Pace::new(per_second)));
    let left = Metered::new(left, Arc::clone(traffic), pace, None);
    let (a, b) = (a.clone(), b.clone());
    let sending = tokio::spawn(async move { a.sync(left, None).await });
    (sending, tokio::spawn(async move { b.sync(right, None).await }))
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

async fn eventually(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_there(dir: &Path, name: &str, content: &[u8]) -> bool {
    fs::read(dir.join(name)).is_ok_and(|found| found == content)
}

#[tokio::test]
async fn a_small_edit_overtakes_a_large_transfer() {
    let ((home, a), (vm, b)) = (replica().await, replica().await);
    let large = noise(12 << 20);
    fs::write(home.path().join("large"), &large).unwrap();
    let _sessions = connect(&a, &b, 2 << 20, &Arc::default());
    let progress = || b.status().peers.first().map(|peer| peer.transfer).unwrap_or_default();
    eventually("the large file is under way", LONG, || progress().done_bytes > 1 << 20).await;
    assert!(progress().left_bytes > 0 && progress().left_files == 1, "{:?}", progress());
    fs::write(home.path().join("small"), "an edit").unwrap();
    eventually("the edit is there", LONG, || is_there(vm.path(), "small", b"an edit")).await;
    assert!(!is_there(vm.path(), "large", &large), "the large file was first");
    eventually("and then the rest", LONG, || is_there(vm.path(), "large", &large)).await;
}

#[tokio::test]
async fn what_a_slow_line_carries_is_compressed_if_that_is_worth_it() {
    for (content, most) in [(b"the same line again. ".repeat(100_000), 1 << 20), (noise(2 << 20), 3 << 20)] {
        let ((home, a), (vm, b)) = (replica().await, replica().await);
        fs::write(home.path().join("log"), &content).unwrap();
        let traffic = Arc::<Traffic>::default();
        let _sessions = connect(&a, &b, 1 << 20, &traffic);
        eventually("it is there", LONG, || is_there(vm.path(), "log", &content)).await;
        let sent = traffic.sent();
        println!("{sent} bytes sent for {}", content.len());
        assert!(sent < most, "{sent} bytes sent for {}", content.len());
    }
}

#[tokio::test]
#[ignore = "needs two minutes: run with --ignored"]
async fn at_32_kib_a_second_a_session_stays_up_and_an_edit_takes_seconds() {
    let ((home, a), (vm, b)) = (replica().await, replica().await);
    // One chunk of it takes as long as silence is endured.
    let large = noise(4 << 20);
    fs::write(home.path().join("large"), &large).unwrap();
    let sessions = connect(&a, &b, 32 << 10, &Arc::default());
    tokio::time::sleep(Duration::from_secs(45)).await;
    fs::write(home.path().join("small"), "an edit").unwrap();
    let began = Instant::now();
    eventually("the edit is there", LONG, || is_there(vm.path(), "small", b"an edit")).await;
    println!("the edit took {:?}", began.elapsed());
    assert!(!is_there(vm.path(), "large", &large));
    eventually("and the rest", 3 * LONG, || is_there(vm.path(), "large", &large)).await;
    assert!(!sessions.0.is_finished() && !sessions.1.is_finished(), "one session did it all");
}
