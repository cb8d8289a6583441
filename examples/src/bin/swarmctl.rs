//! `swarmctl`: shows a Docker Swarm. Asks [`swarmctl::Swarm`] and prints.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hybrid_examples::daemon::{self, Failure, Logging};
use hybrid_examples::table::Table;
use serde_json::{Value, json};
use swarmctl::cluster::{Node, Service, Task};
use swarmctl::{Endpoint, Swarm};

const EXAMPLES: &str = "\
Examples:
  swarmctl nodes
  swarmctl services --json
  swarmctl ps gogs
  swarmctl --host unix:///run/docker-2.sock ps";

/// Shows a Docker Swarm through one of its managers
#[derive(Parser)]
#[command(name = "swarmctl", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    /// The manager's engine [default: $DOCKER_HOST, else unix:///var/run/docker.sock]
    #[arg(long, short = 'H', global = true, value_parser = Endpoint::parse, value_name = "unix:///PATH")]
    host: Option<Endpoint>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the nodes
    Nodes,
    /// List the services, with how many of their tasks run
    Services,
    /// List the tasks of a service or of all, with the reason of every failure
    Ps {
        /// A service's name
        service: Option<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run("swarmctl", &cli.logging, show(cli.host, cli.command, cli.json))
}

async fn show(host: Option<Endpoint>, command: Command, as_json: bool) -> Result<(), Failure> {
    let endpoint = match host {
        Some(endpoint) => endpoint,
        None => Endpoint::from_env()?,
    };
    let swarm = Swarm::connect(endpoint).await?;
    let (table, json) = match command {
        Command::Nodes => nodes(&swarm.nodes().await?),
        Command::Services => services(&swarm.services().await?),
        Command::Ps { service } => tasks(&swarm, service).await?,
    };
    match as_json {
        true => daemon::print_json(&json),
        false => daemon::print(&table.to_string()),
    }
}

fn nodes(nodes: &[Node]) -> (Table, Value) {
    let mut table =
        Table::new(&["ID", "NAME", "ROLE", "AVAILABILITY", "STATUS", "ADDRESS", "ENGINE", "LABELS"]);
    let mut list = Vec::new();
    for node in nodes {
        let role = if node.leader { format!("{} (leader)", node.role) } else { node.role.to_string() };
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
            "availability": node.availability.to_string(), "status": node.status.to_string(),
            "address": node.address, "engine_version": node.engine_version, "labels": node.labels,
        }));
    }
    (table, Value::from(list))
}

fn services(services: &[Service]) -> (Table, Value) {
    let mut table = Table::new(&["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS", "CONSTRAINTS"]);
    let mut list = Vec::new();
    for service in services {
        let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
        table.row([
            short(&service.id),
            service.name.clone(),
            service.mode.to_string(),
            format!("{}/{}", service.replicas.running, service.replicas.desired),
            service.image.clone(),
            ports.join(", "),
            service.constraints.join(", "),
        ]);
        list.push(json!({
            "id": service.id, "name": service.name, "mode": service.mode.to_string(), "image": service.image,
            "running": service.replicas.running, "desired": service.replicas.desired, "ports": ports,
            "constraints": service.constraints, "labels": service.labels,
        }));
    }
    (table, Value::from(list))
}

async fn tasks(swarm: &Swarm, service: Option<String>) -> Result<(Table, Value), Failure> {
    let nodes: BTreeMap<_, _> = swarm.nodes().await?.into_iter().map(|node| (node.id, node.name)).collect();
    let services = swarm.services().await?.into_iter().map(|service| (service.id, service.name));
    let services: BTreeMap<_, _> = services.collect();
    let name = |names: &BTreeMap<String, String>, id: String| names.get(&id).cloned().unwrap_or(id);
    let mut table = Table::new(&["ID", "SERVICE", "SLOT", "NODE", "STATE", "DESIRED", "SINCE", "ERROR"]);
    let mut list = Vec::new();
    for task in swarm.tasks(service.as_deref()).await? {
        let Task { id, service, slot, node, image, state, desired, error, since } = task;
        let (service, node) = (name(&services, service), node.map(|id| name(&nodes, id)));
        table.row([
            short(&id),
            service.clone(),
            slot.map(|slot| slot.to_string()).unwrap_or_default(),
            node.clone().unwrap_or_default(),
            state.to_string(),
            desired.to_string(),
            since.clone(),
            error.clone().unwrap_or_default(),
        ]);
        list.push(json!({
            "id": id, "service": service, "slot": slot, "node": node, "image": image,
            "state": state.to_string(), "desired": desired.to_string(), "since": since, "error": error,
        }));
    }
    Ok((table, Value::from(list)))
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
