//! `swarmctl`: looks after a Docker Swarm. Asks [`swarmctl::Swarm`] and prints; each group of verbs has a file of its own.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
// A binary exports nothing: `pub` says what a module offers to its siblings.
#![allow(unreachable_pub)]

mod events;
mod flags;
mod kept;
mod maintenance;
mod membership;
mod network;
mod node;
mod rollout;
mod service;
mod stack;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use hybrid_examples::daemon::{self, Failure, Logging};
use hybrid_examples::table::Table;
use serde_json::Value;
use swarmctl::error::{ConnectError, Kind};
use swarmctl::{Endpoint, Swarm};

const EXAMPLES: &str = "\
Examples:
  swarmctl init --advertise 192.168.254.1 --pool 10.90.0.0/16
  swarmctl token worker
  swarmctl join --advertise 192.168.254.2 --token-file token 192.168.254.1:2377
  swarmctl node label 'home-*' location=home
  swarmctl service create --name gogs --constraint node.labels.location==home --mount type=bind,source=/sync/gogs,target=/data gogs/gogs
  swarmctl service ps gogs                     # with the reason of every failure
  swarmctl stack plan shop.yml                 # what `stack deploy shop.yml` would change
  swarmctl drain home-1                        # then `node activate home-1` and `rebalance`
  swarmctl move gogs --to home-2
  swarmctl warnings --mesh 192.168.254.0/24 --home location=home
  swarmctl --host tcp://home-1:2376 --certificates ~/.docker events --json

Exit status: 0 done, 1 failed (one line on stderr says what, where and what to do), 2 wrong usage.";

/// Looks after a Docker Swarm through one of its managers
#[derive(Parser)]
#[command(name = "swarmctl", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    /// The engine to ask [default: $DOCKER_HOST, else unix:///var/run/docker.sock]
    #[arg(long, short = 'H', global = true, value_name = "unix:///PATH|tcp://HOST:PORT")]
    host: Option<String>,
    /// The directory with ca.pem, cert.pem and key.pem for tcp:// [default: $DOCKER_CERT_PATH with $DOCKER_TLS_VERIFY]
    #[arg(long, global = true, value_name = "DIR")]
    certificates: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make this engine the first manager of a new Swarm
    Init(membership::Init),
    /// Make this engine a node of a Swarm
    Join(membership::Join),
    /// Take this engine out of its Swarm
    Leave(membership::Leave),
    /// Show the token with which engines join, or make another one
    Token(membership::Token),
    /// Unlock this manager, which has started anew; the key is read from standard input
    Unlock,
    /// Show the key with which managers are unlocked, or make another one
    UnlockKey(membership::UnlockKey),
    /// Change the Swarm as a whole
    Update(membership::Update),
    /// Say what will go wrong, and what helps
    Warnings(membership::Warnings),
    /// Print what happens in the Swarm, until Ctrl-C
    Events,
    /// Move the services of a node away, one after the other, each when its volumes are ready; then it gets no more.
    /// Ctrl-C leaves the service on its way where it was, and the node as it was
    Drain(maintenance::Drain),
    /// Move a service to a node, where it stays until somebody or something moves it on
    Move(maintenance::Relocate),
    /// Spread the services over the nodes again, with the fewest moves: a node that is activated gets nothing by itself
    Rebalance(maintenance::Rebalance),
    /// List, label, promote, demote, activate and remove nodes
    #[command(subcommand)]
    Node(node::Verb),
    /// Create, change, look at and remove services
    #[command(subcommand)]
    Service(Box<service::Verb>),
    /// Create, list and remove networks
    #[command(subcommand)]
    Network(network::Verb),
    /// Create, list and remove secrets
    #[command(subcommand)]
    Secret(kept::Verb),
    /// Create, list and remove configs
    #[command(subcommand)]
    Config(kept::Verb),
    /// Plan, deploy, list and remove stacks of Compose files
    #[command(subcommand)]
    Stack(stack::Verb),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let logging = cli.logging.clone();
    let endpoint = match Endpoint::choose(cli.host.as_deref(), cli.certificates.clone()) {
        Err(error @ ConnectError::UnsupportedHost { .. }) => {
            Cli::command().error(ErrorKind::ValueValidation, error).exit()
        }
        endpoint => endpoint,
    };
    daemon::run("swarmctl", &logging, async { run(cli, endpoint?).await })
}

async fn run(cli: Cli, endpoint: Endpoint) -> Result<(), Failure> {
    let session =
        Session { swarm: Swarm::connect(endpoint).await?, json: cli.json, certificates: cli.certificates };
    match cli.command {
        Command::Init(options) => membership::init(&session, options).await,
        Command::Join(options) => membership::join(&session, options).await,
        Command::Leave(options) => membership::leave(&session, options).await,
        Command::Token(options) => membership::token(&session, options).await,
        Command::Unlock => membership::unlock(&session).await,
        Command::UnlockKey(options) => membership::unlock_key(&session, options).await,
        Command::Update(options) => membership::update(&session, options).await,
        Command::Warnings(options) => membership::warnings(&session, options).await,
        Command::Events => events::run(&session).await,
        Command::Drain(options) => maintenance::drain(&session, options).await,
        Command::Move(options) => maintenance::relocate(&session, options).await,
        Command::Rebalance(options) => maintenance::rebalance(&session, options).await,
        Command::Node(verb) => node::run(&session, verb).await,
        Command::Service(verb) => service::run(&session, *verb).await,
        Command::Network(verb) => network::run(&session, verb).await,
        Command::Secret(verb) => kept::run(&session, Kind::Secret, verb).await,
        Command::Config(verb) => kept::run(&session, Kind::Config, verb).await,
        Command::Stack(verb) => stack::run(&session, verb).await,
    }
}

/// Whom a verb asks, and how it answers.
pub struct Session {
    /// The engine.
    pub swarm: Swarm,
    /// Whether it answers in JSON.
    pub json: bool,
    /// Certificates for other engines.
    pub certificates: Option<PathBuf>,
}

impl Session {
    /// Prints a table, or the same as JSON.
    pub fn show(&self, (table, json): (Table, Value)) -> Result<(), Failure> {
        self.say(&table.to_string(), json)
    }

    /// Prints a text, or the same as JSON.
    pub fn say(&self, text: &str, json: Value) -> Result<(), Failure> {
        match self.json {
            true => daemon::print_json(&json),
            false => daemon::print(text),
        }
    }
}

/// What a person reads while it goes on, and a script does not.
pub fn tell(line: impl std::fmt::Display) {
    eprintln!("{line}");
}

/// As much of an ID as a person needs.
pub fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// Labels in one cell.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Reads `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}
