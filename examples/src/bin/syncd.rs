//! `syncd`: one replica of a folder. Opens [`syncfs::Folder`], keeps it in sync over TCP, answers questions.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hybrid_examples::control::ControlSocket;
use hybrid_examples::daemon::{self, Context, Failure, Logging, SHUTDOWN_LIMIT, StopSignal};
use hybrid_examples::host_port::{self, HostPort, PeerAddress};
use hybrid_examples::settings;
use hybrid_examples::sync_control;
use hybrid_examples::sync_door;
use hybrid_examples::sync_link;
use hybrid_examples::sync_settings::{OPEN_NETWORK, SyncSettings};
use syncfs::{Config, DeviceId, Folder};
use tokio::net::{TcpListener, TcpStream};

const EXAMPLES: &str = "\
Examples:
  syncd init /srv/notes                        # once on each replica; prints its device ID
  syncd serve /srv/notes --listen 10.77.0.1:22000 --peer ID@10.77.0.2:22000
  syncd wait /srv/notes --peers all --timeout 30s    # everything written so far is on every peer's disk
  syncd status /srv/notes --json

Streams are not encrypted: listen and dial on loopback, in a private network or in a mesh.";

/// A replica of a folder
#[derive(Parser)]
#[command(name = "syncd", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a directory a replica and print its device ID; a second time only prints it
    Init {
        /// An existing directory
        dir: PathBuf,
    },
    /// Print a replica's device ID
    Id {
        /// An initialised directory
        dir: PathBuf,
    },
    /// Keep a replica in sync until Ctrl-C or SIGTERM
    Serve {
        /// An initialised directory
        dir: PathBuf,
        /// Read the settings from a TOML file; a flag wins over the file's key of the same name
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        replica: SyncSettings,
    },
    /// Show a replica, its peers and its problems
    Status {
        /// An initialised directory
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Wait until peers have everything written so far, durably
    Wait {
        /// A directory that is being served
        dir: PathBuf,
        /// Device IDs, or `all`: every peer that the daemon was started with
        #[arg(long, value_name = "all|ID,..", value_delimiter = ',', required = true)]
        peers: Vec<Who>,
        /// How long to wait before saying who lags
        #[arg(long, default_value = "30s", value_parser = settings::duration, value_name = "TIME")]
        timeout: Duration,
    },
    /// List the files that were changed on two sides at once
    Conflicts {
        /// An initialised directory
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Whom `wait` waits for.
#[derive(Clone, Debug)]
enum Who {
    All,
    Device(DeviceId),
}

impl std::str::FromStr for Who {
    type Err = <DeviceId as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Who, Self::Err> {
        if text == "all" { Ok(Who::All) } else { text.parse().map(Who::Device) }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run("syncd", &cli.logging, async {
        match cli.command {
            Command::Init { dir } => daemon::print(&format!("{}\n", Folder::init(Config::new(dir)).await?)),
            Command::Id { dir } => daemon::print(&format!("{}\n", sync_control::status(&dir).await?.device)),
            Command::Serve { dir, config, replica } => serve(dir, replica.over(config.as_deref())?).await,
            Command::Status { dir, json } => {
                let report = sync_control::status(&dir).await?;
                if json { daemon::print_json(&report) } else { daemon::print(&report.to_string()) }
            }
            Command::Wait { dir, peers, timeout } => sync_control::wait(&dir, named(&peers), timeout).await,
            Command::Conflicts { dir, json } => {
                let list = sync_control::conflicts(&dir).await?;
                if json {
                    return daemon::print_json(&list);
                }
                daemon::print(&list.iter().map(|conflict| format!("{conflict}\n")).collect::<String>())
            }
        }
    })
}

/// The devices to wait for; empty for all.
fn named(peers: &[Who]) -> Vec<String> {
    let named = peers.iter().map(|who| match who {
        Who::All => None,
        Who::Device(device) => Some(device.to_string()),
    });
    named.collect::<Option<_>>().unwrap_or_default()
}

async fn serve(dir: PathBuf, replica: SyncSettings) -> Result<(), Failure> {
    let (listen, known) = (replica.listen()?, replica.known()?);
    let mut stop = StopSignal::install()?;
    let mut config = Config::new(&dir);
    config.name = replica.name.clone().unwrap_or_else(daemon::host_name);
    if let Some(rescan) = replica.rescan {
        config.rescan = rescan;
    }
    let folder = Folder::open(config).await?;
    let listener = TcpListener::bind(listen).await.context(format!("cannot listen on {listen}"))?;
    let control = ControlSocket::bind(&sync_control::path(&dir))?;
    daemon::announce(&[
        ("sync", listener.local_addr().context("the listener has no address")?.to_string()),
        ("device", folder.device().to_string()),
        ("control", control.path().display().to_string()),
    ])?;
    let mut tasks = tokio::task::JoinSet::new();
    let answering = folder.clone();
    let all = known.clone();
    tasks.spawn(control.serve(move |request| sync_control::answer(answering.clone(), all.clone(), request)));
    tasks.spawn(sync_door::accept(folder.clone(), known, listener));
    for PeerAddress { id, at } in replica.peer {
        let Some(at) = at else { continue };
        let (own, open) = (folder.device(), replica.unauthenticated);
        tasks.spawn(sync_link::dial(folder.clone(), id, move || dial(at.clone(), own, open)));
    }
    stop.wait().await;
    tasks.shutdown().await;
    if tokio::time::timeout(SHUTDOWN_LIMIT, folder.close()).await.is_err() {
        tracing::warn!("the folder was not closed in time; the next start goes on from what is on the disk");
    }
    Ok(())
}

async fn dial(at: HostPort, own: DeviceId, open: bool) -> std::io::Result<TcpStream> {
    let addresses = at.resolve().await?;
    if let Some(public) = addresses.iter().find(|at| !open && !host_port::is_private(at.ip())) {
        return Err(std::io::Error::other(format!("will not dial {public}: {OPEN_NETWORK}")));
    }
    let mut stream = TcpStream::connect(&addresses[..]).await?;
    stream.set_nodelay(true)?;
    sync_door::knock(&mut stream, own).await?;
    Ok(stream)
}
