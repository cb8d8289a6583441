//! What there is to be done at a node or a service: which services move, in which way, and which cannot.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::{Availability, Node, TaskState};
use crate::placement;
use crate::plan::{self, PlanOptions};
use crate::rollout::View;
use crate::spec::{MountSource, ServiceMode, ServiceSpec};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// The node that gets no new tasks meanwhile and none at the end: its ID, and what it is now.
    pub drain: Option<(String, Availability)>,
    /// The services that move, one after the other.
    pub moves: Vec<Move>,
    /// Services that have one task on each node: theirs on this node ends and is nowhere else instead.
    pub ends: Vec<String>,
    /// Services that have nowhere to go: their tasks end, and wait for a node.
    pub stuck: Vec<Stuck>,
    /// What may be regretted.
    pub warnings: Vec<String>,
}

/// A service that is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The service.
    pub service: String,
    /// How it is made to move.
    pub how: How,
    /// Its volumes that one node writes to at a time, each with its driver.
    pub volumes: BTreeMap<String, String>,
}

/// How a service is made to move. In every way the service is in the end as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Not onto the node of this ID: a constraint says so until it has moved. Only the tasks that are where they may not be are
    /// replaced, and none is when the constraint goes.
    Off(String),
    /// Onto the node of this ID, in the same way.
    Onto(String),
    /// So many tasks more, until they run: Swarm places them where there are fewest, and then ends those where there are most.
    More(u64),
    /// It stays, and loses what a move that was broken off has left.
    Stay,
}

/// A volume that one node is to have after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The volume.
    pub volume: String,
    /// Its driver.
    pub driver: String,
    /// The names of the nodes that have it.
    pub from: Vec<String>,
    /// The names of those of which one is to have it.
    pub to: Vec<String>,
}

/// A service that has nowhere to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The service.
    pub service: String,
    /// Which other node lacks what.
    pub why: String,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, why } = self;
        write!(f, "service {service} cannot move: {why}")
    }
}

/// Why there is nothing that could be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// There is no such node.
    #[error("no such node: {0} (swarmctl node ls shows them)")]
    NoNode(String),
    /// There is no such service.
    #[error("no such service: {0} (swarmctl service ls shows them)")]
    NoService(String),
    /// The node does not fit.
    #[error("service {service} cannot move to {node}: {why}")]
    Cannot {
        /// The service.
        service: String,
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// It cannot be moved at all.
    #[error("service {0} has one task on each node that fits, and does not move")]
    Global(String),
}

impl Move {
    /// The service while it moves.
    #[must_use]
    pub fn during(&self, service: &ServiceSpec) -> ServiceSpec {
        let mut service = settled(service);
        let constraints = &mut service.placement.constraints;
        match (&self.how, &mut service.mode) {
            (How::Off(node), _) => drop(constraints.insert(format!("{MARK}!={node}"))),
            (How::Onto(node), _) => drop(constraints.insert(format!("{MARK}=={node}"))),
            (How::More(more), ServiceMode::Replicated(replicas)) => {
                service.labels.insert(REPLICAS_LABEL.to_owned(), replicas.to_string());
                *replicas += more;
            }
            (How::More(_), _) | (How::Stay, _) => {}
        }
        service
    }

    /// The service as it is in the end.
    #[must_use]
    pub fn afterwards(&self, service: &ServiceSpec) -> ServiceSpec {
        settled(service)
    }

    /// The service while it goes back to where its tasks are in `view`, because it does not get to where it was to move.
    pub(super) fn back(&self, service: &ServiceSpec, view: &View) -> ServiceSpec {
        let mut back = settled(service);
        if matches!(self.how, How::Off(_) | How::Onto(_)) {
            let others = view.nodes.iter().filter(|node| tasks_on(view, &self.service, &node.id) == 0);
            back.placement.constraints.extend(others.map(|node| format!("{MARK}!={}", node.id)));
        }
        back
    }

