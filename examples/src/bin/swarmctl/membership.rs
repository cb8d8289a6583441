//! The Swarm as a whole: making it, joining and leaving it, its tokens and locks, and what will go wrong in it.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use hybrid_examples::daemon::Failure;
use hybrid_examples::settings;
use serde_json::json;
use swarmctl::cluster::{Role, time_ms};
use swarmctl::driver::{InitOptions, JoinOptions, SwarmChange};
use swarmctl::selector::NodeSelector;
use swarmctl::warnings::{self, Clock, Expectations, Prefix, Warning};
use swarmctl::{Endpoint, Swarm};

use crate::{Session, tell};

#[derive(Args)]
pub struct Init {
    /// The address at which the other nodes find this one: that of the mesh
    #[arg(long, value_name = "ADDRESS")]
    advertise: String,
    /// Where this manager listens [default: the address above, port 2377]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where networks get their addresses from; can be given again
    #[arg(long, value_name = "PREFIX")]
    pool: Vec<Prefix>,
    /// How large a network's part of the pool is, as a prefix length
    #[arg(long, value_name = "BITS", requires = "pool")]
    subnet_prefix: Option<u32>,
    /// How often a node says that it lives; it is taken for dead after three times as long [default: 5s]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    heartbeat: Option<Duration>,
    /// The UDP port of overlay networks' packets [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=49151))]
    data_path_port: Option<u16>,
    /// Let managers that start wait for the unlock key
    #[arg(long)]
    autolock: bool,
    /// Begin anew from what this manager knows, after a majority of the managers was lost for good
    #[arg(long)]
    force_new_cluster: bool,
}

#[derive(Args)]
pub struct Join {
    /// The address at which the other nodes find this one: that of the mesh
    #[arg(long, value_name = "ADDRESS")]
    advertise: String,
    /// Where it listens if it becomes a manager [default: the address above, port 2377]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The token, which everybody on this host can see among its processes: rather use the next one
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Managers of the Swarm
    #[arg(required = true, value_name = "ADDRESS:PORT")]
    managers: Vec<String>,
}

