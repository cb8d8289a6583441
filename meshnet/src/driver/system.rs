//! Owns the clock and the entropy of the system.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;

use crate::entropy::{Entropy, draw};
use crate::key::SecretKey;
use crate::network::NetworkSecret;
use crate::time::Now;

/// The system's random number generator.
pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        rand::fill(bytes).expect("the operating system provides entropy");
    }
}

/// Both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Clock { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: self.start.elapsed(), unix }
    }

    /// The instant at which the monotonic clock shows `at`.
    pub(crate) fn instant(&self, at: std::time::Duration) -> Instant {
        self.start + at
    }
}

impl SecretKey {
    /// A new key from the system's entropy.
    pub fn generate() -> Self {
        SecretKey::from_bytes(draw(&mut SystemEntropy))
    }
}

impl NetworkSecret {
    /// A new secret from the system's entropy.
    pub fn generate() -> Self {
        NetworkSecret::from_bytes(draw(&mut SystemEntropy))
    }
}
