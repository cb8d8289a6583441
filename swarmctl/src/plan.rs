//! From what a Swarm has to what it should have: a list of steps that a person can read first.
//!
//! [`plan`] compares a [`Stack`] with what is there and says what to do, in an order in which everything exists before it is
//! used and nothing is removed before it is not. It touches nothing, and never plans to change what does not belong to the
//! stack. Once its steps are done, the plan for the same stack is empty.

mod diff;
mod facts;

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::{BlobSpec, Mount, MountSource, NetworkSpec, ServiceSpec};
use crate::stack::{STACK_LABEL, Stack};

/// What a Swarm has, as far as a stack is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Present {
    /// All services.
    pub services: BTreeMap<String, ServiceSpec>,
    /// All networks.
    pub networks: BTreeMap<String, NetworkSpec>,
    /// All secrets. What they hold, the engine does not tell.
    pub secrets: BTreeMap<String, Kept>,
    /// All configs.
    pub configs: BTreeMap<String, Kept>,
}

/// A secret or config that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it holds, where the engine tells.
    pub data: Option<Vec<u8>>,
}

/// What a plan depends on besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Whether what belongs to the stack and is not in the file any more is removed.
    pub prune: bool,
    /// The volume drivers that let one node write at a time, unless a volume says `access=shared`.
    pub leased_drivers: BTreeSet<String>,
    /// Directories of the nodes that are synchronised: what is bound from there has nobody who waits for it.
    pub synced_folders: Vec<String>,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// Which services a service of these steps is to come after, once they run.
    pub after: BTreeMap<String, BTreeSet<String>>,
    /// What is allowed and may be regretted.
    pub warnings: Vec<String>,
}

/// One change of a Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Make a network.
    CreateNetwork(NetworkSpec),
    /// Keep a secret.
    CreateSecret(BlobSpec),
    /// Keep a config.
    CreateConfig(BlobSpec),
    /// Start a service.
    CreateService(Box<ServiceSpec>),
    /// Change a service.
    UpdateService {
        /// What it is.
        before: Box<ServiceSpec>,
        /// What it will be.
        after: Box<ServiceSpec>,
    },
    /// End a service.
    RemoveService(String),
    /// Remove a network that nothing uses any more.
    RemoveNetwork(String),
    /// Remove a secret that nothing uses any more.
    RemoveSecret(String),
    /// Remove a config that nothing uses any more.
    RemoveConfig(String),
}

/// Why there is no plan: what would go wrong, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Something of that name belongs to somebody else.
    #[error("{kind} {name} exists and belongs to {}: give it another name, or remove that one", named(.owner))]
    NotOwned {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The stack that it belongs to.
        owner: Option<String>,
    },
    /// Something that is used is not there.
    #[error("{kind} {name} does not exist: {remedy}")]
    Missing {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The command that helps.
        remedy: String,
    },
    /// Services wait for each other in a circle.
    #[error("these services wait for each other: {}. Remove one `depends_on`", .services.join(", "))]
    Circle {
        /// The services.
        services: Vec<String>,
    },
    /// A network cannot be changed while it is used, and Docker never changes one.
    #[error("network {name} cannot be changed ({what}): give it another name, or remove the stack first")]
    NetworkChanged {
        /// Its name.
        name: String,
        /// What differs.
        what: String,
    },
    /// A config whose name is fixed has another content.
    #[error("{kind} {name} cannot be changed: drop its `name`, and each content gets one of its own")]
    BlobChanged {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The mode of a service cannot be changed.
    #[error(
        "service {name} is {before} and cannot become {after}: remove it first (docker service rm {name})"
    )]
    ModeChanged {
        /// The service.
        name: String,
        /// What it is.
        before: crate::cluster::Mode,
        /// What it was to be.
        after: crate::cluster::Mode,
    },
    /// Several tasks at once would need a volume that one node writes to at a time.
    #[error(
        "service {service} may run two tasks at once, and volume {volume} is for one at a time: use one replica and \
         `order: stop-first`, or the volume option access=shared, with which conflicting writes are kept beside each other"
    )]
    Overlap {
        /// The service.
        service: String,
        /// The volume.
        volume: String,
    },
}

