//! Step *service*: the notes application on home-1, its data directory replicated to home-2 through the mesh.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hybrid_examples::notes::Notes;
use hybrid_examples::sync_link;
use hybrid_examples::synced_volume::SyncedVolume;
use swarmctl::{MemoryLease, NodeName, Takeover, VolumeManager, VolumeOptions};
use syncfs::{Config, DeviceId, Folder};
use tokio::task::JoinHandle;

use super::network::Network;
use super::node::Node;
use super::report::{Proof, StepError, millis};
use super::visitor::Visitor;

/// Where the notes application listens, on the mesh address of the node that runs it.
pub const NOTES_PORT: u16 = 3000;
/// The volume that holds the notes.
pub const VOLUME: &str = "notes";
const NOTES_SYNC_PORT: u16 = 7420;
const SHARED_SYNC_PORT: u16 = 7421;
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_NOTES: u64 = 20;

/// A folder on both homes.
pub struct Pair {
    pub home_1: Folder,
    pub home_2: Folder,
}

impl Pair {
    /// Waits until both replicas hold the same.
    pub async fn settle(&self, timeout: Duration) -> Result<bool, StepError> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.home_1.digest().await? == self.home_2.digest().await? {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What the homes run.
pub struct Site {
    pub notes: Option<Notes>,
    pub volume: Pair,
    pub shared: Pair,
    pub volumes_1: VolumeManager<MemoryLease, SyncedVolume>,
    pub volumes_2: VolumeManager<MemoryLease, SyncedVolume>,
    pub root: PathBuf,
    links: Vec<JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.links.iter().for_each(JoinHandle::abort);
    }
}

impl Site {
    /// Where a home keeps a folder.
    pub fn directory(root: &Path, node: &str, folder: &str) -> PathBuf {
        root.join(node).join(folder)
    }
}

/// Starts the application and proves that what it wrote stands on both homes.
pub async fn play(network: &Network, root: &Path) -> Result<(Site, Proof), StepError> {
    let mut links = Vec::new();
    let volume = replicate(network, root, VOLUME, NOTES_SYNC_PORT, &mut links).await?;
    let shared = replicate(network, root, "shared", SHARED_SYNC_PORT, &mut links).await?;
    // Stands for Swarm's Raft store, which a real set-up keeps its leases in.
    let lease = MemoryLease::default();
    let volumes_1 =
        volumes(&network.home_1, &network.home_2, &lease, &volume.home_1, root, volume.home_2.device())
            .await?;
    let volumes_2 =
        volumes(&network.home_2, &network.home_1, &lease, &volume.home_2, root, volume.home_1.device())
            .await?;

    let directory = volumes_1.mount(VOLUME, "notes.1").await?;
    let listener = network.home_1.stack.listen(NOTES_PORT).await?;
    let notes = Notes::start(&directory, network.home_1.name, listener)?;

    let mut visitor =
        Visitor::through_mesh(&network.home_2.stack, network.home_1.service(NOTES_PORT)).await?;
    for n in 0..FIRST_NOTES {
        visitor.post(&format!("first-{n}"), &format!("first note {n}")).await?;
    }
    let began = Instant::now();
    let token = volume.home_1.flush().await?;
    volume.home_1.wait(&token, &[volume.home_2.device()], SYNC_TIMEOUT).await?;
    let replicated = millis(began.elapsed());
    let equal = volume.home_1.digest().await? == volume.home_2.digest().await?;
    let epoch = volume.home_1.epoch();

    let proof = Proof::new()
        .number("notes", FIRST_NOTES)
        .number("replicated_ms", replicated)
        .must("epoch", epoch, "at least 1", epoch >= 1)
        .must("digests_equal", equal.into(), "1", equal)
        .sentence(format!(
            "home-1 serves notes under lease epoch {epoch}; {FIRST_NOTES} notes stood on home-2 {replicated} ms later, digests equal"
        ));
    let site =
        Site { notes: Some(notes), volume, shared, volumes_1, volumes_2, root: root.to_owned(), links };
    Ok((site, proof))
}

/// Makes a folder on both homes and keeps the two in sync, over TCP through the mesh.
async fn replicate(
    network: &Network,
    root: &Path,
    name: &str,
    port: u16,
    links: &mut Vec<JoinHandle<()>>,
) -> Result<Pair, StepError> {
    let home_1 = folder(&network.home_1, root, name).await?;
    let home_2 = folder(&network.home_2, root, name).await?;
    let listener = network.home_1.stack.listen(port).await?;
    let (serving, expected) = (home_1.clone(), Some(home_2.device()));
    links.push(tokio::spawn(async move {
        let sync = move |stream| {
            let folder = serving.clone();
            async move {
                if let Err(error) = folder.sync(stream, expected).await {
                    tracing::debug!(%error, "sync stream failed");
                }
            }
        };
        let error = sync_link::accept(listener, sync).await;
        tracing::debug!(%error, "sync listener ended");
    }));
    let (dialling, expected) = (home_2.clone(), Some(home_1.device()));
    let (stack, to) = (network.home_2.stack.clone(), network.home_1.service(port));
    links.push(tokio::spawn(async move {
        sync_link::dial(dialling, expected, || stack.connect(to)).await;
    }));
    let pair = Pair { home_1, home_2 };
    match pair.settle(SYNC_TIMEOUT).await? {
        true => Ok(pair),
        false => Err(format!("the replicas of {name} did not meet within {SYNC_TIMEOUT:?}").into()),
    }
}

async fn folder(node: &Node, root: &Path, name: &str) -> Result<Folder, StepError> {
    let directory = Site::directory(root, node.name, name);
    std::fs::create_dir_all(&directory)?;
    let mut config = Config::new(directory);
    config.name = node.name.to_owned();
    Ok(Folder::create(config).await?)
}

/// What Docker's volume driver will be on this node.
async fn volumes(
    node: &Node,
    other: &Node,
    lease: &MemoryLease,
    folder: &Folder,
    root: &Path,
    replica: DeviceId,
) -> Result<VolumeManager<MemoryLease, SyncedVolume>, StepError> {
    let name: NodeName = node.name.parse()?;
    let manager = VolumeManager::new(name.clone(), lease.clone(), VolumeOptions::default());
    let directory = Site::directory(root, node.name, VOLUME);
    let replicas = BTreeMap::from([(replica, other.name.parse()?)]);
    let volume = SyncedVolume::new(folder.clone(), directory, name, replicas);
    manager.add(VOLUME.parse()?, volume, Takeover::Wait).await?;
    Ok(manager)
}
