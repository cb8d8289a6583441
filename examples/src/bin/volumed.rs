//! `volumed`: the volume driver of a node. A volume is a folder that the nodes keep in sync; one node at a time has its lease.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use hybrid_examples::daemon::{self, Context, Failure, Logging, SHUTDOWN_LIMIT, StopSignal};
use hybrid_examples::lease_hop::{self, HopStore};
use hybrid_examples::sync_link;
use hybrid_examples::volume_keeper::{self, SyncedVolumes};
use hybrid_examples::volume_lag;
use hybrid_examples::volume_node::VolumeNode;
use hybrid_examples::volume_settings::VolumeSettings;
use hybrid_examples::volume_takeover::{self, CarefulLease};
use swarmctl::driver::{PluginSocket, VolumeEvents};
use swarmctl::engine::Event;
use swarmctl::{NodeName, VolumeName, VolumeOptions, VolumePlugin};
use syncfs::Identity;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;

const EXAMPLES: &str = "\
Examples:
  volumed id /var/lib/volumed                  # once on each node: makes its key and prints its ID
  volumed run --config /etc/volumed.toml
  docker volume create -d synced -o replicas=2 git-data
  docker service create --mount type=volume,source=git-data,target=/data,volume-driver=synced gogs/gogs";

/// A Docker volume driver whose volumes follow their container
#[derive(Parser)]
#[command(name = "volumed", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the ID by which the other nodes know this one
    Id {
        /// The directory with its key and its replicas
        root: PathBuf,
    },
    /// Accept, for the next takeover of a volume, a replica here that is not known to be consistent
    Force {
        /// The directory with the key and the replicas of this node
        root: PathBuf,
        /// The volume
        volume: VolumeName,
    },
    /// Print the options of a volume, changed if any are given; they count here from the next start of the driver
    ///
    /// Swarm hands options to a node only when it creates the volume there. Change them on each node, and in the service.
    Options {
        /// The directory with the key and the replicas of this node
        root: PathBuf,
        /// The volume
        volume: VolumeName,
        /// What changes; an empty value takes an option away
        #[arg(value_name = "KEY=VALUE", value_parser = option)]
        changes: Vec<(String, String)>,
    },
    /// Serve until Ctrl-C or SIGTERM. Containers go on meanwhile, and their volumes are taken up at the next start
    Run {
        /// The settings, a TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run_on_one("volumed", &cli.logging, async {
        match cli.command {
            Command::Id { root } => {
                std::fs::create_dir_all(&root).context(root.display())?;
                let identity = Identity::load_or_create(&root.join("key"))?;
                daemon::print(&format!("{}\n", identity.device()))
            }
            Command::Force { root, volume } => {
                volume_takeover::force(&root, &volume).context(format!("{}: {volume}", root.display()))
            }
            Command::Options { root, volume, changes } => {
                let options = volume_keeper::change_options(&root, &volume, &changes)?;
                let lines = options.iter().map(|(key, value)| format!("{key}={value}\n"));
                daemon::print(&lines.collect::<String>())
            }
            Command::Run { config } => run(VolumeSettings::load(&config)?).await,
        }
    })
}

fn option(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

async fn run(settings: VolumeSettings) -> Result<(), Failure> {
    let mut stop = StopSignal::install()?;
    let VolumeSettings { root, listen, name, driver, docker, plugins, peers } = settings;
    std::fs::create_dir_all(&root).context(root.display())?;
    let node = Arc::new(VolumeNode::new(&root, name.clone(), peers)?);
    let socket = PluginSocket::bind(&plugins, &driver).await?;
    let listener = TcpListener::bind(listen).await.context(format!("cannot listen on {listen}"))?;
    let store = HopStore::new(Arc::clone(&node), docker.clone());
    let (keeper, mounts) = (SyncedVolumes::new(Arc::clone(&node)), root.join("mounts.json"));
    let lease = CarefulLease::new(store.clone(), Arc::clone(&node));
    let plugin =
        VolumePlugin::open(&driver, name.clone(), lease, VolumeOptions::default(), keeper, &mounts).await?;
    let address = listener.local_addr().context("the listener has no address")?;
    daemon::announce(&[
        ("sync", address.to_string()),
        ("device", node.device().to_string()),
        ("plugin", plugins.join(format!("{driver}.sock")).display().to_string()),
    ])?;
    tokio::spawn(report(name.clone(), plugin.manager().events()));
    let (door, watched) = (Arc::clone(&node), store.clone());
    let admitting = sync_link::accept(listener, move |stream| {
        let (door, store) = (Arc::clone(&door), store.clone());
        async move {
            match door.admit(stream).await {
                Ok(None) => {}
                Ok(Some((peer, label, stream))) if label.as_str() == lease_hop::LABEL => {
                    if let Err(error) = store.serve(&peer, stream).await {
                        tracing::debug!(%error, "a question about leases");
                    }
                }
                Ok(Some((_, label, stream))) if label.as_str() == volume_lag::LABEL => {
                    if let Err(error) = volume_lag::serve(&door, stream).await {
                        tracing::debug!(%error, "a question about a volume");
                    }
                }
                Ok(Some((_, label, _))) => tracing::info!(%label, "a peer wants something unknown"),
                Err(error) => tracing::info!(%error, "not let in"),
            }
        }
    });
    let ended = tokio::select! {
        () = stop.wait() => Ok(()),
        error = admitting => Err(error.into()),
        never = plugin.serve(socket, docker.clone()) => match never {},
        never = volume_takeover::watch(plugin.manager(), plugin.keeper(), &watched, &name, &docker) => match never {},
    };
    if tokio::time::timeout(SHUTDOWN_LIMIT, node.close()).await.is_err() {
        tracing::warn!("a replica was not closed in time; the next start goes on from what is on the disk");
    }
    ended
}

/// Says what somebody has to know: what may be missing, and what was set aside.
async fn report(own: NodeName, mut events: VolumeEvents) {
    loop {
        match events.recv().await {
            Ok(Event::Unreleased { volume, tenure, .. }) if tenure.holder == own => tracing::info!(
                %volume, "tenure {} ended without a release: it goes on from here, with what was written in it", tenure.epoch
            ),
            Ok(Event::Unreleased { volume, tenure, .. }) => tracing::warn!(
                %volume,
                "{} ended its tenure {} without a release: what it wrote last may be missing here until it is back, and is kept there \
                 as a branch then",
                tenure.holder,
                tenure.epoch,
            ),
            Ok(Event::StoreBehind { volume, epoch }) => tracing::warn!(
                %volume, epoch, "the Swarm has lost leases that this replica knows: what other nodes wrote last may be missing"
            ),
            Ok(Event::LeaseLost { volume, epoch, current }) => tracing::warn!(
                %volume, epoch, current, "the lease was taken over: what was written here since and had not reached a replica is kept \
                 as a branch"
            ),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
