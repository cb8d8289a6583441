//! Errors, one enum per operation. Each says what was wrong, where, and what to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::barrier::Barrier;
use crate::engine::Step;
use crate::lease::LeaseError;
use crate::name::{NameError, NodeName, VolumeName};
use crate::volume::BackendError;

/// The source of an error that comes from the engine's client.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a volume could not be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// There is one of that name.
    #[error("volume {0} is there already")]
    Exists(VolumeName),
    /// The node has as many volumes as it can.
    #[error("volume {volume} cannot be added: this node has {max} volumes, the most it can")]
    TooMany {
        /// The volume.
        volume: VolumeName,
        /// The limit.
        max: usize,
    },
    /// The manager has ended.
    #[error("the volume manager has ended")]
    Ended,
}

/// Why a volume was not mounted. Nothing is left half-mounted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// No such volume.
    #[error("volume {0} is not known on this node: create it first (docker volume create)")]
    UnknownVolume(String),
    /// The name or the mount id is not one.
    #[error("mount: {0}")]
    Name(#[from] NameError),
    /// The volume has as many users as it can.
    #[error("volume {volume}: {max} mounts and waiting mounts, no more are accepted: remove some containers")]
    TooMany {
        /// The volume.
        volume: VolumeName,
        /// The limit.
        max: usize,
    },
    /// The deadline passed. It can be tried again.
    #[error("volume {volume}: not mounted after {} s: {doing}", .waited.as_secs())]
    TimedOut {
        /// The volume.
        volume: VolumeName,
        /// How long it was tried.
        waited: Duration,
        /// What was waited for, and what can be done about it.
        doing: String,
    },
    /// The backend could not do a step.
    #[error("volume {volume}: {step} failed: {source}")]
    Step {
        /// The volume.
        volume: VolumeName,
        /// The step.
        step: Step,
        /// The backend's reason.
        source: BackendError,
    },
    /// The lease was refused for good.
    #[error("volume {volume}: {source}")]
    Lease {
        /// The volume.
        volume: VolumeName,
        /// The reason.
        source: LeaseError,
    },
    /// It was unmounted, or its caller went away, before it was mounted.
    #[error("volume {0}: the mount was called off")]
    Cancelled(VolumeName),
    /// The manager has ended.
    #[error("the volume manager has ended")]
    Ended,
}

/// Why a volume was not released after its last unmount. The mount id is gone in any case, and the rest is
/// tried again in the background until it succeeds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnmountError {
    /// No such volume.
    #[error("volume {0} is not known on this node")]
    UnknownVolume(String),
    /// The name or the mount id is not one.
    #[error("unmount: {0}")]
    Name(#[from] NameError),
    /// Too many unmounts of the volume wait for their answer.
    #[error("volume {volume}: {max} unmounts wait for their answer, no more are accepted")]
    TooMany {
        /// The volume.
        volume: VolumeName,
        /// The limit.
        max: usize,
    },
    /// The replicas do not have everything yet. This node keeps the lease, so that no other goes on from
    /// less, and releases it as soon as they have.
    #[error(
        "volume {volume}: the replicas do not have everything yet ({lagging}); this node keeps the lease \
         (epoch {epoch}) and releases it once they do. Check that they are up and connected"
    )]
    NotReplicated {
        /// The volume.
        volume: VolumeName,
        /// The epoch that is kept.
        epoch: u64,
        /// What they have to get.
        barrier: Barrier,
        /// Who lags and by how much.
        lagging: String,
    },
    /// The deadline passed in another step.
    #[error("volume {volume}: not released in time, still {doing}; this goes on in the background")]
    TimedOut {
        /// The volume.
        volume: VolumeName,
        /// What was being done.
        doing: String,
    },
    /// The backend could not do a step. This node keeps the lease.
    #[error("volume {volume}: {step} failed: {source}; this node keeps the lease and tries again")]
    Step {
        /// The volume.
        volume: VolumeName,
        /// The step.
        step: Step,
        /// The backend's reason.
        source: BackendError,
    },
    /// The lease was not this node's any more. What was written since is set aside by the replica.
    #[error(
        "volume {volume}: the lease of epoch {epoch} was lost, the volume is at epoch {current}{}; what \
         was written here and not replicated before is set aside on this node", held_by(.holder)
    )]
    LeaseLost {
        /// The volume.
        volume: VolumeName,
        /// The epoch that this node had.
        epoch: u64,
        /// The epoch at which the volume is.
        current: u64,
        /// Who holds it now, as far as known.
        holder: Option<NodeName>,
    },
    /// The manager has ended.
    #[error("the volume manager has ended")]
    Ended,
}

