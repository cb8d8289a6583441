//! What a dialler says first on a proven stream, before any message of [`crate::wire`]: which folder the stream is about.
//! One listener can so serve many folders.
//!
//! The dialler sends a [`Greeting`], the listener an [`Answer`]; after [`Answer::Welcome`] both sides sync that folder.
//! On the stream each is a length (`u16`, little-endian, of what follows) and its bytes. Decoding is total and bounded;
//! whatever is not exactly what [`Greeting::encode`] or [`Answer::encode`] gives is refused.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::device::FolderId;

/// The version of this exchange.
pub const VERSION: u8 = 1;
/// The longest greeting or answer, in bytes, without the length before it.
pub const BYTES_MAX: usize = 128;
/// The longest label, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

const MAGIC: [u8; 3] = *b"sfg";

/// A folder's name for people, the same on all devices that share it: 1 to 64 characters of `a-z A-Z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// The text is no [`Label`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not a folder label: write 1 to {LABEL_BYTES_MAX} of the characters a-z A-Z 0-9 . _ -")]
pub struct LabelError(String);

/// Which folder a dialler wants to sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// Its identity, if the dialler's replica has one already.
    pub folder: Option<FolderId>,
    /// Its label, if the dialler calls it something.
    pub label: Option<Label>,
}

/// What the listener says to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Welcome,
    /// No, and why.
    Refused(Refusal),
}

/// Why a listener does not sync with a dialler that has proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It was told nothing of this device.
    #[error("the other side was not told of this device: name this device's ID among the peers there")]
    UnknownDevice,
    /// It shares no such folder with this device.
    #[error(
        "the other side shares no such folder with this device: compare label and peers of the folder on both sides"
    )]
    UnknownFolder,
    /// It shares several folders with this device, and none was named.
    #[error("the other side shares several folders with this device: give the folder its label here")]
    Ambiguous,
    /// A stream between these two for this folder is there already.
    #[error("the two are connected already")]
    Connected,
    /// It speaks another version.
    #[error("the other side speaks another version of the protocol: run the same version on both")]
    Version,
    /// Something that this version does not know.
    #[error("the other side refuses for a reason that this version does not know ({0})")]
    Other(u8),
}

/// Why bytes are no greeting or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GreetingError {
    /// Another protocol.
    #[error("not a syncfs greeting")]
    Foreign,
    /// Another version of this one.
    #[error("a greeting of version {0}, this is version {VERSION}")]
    Version(u8),
    /// Damaged.
    #[error("a malformed greeting")]
    Malformed,
}

impl Label {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Label {
    type Err = LabelError;
    fn from_str(text: &str) -> Result<Self, LabelError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match (1..=LABEL_BYTES_MAX).contains(&text.len()) && text.chars().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(LabelError(text.chars().take(LABEL_BYTES_MAX).collect())),
        }
    }
}

impl Greeting {
    /// The bytes, at most [`BYTES_MAX`]: magic, version, the folder (0 or 16 bytes after their count), the label
    /// (its bytes after their count).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[VERSION]].concat();
        let folder = self.folder.as_ref().map_or(&[][..], |folder| folder.as_bytes());
        let label = self.label.as_ref().map_or(&[][..], |label| label.0.as_bytes());
        for field in [folder, label] {
            bytes.push(u8::try_from(field.len()).expect("a label is shorter than 256 bytes"));
            bytes.extend_from_slice(field);
        }
        bytes
    }

    /// The inverse.
    ///
    /// # Errors
    /// If the bytes are anything else than an encoded greeting of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, GreetingError> {
        let [_, _, _, version, rest @ ..] = bytes else { return Err(GreetingError::Foreign) };
        if bytes[..3] != MAGIC {
            return Err(GreetingError::Foreign);
        }
        if *version != VERSION {
            return Err(GreetingError::Version(*version));
        }
        let (folder, rest) = field(rest)?;
        let (label, rest) = field(rest)?;
        let folder = match folder.len() {
            0 => None,
            _ => Some(FolderId::from_bytes(folder.try_into().map_err(|_| GreetingError::Malformed)?)),
        };
        let label = std::str::from_utf8(label).map_err(|_| GreetingError::Malformed)?;
        let label = match label {
            "" => None,
            label => Some(label.parse().map_err(|_| GreetingError::Malformed)?),
        };
        if rest.is_empty() { Ok(Self { folder, label }) } else { Err(GreetingError::Malformed) }
    }
}