/// Plans how a stack becomes what it should be.
///
/// # Errors
/// Everything that stands in the way, at once.
pub fn plan(stack: &Stack, present: &Present, options: &PlanOptions) -> Result<Plan, Vec<Refusal>> {
    let mut planner = Planner { stack, present, options, refusals: Vec::new(), plan: Plan::default() };
    planner.plan.after.clone_from(&stack.after);
    planner.external();
    planner.networks();
    planner.blobs();
    planner.services();
    if options.prune {
        planner.prune();
    }
    if planner.refusals.is_empty() { Ok(planner.plan) } else { Err(planner.refusals) }
}

/// Plans how one service is made, or changed from what it was before.
///
/// # Errors
/// What stands in the way.
pub fn plan_service(
    before: Option<ServiceSpec>,
    after: ServiceSpec,
    options: &PlanOptions,
) -> Result<Plan, Refusal> {
    if let Some(refusal) = overlaps(&after, options).into_iter().next() {
        return Err(refusal);
    }
    let warnings = unprotected(&after, options);
    let after = Box::new(after);
    let step = match before {
        Some(before) => Step::UpdateService { before: Box::new(before), after },
        None => Step::CreateService(after),
    };
    Ok(Plan { steps: vec![step], warnings, ..Plan::default() })
}

/// Plans how everything that belongs to a stack goes.
#[must_use]
pub fn plan_removal(stack: &str, present: &Present) -> Plan {
    let stack = Stack::new(stack);
    let options = PlanOptions { prune: true, ..PlanOptions::default() };
    plan(&stack, present, &options).expect("nothing is asked for that could be refused")
}

/// The volumes of a service that one node writes to at a time, each with its driver.
pub(crate) fn leased_volumes(service: &ServiceSpec, options: &PlanOptions) -> BTreeMap<String, String> {
    let volumes = service.container.mounts.values().filter_map(|mount| match &mount.source {
        MountSource::Volume { name: Some(name), driver: Some(driver), options: volume, .. } => {
            let is_shared = volume.get("access").is_some_and(|access| access == "shared");
            (options.leased_drivers.contains(driver) && !is_shared).then(|| (name.clone(), driver.clone()))
        }
        _ => None,
    });
    volumes.collect()
}

/// The volumes of a service that two of its tasks would write to at a time, and one only may.
fn overlaps(service: &ServiceSpec, options: &PlanOptions) -> Vec<Refusal> {
    if !service.may_overlap() {
        return Vec::new();
    }
    let overlap = |volume| Refusal::Overlap { service: service.name.clone(), volume };
    leased_volumes(service, options).into_keys().map(overlap).collect()
}

