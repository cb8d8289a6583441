//! Two real folders that are connected with each other.
#![allow(dead_code, reason = "no test uses all of it")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::getxattr;
use syncfs::{Config, Folder};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Far more than anything here takes: only a failure waits this long.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Two folders that are connected.
pub(crate) struct Pair {
    pub(crate) dirs: [TempDir; 2],
    pub(crate) folders: [Folder; 2],
    streams: Vec<JoinHandle<()>>,
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
        let (left, right) = tokio::io::duplex(1 << 20);
        for (folder, stream) in self.folders.iter().zip([left, right]) {
            let folder = folder.clone();
            self.streams.push(tokio::spawn(async move { drop(folder.sync(stream, None).await) }));
        }
    }

    pub(crate) async fn disconnect(&mut self) {
        for stream in self.streams.drain(..) {
            stream.abort();
            let _ = stream.await;
        }
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
