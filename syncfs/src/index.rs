//! [`Index`]: what a replica remembers. The driver keeps it in SQLite, tests and the simulation in memory.
//!
//! All changes since the last [`Index::commit`] become durable together or not at all.

mod memory;

use thiserror::Error;

use crate::branch::{Branch, Kept};
use crate::cutting::CutState;
use crate::device::{DeviceId, FolderId, IndexId};
use crate::disk::Stat;
use crate::fence::Fences;
use crate::hash::ContentHash;
use crate::path::RelPath;
use crate::record::{Kind, Record, VersionVector};
use crate::status::{Conflict, Role};

pub use memory::MemoryIndex;

/// What a replica knows about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its current version.
    pub record: Record,
    /// This replica's sequence when the entry last changed.
    pub sequence: u64,
    /// The fingerprint of what stands on the disk for it; `None` if that is nothing, or is to be restored.
    pub seen: Option<Stat>,
    /// The version is of a stale tail: kept in `aside/`, still standing at the path, and replaced by whatever comes.
    pub stale: bool,
    /// A database whose visible file is of an older version; the current one is that file and its delta log.
    pub behind: Option<Behind>,
}

impl Entry {
    /// The entry as if what is visible were its current version.
    #[must_use]
    pub fn standing(&self) -> Self {
        let mut standing = self.clone();
        if let (Some(behind), Some(_)) = (standing.behind.take(), self.seen) {
            standing.record.kind = behind.shown;
        }
        standing
    }
}

/// What is visible in the place of a database's current version (see [`crate::engine`]'s `deltas`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The visible version.
    pub shown: Kind,
    /// Where the delta log ends, as far as the current version needs it. 0 if it was lost: the version is to be had
    /// from peers only.
    pub mark: u64,
}

impl Entry {
    /// The inode number of a file that stands there.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        self.seen.filter(|_| self.record.kind.content().is_some()).map(|seen| seen.ino)
    }
}

impl Entry {
    /// Whether it is live, and exactly what was seen still stands there.
    #[must_use]
    pub fn is_seen(&self, stat: &Stat) -> bool {
        self.record.kind.is_live() && self.seen.as_ref() == Some(stat)
    }
}

/// What a replica knows about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its name.
    pub device: DeviceId,
    /// The folder; `None` until the first peer is met.
    pub folder: Option<FolderId>,
    /// This life of the index.
    pub index: IndexId,
    /// The last sequence given out.
    pub sequence: u64,
    /// The sequence before the first one of this life. A new replica begins anywhere, so that one which is made again under
    /// its old key does not repeat itself.
    pub base: u64,
    /// Up to which counter it knows everything of each device.
    pub knowledge: VersionVector,
    /// All takeovers it knows of.
    pub fences: Fences,
    /// What it may do with local edits.
    pub role: Role,
    /// How many times entries were set aside.
    pub asides: u64,
    /// What is cut together, and what of it is known to be consistent.
    pub cuts: CutState,
    /// It may have told peers more than it remembers (its index was lost, or restored from a backup): until a peer has told it
    /// everything, it says nothing for itself. What stands in the directory is neither new nor old, and nothing that is
    /// missing there was deleted.
    pub rejoining: bool,
}

impl Meta {
    /// That of a replica which knows of nothing yet.
    #[must_use]
    pub fn new(device: DeviceId, folder: Option<FolderId>, index: IndexId) -> Self {
        Self {
            device,
            folder,
            index,
            sequence: 0,
            base: 0,
            knowledge: VersionVector::default(),
            fences: Fences::default(),
            role: Role::Shared,
            asides: 0,
            cuts: CutState::default(),
            rejoining: false,
        }
    }
}

/// What a replica knows about a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// The peer's index, as far as it was taken over.
    pub theirs: Option<IndexId>,
    /// Its sequence up to which everything is durable here.
    pub have: u64,
    /// Our index to which `acked` belongs.
    pub ours: Option<IndexId>,
    /// Our sequence up to which the peer has everything durably.
    pub acked: u64,
}

/// Where the bytes of a chunk can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// In this file,
    pub path: RelPath,
    /// at this offset,
    pub offset: u64,
    /// this many bytes.
    pub length: u32,
}

/// Live files, their bytes, and databases among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Live files.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Bytes that stand at a path without having been written there (see [`crate::check`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The hash of what stands there instead of the version: the root of a content, or of a symlink's target.
    pub root: ContentHash,
    /// They are kept in a branch, and the version is to be put back.
    pub repair: bool,
}

/// The index failed; the folder must be closed and opened again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It cannot be read or written now: a full or read-only disk, no descriptors or memory. That may pass.
    #[error("the index cannot be used: {0}")]
    Unusable(String),
    /// It says what cannot be. It is set aside and built again when the folder is opened.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// A newer version of this program made it.
    #[error(
        "the index has format {found}, and this version of the program knows up to {known}: use the newer version again"
    )]
    Newer {
        /// Its format.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
}

