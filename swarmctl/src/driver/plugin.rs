//! The volume driver of a node: what its engine asks for, answered by a [`VolumeManager`] and a [`VolumeKeeper`].
//!
//! Which mounts there are is written down, so that they survive the driver: a container goes on while its driver is
//! restarted, and its engine neither mounts again nor asks. What an engine left behind that died, or a driver that did,
//! is told from what runs: see `engine`.

mod engine;
mod mounts;
mod socket;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use self::mounts::{Mount, Mounts};
pub use self::socket::PluginSocket;
use super::client::Endpoint;
use super::manager::VolumeManager;
use crate::config::VolumeOptions;
use crate::lease::Lease;
use crate::name::{NodeName, VolumeName};
use crate::plugin::{Access, Described, Kept, PluginError, Reply, Request, VolumeKeeper};

/// A volume driver. Clones are handles of the same.
pub struct VolumePlugin<L, K: VolumeKeeper> {
    shared: Arc<Shared<L, K>>,
}

struct Shared<L, K: VolumeKeeper> {
    name: String,
    node: NodeName,
    keeper: K,
    manager: VolumeManager<L, K::Backend>,
    /// Where the shared ones are; `None` for one that has a lease.
    volumes: Mutex<BTreeMap<VolumeName, Option<PathBuf>>>,
    /// Volumes come and go one after the other.
    changing: AsyncMutex<()>,
    mounts: Mutex<Mounts>,
}

impl<L, K: VolumeKeeper> Clone for VolumePlugin<L, K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<L: Lease, K: VolumeKeeper> VolumePlugin<L, K> {
    /// The driver that engines will know as `name`, with the volumes that `keeper` has. Which mounts there are is kept in the
    /// file `mounts`; those that are in it already are mounted again in the background.
    ///
    /// # Errors
    /// When the file or the volumes cannot be read.
    pub async fn open(
        name: &str,
        node: NodeName,
        lease: L,
        options: VolumeOptions,
        keeper: K,
        mounts: &Path,
    ) -> Result<Self, PluginError> {
        let mounts = Mounts::read(mounts)?;
        let kept = keeper.volumes().await.map_err(PluginError::Volumes)?;
        let shared = Shared {
            name: name.to_owned(),
            manager: VolumeManager::new(node.clone(), lease, options),
            node,
            keeper,
            volumes: Mutex::default(),
            changing: AsyncMutex::default(),
            mounts: Mutex::new(mounts),
        };
        let plugin = Self { shared: Arc::new(shared) };
        for kept in kept {
            plugin.add(kept).await.map_err(PluginError::Add)?;
        }
        for Mount { volume, id } in plugin.mounts().list() {
            let plugin = plugin.clone();
            tokio::spawn(async move {
                // Why it is not mounted again stands in the status; its container has the directory all the while.
                match plugin.shared.manager.mount(volume.as_str(), id.as_str()).await {
                    Ok(path) => plugin.mounts().mounted(&volume, path),
                    Err(error) => tracing::warn!(%volume, %error, "a mount of before was not taken up"),
                }
            });
        }
        Ok(plugin)
    }

    /// Serves the engine at `engine` on a socket that has the name of this driver, for ever; the socket is gone when the future is.
    pub async fn serve(&self, socket: PluginSocket, engine: Endpoint) -> Infallible {
        let plugin = self.clone();
        let answer = move |request| {
            let plugin = plugin.clone();
            async move { plugin.answer(request).await }
        };
        tokio::select! {
            never = socket.serve(answer) => never,
            never = engine::accompany(self, engine) => never,
        }
    }

    /// The manager of the volumes that have a lease.
    #[must_use]
    pub fn manager(&self) -> &VolumeManager<L, K::Backend> {
        &self.shared.manager
    }

    /// The keeper of the replicas.
    #[must_use]
    pub fn keeper(&self) -> &K {
        &self.shared.keeper
    }

