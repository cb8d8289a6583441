//! Questions about a replica and their answers, whether its `syncd` runs or not.
//!
//! A running daemon answers on `DIR/.syncfs/control.sock`; it holds the folder, so nobody else can open it. While
//! nobody serves the folder, it is opened for the time of the question.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use syncfs::{At, Config, DeviceId, Folder, RelPath};

use crate::control::{self, ControlError};
use crate::daemon::{Context, Failure};
use crate::sync_branches::{self, BranchRequest};
use crate::sync_check::{CheckedReport, Repair};
use crate::sync_journal::Extract;
use crate::sync_node::Node;
use crate::sync_report::{self, ConflictReport, FoundReport, SyncReport, VersionReport};
use crate::sync_settings::{ServeFlags, SyncSettings};

/// How long a question may take, beyond what was asked for.
pub const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long a question may take that looks through the whole directory.
pub const SCAN_LIMIT: Duration = Duration::from_secs(600);
/// How long a question may take that reads the whole directory.
pub const CHECK_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a question about events may wait for one.
pub const EVENTS_WAIT_MAX: Duration = Duration::from_secs(30);

/// A question to a running daemon. Paths are the bytes of their names inside the folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is the replica? Answered by a [`SyncReport`].
    Status,
    /// What is the folder's digest? Reads the whole index.
    Digest,
    /// Which files were changed on two sides? Answered by a list of [`ConflictReport`].
    Conflicts,
    /// About branches, and how conflicts end.
    Branch(BranchRequest),
    /// Take up what stands there now; answered by the barrier's token.
    Flush,
    /// The same, and nothing has the folder open any more: what stands there now is consistent.
    Seal,
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
    /// Look through the whole directory; answered by a [`FoundReport`].
    Scan,
    /// The same, and what vanished was meant.
    ConfirmDeletions,
    /// Read every file anew and compare it with the index; answered by a [`CheckedReport`].
    Check {
        /// What may be put back.
        repair: Repair,
    },
    /// Show the newest version of databases; answered by how many still wait for a part of it.
    Materialise {
        /// This path and what is below it; none for all.
        path: Option<Vec<u8>>,
    },
    /// Become the folder's one writer under a lease of this number; answered by nothing.
    Hold {
        /// The number.
        epoch: u64,
    },
    /// Stop being it; answered by nothing.
    Follow,
    /// Of a replica that rejoins: nobody remembers more; answered by whether it was rejoining.
    RejoinAlone,
    /// Of a replica that only sends: which paths differ at a peer? Answered by a list of paths.
    Differing,
    /// Of a replica that only sends: replace those versions; answered by their number.
    Override,
    /// What is kept of a path, or of everything below it? Answered by a list of [`VersionReport`].
    History {
        /// The path.
        path: Vec<u8>,
    },
    /// Bring kept versions back; answered by the paths that were written.
    Restore {
        /// Of this path, or of everything below it.
        path: Vec<u8>,
        /// Which.
        at: Kept,
        /// Where to, instead of where it stood.
        to: Option<Vec<u8>>,
    },
}

/// Which kept version is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// What stood there then, nanoseconds since 1970.
    Time(i64),
    /// The one of this number.
    Version(u64),
}

/// The control socket of the replica in `dir`.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(".syncfs").join("control.sock")
}

