//! `meshd`: one mesh node. Reads its settings, opens the device, runs [`meshnet::Mesh`], answers `status`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use hybrid_examples::control::{self, ControlSocket};
use hybrid_examples::daemon::{self, Context, Failure, Logging, StopSignal};
use hybrid_examples::host_port::HostPort;
use hybrid_examples::mesh_entry::{self, Entry};
use hybrid_examples::mesh_report::MeshReport;
use hybrid_examples::mesh_settings::{Device, MeshSettings};
use hybrid_examples::settings;
use ipnet::IpNet;
use meshnet::tun::TunConfig;
use meshnet::{Config, InviteError, Mesh, NetworkSecret, NoDevice, SecretKey, TicketOptions};
use serde::{Deserialize, Serialize};

const EXAMPLES: &str = "\
Examples:
  meshd secretgen --out /etc/meshd/network.secret     # once for the network, copied to every node
  meshd keygen --out /etc/meshd/node.key              # once for each node
  meshd up --address 10.77.0.1/24 --listen 0.0.0.0:3210 --network-secret-file /etc/meshd/network.secret \\
           --key /etc/meshd/node.key --peer vm.example.org:3210
  meshd up --config /etc/meshd/meshd.toml
  meshd status --json

A network that new nodes enter by ticket, one ticket a node:
  meshd up --authority --address 10.77.0.1/24 --listen 198.51.100.7:3210 --key /etc/meshd/node.key \\
           --network-secret-file /etc/meshd/network.secret        # the founder, on one host
  (umask 077; meshd invite home --address 10.77.0.2 > home.ticket) # there; home.ticket goes to the new host
  meshd up --ticket-file home.ticket --key /etc/meshd/node.key    # the new host, the first time
  meshd up --key /etc/meshd/node.key                              # and from then on";

/// How long `status` and `invite` wait for the daemon.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// A node of an encrypted mesh network
#[derive(Parser)]
#[command(name = "meshd", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw a node's secret key
    Keygen {
        /// Write it there with mode 0600 instead of printing it; an existing file is never overwritten
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the public ID of a secret key
    Pubkey {
        /// The key's file, `-` for standard input
        #[arg(default_value = "-", value_name = "FILE")]
        file: PathBuf,
    },
    /// Draw a network's secret: who knows it is a member
    Secretgen {
        /// Write it there with mode 0600 instead of printing it; an existing file is never overwritten
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Run a node until Ctrl-C or SIGTERM
    Up {
        /// Read the settings from a TOML file; a flag wins over the file's key of the same name
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        node: Box<MeshSettings>,
    },
    /// Print a ticket with which one new node can join; asks the running authority
    Invite {
        /// The new node's name
        name: String,
        /// The new node's address in the mesh
        #[arg(long, value_name = "IP")]
        address: IpAddr,
        /// A network behind the new node that the mesh may reach through it; repeatable
        #[arg(long, value_name = "CIDR")]
        subnet: Vec<IpNet>,
        /// Where the new node reaches this one; repeatable [default: where this one listens, if that is one address]
        #[arg(long, value_name = "HOST:PORT")]
        endpoint: Vec<HostPort>,
        /// How long the ticket can be used
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ticket_time)]
        valid_for: Duration,
        /// The node's control socket [default: the only one in the run directory]
        #[arg(long, value_name = "SOCKET")]
        control: Option<PathBuf>,
    },
    /// Show a running node and its peers
    Status {
        /// The node's control socket [default: the only one in the run directory]
        #[arg(long, value_name = "SOCKET")]
        control: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Status,
    Invite(Invitation),
}

/// What a ticket shall grant.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    name: String,
    address: IpAddr,
    /// In text form.
    subnets: Vec<String>,
    endpoints: Vec<SocketAddr>,
    valid_for_s: u64,
}

/// Each request has one kind of answer.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Report(Box<MeshReport>),
    Ticket(String),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run("meshd", &cli.logging, async {
        match cli.command {
            Command::Keygen { out } => deliver(&SecretKey::generate().to_text(), out.as_deref()),
            Command::Secretgen { out } => deliver(&NetworkSecret::generate().to_text(), out.as_deref()),
            Command::Pubkey { file } => daemon::print(&format!("{}\n", read_key(&file)?.id())),
            Command::Up { config, node } => {
                let node = node.over(config.as_deref())?;
                if let Some(problem) = node.usage_error() {
                    Cli::command().error(ErrorKind::MissingRequiredArgument, problem).exit();
                }
                up(node).await
            }
            Command::Invite { name, address, subnet: subnets, endpoint, valid_for, control } => {
                let endpoints = resolve(&endpoint).await?;
                let valid_for_s = valid_for.as_secs();
                let subnets = subnets.iter().map(IpNet::to_string).collect();
                invite(Invitation { name, address, subnets, endpoints, valid_for_s }, control).await
            }
            Command::Status { control, json } => status(control, json).await,
        }
    })
}

fn ticket_time(text: &str) -> Result<Duration, String> {
    match settings::duration(text)? {
        short if short < Duration::from_secs(1) => Err("a ticket is valid for 1s at least".to_owned()),
        time => Ok(time),
    }
}

fn deliver(secret: &str, out: Option<&Path>) -> Result<(), Failure> {
    match out {
        Some(file) => settings::write_secret(file, secret),
        None => daemon::print(&format!("{secret}\n")),
    }
}