    /// The volumes that change hands, from the nodes with tasks in `view` to those that can take one.
    pub(super) fn handovers(&self, service: &ServiceSpec, view: &View) -> Vec<Handover> {
        let during = self.during(service);
        let names = |which: &dyn Fn(&Node) -> bool| -> Vec<String> {
            view.nodes.iter().filter(|node| which(node)).map(|node| node.name.clone()).collect()
        };
        let from = names(&|node| tasks_on(view, &self.service, &node.id) > 0);
        let to = names(&|node| placement::lacks(&during, node).is_empty());
        let handover = |(volume, driver): (&String, &String)| Handover {
            volume: volume.clone(),
            driver: driver.clone(),
            from: from.clone(),
            to: to.clone(),
        };
        self.volumes.iter().map(handover).collect()
    }

    /// What it is, for a person.
    #[must_use]
    pub fn in_words(&self, nodes: &[Node]) -> String {
        let name = |id: &String| nodes.iter().find(|it| it.id == *id).map_or(id, |it| &it.name).clone();
        match &self.how {
            How::Off(node) => format!("away from {}", name(node)),
            How::Onto(node) => format!("to {}", name(node)),
            How::More(1) => "one task, to where there are fewer".to_owned(),
            How::More(more) => format!("{more} tasks, to where there are fewer"),
            How::Stay => "not, and loses what a move that was broken off has left".to_owned(),
        }
    }

    /// What makes the service by hand what it was.
    pub(super) fn remedy(&self) -> String {
        let service = &self.service;
        match &self.how {
            How::Off(node) => format!("docker service update --constraint-rm '{MARK}!={node}' {service}"),
            How::Onto(node) => format!("docker service update --constraint-rm '{MARK}=={node}' {service}"),
            How::More(more) => format!("docker service scale {service}, {more} less"),
            How::Stay => format!("docker service inspect {service}"),
        }
    }
}

/// How the key of a constraint is written that is there only while a service moves. Swarm does not mind, no person writes it so,
/// and what a move that was broken off has left is found by it.
const MARK: &str = "NODE.ID";
/// The label of a service that has more tasks while some of them move: how many it has otherwise.
const REPLICAS_LABEL: &str = "swarmctl.move.replicas";

/// A service without what a move that was broken off has left.
fn settled(service: &ServiceSpec) -> ServiceSpec {
    let mut service = service.clone();
    service.placement.constraints.retain(|text| !text.starts_with(MARK));
    let replicas = service.labels.remove(REPLICAS_LABEL).and_then(|text| text.parse().ok());
    if let (Some(before), ServiceMode::Replicated(replicas)) = (replicas, &mut service.mode) {
        *replicas = before;
    }
    service
}

/// Services whose move was broken off, to be made what they were: a client that is killed leaves a constraint behind.
#[must_use]
pub fn broken_off(view: &View) -> Vec<Move> {
    let left = view.present.services.iter().filter(|(_, service)| settled(service) != **service);
    left.map(|(name, _)| Move { service: name.clone(), how: How::Stay, volumes: BTreeMap::new() }).collect()
}

/// What there is to be done before a node, given by name or ID, can be taken away.
///
/// # Errors
/// [`WorkError::NoNode`].
pub fn drain(node: &str, view: &View, options: &PlanOptions) -> Result<Work, WorkError> {
    let node = find(node, &view.nodes)?;
    let mut work = Work { drain: Some((node.id.clone(), node.availability)), ..Work::default() };
    let others: Vec<Node> = view.nodes.iter().filter(|it| it.id != node.id).cloned().collect();
    for (name, service) in &view.present.services {
        if tasks_on(view, name, &node.id) == 0 {
            continue;
        }
        if matches!(service.mode, ServiceMode::Global | ServiceMode::GlobalJob) {
            work.ends.push(name.clone());
            continue;
        }
        work.warnings.extend(plan::unprotected(service, options));
        match destination(service, &others, view, options) {
            Ok(()) => work.moves.push(Move {
                service: name.clone(),
                how: How::Off(node.id.clone()),
                volumes: plan::leased_volumes(service, options),
            }),
            Err(why) => work.stuck.push(Stuck { service: name.clone(), why }),
        }
    }
    let mut moves = broken_off(view);
    moves.retain(|left| !work.moves.iter().any(|it| it.service == left.service));
    moves.append(&mut work.moves);
    work.moves = moves;
    Ok(work)
}

