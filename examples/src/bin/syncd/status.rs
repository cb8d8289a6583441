//! `syncd status`: how a replica is.

use std::path::PathBuf;

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_control;

#[derive(Args)]
pub struct Options {
    /// An initialised directory
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(Options { dir, json }: Options) -> Result<(), Failure> {
    let report = sync_control::status(&dir).await?;
    if json { daemon::print_json(&report) } else { daemon::print(&report.to_string()) }
}
