//! A volume whose data is a syncfs folder: where lease, barrier and replica meet.
//!
//! swarmctl says *when* (take the lease, catch up, open, flush, release), syncfs knows *how*.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use swarmctl::{BackendError, Barrier, NodeName, VolumeBackend};
use syncfs::{DeviceId, FenceError, Folder, Token, WaitError};
use tokio::task::JoinSet;

use crate::sync_report::counted;

/// This node's replica of a volume.
#[derive(Clone)]
pub struct SyncedVolume {
    folder: Folder,
    root: PathBuf,
    node: NodeName,
    replicas: BTreeMap<DeviceId, NodeName>,
    /// How many of `replicas` must hold a write before it counts as replicated.
    enough: usize,
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
        Self { folder, root, node, enough: replicas.len(), replicas }
    }

    /// The same, but a write counts as replicated once `nodes` nodes hold it, this one included.
    #[must_use]
    pub fn on(self, nodes: usize) -> Self {
        Self { enough: nodes.saturating_sub(1).min(self.replicas.len()), ..self }
    }

    fn waiting(&self, error: WaitError) -> BackendError {
        match error {
            WaitError::Timeout(lags) => {
                let lags = lags.iter().map(|lag| {
                    let node = self.replicas.get(&lag.device).unwrap_or(&self.node);
                    let line = if lag.connected { "" } else { " (not connected)" };
                    format!("{} to reach {node}{line}", counted(lag.behind, "change"))
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
            Err(error @ FenceError::Resyncing(_)) => Err(BackendError::behind(error.to_string())),
            Err(error) => Err(BackendError::failed(error)),
        }
    }

    async fn flush(&self) -> Result<Barrier, BackendError> {
        // Nothing has it open any more: what stands here is a state to start from.
        let token = self.folder.seal().await.map_err(BackendError::failed)?;
        token.to_string().parse().map_err(BackendError::failed)
    }

    async fn replicated(
        &self,
        barrier: &Barrier,
        timeout: Duration,
    ) -> Result<BTreeSet<NodeName>, BackendError> {
        let token = token(barrier)?;
        let mut waits = JoinSet::new();
        for device in self.replicas.keys().copied() {
            let folder = self.folder.clone();
            waits.spawn(async move { folder.wait(&token, &[device], timeout).await.map(|()| device) });
        }
        let mut holding = BTreeSet::from([self.node.clone()]);
        let mut lags = Vec::new();
        while holding.len() <= self.enough {
            match waits.join_next().await {
                Some(Ok(Ok(device))) => holding.extend(self.replicas.get(&device).cloned()),
                Some(Ok(Err(WaitError::Timeout(more)))) => lags.extend(more),
                Some(Ok(Err(error))) => return Err(self.waiting(error)),
                Some(Err(error)) => return Err(BackendError::failed(error)),
                None => return Err(self.waiting(WaitError::Timeout(lags))),
            }
        }
        Ok(holding)
    }

    async fn close(&self) -> Result<(), BackendError> {
        self.folder.follow().await.map_err(BackendError::failed)
    }
}

fn token(barrier: &Barrier) -> Result<Token, BackendError> {
    barrier.as_str().parse().map_err(BackendError::failed)
}
