//! What a Swarm is asked to run: services, networks, secrets and configs as complete values.
//!
//! A specification is *normal*: what Docker would assume is written out, lists whose order means nothing are sorted, and times
//! and sizes are numbers. So two of them mean the same exactly if they are equal, which is what a plan rests on. The defaults
//! are those of the [Engine API](https://docs.docker.com/reference/api/engine/version/v1.41/) and of its scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::cluster::{Mode, Port};

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceSpec {
    /// Its name, unique in the Swarm.
    pub name: String,
    /// Its own labels, which proxies and stacks go by.
    pub labels: BTreeMap<String, String>,
    /// What each task runs.
    pub container: ContainerSpec,
    /// What each task may use, and what is set aside for it.
    pub resources: Resources,
    /// What happens when a task ends.
    pub restart: RestartPolicy,
    /// Where tasks may run.
    pub placement: Placement,
    /// The networks that its tasks are attached to, by network name.
    pub networks: BTreeMap<String, Attachment>,
    /// Where the output of its tasks goes; the engine's own setting if `None`.
    pub log: Option<LogDriver>,
    /// How tasks are laid out.
    pub mode: ServiceMode,
    /// How a new version replaces the old one.
    pub update: Rollout,
    /// How the old version is put back.
    pub rollback: Rollout,
    /// How it is found.
    pub endpoint: EndpointMode,
    /// The ports that it publishes, sorted.
    pub ports: Vec<Port>,
}

/// What a task runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ContainerSpec {
    /// The image, with a digest where one is pinned.
    pub image: String,
    /// Instead of the image's entry point, if not empty.
    pub entrypoint: Vec<String>,
    /// Instead of the image's command, if not empty.
    pub command: Vec<String>,
    /// The environment. A variable without a value is unset even if the image sets it.
    pub env: BTreeMap<String, Option<String>>,
    /// Labels of each container.
    pub labels: BTreeMap<String, String>,
    /// The host name inside; templates like `{{.Node.Hostname}}` are the engine's.
    pub hostname: Option<String>,
    /// The working directory.
    pub workdir: Option<String>,
    /// User and group, as `user:group`.
    pub user: Option<String>,
    /// More groups.
    pub groups: BTreeSet<String>,
    /// What is mounted where, by target.
    pub mounts: BTreeMap<String, Mount>,
    /// Secrets, by their path inside.
    pub secrets: BTreeMap<String, FileReference>,
    /// Configs, by their path inside.
    pub configs: BTreeMap<String, FileReference>,
    /// The signal that asks it to end; the image's if `None`.
    pub stop_signal: Option<String>,
    /// How long it may take to end before it is killed.
    pub stop_grace: Option<Duration>,
    /// How its health is found out; the image's way if `None`.
    pub health: Option<HealthCheck>,
    /// More names in `/etc/hosts`, as (name, address).
    pub hosts: BTreeSet<(String, String)>,
    /// Name servers.
    pub dns: Dns,
    /// Whether a small init process reaps its orphans; the engine's own setting if `None`.
    pub init: Option<bool>,
    /// Whether its root filesystem is read-only.
    pub read_only: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub stdin: bool,
    /// Capabilities beyond the usual ones.
    pub cap_add: BTreeSet<String>,
    /// Capabilities that are taken away.
    pub cap_drop: BTreeSet<String>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the process, as (soft, hard) by name.
    pub ulimits: BTreeMap<String, (i64, i64)>,
}

/// Something that is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Whether it cannot be written to.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MountSource {
    /// A directory or file of the node.
    Bind {
        /// Its path there.
        path: String,
        /// How mounts below it spread, in Docker's word; the engine's default if `None`.
        propagation: Option<String>,
    },
    /// A named volume, or a nameless one that ends with the container.
    Volume {
        /// Its name.
        name: Option<String>,
        /// Its driver; `None` is Docker's own `local`.
        driver: Option<String>,
        /// What the driver is told.
        options: BTreeMap<String, String>,
        /// Its labels.
        labels: BTreeMap<String, String>,
        /// Whether a new volume begins empty, rather than with what the image has there.
        no_copy: bool,
    },
    /// Memory.
    Tmpfs {
        /// Its size; half of the node's memory if `None`.
        size_bytes: Option<u64>,
        /// Its permissions.
        mode: Option<u32>,
    },
}

