//! Who this device is, provably: an Ed25519 key pair whose public half *is* the [`DeviceId`]. Owns the key and its file.
//!
//! The secret half never leaves this module except as a signature and as the one file, mode 0600, that it is kept in.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use thiserror::Error;
use zeroize::Zeroizing;

use super::tls;
use crate::device::{DeviceId, IdError, decode_text, encode_text};

/// The text form of a secret key: this, base32, checksum.
const KEY_PREFIX: &str = "sk1";
/// A key file is one short line; more is not read.
const KEY_FILE_BYTES_MAX: u64 = 256;
/// RFC 8410: what stands before the 32 bytes of a public Ed25519 key as a `SubjectPublicKeyInfo`.
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// RFC 8410: what stands before the 32 bytes of a secret Ed25519 key in PKCS#8.
const SECRET_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A device's key pair. Its [`DeviceId`] is the public key itself, so whoever proves the key proves the ID.
#[derive(Clone)]
pub struct Identity {
    device: DeviceId,
    key: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("device", &self.device).finish_non_exhaustive()
    }
}

/// Why a key was not read or made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Somebody else could be this device.
    #[error("{}: others can read this secret key; run `chmod 600` on it, and replace it if they may have", .0.display())]
    Exposed(PathBuf),
    /// The file holds no key.
    #[error("{}: not a key file: {source}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdError,
    },
    /// The system refused.
    #[error("{}: cannot {what}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl Identity {
    /// A fresh key that is kept nowhere.
    ///
    /// # Errors
    /// If the system gives no entropy.
    pub fn generate() -> Result<Self, KeyError> {
        let seed = fresh_seed()?;
        Ok(Self::of(&seed))
    }

    /// Reads the key in `path`.
    ///
    /// # Errors
    /// If there is none, others can read it, or it is damaged.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file = File::open(path).map_err(io(path, "open the key"))?;
        if file.metadata().map_err(io(path, "look at the key"))?.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed(path.to_owned()));
        }
        let mut text = Zeroizing::new(String::new());
        let limited = file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text);
        limited.map_err(io(path, "read the key"))?;
        let malformed = |source| KeyError::Malformed { path: path.to_owned(), source };
        tls::seed();
        let seed = Zeroizing::new(decode_text(KEY_PREFIX, text.trim()).map_err(malformed)?);
        Ok(Self::of(&seed))
    }

    /// Reads the key in `path`; if there is no such file, makes one (mode 0600, durable) with a fresh key. An existing
    /// file is never replaced.
    ///
    /// # Errors
    /// As [`Identity::load`], or if the file cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        if !path.exists() {
            let seed = fresh_seed()?;
            match create(path, &seed) {
                // Somebody was faster: theirs it is.
                Err(KeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Self::load(path)
    }

    /// Who this is.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The key as TLS uses it: the public half as a raw public key (RFC 7250).
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    #[cfg(test)]
    pub(super) fn with_public_half_of(&self, other: &Self) -> Self {
        let key = CertifiedKey::new(other.key.cert.clone(), Arc::clone(&self.key.key));
        Self { device: other.device, key: Arc::new(key) }
    }

    fn of(seed: &[u8; 32]) -> Self {
        let secret = Zeroizing::new([&SECRET_PREFIX[..], seed].concat());
        let key =
            any_eddsa_type(&PrivatePkcs8KeyDer::from(&secret[..])).expect("any 32 bytes are an Ed25519 seed");
        let public = SigningKey::public_key(&*key).expect("an Ed25519 key knows its public half").to_vec();
        let device = device_of(&public).expect("the public half of an Ed25519 key has the form of RFC 8410");
        let key = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key));
        Self { device, key }
    }
}

/// The device whose public key this is (a DER `SubjectPublicKeyInfo`); `None` if it is not an Ed25519 key.
pub(super) fn device_of(public: &[u8]) -> Option<DeviceId> {
    Some(DeviceId::from_bytes(public.strip_prefix(&PUBLIC_PREFIX)?.try_into().ok()?))
}

fn fresh_seed() -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let source = Path::new("/dev/urandom");
    let mut seed = Zeroizing::new([0; 32]);
    let filled = File::open(source).and_then(|mut source| source.read_exact(&mut *seed));
    filled.map_err(io(source, "draw a key"))?;
    Ok(seed)
}

/// Under its name the file is complete and durable, or not there at all.
fn create(path: &Path, seed: &[u8; 32]) -> Result<(), KeyError> {
    let draft = path.with_added_extension(format!("{}.new", std::process::id()));
    let text = Zeroizing::new(encode_text(KEY_PREFIX, seed) + "\n");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(io(&draft, "create the key"))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let placed = written
        .and_then(|()| Ok(renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE)?))
        .and_then(|()| match path.parent() {
            Some(dir) if dir != Path::new("") => File::open(dir)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        });
    placed.map_err(|source| {
        let _ = fs::remove_file(&draft);
        io(path, "write the key")(source)
    })
}

fn io(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { path, what, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_private_made_once_and_gives_the_same_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(matches!(Identity::load(&path), Err(KeyError::Io { .. })));
        let made = Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Identity::load_or_create(&path).unwrap().device(), made.device());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a draft was left");
        assert_ne!(Identity::generate().unwrap().device(), made.device());
        let secret = fs::read_to_string(&path).unwrap();
        assert!(!format!("{made:?}").contains(secret.trim()));
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        Identity::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Identity::load(&path), Err(KeyError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "sk1nonsense").unwrap();
        assert!(matches!(Identity::load(&path), Err(KeyError::Malformed { .. })));
        assert!(matches!(Identity::load_or_create(&path), Err(KeyError::Malformed { .. })), "never replaced");
    }

    /// RFC 8032, section 7.1, test 1: the device is the public key of its secret.
    #[test]
    fn the_device_is_the_public_key() {
        let hex = |text: &str| -> [u8; 32] {
            data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(Identity::of(&seed).device(), DeviceId::from_bytes(public));
    }
}
