//! What `syncd` says about a replica, to a person and to a script.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncfs::{
    Consistency, Direction, Folder, Pause, Problem, Restless, Role, ScanReport, Unmaterialised, Version,
};

use crate::daemon::Failure;
use crate::sync_time;
use crate::table::Table;

/// A replica's state. All IDs are in text form.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SyncReport {
    /// This replica.
    pub device: String,
    /// What its devices call the folder, if anything.
    pub label: Option<String>,
    /// While its daemon still looks through it for the first time: nothing below is known then.
    #[serde(default)]
    pub first_scan: Option<FirstScan>,
    /// The folder; none until an empty replica has met its first peer.
    pub folder: Option<String>,
    /// Live files.
    pub files: u64,
    /// Their total size.
    pub bytes: u64,
    /// The local sequence: grows with every change.
    pub sequence: u64,
    /// The highest fence epoch ever seen.
    pub epoch: u64,
    /// `shared`, `holder` or `follower`.
    pub role: String,
    /// `both`, `send` or `receive`.
    pub direction: String,
    /// Of a replica that only sends: paths of which a peer has a version that was not taken.
    pub differing: u64,
    /// Files that vanished at once and are not taken as deleted before somebody confirms it.
    pub held_deletions: u64,
    /// What keeps the replica from working for now; none if nothing does.
    pub paused: Option<PauseReport>,
    /// Whether what stands here is a state that an application can start from.
    pub consistency: ConsistencyReport,
    /// Versions of peers that are decided on and not yet durable here.
    pub pending: u64,
    /// Conflicts that stand in the folder.
    pub conflicts: u64,
    /// Branches that this replica keeps.
    pub branches: u64,
    /// Records refused because of a stale epoch.
    pub refused: u64,
    /// Every peer ever met.
    pub peers: Vec<PeerReport>,
    /// Databases of which what is visible is older than what is durable here.
    #[serde(default)]
    pub unmaterialised: Vec<UnmaterialisedReport>,
    /// What changed and could not be read since: databases and groups without a pause that is long enough.
    pub restless: Vec<RestlessReport>,
    /// What needs a person's attention.
    pub problems: Vec<String>,
}

/// How far a daemon is that has to look through a folder before it can serve it.
#[derive(Debug, Serialize, Deserialize)]
pub struct FirstScan {
    /// How many files it has read; those that are as it knew them need not be.
    pub files_read: u64,
}

/// A database that is newer than its visible file.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnmaterialisedReport {
    /// Its path.
    pub path: String,
    /// What is kept beside the visible file, in bytes.
    pub bytes: u64,
}

/// Something that does not hold still long enough to be read: peers have an older state of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct RestlessReport {
    /// The file, or the first path of a group.
    pub path: String,
    /// Since when, seconds since 1970.
    pub since: i64,
    /// Why the last attempt did not succeed.
    pub why: String,
}

/// A replica that waits until its disk or its index can be used again, and then goes on by itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct PauseReport {
    /// What is wrong.
    pub why: String,
    /// Since when, seconds since 1970.
    pub since: i64,
    /// Local changes still go out, only there is no room for what peers have.
    pub only_receiving: bool,
}

/// Whether what stands here is known to be consistent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ConsistencyReport {
    /// `known`, `unknown`, or `incomplete` before anything complete came here.
    pub state: String,
    /// The first paths that changed since it was known.
    pub loose: Vec<String>,
    /// Whether there are more.
    pub more: bool,
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
    /// Why it fetches nothing for now, in its own words.
    #[serde(default)]
    pub paused: Option<String>,
    /// Its versions that are still to come, as far as it has told.
    pub left_files: u64,
    /// Bytes of them that are still to come.
    pub left_bytes: u64,
    /// Bytes of contents that came since its session began.
    pub done_bytes: u64,
    /// Bytes of contents a second lately.
    pub done_bytes_per_second: u64,
    /// When all will be here at that rate; none if nothing is to come or nothing comes.
    pub seconds_left: Option<u64>,
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

/// A kept version of a file.
#[derive(Debug, Serialize, Deserialize)]
pub struct VersionReport {
    /// Its number in the history.
    pub version: u64,
    /// Where it stood.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last written, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// When a peer's version took its place, nanoseconds since 1970.
    pub replaced_ns: i64,
    /// Which peer's.
    pub by: String,
    /// Whether that was a deletion.
    pub deleted: bool,
}

