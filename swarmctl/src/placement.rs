//! Where a task may run: Swarm's placement rules, evaluated here as its scheduler does, so that it can be said which node lacks
//! what before, or instead of, a task that waits for ever.
//!
//! The rules are those of [swarmkit's constraints](https://github.com/moby/swarmkit/blob/master/manager/constraint/constraint.go):
//! `KEY==VALUE` or `KEY!=VALUE`, compared without regard to case; a label that is not there is the empty text.

use std::fmt;
use std::net::IpAddr;

use crate::cluster::{Availability, Node, NodeStatus};
use crate::spec::{MountSource, ServiceSpec};

/// What a node lacks to run a service's task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Lack {
    /// It cannot be reached.
    Unreachable,
    /// It is given no tasks: the word of its availability.
    Unavailable(String),
    /// A constraint does not hold.
    Constraint {
        /// The constraint.
        text: String,
        /// What the node has instead.
        has: String,
    },
    /// It has no volume driver of that name.
    VolumeDriver(String),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("cannot be reached"),
            Self::Unavailable(word) => write!(f, "takes no tasks (availability {word})"),
            Self::Constraint { text, has } if has.is_empty() => write!(f, "lacks {text}"),
            Self::Constraint { text, has } => write!(f, "lacks {text} (it is {has})"),
            Self::VolumeDriver(name) => write!(f, "has no volume driver {name}"),
        }
    }
}

/// Everything that a node lacks to be given a task of a service. Resources and ports are not looked at: they change with every
/// task.
#[must_use]
pub fn lacks(service: &ServiceSpec, node: &Node) -> Vec<Lack> {
    let mut lacks = Vec::new();
    if node.status != NodeStatus::Ready {
        lacks.push(Lack::Unreachable);
    }
    if node.availability != Availability::Active {
        lacks.push(Lack::Unavailable(node.availability.to_string()));
    }
    for text in service.placement.constraints.iter().filter(|text| !holds(text, node)) {
        let has = Constraint::parse(text).and_then(|it| it.told_by(node)).unwrap_or_default();
        lacks.push(Lack::Constraint { text: text.clone(), has });
    }
    for mount in service.container.mounts.values() {
        if let MountSource::Volume { driver: Some(driver), .. } = &mount.source
            && driver != "local"
            && !node.volume_drivers.iter().any(|it| it.strip_suffix(":latest").unwrap_or(it) == driver)
        {
            lacks.push(Lack::VolumeDriver(driver.clone()));
        }
    }
    lacks
}

/// What helps when no node meets a constraint.
pub const LABEL_REMEDY: &str =
    "Give a node what it lacks (docker node update --label-add KEY=VALUE NODE), or drop the constraint";

/// Which node lacks what to be given a task of a service, in words; empty if none lacks anything.
#[must_use]
pub fn lacking(service: &ServiceSpec, nodes: &[Node]) -> String {
    let lacking = nodes.iter().filter_map(|node| {
        let lacks: Vec<_> = lacks(service, node).iter().map(ToString::to_string).collect();
        (!lacks.is_empty()).then(|| format!("{} {}", node.name, lacks.join(" and ")))
    });
    lacking.collect::<Vec<_>>().join("; ")
}

/// Whether a constraint holds on a node. One that cannot be read holds nowhere.
#[must_use]
pub fn holds(constraint: &str, node: &Node) -> bool {
    let Some(constraint) = Constraint::parse(constraint) else { return false };
    constraint.told_by(node).is_some_and(|has| constraint.is_met_by(&has))
}

/// Whether all constraints of a service hold on a node.
#[must_use]
pub fn all_hold(service: &ServiceSpec, node: &Node) -> bool {
    service.placement.constraints.iter().all(|constraint| holds(constraint, node))
}

struct Constraint<'a> {
    key: &'a str,
    is_negated: bool,
    value: &'a str,
}

