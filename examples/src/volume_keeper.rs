//! The replicas of a [`VolumeNode`] as a volume driver sees them: with the options that each volume was created with.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use swarmctl::plugin::{Access, Kept, VolumeKeeper};
use swarmctl::{BackendError, NodeName, Takeover, VolumeName};
use syncfs::Consistency;

use crate::daemon::{Context as _, Failure};
use crate::durable_file;
use crate::synced_volume::SyncedVolume;
use crate::volume_lag;
use crate::volume_node::{Replica, VolumeNode};
use crate::volume_options::Options;

/// The longest name of a volume: it is also that of a folder, and part of that of a config of the Swarm.
const NAME_BYTES_MAX: usize = 58;
/// Where a volume's options are, beside its data. A replica that is only there for the other nodes has none.
const OPTIONS_FILE: &str = "options.json";
/// How long a peer may take to confirm that it has everything, before a replica is removed.
const ELSEWHERE_LIMIT: Duration = Duration::from_secs(3);

/// Volumes as folders that all nodes share.
pub struct SyncedVolumes {
    node: Arc<VolumeNode>,
    takeovers: Mutex<BTreeMap<VolumeName, Duration>>,
}

impl SyncedVolumes {
    /// The volumes of this node.
    pub fn new(node: Arc<VolumeNode>) -> Self {
        Self { node, takeovers: Mutex::default() }
    }

    /// The volumes of which a lease may be taken over, each with how long its holder must have been down.
    pub fn takeovers(&self) -> Vec<(VolumeName, Duration)> {
        let leased = self.takeovers.lock().unwrap_or_else(PoisonError::into_inner);
        leased.iter().map(|(volume, after)| (volume.clone(), *after)).collect()
    }

    fn kept(&self, volume: &VolumeName, replica: &Arc<Replica>, options: &Options) -> Kept<SyncedVolume> {
        let access = if options.shared {
            Access::Shared { path: replica.data.clone() }
        } else {
            if let Takeover::NewestReplica { after } = options.takeover {
                let mut takeovers = self.takeovers.lock().unwrap_or_else(PoisonError::into_inner);
                takeovers.insert(volume.clone(), after);
            }
            let peers = self.node.peers().map(|peer| (peer.id, peer.name.clone())).collect();
            let (folder, data, node) =
                (replica.folder.clone(), replica.data.clone(), self.node.name().clone());
            let backend = SyncedVolume::new(folder, data, node, peers).on(options.replicas);
            let backend = backend.telling(Arc::clone(replica));
            Access::Single { backend, takeover: options.takeover }
        };
        Kept { volume: volume.clone(), access }
    }

    fn options(&self, volume: &VolumeName) -> Result<Option<BTreeMap<String, String>>, BackendError> {
        let path = self.node.directory(volume).join(OPTIONS_FILE);
        read_options(&path).map_err(|error| BackendError::failed(format!("{}: {error}", path.display())))
    }
}

/// Changes some options of a volume of which there is a replica below `root`: an empty value takes one away. Gives all of them. They
/// count from the next start of the driver.
///
/// # Errors
/// In words, if there is no such volume or its options would make no sense.
pub fn change_options(
    root: &Path,
    volume: &VolumeName,
    changes: &[(String, String)],
) -> Result<BTreeMap<String, String>, Failure> {
    let path = root.join("volumes").join(volume.as_str()).join(OPTIONS_FILE);
    let options = read_options(&path).context(path.display())?;
    let mut options = options.ok_or_else(|| {
        Failure::new(format!("{}: no volume of this name was created here", path.display()))
    })?;
    if changes.is_empty() {
        return Ok(options);
    }
    for (key, value) in changes {
        match value.is_empty() {
            true => drop(options.remove(key)),
            false => drop(options.insert(key.clone(), value.clone())),
        }
    }
    Options::parse(&options).map_err(Failure::new)?;
    write_options(&path, &options).context(path.display())?;
    Ok(options)
}

fn read_options(path: &Path) -> io::Result<Option<BTreeMap<String, String>>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
    }
}

/// A volume whose options were lost to a power cut would be a mere replica, and its container would not start.
fn write_options(path: &Path, options: &BTreeMap<String, String>) -> io::Result<()> {
    durable_file::keep(durable_file::draft(path)?, path, &serde_json::to_vec(options)?).map(drop)
}

impl VolumeKeeper for SyncedVolumes {
    type Backend = SyncedVolume;

    async fn volumes(&self) -> Result<Vec<Kept<SyncedVolume>>, BackendError> {
        let mut kept = Vec::new();
        for volume in self.node.on_disk().map_err(BackendError::failed)? {
            let options = self.options(&volume)?;
            let options =
                options.map(|given| Options::parse(&given)).transpose().map_err(BackendError::failed)?;
            let cuts = options.as_ref().map(|options| &options.cuts[..]);
            let replica = self.node.open(&volume, cuts).await?;
            kept.extend(options.map(|options| self.kept(&volume, &replica, &options)));
        }
        Ok(kept)
    }

