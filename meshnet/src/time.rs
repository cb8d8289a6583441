//! Owns [`Now`]: time is an input, nothing in the pure half reads a clock.

use std::time::Duration;

/// A moment, on both clocks that the protocol needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Since an arbitrary start; never goes backwards. Every timer counts on it.
    pub monotonic: Duration,
    /// Since 1970, as the node's wall clock shows it; may jump. Expiry and replay windows count on it.
    pub unix: Duration,
}
