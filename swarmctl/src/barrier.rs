//! The barrier: an opaque text that names everything a writer had written when it flushed.
//!
//! This crate carries barriers from the node that let go of a volume to the node that takes it, and
//! never looks inside: only the volume's backend understands them.

use std::fmt;
use std::str::FromStr;

/// Longest barrier in bytes. It is stored in the labels of one Swarm object together with the lease.
pub const BARRIER_MAX_BYTES: usize = 1024;

/// Everything written up to one flush of one volume, as an opaque text of its backend.
///
/// Two barriers can be compared for equality only; which one is newer, only the backend knows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Barrier(String);

/// Why a text cannot be a barrier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// The text has no character.
    #[error("the barrier is empty")]
    Empty,
    /// The text is longer than [`BARRIER_MAX_BYTES`].
    #[error("the barrier has {bytes} bytes, more than {BARRIER_MAX_BYTES}: use a shorter token")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The text holds a control character, which could forge lines in a log.
    #[error("the barrier holds a control character")]
    Control,
}

impl Barrier {
    /// Takes the backend's text as it is.
    ///
    /// # Errors
    /// When it is empty, longer than [`BARRIER_MAX_BYTES`], or holds a control character.
    pub fn new(text: impl Into<String>) -> Result<Self, BarrierError> {
        let text = text.into();
        if text.is_empty() {
            Err(BarrierError::Empty)
        } else if text.len() > BARRIER_MAX_BYTES {
            Err(BarrierError::TooLong { bytes: text.len() })
        } else if text.chars().any(char::is_control) {
            Err(BarrierError::Control)
        } else {
            Ok(Self(text))
        }
    }

    /// The backend's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Barrier {
    type Err = BarrierError;
    fn from_str(text: &str) -> Result<Self, BarrierError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Barrier {
    type Error = BarrierError;
    fn try_from(text: String) -> Result<Self, BarrierError> {
        Self::new(text)
    }
}

impl From<Barrier> for String {
    fn from(barrier: Barrier) -> Self {
        barrier.0
    }
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_printable_text_up_to_the_limit_is_carried_unchanged() {
        for text in ["7", "{\"seq\": 12}", "ä=1, b=2", &"x".repeat(BARRIER_MAX_BYTES)] {
            assert_eq!(Barrier::new(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_could_not_be_stored_or_logged_is_refused() {
        assert_eq!(Barrier::new(""), Err(BarrierError::Empty));
        assert_eq!(Barrier::new("a\nb"), Err(BarrierError::Control));
        let long = "x".repeat(BARRIER_MAX_BYTES + 1);
        assert_eq!(Barrier::new(long), Err(BarrierError::TooLong { bytes: BARRIER_MAX_BYTES + 1 }));
    }
}
