//! [`Token`]: a point in one replica's history that a barrier waits for.

use std::fmt;
use std::str::FromStr;

use crate::device::{DeviceId, FolderId, IdError, IndexId, decode_text, encode_text};

/// "Everything that `device` held in `folder` up to its `sequence`." Made by `Folder::flush`; give it to
/// `Folder::wait` on the writer or `Folder::reached` elsewhere. Text form: `st1` + base32 + checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The folder.
    pub folder: FolderId,
    /// The replica whose history this is.
    pub device: DeviceId,
    /// Which life of its index.
    pub index: IndexId,
    /// How far.
    pub sequence: u64,
}

const PREFIX: &str = "st1";
const BYTES: usize = 16 + 32 + 8 + 8;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(self.folder.as_bytes());
        bytes.extend_from_slice(self.device.as_bytes());
        bytes.extend_from_slice(&self.index.0.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        f.write_str(&encode_text(PREFIX, &bytes))
    }
}

impl FromStr for Token {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes: [u8; BYTES] = decode_text(PREFIX, text)?;
        let word = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes of a fixed array"))
        };
        Ok(Self {
            folder: FolderId::from_bytes(bytes[..16].try_into().expect("sixteen bytes of a fixed array")),
            device: DeviceId::from_bytes(bytes[16..48].try_into().expect("32 bytes of a fixed array")),
            index: IndexId(word(48)),
            sequence: word(56),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_stable_and_round_trips() {
        let token = Token {
            folder: FolderId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([2; 32]),
            index: IndexId(3),
            sequence: u64::MAX,
        };
        let text = token.to_string();
        assert_eq!(text.parse::<Token>(), Ok(token));
        assert_eq!(text.parse::<Token>().unwrap().to_string(), text);
        assert!(text.to_uppercase().parse::<Token>().is_err(), "the prefix is lower case");
    }
}
