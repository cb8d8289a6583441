//! What is said of a rollout, while it goes on and at the end.

use std::fmt;
use std::time::Duration;

/// What has been reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step was done: its first line.
    Step(String),
    /// A step has to wait for something that ends by itself.
    Busy {
        /// The step: its first line.
        step: String,
        /// What for.
        why: String,
    },
    /// So many tasks of a service run.
    Service {
        /// The service.
        service: String,
        /// Tasks that are as they should be.
        running: u64,
        /// Tasks that should.
        desired: u64,
        /// What keeps the others from it, as far as known.
        note: Option<String>,
        /// Whether it is on the way back.
        is_back: bool,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(line) => f.write_str(line),
            Self::Busy { step, why } => write!(f, "  {step} waits: {why}"),
            Self::Service { service, running, desired, note, is_back } => {
                let back = if *is_back { ", going back" } else { "" };
                write!(f, "  {service}: {running} of {desired}{back}")?;
                note.iter().try_for_each(|note| write!(f, ": {note}"))
            }
        }
    }
}

/// Why a rollout did not get there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// A service does not run as it should.
    Service {
        /// The service.
        service: String,
        /// Why, in words.
        why: String,
    },
    /// The engine refused a step.
    Refused {
        /// The step.
        step: String,
        /// Why, in words.
        why: String,
    },
    /// It took too long.
    TimedOut {
        /// The limit.
        after: Duration,
        /// What was waited for.
        waiting: Vec<Left>,
        /// Why no manager could be asked, if none could.
        silent: Option<String>,
    },
    /// It was not wanted any more.
    Cancelled,
    /// Everything is there, and what is not wanted any more could not all be removed.
    NotRemoved,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The step that would be needed.
    pub step: String,
    /// Why it was not done.
    pub why: String,
}

/// A rollout that did not get there, and what that means for what it changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RolloutError {
    /// Why it did not.
    pub failure: Failure,
    /// What is not as it was before, or, if all that failed are removals, as it should be.
    pub left: Vec<Left>,
    /// Whether everything else that was changed has been put back.
    pub is_undone: bool,
}

impl fmt::Display for RolloutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failure, left, is_undone } = self;
        write!(f, "{failure}")?;
        match (is_undone, left.is_empty()) {
            (true, true) => return write!(f, "\nwhat was changed is as before"),
            (true, false) => write!(f, "\nthis is left to be put back, everything else is as before:")?,
            (false, _) if *failure == Failure::NotRemoved => write!(f, " This is left:")?,
            (false, true) => return Ok(()),
            (false, false) => write!(f, "\nnothing was put back; to do so:")?,
        }
        left.iter().try_for_each(|left| write!(f, "\n  {left}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { service, why } => write!(f, "service {service}: {why}"),
            Self::Refused { step, why } => write!(f, "{step}: {why}"),
            Self::TimedOut { after, waiting, silent } => {
                write!(f, "not there after {} s", after.as_secs())?;
                silent.iter().try_for_each(|why| write!(f, " (no manager can be asked: {why})"))?;
                waiting.iter().try_for_each(|left| write!(f, "\n  {left}"))
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::NotRemoved => f.write_str("everything is there, but not everything could be removed."),
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, why } = self;
        f.write_str(step)?;
        if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
    }
}
