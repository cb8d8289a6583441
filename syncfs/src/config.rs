//! [`Config`]: how a folder is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::cutting::CutRule;
use crate::device::{DeviceId, FolderId};
use crate::engine::MASS_DELETION_MIN;
use crate::history::History;

/// In which direction versions pass between a replica and its peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// Only to the peers. Theirs are not taken; the status says how many paths differ.
    Send,
    /// Only from the peers. Local edits are set aside and undone.
    Receive,
}

/// What `Folder::open` and `Folder::create` need. Make one with [`Config::new`], then set fields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The directory that is replicated.
    pub root: PathBuf,
    /// Where this replica keeps its state; `root/.syncfs` by default. Must be on the same filesystem.
    pub state: Option<PathBuf>,
    /// A name for people, used in logs.
    pub name: String,
    /// Who this replica is, if it is to have the ID of a key (see the feature `tls`) or of a mesh node. By default
    /// `init` draws one. Opening a replica of another device is refused.
    pub device: Option<DeviceId>,
    /// The folder's identity, if known. By default a replica with files draws one, and an empty one takes that of the
    /// first peer it meets.
    pub folder: Option<FolderId>,
    /// In which direction versions pass, while the folder is not leased. Both by default.
    pub direction: Direction,
    /// How often the whole directory is walked, in case a change was not reported. 1 h by default. Where changes are not
    /// reported at all, every 60 s, if this is not more often.
    pub rescan: Duration,
    /// How long a burst of changes is collected before it is taken up. 15 ms by default.
    pub debounce: Duration,
    /// Ignore rules of this replica alone, a line each, in the syntax of the folder's `.syncignore` and stronger than it; see
    /// [`crate::ignore`]. None by default.
    pub ignore: Vec<String>,
    /// A deletion of more files than this at once, and of more than half of the folder, is held back until a person says that
    /// it was meant; `None` never holds back. 100 by default.
    pub mass_deletion: Option<u64>,
    /// How state is cut that is more than one file. No rules by default: each database is cut by itself, all else is replicated
    /// file by file; see [`crate::cutting`].
    pub cuts: Vec<CutRule>,
    /// Whether a database in rollback mode may be locked where it cannot be read otherwise. Never by default.
    pub sqlite_lock: SqliteLock,
    /// What is kept of versions that peers replace or delete. Nothing by default.
    pub history: History,
    /// How much the kept versions may take on the disk, in bytes; the oldest go first. 10 GiB by default.
    pub history_bytes_max: u64,
    /// How long a [branch](crate::branch) is kept that nobody drops. 365 days by default.
    pub branch_age: Duration,
    /// How many bytes all branches may hold; beyond, the oldest go of which the folder has everything, and the status says so if
    /// that is not enough. 10 GiB by default.
    pub branch_bytes_max: u64,
    /// What of the disk stays free: below it nothing is fetched from peers. 1 % by default.
    pub min_free: MinFree,
    /// Counts the files that were read. Keep a clone to see how far `Folder::open` has come, which reads a large directory for
    /// minutes when it looks through it for the first time.
    pub files_read: Arc<AtomicU64>,
}

/// Whether a SQLite database may be locked in order to read it. That is about databases with a rollback journal that are
/// written without a pause as long as it takes to read them, and about no other: [`Status::restless`](crate::Status::restless)
/// names them. The README has a table of what can be read without a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SqliteLock {
    /// Its replicas keep the last state until there is a pause; its application cannot notice anything.
    #[default]
    Never,
    /// After half a second without a pause it is read under SQLite's own shared lock, held for about 5 ms at most, if it can be
    /// read in that time (at most 64 MiB, and of what is in the page cache). A commit that falls into this time waits, or fails with
    /// `SQLITE_BUSY` in an application that does not wait (`busy_timeout` 0).
    Brief,
}

/// How much of a disk is not to be filled.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum MinFree {
    /// So many bytes; 0 for no bound.
    Bytes(u64),
    /// Percent of its size.
    Percent(f64),
}

impl Config {
    /// Defaults for the directory `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let name = root.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self {
            root,
            state: None,
            name,
            device: None,
            folder: None,
            direction: Direction::Both,
            rescan: Duration::from_secs(3600),
            debounce: Duration::from_millis(15),
            ignore: Vec::new(),
            mass_deletion: Some(MASS_DELETION_MIN),
            cuts: Vec::new(),
            sqlite_lock: SqliteLock::Never,
            history: History::Off,
            history_bytes_max: 10 << 30,
            branch_age: Duration::from_secs(365 * 86_400),
            branch_bytes_max: 10 << 30,
            min_free: MinFree::Percent(1.0),
            files_read: Arc::default(),
        }
    }
}
