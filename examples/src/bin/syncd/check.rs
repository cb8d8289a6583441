//! `syncd check`: a replica against itself.

use std::path::PathBuf;

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_check::{self, Repair};

#[derive(Args)]
pub struct Options {
    /// An initialised directory
    dir: PathBuf,
    /// What may be put back where a file is damaged; what stands there is kept in a branch
    #[arg(long, value_enum, default_value = "files")]
    repair: Repair,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Fails if anything was found, so that a script notices.
pub async fn run(Options { dir, repair, json }: Options) -> Result<(), Failure> {
    let report = sync_check::ask(&dir, repair).await?;
    match json {
        true => daemon::print_json(&report)?,
        false => daemon::print(&report.to_string())?,
    }
    match report.findings.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(format!("{} is not sound", dir.display()))),
    }
}