fn read_key(file: &Path) -> Result<SecretKey, Failure> {
    if file == Path::new("-") {
        let text = settings::read_bounded(io::stdin(), &"standard input")?;
        return text.trim().parse().context("standard input");
    }
    settings::read_secret(file)
}

async fn up(node: MeshSettings) -> Result<(), Failure> {
    let mut stop = StopSignal::install()?;
    let (config, entry) = mesh_entry::prepare(&node).await?;
    let control = match &node.control {
        Some(path) => path.clone(),
        None => control::run_directory("meshd")?.join(format!("{}.sock", config.name)),
    };
    let control = ControlSocket::bind(&control)?;
    let claims = config.claims()?;
    let (mesh, device) = start(&node, config).await?;
    let mut ledger = None;
    match entry {
        Entry::Open => {}
        Entry::Authority(kept) => ledger = Some(tokio::spawn(kept.follow(mesh.subscribe()))),
        Entry::Joining(joining) => {
            let outcome = tokio::select! {
                outcome = joining.finish(&mesh) => outcome.map(|()| true),
                () = stop.wait() => Ok(false),
            };
            if !matches!(outcome, Ok(true)) {
                end(mesh).await;
                return outcome.map(|_| ());
            }
        }
    }
    daemon::announce(&[
        ("udp", mesh.local_addr().to_string()),
        ("address", claims.address.to_string()),
        ("device", device.clone()),
        ("id", mesh.id().to_string()),
        ("control", control.path().display().to_string()),
    ])?;
    if node.key.is_none() {
        eprintln!("meshd: no --key: this node has a new identity at every start");
    }
    let asked = mesh.clone();
    let answering = control.serve(move |request| {
        let answer = match request {
            Request::Status => Ok(Answer::Report(Box::new(MeshReport::of(&asked, &claims.name, &device)))),
            Request::Invite(invitation) => issue(&asked, invitation).map(Answer::Ticket),
        };
        async move { answer }
    });
    tokio::select! {
        () = stop.wait() => {}
        () = answering => {}
    }
    end(mesh).await;
    if let Some(ledger) = ledger
        && tokio::time::timeout(daemon::SHUTDOWN_LIMIT, ledger).await.is_err()
    {
        tracing::warn!("the ledger of used tickets was not closed in time");
    }
    Ok(())
}

async fn end(mesh: Mesh) {
    if tokio::time::timeout(daemon::SHUTDOWN_LIMIT, mesh.shutdown()).await.is_err() {
        tracing::warn!("the mesh did not end in time");
    }
}

/// Issues a ticket on the authority's node.
fn issue(mesh: &Mesh, invitation: Invitation) -> Result<String, Failure> {
    let Invitation { name, address, subnets, endpoints, valid_for_s } = invitation;
    let valid_for = Duration::from_secs(valid_for_s);
    let subnets = subnets.iter().map(|subnet| subnet.parse().context(subnet)).collect::<Result<_, _>>()?;
    let ticket = mesh.invite(TicketOptions { name, address, subnets, endpoints, valid_for });
    match ticket {
        Ok(ticket) => Ok(ticket.to_string()),
        Err(error @ InviteError::NoEndpoint) => {
            let listen = mesh.local_addr();
            Err(Failure::new(format!("{error}; it listens on {listen}: say --endpoint HOST:PORT")))
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens the device and starts the node on it; also gives the interface's name.
async fn start(node: &MeshSettings, config: Config) -> Result<(Mesh, String), Failure> {
    let (address, mtu) = (config.address, config.mtu);
    match node.device.unwrap_or(Device::Tun) {
        Device::Tun => {
            let mut tun = TunConfig::new(address);
            tun.name = node.device_name.clone();
            tun.mtu = mtu;
            let device = meshnet::tun::open(&tun)?;
            let name = device.name().to_owned();
            Ok((Mesh::start(config, device).await?, name))
        }
        Device::Tap => {
            Err(Failure::new("--device tap: Ethernet frames are not supported yet: use tun or none"))
        }
        Device::None => Ok((Mesh::start(config, NoDevice).await?, "none".to_owned())),
    }
}

async fn resolve(hosts: &[HostPort]) -> Result<Vec<SocketAddr>, Failure> {
    let mut endpoints = Vec::new();
    for host in hosts {
        endpoints.extend(host.resolve().await.context(format!("cannot find the endpoint {host}"))?);
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    Ok(endpoints)
}

async fn invite(invitation: Invitation, control: Option<PathBuf>) -> Result<(), Failure> {
    let control = socket_of(control)?;
    let ticket: String = control::ask(&control, &Request::Invite(invitation), ASK_LIMIT).await?;
    daemon::print(&format!("{ticket}\n"))
}

fn socket_of(control: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match control {
        Some(path) => Ok(path),
        None => Ok(control::only_socket(&control::run_directory("meshd")?)?),
    }
}

async fn status(control: Option<PathBuf>, json: bool) -> Result<(), Failure> {
    let control = socket_of(control)?;
    let report: MeshReport = control::ask(&control, &Request::Status, ASK_LIMIT).await?;
    if json { daemon::print_json(&report) } else { daemon::print(&report.to_string()) }
}
