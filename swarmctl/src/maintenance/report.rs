//! How long maintenance may take, and what is said of it, while it goes on and at the end.

use std::fmt;
use std::time::Duration;

use crate::rollout::{Left, RolloutOptions};

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceOptions {
    /// One service, as in a rollout.
    pub rollout: RolloutOptions,
    /// How long a volume's replicas may lag.
    pub gate_limit: Duration,
    /// How long a manager may be silent.
    pub silence_limit: Duration,
    /// Pause before the same is asked again.
    pub pause: Duration,
}

impl Default for MaintenanceOptions {
    fn default() -> Self {
        Self {
            rollout: RolloutOptions::default(),
            gate_limit: Duration::from_secs(600),
            silence_limit: Duration::from_secs(30),
            pause: Duration::from_millis(500),
        }
    }
}

/// What has been reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A service begins to move, the first number of so many.
    Moves(String, usize, usize),
    /// It waits for the replicas of a volume: who lags and by how much.
    Waits(String, String),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moves(service, number, all) => write!(f, "{service} moves ({number} of {all})"),
            Self::Waits(volume, why) => write!(f, "  volume {volume} waits for {why}"),
        }
    }
}

/// Why it ended early, and where that leaves everything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct MaintenanceError {
    /// Why.
    pub why: String,
    /// Services that have moved, and stay there.
    pub moved: Vec<String>,
    /// Services that have not.
    pub remaining: Vec<String>,
    /// What is not as it was before.
    pub left: Vec<Left>,
}

impl fmt::Display for MaintenanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, moved, remaining, left } = self;
        f.write_str(why)?;
        for (names, what) in [(moved, "moved, and they stay there"), (remaining, "not moved")] {
            if !names.is_empty() {
                write!(f, "\n{what}: {}", names.join(", "))?;
            }
        }
        if !left.is_empty() {
            write!(f, "\nthis is left to be put back, everything else is as before:")?;
        }
        left.iter().try_for_each(|left| write!(f, "\n  {left}"))
    }
}