/// Whether one of these nodes can take a task of a service, and if none, why.
fn destination(
    service: &ServiceSpec,
    nodes: &[Node],
    view: &View,
    options: &PlanOptions,
) -> Result<(), String> {
    if let Some(volume) = bound_to_node(service) {
        return Err(format!(
            "its volume {volume} has the driver local, which keeps it on this node alone, and it would find an empty one elsewhere"
        ));
    }
    if matches!(service.mode, ServiceMode::ReplicatedJob { .. }) {
        return Err("it is a job, and would begin anew elsewhere: wait until it has ended".to_owned());
    }
    if let (true, Some(volume)) =
        (service.may_overlap(), plan::leased_volumes(service, options).keys().next())
    {
        return Err(format!(
            "its next task begins before the last one ends, and volume {volume} is for one at a time (swarmctl service update \
             --update-order stop-first {})",
            service.name
        ));
    }
    let service = &settled(service);
    let most = service.placement.max_per_node;
    let has_room = |it: &Node| {
        placement::lacks(service, it).is_empty()
            && (most == 0 || tasks_on(view, &service.name, &it.id) < most)
    };
    if nodes.iter().any(has_room) {
        return Ok(());
    }
    Err(match placement::lacking(service, nodes) {
        why if why.is_empty() => "there is no other node with room for it".to_owned(),
        why => why,
    })
}

/// What there is to be done for a service to run on a node, given by name or ID. The service is not bound to it afterwards: what
/// is meant is "there, now", and a node that fails later must not take the service down with it.
///
/// # Errors
/// When there is no such service or node, or the service cannot run there.
pub fn relocate(service: &str, to: &str, view: &View, options: &PlanOptions) -> Result<Work, WorkError> {
    let spec = view.present.services.get(service).ok_or_else(|| WorkError::NoService(service.to_owned()))?;
    let node = find(to, &view.nodes)?;
    if matches!(spec.mode, ServiceMode::Global | ServiceMode::GlobalJob) {
        return Err(WorkError::Global(service.to_owned()));
    }
    let cannot = |why| WorkError::Cannot { service: service.to_owned(), node: node.name.clone(), why };
    let is_there = tasks_on(view, service, &node.id) > 0;
    if !is_there {
        destination(spec, std::slice::from_ref(node), view, options).map_err(cannot)?;
    }
    let (how, volumes) = (How::Onto(node.id.clone()), plan::leased_volumes(spec, options));
    let moved = Move { service: service.to_owned(), how, volumes };
    Ok(Work { moves: vec![moved], warnings: plan::unprotected(spec, options), ..Work::default() })
}

/// File systems that Docker's own driver mounts from elsewhere.
const REMOTE: [&str; 5] = ["nfs", "nfs4", "cifs", "smb3", "ceph"];

/// The first volume of a service that is on its node alone.
pub(super) fn bound_to_node(service: &ServiceSpec) -> Option<&str> {
    service.container.mounts.values().find_map(|mount| match &mount.source {
        MountSource::Volume { name: Some(name), driver, options, .. } => {
            let is_local = driver.as_ref().is_none_or(|driver| driver == "local");
            let is_remote = options.get("type").is_some_and(|it| REMOTE.contains(&it.as_str()));
            (is_local && !is_remote).then_some(name.as_str())
        }
        _ => None,
    })
}

/// Tasks of a service that run on a node, or are about to.
pub(super) fn tasks_on(view: &View, service: &str, node: &str) -> u64 {
    let tasks = view.services.get(service).into_iter().flat_map(|seen| &seen.tasks);
    let is_there = |task: &&crate::rollout::SeenTask| {
        let task = &task.task;
        task.node.as_deref() == Some(node)
            && task.desired <= TaskState::Running
            && task.state <= TaskState::Running
    };
    tasks.filter(is_there).count() as u64
}

fn find<'a>(node: &str, nodes: &'a [Node]) -> Result<&'a Node, WorkError> {
    let found = nodes.iter().find(|it| it.id == node).or_else(|| nodes.iter().find(|it| it.name == node));
    found.ok_or_else(|| WorkError::NoNode(node.to_owned()))
}
