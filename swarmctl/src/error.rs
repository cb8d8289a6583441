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

/// Why a volume could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// No such volume.
    #[error("volume {0} is not known on this node")]
    UnknownVolume(VolumeName),
    /// It is used, or what was written to it is not yet where it has to be.
    #[error(
        "volume {volume} is in use on this node ({doing}): stop what uses it, and wait until it is released"
    )]
    InUse {
        /// The volume.
        volume: VolumeName,
        /// What it is doing.
        doing: String,
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
    /// Neither a Unix socket nor a TCP port.
    #[error(
        "the Docker host {host:?} is not supported: use unix:///path/to/docker.sock, or tcp://HOST:PORT with certificates; a \
         remote engine's socket can also be forwarded with ssh -L /tmp/docker.sock:/var/run/docker.sock HOST"
    )]
    UnsupportedHost {
        /// What was asked for.
        host: String,
    },
    /// A TCP port that nobody would have to prove anything to.
    #[error(
        "{host}: without TLS whoever reaches this port has every right on that host. Set DOCKER_TLS_VERIFY=1, and \
         DOCKER_CERT_PATH to a directory with ca.pem, cert.pem and key.pem"
    )]
    WithoutTls {
        /// What was asked for.
        host: String,
    },
    /// A certificate or key cannot be used.
    #[error("{path}: {reason}. The directory of DOCKER_CERT_PATH needs ca.pem, cert.pem and key.pem")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A TCP port that does not answer, or not with the right certificate.
    #[error("no Docker engine can be reached at {address}: {source}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// The reason.
        source: std::io::Error,
    },
    /// Whoever listens does not answer as a Docker engine does.
    #[error("what listens on {place} does not answer like a Docker engine: {source}")]
    NotAnEngine {
        /// Where.
        place: String,
        /// The reason.
        source: Source,
    },
    /// The engine is older than what is supported.
    #[error(
        "the Docker engine at {place} is too old: the newest API that it speaks is {api}, {min} is needed: \
         install Docker 20.10 or newer", min = crate::cluster::API_VERSION_MIN
    )]
    TooOld {
        /// Where it listens.
        place: String,
        /// Its newest API version.
        api: String,
    },
}

/// What a Swarm is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Swarm,
    Node,
    Service,
    Network,
    Secret,
    Config,
}

impl Kind {
    /// Docker's own word for it.
    fn word(self) -> &'static str {
        match self {
            Self::Swarm => "swarm",
            Self::Node => "node",
            Self::Service => "service",
            Self::Network => "network",
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Why an engine did not do, or say, what it was asked to about its Swarm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// It is part of no Swarm.
    #[error("this engine is not part of a Swarm: run `swarmctl init` here, or `swarmctl join` to one")]
    Inactive,
    /// It is a worker.
    #[error(
        "this engine is a Swarm worker, and only managers know the Swarm: ask a manager, or promote this \
         node from one (swarmctl node promote)"
    )]
    NotManager,
    /// Its Swarm is locked.
    #[error("the Swarm is locked: run `swarmctl unlock` on this manager and enter the unlock key")]
    Locked,
    /// Too few managers are up.
    #[error(
        "the Swarm has no leader, more than half of its managers are down: start them again, or, if they \
         are lost, run `swarmctl init --force-new-cluster` on this one"
    )]
    NoLeader,
    /// It cannot speak for the Swarm at the moment.
    #[error(
        "this manager does not reach the Swarm's leader, or takes its role up or gives it up just now: {message}. Try again, \
         or ask another manager"
    )]
    Unavailable {
        /// The engine's own words.
        message: String,
    },
    /// It is part of one already.
    #[error("this engine is part of a Swarm already: `swarmctl leave` takes it out of that one first")]
    Active,
    /// The last manager, or one without which there is no majority, is to leave.
    #[error("this manager cannot leave without an end to the Swarm, or to its majority: {message}")]
    LastManager {
        /// The engine's own words.
        message: String,
    },
    /// The unlock key is another one.
    #[error(
        "this is not the unlock key of this Swarm: `swarmctl unlock-key` on a manager that is not locked shows it"
    )]
    WrongKey,
    /// What was shown to the Swarm is not one of its tokens.
    #[error(
        "this Swarm has no such join token: `swarmctl token worker` on one of its managers shows the present one"
    )]
    TokenRefused,
    /// No manager could be reached to join.
    #[error(
        "no manager of the Swarm answers: {message}. Check the address and that its port 2377/tcp can be reached; what goes \
         on in the background, `swarmctl leave --force` ends"
    )]
    NoManager {
        /// The engine's own words.
        message: String,
    },
    /// A node that is to be forgotten still answers.
    #[error(
        "node {node} still answers: run `swarmctl leave` there first. --force forgets it all the same; it goes on with its \
         tasks then until it leaves"
    )]
    NodeUp {
        /// The node.
        node: String,
    },
    /// A node that is to be taken out still has work.
    #[error(
        "node {node} still runs {tasks} tasks: `swarmctl drain {node}` moves them first, --force loses them"
    )]
    NodeBusy {
        /// The node.
        node: String,
        /// How many tasks it has.
        tasks: usize,
    },
    /// A node does not become what it was told to.
    #[error("node {node} has not become a {role} after {} s: look at it with `swarmctl node ls`", .waited.as_secs())]
    RolePending {
        /// The node.
        node: String,
        /// What it is to become.
        role: crate::cluster::Role,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A port is used by another service.
    #[error(
        "{message}: choose another port (--publish OTHER:PORT), or remove that service first (swarmctl service ls)"
    )]
    PortTaken {
        /// The engine's own words, which say by what.
        message: String,
    },
    /// There is no such thing.
    #[error("no such {kind}: {name} (swarmctl {} ls shows them)", .kind.word())]
    NotFound {
        /// What it would be.
        kind: Kind,
        /// What was asked for.
        name: String,
    },
    /// There is one of that name.
    #[error("{kind} {name} exists already: choose another name, or remove that one first (swarmctl {} rm {name})", .kind.word())]
    Exists {
        /// What it is.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// It is used.
    #[error("{kind} {name} is in use and cannot be removed: {message}")]
    InUse {
        /// What it is.
        kind: Kind,
        /// Its name.
        name: String,
        /// The engine's own words, which say by what.
        message: String,
    },
    /// Somebody else changed it again and again in the meantime.
    #[error("{kind} {name} was changed by somebody else at the same time, {tries} times in a row: try again")]
    Contended {
        /// What it is.
        kind: Kind,
        /// Its name.
        name: String,
        /// How often it was tried.
        tries: u32,
    },
    /// Somebody else changed it since it was looked at.
    #[error("{kind} {name} was changed by somebody else since it was looked at: look at it again first")]
    Changed {
        /// What it is.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// What was asked for makes no sense to the engine.
    #[error("the Docker engine does not accept this: {message}")]
    Invalid {
        /// Its own words.
        message: String,
    },
    /// The engine did not answer.
    #[error("the Docker engine does not answer: {source}. Is it running (systemctl status docker)?")]
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
