//! Questions about a replica and their answers, whether its `syncd` runs or not.
//!
//! A running daemon answers on `DIR/.syncfs/control.sock`; it holds the folder, so nobody else can open it. While
//! nobody serves the folder, it is opened for the time of the question.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use syncfs::{Config, DeviceId, Folder};

use crate::control::{self, ControlError};
use crate::daemon::Failure;
use crate::sync_branches::{self, BranchRequest};
use crate::sync_journal::Extract;
use crate::sync_node::Node;
use crate::sync_report::{self, ConflictReport, SyncReport};

/// How long a question may take, beyond what was asked for.
pub const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long a question about events may wait for one.
pub const EVENTS_WAIT_MAX: Duration = Duration::from_secs(30);

/// A question to a running daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is the replica? Answered by a [`SyncReport`].
    Status,
    /// Which files were changed on two sides? Answered by a list of [`ConflictReport`].
    Conflicts,
    /// About branches, and how conflicts end.
    Branch(BranchRequest),
    /// Tell when peers have everything written so far; answered by the barrier's token.
    Wait {
        /// Their device IDs; empty for all that the daemon was started with.
        peers: Vec<String>,
        /// When to give up and name who lags.
        timeout_ms: u64,
    },
    /// What happened? Answered by an [`Extract`] of the daemon's journal, as soon as there is something.
    Events {
        /// The number of the last event that is known; none to begin with the next one.
        after: Option<u64>,
        /// When to answer although nothing happened, at most [`EVENTS_WAIT_MAX`].
        wait_ms: u64,
    },
}

/// The control socket of the replica in `dir`.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(".syncfs").join("control.sock")
}

/// Answers a question about the folder at this place of a daemon.
pub async fn answer(node: Arc<Node>, place: usize, request: Request) -> Result<Value, Failure> {
    let share = &node.folders()[place];
    let folder = &share.folder;
    Ok(match request {
        Request::Status => {
            let mut report = sync_report::status(folder).await?;
            node.complete(place, &mut report);
            serde_json::to_value(report)?
        }
        Request::Conflicts => serde_json::to_value(sync_report::conflicts(folder).await?)?,
        Request::Branch(request) => sync_branches::answer(folder, request).await?,
        Request::Events { after, wait_ms } => {
            let after = after.unwrap_or_else(|| share.journal.last());
            let wait = Duration::from_millis(wait_ms).min(EVENTS_WAIT_MAX);
            serde_json::to_value(share.journal.since(after, wait).await)?
        }
        Request::Wait { peers, timeout_ms } => {
            let peers: Vec<DeviceId> = match peers.is_empty() {
                true if share.served.peers.is_empty() => {
                    return Err(Failure::new("there is no peer to wait for: serve with --peer"));
                }
                true => share.served.peers.iter().copied().collect(),
                false => peers.iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
            };
            let token = folder.flush().await?;
            folder.wait(&token, &peers, Duration::from_millis(timeout_ms)).await?;
            Value::from(token.to_string())
        }
    })
}

/// The state of the replica in `dir`.
pub async fn status(dir: &Path) -> Result<SyncReport, Failure> {
    match control::ask(&path(dir), &Request::Status, ASK_LIMIT).await {
        Err(ControlError::NotRunning(_)) => {
            let folder = Folder::open(Config::new(dir)).await?;
            let report = sync_report::status(&folder).await;
            folder.close().await;
            report
        }
        asked => Ok(asked?),
    }
}

/// The conflicts of the replica in `dir`.
pub async fn conflicts(dir: &Path) -> Result<Vec<ConflictReport>, Failure> {
    match control::ask(&path(dir), &Request::Conflicts, ASK_LIMIT).await {
        Err(ControlError::NotRunning(_)) => {
            let folder = Folder::open(Config::new(dir)).await?;
            let list = sync_report::conflicts(&folder).await;
            folder.close().await;
            list
        }
        asked => Ok(asked?),
    }
}

/// Waits until these peers (all, if there are none) have everything that was written into `dir` so far.
pub async fn wait(dir: &Path, peers: Vec<String>, timeout: Duration) -> Result<(), Failure> {
    let request = Request::Wait { peers, timeout_ms: timeout.as_millis().try_into().unwrap_or(u64::MAX) };
    match control::ask::<String>(&path(dir), &request, timeout + ASK_LIMIT).await {
        Err(ControlError::NotRunning(_)) => {
            let dir = dir.display();
            let reason = "so nothing reaches its peers: start";
            Err(Failure::new(format!("nobody serves {dir}, {reason} `syncd serve {dir}`")))
        }
        asked => Ok(asked.map(drop)?),
    }
}

/// The events of the replica in `dir` after number `after`, or from now on; none if nothing happens for a while.
pub async fn events(dir: &Path, after: Option<u64>) -> Result<Extract, Failure> {
    let wait_ms = EVENTS_WAIT_MAX.as_millis().try_into().unwrap_or(u64::MAX);
    let request = Request::Events { after, wait_ms };
    match control::ask(&path(dir), &request, EVENTS_WAIT_MAX + ASK_LIMIT).await {
        Err(ControlError::NotRunning(_)) => {
            let dir = dir.display();
            Err(Failure::new(format!("nobody serves {dir}, so nothing happens: start `syncd serve {dir}`")))
        }
        asked => Ok(asked?),
    }
}
