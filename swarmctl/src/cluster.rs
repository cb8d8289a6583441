//! What a Swarm looks like from one of its managers: nodes, services, tasks. Plain values that were
//! checked when they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// The engine that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The engine's host name, which is its node name in the Swarm.
    pub name: String,
    /// The engine's release, such as `20.10.24`.
    pub version: String,
    /// The API version that is spoken with it.
    pub api_version: ApiVersion,
    /// Its place in a Swarm.
    pub swarm: SwarmState,
    /// What its clock showed when it answered, as RFC 3339.
    pub time: String,
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

/// The newest API version that is spoken: that of Docker 28. Newer engines speak it, too.
pub const API_VERSION_MAX: ApiVersion = ApiVersion { major: 1, minor: 51 };

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
    /// Whether the other managers reach it; `None` for a worker.
    pub reachable: Option<bool>,
    /// The address that the managers see it at, without port.
    pub address: String,
    /// Its node labels, which placement constraints refer to.
    pub labels: BTreeMap<String, String>,
    /// Its engine's release.
    pub engine_version: String,
    /// Its engine's own labels, which placement constraints can refer to as well.
    pub engine_labels: BTreeMap<String, String>,
    /// Its operating system, such as `linux`.
    pub os: String,
    /// Its processor, such as `x86_64`.
    pub arch: String,
    /// The volume drivers that the scheduler knows of there.
    pub volume_drivers: BTreeSet<String>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Where a port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Where it is reached on each network, by the network's ID.
    pub addresses: BTreeMap<String, IpAddr>,
}

/// A network that reaches over the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its driver, such as `overlay`.
    pub driver: String,
    /// What the driver was told.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
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

impl Node {
    /// A node that is ready and takes tasks, of which nothing else is known.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>, role: Role) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            role,
            availability: Availability::Active,
            status: NodeStatus::Ready,
            leader: false,
            reachable: (role == Role::Manager).then_some(true),
            address: String::new(),
            labels: BTreeMap::new(),
            engine_version: String::new(),
            engine_labels: BTreeMap::new(),
            os: String::new(),
            arch: String::new(),
            volume_drivers: BTreeSet::new(),
        }
    }
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

/// The milliseconds since 1970 of a time as engines write it: RFC 3339, with any number of digits after the second.
pub fn time_ms(text: &str) -> Option<i64> {
    let number = |range| text.get(range).and_then(|it: &str| it.parse::<i64>().ok());
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let ms = match fraction.strip_prefix('.') {
        Some(digits) => format!("{digits:0<3}").get(..3)?.parse::<i64>().ok()?,
        None if fraction.is_empty() => 0,
        None => return None,
    };
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let minutes =
                hours.parse::<u8>().ok().map(i64::from)? * 60 + i64::from(minutes.parse::<u8>().ok()?);
            if sign == "-" { -minutes } else { minutes }
        }
    };
    // Days since 1970 by counting from March, as in https://howardhinnant.github.io/date_algorithms.html#days_from_civil.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000 + ms)
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
    fn times_of_engines_are_read_in_any_zone() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-26T20:22:11.123456789Z", 1_795_724_531_123),
            ("2026-11-26T21:22:11.1+01:00", 1_795_724_531_100),
            ("2024-02-29T12:00:00-05:30", 1_709_227_800_000),
        ] {
            assert_eq!(time_ms(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2026-11-26",
            "2026-11-26T20:22:11",
            "2026-11-26T20:22:11.Zé",
            "2026-é1-26T20:22:11Z",
        ] {
            assert_eq!(time_ms(text), None, "{text:?}");
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
