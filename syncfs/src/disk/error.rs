//! Why a step failed, as far as it makes a difference to the engine.

use thiserror::Error;

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The folder as a whole is not there or not the one it was. Never a deletion.
    #[error("the folder is not available: {0}")]
    Root(String),
    /// The entry changed between being planned for and being touched.
    #[error("the entry changed meanwhile")]
    Changed,
    /// The content does not hold still, or a database is in the middle of a commit: try later.
    #[error("not readable in one piece right now: {0}")]
    Busy(String),
    /// A directory that is to go has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// Something else has the name already.
    #[error("the name is taken")]
    Taken,
    /// There is no (real) directory to put the entry in.
    #[error("the parent directory does not exist, or is not a directory")]
    NoParent,
    /// The system refused.
    #[error("{what}: {reason}")]
    Io {
        /// The step.
        what: &'static str,
        /// The system's words.
        reason: String,
    },
    /// There is no room: the disk is full, a quota is used up, or what is to stay free would be taken.
    #[error("{what}: no room left: {reason}")]
    Full {
        /// The step.
        what: &'static str,
        /// The system's words.
        reason: String,
    },
    /// No step can be expected to work before the cause is gone: a disk that is read-only, a process without descriptors
    /// or memory.
    #[error("{what}: {reason}")]
    Unusable {
        /// The step.
        what: &'static str,
        /// The system's words.
        reason: String,
    },
    /// Every step fails from here on (the simulation's power cut; a disk that failed an fsync).
    #[error("the disk stopped: {0}")]
    Dead(String),
}

impl DiskError {
    /// Whether it is about the folder as a whole and not about one entry: the engine that meets it is at its end.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Root(_) | Self::Unusable { .. } | Self::Dead(_))
    }
}
