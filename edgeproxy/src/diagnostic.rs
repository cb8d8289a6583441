//! Owns what is said about a label that was not understood: data, never a log line, so that a page, a command and `explain` can show it.

use std::fmt;

/// Most diagnostics that are kept for one container; the last one then says how many more there were.
pub const DIAGNOSTICS_PER_CONTAINER_MAX: usize = 32;

/// One thing about one container that does not have the effect that somebody expects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "driver", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Diagnostic {
    /// The provider that reported the container.
    pub provider: String,
    /// The container's name.
    pub container: String,
    /// The label as it was written; empty if no single label is the cause.
    pub label: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {}", self.container)?;
        if !self.label.is_empty() {
            write!(f, ", label {}", self.label)?;
        }
        write!(f, ": {}; {}", self.what, self.remedy)
    }
}
