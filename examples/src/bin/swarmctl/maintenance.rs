//! Services moved between nodes, one after the other: with progress on stderr, and put back when they do not get there.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hybrid_examples::daemon::Failure;
use hybrid_examples::settings;
use hybrid_examples::table::Table;
use serde_json::{Value, json};
use swarmctl::cluster::Node;
use swarmctl::driver::{DriverGate, MaintenanceProgress, PLUGIN_DIRECTORY};
use swarmctl::maintenance::{self, MaintenanceOptions, Work};
use swarmctl::selector::NodeSelector;
use tokio::sync::Notify;

use crate::rollout::until_stopped;
use crate::stack::Data;
use crate::{Session, membership, tell};

#[derive(Args)]
pub struct Drain {
    /// Its name or ID
    node: String,
    /// Go on although services have nowhere to go: their tasks end, and wait for a node
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    moving: Moving,
}

#[derive(Args)]
pub struct Relocate {
    /// The service
    service: String,
    /// The name or ID of the node
    #[arg(long, value_name = "NODE")]
    to: String,
    #[command(flatten)]
    moving: Moving,
}

#[derive(Args)]
pub struct Rebalance {
    #[command(flatten)]
    moving: Moving,
}

/// How services are moved.
#[derive(Args)]
pub struct Moving {
    /// Say what would be done, and do nothing
    #[arg(long)]
    plan: bool,
    /// How long one service may take [default: 10m]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// How long a volume may lag on the nodes that its service can move to [default: 10m]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    gate_timeout: Option<Duration>,
    /// Where the sockets of this machine's volume drivers are
    #[arg(long, value_name = "DIR", default_value = PLUGIN_DIRECTORY)]
    plugins: PathBuf,
    #[command(flatten)]
    data: Data,
}

pub async fn drain(session: &Session, options: Drain) -> Result<(), Failure> {
    let Drain { node, force, moving } = options;
    let view = session.swarm.view().await?;
    let work = maintenance::drain(&node, &view, &moving.data.options())?;
    let stuck = work.stuck.len();
    if stuck > 0 && !force && !moving.plan {
        announce(&work);
        return Err(Failure::new(format!(
            "{node} is left as it is: {stuck} service(s) told above have nowhere to go. --force ends their tasks, which then wait for \
             a node"
        )));
    }
    carry_out(session, work, &view.nodes, &moving).await?;
    match moving.plan {
        true => Ok(()),
        false => membership::warn(session).await,
    }
}

pub async fn relocate(session: &Session, options: Relocate) -> Result<(), Failure> {
    let Relocate { service, to, moving } = options;
    let view = session.swarm.view().await?;
    let work = maintenance::relocate(&service, &to, &view, &moving.data.options())?;
    carry_out(session, work, &view.nodes, &moving).await
}

pub async fn rebalance(session: &Session, options: Rebalance) -> Result<(), Failure> {
    let moving = options.moving;
    let view = session.swarm.view().await?;
    let work = maintenance::rebalance(&view, &moving.data.options());
    carry_out(session, work, &view.nodes, &moving).await
}

/// Gives nodes tasks again.
pub async fn activate(session: &Session, nodes: &NodeSelector) -> Result<(), Failure> {
    let nodes = session.swarm.select(nodes).await?;
    let cancel = Notify::new();
    for node in &nodes {
        let work = session.swarm.activate(&node.id, MaintenanceOptions::default(), &cancel, told);
        until_stopped(work, &cancel).await???;
    }
    crate::node::done(session, &nodes)?;
    tell("what moved away stays where it is: `swarmctl rebalance` brings some of it back");
    membership::warn(session).await
}

async fn carry_out(
    session: &Session,
    mut work: Work,
    nodes: &[Node],
    moving: &Moving,
) -> Result<(), Failure> {
    announce(&work);
    let shown = shown(&work, nodes);
    if !moving.plan {
        let mut options = MaintenanceOptions::default();
        options.rollout.limit = moving.timeout.unwrap_or(options.rollout.limit);
        options.gate_limit = moving.gate_timeout.unwrap_or(options.gate_limit);
        let gate = DriverGate::new(moving.plugins.clone());
        for it in &mut work.moves {
            it.volumes.retain(|volume, driver| {
                let is_known = gate.knows(driver);
                if !is_known {
                    let place = moving.plugins.display();
                    tell(format_args!(
                        "warning: no volume driver {driver} is in {place}, so that nobody here knows whether the next node has all of \
                         volume {volume}: {} moves at once, and starts when it has",
                        it.service
                    ));
                }
                is_known
            });
        }
        let cancel = Notify::new();
        until_stopped(session.swarm.maintain(work, options, &gate, &cancel, told), &cancel).await??;
    }
    session.show(shown)
}

fn told(progress: &MaintenanceProgress) {
    tell(progress.to_string().trim_end());
}

/// What somebody has to know before anything begins.
fn announce(work: &Work) {
    for warning in &work.warnings {
        tell(format_args!("warning: {warning}"));
    }
    for service in &work.ends {
        tell(format_args!("service {service} has one task on each node: the one here ends"));
    }
    for stuck in &work.stuck {
        tell(stuck);
    }
    if work.moves.is_empty() {
        tell("nothing moves");
    }
}

fn shown(work: &Work, nodes: &[Node]) -> (Table, Value) {
    let mut table = Table::new(&["SERVICE", "MOVES"]);
    let mut moves = Vec::new();
    for it in &work.moves {
        let how = it.in_words(nodes);
        moves.push(json!({"service": it.service, "moves": how}));
        table.row([it.service.clone(), how]);
    }
    let stuck: Vec<Value> =
        work.stuck.iter().map(|it| json!({"service": it.service, "why": it.why})).collect();
    let json = json!({"moves": moves, "ends": work.ends, "stuck": stuck, "warnings": work.warnings});
    (table, json)
}
