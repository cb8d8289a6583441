//! What a volume's replica on this node has to offer, so that it can follow its container.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use crate::barrier::Barrier;
use crate::lease::Grant;
use crate::name::NodeName;

/// The replica of one volume on this node: what the mount state machine asks of it.
///
/// One call at a time is made per volume. A call that takes too long is dropped and counts as failed;
/// every method may be called again after a failure, and [`close`](Self::close) at any time.
pub trait VolumeBackend: Send + Sync + 'static {
    /// The highest epoch that this replica has seen, including what its peers told it. A lease store that
    /// was lost continues above it; hence the more peers were asked, the better.
    fn seen_epoch(&self) -> impl Future<Output = Result<u64, BackendError>> + Send;

    /// Returns once this replica durably holds everything up to `barrier`.
    ///
    /// # Errors
    /// [`BackendError::Behind`] when it does not within `timeout`; the call is then repeated for as long
    /// as somebody waits for the mount, and its text is shown meanwhile.
    fn catch_up(
        &self,
        barrier: &Barrier,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Becomes the writer under the epoch of `grant`, which is durably noted before the first write; returns the
    /// directory to mount. From then on nothing of an earlier tenure comes in: what a person has to know of those that
    /// `grant` names as ended without a release can be said now.
    ///
    /// # Errors
    /// [`BackendError::Fenced`] when a higher epoch was seen.
    fn open(&self, grant: &Grant) -> impl Future<Output = Result<PathBuf, BackendError>> + Send;

    /// Captures everything written so far, durably; returns the barrier that names it.
    fn flush(&self) -> impl Future<Output = Result<Barrier, BackendError>> + Send;

    /// Returns once the replicas that this volume requires durably hold everything up to `barrier`: the
    /// nodes known to hold it, this one included (or none, where the backend does not know nodes by name).
    ///
    /// # Errors
    /// [`BackendError::Behind`] when they do not within `timeout`, naming who lags and by how much.
    fn replicated(
        &self,
        barrier: &Barrier,
        timeout: Duration,
    ) -> impl Future<Output = Result<BTreeSet<NodeName>, BackendError>> + Send;

    /// Stops being the writer: from now on the replica follows. Closing a follower succeeds.
    fn close(&self) -> impl Future<Output = Result<(), BackendError>> + Send;
}

/// Why a replica could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Not yet: there is still data on its way. Asking again is right.
    #[error("waiting for {detail}")]
    Behind {
        /// What is missing and from whom, to follow "waiting for": "12 changes from home-1".
        detail: String,
    },
    /// A higher epoch is at work elsewhere. What this node wrote since is set aside by the replica.
    #[error("fenced: the replica has seen epoch {seen}, another node has become the writer")]
    Fenced {
        /// That epoch.
        seen: u64,
    },
    /// Anything else that keeps the replica from doing it.
    #[error("{reason}")]
    Failed {
        /// What was wrong and what to do about it, in words.
        reason: String,
    },
}

impl BackendError {
    /// [`BackendError::Behind`], with what is missing and from whom.
    pub fn behind(detail: impl Into<String>) -> Self {
        Self::Behind { detail: detail.into() }
    }

    /// [`BackendError::Failed`], with what was wrong; takes any error.
    pub fn failed<R: std::fmt::Display>(reason: R) -> Self {
        Self::Failed { reason: reason.to_string() }
    }
}
