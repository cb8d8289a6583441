//! `syncd conflicts`: what was changed on two sides at once, and which version stays.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_branches::{self, BranchRequest, KeepWhich};
use hybrid_examples::sync_control;

#[derive(Args)]
pub struct Options {
    /// An initialised directory
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// End the conflict about this path, or with this kept copy; relative to the folder, which must be served
    #[arg(long, value_name = "PATH", requires = "keep", conflicts_with = "json")]
    resolve: Option<String>,
    /// What stays: what stands at the path, the copy in its place, or both. What does not stay goes into the history, if
    /// one is kept
    #[arg(long, requires = "resolve")]
    keep: Option<Which>,
    /// The copy's new path, with `--keep both`
    #[arg(long = "as", value_name = "PATH", required_if_eq("keep", "both"))]
    name: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Current,
    Copy,
    Both,
}

pub async fn run(Options { dir, json, resolve, keep, name }: Options) -> Result<(), Failure> {
    if let (Some(conflict), Some(which)) = (resolve, keep) {
        let keep = match (which, name) {
            (Which::Current, None) => KeepWhich::Current,
            (Which::Copy, None) => KeepWhich::Copy,
            (Which::Both, Some(name)) => KeepWhich::Both(name),
            _ => return Err(Failure::new("--as names the copy with --keep both, and only there")),
        };
        return sync_branches::ask(&dir, BranchRequest::Resolve { conflict, keep }).await;
    }
    let list = sync_control::conflicts(&dir).await?;
    if json {
        return daemon::print_json(&list);
    }
    daemon::print(&list.iter().map(|conflict| format!("{conflict}\n")).collect::<String>())
}
