//! What the engine tells: how an unmount ended, events, status, counters. Words and values only.

use std::fmt;

use crate::barrier::Barrier;
use crate::lease::Tenure;
use crate::name::VolumeName;

/// Longest text of a backend or store that is kept and shown, in bytes.
const DETAIL_MAX_BYTES: usize = 512;

/// How an unmount ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmounted {
    /// It was the last one: everything is replicated, and the lease is free.
    Released {
        /// The epoch that ended.
        epoch: u64,
        /// What the next holder will have.
        barrier: Barrier,
    },
    /// Others on this node use the volume.
    StillMounted {
        /// How many.
        mounts: usize,
    },
    /// It was not mounted on this node.
    NotMounted,
}

/// What a step does, as it is named in errors and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    SeenEpoch,
    Acquire,
    Takeover,
    CatchUp,
    Open,
    Flush,
    Replicate,
    Close,
    Release,
}

/// What has happened to a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Something has to be waited for, or it is something else now.
    Waiting {
        /// The volume.
        volume: VolumeName,
        /// What for.
        doing: String,
    },
    /// This node has the lease.
    Granted {
        /// The volume.
        volume: VolumeName,
        /// Under this epoch.
        epoch: u64,
    },
    /// It has the lease, but a tenure before it ended without release: what that node wrote after `barrier`
    /// may be missing here (unless it is this node).
    Unreleased {
        /// The volume.
        volume: VolumeName,
        /// The tenure.
        tenure: Tenure,
        /// What is there for certain.
        barrier: Option<Barrier>,
    },
    /// It has the lease, but the store had lost epochs that the replica has seen: nothing can be said about
    /// what other nodes wrote last.
    StoreBehind {
        /// The volume.
        volume: VolumeName,
        /// The new epoch.
        epoch: u64,
    },
    /// The volume is mounted.
    Mounted {
        /// The volume.
        volume: VolumeName,
        /// The epoch.
        epoch: u64,
        /// How many use it.
        mounts: usize,
    },
    /// Everything is replicated and the lease is free.
    Released {
        /// The volume.
        volume: VolumeName,
        /// The epoch that ended.
        epoch: u64,
        /// What the next holder will have; `None` when the volume was never opened under the epoch.
        barrier: Option<Barrier>,
    },
    /// The lease was not this node's any more; what was written since is set aside.
    LeaseLost {
        /// The volume.
        volume: VolumeName,
        /// The epoch that this node had.
        epoch: u64,
        /// The epoch of the volume.
        current: u64,
    },
    /// A step failed.
    Failed {
        /// The volume.
        volume: VolumeName,
        /// The step.
        step: Step,
        /// The reason.
        reason: String,
    },
}

/// A volume at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus {
    /// The volume.
    pub volume: VolumeName,
    /// What it is doing or waiting for, in words.
    pub state: String,
    /// The epoch that this node holds; `None` while it does not.
    pub epoch: Option<u64>,
    /// How many mounts it has here.
    pub mounts: usize,
    /// How many mount requests wait.
    pub waiting: usize,
}

/// What the engine has counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Mounts that succeeded.
    pub mounted: u64,
    /// Mounts that failed or were called off.
    pub mounts_failed: u64,
    /// Leases released.
    pub released: u64,
    /// Leases taken over from nodes that were down.
    pub taken_over: u64,
    /// Leases lost to other nodes.
    pub leases_lost: u64,
    /// Steps that failed.
    pub steps_failed: u64,
    /// Answers that fitted no outstanding call, and were ignored.
    pub answers_ignored: u64,
}

impl Unmounted {
    /// What the next holder will have, when the lease was released.
    pub fn barrier(&self) -> Option<&Barrier> {
        match self {
            Self::Released { barrier, .. } => Some(barrier),
            Self::StillMounted { .. } | Self::NotMounted => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SeenEpoch => "asking the replica for its epoch",
            Self::Acquire => "acquiring the lease",
            Self::Takeover => "taking over the lease",
            Self::CatchUp => "catching up",
            Self::Open => "opening the replica for writing",
            Self::Flush => "flushing",
            Self::Replicate => "replicating",
            Self::Close => "closing the replica",
            Self::Release => "releasing the lease",
        })
    }
}

/// The text as it is kept and shown.
pub(super) fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(DETAIL_MAX_BYTES)].to_owned()
}