    async fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Activate => {
                self.mounts().engine_is_new();
                Reply::Activated
            }
            Request::Capabilities => Reply::Capabilities,
            Request::List => {
                let volumes: Vec<VolumeName> = self.volumes().keys().cloned().collect();
                Reply::Volumes(volumes.into_iter().map(|volume| self.describe(volume)).collect())
            }
            Request::Create { volume, options } => done(self.create(&volume, &options).await),
            Request::Remove(volume) => done(self.remove(&volume).await),
            Request::Mount(volume, id) => match self.mount(Mount { volume, id }).await {
                Ok(path) => Reply::Mountpoint(Some(path)),
                Err(reason) => Reply::Failed(reason),
            },
            Request::Unmount(volume, id) => done(self.unmount(&Mount { volume, id }).await),
            Request::Path(volume) => match self.known(&volume) {
                Err(reason) => Reply::Failed(reason),
                Ok(shared) => Reply::Mountpoint(shared.or_else(|| self.mounts().path(&volume))),
            },
            Request::Get(volume) => match self.known(&volume) {
                Err(reason) => Reply::Failed(reason),
                Ok(_) => Reply::Volume(self.describe(volume)),
            },
            Request::Lag { volume, from, to } => match self.shared.keeper.lag(&volume, &from, &to).await {
                Err(error) => Reply::Failed(error.to_string()),
                Ok(lag) => Reply::Lag(lag),
            },
        }
    }

    async fn create(&self, volume: &VolumeName, options: &BTreeMap<String, String>) -> Result<(), String> {
        let _turn = self.shared.changing.lock().await;
        let kept = self.shared.keeper.create(volume, options).await.map_err(|error| error.to_string())?;
        if self.volumes().contains_key(volume) {
            return Ok(());
        }
        self.add(kept).await.map_err(|error| error.to_string())
    }

    async fn add(&self, kept: Kept<K::Backend>) -> Result<(), crate::error::AddError> {
        let Kept { volume, access } = kept;
        let path = match access {
            Access::Shared { path } => Some(path),
            Access::Single { backend, takeover } => {
                self.shared.manager.add(volume.clone(), backend, takeover).await?;
                None
            }
        };
        self.volumes().insert(volume, path);
        Ok(())
    }

    async fn remove(&self, volume: &VolumeName) -> Result<(), String> {
        let _turn = self.shared.changing.lock().await;
        let shared = self.known(volume)?.is_some();
        self.shared.keeper.removable(volume).await.map_err(|error| error.to_string())?;
        if !shared {
            self.shared.manager.remove(volume).await.map_err(|error| error.to_string())?;
        }
        self.volumes().remove(volume);
        self.shared.keeper.remove(volume).await.map_err(|error| error.to_string())
    }

    async fn mount(&self, mount: Mount) -> Result<PathBuf, String> {
        if let Some(path) = self.known(&mount.volume)? {
            return Ok(path);
        }
        let path = self.shared.manager.mount(mount.volume.as_str(), mount.id.as_str()).await;
        let path = path.map_err(|error| error.to_string())?;
        // Written down before the container starts. Nothing is awaited in between: whoever is told has it.
        self.mounts().add(mount.clone(), path.clone()).map_err(|error| error.to_string())?;
        Ok(path)
    }

    async fn unmount(&self, mount: &Mount) -> Result<(), String> {
        if self.known(&mount.volume)?.is_some() {
            return Ok(());
        }
        self.mounts().remove(mount).map_err(|error| error.to_string())?;
        match self.shared.manager.unmount(mount.volume.as_str(), mount.id.as_str()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Where a shared volume is; `None` for one with a lease.
    fn known(&self, volume: &VolumeName) -> Result<Option<PathBuf>, String> {
        self.volumes()
            .get(volume)
            .cloned()
            .ok_or_else(|| format!("no such volume: {volume} (docker volume ls shows them)"))
    }

    fn describe(&self, volume: VolumeName) -> Described {
        let mut status = self.shared.keeper.describe(&volume);
        let shared = self.volumes().get(&volume).cloned().flatten();
        if let Some(known) = self.shared.manager.status().into_iter().find(|known| known.volume == volume) {
            status.insert("state".to_owned(), known.state);
            status.insert("mounts".to_owned(), known.mounts.to_string());
            if let Some(epoch) = known.epoch {
                status.insert("epoch".to_owned(), epoch.to_string());
            }
        }
        let mountpoint = shared.or_else(|| self.mounts().path(&volume));
        Described { volume, mountpoint, status }
    }

    fn volumes(&self) -> std::sync::MutexGuard<'_, BTreeMap<VolumeName, Option<PathBuf>>> {
        self.shared.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mounts(&self) -> std::sync::MutexGuard<'_, Mounts> {
        self.shared.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn done(result: Result<(), String>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(reason) => Reply::Failed(reason),
    }
}