/// A secret or config in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReference {
    /// The name of the secret or config.
    pub source: String,
    /// The owner inside.
    pub uid: String,
    /// The group inside.
    pub gid: String,
    /// The permissions inside.
    pub mode: u32,
}

/// How the health of a container is found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthCheck {
    /// The command: `["CMD", program, argument...]`, `["CMD-SHELL", line]`, or `["NONE"]` to have no check. Empty: the image's.
    pub test: Vec<String>,
    /// Pause between two.
    pub interval: Option<Duration>,
    /// How long one may take.
    pub timeout: Option<Duration>,
    /// How many in a row must fail; 0 is the engine's default.
    pub retries: u64,
    /// How long failures do not count after the start.
    pub start_period: Option<Duration>,
}

/// Name servers of a container. Empty: the engine's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Their addresses, first one first.
    pub servers: Vec<String>,
    /// The domains that are searched.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// What a task may use, and what is set aside for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// The most that it may use.
    pub limits: Amounts,
    /// What a node must have left for it to be placed there.
    pub reservations: Amounts,
}

/// Amounts of what a node has. 0 is "not said".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Billionths of a core.
    pub nano_cpus: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Processes and threads; only limited, never reserved.
    pub pids: i64,
}

/// What happens when a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Whether another one is started.
    pub condition: RestartCondition,
    /// Pause before that.
    pub delay: Duration,
    /// How often at most; 0 is without end.
    pub attempts: u64,
    /// The time in which attempts are counted; zero is all time.
    pub window: Duration,
}

/// When a task that ended is started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartCondition {
    /// Never.
    None,
    /// When its exit code is not 0.
    OnFailure,
    /// Always.
    Any,
}

/// Where tasks may run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// All must hold, such as `node.labels.location==home`.
    pub constraints: BTreeSet<String>,
    /// Tasks are spread evenly over the values of these, most important first, such as `node.labels.zone`.
    pub spread: Vec<String>,
    /// The most tasks on one node; 0 is any number.
    pub max_per_node: u64,
}

/// How a service is attached to a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attachment {
    /// More names that it is found by there.
    pub aliases: BTreeSet<String>,
}

/// Where the output of tasks goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDriver {
    /// The driver, such as `json-file`.
    pub name: String,
    /// What it is told.
    pub options: BTreeMap<String, String>,
}

/// How the tasks of a service are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceMode {
    /// So many.
    Replicated(u64),
    /// One on each node that fits.
    Global,
    /// So many that end, and so many of them at once.
    ReplicatedJob {
        /// How many have to end well.
        completions: u64,
        /// How many run at once.
        concurrent: u64,
    },
    /// One that ends, on each node that fits.
    GlobalJob,
}

/// How one version of a service replaces another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// Tasks at once; 0 is all.
    pub parallelism: u64,
    /// Pause between two.
    pub delay: Duration,
    /// What happens when one fails.
    pub on_failure: OnFailure,
    /// How long a task is watched after it started.
    pub monitor: Duration,
    /// The share of tasks that may fail, in millionths.
    pub failures_max_ppm: u32,
    /// Which one is there first.
    pub order: Order,
}

/// What happens when a task fails while a version is rolled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It stops there, for a person to look.
    Pause,
    /// It goes on.
    Continue,
    /// The version before is put back.
    Rollback,
}

/// Which of two tasks is there first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The old one stops, then the new one starts.
    StopFirst,
    /// The new one starts, then the old one stops: for a moment there are two.
    StartFirst,
}

/// How a service is found by others on its networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointMode {
    /// Its name leads to one address, behind which the tasks are.
    Vip,
    /// Its name leads to the addresses of its tasks.
    Dnsrr,
}