impl From<&Version> for VersionReport {
    fn from(version: &Version) -> Self {
        Self {
            version: version.id,
            path: version.path.to_string(),
            bytes: version.size,
            mtime_ns: version.mtime_ns,
            replaced_ns: version.replaced_ns,
            by: version.by.to_string(),
            deleted: version.deleted,
        }
    }
}

/// What a look through the directory found.
#[derive(Debug, Serialize, Deserialize)]
pub struct FoundReport {
    /// Entries looked at.
    pub seen: u64,
    /// New versions.
    pub changed: u64,
    /// Deletions.
    pub deleted: u64,
    /// What could not be taken up.
    pub problems: Vec<String>,
}

impl From<ScanReport> for FoundReport {
    fn from(report: ScanReport) -> Self {
        let ScanReport { seen, changed, deleted, ref problems, .. } = report;
        Self { seen, changed, deleted, problems: problems.iter().map(problem).collect() }
    }
}

fn problem(problem: &Problem) -> String {
    match &problem.path {
        Some(path) => format!("{path}: {}", problem.what),
        None => problem.what.clone(),
    }
}

/// A folder's state. Costs the same however large the folder is.
pub fn status(folder: &Folder) -> SyncReport {
    let status = folder.status();
    let role = match status.role {
        Role::Holder => "holder",
        Role::Follower => "follower",
        _ => "shared",
    };
    let direction = match status.direction {
        Direction::Send => "send",
        Direction::Receive => "receive",
        _ => "both",
    };
    let peers = status.peers.iter().map(|peer| PeerReport {
        device: peer.device.to_string(),
        connected: peer.connected,
        acked: peer.acked,
        behind: peer.behind,
        paused: peer.paused.clone(),
        left_files: peer.transfer.left_files,
        left_bytes: peer.transfer.left_bytes,
        done_bytes: peer.transfer.done_bytes,
        ..PeerReport::default()
    });
    let problems = status.problems.iter().map(problem);
    SyncReport {
        device: status.device.to_string(),
        label: None,
        first_scan: None,
        folder: status.folder.map(|folder| folder.to_string()),
        files: status.files,
        bytes: status.bytes,
        sequence: status.sequence,
        epoch: status.epoch,
        role: role.to_owned(),
        direction: direction.to_owned(),
        differing: status.differing,
        paused: status.pause.as_ref().map(PauseReport::from),
        consistency: ConsistencyReport::from(&status.consistency),
        held_deletions: status.held_deletions,
        pending: status.pending,
        conflicts: status.conflicts,
        branches: status.branches,
        refused: status.refused,
        peers: peers.collect(),
        unmaterialised: status.unmaterialised.iter().map(UnmaterialisedReport::from).collect(),
        restless: status.restless.iter().map(RestlessReport::from).collect(),
        problems: problems.collect(),
    }
}

impl From<&Pause> for PauseReport {
    fn from(pause: &Pause) -> Self {
        let (why, since) = (pause.why.clone(), pause.since_ns / 1_000_000_000);
        Self { why, since, only_receiving: pause.only_receiving }
    }
}

impl From<&Unmaterialised> for UnmaterialisedReport {
    fn from(behind: &Unmaterialised) -> Self {
        Self { path: behind.path.to_string(), bytes: behind.bytes }
    }
}

impl From<&Restless> for RestlessReport {
    fn from(restless: &Restless) -> Self {
        let (path, since) = (restless.path.to_string(), restless.since_ns / 1_000_000_000);
        Self { path, since, why: restless.why.clone() }
    }
}

