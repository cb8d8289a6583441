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
    /// What its devices call the folder, if anything.
    pub label: Option<String>,
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
    /// Branches that this replica keeps.
    pub branches: u64,
    /// Records refused because of a stale epoch.
    pub refused: u64,
    /// Every peer ever met.
    pub peers: Vec<PeerReport>,
    /// What needs a person's attention.
    pub problems: Vec<String>,
}

/// A peer as this replica knows it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its device ID.
    pub device: String,
    /// Whether a session with it is open.
    pub connected: bool,
    /// Our sequence up to which it has everything durably.
    pub acked: u64,
    /// How many sequences it lacks.
    pub behind: u64,
    /// What a person calls it; none while no daemon runs.
    pub name: Option<String>,
    /// Sessions with it since the daemon began.
    pub sessions: u64,
    /// Bytes received from it since the daemon began, without what TLS adds.
    pub received_bytes: u64,
    /// Bytes sent to it.
    pub sent_bytes: u64,
    /// Bytes a second received from it lately.
    pub received_bytes_per_second: u64,
    /// Bytes a second sent to it lately.
    pub sent_bytes_per_second: u64,
    /// Why there is no session with it, as far as this side knows.
    pub trouble: Option<String>,
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
    let digest = folder.digest().await?.to_string();
    Ok(SyncReport { digest, ..brief(folder) })
}

/// The same without the digest, which reads the whole index.
pub fn brief(folder: &Folder) -> SyncReport {
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
        ..PeerReport::default()
    });
    let problems = status.problems.iter().map(|problem| match &problem.path {
        Some(path) => format!("{path}: {}", problem.what),
        None => problem.what.clone(),
    });
    SyncReport {
        device: status.device.to_string(),
        label: None,
        folder: status.folder.map(|folder| folder.to_string()),
        files: status.files,
        bytes: status.bytes,
        digest: String::new(),
        sequence: status.sequence,
        epoch: status.epoch,
        role: role.to_owned(),
        pending: status.pending,
        conflicts: status.conflicts,
        branches: status.branches,
        refused: status.refused,
        peers: peers.collect(),
        problems: problems.collect(),
    }
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
        if let Some(label) = &self.label {
            writeln!(f, "label      {label}")?;
        }
        writeln!(f, "holds      {} files, {} bytes", self.files, self.bytes)?;
        writeln!(f, "digest     {}", self.digest)?;
        writeln!(f, "role       {} (epoch {})", self.role, self.epoch)?;
        writeln!(f, "pending    {}", self.pending)?;
        writeln!(f, "conflicts  {}", self.conflicts)?;
        if self.branches > 0 {
            writeln!(f, "branches   {} (see `syncd branch list`)", self.branches)?;
        }
        if !self.peers.is_empty() {
            let mut table = Table::new(&["PEER", "CONNECTED", "BEHIND", "IN", "OUT"]);
            for peer in &self.peers {
                let connected = if peer.connected { "yes" } else { "no" };
                table.row([
                    peer.name.clone().unwrap_or_else(|| peer.device.clone()),
                    connected.to_owned(),
                    peer.behind.to_string(),
                    rate(peer.received_bytes_per_second),
                    rate(peer.sent_bytes_per_second),
                ]);
            }
            write!(f, "\n{table}")?;
            for peer in &self.peers {
                if let Some(trouble) = &peer.trouble {
                    writeln!(
                        f,
                        "not connected to {}: {trouble}",
                        peer.name.as_ref().unwrap_or(&peer.device)
                    )?;
                }
            }
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem: {problem}"))
    }
}

/// A rate for a person.
fn rate(bytes_per_second: u64) -> String {
    match bytes_per_second {
        0 => "-".to_owned(),
        slow if slow < 10 << 10 => format!("{slow} B/s"),
        middle if middle < 10 << 20 => format!("{} KiB/s", middle >> 10),
        fast => format!("{} MiB/s", fast >> 20),
    }
}

impl fmt::Display for ConflictReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the version of {} is kept as {}", self.path, self.writer, self.kept_as)
    }
}
