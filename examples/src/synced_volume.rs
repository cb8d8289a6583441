//! A volume whose data is a syncfs folder: where lease, barrier and replica meet.
//!
//! swarmctl says *when* (take the lease, catch up, open, flush, release), syncfs knows *how*.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use swarmctl::lease::Grant;
use swarmctl::{BackendError, Barrier, NodeName, VolumeBackend};
use syncfs::{DeviceId, FenceError, Folder, Token, WaitError};
use tokio::task::JoinSet;

use crate::sync_report::counted;
use crate::volume_node::Replica;
use crate::volume_notice;

/// This node's replica of a volume.
#[derive(Clone)]
pub struct SyncedVolume {
    folder: Folder,
    root: PathBuf,
    node: NodeName,
    replicas: BTreeMap<DeviceId, NodeName>,
    /// How many of `replicas` must hold a write before it counts as replicated.
    enough: usize,
    /// Where it is said what may be missing after a takeover.
    told: Option<Arc<Replica>>,
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
        Self { folder, root, node, enough: replicas.len(), replicas, told: None }
    }

    /// The same, but a write counts as replicated once `nodes` nodes hold it, this one included.
    #[must_use]
    pub fn on(self, nodes: usize) -> Self {
        Self { enough: nodes.saturating_sub(1).min(self.replicas.len()), ..self }
    }

    /// The same, and what may be missing after a takeover is told of `replica`, which it is of.
    #[must_use]
    pub fn telling(self, replica: Arc<Replica>) -> Self {
        Self { told: Some(replica), ..self }
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

    async fn open(&self, grant: &Grant) -> Result<PathBuf, BackendError> {
        match self.folder.hold(grant.epoch).await {
            Ok(()) => {
                // Not before: a third node might still have handed on a little of what the last holder wrote.
                if let (Some(replica), Some(passed)) = (&self.told, grant.unreleased.last())
                    && passed.holder != self.node
                {
                    let device = self.replicas.iter().find(|(_, node)| **node == passed.holder);
                    let device = device.map(|(device, _)| *device);
                    replica.tell(volume_notice::taken_over(replica, passed, device).await);
                }
                Ok(self.root.clone())
            }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use swarmctl::lease::Tenure;

    use super::*;
    use crate::volume_node::VolumeNode;

    #[tokio::test]
    async fn what_may_be_missing_is_told_once_nothing_more_of_it_can_come_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other): (NodeName, NodeName) = ("home-1".parse().unwrap(), "home-2".parse().unwrap());
        let node = Arc::new(VolumeNode::new(directory.path(), own.clone(), Vec::new()).unwrap());
        let replica = node.open(&"data".parse().unwrap(), None).await.unwrap();
        let (folder, data) = (replica.folder.clone(), replica.data.clone());
        folder.hold(3).await.unwrap();
        std::fs::write(data.join("note"), "written by the last holder").unwrap();
        let volume = SyncedVolume::new(folder, data, own.clone(), BTreeMap::new()).telling(replica.clone());
        let grant = |epoch, holder: &NodeName| Grant {
            volume: "data".parse().unwrap(),
            holder: own.clone(),
            epoch,
            barrier: None,
            unreleased: vec![Tenure { holder: holder.clone(), epoch: epoch - 1 }],
            store_behind: false,
        };
        // The folder is not fenced under an epoch that is over.
        let stale = volume.open(&grant(2, &other)).await.unwrap_err();
        assert!(matches!(stale, BackendError::Fenced { seen: 3 }), "{stale}");
        volume.open(&grant(4, &own)).await.unwrap();
        assert_eq!(replica.notice(), None, "what this node wrote itself is here");
        volume.open(&grant(5, &other)).await.unwrap();
        let notice = replica.notice().unwrap();
        assert!(
            notice.starts_with("taken over from home-2 (epoch 4)") && notice.contains("note last"),
            "{notice}"
        );
        node.close().await;
    }
}
