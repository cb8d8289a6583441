//! Owns a node's identity: [`SecretKey`] and the [`PeerId`] that names the node everywhere.
//!
//! One 32-byte seed serves twice. As an Ed25519 key it signs memberships and tickets; its X25519
//! form (private: the clamped first half of SHA-512 of the seed, as RFC 8032 derives the signing
//! scalar; public: the birational map from Edwards to Montgomery form) is the Noise static key. Using
//! one key pair for both is proven safe for EdDSA signatures together with Diffie-Hellman key
//! agreement of this kind (E. Thormarker, "On using the same key pair for Ed25519 and an X25519 based
//! KEM", 2021, eprint 2021/509) and is what libsodium's `crypto_sign_ed25519_sk_to_curve25519` does.
//! What a node signs and what it feeds to Noise cannot be confused: signed bytes begin with a
//! context text of their own.
//!
//! The map to Montgomery form drops the sign, so the holder of an identity `P` could also call
//! itself `-P`. That gives it a second name for itself and nothing of anybody else's.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use curve25519_dalek::edwards::CompressedEdwardsY;
use zeroize::{Zeroize, Zeroizing};

use crate::text::{self, TextError};

const ID_PREFIX: &str = "mn1";
const SECRET_PREFIX: &str = "mnsec1";
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// Why a text or some bytes are not a key, an identity or a network secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is of another kind.
    #[error("this is not {expected}: the text must begin with \"{prefix}\"")]
    NotThisKind {
        /// What was expected, in words.
        expected: &'static str,
        /// The prefix that such a text has.
        prefix: &'static str,
    },
    /// The checksum does not match.
    #[error("the key text is truncated or mistyped: copy it again, whole")]
    Mistyped,
    /// The payload has another length than 32 bytes.
    #[error("a key has 32 bytes, this text holds {0}")]
    Length(usize),
    /// The bytes are not a canonical point of Ed25519, or one of small order.
    #[error("the bytes are no Ed25519 public key")]
    InvalidPoint,
}

/// A node's secret: a 32-byte Ed25519 seed. Wiped on drop, never shown by `Debug`.
#[derive(Clone)]
pub struct SecretKey {
    seed: Zeroizing<[u8; 32]>,
    id: PeerId,
}

impl SecretKey {
    /// The key of this seed. The seed must come from a good source of entropy.
    pub fn from_bytes(mut seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed of 32 bytes is a key");
        let public = pair.public_key().as_ref().try_into().expect("a public key has 32 bytes");
        let key = SecretKey { seed: Zeroizing::new(seed), id: PeerId(public) };
        seed.zeroize();
        key
    }

    /// The identity that this key proves.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The text form for a key file, beginning with `mnsec1`. Whoever reads it is this node.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(text::encode(SECRET_PREFIX, self.seed.as_ref()))
    }

    /// Signs `message` under `context`, a text that no other use of the key shares.
    pub(crate) fn sign(&self, context: &[u8], message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(self.seed.as_ref()).expect("a seed of 32 bytes is a key");
        let signature = pair.sign(&[context, message].concat());
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// The X25519 private key that belongs to this identity (RFC 8032, section 5.1.5, steps 1 and 2;
    /// the clamping happens in the multiplication).
    pub(crate) fn x25519_private(&self) -> Zeroizing<[u8; 32]> {
        let hash = digest::digest(&digest::SHA512, self.seed.as_ref());
        let mut scalar = Zeroizing::new([0; 32]);
        scalar.copy_from_slice(&hash.as_ref()[..32]);
        scalar
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.id)
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(SecretKey::from_bytes(*decode_32(SECRET_PREFIX, "a secret key", text)?))
    }
}

