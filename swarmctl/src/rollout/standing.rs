//! How far a service is from what it should be, as its tasks show.

use std::collections::{BTreeMap, BTreeSet};

use super::reason::{Trouble, TroubleKind, trouble};
use crate::cluster::{Availability, Node, NodeStatus, Task, TaskState};
use crate::placement;
use crate::spec::{RestartCondition, ServiceMode, ServiceSpec};

/// What a manager says about a service's tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Its own view of the last change of the service, if there was one that concerned tasks.
    pub update: Option<UpdateState>,
    /// The run of a job that the last change began.
    pub iteration: u64,
    /// Its tasks, those that have ended included.
    pub tasks: Vec<SeenTask>,
}

/// A task, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenTask {
    /// The task.
    pub task: Task,
    /// Whether it was made from what the service is now, placement aside.
    pub is_current: bool,
    /// The run of a job that it belongs to.
    pub iteration: u64,
}

/// How Swarm itself sees the last change of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateState {
    /// Tasks are being replaced.
    Updating,
    /// All were replaced.
    Completed,
    /// It stopped half-way, for this reason.
    Paused(String),
    /// The version before is being put back, for this reason.
    RollingBack(String),
    /// The version before was put back, for this reason.
    RolledBack(String),
}

/// How far a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Tasks that run as they should; of a job, and of what is not started again, those that ended well.
    pub running: u64,
    /// Tasks that should.
    pub desired: u64,
    /// Whether nothing is left to be done.
    pub is_there: bool,
    /// What keeps it from being there.
    pub trouble: Option<Trouble>,
    /// How often the task that ended most often did so.
    pub ended: u64,
    /// Whether there will be no further try.
    pub is_final: bool,
}

/// How far a service is. Tasks in `old` ended before anything was asked for, and are not held against it.
#[must_use]
pub fn standing(service: &ServiceSpec, seen: &Seen, nodes: &[Node], old: &BTreeSet<String>) -> Standing {
    let current: Vec<&SeenTask> =
        seen.tasks.iter().filter(|it| is_current(service, seen, it, nodes)).collect();
    let running: BTreeSet<_> =
        current.iter().filter(|it| counts(service, &it.task)).map(|it| place(&it.task)).collect();
    let running = running.len() as u64;
    let desired = match service.mode {
        ServiceMode::Replicated(replicas) => replicas,
        ServiceMode::ReplicatedJob { completions, .. } => completions,
        ServiceMode::Global | ServiceMode::GlobalJob => {
            nodes.iter().filter(|node| takes_global(service, seen, node)).count() as u64
        }
    };
    let is_alive = |task: &Task| task.desired <= TaskState::Running && task.state <= TaskState::Running;
    let is_stale = |it: &SeenTask| is_alive(&it.task) && !current.contains(&it);
    let is_busy = matches!(seen.update, Some(UpdateState::Updating | UpdateState::RollingBack(_)));
    let no_node = desired == 0 && !matches!(service.mode, ServiceMode::Replicated(_));
    let is_there = running == desired && !no_node && !is_busy && !seen.tasks.iter().any(is_stale);

    let new: Vec<&SeenTask> = current.into_iter().filter(|it| !old.contains(&it.task.id)).collect();
    let (mut found, ended) = if is_there { (None, 0) } else { worst(service, &new, nodes) };
    let mut is_final = ended >= tries(service);
    if let Some(UpdateState::Paused(said)) = &seen.update {
        let words = found.map_or_else(|| said.clone(), |it| it.words);
        found = Some(Trouble { words, kind: TroubleKind::Ended });
        is_final = true;
    } else if no_node && !is_there {
        let words = no_node_in_words(service, nodes);
        found = Some(Trouble { words, kind: TroubleKind::Unplaced });
    }
    Standing { running, desired, is_there, trouble: found, ended, is_final }
}

/// Whether a task belongs to what the service is now.
fn is_current(service: &ServiceSpec, seen: &Seen, it: &SeenTask, nodes: &[Node]) -> bool {
    // When no more than the placement changes, Swarm keeps the tasks that are where they may be.
    let node = it.task.node.as_ref().and_then(|id| nodes.iter().find(|node| node.id == *id));
    it.is_current
        && it.iteration == seen.iteration
        && node.is_none_or(|node| placement::all_hold(service, node))
}

/// What a task stands for: one of so many, or one of a node.
fn place(task: &Task) -> (Option<u64>, Option<&String>) {
    (task.slot, if task.slot.is_none() { task.node.as_ref() } else { None })
}

/// Whether a task is as it should be.
fn counts(service: &ServiceSpec, task: &Task) -> bool {
    let may_end = !is_endless(service);
    let runs = task.state == TaskState::Running && task.desired == TaskState::Running;
    let is_job = matches!(service.mode, ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob);
    (runs && !is_job) || (may_end && task.state == TaskState::Complete)
}

/// Whether a task that ended well is started again.
fn is_endless(service: &ServiceSpec) -> bool {
    match service.mode {
        ServiceMode::Replicated(_) | ServiceMode::Global => {
            service.restart.condition == RestartCondition::Any
        }
        ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob => false,
    }
}

fn takes_global(service: &ServiceSpec, seen: &Seen, node: &Node) -> bool {
    let has_one = || seen.tasks.iter().any(|it| it.task.node.as_ref() == Some(&node.id));
    let is_open = match node.availability {
        Availability::Active => true,
        Availability::Pause => has_one(),
        Availability::Drain => false,
    };
    is_open && node.status == NodeStatus::Ready && placement::all_hold(service, node)
}

/// The worst that new tasks tell, and how often the task of one place ended.
fn worst(service: &ServiceSpec, new: &[&SeenTask], nodes: &[Node]) -> (Option<Trouble>, u64) {
    let mut ended: BTreeMap<_, u64> = BTreeMap::new();
    let mut worst: Option<(TroubleKind, &str, Trouble)> = None;
    for it in new {
        if it.task.state == TaskState::Complete && !is_endless(service) {
            continue;
        }
        let Some(trouble) = trouble(&it.task, service, nodes) else { continue };
        if trouble.kind != TroubleKind::Unplaced {
            *ended.entry(place(&it.task)).or_default() += 1;
        }
        let rank = (trouble.kind, it.task.since.as_str());
        if worst.as_ref().is_none_or(|(kind, since, _)| rank > (*kind, *since)) {
            worst = Some((trouble.kind, &it.task.since, trouble));
        }
    }
    (worst.map(|(_, _, trouble)| trouble), ended.values().copied().max().unwrap_or(0))
}

/// How often a task is started at most.
fn tries(service: &ServiceSpec) -> u64 {
    match (service.restart.condition, service.restart.attempts) {
        (RestartCondition::None, _) => 1,
        (_, 0) => u64::MAX,
        (_, attempts) => attempts.saturating_add(1),
    }
}

fn no_node_in_words(service: &ServiceSpec, nodes: &[Node]) -> String {
    let lacking = placement::lacking(service, nodes);
    format!("no node takes it ({lacking}). {}", placement::LABEL_REMEDY)
}
