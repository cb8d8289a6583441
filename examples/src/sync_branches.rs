//! Branches and conflicts of a replica: what `syncd branch` and `syncd conflicts --resolve` ask of a daemon, and how both
//! are told to a person and to a script.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use syncfs::{Cause, Change, Folder, RelPath, Resolution};

use crate::control::{self, ControlError};
use crate::daemon::Failure;
use crate::sync_control::{self, ASK_LIMIT, Request, path};

/// A question or an order about branches and conflicts. Paths are relative to the folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BranchRequest {
    /// Which branches are there? Answered by a list of [`BranchReport`].
    List,
    /// What would taking a branch change? Answered by a list of [`DifferenceReport`].
    Diff {
        /// The branch's name.
        branch: String,
    },
    /// Bring versions of a branch back; answered by the list of the paths that were written or deleted.
    Restore {
        /// The branch's name.
        branch: String,
        /// These, and what is below them; all if there are none.
        paths: Vec<String>,
        /// A directory to bring them to, instead of where they stood.
        to: Option<String>,
    },
    /// Remove a branch for good.
    Drop {
        /// The branch's name.
        branch: String,
    },
    /// End a conflict.
    Resolve {
        /// Its kept copy, or the path that it is about.
        conflict: String,
        /// Which version stays.
        keep: KeepWhich,
    },
}

/// Which version of a conflict stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepWhich {
    /// What stands at the path.
    Current,
    /// The copy.
    Copy,
    /// Both: the copy under this path.
    Both(String),
}

/// A branch. `name` is what the other commands take.
#[derive(Debug, Serialize, Deserialize)]
pub struct BranchReport {
    /// `<device>-<epoch>-<number>`.
    pub name: String,
    /// `stale-epoch`, `follower-edit`, `rejoined`, `damaged` or `found`.
    pub cause: String,
    /// The epoch under which it was written.
    pub epoch: u64,
    /// The epoch that was in force when it was set aside.
    pub over: u64,
    /// When it began, seconds since 1970.
    pub began: i64,
    /// How many paths it has.
    pub paths: u64,
    /// The size of their files, in bytes.
    pub bytes: u64,
}

/// A branch's version of a path, compared with the folder's.
#[derive(Debug, Serialize, Deserialize)]
pub struct DifferenceReport {
    /// The path.
    pub path: String,
    /// What taking the branch's version would change: `same`, `changed`, `new` or `deleted`.
    pub change: String,
    /// Size of the branch's version in bytes; none for a deletion.
    pub size: Option<u64>,
    /// Size of the folder's version in bytes; none where it has nothing.
    pub current: Option<u64>,
    /// Where the branch's version is; none for a deletion.
    pub kept_as: Option<PathBuf>,
}

/// Answers for an open folder.
pub async fn answer(folder: &Folder, request: BranchRequest) -> Result<Value, Failure> {
    Ok(match request {
        BranchRequest::List => {
            let branches = folder.branches().await?;
            let report = branches.iter().map(|branch| BranchReport {
                name: branch.name(),
                cause: match branch.cause {
                    Cause::StaleEpoch => "stale-epoch",
                    Cause::FollowerEdit => "follower-edit",
                    Cause::Damaged => "damaged",
                    Cause::Rejoined => "rejoined",
                    _ => "found",
                }
                .to_owned(),
                epoch: branch.epoch,
                over: branch.over,
                began: branch.began_ns / 1_000_000_000,
                paths: branch.paths,
                bytes: branch.bytes,
            });
            serde_json::to_value(report.collect::<Vec<_>>())?
        }
        BranchRequest::Diff { branch } => {
            let (differences, state) = (folder.diff(&branch).await?, folder.state_dir());
            let report = differences.iter().map(|one| DifferenceReport {
                path: one.path.to_string(),
                change: match one.change {
                    Change::Same => "same",
                    Change::New => "new",
                    Change::Deleted => "deleted",
                    _ => "changed",
                }
                .to_owned(),
                size: one.size,
                current: one.current,
                kept_as: one.kept_as.as_ref().map(|kept| state.join(OsStr::from_bytes(kept.as_bytes()))),
            });
            serde_json::to_value(report.collect::<Vec<_>>())?
        }
        BranchRequest::Restore { branch, paths, to } => {
            let paths = paths.iter().map(|path| named(path)).collect::<Result<Vec<_>, _>>()?;
            let to = to.as_deref().map(named).transpose()?;
            let restored = folder.restore_branch(&branch, &paths, to.as_ref()).await?;
            serde_json::to_value(restored.iter().map(ToString::to_string).collect::<Vec<_>>())?
        }
        BranchRequest::Drop { branch } => {
            folder.drop_branch(&branch).await?;
            Value::Null
        }
        BranchRequest::Resolve { conflict, keep } => {
            let copy = copy_of(folder, named(&conflict)?).await?;
            let resolution = match keep {
                KeepWhich::Current => Resolution::Current,
                KeepWhich::Copy => Resolution::Copy,
                KeepWhich::Both(name) => Resolution::Both(named(&name)?),
            };
            folder.resolve(&copy, resolution).await?;
            Value::Null
        }
    })
}

fn named(path: &str) -> Result<RelPath, Failure> {
    RelPath::new(path)
        .map_err(|error| Failure::new(format!("{path:?}: {error}; paths are relative to the folder")))
}

/// The kept copy that a person means: also by the path of its conflict, as long as that has one only.
async fn copy_of(folder: &Folder, path: RelPath) -> Result<RelPath, Failure> {
    let conflicts = folder.conflicts().await?;
    let about: Vec<_> = conflicts.into_iter().filter(|conflict| conflict.path == path).collect();
    match &about[..] {
        [] => Ok(path),
        [only] => Ok(only.kept_as.clone()),
        several => {
            let copies: Vec<_> = several.iter().map(|conflict| conflict.kept_as.to_string()).collect();
            Err(Failure::new(format!("{path} has several conflicts, name a copy: {}", copies.join(", "))))
        }
    }
}

/// Asks the daemon of a folder, or, if nobody serves it, the folder itself. What writes into the folder needs the daemon:
/// only that knows whether a history is kept.
pub async fn ask<T: serde::de::DeserializeOwned>(dir: &Path, request: BranchRequest) -> Result<T, Failure> {
    let asked = control::ask(&path(dir), &Request::Branch(request.clone()), ASK_LIMIT).await;
    match (asked, request) {
        (Err(ControlError::NotRunning(_)), BranchRequest::Restore { .. } | BranchRequest::Resolve { .. }) => {
            Err(sync_control::nobody_serves(dir))
        }
        (Err(ControlError::NotRunning(_)), request) => {
            let folder = sync_control::open(dir).await?;
            let answer = answer(&folder, request).await;
            folder.close().await;
            Ok(serde_json::from_value(answer?)?)
        }
        (asked, _) => Ok(asked?),
    }
}

impl fmt::Display for DifferenceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |size: Option<u64>| size.map_or_else(|| "nothing".to_owned(), |size| format!("{size} B"));
        write!(f, "{:8} {}", self.change, self.path)?;
        match self.change.as_str() {
            "same" => Ok(()),
            _ => write!(f, "  ({} instead of {})", size(self.size), size(self.current)),
        }
    }
}
