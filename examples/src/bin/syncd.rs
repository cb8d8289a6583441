//! `syncd`: one replica of a folder. Opens [`syncfs::Folder`], keeps it in sync over TCP, answers questions.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hybrid_examples::control::ControlSocket;
use hybrid_examples::daemon::{self, Context, Failure, Logging, SHUTDOWN_LIMIT, StopSignal};
use hybrid_examples::settings;
use hybrid_examples::sync_control;
use hybrid_examples::sync_import::{self, Import};
use hybrid_examples::sync_link;
use hybrid_examples::sync_metrics;
use hybrid_examples::sync_node::{self, Node};
use hybrid_examples::sync_settings::{ServeFlags, SyncSettings};
use syncfs::DeviceId;
use tokio::net::TcpListener;

const EXAMPLES: &str = "\
Examples:
  syncd init /srv/notes                        # once on each device; prints its ID
  syncd serve /srv/notes --listen 0.0.0.0:22000 --peer ID@home-2.example.org:22000
  syncd wait /srv/notes --peers all --timeout 30s    # everything written so far is on every peer's disk
  syncd status /srv/notes --json
  syncd serve --config /etc/syncd.toml         # several folders, several peers
  syncd import ~/.config/syncthing/config.xml --out syncd.toml    # what becomes of Syncthing's settings

Devices prove their IDs by their keys, and streams are encrypted (TLS 1.3): any network will do.";

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
        #[arg(required_unless_present = "config")]
        dir: Option<PathBuf>,
        /// The device's secret key, made if it is not there [default: DIR/.syncfs/key]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Make every folder of a TOML file a replica
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print a replica's device ID
    Id {
        /// An initialised directory
        dir: PathBuf,
    },
    /// Keep replicas in sync until Ctrl-C or SIGTERM
    Serve {
        /// An initialised directory; or several, as `[[folder]]` tables of the TOML file
        #[arg(required_unless_present = "config")]
        dir: Option<PathBuf>,
        /// Read the settings from a TOML file; a flag wins over the file's key of the same name
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Box<ServeFlags>,
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
    /// Print what happens in a replica, one JSON object a line, until Ctrl-C
    Events {
        /// A directory that is being served
        dir: PathBuf,
        /// Begin after the event of this number instead of with the next one; 0 for all that are kept
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
    },
    /// Make settings of Syncthing's config.xml, and say what becomes of each of its keys
    Import {
        /// Syncthing's config.xml
        file: PathBuf,
        /// Where to write the settings, and beside them the key `syncd.key` [default: print them]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Which of its devices this one is: a name or an ID of Syncthing [default: the one that listens there]
        #[arg(long, value_name = "NAME")]
        this: Option<String>,
        /// Also make the key and, where they are, the folders replicas, and print the device ID
        #[arg(long, requires = "out")]
        apply: bool,
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
            Command::Init { dir, key, config } => init(dir, key, config).await,
            Command::Id { dir } => daemon::print(&format!("{}\n", sync_control::status(&dir).await?.device)),
            Command::Serve { dir, config, flags } => {
                serve(SyncSettings::new(dir, *flags, config.as_deref())?).await
            }
            Command::Status { dir, json } => {
                let report = sync_control::status(&dir).await?;
                if json { daemon::print_json(&report) } else { daemon::print(&report.to_string()) }
            }
            Command::Wait { dir, peers, timeout } => sync_control::wait(&dir, named(&peers), timeout).await,
            Command::Import { file, out, this, apply } => import(&file, out, this, apply).await,
            Command::Events { dir, after } => events(dir, after).await,
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

async fn init(dir: Option<PathBuf>, key: Option<PathBuf>, config: Option<PathBuf>) -> Result<(), Failure> {
    // Where the device will listen does not matter yet.
    let listen = Some(([127, 0, 0, 1], 0).into());
    let flags = ServeFlags { listen, key, ..ServeFlags::default() };
    let device = sync_node::init(&SyncSettings::new(dir, flags, config.as_deref())?).await?;
    daemon::print(&format!("{device}\n"))
}

async fn serve(settings: SyncSettings) -> Result<(), Failure> {
    let mut stop = StopSignal::install()?;
    let (listen, metrics) = (settings.listen, settings.metrics);
    let node = Arc::new(Node::open(settings).await?);
    let taken = format!("cannot listen on {listen}: give another --listen, or stop what uses this one");
    let listener = TcpListener::bind(listen).await.context(taken)?;
    let mut facts = vec![
        ("sync", listener.local_addr().context("the listener has no address")?.to_string()),
        ("device", node.device().to_string()),
    ];
    let mut tasks = tokio::task::JoinSet::new();
    for (place, share) in node.folders().iter().enumerate() {
        let control = ControlSocket::bind(&sync_control::path(&share.served.config.root))?;
        facts.push(("control", control.path().display().to_string()));
        let answering = Arc::clone(&node);
        tasks.spawn(control.serve(move |ask| sync_control::answer(Arc::clone(&answering), place, ask)));
        let journal = Arc::clone(&node);
        tasks.spawn(async move {
            let share = &journal.folders()[place];
            share.journal.follow(&share.folder).await;
        });
    }
    let _metrics = match metrics {
        None => None,
        Some(address) => {
            let (server, bound) = sync_metrics::serve(Arc::clone(&node), address).await?;
            facts.push(("metrics", bound.to_string()));
            Some(server)
        }
    };
    daemon::announce(&facts)?;
    let door = Arc::clone(&node);
    tasks.spawn(async move {
        let error = sync_link::accept(listener, |stream| Arc::clone(&door).admit(stream)).await;
        tracing::error!(%error, "the listener failed: nobody can dial this device any more");
    });
    tasks.spawn(Arc::clone(&node).take_rates());
    for pair in node.to_dial() {
        tasks.spawn(Arc::clone(&node).dial(pair));
    }
    stop.wait().await;
    tasks.shutdown().await;
    if tokio::time::timeout(SHUTDOWN_LIMIT, node.close()).await.is_err() {
        tracing::warn!("a folder was not closed in time; the next start goes on from what is on the disk");
    }
    Ok(())
}

async fn import(file: &Path, out: Option<PathBuf>, this: Option<String>, apply: bool) -> Result<(), Failure> {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let import = Import::read(file, this, home)?;
    let Some(out) = out else { return daemon::print(&import.toml(Path::new("/var/lib/syncd/key"))) };
    let key = std::path::absolute(&out).context(out.display())?.with_file_name("syncd.key");
    sync_import::write(&out, &import.toml(&key))?;
    let mut lines = import.report();
    lines.push(String::new());
    if apply {
        lines.push(format!("this device is {}", import.apply(&key).await?));
    }
    lines.extend(import.steps());
    daemon::print(&(lines.join("\n") + "\n"))
}

async fn events(dir: PathBuf, mut after: Option<u64>) -> Result<(), Failure> {
    loop {
        let extract = sync_control::events(&dir, after).await?;
        if extract.missed > 0 {
            daemon::print(&format!(
                "{}\n",
                serde_json::json!({ "event": "missed", "count": extract.missed })
            ))?;
        }
        for event in &extract.events {
            daemon::print(&format!("{}\n", serde_json::to_string(event)?))?;
        }
        after = extract.events.last().map(|event| event.number).or(after);
    }
}
