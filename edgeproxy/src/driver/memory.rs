//! Owns the provider whose containers the embedding program sets itself.

use super::provider::{Provider, SnapshotSink};
use crate::{error::ProviderError, snapshot::Snapshot};
use tokio::sync::watch;

/// A provider that tells what its [`MemoryProviderHandle`] is given.
#[derive(Debug)]
pub struct MemoryProvider {
    name: String,
    wanted: watch::Receiver<(u64, Snapshot)>,
    live: watch::Sender<Option<u64>>,
}

/// Sets the containers of a [`MemoryProvider`]. Clones set the same one.
#[derive(Debug, Clone)]
pub struct MemoryProviderHandle {
    wanted: watch::Sender<(u64, Snapshot)>,
    /// The version that requests use; `None` until the proxy runs the provider.
    live: watch::Receiver<Option<u64>>,
}

impl MemoryProvider {
    /// A provider without containers, and its handle.
    pub fn new(name: impl Into<String>) -> (Self, MemoryProviderHandle) {
        let (wanted_tx, wanted) = watch::channel((0, Snapshot::default()));
        let (live, live_rx) = watch::channel(None);
        (Self { name: name.into(), wanted, live }, MemoryProviderHandle { wanted: wanted_tx, live: live_rx })
    }
}

impl MemoryProviderHandle {
    /// Replaces the containers. Resolves once requests use them; before the proxy has started, at once.
    ///
    /// # Errors
    /// [`ProviderError::ProxyStopped`] once the proxy has stopped.
    pub async fn set(&self, snapshot: Snapshot) -> Result<(), ProviderError> {
        let mut live = self.live.clone();
        let mut version = 0;
        self.wanted.send_modify(|wanted| {
            version = wanted.0 + 1;
            *wanted = (version, snapshot);
        });
        let is_live = |live: &Option<u64>| live.is_none_or(|live| live >= version);
        live.wait_for(is_live).await.map(|_| ()).map_err(|_| ProviderError::ProxyStopped)
    }
}

impl Provider for MemoryProvider {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(mut self, sink: SnapshotSink) -> Result<(), ProviderError> {
        self.live.send_replace(Some(0));
        loop {
            let (version, snapshot) = self.wanted.borrow_and_update().clone();
            sink.publish(snapshot).await?;
            self.live.send_replace(Some(version));
            if self.wanted.changed().await.is_err() {
                // Every handle is gone: what was set last stays.
                return Ok(());
            }
        }
    }
}