/// What a replica remembers of its [branches](crate::branch).
pub trait BranchIndex {
    /// All branches, the newest first; at most [`LISTED_MAX`](crate::branch::LISTED_MAX).
    ///
    /// # Errors
    /// If the store fails; likewise for all methods.
    fn branches(&self) -> Result<Vec<Branch>, IndexError>;
    /// How many there are.
    fn branch_count(&self) -> Result<u64, IndexError>;
    /// Adds a branch; how many paths it has is counted, not remembered.
    fn put_branch(&mut self, branch: &Branch) -> Result<(), IndexError>;
    /// Forgets a branch and all its paths.
    fn drop_branch(&mut self, number: u64) -> Result<(), IndexError>;
    /// Up to `limit` paths of a branch after a path, in path order.
    fn kept(&self, number: u64, after: Option<&RelPath>, limit: usize) -> Result<Vec<Kept>, IndexError>;
    /// One path of a branch.
    fn kept_at(&self, number: u64, path: &RelPath) -> Result<Option<Kept>, IndexError>;
    /// Adds or replaces a path of a branch.
    fn put_kept(&mut self, number: u64, kept: &Kept) -> Result<(), IndexError>;
}

/// What a replica knows of damage. An index that remembers none serves a replica that never checks itself.
pub trait DamageIndex {
    /// Where it was found.
    ///
    /// # Errors
    /// If the store fails; likewise for all methods.
    fn damaged(&self) -> Result<Vec<(RelPath, Damage)>, IndexError> {
        Ok(Vec::new())
    }
    /// Remembers damage at a path, or that there is none any more.
    fn put_damaged(&mut self, _path: &RelPath, _damage: Option<&Damage>) -> Result<(), IndexError> {
        Ok(())
    }
    /// Looks through the whole store for what contradicts itself. Everything must be committed.
    fn verify(&mut self) -> Result<(), IndexError> {
        Ok(())
    }
}

/// A replica's memory. Methods are synchronous and deterministic.
pub trait Index: BranchIndex + DamageIndex {
    /// The replica's own state.
    ///
    /// # Errors
    /// If the store fails; likewise for all methods.
    fn meta(&self) -> Result<Meta, IndexError>;
    /// Replaces the replica's own state.
    fn put_meta(&mut self, meta: &Meta) -> Result<(), IndexError>;
    /// One path.
    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, IndexError>;
    /// Adds or replaces a path.
    fn put(&mut self, entry: &Entry) -> Result<(), IndexError>;
    /// Forgets a path, as if it had never been.
    fn forget(&mut self, path: &RelPath) -> Result<(), IndexError>;
    /// Up to `limit` entries after a path, in path order.
    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Vec<Entry>, IndexError>;
    /// Everything below a directory, in path order.
    fn below(&self, dir: &RelPath) -> Result<Vec<Entry>, IndexError>;
    /// Up to `limit` entries that changed after a sequence, in sequence order.
    fn since(&self, sequence: u64, limit: usize) -> Result<Vec<Entry>, IndexError>;
    /// Places where a chunk should be found: at most four.
    fn locate(&self, hash: &ContentHash) -> Result<Vec<Location>, IndexError>;
    /// Live files that were seen with this inode number: at most `limit` paths, the last changed first.
    fn names_of(&self, ino: u64, limit: usize) -> Result<Vec<RelPath>, IndexError>;
    /// Live files with this label ([`crate::record::Kind::label`]): at most `limit` paths, the last changed first.
    fn labelled(&self, label: &RelPath, limit: usize) -> Result<Vec<RelPath>, IndexError>;
    /// The entries whose visible file is behind.
    fn behind(&self) -> Result<Vec<Entry>, IndexError>;
    /// What is known about a peer.
    fn peer(&self, device: &DeviceId) -> Result<PeerState, IndexError>;
    /// Remembers it.
    fn put_peer(&mut self, device: &DeviceId, state: &PeerState) -> Result<(), IndexError>;
    /// All peers ever met, in order.
    fn peers(&self) -> Result<Vec<(DeviceId, PeerState)>, IndexError>;
    /// The conflicts whose copies are live entries, in the order of the copies' paths.
    fn conflicts(&self) -> Result<Vec<Conflict>, IndexError>;
    /// Remembers a version that is about to become visible, whether or not it will.
    fn plan(&mut self, record: &Record) -> Result<(), IndexError>;
    /// All of those.
    fn plans(&self) -> Result<Vec<Record>, IndexError>;
    /// Forgets them.
    fn clear_plans(&mut self) -> Result<(), IndexError>;
    /// Counts.
    fn totals(&self) -> Result<Totals, IndexError>;
    /// Makes everything since the last commit durable, at once.
    fn commit(&mut self) -> Result<(), IndexError>;
}