/// Who a node is: its Ed25519 public key. The text form begins with `mn1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The identity with these bytes.
    ///
    /// # Errors
    /// [`KeyError::InvalidPoint`] if they are not the canonical form of a curve point of large order.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let point = CompressedEdwardsY(bytes).decompress().ok_or(KeyError::InvalidPoint)?;
        if point.compress().0 != bytes || point.is_small_order() {
            return Err(KeyError::InvalidPoint);
        }
        Ok(PeerId(bytes))
    }

    /// The 32 bytes of the public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` was made over `message` under `context` by the holder of this identity.
    pub(crate) fn verify(&self, context: &[u8], message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, &self.0)
            .verify(&[context, message].concat(), signature)
            .is_ok()
    }

    /// The X25519 public key that belongs to this identity; `None` if the point has a component
    /// outside the prime-order group, which no honestly made key has.
    pub(crate) fn x25519_public(&self) -> Option<[u8; 32]> {
        let point = CompressedEdwardsY(self.0).decompress()?;
        point.is_torsion_free().then(|| point.to_montgomery().to_bytes())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::encode(ID_PREFIX, &self.0))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        PeerId::from_bytes(*decode_32(ID_PREFIX, "a node's public identity", text)?)
    }
}

/// The 32 bytes that a text of this kind holds, wiped when dropped.
pub(crate) fn decode_32(
    prefix: &'static str,
    expected: &'static str,
    text: &str,
) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let payload = text::decode(prefix, text).map(Zeroizing::new).map_err(|error| match error {
        TextError::Foreign => KeyError::NotThisKind { expected, prefix },
        TextError::Mistyped => KeyError::Mistyped,
    })?;
    let mut bytes = Zeroizing::new([0; 32]);
    if payload.len() != bytes.len() {
        return Err(KeyError::Length(payload.len()));
    }
    bytes.copy_from_slice(&payload);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use curve25519_dalek::constants::EIGHT_TORSION;
    use curve25519_dalek::montgomery::MontgomeryPoint;

    #[test]
    fn the_x25519_halves_of_a_key_and_of_its_identity_belong_together() {
        for seed in 0..16 {
            let key = SecretKey::from_bytes([seed; 32]);
            let public = MontgomeryPoint::mul_base_clamped(*key.x25519_private()).to_bytes();
            assert_eq!(key.id().x25519_public(), Some(public));
        }
    }

    #[test]
    fn text_forms_round_trip_and_do_not_mix() {
        let key = SecretKey::from_bytes([9; 32]);
        assert_eq!(key.id().to_string().parse::<PeerId>().unwrap(), key.id());
        assert_eq!(key.to_text().parse::<SecretKey>().unwrap().id(), key.id());
        let mixed = key.to_text().parse::<PeerId>().unwrap_err();
        assert!(mixed.to_string().contains("must begin with \"mn1\""), "{mixed}");
        assert_eq!(text::encode(ID_PREFIX, &[1; 31]).parse::<PeerId>(), Err(KeyError::Length(31)));
    }

    #[test]
    fn points_of_small_order_and_non_canonical_ones_are_refused() {
        for point in EIGHT_TORSION {
            assert_eq!(PeerId::from_bytes(point.compress().0), Err(KeyError::InvalidPoint));
        }
        // y = p + 3 encodes y = 3 a second time.
        let mut non_canonical = [0xff; 32];
        non_canonical[0] = 0xf0;
        non_canonical[31] = 0x7f;
        assert_eq!(PeerId::from_bytes(non_canonical), Err(KeyError::InvalidPoint));
        let honest =
            CompressedEdwardsY(*SecretKey::from_bytes([1; 32]).id().as_bytes()).decompress().unwrap();
        let mixed = PeerId::from_bytes((honest + EIGHT_TORSION[1]).compress().0).unwrap();
        assert_eq!(mixed.x25519_public(), None);
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = SecretKey::from_bytes([9; 32]);
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.id().to_string()));
        assert!(!shown.contains(&key.to_text()[SECRET_PREFIX.len()..]));
    }

    #[test]
    fn a_signature_holds_for_its_context_only() {
        let key = SecretKey::from_bytes([3; 32]);
        let signature = key.sign(b"a", b"message");
        assert!(key.id().verify(b"a", b"message", &signature));
        assert!(!key.id().verify(b"b", b"message", &signature));
        assert!(!key.id().verify(b"a", b"messagf", &signature));
        assert!(!SecretKey::from_bytes([4; 32]).id().verify(b"a", b"message", &signature));
    }
}
