//! Who and what: [`DeviceId`] names a replica, [`FolderId`] names what is replicated, [`IndexId`] names one
//! life of a replica's index. The text forms carry a checksum, so a mistyped one is refused.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use thiserror::Error;

/// Names one replica: 32 bytes. The public key of its Ed25519 key pair (feature `tls`), whatever a mesh names it by, or
/// drawn when its state directory is made. Text form: `sd1` + base32 + checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId([u8; 32]);

/// Names one folder, the same on all its replicas: 16 bytes. Text form: `sf1` + base32 + checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FolderId([u8; 16]);

/// Names one life of one replica's index. Sequences are comparable only within one `IndexId`: a replica that had
/// to take versions back (see [`crate::fence`]) draws a new one, and its peers then ask for everything again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IndexId(pub u64);

/// Why a text is not a [`DeviceId`] or [`FolderId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// The prefix that says what kind of identifier this is, is missing.
    #[error("an identifier of this kind starts with `{0}`")]
    Prefix(&'static str),
    /// Not base32, or not of the right length.
    #[error("the identifier is truncated or has a character outside base32 (a-z, 2-7)")]
    Malformed,
    /// The checksum differs: mistyped.
    #[error("the identifier's checksum does not match: it was probably mistyped")]
    Checksum,
}

const DEVICE_PREFIX: &str = "sd1";
const FOLDER_PREFIX: &str = "sf1";
const CHECKSUM_BYTES: usize = 4;

impl DeviceId {
    /// Takes 32 bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight characters after the prefix: enough to tell the replicas of one folder apart in a file name.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[DEVICE_PREFIX.len()..].chars().take(8).collect()
    }
}

impl FolderId {
    /// Takes 16 bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_text(DEVICE_PREFIX, &self.0))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sd1{}", self.short())
    }
}

impl FromStr for DeviceId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        decode_text(DEVICE_PREFIX, text).map(Self)
    }
}

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_text(FOLDER_PREFIX, &self.0))
    }
}

impl fmt::Debug for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FolderId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        decode_text(FOLDER_PREFIX, text).map(Self)
    }
}

/// `prefix` + lower-case base32 of `bytes` followed by the first bytes of their BLAKE3 hash, keyed by the prefix.
pub(crate) fn encode_text(prefix: &str, bytes: &[u8]) -> String {
    let mut all = bytes.to_vec();
    all.extend_from_slice(&checksum(prefix, bytes));
    format!("{prefix}{}", BASE32_NOPAD.encode(&all).to_ascii_lowercase())
}

/// The inverse of [`encode_text`] for a value of exactly `N` bytes.
pub(crate) fn decode_text<const N: usize>(prefix: &'static str, text: &str) -> Result<[u8; N], IdError> {
    let body = text.strip_prefix(prefix).ok_or(IdError::Prefix(prefix))?;
    let all = BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|_| IdError::Malformed)?;
    if all.len() != N + CHECKSUM_BYTES {
        return Err(IdError::Malformed);
    }
    let (value, sum) = all.split_at(N);
    if sum != checksum(prefix, value) {
        return Err(IdError::Checksum);
    }
    Ok(value.try_into().expect("the length was checked above"))
}

fn checksum(prefix: &str, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(prefix.as_bytes()).update(bytes);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip_and_refuse_typos() {
        let id = DeviceId::from_bytes([7; 32]);
        let text = id.to_string();
        assert_eq!(text.parse::<DeviceId>(), Ok(id));
        assert_eq!(text.parse::<FolderId>(), Err(IdError::Prefix("sf1")));
        assert_eq!(text[..20].parse::<DeviceId>(), Err(IdError::Malformed));
        let typo = text.replacen('a', "b", 1);
        assert_ne!(typo, text);
        assert_eq!(typo.parse::<DeviceId>(), Err(IdError::Checksum));
        let folder = FolderId::from_bytes([9; 16]);
        assert_eq!(folder.to_string().parse::<FolderId>(), Ok(folder));
    }
}