/// Answers a question about the folder at this place of a daemon.
pub async fn answer(node: Arc<Node>, place: usize, request: Request) -> Result<Value, Failure> {
    let share = &node.folders()[place];
    // Its status can be asked for before it is open.
    let folder = || share.folder();
    Ok(match request {
        Request::Status => serde_json::to_value(node.status(place))?,
        Request::Digest => Value::from(folder()?.digest().await?.to_string()),
        Request::Conflicts => serde_json::to_value(sync_report::conflicts(folder()?).await?)?,
        Request::Branch(request) => sync_branches::answer(folder()?, request).await?,
        Request::Events { after, wait_ms } => {
            let after = after.unwrap_or_else(|| share.journal.last());
            let wait = Duration::from_millis(wait_ms).min(EVENTS_WAIT_MAX);
            serde_json::to_value(share.journal.since(after, wait).await)?
        }
        Request::Flush => Value::from(folder()?.flush().await?.to_string()),
        Request::Seal => Value::from(folder()?.seal().await?.to_string()),
        Request::Wait { peers, timeout_ms } => {
            let peers: Vec<DeviceId> = match peers.is_empty() {
                true if share.served.peers.is_empty() => {
                    return Err(Failure::new("there is no peer to wait for: serve with --peer"));
                }
                true => share.served.peers.iter().copied().collect(),
                false => peers.iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
            };
            let token = folder()?.flush().await?;
            folder()?.wait(&token, &peers, Duration::from_millis(timeout_ms)).await?;
            Value::from(token.to_string())
        }
        Request::Scan => serde_json::to_value(FoundReport::from(folder()?.scan().await?))?,
        Request::ConfirmDeletions => {
            serde_json::to_value(FoundReport::from(folder()?.confirm_deletions().await?))?
        }
        Request::Materialise { path } => {
            let path = path.map(RelPath::new).transpose()?;
            Value::from(folder()?.materialise(path.as_ref()).await?)
        }
        Request::Hold { epoch } => {
            folder()?.hold(epoch).await?;
            Value::Null
        }
        Request::Follow => {
            folder()?.follow().await?;
            Value::Null
        }
        Request::RejoinAlone => Value::from(folder()?.rejoin_alone().await?),
        Request::Check { repair } => {
            serde_json::to_value(CheckedReport::from(folder()?.check(repair.into()).await?))?
        }
        Request::Differing => {
            let paths = folder()?.differing().await?;
            Value::from(paths.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
        Request::Override => Value::from(folder()?.override_peers().await?),
        Request::History { path } => {
            let versions = folder()?.history(&RelPath::new(path)?).await?;
            serde_json::to_value(versions.iter().map(VersionReport::from).collect::<Vec<_>>())?
        }
        Request::Restore { path, at, to } => {
            let at = match at {
                Kept::Time(at_ns) => At::Time(at_ns),
                Kept::Version(id) => At::Version(id),
            };
            let to = to.map(RelPath::new).transpose()?;
            let paths = folder()?.restore(&RelPath::new(path)?, at, to.as_ref()).await?;
            Value::from(paths.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
    })
}

/// Where a daemon leaves word in a replica of the settings that it serves it with: whoever opens it while nobody serves it
/// must ignore the same files and keep to the same direction.
fn word(dir: &Path) -> PathBuf {
    dir.join(".syncfs").join("settings")
}

/// Leaves word of the file with a replica's settings; none if flags alone said how.
pub fn leave_word(dir: &Path, settings: Option<&Path>) -> Result<(), Failure> {
    let word = word(dir);
    let done = match settings {
        Some(file) => std::fs::write(&word, file.as_os_str().as_bytes()),
        None => std::fs::remove_file(&word),
    };
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(word.display()),
        _ => Ok(()),
    }
}

/// Opens a replica that nobody serves, as its daemon would.
///
/// # Errors
/// If the settings that it was served with cannot be read any more, or the folder cannot be opened.
pub async fn open(dir: &Path) -> Result<Folder, Failure> {
    let config = match std::fs::read(word(dir)) {
        Err(_) => Config::new(dir),
        Ok(file) => {
            let file = PathBuf::from(std::ffi::OsString::from(std::ffi::OsStr::from_bytes(&file)));
            let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let settings = SyncSettings::new(None, ServeFlags::default(), Some(&file));
            let context =
                format!("nobody serves {}, and the settings that it was served with", dir.display());
            let mut folders = settings.context(context)?.folders.into_iter();
            let served = folders.find(|served| real(&served.config.root) == real(dir));
            let missing =
                || Failure::new(format!("{} has no [[folder]] for {}", file.display(), dir.display()));
            served.ok_or_else(missing)?.config
        }
    };
    Ok(Folder::open(config).await?)
}

/// The state of the replica in `dir`.
pub async fn status(dir: &Path) -> Result<SyncReport, Failure> {
    match control::ask(&path(dir), &Request::Status, ASK_LIMIT).await {
        Err(ControlError::NotRunning(_)) => {
            let folder = open(dir).await?;
            let report = sync_report::status(&folder);
            folder.close().await;
            Ok(report)
        }
        asked => Ok(asked?),
    }
}

/// The digest of the replica in `dir`: equal on two replicas exactly when their folders are equal.
pub async fn digest(dir: &Path) -> Result<String, Failure> {
    match control::ask(&path(dir), &Request::Digest, SCAN_LIMIT).await {
        Err(ControlError::NotRunning(_)) => {
            let folder = open(dir).await?;
            let digest = folder.digest().await;
            folder.close().await;
            Ok(digest?.to_string())
        }
        asked => Ok(asked?),
    }
}

/// The conflicts of the replica in `dir`.
pub async fn conflicts(dir: &Path) -> Result<Vec<ConflictReport>, Failure> {
    match control::ask(&path(dir), &Request::Conflicts, ASK_LIMIT).await {
        Err(ControlError::NotRunning(_)) => {
            let folder = open(dir).await?;
            let list = sync_report::conflicts(&folder).await;
            folder.close().await;
            list
        }
        asked => Ok(asked?),
    }
}

/// What helps whoever asks a daemon that is not there.
pub fn nobody_serves(dir: &Path) -> Failure {
    let is_replica = dir.join(".syncfs").is_dir();
    let dir = dir.display();
    Failure::new(match is_replica {
        true => format!(
            "nobody serves {dir}: start `syncd serve {dir} --listen ADDR --peer ID@HOST:PORT`, or `syncd serve --config FILE`"
        ),
        false => format!("{dir} is no replica: name the directory that `syncd init` made one"),
    })
}

/// Asks the daemon that serves the replica in `dir`; `limit` bounds the whole exchange.
pub async fn ask<A: DeserializeOwned>(dir: &Path, request: &Request, limit: Duration) -> Result<A, Failure> {
    match control::ask(&path(dir), request, limit).await {
        Err(ControlError::NotRunning(_)) => Err(nobody_serves(dir)),
        asked => Ok(asked?),
    }
}

/// Waits until these peers (all, if there are none) have everything that was written into `dir` so far. Returns the
/// barrier's token.
pub async fn wait(dir: &Path, peers: Vec<String>, timeout: Duration) -> Result<String, Failure> {
    let request = Request::Wait { peers, timeout_ms: timeout.as_millis().try_into().unwrap_or(u64::MAX) };
    ask(dir, &request, timeout + ASK_LIMIT).await
}

/// The events of the replica in `dir` after number `after`, or from now on; none if nothing happens for a while.
pub async fn events(dir: &Path, after: Option<u64>) -> Result<Extract, Failure> {
    let wait_ms = EVENTS_WAIT_MAX.as_millis().try_into().unwrap_or(u64::MAX);
    ask(dir, &Request::Events { after, wait_ms }, EVENTS_WAIT_MAX + ASK_LIMIT).await
}

/// The replica that a path is in, and the path inside it. Nothing needs to stand there (any more).
pub fn find(path: &Path) -> Result<(PathBuf, RelPath), Failure> {
    let whole = std::path::absolute(path).context(path.display())?;
    let root = whole.ancestors().find(|dir| dir.join(".syncfs/marker").exists());
    let outside =
        || Failure::new(format!("{}: not in a directory that was initialised as a replica", path.display()));
    let root = root.ok_or_else(outside)?;
    let inside = whole.strip_prefix(root).expect("it is an ancestor");
    let inside = RelPath::new(inside.as_os_str().as_bytes());
    let named = format!("{}: name a file or directory inside the replica", path.display());
    Ok((root.to_owned(), inside.context(named)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_its_replica_although_nothing_stands_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".syncfs")).unwrap();
        std::fs::write(dir.path().join(".syncfs/marker"), "").unwrap();
        let (root, inside) = find(&dir.path().join("gone/letter")).unwrap();
        assert_eq!((root.as_path(), inside.to_string().as_str()), (dir.path(), "gone/letter"));
        for wrong in [dir.path().to_owned(), dir.path().join("a/../b"), "/no/such/replica".into()] {
            assert!(find(&wrong).unwrap_err().to_string().contains(&wrong.display().to_string()));
        }
    }
}
