//! `syncd hold`, `syncd follow` and `syncd materialise`: folders with one writer at a time.

use std::path::PathBuf;

use clap::Args;
use hybrid_examples::daemon::{self, Failure};
use hybrid_examples::sync_control::{self, Request, SCAN_LIMIT};
use serde_json::json;

use crate::look;

#[derive(Args)]
pub struct Hold {
    /// A directory that is being served
    dir: PathBuf,
    /// The number of the lease: higher than that of every holder before. Who hands out leases must not give one out twice
    epoch: u64,
}

#[derive(Args)]
pub struct Materialise {
    /// A directory that is being served
    dir: PathBuf,
    /// This database, or those below this directory, relative to the folder [default: all]
    path: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn hold(Hold { dir, epoch }: Hold) -> Result<(), Failure> {
    sync_control::ask(&dir, &Request::Hold { epoch }, SCAN_LIMIT).await
}

pub async fn follow(look::Options { dir, json }: look::Options) -> Result<(), Failure> {
    sync_control::ask::<()>(&dir, &Request::Follow, SCAN_LIMIT).await?;
    let role = sync_control::status(&dir).await?.role;
    look::say(json, "role", &role)
}

/// Fails while something is missing, so that a script notices.
pub async fn materialise(Materialise { dir, path, json }: Materialise) -> Result<(), Failure> {
    let request = Request::Materialise { path: path.map(String::into_bytes) };
    let left: u64 = sync_control::ask(&dir, &request, SCAN_LIMIT).await?;
    if json {
        daemon::print_json(&json!({ "left": left }))?;
    }
    match left {
        0 => Ok(()),
        1 => Err(Failure::new(
            "a database still shows an older version: a part of the newest has to come from a peer first (`syncd status`)",
        )),
        left => Err(Failure::new(format!(
            "{left} databases still show an older version: a part of the newest has to come from a peer first (`syncd status`)"
        ))),
    }
}
