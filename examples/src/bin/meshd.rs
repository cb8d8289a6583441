//! `meshd`: one mesh node. Reads its settings, opens the device, runs [`meshnet::Mesh`], answers `status`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hybrid_examples::control::{self, ControlSocket};
use hybrid_examples::daemon::{self, Context, Failure, Logging, StopSignal};
use hybrid_examples::mesh_report::MeshReport;
use hybrid_examples::mesh_settings::{Device, MeshSettings};
use hybrid_examples::settings;
use meshnet::tun::TunConfig;
use meshnet::{Config, Mesh, NetworkSecret, NoDevice, SecretKey};
use serde::{Deserialize, Serialize};

const EXAMPLES: &str = "\
Examples:
  meshd secretgen --out /etc/meshd/network.secret     # once for the network, copied to every node
  meshd keygen --out /etc/meshd/node.key              # once for each node
  meshd up --address 10.77.0.1/24 --listen 0.0.0.0:3210 --network-secret-file /etc/meshd/network.secret \\
           --key /etc/meshd/node.key --peer vm.example.org:3210
  meshd up --config /etc/meshd/meshd.toml
  meshd status --json";

/// How long `status` waits for the daemon.
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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run("meshd", &cli.logging, async {
        match cli.command {
            Command::Keygen { out } => deliver(&SecretKey::generate().to_text(), out.as_deref()),
            Command::Secretgen { out } => deliver(&NetworkSecret::generate().to_text(), out.as_deref()),
            Command::Pubkey { file } => daemon::print(&format!("{}\n", read_key(&file)?.id())),
            Command::Up { config, node } => up(node.over(config.as_deref())?).await,
            Command::Status { control, json } => status(control, json).await,
        }
    })
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
    let config = node.config().await?;
    let control = match &node.control {
        Some(path) => path.clone(),
        None => control::run_directory("meshd")?.join(format!("{}.sock", config.name)),
    };
    let control = ControlSocket::bind(&control)?;
    let (name, address) = (config.name.clone(), config.address);
    let (mesh, device) = start(&node, config).await?;
    daemon::announce(&[
        ("udp", mesh.local_addr().to_string()),
        ("address", address.to_string()),
        ("device", device.clone()),
        ("id", mesh.id().to_string()),
        ("control", control.path().display().to_string()),
    ])?;
    if node.key.is_none() {
        eprintln!("meshd: no --key: this node has a new identity at every start");
    }
    let asked = mesh.clone();
    let answering = control.serve(move |Request::Status| {
        let report = MeshReport::of(&asked, &name, &device);
        async move { Ok(report) }
    });
    tokio::select! {
        () = stop.wait() => {}
        () = answering => {}
    }
    if tokio::time::timeout(daemon::SHUTDOWN_LIMIT, mesh.shutdown()).await.is_err() {
        tracing::warn!("the mesh did not end in time");
    }
    Ok(())
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

async fn status(control: Option<PathBuf>, json: bool) -> Result<(), Failure> {
    let control = match control {
        Some(path) => path,
        None => control::only_socket(&control::run_directory("meshd")?)?,
    };
    let report: MeshReport = control::ask(&control, &Request::Status, ASK_LIMIT).await?;
    if json { daemon::print_json(&report) } else { daemon::print(&report.to_string()) }
}
