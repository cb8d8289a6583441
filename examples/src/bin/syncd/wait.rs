//! `syncd wait`: the barrier.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::{settings, sync_control};
use syncfs::DeviceId;

#[derive(Args)]
pub struct Options {
    /// A directory that is being served
    dir: PathBuf,
    /// Device IDs, or `all`: every peer that the daemon was started with
    #[arg(long, value_name = "all|ID,..", value_delimiter = ',', required = true)]
    peers: Vec<Who>,
    /// How long to wait before saying who lags
    #[arg(long, default_value = "30s", value_parser = settings::duration, value_name = "TIME")]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(Options { dir, peers, timeout, json }: Options) -> Result<(), Failure> {
    let token = sync_control::wait(&dir, named(&peers), timeout).await?;
    if json { daemon::print_json(&serde_json::json!({ "token": token })) } else { Ok(()) }
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

/// The devices to wait for; empty for all.
fn named(peers: &[Who]) -> Vec<String> {
    let named = peers.iter().map(|who| match who {
        Who::All => None,
        Who::Device(device) => Some(device.to_string()),
    });
    named.collect::<Option<_>>().unwrap_or_default()
}