#[derive(Args)]
pub struct Leave {
    /// Leave although the Swarm, or its majority, ends with it
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub struct Token {
    /// What the engine that joins with it becomes
    role: TokenRole,
    /// Make it void, and another one; nodes that joined with it stay
    #[arg(long)]
    rotate: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TokenRole {
    Worker,
    Manager,
}

#[derive(Args)]
pub struct UnlockKey {
    /// Make it void, and another one
    #[arg(long)]
    rotate: bool,
}

#[derive(Args)]
pub struct Update {
    /// How often a node says that it lives
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    heartbeat: Option<Duration>,
    /// How many tasks that have ended are kept for each slot of a service
    #[arg(long, value_name = "COUNT")]
    task_history: Option<u64>,
    /// Whether managers that start wait for the unlock key
    #[arg(long)]
    autolock: Option<bool>,
}

#[derive(Args)]
pub struct Warnings {
    /// The addresses at which nodes are to reach each other
    #[arg(long, value_name = "PREFIX")]
    mesh: Option<Prefix>,
    /// The MTU of the tunnel between the nodes
    #[arg(long, value_name = "BYTES")]
    tunnel_mtu: Option<u32>,
    /// The nodes of which one has to take tasks at any time, such as location=home
    #[arg(long, value_name = "NODES")]
    home: Option<NodeSelector>,
    /// Another engine, whose clock is compared; can be given again
    #[arg(long, value_name = "unix:///PATH|tcp://HOST:PORT")]
    engine: Vec<String>,
}

pub async fn init(session: &Session, args: Init) -> Result<(), Failure> {
    let mut options = InitOptions::new(args.advertise);
    options.listen = args.listen.unwrap_or(options.listen);
    options.address_pool = args.pool.iter().map(ToString::to_string).collect();
    options.subnet_prefix = args.subnet_prefix;
    options.heartbeat = args.heartbeat;
    options.data_path_port = args.data_path_port;
    options.autolock = args.autolock;
    options.force_new_cluster = args.force_new_cluster;
    let node = session.swarm.init(&options).await?;
    session.say(&format!("{node}\n"), json!({"node": node}))?;
    if args.autolock {
        tell(
            "keep the key of `swarmctl unlock-key` elsewhere: without it no manager that has started anew can be used",
        );
    }
    tell("`swarmctl token worker` shows what other engines join with");
    Ok(())
}

pub async fn join(session: &Session, args: Join) -> Result<(), Failure> {
    let token = match args.token_file {
        Some(path) => settings::read_text(&path)?.trim().to_owned(),
        None => args.token.unwrap_or_default(),
    };
    let mut options = JoinOptions::new(args.advertise, token, String::new());
    options.listen = args.listen.unwrap_or(options.listen);
    options.managers = args.managers;
    session.swarm.join(&options).await?;
    let info = session.swarm.info().await?;
    session.say(&format!("{}\n", info.swarm), json!({"state": info.swarm.to_string()}))
}

pub async fn leave(session: &Session, args: Leave) -> Result<(), Failure> {
    session.swarm.leave(args.force).await?;
    session.say("left\n", json!({"left": true}))
}

pub async fn token(session: &Session, args: Token) -> Result<(), Failure> {
    let role = match args.role {
        TokenRole::Worker => Role::Worker,
        TokenRole::Manager => Role::Manager,
    };
    let tokens = match args.rotate {
        true => session.swarm.rotate_token(role).await?,
        false => session.swarm.join_tokens().await?,
    };
    let token = if role == Role::Worker { tokens.worker } else { tokens.manager };
    session.say(&format!("{token}\n"), json!({"role": role.to_string(), "token": token}))
}

pub async fn unlock(session: &Session) -> Result<(), Failure> {
    let key = settings::read_bounded(io::stdin(), &"the unlock key")?;
    session.swarm.unlock(key.trim()).await?;
    session.say("unlocked\n", json!({"unlocked": true}))
}

pub async fn unlock_key(session: &Session, args: UnlockKey) -> Result<(), Failure> {
    let key = match args.rotate {
        true => session.swarm.rotate_unlock_key().await?,
        false => session.swarm.unlock_key().await?,
    };
    let Some(key) = key else {
        return Err(Failure::new(
            "this Swarm does not lock its managers: `swarmctl update --autolock true` makes it",
        ));
    };
    session.say(&format!("{key}\n"), json!({"unlock_key": key}))
}

pub async fn update(session: &Session, args: Update) -> Result<(), Failure> {
    let Update { heartbeat, task_history, autolock } = args;
    session.swarm.change_swarm(&SwarmChange { heartbeat, task_history, autolock }).await?;
    session.say("updated\n", json!({"updated": true}))
}

pub async fn warnings(session: &Session, args: Warnings) -> Result<(), Failure> {
    let mut clocks = vec![clock(&session.swarm).await?];
    for engine in args.engine {
        let endpoint = Endpoint::choose(Some(&engine), session.certificates.clone())?;
        clocks.push(clock(&Swarm::connect(endpoint).await?).await?);
    }
    let expected = Expectations { mesh: args.mesh, tunnel_mtu: args.tunnel_mtu, home: args.home };
    let found = look(&session.swarm, &clocks, &expected).await?;
    let lines: String = found.iter().map(|warning| format!("{warning}\n")).collect();
    let json = found.iter().map(|it| json!({"kind": it.kind(), "text": it.to_string()})).collect();
    session.say(&lines, json)
}

/// Tells what a change of the nodes leads to.
pub async fn warn(session: &Session) -> Result<(), Failure> {
    for warning in look(&session.swarm, &[], &Expectations::default()).await? {
        tell(format_args!("warning: {warning}"));
    }
    Ok(())
}

async fn look(swarm: &Swarm, clocks: &[Clock], expected: &Expectations) -> Result<Vec<Warning>, Failure> {
    let (nodes, networks) = (swarm.nodes().await?, swarm.swarm_networks().await?);
    // The routing mesh is Docker's own network and is not made by hand.
    let networks = networks.iter().filter(|network| network.name != "ingress");
    Ok(warnings::warnings(&nodes, networks, clocks, expected))
}

/// By how much an engine's clock is ahead of this host's. The way there and back is taken to be equally long.
async fn clock(swarm: &Swarm) -> Result<Clock, Failure> {
    let now_ms = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    };
    let asked = now_ms();
    let info = swarm.info().await?;
    let here = asked + (now_ms() - asked) / 2;
    Ok(Clock { engine: info.name, ahead_ms: time_ms(&info.time).map_or(0, |there| there - here) })
}
