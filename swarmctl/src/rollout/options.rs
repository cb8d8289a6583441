//! Time limits of a rollout, each with its reason.

use std::time::Duration;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RolloutOptions {
    /// The whole way forward: images of many gigabytes are pulled meanwhile.
    pub limit: Duration,
    /// The way back.
    pub undo_limit: Duration,
    /// Pause between two looks.
    pub pause: Duration,
    /// How long tasks without a health check have to keep running to count.
    pub settle: Duration,
    /// How long no node may take a task: another one may be about to free its place.
    pub unplaced: Duration,
    /// How often a task may end: it may wait for another service in this way.
    pub ended_max: u64,
    /// Whether what was changed is put back if a service does not get there.
    pub undo: bool,
    /// Whether services are left to themselves once they were asked for. What has to be removed is waited for all the same.
    pub detach: bool,
}

impl Default for RolloutOptions {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(600),
            undo_limit: Duration::from_secs(90),
            pause: Duration::from_millis(200),
            settle: Duration::from_secs(2),
            unplaced: Duration::from_secs(5),
            ended_max: 3,
            undo: true,
            detach: false,
        }
    }
}
