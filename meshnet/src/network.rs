//! Owns the [`NetworkSecret`]: what tells a member's first datagram from a stranger's.

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, Zeroizing};

use crate::key::{KeyError, decode_32};
use crate::text;

const PREFIX: &str = "mnnet1";

/// 32 bytes that all nodes of a network share: the pre-shared key of every handshake. Whoever
/// lacks it gets no answer at all. Wiped on drop, never shown by `Debug`.
#[derive(Clone)]
pub struct NetworkSecret(Zeroizing<[u8; 32]>);

impl NetworkSecret {
    /// The secret with these bytes, which must come from a good source of entropy.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let secret = NetworkSecret(Zeroizing::new(bytes));
        bytes.zeroize();
        secret
    }

    /// The text form for a secret file, beginning with `mnnet1`.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(text::encode(PREFIX, self.0.as_ref()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkSecret(..)")
    }
}

impl FromStr for NetworkSecret {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(NetworkSecret(decode_32(PREFIX, "a network secret", text)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_round_trips_and_debug_shows_nothing() {
        let secret = NetworkSecret::from_bytes([5; 32]);
        assert_eq!(secret.to_text().parse::<NetworkSecret>().unwrap().as_bytes(), &[5; 32]);
        assert_eq!(format!("{secret:?}"), "NetworkSecret(..)");
        assert!("mn1abc".parse::<NetworkSecret>().unwrap_err().to_string().contains("mnnet1"));
    }
}