/// What a service binds from a synchronised folder, where nothing waits for the last writes when it moves, and the mount that
/// would protect it.
pub(crate) fn unprotected(service: &ServiceSpec, options: &PlanOptions) -> Vec<String> {
    let warn = |(target, mount): (&String, &Mount)| {
        let MountSource::Bind { path, .. } = &mount.source else { return None };
        let is_inside = |folder: &&String| {
            path.strip_prefix(folder.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let folder = options.synced_folders.iter().find(is_inside).filter(|_| !mount.read_only)?;
        let driver = options.leased_drivers.first().map_or("DRIVER", String::as_str);
        Some(format!(
            "service {} binds {path}, inside the synchronised folder {folder}: when it moves, nothing waits until the next \
             node has its last writes. A volume would: {{type: volume, source: NAME, target: {target}}} with `driver: {driver}`",
            service.name
        ))
    };
    service.container.mounts.iter().filter_map(warn).collect()
}

struct Planner<'a> {
    stack: &'a Stack,
    present: &'a Present,
    options: &'a PlanOptions,
    refusals: Vec<Refusal>,
    plan: Plan,
}

impl Planner<'_> {
    fn external(&mut self) {
        let external = &self.stack.external;
        for name in &external.networks {
            // The node's own networks are known to every engine and listed by none of the managers.
            if !self.present.networks.contains_key(name) && name != "host" && name != "bridge" {
                let remedy = format!("docker network create --driver overlay {name}");
                self.refusals.push(Refusal::Missing { kind: "network", name: name.clone(), remedy });
            }
        }
        for (kind, names, kept) in [
            ("secret", &external.secrets, &self.present.secrets),
            ("config", &external.configs, &self.present.configs),
        ] {
            for name in names.iter().filter(|name| !kept.contains_key(*name)) {
                let remedy = format!("docker {kind} create {name} FILE");
                self.refusals.push(Refusal::Missing { kind, name: name.clone(), remedy });
            }
        }
    }

    fn networks(&mut self) {
        for (name, network) in &self.stack.networks {
            match self.present.networks.get(name) {
                None => self.plan.steps.push(Step::CreateNetwork(network.clone())),
                Some(there) if !self.owns(&there.labels) => self.refuse_owner("network", name, &there.labels),
                Some(there) => {
                    if let Some(what) = changed(there, network) {
                        self.refusals.push(Refusal::NetworkChanged { name: name.clone(), what });
                    }
                }
            }
        }
    }

    fn blobs(&mut self) {
        for (kind, wanted, kept) in [
            ("secret", &self.stack.secrets, &self.present.secrets),
            ("config", &self.stack.configs, &self.present.configs),
        ] {
            for (name, blob) in wanted {
                match kept.get(name) {
                    None if kind == "secret" => self.plan.steps.push(Step::CreateSecret(blob.clone())),
                    None => self.plan.steps.push(Step::CreateConfig(blob.clone())),
                    Some(there) if !self.owns(&there.labels) => self.refuse_owner(kind, name, &there.labels),
                    Some(there) if there.data.as_ref().is_some_and(|data| *data != blob.data) => {
                        self.refusals.push(Refusal::BlobChanged { kind, name: name.clone() });
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn services(&mut self) {
        for name in self.in_order() {
            let Some(service) = self.stack.services.get(&name) else { continue };
            self.look_at_mounts(service);
            match self.present.services.get(&name) {
                None => self.plan.steps.push(Step::CreateService(Box::new(service.clone()))),
                Some(there) if !self.owns(&there.labels) => {
                    self.refuse_owner("service", &name, &there.labels)
                }
                Some(there) if there.mode.kind() != service.mode.kind() => {
                    let (before, after) = (there.mode.kind(), service.mode.kind());
                    self.refusals.push(Refusal::ModeChanged { name, before, after });
                }
                Some(there) if there == service => {}
                Some(there) => self.plan.steps.push(Step::UpdateService {
                    before: Box::new(there.clone()),
                    after: Box::new(service.clone()),
                }),
            }
        }
    }

    /// The services, each after those that it depends on ([Kahn](https://en.wikipedia.org/wiki/Topological_sorting)), otherwise by
    /// name.
    fn in_order(&mut self) -> Vec<String> {
        let nothing = BTreeSet::new();
        let after = |name: &String| self.stack.after.get(name).unwrap_or(&nothing);
        let mut left: BTreeSet<&String> = self.stack.services.keys().collect();
        let mut order = Vec::new();
        while let Some(next) =
            left.iter().copied().find(|name| after(name).iter().all(|it| !left.contains(it)))
        {
            left.remove(next);
            order.push(next.clone());
        }
        if !left.is_empty() {
            let services = left.into_iter().cloned().collect();
            self.refusals.push(Refusal::Circle { services });
        }
        order
    }

    fn look_at_mounts(&mut self, service: &ServiceSpec) {
        self.plan.warnings.extend(unprotected(service, self.options));
        self.refusals.extend(overlaps(service, self.options));
    }

    /// What is not in the file any more; what others still use goes after them.
    fn prune(&mut self) {
        let Present { services, networks, secrets, configs } = self.present;
        let stack = self.stack;
        let mut gone = Vec::new();
        for (name, service) in services {
            if self.owns(&service.labels) && !stack.services.contains_key(name) {
                gone.push(Step::RemoveService(name.clone()));
            }
        }
        for (name, network) in networks {
            if self.owns(&network.labels) && !stack.networks.contains_key(name) {
                gone.push(Step::RemoveNetwork(name.clone()));
            }
        }
        for (name, kept) in secrets {
            if self.owns(&kept.labels) && !stack.secrets.contains_key(name) {
                gone.push(Step::RemoveSecret(name.clone()));
            }
        }
        for (name, kept) in configs {
            if self.owns(&kept.labels) && !stack.configs.contains_key(name) {
                gone.push(Step::RemoveConfig(name.clone()));
            }
        }
        self.plan.steps.extend(gone);
    }

    fn owns(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(STACK_LABEL) == Some(&self.stack.name)
    }

    fn refuse_owner(&mut self, kind: &'static str, name: &str, labels: &BTreeMap<String, String>) {
        let (name, owner) = (name.to_owned(), labels.get(STACK_LABEL).cloned());
        self.refusals.push(Refusal::NotOwned { kind, name, owner });
    }
}

/// What differs between a network that is there and the one that is wanted. What the engine chose by itself does not.
fn changed(there: &NetworkSpec, wanted: &NetworkSpec) -> Option<String> {
    if there.driver != wanted.driver {
        return Some(format!("driver {} -> {}", there.driver, wanted.driver));
    }
    for (key, value) in &wanted.options {
        let before = there.options.get(key).map_or("nothing", String::as_str);
        if before != value {
            return Some(format!("option {key}: {before} -> {value}"));
        }
    }
    if there.attachable != wanted.attachable {
        return Some(format!("attachable: {} -> {}", there.attachable, wanted.attachable));
    }
    if there.internal != wanted.internal {
        return Some(format!("internal: {} -> {}", there.internal, wanted.internal));
    }
    let is_there = |(subnet, gateway): &(String, Option<String>)| {
        there.subnets.iter().any(|(other, at)| other == subnet && (gateway.is_none() || at == gateway))
    };
    let missing = wanted.subnets.iter().find(|subnet| !is_there(subnet));
    missing.map(|(subnet, _)| format!("subnet {subnet}"))
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Step {
    /// The name of what it is about.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::CreateNetwork(it) => &it.name,
            Self::CreateSecret(it) | Self::CreateConfig(it) => &it.name,
            Self::CreateService(it) => &it.name,
            Self::UpdateService { after, .. } => &after.name,
            Self::RemoveService(name)
            | Self::RemoveNetwork(name)
            | Self::RemoveSecret(name)
            | Self::RemoveConfig(name) => name,
        }
    }

    /// Whether it takes something away, which nothing undoes: what a secret held, nobody tells.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        matches!(
            self,
            Self::RemoveService(_) | Self::RemoveNetwork(_) | Self::RemoveSecret(_) | Self::RemoveConfig(_)
        )
    }

    /// Whether it is about a service.
    #[must_use]
    pub fn is_of_service(&self) -> bool {
        matches!(self, Self::CreateService(_) | Self::UpdateService { .. } | Self::RemoveService(_))
    }
}

impl Present {
    /// What is there once a step is done.
    pub fn apply(&mut self, step: &Step) {
        let kept = |blob: &BlobSpec, told: bool| Kept {
            labels: blob.labels.clone(),
            data: told.then(|| blob.data.clone()),
        };
        match step {
            Step::CreateNetwork(it) => drop(self.networks.insert(it.name.clone(), it.clone())),
            Step::CreateSecret(it) => drop(self.secrets.insert(it.name.clone(), kept(it, false))),
            Step::CreateConfig(it) => drop(self.configs.insert(it.name.clone(), kept(it, true))),
            Step::CreateService(it) => drop(self.services.insert(it.name.clone(), (**it).clone())),
            Step::UpdateService { after, .. } => {
                self.services.insert(after.name.clone(), (**after).clone());
            }
            Step::RemoveService(name) => drop(self.services.remove(name)),
            Step::RemoveNetwork(name) => drop(self.networks.remove(name)),
            Step::RemoveSecret(name) => drop(self.secrets.remove(name)),
            Step::RemoveConfig(name) => drop(self.configs.remove(name)),
        }
    }
}

fn named(owner: &Option<String>) -> String {
    owner.as_ref().map_or("no stack".to_owned(), |stack| format!("stack {stack}"))
}
