//! Services: made, changed, put back, looked at, removed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use hybrid_examples::daemon::{self, Failure, StopSignal};
use hybrid_examples::settings;
use hybrid_examples::sync_time;
use hybrid_examples::table::Table;
use serde_json::{Value, json};
use swarmctl::cluster::{Service, Task, time_ms};
use swarmctl::driver::LogOptions;
use swarmctl::error::Kind;
use swarmctl::logs::{LogLine, LogStream};
use swarmctl::plan::plan_service;
use swarmctl::spec::{ServiceMode, ServiceSpec};

use crate::flags::{Changes, Flags};
use crate::rollout::{self, Waiting};
use crate::stack::Data;
use crate::{Session, short, tell};

#[derive(Subcommand)]
pub enum Verb {
    /// List the services, with how many of their tasks run
    Ls,
    /// Print everything that the managers know of a service
    Inspect {
        /// Its name or ID
        service: String,
    },
    /// Make a service, and wait until it runs
    Create(Box<Create>),
    /// Change a service, and wait until it runs as it is to; what is not named stays
    Update(Box<Update>),
    /// Put the version back that a service had before its last change
    Rollback(Named),
    /// Start all tasks of a service anew, where Swarm would place them today
    Force(Named),
    /// Set how many tasks a service has
    Scale {
        /// Its name
        service: String,
        /// How many
        replicas: u64,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Remove services
    Rm {
        /// Their names
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// List the tasks of a service or of all, with the reason of every failure
    Ps {
        /// Its name
        service: Option<String>,
    },
    /// Print what the tasks of a service wrote
    Logs(Logs),
}

#[derive(Args)]
pub struct Named {
    /// Its name
    service: String,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Args)]
pub struct Create {
    /// Its name
    #[arg(long)]
    name: String,
    /// One task on each node that fits, rather than a number of them
    #[arg(long, conflicts_with = "replicas")]
    global: bool,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    waiting: Waiting,
    /// What its tasks run
    image: String,
    /// Instead of the image's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Args)]
pub struct Update {
    /// What its tasks run
    #[arg(long)]
    image: Option<String>,
    /// Start its tasks anew although nothing changes
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    waiting: Waiting,
    /// Its name
    service: String,
}

#[derive(Args)]
pub struct Logs {
    /// Its name
    service: String,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines of each task
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<u64>,
    /// Only what was written in the time until now, such as 10m
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    since: Option<Duration>,
    /// Print when each line was written
    #[arg(long, short)]
    timestamps: bool,
}

pub async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    let swarm = &session.swarm;
    match verb {
        Verb::Ls => session.show(listed(&swarm.services().await?)),
        Verb::Inspect { service } => daemon::print_json(&swarm.inspect(Kind::Service, &service).await?),
        Verb::Create(create) => made(session, *create).await,
        Verb::Update(update) => changed(session, *update).await,
        Verb::Rollback(Named { service, waiting }) => {
            swarm.roll_back(&service).await?;
            rollout::converge(session, &service, &waiting).await?;
            named(session, &[service])
        }
        Verb::Force(Named { service, waiting }) => {
            swarm.force_update(&service).await?;
            rollout::converge(session, &service, &waiting).await?;
            named(session, &[service])
        }
        Verb::Scale { service, replicas, data, waiting } => {
            let before = swarm.service_spec(&service).await?;
            let mut after = before.clone();
            match &mut after.mode {
                ServiceMode::Replicated(count) => *count = replicas,
                ServiceMode::ReplicatedJob { completions, .. } => *completions = replicas,
                // Refused, with the reason.
                ServiceMode::Global | ServiceMode::GlobalJob => swarm.scale(&service, replicas).await?,
            }
            set(session, Some(before), after, &data, &waiting).await
        }
        Verb::Rm { services } => {
            for service in &services {
                swarm.remove_service(service).await?;
            }
            named(session, &services)
        }
        Verb::Ps { service } => session.show(tasks(session, service.as_deref()).await?),
        Verb::Logs(logs) => print_logs(session, logs).await,
    }
}

async fn made(session: &Session, create: Create) -> Result<(), Failure> {
    let mut spec = ServiceSpec::new(create.name, create.image);
    spec.container.command = create.command;
    if create.global {
        spec.mode = ServiceMode::Global;
    }
    create.flags.apply(&mut spec).map_err(Failure::new)?;
    set(session, None, spec, &create.data, &create.waiting).await
}

async fn changed(session: &Session, update: Update) -> Result<(), Failure> {
    let before = session.swarm.service_spec(&update.service).await?;
    let mut after = before.clone();
    if let Some(image) = update.image {
        after.container.image = image;
    }
    update.changes.apply(&mut after).map_err(Failure::new)?;
    let name = after.name.clone();
    if before != after {
        return set(session, Some(before), after, &update.data, &update.waiting).await;
    }
    if update.force {
        session.swarm.force_update(&name).await?;
        rollout::converge(session, &name, &update.waiting).await?;
    } else {
        tell("nothing to change");
    }
    named(session, &[name])
}

async fn set(
    session: &Session,
    before: Option<ServiceSpec>,
    after: ServiceSpec,
    data: &Data,
    waiting: &Waiting,
) -> Result<(), Failure> {
    let name = after.name.clone();
    let plan =
        plan_service(before, after, &data.options()).map_err(|refusal| Failure::new(refusal.to_string()))?;
    plan.warnings.iter().for_each(tell);
    rollout::deploy(session, &plan, waiting).await?;
    named(session, &[name])
}

fn named(session: &Session, services: &[String]) -> Result<(), Failure> {
    session.say(&format!("{}\n", services.join("\n")), json!(services))
}

fn listed(services: &[Service]) -> (Table, Value) {
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

async fn tasks(session: &Session, service: Option<&str>) -> Result<(Table, Value), Failure> {
    let swarm = &session.swarm;
    let nodes = node_names(session).await?;
    let services = swarm.services().await?.into_iter().map(|service| (service.id, service.name));
    let services: BTreeMap<_, _> = services.collect();
    let mut table = Table::new(&["ID", "SERVICE", "SLOT", "NODE", "STATE", "DESIRED", "SINCE", "ERROR"]);
    let mut list = Vec::new();
    for task in swarm.tasks(service).await? {
        let Task { id, service, slot, node, image, state, desired, error, since, addresses } = task;
        let (service, node) = (name(&services, service), node.map(|id| name(&nodes, id)));
        table.row([
            short(&id),
            service.clone(),
            slot.map(|slot| slot.to_string()).unwrap_or_default(),
            node.clone().unwrap_or_default(),
            state.to_string(),
            desired.to_string(),
            ago(&since),
            error.clone().unwrap_or_default(),
        ]);
        list.push(json!({
            "id": id, "service": service, "slot": slot, "node": node, "image": image, "state": state.to_string(),
            "desired": desired.to_string(), "since": since, "error": error,
            "addresses": addresses.values().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    Ok((table, Value::from(list)))
}

/// How long ago it was, for a person; an engine counts nanoseconds.
fn ago(moment: &str) -> String {
    let Some(moment_ms) = time_ms(moment) else { return moment.to_owned() };
    // Another host's clock may be ahead.
    let ago_ms = (sync_time::now_ns() / 1_000_000 - moment_ms).max(0).unsigned_abs();
    format!("{} ago", sync_time::span(Duration::from_millis(ago_ms)))
}

async fn node_names(session: &Session) -> Result<BTreeMap<String, String>, Failure> {
    Ok(session.swarm.nodes().await?.into_iter().map(|node| (node.id, node.name)).collect())
}

fn name(names: &BTreeMap<String, String>, id: String) -> String {
    names.get(&id).cloned().unwrap_or(id)
}

async fn print_logs(session: &Session, args: Logs) -> Result<(), Failure> {
    let since = args.since.and_then(|time| SystemTime::now().checked_sub(time));
    let options = LogOptions { tail: args.tail, since, follow: args.follow };
    let nodes = node_names(session).await?;
    let mut stop = StopSignal::install()?;
    let mut logs = session.swarm.logs(&args.service, &options).await?;
    loop {
        let line = tokio::select! {
            line = logs.next() => line?,
            () = stop.wait() => None,
        };
        let Some(line) = line else { return Ok(()) };
        print_line(session, &args, &nodes, line)?;
    }
}

fn print_line(
    session: &Session,
    args: &Logs,
    nodes: &BTreeMap<String, String>,
    line: LogLine,
) -> Result<(), Failure> {
    let LogLine { stream, time, task, node, text, ends: _ } = line;
    let node = node.map(|id| name(nodes, id)).unwrap_or_default();
    let stream = match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Engine => {
            tell(text);
            return Ok(());
        }
    };
    if session.json {
        let json = json!({"time": time, "service": args.service, "task": task, "node": node, "stream": stream, "text": text});
        return daemon::print(&format!("{json}\n"));
    }
    let time = if args.timestamps { format!("{time} ") } else { String::new() };
    let task = short(&task.unwrap_or_default());
    daemon::print(&format!("{time}{}.{task}@{node} {stream} | {text}\n", args.service))
}
