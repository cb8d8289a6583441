//! What a Swarm looks like from one of its managers: nodes, services, tasks. Plain values that were
//! checked when they were read.

use std::collections::BTreeMap;
use std::fmt;

/// The engine that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The engine's host name, which is its node name in the Swarm.
    pub name: String,
    /// The engine's release, such as `20.10.24`.
    pub version: String,
    /// The newest API version that it speaks.
    pub api_version: ApiVersion,
    /// Its place in a Swarm.
    pub swarm: SwarmState,
}

/// A version of the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// The first number; 1 so far.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

/// The oldest API version that is supported: that of Docker 20.10.
pub const API_VERSION_MIN: ApiVersion = ApiVersion { major: 1, minor: 41 };

/// An engine's place in a Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwarmState {
    /// It is part of no Swarm.
    Inactive,
    /// It is joining one.
    Pending,
    /// It runs tasks and cannot be asked about the Swarm.
    Worker {
        /// Its node ID.
        node: String,
    },
    /// It is a manager that can be asked.
    Manager {
        /// Its node ID.
        node: String,
    },
    /// Its Swarm is encrypted at rest and waits for the unlock key.
    Locked,
    /// It cannot take part, for this reason.
    Failed {
        /// The engine's own words.
        reason: String,
    },
}

/// A node of the Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Swarm's ID of the node.
    pub id: String,
    /// Its host name.
    pub name: String,
    /// Worker or manager.
    pub role: Role,
    /// Whether Swarm gives it tasks.
    pub availability: Availability,
    /// Whether it can be reached.
    pub status: NodeStatus,
    /// Whether it leads the managers.
    pub leader: bool,
    /// The address that the managers see it at, without port.
    pub address: String,
    /// Its node labels, which placement constraints refer to.
    pub labels: BTreeMap<String, String>,
    /// Its engine's release.
    pub engine_version: String,
}

/// What a node is to the Swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It runs tasks.
    Worker,
    /// It also takes part in the Swarm's consensus.
    Manager,
}

/// Whether a node is given tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Yes.
    Active,
    /// It keeps those that it has and gets no more.
    Pause,
    /// Those that it had are moved away.
    Drain,
}

/// Whether a node can be reached, as the managers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStatus {
    /// It answers.
    Ready,
    /// It does not, and its tasks are replaced.
    Down,
    /// It was lost a moment ago.
    Disconnected,
    /// The managers have not heard of it since they started.
    Unknown,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Swarm's ID of the service.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image that its tasks run, with digest where one is pinned.
    pub image: String,
    /// How many tasks it has.
    pub mode: Mode,
    /// How many of them run.
    pub replicas: Replicas,
    /// Its service labels.
    pub labels: BTreeMap<String, String>,
    /// Its placement constraints, such as `node.labels.location==home`.
    pub constraints: Vec<String>,
    /// The ports that it publishes.
    pub ports: Vec<Port>,
}

/// How a service's tasks are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As many as asked for.
    Replicated,
    /// One on each node that fits.
    Global,
    /// As many as asked for, each run to its end.
    ReplicatedJob,
    /// One on each node that fits, run to its end.
    GlobalJob,
}

/// How far a service is from what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// Tasks that run.
    pub running: u64,
    /// Tasks that should.
    pub desired: u64,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The port in the container.
    pub target: u16,
    /// The port outside; `None` until Swarm has chosen one.
    pub published: Option<u16>,
    /// The transport.
    pub protocol: Protocol,
    /// Where it is published.
    pub publish: Publish,
}

/// A port's transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Where a port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// On every node, through the routing mesh.
    Ingress,
    /// On the nodes that run a task.
    Host,
}

/// One run of a service's container on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Swarm's ID of the task.
    pub id: String,
    /// The ID of its service.
    pub service: String,
    /// Its number within a replicated service, from 1; `None` for a global one.
    pub slot: Option<u64>,
    /// The ID of the node that it was given to, once it was.
    pub node: Option<String>,
    /// The image.
    pub image: String,
    /// What it is doing.
    pub state: TaskState,
    /// What it should be doing.
    pub desired: TaskState,
    /// Why it is not, in words: the scheduler's or the engine's own reason, and what an exit code means.
    pub error: Option<String>,
    /// When it entered its state, RFC 3339.
    pub since: String,
}

/// The life of a task, in Swarm's terms and order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum TaskState {
    New,
    Pending,
    Assigned,
    Accepted,
    Preparing,
    Ready,
    Starting,
    Running,
    Complete,
    Shutdown,
    Failed,
    Rejected,
    Remove,
    Orphaned,
}

impl ApiVersion {
    /// Reads `1.41`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal),* $(,)? }) => {
        impl fmt::Display for $type {
            /// Docker's own word for it.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),* })
            }
        }
    };
}

words!(Role { Worker => "worker", Manager => "manager" });
words!(Availability { Active => "active", Pause => "pause", Drain => "drain" });
words!(NodeStatus { Ready => "ready", Down => "down", Disconnected => "disconnected", Unknown => "unknown" });
words!(Mode {
    Replicated => "replicated",
    Global => "global",
    ReplicatedJob => "replicated job",
    GlobalJob => "global job",
});
words!(Protocol { Tcp => "tcp", Udp => "udp", Sctp => "sctp" });
words!(Publish { Ingress => "ingress", Host => "host" });
words!(TaskState {
    New => "new",
    Pending => "pending",
    Assigned => "assigned",
    Accepted => "accepted",
    Preparing => "preparing",
    Ready => "ready",
    Starting => "starting",
    Running => "running",
    Complete => "complete",
    Shutdown => "shutdown",
    Failed => "failed",
    Rejected => "rejected",
    Remove => "remove",
    Orphaned => "orphaned",
});

impl fmt::Display for SwarmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inactive => f.write_str("inactive"),
            Self::Pending => f.write_str("joining"),
            Self::Worker { .. } => f.write_str("worker"),
            Self::Manager { .. } => f.write_str("manager"),
            Self::Locked => f.write_str("locked"),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.published {
            Some(published) => write!(f, "{published}->{}/{} ({})", self.target, self.protocol, self.publish),
            None => write!(f, "{}/{} ({})", self.target, self.protocol, self.publish),
        }
    }
}

/// What a container's exit code says, where it says anything: signals and the shell's conventions.
pub fn exit_code_in_words(code: i64) -> Option<&'static str> {
    Some(match code {
        125 => "the engine could not start the container",
        126 => "the command could not be executed",
        127 => "the command was not found",
        132 => "illegal instruction",
        134 => "aborted itself",
        137 => "killed, by SIGKILL or for using too much memory",
        139 => "segmentation fault",
        143 => "ended by SIGTERM",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_versions_compare_as_numbers() {
        let old = ApiVersion::parse("1.9").unwrap();
        assert!(old < API_VERSION_MIN && API_VERSION_MIN < ApiVersion::parse("1.100").unwrap());
        assert_eq!(API_VERSION_MIN.to_string(), "1.41");
        for text in ["", "1", "1.", "1.x", "1.41.0"] {
            assert_eq!(ApiVersion::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn words_are_dockers_own_and_keep_column_width() {
        assert_eq!(format!("[{:<8}]", Availability::Drain), "[drain   ]");
        let port =
            Port { target: 80, published: Some(8080), protocol: Protocol::Tcp, publish: Publish::Host };
        assert_eq!(port.to_string(), "8080->80/tcp (host)");
    }
}