/// An overlay network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// Its driver, such as `overlay`.
    pub driver: String,
    /// What the driver is told.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether containers that belong to no service may join.
    pub attachable: bool,
    /// Whether it leads nowhere outside.
    pub internal: bool,
    /// Its address ranges, as (subnet, gateway). Chosen by the engine if empty.
    pub subnets: Vec<(String, Option<String>)>,
}

/// A secret, or a config: bytes under a name. They cannot be changed, so that a new content has a new name.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobSpec {
    /// Its name.
    pub name: String,
    /// Its content, at most [`BLOB_MAX_BYTES`].
    pub data: Vec<u8>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// The longest secret or config that Swarm takes.
pub const BLOB_MAX_BYTES: usize = 500 * 1024;

impl ServiceSpec {
    /// One task of an image, with what Docker would assume.
    #[must_use]
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            labels: BTreeMap::new(),
            container: ContainerSpec { image: image.into(), ..Default::default() },
            resources: Resources::default(),
            restart: RestartPolicy::default(),
            placement: Placement::default(),
            networks: BTreeMap::new(),
            log: None,
            mode: ServiceMode::Replicated(1),
            update: Rollout::default(),
            rollback: Rollout::default(),
            endpoint: EndpointMode::Vip,
            ports: Vec::new(),
        }
    }

    /// Whether two tasks of it may run at the same time.
    #[must_use]
    pub fn may_overlap(&self) -> bool {
        let many = match self.mode {
            ServiceMode::Replicated(replicas) => replicas > 1,
            ServiceMode::ReplicatedJob { concurrent, .. } => concurrent > 1,
            ServiceMode::Global | ServiceMode::GlobalJob => true,
        };
        many || self.update.order == Order::StartFirst || self.rollback.order == Order::StartFirst
    }
}

impl NetworkSpec {
    /// A network of a driver, without anything else.
    #[must_use]
    pub fn new(name: impl Into<String>, driver: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            driver: driver.into(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            attachable: false,
            internal: false,
            subnets: Vec::new(),
        }
    }
}

impl BlobSpec {
    /// A secret or config of this content.
    #[must_use]
    pub fn new(name: impl Into<String>, data: Vec<u8>, labels: BTreeMap<String, String>) -> Self {
        Self { name: name.into(), data, labels }
    }
}

impl Mount {
    /// Something to mount.
    #[must_use]
    pub fn new(source: MountSource, read_only: bool) -> Self {
        Self { source, read_only }
    }
}

impl ServiceMode {
    /// The kind alone.
    #[must_use]
    pub fn kind(&self) -> Mode {
        match self {
            Self::Replicated(_) => Mode::Replicated,
            Self::Global => Mode::Global,
            Self::ReplicatedJob { .. } => Mode::ReplicatedJob,
            Self::GlobalJob => Mode::GlobalJob,
        }
    }
}

impl Default for RestartPolicy {
    /// Always, after 5 s, without end.
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            attempts: 0,
            window: Duration::ZERO,
        }
    }
}

impl Default for Rollout {
    /// One task after the other, the old one stops first, each is watched for 5 s, and the first failure stops it.
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            on_failure: OnFailure::Pause,
            monitor: Duration::from_secs(5),
            failures_max_ppm: 0,
            order: Order::StopFirst,
        }
    }
}

impl fmt::Debug for BlobSpec {
    /// Without the content, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, data, labels } = self;
        write!(f, "BlobSpec {{ name: {name:?}, data: {} bytes, labels: {labels:?} }}", data.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_formatted() {
        let secret = BlobSpec { name: "key".into(), data: b"hunter2".to_vec(), labels: BTreeMap::new() };
        assert_eq!(format!("{secret:?}"), "BlobSpec { name: \"key\", data: 7 bytes, labels: {} }");
    }

    #[test]
    fn two_tasks_overlap_with_more_replicas_or_when_the_new_one_starts_first() {
        let mut service = ServiceSpec::new("web", "nginx");
        assert!(!service.may_overlap());
        service.update.order = Order::StartFirst;
        assert!(service.may_overlap());
        service.update.order = Order::StopFirst;
        service.mode = ServiceMode::Replicated(2);
        assert!(service.may_overlap());
        service.mode = ServiceMode::Global;
        assert!(service.may_overlap());
    }
}
