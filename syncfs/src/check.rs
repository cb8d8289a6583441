//! What a replica finds when it checks itself: `Folder::check`, and [`Engine`](crate::engine::Engine) underneath.
//!
//! A file whose fingerprint is as it was, and whose bytes are not, was not written by a program: the medium changed it, or
//! somebody who hid it. Such bytes are *damage*. They are never told to a peer as an edit, and nobody is ever sent them, as
//! every chunk is checked against its name. The check names them; and where it may repair, it keeps them in a
//! [branch](crate::branch) and puts the version back that belongs there, from another local file or from a peer, by one rename.

use crate::path::RelPath;

/// Most findings that one report lists.
pub const FINDINGS_MAX: usize = 1000;

/// What a check may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// Nothing: damage is only named.
    Nothing,
    /// Files and symlinks, but no databases: an application may have one open, and would go on writing into what is
    /// replaced.
    #[default]
    Files,
    /// Databases, too. Their applications must be stopped before.
    All,
}

/// What was found at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The bytes at this path are not those of its version, although nothing says that it was written.
    Damaged {
        /// Where.
        path: RelPath,
        /// Whether its version is being put back. It is there at [`Event::Repaired`](crate::Event::Repaired); until
        /// then, while no peer that has it is connected, the path is a problem of the status.
        repair: bool,
    },
    /// The file cannot be read.
    Unreadable {
        /// Where.
        path: RelPath,
        /// The system's words.
        why: String,
    },
    /// A version of the history cannot be had back: its bytes are not those that were kept, or cannot be read.
    Version {
        /// Where it stood.
        path: RelPath,
        /// Its [number](crate::Version::id), or that of the newest of those with the same content.
        id: u64,
        /// What is wrong.
        why: String,
    },
    /// What a branch keeps is not there any more.
    Branch {
        /// The name of the branch.
        branch: String,
        /// The path in it.
        path: RelPath,
    },
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Files and symlinks that were read, and are what they should be or among the findings.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Contents of the history that were read.
    pub kept: u64,
    /// Files that were not judged: they were changed meanwhile or a moment ago, or their version is still to come.
    pub skipped: u64,
    /// Changes that stood in the folder and had not been taken up yet. They are now, as by a scan.
    pub missed: u64,
    /// What is wrong, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more: u64,
}

impl CheckReport {
    /// Adds a finding, or counts it.
    pub(crate) fn add(&mut self, finding: Finding) {
        match self.findings.len() < FINDINGS_MAX {
            true => self.findings.push(finding),
            false => self.more += 1,
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}