impl Answer {
    /// The bytes: magic, version, one code.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let code = match self {
            Self::Welcome => 0,
            Self::Refused(Refusal::UnknownDevice) => 1,
            Self::Refused(Refusal::UnknownFolder) => 2,
            Self::Refused(Refusal::Ambiguous) => 3,
            Self::Refused(Refusal::Connected) => 4,
            Self::Refused(Refusal::Version) => 5,
            Self::Refused(Refusal::Other(code)) => code,
        };
        [&MAGIC[..], &[VERSION, code]].concat()
    }

    /// The inverse.
    ///
    /// # Errors
    /// If the bytes are anything else than an encoded answer. A refusal for an unknown reason is one, of any version.
    pub fn decode(bytes: &[u8]) -> Result<Self, GreetingError> {
        let [a, b, c, version, code] = *bytes else { return Err(GreetingError::Foreign) };
        if [a, b, c] != MAGIC {
            return Err(GreetingError::Foreign);
        }
        if version != VERSION {
            return Err(GreetingError::Version(version));
        }
        Ok(match code {
            0 => Self::Welcome,
            1 => Self::Refused(Refusal::UnknownDevice),
            2 => Self::Refused(Refusal::UnknownFolder),
            3 => Self::Refused(Refusal::Ambiguous),
            4 => Self::Refused(Refusal::Connected),
            5 => Self::Refused(Refusal::Version),
            other => Self::Refused(Refusal::Other(other)),
        })
    }
}

/// A count and as many bytes; and what follows them.
fn field(bytes: &[u8]) -> Result<(&[u8], &[u8]), GreetingError> {
    let (count, rest) = bytes.split_first().ok_or(GreetingError::Malformed)?;
    rest.split_at_checked(usize::from(*count)).ok_or(GreetingError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(folder: Option<[u8; 16]>, label: Option<&str>) -> Greeting {
        Greeting {
            folder: folder.map(FolderId::from_bytes),
            label: label.map(|label| label.parse().unwrap()),
        }
    }

    /// Golden vectors of version 1.
    #[test]
    fn the_bytes_are_pinned() {
        let full = greeting(Some([7; 16]), Some("notes"));
        let bytes = [&b"sfg\x01\x10"[..], &[7; 16], b"\x05notes"].concat();
        assert_eq!(full.encode(), bytes);
        assert_eq!(Greeting::decode(&bytes), Ok(full));
        assert_eq!(greeting(None, None).encode(), b"sfg\x01\x00\x00");
        assert_eq!(Answer::Welcome.encode(), b"sfg\x01\x00");
        assert_eq!(Answer::Refused(Refusal::UnknownFolder).encode(), b"sfg\x01\x02");
        for code in 0..=255 {
            let answer = Answer::decode(&[b's', b'f', b'g', 1, code]).unwrap();
            assert_eq!(answer.encode()[4], code);
        }
    }

    #[test]
    fn the_longest_fits_its_limit_and_longer_labels_are_refused() {
        let longest = "x".repeat(LABEL_BYTES_MAX);
        assert!(greeting(Some([1; 16]), Some(&longest)).encode().len() <= BYTES_MAX);
        for wrong in ["", "a b", "ä", "../x/", &"x".repeat(LABEL_BYTES_MAX + 1)] {
            assert!(wrong.parse::<Label>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn whatever_else_is_refused() {
        use GreetingError::{Foreign, Malformed, Version};
        assert_eq!(Greeting::decode(b""), Err(Foreign));
        assert_eq!(Greeting::decode(b"GET / HTTP/1.1"), Err(Foreign));
        assert_eq!(Greeting::decode(b"sfg\x02\x00\x00"), Err(Version(2)));
        for bytes in
            [&b"sfg\x01"[..], b"sfg\x01\x00", b"sfg\x01\x03abc\x00", b"sfg\x01\x00\x02a", b"sfg\x01\x00\x01/"]
        {
            assert_eq!(Greeting::decode(bytes), Err(Malformed));
        }
        assert_eq!(Greeting::decode(b"sfg\x01\x00\x00!"), Err(Malformed));
        assert_eq!(Answer::decode(b"sfg\x01"), Err(Foreign));
        assert_eq!(Answer::decode(b"sfg\x02\x00"), Err(Version(2)));
    }
}
