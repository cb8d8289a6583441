//! How fast two real folders become equal, and what an idle one costs. Figures are printed; only gross regressions fail.
//! `SPEED_DIR` says where (a tmpfs isolates the cost of the software), `SPEED_FILES` how many small files,
//! `SPEED_MIB` how large the large file is.
//!
//! `cargo test --release -p syncfs --test speed -- --ignored --nocapture --test-threads=1`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test touches the world"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use syncfs::{Config, Folder, Summary, SyncError};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(120);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn place() -> TempDir {
    match std::env::var_os("SPEED_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}

fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn small_files(dir: &Path, count: usize) {
    for number in 0..count {
        let sub = dir.join(format!("dir-{:03}", number / 100));
        if number % 100 == 0 {
            fs::create_dir(&sub).unwrap();
        }
        fs::write(sub.join(format!("file-{number:06}.dat")), noise(4096, number as u64 + 1)).unwrap();
    }
}

/// A replica with a network runtime of its own, as a process would have it.
struct Side {
    dir: TempDir,
    runtime: Runtime,
    folder: Folder,
}

impl Side {
    fn open(dir: TempDir) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = runtime.block_on(Folder::create(Config::new(dir.path()))).unwrap();
        Self { dir, runtime, folder }
    }

    fn scan_ms(&self) -> f64 {
        let started = Instant::now();
        self.runtime.block_on(self.folder.scan()).unwrap();
        ms(started)
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn connect(from: &Side, to: &Side) -> JoinHandle<Summary> {
    let listener = from.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (one, two) = (from.folder.clone(), to.folder.clone());
    let session = from.runtime.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        ended(one.sync(stream, None).await)
    });
    to.runtime.spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        ended(two.sync(stream, None).await)
    });
    session
}

/// Nobody begins a session again here, so that what ended one is why the rest of a test waits in vain.
fn ended(session: Result<Summary, SyncError>) -> Summary {
    session.unwrap_or_else(|error| {
        println!("a session ended: {error}");
        Summary::default()
    })
}

/// From now until the other side has everything durably, in milliseconds.
fn in_sync_ms(from: &Side, to: &Side) -> f64 {
    let started = Instant::now();
    from.runtime.block_on(async {
        let token = from.folder.flush().await.unwrap();
        from.folder.wait(&token, &[to.folder.device()], LONG).await.unwrap();
    });
    ms(started)
}

/// Ends both and gives back their directories and what the first one's session did.
fn end(from: Side, to: Side, session: JoinHandle<Summary>) -> (TempDir, TempDir, Summary) {
    to.runtime.block_on(to.folder.close());
    let summary = from.runtime.block_on(session).unwrap();
    from.runtime.block_on(from.folder.close());
    (from.dir, to.dir, summary)
}

fn memory_kib() -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn index_bytes(dir: &Path) -> u64 {
    let size = |name| fs::metadata(dir.join(".syncfs").join(name)).map_or(0, |found| found.len());
    size("index.db")
}

#[test]
#[ignore = "needs a quiet machine: run with --ignored"]
fn many_small_files() {
    let count = setting("SPEED_FILES", 10_000);
    let (from, to) = (place(), place());
    small_files(from.path(), count);
    let started = Instant::now();
    let (from, to) = (Side::open(from), Side::open(to));
    println!("{count} x 4 KiB: open and scan {:.0} ms", ms(started));
    let started = Instant::now();
    let session = connect(&from, &to);
    in_sync_ms(&from, &to);
    let took = ms(started);
    println!(
        "{count} x 4 KiB: connect to in sync {took:.0} ms, {:.1} us a file",
        took * 1000.0 / count as f64
    );
    let scans: Vec<_> = (0..5).map(|_| to.scan_ms()).collect();
    println!("{count} files: rescan {scans:.0?} ms");
    let (from, to, summary) = end(from, to, session);
    println!("{count} x 4 KiB: {} bytes on the wire", summary.sent_bytes + summary.received_bytes);
    println!("index: {} bytes a file", index_bytes(to.path()) / count as u64);
    let opening = Instant::now();
    let before = memory_kib();
    let one = Side::open(from);
    println!("open again {:.0} ms, memory {} -> {} KiB", ms(opening), before, memory_kib());
    assert_eq!(one.folder.status().files as usize, count);
    assert!(took < 60_000.0, "{took} ms");
}

#[test]
#[ignore = "needs a quiet machine: run with --ignored"]
fn one_large_file_and_two_edits_of_it() {
    let bytes = setting("SPEED_MIB", 1024) << 20;
    let (from, to) = (place(), place());
    let large = from.path().join("large");
    fs::write(&large, noise(bytes, 7)).unwrap();
    let started = Instant::now();
    let (from, to) = (Side::open(from), Side::open(to));
    println!("{} MiB: open and scan {:.0} ms", bytes >> 20, ms(started));
    let started = Instant::now();
    let session = connect(&from, &to);
    in_sync_ms(&from, &to);
    println!("{} MiB: connect to in sync {:.0} ms", bytes >> 20, ms(started));
    let (from, to, summary) = end(from, to, session);
    println!("{} MiB: {} bytes on the wire", bytes >> 20, summary.sent_bytes + summary.received_bytes);

    let edit = |from: TempDir, to: TempDir, what: &str, act: &dyn Fn()| {
        let (from, to) = (Side::open(from), Side::open(to));
        let session = connect(&from, &to);
        in_sync_ms(&from, &to);
        act();
        let took = in_sync_ms(&from, &to);
        let (from, to, summary) = end(from, to, session);
        let wire = summary.sent_bytes + summary.received_bytes;
        println!("{what}: {took:.0} ms, {wire} bytes on the wire");
        (from, to, wire)
    };
    let middle = || {
        let file = fs::File::options().write(true).open(&large).unwrap();
        file.write_all_at(&noise(1 << 20, 99), bytes as u64 / 2).unwrap();
    };
    let (from, to, wire) = edit(from, to, "1 MiB changed in the middle", &middle);
    assert!(wire < 2_500_000, "{wire}");
    let front = || {
        let old = fs::read(&large).unwrap();
        let mut file = fs::File::create(large.with_extension("new")).unwrap();
        file.write_all(b"!").unwrap();
        file.write_all(&old).unwrap();
        drop(file);
        fs::rename(large.with_extension("new"), &large).unwrap();
    };
    let (from, to, wire) = edit(from, to, "1 byte inserted at the front", &front);
    assert!(wire < 2_000_000, "{wire}");
    assert!(fs::read(large).unwrap() == fs::read(to.path().join("large")).unwrap());
    drop(from);
}

#[test]
#[ignore = "needs a quiet machine: run with --ignored"]
fn a_small_edit() {
    let (from, to) = (Side::open(place()), Side::open(place()));
    fs::write(from.dir.path().join("note"), "0").unwrap();
    let session = connect(&from, &to);
    in_sync_ms(&from, &to);
    let target = to.dir.path().join("note");
    let mut took = Vec::new();
    for number in 1..=30 {
        std::thread::sleep(Duration::from_millis(60 + number * 7 % 40));
        let text = number.to_string();
        let started = Instant::now();
        fs::write(from.dir.path().join("note"), &text).unwrap();
        while fs::read_to_string(&target).unwrap() != text {
            assert!(started.elapsed() < LONG);
            std::thread::sleep(Duration::from_micros(200));
        }
        took.push(ms(started));
    }
    took.sort_by(f64::total_cmp);
    println!("edit to visible: median {:.1} ms, worst {:.1} ms", took[took.len() / 2], took[took.len() - 1]);
    end(from, to, session);
    assert!(took[took.len() / 2] < 1000.0);
}