impl From<&Consistency> for ConsistencyReport {
    fn from(consistency: &Consistency) -> Self {
        let (state, loose, more) = match consistency {
            Consistency::Known => ("known", Vec::new(), false),
            Consistency::Unknown { paths, more } => {
                ("unknown", paths.iter().map(ToString::to_string).collect(), *more)
            }
            _ => ("incomplete", Vec::new(), false),
        };
        Self { state: state.to_owned(), loose, more }
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
        if let Some(first_scan) = &self.first_scan {
            return writeln!(f, "{first_scan}");
        }
        writeln!(f, "folder     {}", self.folder.as_deref().unwrap_or("that of the first peer"))?;
        if let Some(label) = &self.label {
            writeln!(f, "label      {label}")?;
        }
        writeln!(f, "holds      {}, {}", counted(self.files, "file"), counted(self.bytes, "byte"))?;
        writeln!(f, "role       {} (epoch {})", self.role, self.epoch)?;
        match (self.direction.as_str(), self.differing) {
            ("send", 0) => writeln!(f, "direction  send: nothing differs at the peers")?,
            ("send", count) => {
                writeln!(
                    f,
                    "direction  send: {count} paths differ at the peers (syncd differing, syncd override)"
                )?;
            }
            (direction, _) => writeln!(f, "direction  {direction}")?,
        }
        writeln!(f, "consistent {}", self.consistency)?;
        if let Some(pause) = &self.paused {
            writeln!(f, "PAUSED     {pause}")?;
        }
        writeln!(f, "pending    {}", self.pending)?;
        match self.conflicts {
            0 => writeln!(f, "conflicts  0")?,
            count => writeln!(f, "conflicts  {count} (see `syncd conflicts`)")?,
        }
        if self.branches > 0 {
            writeln!(f, "branches   {} (see `syncd branch list`)", self.branches)?;
        }
        self.peers(f)?;
        for behind in &self.unmaterialised {
            let (path, bytes) = (&behind.path, size(behind.bytes));
            writeln!(
                f,
                "behind: {path}: shows an older version, {bytes} of changes are kept beside (`syncd materialise`)"
            )?;
        }
        for restless in &self.restless {
            let since = sync_time::shown(restless.since.saturating_mul(1_000_000_000));
            writeln!(f, "restless: {}: no state that peers can have since {since} (UTC)", restless.path)?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem: {problem}"))
    }
}

impl SyncReport {
    fn peers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.peers.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&["PEER", "CONNECTED", "LACKS", "TO COME", "LEFT", "IN", "OUT"]);
        for peer in &self.peers {
            let connected = if peer.connected { "yes" } else { "no" };
            table.row([
                peer.name.clone().unwrap_or_else(|| peer.device.clone()),
                connected.to_owned(),
                match peer.behind {
                    0 => String::new(),
                    1 => "1 change".to_owned(),
                    count => format!("{count} changes"),
                },
                peer.to_come(),
                peer.seconds_left.map(|left| sync_time::span(Duration::from_secs(left))).unwrap_or_default(),
                rate(peer.received_bytes_per_second),
                rate(peer.sent_bytes_per_second),
            ]);
        }
        write!(f, "\n{table}")?;
        for peer in &self.peers {
            let name = peer.name.as_ref().unwrap_or(&peer.device);
            if let Some(trouble) = &peer.trouble {
                writeln!(f, "not connected to {name}: {trouble}")?;
            }
            if let Some(why) = &peer.paused {
                writeln!(f, "{name} fetches nothing for now: {why}")?;
            }
        }
        Ok(())
    }
}

impl PeerReport {
    fn to_come(&self) -> String {
        match (self.left_files, self.left_bytes) {
            (0, 0) => String::new(),
            (files, bytes) => format!("{}, {}", counted(files, "file"), size(bytes)),
        }
    }
}

impl fmt::Display for FirstScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "syncd still looks through the folder: {} read so far", counted(self.files_read, "file"))
    }
}

impl fmt::Display for PauseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.only_receiving { "nothing is fetched from peers" } else { "nothing is done" };
        let since = sync_time::shown(self.since.saturating_mul(1_000_000_000));
        write!(f, "{what} since {since} (UTC): {}", self.why)
    }
}

impl fmt::Display for ConsistencyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.as_str() {
            "known" => f.write_str("yes"),
            "incomplete" => f.write_str("not yet: nothing complete came here so far"),
            _ => {
                let more = if self.more { " and more" } else { "" };
                let what = match self.loose.join(", ") {
                    nothing if nothing.is_empty() => "files".to_owned(),
                    named => named + more,
                };
                write!(f, "not known: {what} may be in use; `syncd seal` says that nothing is")
            }
        }
    }
}

/// So many of what is called `one`, for a person: "1 file", "2 files".
pub fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// A size for a person.
pub fn size(bytes: u64) -> String {
    match bytes {
        small @ 0..10_240 => format!("{small} B"),
        middle if middle < 10 << 20 => format!("{} KiB", middle >> 10),
        large if large < 10 << 30 => format!("{} MiB", large >> 20),
        huge => format!("{} GiB", huge >> 30),
    }
}

/// A rate for a person.
fn rate(bytes_per_second: u64) -> String {
    if bytes_per_second == 0 { String::new() } else { format!("{}/s", size(bytes_per_second)) }
}

impl fmt::Display for ConflictReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the version of {} is kept as {}", self.path, self.writer, self.kept_as)
    }
}
