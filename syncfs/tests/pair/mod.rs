//! Real folders that are connected with each other.
#![allow(dead_code, reason = "no test uses all of it")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::getxattr;
use syncfs::{Config, Folder, RelPath, Summary, SyncError};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Far more than anything here takes: only a failure waits this long.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// One end of a stream between two folders.
pub(crate) type Session = JoinHandle<Result<Summary, SyncError>>;

pub(crate) fn connect(a: &Folder, b: &Folder) -> [Session; 2] {
    let (left, right) = tokio::io::duplex(1 << 20);
    [(a.clone(), left), (b.clone(), right)]
        .map(|(folder, stream)| tokio::spawn(async move { folder.sync(stream, None).await }))
}

pub(crate) async fn cut(link: impl IntoIterator<Item = Session>) {
    for end in link {
        end.abort();
        let _ = end.await;
    }
}

pub(crate) fn rel(name: &str) -> RelPath {
    RelPath::new(name).unwrap()
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One folder, in a directory of its own.
pub(crate) struct Replica {
    pub(crate) dir: TempDir,
    pub(crate) folder: Folder,
    config: Config,
}

impl Replica {
    pub(crate) async fn new(change: impl FnOnce(&mut Config)) -> Self {
        Self::at(tempfile::tempdir().unwrap(), change).await
    }

    pub(crate) async fn at(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(dir.path());
        change(&mut config);
        let folder = Folder::create(config.clone()).await.unwrap();
        Self { dir, folder, config }
    }

    /// Closed and opened again, with a configuration that was changed further.
    pub(crate) async fn reopen(self, change: impl FnOnce(&mut Config)) -> Self {
        let Self { dir, folder, mut config } = self;
        folder.close().await;
        change(&mut config);
        let folder = Folder::open(config.clone()).await.unwrap();
        Self { dir, folder, config }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// What stands in its directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != ".syncfs").collect();
        names.sort();
        names
    }

    /// Everything of this replica is durable on `other`.
    pub(crate) async fn reaches(&self, other: &Self) {
        let token = self.folder.flush().await.unwrap();
        self.folder.wait(&token, &[other.folder.device()], LONG).await.unwrap();
    }
}

/// Two folders that are connected.
pub(crate) struct Pair {
    pub(crate) dirs: [TempDir; 2],
    pub(crate) folders: [Folder; 2],
    streams: Vec<Session>,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        Self::of([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], |config| config).await
    }

    /// In these directories, with a configuration that was changed.
    pub(crate) async fn of(dirs: [TempDir; 2], change: impl Fn(Config) -> Config) -> Self {
        let a = Folder::create(change(Config::new(dirs[0].path()))).await.unwrap();
        let b = Folder::create(change(Config::new(dirs[1].path()))).await.unwrap();
        let mut pair = Self { dirs, folders: [a, b], streams: Vec::new() };
        pair.connect();
        pair
    }

    pub(crate) fn connect(&mut self) {
        self.streams.extend(connect(&self.folders[0], &self.folders[1]));
    }

    pub(crate) async fn disconnect(&mut self) {
        cut(self.streams.drain(..)).await;
    }

    pub(crate) fn path(&self, side: usize, name: &str) -> PathBuf {
        self.dirs[side].path().join(name)
    }

    pub(crate) fn meta(&self, side: usize, name: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(side, name)).unwrap()
    }

    /// Until both have everything that the other one has.
    pub(crate) async fn settle(&self) {
        for (writer, reader) in [(0, 1), (1, 0), (0, 1)] {
            let token = self.folders[writer].flush().await.unwrap();
            let peer = [self.folders[reader].device()];
            self.folders[writer].wait(&token, &peer, LONG).await.unwrap();
        }
        let [a, b] = [self.folders[0].digest().await.unwrap(), self.folders[1].digest().await.unwrap()];
        assert_eq!(a, b);
    }

    pub(crate) fn xattr(&self, side: usize, name: &str, xattr: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 1000];
        let length = getxattr(self.path(side, name), xattr, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }
}