impl<'a> Constraint<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let at = text.find("==").into_iter().chain(text.find("!=")).min()?;
        let (key, value) = (text[..at].trim(), text[at + 2..].trim());
        let is_negated = text[at..].starts_with("!=");
        (!key.is_empty() && !value.is_empty()).then_some(Self { key, is_negated, value })
    }

    /// What the node is, where the key is one that nodes have.
    fn told_by(&self, node: &Node) -> Option<String> {
        let label = |prefix: &str| {
            let head = self.key.get(..prefix.len())?;
            head.eq_ignore_ascii_case(prefix).then(|| &self.key[prefix.len()..])
        };
        if let Some(label) = label("node.labels.") {
            return Some(node.labels.get(label).cloned().unwrap_or_default());
        }
        if let Some(label) = label("engine.labels.") {
            return Some(node.engine_labels.get(label).cloned().unwrap_or_default());
        }
        Some(match self.key.to_ascii_lowercase().as_str() {
            "node.id" => node.id.clone(),
            "node.hostname" => node.name.clone(),
            "node.ip" => node.address.clone(),
            "node.role" => node.role.to_string(),
            "node.platform.os" => node.os.clone(),
            "node.platform.arch" => node.arch.clone(),
            _ => return None,
        })
    }

    fn is_met_by(&self, has: &str) -> bool {
        let is_equal = if self.key.eq_ignore_ascii_case("node.ip") {
            is_within(has, self.value)
        } else {
            has.to_lowercase() == self.value.to_lowercase()
        };
        is_equal != self.is_negated
    }
}

/// Whether an address is another, or in a range such as `10.0.0.0/8`.
fn is_within(address: &str, range: &str) -> bool {
    let (network, length) = range.split_once('/').map_or((range, None), |(it, length)| (it, Some(length)));
    let bits = |address: IpAddr| match address {
        IpAddr::V4(it) => (u128::from(u32::from(it)) << 96, 32_u32),
        IpAddr::V6(it) => (u128::from(it), 128),
    };
    let (Ok(address), Ok(network)) = (address.parse().map(bits), network.parse().map(bits)) else {
        return false;
    };
    let length = length.map_or(Some(network.1), |length| length.parse().ok());
    let Some(length) = length.filter(|length| *length <= network.1 && address.1 == network.1) else {
        return false;
    };
    (address.0 ^ network.0).checked_shr(128 - length).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cluster::Role;
    use crate::spec::Mount;

    fn node() -> Node {
        let mut node = Node::new("n1", "home-1", Role::Worker);
        node.address = "10.77.0.2".to_owned();
        node.labels.insert("location".to_owned(), "Home".to_owned());
        node.engine_labels.insert("disk".to_owned(), "ssd".to_owned());
        node.os = "linux".to_owned();
        node.arch = "x86_64".to_owned();
        node
    }

    #[test]
    fn constraints_hold_as_swarm_says() {
        for (constraint, expected) in [
            ("node.labels.location==home", true),
            ("node.labels.location == home", true),
            ("node.labels.location!=home", false),
            ("node.labels.zone!=a", true),
            ("node.labels.zone==a", false),
            ("engine.labels.disk==ssd", true),
            ("node.id==n1", true),
            ("node.id!=n1", false),
            ("NODE.Hostname==HOME-1", true),
            ("node.role==manager", false),
            ("node.role!=manager", true),
            ("node.platform.os==linux", true),
            ("node.platform.arch==aarch64", false),
            ("node.ip==10.77.0.2", true),
            ("node.ip==10.77.0.0/24", true),
            ("node.ip!=10.77.0.0/24", false),
            ("node.ip==0.0.0.0/0", true),
            ("node.ip==10.77.0.0/33", false),
            ("node.ip==::/0", false),
            ("nonsense", false),
            ("node.color==red", false),
            ("==", false),
        ] {
            assert_eq!(holds(constraint, &node()), expected, "{constraint}");
        }
    }

    #[test]
    fn what_a_node_lacks_is_said_in_words() {
        let mut service = ServiceSpec::new("web", "nginx");
        assert_eq!(lacks(&service, &node()), []);
        service.placement.constraints.insert("node.labels.location==vm".to_owned());
        service.placement.constraints.insert("node.labels.zone==a".to_owned());
        let source = MountSource::Volume {
            name: Some("data".to_owned()),
            driver: Some("hybrid".to_owned()),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_copy: false,
        };
        service.container.mounts.insert("/data".to_owned(), Mount::new(source, false));
        let mut node = node();
        node.status = NodeStatus::Down;
        node.availability = Availability::Drain;
        let said: Vec<_> = lacks(&service, &node).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "cannot be reached",
                "takes no tasks (availability drain)",
                "lacks node.labels.location==vm (it is Home)",
                "lacks node.labels.zone==a",
                "has no volume driver hybrid",
            ]
        );
        node.volume_drivers.insert("hybrid:latest".to_owned());
        assert_eq!(lacks(&service, &node).len(), 4);
    }
}
