//! Nodes: looked at, labelled, given roles, taken out.

use clap::{Args, Subcommand};
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::table::Table;
use serde_json::{Value, json};
use swarmctl::cluster::{Availability, Node, Role};
use swarmctl::driver::NodeChange;
use swarmctl::error::Kind;
use swarmctl::selector::NodeSelector;

use crate::{Session, labels, maintenance, membership, pair, short};

#[derive(Subcommand)]
pub enum Verb {
    /// List the nodes
    Ls {
        /// Only these
        nodes: Option<NodeSelector>,
    },
    /// Print everything that the managers know of a node
    Inspect {
        /// Its name or ID
        node: String,
    },
    /// Give nodes labels, which placement constraints refer to, or take them away
    Label(Label),
    /// Make nodes managers, one after the other
    Promote(Selected),
    /// Make nodes workers, one after the other
    Demote(Selected),
    /// Give nodes tasks again; those that they had stay where they are until `rebalance`
    Activate(Selected),
    /// Give nodes no more tasks, and leave them those that they have
    Pause(Selected),
    /// Take a node out of the Swarm that has left it or is gone: a manager is demoted first, a node with tasks
    /// is refused (`drain` moves them)
    Rm {
        /// Its name or ID
        node: String,
        /// Take it out although it still runs tasks, or answers
        #[arg(long)]
        force: bool,
    },
}

const SELECTED: &str = "Which: a name (home-1), a pattern (home-*) or properties (location=home,role=worker)";

#[derive(Args)]
pub struct Selected {
    #[arg(help = SELECTED)]
    nodes: NodeSelector,
}

#[derive(Args)]
pub struct Label {
    #[arg(help = SELECTED)]
    nodes: NodeSelector,
    /// KEY=VALUE sets a label, KEY- takes it away
    #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
    labels: Vec<String>,
}

pub async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls { nodes } => {
            let mut found = session.swarm.nodes().await?;
            found.retain(|node| nodes.as_ref().is_none_or(|nodes| nodes.matches(node)));
            session.show(listed(&found))
        }
        Verb::Inspect { node } => daemon::print_json(&session.swarm.inspect(Kind::Node, &node).await?),
        Verb::Label(label) => change(session, &label.nodes, &labelled(&label.labels)?).await,
        Verb::Promote(it) => set_role(session, &it.nodes, Role::Manager).await,
        Verb::Demote(it) => set_role(session, &it.nodes, Role::Worker).await,
        Verb::Activate(it) => maintenance::activate(session, &it.nodes).await,
        Verb::Pause(it) => {
            let pause = NodeChange { availability: Some(Availability::Pause), ..Default::default() };
            change(session, &it.nodes, &pause).await?;
            membership::warn(session).await
        }
        Verb::Rm { node, force } => {
            session.swarm.retire_node(&node, force).await?;
            session.say(&format!("{node}\n"), json!([node]))?;
            membership::warn(session).await
        }
    }
}

fn labelled(labels: &[String]) -> Result<NodeChange, Failure> {
    let mut change = NodeChange::default();
    for label in labels {
        match label.strip_suffix('-').filter(|key| !key.is_empty() && !label.contains('=')) {
            Some(key) => drop(change.remove_labels.insert(key.to_owned())),
            None => change.set_labels.extend([pair(label).map_err(Failure::new)?]),
        }
    }
    if let Some(key) = change.remove_labels.iter().find(|key| change.set_labels.contains_key(*key)) {
        return Err(Failure::new(format!("label {key} cannot be set and taken away at once")));
    }
    Ok(change)
}

async fn change(session: &Session, nodes: &NodeSelector, change: &NodeChange) -> Result<(), Failure> {
    let nodes = session.swarm.select(nodes).await?;
    for node in &nodes {
        session.swarm.change_node(&node.id, change).await?;
    }
    done(session, &nodes)
}

async fn set_role(session: &Session, nodes: &NodeSelector, role: Role) -> Result<(), Failure> {
    let mut nodes = session.swarm.select(nodes).await?;
    nodes.retain(|node| node.role != role);
    for node in &nodes {
        session.swarm.set_role(&node.id, role).await?;
    }
    done(session, &nodes)?;
    // A manager that has just given up its own role knows nothing any more.
    match session.swarm.nodes().await {
        Err(swarmctl::error::SwarmError::NotManager) => Ok(()),
        _ => membership::warn(session).await,
    }
}

/// Names the nodes that were changed.
pub fn done(session: &Session, nodes: &[Node]) -> Result<(), Failure> {
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    session.say(&names.iter().map(|name| format!("{name}\n")).collect::<String>(), json!(names))
}

fn listed(nodes: &[Node]) -> (Table, Value) {
    let headings = ["ID", "NAME", "ROLE", "AVAILABILITY", "STATUS", "ADDRESS", "ENGINE", "LABELS"];
    let mut table = Table::new(&headings);
    let mut list = Vec::new();
    for node in nodes {
        let role = match (node.leader, node.reachable) {
            (true, _) => format!("{} (leader)", node.role),
            (_, Some(false)) => format!("{} (unreachable)", node.role),
            _ => node.role.to_string(),
        };
        table.row([
            short(&node.id),
            node.name.clone(),
            role,
            node.availability.to_string(),
            node.status.to_string(),
            node.address.clone(),
            node.engine_version.clone(),
            labels(&node.labels),
        ]);
        list.push(json!({
            "id": node.id, "name": node.name, "role": node.role.to_string(), "leader": node.leader,
            "reachable": node.reachable, "availability": node.availability.to_string(),
            "status": node.status.to_string(), "address": node.address,
            "engine_version": node.engine_version, "labels": node.labels,
        }));
    }
    (table, Value::from(list))
}
