//! `syncd status`: how a replica is.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_control;

const WATCH_EVERY: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Options {
    /// An initialised directory
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show it anew every second, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

pub async fn run(Options { dir, json, watch }: Options) -> Result<(), Failure> {
    loop {
        let report = sync_control::status(&dir).await?;
        if json {
            return daemon::print_json(&report);
        }
        let clear = if watch && std::io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
        daemon::print(&format!("{clear}{report}"))?;
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}
