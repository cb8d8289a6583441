//! What a folder says about itself: status, reports, conflicts, events. Plain values, no behaviour.

use crate::config::Direction;
use crate::cutting::Consistency;
use crate::device::{DeviceId, FolderId, IndexId};
use crate::path::RelPath;

/// What this replica may do with local edits (see [`crate::fence`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// The folder was never leased: every replica writes, conflicts keep both.
    #[default]
    Shared,
    /// This replica is the one writer under the current epoch.
    Holder,
    /// Somebody else may be the writer: local edits are set aside and undone.
    Follower,
}

/// A snapshot of a folder's state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// This replica.
    pub device: DeviceId,
    /// The folder; `None` until an empty replica has met its first peer.
    pub folder: Option<FolderId>,
    /// This life of the index.
    pub index: IndexId,
    /// Live files.
    pub files: u64,
    /// Their total size in bytes.
    pub bytes: u64,
    /// The local sequence: grows with every change of the index.
    pub sequence: u64,
    /// The highest fence epoch ever seen.
    pub epoch: u64,
    /// What this replica may do with local edits.
    pub role: Role,
    /// Versions that are decided on but not yet durable here.
    pub pending: u64,
    /// Every peer ever met.
    pub peers: Vec<PeerStatus>,
    /// What could not be read, cut or applied, and why. Empty when all is well.
    pub problems: Vec<Problem>,
    /// How many conflicts stand in the folder: versions that lost and whose copies were not removed yet.
    pub conflicts: u64,
    /// How many [branches](crate::branch) this replica keeps.
    pub branches: u64,
    /// Records refused because they were written under a stale epoch.
    pub refused: u64,
    /// Files, more than half of the folder, that vanished at once and are not believed to be deleted: put them back, or
    /// confirm that it was meant. 0 when all is well.
    pub held_deletions: u64,
    /// In which direction versions pass.
    pub direction: Direction,
    /// On a replica that only sends: how many paths have a version at a peer that was not taken.
    pub differing: u64,
    /// Whether what stands here is a state that an application can start from.
    pub consistency: Consistency,
    /// What keeps the replica from working, and since when; `None` when all is well. It goes on by itself once that is gone.
    pub pause: Option<Pause>,
    /// Databases whose current version is durable here and not visible yet: their visible file is of an older one.
    pub unmaterialised: Vec<Unmaterialised>,
    /// What changed and could not be read since, so that peers have an older state of it: a database or a group that is written
    /// without a pause that is long enough. Empty when all is well.
    pub restless: Vec<Restless>,
}

/// A database whose visible file is older than what is durable here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unmaterialised {
    /// Its path.
    pub path: RelPath,
    /// How much is kept beside the visible file, in bytes: what changed since, version by version.
    pub bytes: u64,
}

/// Something that does not hold still long enough to be read in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restless {
    /// The file, or the first path of the group.
    pub path: RelPath,
    /// Since when no attempt succeeded, nanoseconds since 1970.
    pub since_ns: i64,
    /// Why the last one did not, in words.
    pub why: String,
}

/// A replica that waits until its disk or its index can be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pause {
    /// What is wrong, in words.
    pub why: String,
    /// Since when, nanoseconds since 1970.
    pub since_ns: i64,
    /// Local changes still go out; only peers' versions are not fetched, for lack of room. Else nothing is done at all.
    pub only_receiving: bool,
}

/// One peer as this replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer.
    pub device: DeviceId,
    /// Whether a session with it is open.
    pub connected: bool,
    /// Our sequence up to which it has everything durably.
    pub acked: u64,
    /// How many sequences it lacks.
    pub behind: u64,
    /// Why it fetches nothing for now, in its own words: for lack of room, say.
    pub paused: Option<String>,
    /// What is on its way from it.
    pub transfer: Transfer,
}

/// How far the transfer from a peer is, as far as the peer has told what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// Its versions that are not durable here yet.
    pub left_files: u64,
    /// Bytes of their chunks that are still to come.
    pub left_bytes: u64,
    /// Bytes of chunks that came since its session began.
    pub done_bytes: u64,
}

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Where; `None` for the folder as a whole.
    pub path: Option<RelPath>,
    /// What is wrong, in words.
    pub what: String,
}

/// Two versions were written at once; both were kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The path that both wrote.
    pub path: RelPath,
    /// Where the version that lost is kept, as an ordinary file of the folder.
    pub kept_as: RelPath,
    /// Who wrote the version that lost: [`DeviceId::short`](crate::DeviceId::short).
    pub writer: String,
}

/// How a [`Conflict`] ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// What stands at the path stays; the copy is deleted.
    Current,
    /// The copy takes the place of what stands at the path.
    Copy,
    /// Both stay: the copy becomes an ordinary file of this path.
    Both(RelPath),
}

/// Something happened. Events may be missed by a slow subscriber; the status never lies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A local change was found and became a version.
    Changed(RelPath),
    /// A peer's version is durable here, and visible; that of a large database on a follower perhaps not visible yet, see
    /// [`Status::unmaterialised`].
    Applied(RelPath),
    /// The visible file of a database is its current version again.
    Materialised(RelPath),
    /// Both versions were kept.
    Conflict(Conflict),
    /// A version lost its right to be in the folder (a stale epoch, or an edit on a follower) and is part of a
    /// [branch](crate::branch) now.
    SetAside {
        /// Where it stood.
        path: RelPath,
        /// The name of the branch.
        branch: String,
    },
    /// The version of a damaged file is back (see [`crate::check`]).
    Repaired(RelPath),
    /// A [branch](crate::branch) of this name was too old, or too large and of nothing that the folder does not have; it is gone.
    BranchExpired(String),
    /// A peer offered a version of a stale epoch; it was refused.
    Refused(RelPath),
    /// A higher epoch was seen.
    Fenced {
        /// The epoch.
        epoch: u64,
        /// Who holds it.
        holder: DeviceId,
    },
    /// A peer has everything up to this sequence of ours.
    Acked {
        /// The peer.
        device: DeviceId,
        /// Our sequence.
        sequence: u64,
    },
    /// A session with this peer began.
    Connected(DeviceId),
    /// It ended.
    Disconnected(DeviceId),
    /// So many files vanished at once, of so many in the folder, that it is not believed: see [`Status::held_deletions`].
    DeletionsHeld {
        /// How many vanished.
        files: u64,
        /// How many the folder has.
        of: u64,
    },
    /// On a replica that only sends: a peer has a version of this path that was not taken.
    Differs(RelPath),
    /// The replica cannot work for now, and why: see [`Status::pause`].
    Paused(String),
    /// It works again.
    Resumed,
    /// A peer fetches nothing for now, and why, in its own words; or fetches again.
    PeerPaused {
        /// The peer.
        device: DeviceId,
        /// Why.
        why: Option<String>,
    },
    /// Something needs a person's attention.
    Problem(Problem),
}

/// What one session did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The peer, if it got as far as saying who it is.
    pub peer: Option<DeviceId>,
    /// Bytes received, framing included.
    pub received_bytes: u64,
    /// Bytes sent, framing included.
    pub sent_bytes: u64,
    /// Versions of the peer that became durable here.
    pub applied: u64,
    /// Chunks received.
    pub chunks: u64,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanReport {
    /// Entries looked at.
    pub seen: u64,
    /// Entries that became a new version.
    pub changed: u64,
    /// Entries that are gone.
    pub deleted: u64,
    /// Paths that could not be taken up; they keep their last version.
    pub problems: Vec<Problem>,
}
