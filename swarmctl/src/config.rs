//! How volumes are mounted: every time limit, with the reason for its default.

use std::time::Duration;

/// How volumes are mounted and unmounted. [`Default`] is right for Docker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VolumeOptions {
    /// A mount is answered within this time. Default 110 s: Docker gives up after 120 s, and with an error
    /// that does not say what was waited for.
    pub mount_deadline: Duration,
    /// An unmount is answered within this time, be the data replicated or not. Default 50 s: Docker gives
    /// up after 60 s.
    pub unmount_deadline: Duration,
    /// How often a lease that another node holds is looked at. This only reads. Default 100 ms.
    pub lease_poll: Duration,
    /// How long one call of `catch_up` or `replicated` waits before it says what is missing. Default 2 s.
    pub progress_interval: Duration,
    /// How long a single step (any call of the lease or the backend, beyond what it was told to wait) may
    /// take before it counts as failed. Default 20 s.
    pub step_timeout: Duration,
    /// How long to wait after a failed step in the background; doubled with each failure in a row.
    /// Default 500 ms.
    pub retry_first: Duration,
    /// The longest such wait. Default 15 s.
    pub retry_max: Duration,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            mount_deadline: Duration::from_secs(110),
            unmount_deadline: Duration::from_secs(50),
            lease_poll: Duration::from_millis(100),
            progress_interval: Duration::from_secs(2),
            step_timeout: Duration::from_secs(20),
            retry_first: Duration::from_millis(500),
            retry_max: Duration::from_secs(15),
        }
    }
}
