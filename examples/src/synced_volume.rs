//! A volume whose data is a syncfs folder: where lease, barrier and replica meet.
//!
//! swarmctl says *when* (take the lease, catch up, open, flush, release), syncfs knows *how*.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use swarmctl::{BackendError, Barrier, NodeName, VolumeBackend};
use syncfs::{DeviceId, FenceError, Folder, Token, WaitError};

/// This node's replica of a volume.
#[derive(Clone)]
pub struct SyncedVolume {
    folder: Folder,
    root: PathBuf,
    node: NodeName,
    replicas: BTreeMap<DeviceId, NodeName>,
}

impl SyncedVolume {
    /// The replica on `node`: `folder` holds the data under `root`. A write counts as replicated once all of
    /// `replicas`, the other nodes' devices, hold it durably.
    pub fn new(
        folder: Folder,
        root: PathBuf,
        node: NodeName,
        replicas: BTreeMap<DeviceId, NodeName>,
    ) -> Self {
        Self { folder, root, node, replicas }
    }

    fn waiting(&self, error: WaitError) -> BackendError {
        match error {
            WaitError::Timeout(lags) => {
                let lags = lags.iter().map(|lag| {
                    let node = self.replicas.get(&lag.device).unwrap_or(&self.node);
                    let line = if lag.connected { "" } else { " (not connected)" };
                    format!("{} changes to reach {node}{line}", lag.behind)
                });
                BackendError::behind(lags.collect::<Vec<_>>().join(", "))
            }
            WaitError::Fenced { epoch } => BackendError::Fenced { seen: epoch },
            error => BackendError::failed(error),
        }
    }
}

impl VolumeBackend for SyncedVolume {
    async fn seen_epoch(&self) -> Result<u64, BackendError> {
        Ok(self.folder.epoch())
    }

    async fn catch_up(&self, barrier: &Barrier, timeout: Duration) -> Result<(), BackendError> {
        self.folder.reached(&token(barrier)?, timeout).await.map_err(|error| self.waiting(error))
    }

    async fn open(&self, epoch: u64) -> Result<PathBuf, BackendError> {
        match self.folder.hold(epoch).await {
            Ok(()) => Ok(self.root.clone()),
            Err(FenceError::Stale { seen, .. }) => Err(BackendError::Fenced { seen }),
            Err(error) => Err(BackendError::failed(error)),
        }
    }

    async fn flush(&self) -> Result<Barrier, BackendError> {
        let token = self.folder.flush().await.map_err(BackendError::failed)?;
        token.to_string().parse().map_err(BackendError::failed)
    }

    async fn replicated(
        &self,
        barrier: &Barrier,
        timeout: Duration,
    ) -> Result<BTreeSet<NodeName>, BackendError> {
        let devices: Vec<DeviceId> = self.replicas.keys().copied().collect();
        self.folder.wait(&token(barrier)?, &devices, timeout).await.map_err(|error| self.waiting(error))?;
        Ok(self.replicas.values().cloned().chain([self.node.clone()]).collect())
    }

    async fn close(&self) -> Result<(), BackendError> {
        self.folder.follow().await.map_err(BackendError::failed)
    }
}

fn token(barrier: &Barrier) -> Result<Token, BackendError> {
    barrier.as_str().parse().map_err(BackendError::failed)
}
