//! Commands that make a daemon look at its folder, and say what it finds: `scan`, `confirm-deletions`, `flush`, `seal`,
//! `digest`, `differing` and `override`.

use std::path::{Path, PathBuf};

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_control::{self, ASK_LIMIT, Request, SCAN_LIMIT};
use hybrid_examples::sync_report::FoundReport;
use serde_json::json;

#[derive(Args)]
pub struct Options {
    /// A directory that is being served
    pub dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub async fn scan(options: Options) -> Result<(), Failure> {
    found(options, &Request::Scan).await
}

pub async fn confirm_deletions(options: Options) -> Result<(), Failure> {
    found(options, &Request::ConfirmDeletions).await
}

async fn found(Options { dir, json }: Options, request: &Request) -> Result<(), Failure> {
    let report: FoundReport = sync_control::ask(&dir, request, SCAN_LIMIT).await?;
    if json {
        return daemon::print_json(&report);
    }
    let FoundReport { seen, changed, deleted, problems } = report;
    let problems = problems.iter().map(|problem| format!("problem: {problem}\n")).collect::<String>();
    daemon::print(&format!("{seen} entries: {changed} changed, {deleted} deleted\n{problems}"))
}

pub async fn flush(Options { dir, json }: Options) -> Result<(), Failure> {
    let token: String = sync_control::ask(&dir, &Request::Flush, SCAN_LIMIT).await?;
    say(json, "token", &token)
}

pub async fn seal(Options { dir, json }: Options) -> Result<(), Failure> {
    let token: String = sync_control::ask(&dir, &Request::Seal, SCAN_LIMIT).await?;
    say(json, "token", &token)
}

pub async fn rejoin_alone(Options { dir, json }: Options) -> Result<(), Failure> {
    let waited: bool = sync_control::ask(&dir, &Request::RejoinAlone, SCAN_LIMIT).await?;
    if json {
        return daemon::print_json(&json!({ "waited": waited }));
    }
    daemon::print(match waited {
        true => "it waits no more: what stands there is its own\n",
        false => "it was not waiting for a peer: nothing is changed\n",
    })
}

pub async fn digest(Options { dir, json }: Options) -> Result<(), Failure> {
    say(json, "digest", &sync_control::digest(&dir).await?)
}

pub async fn differing(Options { dir, json }: Options) -> Result<(), Failure> {
    sends_only(&dir).await?;
    let paths: Vec<String> = sync_control::ask(&dir, &Request::Differing, ASK_LIMIT).await?;
    if json {
        return daemon::print_json(&paths);
    }
    daemon::print(&paths.iter().map(|path| format!("{path}\n")).collect::<String>())
}

pub async fn override_peers(Options { dir, json }: Options) -> Result<(), Failure> {
    sends_only(&dir).await?;
    let count: u64 = sync_control::ask(&dir, &Request::Override, SCAN_LIMIT).await?;
    if json {
        return daemon::print_json(&json!({ "overridden": count }));
    }
    daemon::print(&format!("{count} paths of peers are replaced by what stands here\n"))
}

async fn sends_only(dir: &Path) -> Result<(), Failure> {
    let direction = sync_control::status(dir).await?.direction;
    if direction == "send" {
        return Ok(());
    }
    let dir = dir.display();
    Err(Failure::new(format!(
        "{dir}: its direction is `{direction}`: only a folder that sends and does not take differs"
    )))
}

pub fn say(json: bool, name: &str, value: &str) -> Result<(), Failure> {
    if json { daemon::print_json(&json!({ name: value })) } else { daemon::print(&format!("{value}\n")) }
}
