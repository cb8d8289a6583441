//! `syncd branch`: versions that left the folder, because their writer had lost the lease or never had it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_branches::{BranchReport, BranchRequest, DifferenceReport, ask};
use hybrid_examples::sync_report::size;
use hybrid_examples::sync_time;
use hybrid_examples::table::Table;

#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the branches that a replica keeps, the newest first
    List {
        /// An initialised directory
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what taking a branch would change, and where its files are
    Diff {
        /// An initialised directory
        dir: PathBuf,
        /// A name that `list` prints
        branch: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring versions of a branch back into the folder, from where its peers get them
    ///
    /// What stands there goes into the history, or else stays beside as the copy of a conflict. The branch stays.
    Restore {
        /// A directory that is being served by the holder of the lease
        dir: PathBuf,
        /// A name that `list` prints
        branch: String,
        /// These, and what is below them, relative to the folder [default: all]
        paths: Vec<String>,
        /// Bring them to this directory of the folder instead
        #[arg(long, value_name = "PATH")]
        to: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a branch and its files for good
    Drop {
        /// An initialised directory
        dir: PathBuf,
        /// A name that `list` prints
        branch: String,
    },
}

pub async fn run(Options { command }: Options) -> Result<(), Failure> {
    match command {
        Command::List { dir, json } => list(&dir, json).await,
        Command::Diff { dir, branch, json } => diff(&dir, branch, json).await,
        Command::Restore { dir, branch, paths, to, json } => {
            let restored: Vec<String> = ask(&dir, BranchRequest::Restore { branch, paths, to }).await?;
            if json {
                return daemon::print_json(&restored);
            }
            daemon::print(&restored.iter().map(|path| format!("{path}\n")).collect::<String>())
        }
        Command::Drop { dir, branch } => ask(&dir, BranchRequest::Drop { branch }).await,
    }
}

async fn list(dir: &Path, json: bool) -> Result<(), Failure> {
    let branches: Vec<BranchReport> = ask(dir, BranchRequest::List).await?;
    if json {
        return daemon::print_json(&branches);
    }
    if branches.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["BRANCH", "CAUSE", "EPOCH", "OVER", "PATHS", "SIZE", "BEGAN (UTC)"]);
    for branch in branches {
        let [epoch, over, paths] = [branch.epoch, branch.over, branch.paths].map(|number| number.to_string());
        let (size, began) =
            (size(branch.bytes), sync_time::shown(branch.began.saturating_mul(1_000_000_000)));
        table.row([branch.name, branch.cause, epoch, over, paths, size, began]);
    }
    daemon::print(&table.to_string())
}

async fn diff(dir: &Path, branch: String, json: bool) -> Result<(), Failure> {
    let differences: Vec<DifferenceReport> = ask(dir, BranchRequest::Diff { branch }).await?;
    if json {
        return daemon::print_json(&differences);
    }
    let mut lines = String::new();
    for difference in &differences {
        lines += &format!("{difference}\n");
        if let (Some(kept), "changed") = (&difference.kept_as, difference.change.as_str()) {
            let (ours, theirs) = (dir.join(&difference.path), kept);
            lines += &format!("         diff -u {} {}\n", ours.display(), theirs.display());
        }
    }
    daemon::print(&lines)
}
