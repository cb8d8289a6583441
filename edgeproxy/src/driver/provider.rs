//! Owns the seam to whoever knows the containers: the [`Provider`] trait and the sink that it feeds.

use crate::{error::ProviderError, snapshot::Snapshot};
use std::{future::Future, sync::Arc};
use tokio::sync::{mpsc, oneshot, watch};

/// Knows which containers exist, and tells whenever that changes.
pub trait Provider: Send + 'static {
    /// Its name, unique within a proxy: part of every route and diagnostic that comes from it.
    fn name(&self) -> &str;

    /// Runs until there is nothing more to tell. What was published last stays valid afterwards. A provider that can lose its source
    /// comes back by itself: an error ends it for good.
    fn run(self, sink: SnapshotSink) -> impl Future<Output = Result<(), ProviderError>> + Send;
}

/// Takes a provider's snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotSink {
    provider: Arc<str>,
    updates: mpsc::Sender<Update>,
    /// Told whenever a snapshot has become live.
    told: watch::Sender<()>,
}

/// One provider's newest snapshot, on its way to the publisher.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) provider: Arc<str>,
    pub(super) snapshot: Snapshot,
    pub(super) live: oneshot::Sender<()>,
}

impl SnapshotSink {
    pub(super) fn new(provider: &str, updates: mpsc::Sender<Update>, told: watch::Sender<()>) -> Self {
        Self { provider: provider.into(), updates, told }
    }

    /// Publishes everything that the provider knows now; it replaces what it published before. Resolves once requests use it.
    ///
    /// # Errors
    /// [`ProviderError::ProxyStopped`] once the proxy has stopped.
    pub async fn publish(&self, snapshot: Snapshot) -> Result<(), ProviderError> {
        let (live, is_live) = oneshot::channel();
        let update = Update { provider: self.provider.clone(), snapshot, live };
        self.updates.send(update).await.map_err(|_| ProviderError::ProxyStopped)?;
        is_live.await.map_err(|_| ProviderError::ProxyStopped)?;
        self.told.send_replace(());
        Ok(())
    }
}
