//! What `syncd` says about a replica, to a person and to a script.

use std::fmt;

use serde::{Deserialize, Serialize};
use syncfs::{Folder, Role};

use crate::daemon::Failure;
use crate::table::Table;

/// A replica's state. All IDs are in text form.
#[derive(Debug, Serialize, Deserialize)]
pub struct SyncReport {
    /// This replica.
    pub device: String,
    /// The folder; none until an empty replica has met its first peer.
    pub folder: Option<String>,
    /// Live files.
    pub files: u64,
    /// Their total size.
    pub bytes: u64,
    /// Equal on two replicas exactly when their folders are equal.
    pub digest: String,
    /// The local sequence: grows with every change.
    pub sequence: u64,
    /// The highest fence epoch ever seen.
    pub epoch: u64,
    /// `shared`, `holder` or `follower`.
    pub role: String,
    /// Versions of peers that are decided on and not yet durable here.
    pub pending: u64,
    /// Conflicts recorded so far.
    pub conflicts: u64,
    /// Records refused because of a stale epoch.
    pub refused: u64,
    /// Every peer ever met.
    pub peers: Vec<PeerReport>,
    /// What needs a person's attention.
    pub problems: Vec<String>,
}

/// A peer as this replica knows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its device ID.
    pub device: String,
    /// Whether a session with it is open.
    pub connected: bool,
    /// Our sequence up to which it has everything durably.
    pub acked: u64,
    /// How many sequences it lacks.
    pub behind: u64,
}

/// A file that was changed on two sides at once.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConflictReport {
    /// The path that both wrote.
    pub path: String,
    /// Where the version that lost is kept.
    pub kept_as: String,
    /// Who wrote it.
    pub writer: String,
}

/// Asks a folder for its state.
pub async fn status(folder: &Folder) -> Result<SyncReport, Failure> {
    let digest = folder.digest().await?;
    let status = folder.status();
    let role = match status.role {
        Role::Holder => "holder",
        Role::Follower => "follower",
        _ => "shared",
    };
    let peers = status.peers.iter().map(|peer| PeerReport {
        device: peer.device.to_string(),
        connected: peer.connected,
        acked: peer.acked,
        behind: peer.behind,
    });
    let problems = status.problems.iter().map(|problem| match &problem.path {
        Some(path) => format!("{path}: {}", problem.what),
        None => problem.what.clone(),
    });
    Ok(SyncReport {
        device: status.device.to_string(),
        folder: status.folder.map(|folder| folder.to_string()),
        files: status.files,
        bytes: status.bytes,
        digest: digest.to_string(),
        sequence: status.sequence,
        epoch: status.epoch,
        role: role.to_owned(),
        pending: status.pending,
        conflicts: status.conflicts,
        refused: status.refused,
        peers: peers.collect(),
        problems: problems.collect(),
    })
}

/// Asks a folder for its conflicts.
pub async fn conflicts(folder: &Folder) -> Result<Vec<ConflictReport>, Failure> {
    let list = folder.conflicts().await?;
    let report = list.iter().map(|conflict| ConflictReport {
        path: conflict.path.to_string(),
        kept_as: conflict.kept_as.to_string(),
        writer: conflict.writer.clone(),
    });
    Ok(report.collect())
}

impl fmt::Display for SyncReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "device     {}", self.device)?;
        writeln!(f, "folder     {}", self.folder.as_deref().unwrap_or("that of the first peer"))?;
        writeln!(f, "holds      {} files, {} bytes", self.files, self.bytes)?;
        writeln!(f, "digest     {}", self.digest)?;
        writeln!(f, "role       {} (epoch {})", self.role, self.epoch)?;
        writeln!(f, "pending    {}", self.pending)?;
        writeln!(f, "conflicts  {}", self.conflicts)?;
        if !self.peers.is_empty() {
            let mut table = Table::new(&["PEER", "CONNECTED", "BEHIND"]);
            for peer in &self.peers {
                let connected = if peer.connected { "yes" } else { "no" };
                table.row([peer.device.clone(), connected.to_owned(), peer.behind.to_string()]);
            }
            write!(f, "\n{table}")?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem: {problem}"))
    }
}

impl fmt::Display for ConflictReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the version of {} is kept as {}", self.path, self.writer, self.kept_as)
    }
}
