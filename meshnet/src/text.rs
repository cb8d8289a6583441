//! Owns the one text form that keys, secrets, memberships and tickets share: a prefix that names
//! the kind, lower-case base32 without padding, and a four-byte checksum at the end, so that a
//! truncated or mistyped text is named as such instead of failing somewhere later.
//!
//! The checksum is the start of SHA-256 over prefix and payload. It finds accidents; it proves
//! nothing about who made the text (signatures do).

use aws_lc_rs::digest;
use data_encoding::{Encoding, Specification};
use zeroize::Zeroize;

/// What is wrong with a text before its payload is even looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextError {
    /// The text does not begin with the expected prefix.
    Foreign,
    /// A character outside the alphabet, a missing or an altered one.
    Mistyped,
}

/// Longest text that is looked at; the largest legitimate one, a full ticket, is about 1,500 characters.
const TEXT_MAX: usize = 4096;
const CHECKSUM_BYTES: usize = 4;

/// `payload` as text of the kind that `prefix` names.
pub(crate) fn encode(prefix: &str, payload: &[u8]) -> String {
    let mut bytes = payload.to_vec();
    bytes.extend_from_slice(&checksum(prefix, payload));
    let mut text = String::with_capacity(prefix.len() + bytes.len() * 8 / 5 + 1);
    text.push_str(prefix);
    base32().encode_append(&bytes, &mut text);
    bytes.zeroize();
    text
}

/// The payload of a text of the kind that `prefix` names. Surrounding white space and letter case
/// do not matter.
pub(crate) fn decode(prefix: &str, text: &str) -> Result<Vec<u8>, TextError> {
    let text = text.trim();
    if text.len() > TEXT_MAX {
        return Err(TextError::Foreign);
    }
    let mut lower = text.to_ascii_lowercase();
    let decoded = match lower.strip_prefix(prefix) {
        Some(body) => base32().decode(body.as_bytes()).map_err(|_| TextError::Mistyped),
        None => Err(TextError::Foreign),
    };
    lower.zeroize();
    let mut bytes = decoded?;
    let Some(payload_len) = bytes.len().checked_sub(CHECKSUM_BYTES) else {
        return Err(TextError::Mistyped);
    };
    let matches = checksum(prefix, &bytes[..payload_len]) == bytes[payload_len..];
    if !matches {
        bytes.zeroize();
        return Err(TextError::Mistyped);
    }
    bytes.truncate(payload_len);
    Ok(bytes)
}

fn checksum(prefix: &str, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(prefix.as_bytes());
    context.update(payload);
    let digest = context.finish();
    let mut start = [0; CHECKSUM_BYTES];
    start.copy_from_slice(&digest.as_ref()[..CHECKSUM_BYTES]);
    start
}

fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().expect("the base32 alphabet is a valid specification")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_survives_the_round_trip_in_any_case_and_with_white_space() {
        let text = encode("mn1", b"payload");
        assert_eq!(decode("mn1", &text).unwrap(), b"payload");
        assert_eq!(decode("mn1", &format!("  {}\n", text.to_uppercase())).unwrap(), b"payload");
    }

    #[test]
    fn every_truncation_and_every_changed_character_is_named() {
        let text = encode("mnt1", &[7; 40]);
        for end in 4..text.len() {
            assert_eq!(decode("mnt1", &text[..end]), Err(TextError::Mistyped), "cut at {end}");
        }
        for at in 4..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[at] = if altered[at] == b'a' { b'b' } else { b'a' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(decode("mnt1", &altered), Err(TextError::Mistyped), "changed at {at}");
        }
    }

    #[test]
    fn another_kind_and_an_oversized_text_are_foreign() {
        assert_eq!(decode("mn1", &encode("mnt1", b"x")), Err(TextError::Foreign));
        assert_eq!(decode("mn1", &format!("mn1{}", "a".repeat(TEXT_MAX))), Err(TextError::Foreign));
        assert_eq!(decode("mn1", "größe"), Err(TextError::Foreign));
    }
}
