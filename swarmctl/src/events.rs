//! What changes in a Swarm: from one look at it to the next. An engine's own event stream names things without saying how they
//! are, says nothing of tasks, and forgets what happened while nobody listened; so it only says *when* to look, and the
//! difference between two looks is what happened.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cluster::{Network, Node, Service, Task, TaskState};

/// What a Swarm looked like at one time, by ID.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its nodes.
    pub nodes: BTreeMap<String, Node>,
    /// Its services.
    pub services: BTreeMap<String, Service>,
    /// Their tasks, with the last ones that have ended.
    pub tasks: BTreeMap<String, Task>,
    /// The networks that reach over its nodes.
    pub networks: BTreeMap<String, Network>,
}

/// What happened to one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference<T> {
    /// It is new.
    Added(T),
    /// It is another than it was.
    Changed {
        /// What it was.
        before: T,
        /// What it is.
        after: T,
    },
    /// It is gone.
    Removed(T),
}

/// Something that happened in a Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Change {
    Node(Difference<Node>),
    Service(Difference<Service>),
    Task(Difference<Task>),
    Network(Difference<Network>),
}

impl Snapshot {
    /// What happened until another one was taken. What came and went in between is not seen, but for tasks, which Swarm keeps for
    /// a while when they have ended.
    #[must_use]
    pub fn changes_to(&self, after: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        differ(&self.nodes, &after.nodes, &mut changes, Change::Node);
        differ(&self.networks, &after.networks, &mut changes, Change::Network);
        differ(&self.services, &after.services, &mut changes, Change::Service);
        differ(&self.tasks, &after.tasks, &mut changes, Change::Task);
        changes
    }

    /// Where the tasks of a service that run are reached on a network; the service and the network by ID.
    pub fn addresses<'a>(&'a self, service: &'a str, network: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        let runs = |task: &&Task| task.state == TaskState::Running && task.desired == TaskState::Running;
        let of_service = self.tasks.values().filter(move |task| task.service == service).filter(runs);
        of_service.filter_map(move |task| task.addresses.get(network).copied())
    }

    /// A change in words.
    #[must_use]
    pub fn tell(&self, change: &Change) -> String {
        match change {
            Change::Node(it) => tell(it, |node| {
                format!("node {}: {}, {}, {}", node.name, node.role, node.availability, node.status)
            }),
            Change::Service(it) => tell(it, |service| {
                let replicas = service.replicas;
                let (name, image) = (&service.name, &service.image);
                format!("service {name}: {} of {} run, {image}", replicas.running, replicas.desired)
            }),
            Change::Network(it) => {
                tell(it, |network| format!("network {}: {}", network.name, network.driver))
            }
            Change::Task(it) => tell(it, |task| self.tell_task(task)),
        }
    }

    fn tell_task(&self, task: &Task) -> String {
        let service = self.services.get(&task.service).map_or(&task.service, |service| &service.name);
        let slot = task.slot.map_or_else(String::new, |slot| format!(".{slot}"));
        let node = task.node.as_ref().map(|id| self.nodes.get(id).map_or(id, |node| &node.name));
        let node = node.map_or_else(String::new, |node| format!(" on {node}"));
        let error = task.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        format!("task {service}{slot}{node}: {}{error}", task.state)
    }
}

impl Change {
    /// The kind of thing, in Docker's word, and its ID.
    #[must_use]
    pub fn subject(&self) -> (&'static str, &str) {
        match self {
            Self::Node(it) => ("node", &it.newest().id),
            Self::Service(it) => ("service", &it.newest().id),
            Self::Task(it) => ("task", &it.newest().id),
            Self::Network(it) => ("network", &it.newest().id),
        }
    }

    /// What happened: `added`, `changed` or `removed`.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Node(it) => it.verb(),
            Self::Service(it) => it.verb(),
            Self::Task(it) => it.verb(),
            Self::Network(it) => it.verb(),
        }
    }
}

impl<T> Difference<T> {
    /// What it is, or was last.
    #[must_use]
    pub fn newest(&self) -> &T {
        match self {
            Self::Added(it) | Self::Removed(it) | Self::Changed { after: it, .. } => it,
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Self::Added(_) => "added",
            Self::Changed { .. } => "changed",
            Self::Removed(_) => "removed",
        }
    }
}

fn differ<T: Clone + PartialEq>(
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    changes: &mut Vec<Change>,
    change: impl Fn(Difference<T>) -> Change,
) {
    let gone = before.iter().filter(|(id, _)| !after.contains_key(*id));
    changes.extend(gone.map(|(_, it)| change(Difference::Removed(it.clone()))));
    for (id, after) in after {
        match before.get(id) {
            None => changes.push(change(Difference::Added(after.clone()))),
            Some(before) if before != after => {
                let (before, after) = (before.clone(), after.clone());
                changes.push(change(Difference::Changed { before, after }));
            }
            Some(_) => {}
        }
    }
}

fn tell<T>(difference: &Difference<T>, words: impl Fn(&T) -> String) -> String {
    match difference {
        Difference::Removed(it) => format!("removed {}", words(it)),
        Difference::Added(it) => format!("added {}", words(it)),
        Difference::Changed { after, .. } => words(after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(id: &str, name: &str) -> (String, Network) {
        let network = Network {
            id: id.to_owned(),
            name: name.to_owned(),
            driver: "overlay".to_owned(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        (id.to_owned(), network)
    }

    fn with(networks: &[(&str, &str)]) -> Snapshot {
        let networks = networks.iter().map(|(id, name)| network(id, name)).collect();
        Snapshot { networks, ..Default::default() }
    }

    #[test]
    fn every_difference_is_told_once_and_nothing_else() {
        let (before, after) =
            (with(&[("1", "a"), ("2", "b"), ("3", "c")]), with(&[("2", "b"), ("3", "d"), ("4", "e")]));
        let changes = before.changes_to(&after);
        let told: Vec<_> = changes.iter().map(|change| (change.verb(), change.subject().1)).collect();
        assert_eq!(told, [("removed", "1"), ("changed", "3"), ("added", "4")]);
        assert_eq!(after.changes_to(&after), []);
        assert_eq!(after.tell(&changes[0]), "removed network a: overlay");
    }
}
