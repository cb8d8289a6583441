//! How far a volume has got on its way to being mounted and back, and where a backend's answer leads.

use std::path::PathBuf;

use super::{BackendAnswer, Step};
use crate::barrier::Barrier;
use crate::lease::{Grant, Release};
use crate::name::NodeName;
use crate::volume::BackendError;

/// What has been reached. Never what is wanted: that changes on its own.
#[derive(Debug)]
pub(super) enum Phase {
    /// The replica follows; this node has no lease.
    Following,
    /// The replica's epoch is known; `held` says who was seen holding the lease.
    Seen { epoch: u64, held: Option<(NodeName, u64)> },
    /// This node has the lease.
    Granted { grant: Grant },
    /// The replica has everything up to the grant's barrier.
    CaughtUp { grant: Grant },
    /// The replica is the writer.
    Open { grant: Grant, path: PathBuf },
    /// `open` failed, and may have taken effect all the same.
    Reverting { grant: Grant },
    /// Everything written is part of the barrier; still the writer.
    Flushed { grant: Grant, path: PathBuf, barrier: Barrier },
    /// On the way to being a follower.
    Closing { grant: Grant, release: Release },
    /// A follower that has the lease, or not any more.
    Releasing { grant: Grant, release: Release },
}

impl Phase {
    /// The lease, while this node has it or may have it.
    pub(super) fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Following | Self::Seen { .. } => None,
            Self::Granted { grant }
            | Self::CaughtUp { grant }
            | Self::Open { grant, .. }
            | Self::Reverting { grant }
            | Self::Flushed { grant, .. }
            | Self::Closing { grant, .. }
            | Self::Releasing { grant, .. } => Some(grant),
        }
    }

    /// What the phase is about to do, in words.
    pub(super) fn describe(&self, wanted: bool, mounts: usize) -> String {
        let text = match self {
            Self::Following if wanted => "asking the replica for its epoch",
            Self::Following => "following",
            Self::Seen { held: Some((by, epoch)), .. } => {
                return format!("waiting for the lease held by {by} (epoch {epoch})");
            }
            Self::Seen { held: None, .. } => "acquiring the lease",
            Self::Granted { .. } => "catching up",
            Self::CaughtUp { .. } => "opening",
            Self::Open { .. } if mounts > 0 => "mounted",
            Self::Open { .. } => "flushing",
            Self::Flushed { .. } => "replicating",
            Self::Reverting { .. } | Self::Closing { .. } => "closing",
            Self::Releasing { .. } => "releasing the lease",
        };
        text.to_owned()
    }
}

/// The phase that a backend's answer leads to, and what went wrong.
pub(super) fn reached(phase: Phase, answer: BackendAnswer, wanted: bool) -> (Phase, Option<BackendError>) {
    match (phase, answer) {
        (Phase::Following, BackendAnswer::SeenEpoch(Ok(epoch))) => (Phase::Seen { epoch, held: None }, None),
        (Phase::Granted { grant }, BackendAnswer::CaughtUp(Ok(()))) => (Phase::CaughtUp { grant }, None),
        (Phase::Granted { grant } | Phase::CaughtUp { grant }, BackendAnswer::Opened(result)) => match result
        {
            Ok(path) => (Phase::Open { grant, path }, None),
            Err(error @ BackendError::Fenced { .. }) => {
                (Phase::Closing { grant, release: Release::Unused }, Some(error))
            }
            Err(error) => (Phase::Reverting { grant }, Some(error)),
        },
        (Phase::Open { grant, path }, BackendAnswer::Flushed(Ok(barrier))) => {
            (Phase::Flushed { grant, path, barrier }, None)
        }
        (Phase::Flushed { grant, barrier, .. }, BackendAnswer::Replicated(Ok(replicas))) if !wanted => {
            (Phase::Closing { grant, release: Release::Flushed { barrier, replicas } }, None)
        }
        (Phase::Reverting { grant }, BackendAnswer::Closed(Ok(()))) => (Phase::CaughtUp { grant }, None),
        (Phase::Closing { grant, release }, BackendAnswer::Closed(Ok(()))) => {
            (Phase::Releasing { grant, release }, None)
        }
        (phase, answer) => (phase, answer.error()),
    }
}

impl BackendAnswer {
    /// Whether it answers that step's call.
    pub(super) fn is_to(&self, step: Step) -> bool {
        matches!(
            (self, step),
            (Self::SeenEpoch(_), Step::SeenEpoch)
                | (Self::CaughtUp(_), Step::CatchUp)
                | (Self::Opened(_), Step::Open)
                | (Self::Flushed(_), Step::Flush)
                | (Self::Replicated(_), Step::Replicate)
                | (Self::Closed(_), Step::Close)
        )
    }

    pub(super) fn error(self) -> Option<BackendError> {
        match self {
            Self::SeenEpoch(result) => result.err(),
            Self::CaughtUp(result) | Self::Closed(result) => result.err(),
            Self::Opened(result) => result.err(),
            Self::Flushed(result) => result.err(),
            Self::Replicated(result) => result.err(),
        }
    }
}
