//! Where the demo keeps its folders while it runs, and how the remains of a killed demo go away.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "hybrid-demo-";
const LOCK: &str = "lock";

/// A directory of this run alone; removed when dropped.
pub struct StateDirectory {
    path: PathBuf,
    /// Held as long as the process lives, so that another demo leaves the directory alone.
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory, after it has removed those that killed demos left behind.
    pub fn create() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        // It gets the name that others sweep only once it is locked.
        let unborn = tempfile::Builder::new().prefix(".hybrid-demo-").tempdir_in(&parent)?;
        let lock = File::create(unborn.path().join(LOCK))?;
        lock.lock()?;
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        std::fs::rename(unborn.path(), &path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::debug!(%error, directory = %self.path.display(), "left behind");
        }
    }
}

/// Removes the directories of demos that no longer run: nobody holds their lock.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    let left: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .collect();
    for directory in left {
        let Ok(lock) = File::open(directory.join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                if let Err(error) = std::fs::remove_dir_all(&directory) {
                    tracing::debug!(%error, directory = %directory.display(), "left behind");
                }
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}
