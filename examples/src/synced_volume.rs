//! A volume whose data is a syncfs folder: where lease, barrier and replica meet.
//!
//! swarmctl says *when* (take the lease, catch up, open, flush, release), syncfs knows *how*.

use std::path::PathBuf;
use std::time::Duration;

use swarmctl::{BackendError, Barrier, VolumeBackend};
use syncfs::{DeviceId, Folder, Token};

/// This node's replica of a volume.
#[derive(Clone)]
pub struct SyncedVolume {
    folder: Folder,
    root: PathBuf,
    replicas: Vec<DeviceId>,
}

impl SyncedVolume {
    /// `folder` holds the data under `root`; a write counts as replicated once all of `replicas` hold it durably.
    pub fn new(folder: Folder, root: PathBuf, replicas: Vec<DeviceId>) -> Self {
        Self { folder, root, replicas }
    }
}

impl VolumeBackend for SyncedVolume {
    async fn seen_epoch(&self) -> Result<u64, BackendError> {
        Ok(self.folder.epoch())
    }

    async fn catch_up(&self, barrier: &Barrier, timeout: Duration) -> Result<(), BackendError> {
        self.folder.reached(&token(barrier)?, timeout).await.map_err(BackendError::new)
    }

    async fn open(&self, epoch: u64) -> Result<PathBuf, BackendError> {
        self.folder.hold(epoch).await.map_err(BackendError::new)?;
        Ok(self.root.clone())
    }

    async fn flush(&self) -> Result<Barrier, BackendError> {
        let token = self.folder.flush().await.map_err(BackendError::new)?;
        Barrier::new(token.to_string()).map_err(BackendError::new)
    }

    async fn replicated(&self, barrier: &Barrier, timeout: Duration) -> Result<(), BackendError> {
        self.folder.wait(&token(barrier)?, &self.replicas, timeout).await.map_err(BackendError::new)
    }

    async fn close(&self) -> Result<(), BackendError> {
        self.folder.follow().await.map_err(BackendError::new)
    }
}

fn token(barrier: &Barrier) -> Result<Token, BackendError> {
    barrier.as_str().parse().map_err(BackendError::new)
}
