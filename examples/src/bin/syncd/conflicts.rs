//! `syncd conflicts`: what was changed on two sides at once.

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
    let list = sync_control::conflicts(&dir).await?;
    if json {
        return daemon::print_json(&list);
    }
    daemon::print(&list.iter().map(|conflict| format!("{conflict}\n")).collect::<String>())
}
