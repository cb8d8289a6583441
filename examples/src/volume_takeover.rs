//! Volumes whose lease may be taken over: who is down, who may go on, and who has to stop in time.
//!
//! A holder asks all the time whether a manager sees its node up. One that has asked for T, half of the volume's `takeover-after`,
//! without being told so ends the containers that use the volume. Its lease is taken over once the Swarm says that its node is
//! down *and* no manager has told it otherwise for twice that long: the managers remember whom they told what. The time is
//! counted from when a manager was asked, and from the report that the node is down where a manager cannot say (it is gone, or
//! the holder is a manager itself). A manager that does not reach most of them tells nothing.
//!
//! What is assumed of clocks: they only measure how long something takes, each on its own node, so that it does not matter what
//! time they show. The holder's must not run slower than half as fast as the other's, less the moment that ending a container
//! takes, and its process must not be stopped meanwhile (a suspended machine). A manager that was cut off must notice within
//! T + 3 s that it reaches no majority, before the others can have elected a leader that reports its node. Where that fails, the
//! epoch still keeps what is written too late out of the volume: it is set aside as a branch.
//!
//! A Swarm that loses its leader says nothing until there is a new one, which takes a quarter of a minute. A `takeover-after` below
//! half a minute makes holders end their containers then.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use swarmctl::lease::{Grant, Lease, Release};
use swarmctl::store::StoredLease;
use swarmctl::{Endpoint, LeaseError, LeaseState, NodeName, Swarm, VolumeManager, VolumeName};
use tokio::time::Instant;

use crate::lease_hop::{HopStore, Member};
use crate::synced_volume::SyncedVolume;
use crate::volume_keeper::{SyncedVolumes, doubt};
use crate::volume_node::VolumeNode;

/// How often the Swarm is asked who is up. Nothing is asked while no volume can be taken over.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long an answer to that is waited for, when nothing else is to be done.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// How long managers may take to say what a node that is down was told. Looking for the own node must not wait for them.
const SILENCE_LIMIT: Duration = Duration::from_millis(500);
/// In a volume's directory: whoever made it accepts that the replica here is not known to be consistent, once.
const FORCE_FILE: &str = "force";

/// Leases of the Swarm, which this node takes over only with a replica that an application can start from.
pub struct CarefulLease {
    inner: StoredLease<HopStore>,
    node: Arc<VolumeNode>,
}

impl CarefulLease {
    /// The leases of the records that `store` reaches.
    pub fn new(store: HopStore, node: Arc<VolumeNode>) -> Self {
        Self { inner: StoredLease::new(store), node }
    }

    /// Why nobody should start from the replica here after a holder that is gone.
    async fn doubt(&self, volume: &VolumeName) -> Option<String> {
        let status = self.node.replica(volume)?.folder.current_status().await;
        // Consistent as an empty volume may be, the holder had it to write to it, and what it began with may not have got here.
        if status.files == 0 {
            return Some("nothing of it has come here".to_owned());
        }
        doubt(&status.consistency)
    }
}

/// Accepts, for the next takeover, what stands in the replica of a volume.
///
/// # Errors
/// If there is no replica, or the disk refuses.
pub fn force(root: &std::path::Path, volume: &VolumeName) -> std::io::Result<()> {
    std::fs::write(root.join("volumes").join(volume.as_str()).join(FORCE_FILE), "")
}

impl Lease for CarefulLease {
    async fn acquire(
        &self,
        volume: &VolumeName,
        holder: &NodeName,
        at_least_epoch: u64,
    ) -> Result<Grant, LeaseError> {
        self.inner.acquire(volume, holder, at_least_epoch).await
    }

    async fn release(&self, grant: &Grant, release: &Release) -> Result<(), LeaseError> {
        self.inner.release(grant, release).await
    }