/// Why an engine could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no socket.
    #[error(
        "no Docker engine at {path}: there is no such socket. Is Docker installed and running \
         (systemctl start docker)? For a socket elsewhere set DOCKER_HOST=unix:///path/to/docker.sock"
    )]
    SocketMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The socket may not be opened.
    #[error(
        "no permission to use the Docker socket {path}: run this as root, or as a member of its group \
         (usermod -aG docker USER, then log in again)"
    )]
    NoPermission {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is a leftover.
    #[error("nobody listens on the Docker socket {path}: start the engine (systemctl start docker)")]
    NotListening {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be opened for another reason.
    #[error("the Docker socket {path} cannot be opened: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Only Unix sockets can be used.
    #[error(
        "the Docker host {host:?} is not supported: use unix:///path/to/docker.sock; a remote engine's \
         socket can be forwarded with ssh -L /tmp/docker.sock:/var/run/docker.sock HOST"
    )]
    UnsupportedHost {
        /// What was asked for.
        host: String,
    },
    /// Whoever listens does not answer as a Docker engine does.
    #[error("what listens on {path} does not answer like a Docker engine: {source}")]
    NotAnEngine {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: Source,
    },
    /// The engine is older than what is supported.
    #[error(
        "the Docker engine at {path} is too old: release {version} speaks API {api}, {min} is needed: \
         install Docker 20.10 or newer", min = crate::cluster::API_VERSION_MIN
    )]
    TooOld {
        /// The socket.
        path: PathBuf,
        /// Its release.
        version: String,
        /// Its newest API version.
        api: String,
    },
}

/// Why an engine did not say what it was asked about itself or its Swarm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// It is part of no Swarm.
    #[error(
        "this engine is not part of a Swarm: run `docker swarm init` here, or `docker swarm join` to one"
    )]
    Inactive,
    /// It is a worker.
    #[error(
        "this engine is a Swarm worker, and only managers know the Swarm: ask a manager, or promote this \
         node from one (docker node promote)"
    )]
    NotManager,
    /// Its Swarm is locked.
    #[error("the Swarm is locked: run `docker swarm unlock` on this manager and enter the unlock key")]
    Locked,
    /// Too few managers are up.
    #[error(
        "the Swarm has no leader, more than half of its managers are down: start them again, or, if they \
         are lost, run `docker swarm init --force-new-cluster` on this one"
    )]
    NoLeader,
    /// There is no such service.
    #[error("no such service: {name} (docker service ls shows them)")]
    UnknownService {
        /// What was asked for.
        name: String,
    },
    /// The engine did not answer.
    #[error("the Docker engine does not answer: {source}")]
    Unreachable {
        /// The reason.
        source: Source,
    },
    /// The engine refused for another reason.
    #[error("the Docker engine refused with status {status}: {message}")]
    Engine {
        /// The HTTP status.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// The engine left out what every engine says.
    #[error("the Docker engine's answer has no {what}: is it of a newer, incompatible release?")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
}

fn held_by(holder: &Option<NodeName>) -> String {
    holder.as_ref().map_or_else(String::new, |by| format!(", held by {by}"))
}
