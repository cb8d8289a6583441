//! One error per operation. Every message says what was wrong, where, and what to do.

use std::path::PathBuf;

use thiserror::Error;

use crate::cutting::CutRuleError;
use crate::device::{DeviceId, FolderId};
use crate::disk::DiskError;
use crate::fence::SplitEpoch;
use crate::index::IndexError;
use crate::path::RelPath;
use crate::record::{FILE_CHUNKS_MAX, VECTOR_DEVICES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX};
use crate::status::Problem;
use crate::wire::DecodeError;

/// The replica itself cannot go on: its directory or its index failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// One of them failed before, and the cause was still there when it was last looked at.
    #[error("the folder is paused and goes on by itself once this is mended: {0}")]
    Paused(String),
}

impl StoreError {
    /// Whether it is about the folder as a whole and not about one entry.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Disk(error) => error.is_final(),
            Self::Index(_) | Self::Paused(_) => true,
        }
    }
}

/// Why a folder was not opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such directory.
    #[error("{}: there is no such directory; create it first, or check the path", .0.display())]
    NotFound(PathBuf),
    /// Something else stands there.
    #[error("{}: not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The directory is not a replica yet.
    #[error("{}: not initialised as a replica (no marker in its state directory); run init on it, or check that the right disk is mounted", .0.display())]
    NotInitialised(PathBuf),
    /// The filesystem takes `a` and `A` for one name.
    #[error("{}: its filesystem does not tell capital letters from small ones in names (vfat, exFAT, ext4 with casefold): of two files of a folder that differ in that one would take the other's place; use another filesystem, or a directory without casefold", .0.display())]
    FoldsCase(PathBuf),
    /// Another process, or another handle in this one, has it open.
    #[error("{}: this folder is already open, in this or another process, and only one may have it open; a daemon that has just been started answers once it has looked through the directory", .0.display())]
    Locked(PathBuf),
    /// The state belongs to another folder than the configuration says.
    #[error("the replica belongs to folder {found}, the configuration asks for {wanted}")]
    WrongFolder {
        /// As configured.
        wanted: FolderId,
        /// As found.
        found: FolderId,
    },
    /// The state belongs to another device than the configuration says.
    #[error("{}: the replica is device {found}, and {wanted} was to open it: it was made with another key, or copied from another machine; use its own key, or move its state directory away and run init again (the files stay)", .path.display())]
    WrongDevice {
        /// The directory.
        path: PathBuf,
        /// As configured.
        wanted: DeviceId,
        /// As found.
        found: DeviceId,
    },
    /// The rules by which it is to be cut make no sense.
    #[error("{0}")]
    Cuts(#[from] CutRuleError),
    /// State of a future version, or damaged.
    #[error("{}: {reason}; move this state directory away and run init again to join as a new replica (the files stay)", .path.display())]
    State {
        /// The state directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory or the index cannot be used now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refused.
    #[error("{}: cannot {what}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// Why a scan did not complete.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The folder was closed.
    #[error("the folder is closed")]
    Closed,
    /// The directory is gone, or the index failed. Nothing was deleted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a flush gave no token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The folder was closed.
    #[error("the folder is closed")]
    Closed,
    /// The folder has no identity yet: it is empty and never met a peer.
    #[error("the folder has no identity yet: write something into it or connect it to a peer first")]
    NoFolder,
    /// So many files vanished that it is not believed, so a token would not tell what stands here.
    #[error(
        "{0} files, more than half of the folder, vanished at once and are not taken as deleted: put them back, or confirm the deletions"
    )]
    Held(u64),
    /// Something could not be taken up, so a token would promise too much.
    #[error("{} path(s) could not be read consistently, first: {}", .0.len(), first_problem(.0))]
    Unstable(Vec<Problem>),
    /// The directory is gone, or the index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a barrier does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The folder was closed.
    #[error("the folder is closed")]
    Closed,
    /// Not everybody got there in time.
    #[error("not in time: {}", lag_list(.0))]
    Timeout(Vec<Lag>),
    /// The token is of another folder, or for `wait` of another device.
    #[error("the token belongs to another folder or another replica than this call is about")]
    Foreign,
    /// The writes behind the token were fenced off by a newer lease; what of them was not replicated is a branch.
    #[error(
        "the index of the replica that made this token began anew since (at epoch {epoch}): what of the writes behind it was not \
         replicated is a branch of it, or kept as conflicts; flush again for a new token"
    )]
    Fenced {
        /// The highest epoch seen.
        epoch: u64,
    },
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who lags, and by how much.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// The replica that lags.
    pub device: DeviceId,
    /// How many sequences it lacks.
    pub behind: u64,
    /// Whether it is connected.
    pub connected: bool,
    /// Why it fetches nothing for now, in its own words.
    pub paused: Option<String>,
}