    async fn takeover(
        &self,
        volume: &VolumeName,
        holder: &NodeName,
        seen_epoch: u64,
        at_least_epoch: u64,
    ) -> Result<Grant, LeaseError> {
        let forced = self.node.directory(volume).join(FORCE_FILE);
        match self.doubt(volume).await {
            Some(doubt) if !forced.exists() => {
                let reason = format!(
                    "the replica here is not known to be consistent ({doubt}). Start the node that holds the lease, or accept \
                     what is here with `volumed force ROOT {volume}` on {holder}"
                );
                Err(LeaseError::Declined { reason })
            }
            doubt => {
                let grant = self.inner.takeover(volume, holder, seen_epoch, at_least_epoch).await?;
                if let Some(doubt) = doubt {
                    tracing::warn!(%volume, doubt, "taken over by force from a replica that is not known to be consistent");
                }
                // It was for this takeover, needed or not.
                let _ = std::fs::remove_file(forced);
                Ok(grant)
            }
        }
    }

    async fn observe(&self, volume: &VolumeName) -> Result<LeaseState, LeaseError> {
        self.inner.observe(volume).await
    }
}

/// Tells the manager which nodes are up, and ends what must not go on, for ever.
pub async fn watch(
    manager: &VolumeManager<CarefulLease, SyncedVolume>,
    keeper: &SyncedVolumes,
    store: &HopStore,
    own: &NodeName,
    engine: &Endpoint,
) -> Infallible {
    let mut seen_up = Instant::now();
    let mut down = BTreeSet::new();
    let mut ending = tokio::spawn(async {});
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let takeovers = keeper.takeovers();
        if takeovers.is_empty() {
            seen_up = Instant::now();
            continue;
        }
        // Whatever a manager says was true later than this.
        let asked = Instant::now();
        let least = takeovers.iter().map(|(_, after)| *after / 2).min().unwrap_or_default();
        // What is due then must not wait for an answer; once it has been done, an answer has all the time that it needs.
        let due = Some(seen_up + least).filter(|due| *due > asked).unwrap_or(asked + LOOK_LIMIT);
        let nodes = tokio::time::timeout_at(due, store.nodes()).await;
        let nodes = nodes.unwrap_or(Ok(Vec::new())).unwrap_or_default();
        if nodes.iter().any(|it| it.up && it.name == own.as_str()) {
            seen_up = asked;
        }
        notice(manager, store, &nodes, &mut down).await;
        let unseen = seen_up.elapsed();
        let held: BTreeSet<VolumeName> =
            manager.status().into_iter().filter(|it| it.epoch.is_some()).map(|it| it.volume).collect();
        let due =
            takeovers.into_iter().filter(|(volume, after)| unseen >= *after / 2 && held.contains(volume));
        let due: BTreeSet<String> = due.map(|(volume, _)| volume.to_string()).collect();
        if !due.is_empty() && ending.is_finished() {
            tracing::warn!(volumes = ?due, "no manager sees this node: what uses these volumes is ended");
            let engine = engine.clone();
            ending = tokio::spawn(async move { end(&engine, &due).await });
        }
    }
}

/// Tells the manager which nodes went down or came up since the last time.
async fn notice(
    manager: &VolumeManager<CarefulLease, SyncedVolume>,
    store: &HopStore,
    nodes: &[Member],
    down: &mut BTreeSet<String>,
) {
    for member in nodes {
        let Ok(node) = member.name.parse::<NodeName>() else { continue };
        // A node that joined anew is listed twice until its last membership is removed.
        if nodes.iter().any(|it| it.up && it.name == member.name) {
            if down.remove(&member.name) {
                manager.node_up(node).await;
            }
        } else if down.insert(member.name.clone()) {
            let silence = tokio::time::timeout(SILENCE_LIMIT, store.silence(member, nodes)).await;
            manager.node_down(node, silence.ok().flatten().unwrap_or_default()).await;
        }
    }
}

async fn end(engine: &Endpoint, volumes: &BTreeSet<String>) {
    let ended = async {
        let swarm = Swarm::connect(engine.clone()).await.map_err(|error| error.to_string())?;
        swarm.kill_users_of(volumes).await.map_err(|error| error.to_string())
    };
    if let Err(error) = ended.await {
        tracing::error!(?volumes, error, "what uses these volumes cannot be ended");
    }
}