    async fn create(
        &self,
        volume: &VolumeName,
        given: &BTreeMap<String, String>,
    ) -> Result<Kept<SyncedVolume>, BackendError> {
        if volume.as_str().len() > NAME_BYTES_MAX {
            let reason =
                format!("the name of a volume has at most {NAME_BYTES_MAX} bytes, choose a shorter one");
            return Err(BackendError::failed(reason));
        }
        let options = Options::parse(given).map_err(BackendError::failed)?;
        if options.replicas > self.node.peers().count() + 1 {
            let (wanted, nodes) = (options.replicas, self.node.peers().count() + 1);
            let reason =
                format!("replicas={wanted}, but with its peers this node makes {nodes}: add a [[peer]]");
            return Err(BackendError::failed(reason));
        }
        match self.options(volume)? {
            Some(before) if before == *given => {
                let replica = self.node.open(volume, None).await?;
                return Ok(self.kept(volume, &replica, &options));
            }
            Some(before) => {
                let reason = format!(
                    "the volume is here already, with other options: {}. `volumed options ROOT {volume} KEY=VALUE ..` changes them, on \
                     each node",
                    before.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
                );
                return Err(BackendError::failed(reason));
            }
            None => {}
        }
        let replica = self.node.open(volume, Some(&options.cuts)).await?;
        let path = self.node.directory(volume).join(OPTIONS_FILE);
        write_options(&path, given).map_err(BackendError::failed)?;
        Ok(self.kept(volume, &replica, &options))
    }

    /// What is on no other node stays. A node without peers has its volumes for itself, as Docker's own are.
    async fn removable(&self, volume: &VolumeName) -> Result<(), BackendError> {
        let Some(replica) = self.node.replica(volume) else { return Ok(()) };
        let folder = &replica.folder;
        let place = self.node.directory(volume);
        let refused = |why: String| {
            let rest = format!("To remove it all the same, stop volumed and delete {}", place.display());
            BackendError::failed(format!("{why}. {rest}"))
        };
        let branches = folder.branches().await.map_err(BackendError::failed)?;
        if let Some(branch) = branches.first() {
            let aside = folder.state_dir().join("aside").join(branch.name());
            let more = match branches.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Err(refused(format!(
                "this replica keeps what is nowhere else: the branch {}{more}",
                aside.display()
            )));
        }
        if self.node.peers().next().is_none() {
            return Ok(());
        }
        let token = folder.flush().await.map_err(BackendError::failed)?;
        for peer in self.node.peers() {
            if folder.wait(&token, &[peer.id], ELSEWHERE_LIMIT).await.is_ok() {
                tracing::info!(%volume, "{} has everything that the replica here has, which may be removed", peer.name);
                return Ok(());
            }
        }
        Err(refused("no other node is known to have everything that this replica has".to_owned()))
    }

    async fn remove(&self, volume: &VolumeName) -> Result<(), BackendError> {
        self.takeovers.lock().unwrap_or_else(PoisonError::into_inner).remove(volume);
        self.node.remove(volume).await.map_err(BackendError::failed)
    }

    async fn lag(
        &self,
        volume: &VolumeName,
        from: &[NodeName],
        to: &[NodeName],
    ) -> Result<Option<String>, BackendError> {
        volume_lag::lag(&self.node, volume, from, to).await.map_err(BackendError::failed)
    }

    fn describe(&self, volume: &VolumeName) -> BTreeMap<String, String> {
        let Some(replica) = self.node.replica(volume) else { return BTreeMap::new() };
        let status = replica.folder.status();
        let connected: Vec<&str> = status
            .peers
            .iter()
            .filter(|peer| peer.connected)
            .filter_map(|peer| Some(self.node.peer(peer.device)?.name.as_str()))
            .collect();
        let consistency = doubt(&status.consistency).unwrap_or_else(|| "known".to_owned());
        let texts = [
            ("files", status.files.to_string()),
            ("bytes", status.bytes.to_string()),
            ("connected", connected.join(",")),
            ("consistency", consistency),
            ("branches", status.branches.to_string()),
        ];
        let notice = replica.notice().map(|notice| ("notice", notice));
        texts.into_iter().chain(notice).map(|(key, text)| (key.to_owned(), text)).collect()
    }
}

/// Why a replica is not known to be consistent.
pub fn doubt(consistency: &Consistency) -> Option<String> {
    match consistency {
        Consistency::Known => None,
        Consistency::Incomplete => Some("not everything has come here yet".to_owned()),
        Consistency::Unknown { paths, more } => {
            let shown: Vec<String> = paths.iter().take(3).map(ToString::to_string).collect();
            let more = if *more || paths.len() > shown.len() { " and more" } else { "" };
            Some(format!("{}{more} changed since it was", shown.join(", ")))
        }
        _ => Some("it does not say".to_owned()),
    }
}