/// Why the lease was not taken or left.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The folder was closed.
    #[error("the folder is closed")]
    Closed,
    /// Epoch 0 means "never leased" and cannot be held.
    #[error("epoch 0 means that the folder was never leased; leases start at 1")]
    Zero,
    /// A higher epoch, or this one with another holder, was seen.
    #[error("epoch {asked} is stale: epoch {seen} is held by {holder}; ask for a new lease")]
    Stale {
        /// The epoch asked for.
        asked: u64,
        /// The highest seen.
        seen: u64,
        /// Its holder.
        holder: DeviceId,
    },
    /// It would not take what it writes.
    #[error("this replica only receives: it cannot be the writer; set its direction to both first")]
    ReceiveOnly,
    /// This replica lost a lease and has not yet taken the current versions back from a peer.
    #[error("{0} path(s) still stand in a stale version; connect to a peer that has the current ones first")]
    Resyncing(u64),
    /// The directory is gone, or the index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a kept version was not brought back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The folder was closed.
    #[error("the folder is closed")]
    Closed,
    /// This replica keeps no history.
    #[error("this replica keeps no history: set its history policy, or restore on a replica that has one")]
    Off,
    /// There is no such version any more.
    #[error("no such version is kept; see what history lists for this path")]
    Unknown,
    /// There is no such branch.
    #[error("there is no branch {0} here: list them to see what there is")]
    NoBranch(String),
    /// There is no such conflict any more.
    #[error(
        "{0}: not the kept copy of a conflict that stands in the folder: list the conflicts to see what there is"
    )]
    NoConflict(RelPath),
    /// Something else has the name.
    #[error("{0}: something stands there, or its directory is missing; choose another name")]
    Taken(RelPath),
    /// The kept bytes are not what they were.
    #[error("{0}: the kept version is damaged: something wrote to its file after it was replaced")]
    Damaged(RelPath),
    /// The write would be undone at once.
    #[error(
        "this replica takes no local writes (it follows the holder of the lease, or only receives): restore at a replica that does"
    )]
    Follower,
    /// What stands at the target could not be read, and so not be kept.
    #[error("{0}: it cannot be read in one piece right now; try again once it holds still")]
    Busy(RelPath),
    /// A directory is in the way.
    #[error("{0}: a directory stands there; move it away, or restore to another place")]
    Directory(RelPath),
    /// The directory refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The folder itself cannot go on.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<IndexError> for RestoreError {
    fn from(error: IndexError) -> Self {
        Self::Store(error.into())
    }
}

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The folder was closed.
    #[error("the folder is closed")]
    Closed,
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a session ended, other than by the end of its stream.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The folder was closed.
    #[error("the folder is closed")]
    Closed,
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The peer broke the protocol; it may be hostile, or of another version.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] Violation),
    /// The replica itself cannot go on.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a peer did wrong. Ends its session, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// Bytes that are no message.
    #[error("undecodable message: {0}")]
    Decode(#[from] DecodeError),
    /// A message before `Hello`, or a second `Hello`.
    #[error("a message out of order: {0}")]
    Order(&'static str),
    /// Another folder.
    #[error(
        "the peer replicates folder {theirs}, this is folder {ours}: check which address belongs to which folder"
    )]
    WrongFolder {
        /// Of this replica.
        ours: FolderId,
        /// Of the peer.
        theirs: FolderId,
    },
    /// Not who was expected.
    #[error("the peer says it is {found}, expected was {expected}")]
    WrongDevice {
        /// Who was expected.
        expected: DeviceId,
        /// Who answered.
        found: DeviceId,
    },
    /// The peer is this very replica, or a copy of its state directory.
    #[error(
        "the peer has this replica's own device id: it is the same folder, or its state directory was copied; run init on one of them"
    )]
    Myself,
    /// The peer knows writes under this replica's key that this replica did not make, and no life before it did: another one
    /// has the same key.
    #[error(
        "the peer has met another replica with this one's key: one is a copy of the other, give it a key of its own"
    )]
    Cloned,
    /// Bytes that are not what they claim to be.
    #[error("a chunk does not match its hash, or was not asked for")]
    BadChunk,
    /// More than was agreed on.
    #[error("the peer exceeded a limit: {0}")]
    Excess(&'static str),
    /// Sequences that do not grow, or a record that cannot be.
    #[error("an impossible record: {0}")]
    Record(&'static str),
    /// One epoch, two holders.
    #[error(transparent)]
    Split(#[from] SplitEpoch),
    /// Nothing was heard for too long.
    #[error("nothing was heard from the peer for {0} s")]
    Silent(u64),
    /// The peer ended the session and said why.
    #[error("the peer ended the session: {0}")]
    Bye(String),
}

impl Violation {
    /// Every [`Violation::reason`].
    pub const REASONS: [&'static str; 12] = [
        "undecodable",
        "out-of-order",
        "wrong-folder",
        "wrong-device",
        "myself",
        "cloned",
        "bad-chunk",
        "excess",
        "impossible-record",
        "split-epoch",
        "silent",
        "bye",
    ];

    /// The reason as a short fixed word, to count by.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Decode(_) => "undecodable",
            Self::Order(_) => "out-of-order",
            Self::WrongFolder { .. } => "wrong-folder",
            Self::WrongDevice { .. } => "wrong-device",
            Self::Myself => "myself",
            Self::Cloned => "cloned",
            Self::BadChunk => "bad-chunk",
            Self::Excess(_) => "excess",
            Self::Record(_) => "impossible-record",
            Self::Split(_) => "split-epoch",
            Self::Silent(_) => "silent",
            Self::Bye(_) => "bye",
        }
    }
}

/// Why a file cannot be replicated at all: limits of the record format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Unfit {
    #[error("the file has more than {FILE_CHUNKS_MAX} chunks: too large for this version")]
    TooLarge,
    #[error("more than {VECTOR_DEVICES_MAX} devices wrote this path")]
    TooManyDevices,
    #[error(
        "it has more than {XATTRS_MAX} extended attributes, or more than {XATTRS_BYTES_MAX} bytes of them: remove some"
    )]
    XattrsTooLarge,
}

fn first_problem(problems: &[Problem]) -> String {
    let path = |problem: &Problem| {
        problem.path.as_ref().map_or_else(|| "the folder".to_owned(), ToString::to_string)
    };
    problems.first().map_or_else(String::new, |problem| format!("{}: {}", path(problem), problem.what))
}

fn lag_list(lags: &[Lag]) -> String {
    let one = |lag: &Lag| {
        let state = match (&lag.paused, lag.connected) {
            (Some(why), _) => format!("it is paused: {why}"),
            (None, true) => "connected".to_owned(),
            (None, false) => "not connected".to_owned(),
        };
        format!("{} lags by {} change(s) ({state})", lag.device, lag.behind)
    };
    lags.iter().map(one).collect::<Vec<_>>().join(", ")
}
