//! Owns [`Membership`]: an authority's signed statement that an identity belongs to its network and
//! what it stands for there. A value of this type always carries a valid signature.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::claims::Claims;
use crate::key::{PeerId, SIGNATURE_BYTES, SecretKey};
use crate::text::{self, TextError};
use crate::wire::codec::{DecodeError, Reader};

const PREFIX: &str = "mnm1";
const CONTEXT: &[u8] = b"meshnet membership\0";
const VERSION: u8 = 1;
/// Seconds since 1970 that mean "does not expire".
const NEVER: u64 = u64::MAX;

/// A signed membership. Who holds it does not matter: it counts only together with a handshake that
/// proves the key of [`Membership::peer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    network: PeerId,
    peer: PeerId,
    claims: Claims,
    issued_unix: u64,
    expires_unix: u64,
    serial: u64,
    signature: [u8; SIGNATURE_BYTES],
}

/// Why a text or some bytes are not a valid membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The text is of another kind.
    #[error("this is not a membership: the text must begin with \"mnm1\"")]
    NotAMembership,
    /// The checksum does not match.
    #[error("the membership text is truncated or mistyped: copy it again, whole")]
    Mistyped,
    /// The signature is not the authority's.
    #[error("the membership's signature is invalid: it was altered, or not issued by the network it names")]
    BadSignature,
    /// The content does not decode.
    #[error("the membership cannot be read: {0}")]
    Malformed(#[from] DecodeError),
}

impl Membership {
    /// Signs that `peer` stands for `claims` in the network of `authority`. Times count from 1970;
    /// without `expires` it holds until the network ends. `serial` names this issue and should be
    /// unique within the network.
    pub fn issue(
        authority: &SecretKey,
        peer: PeerId,
        claims: Claims,
        issued: Duration,
        expires: Option<Duration>,
        serial: u64,
    ) -> Self {
        let mut membership = Membership {
            network: authority.id(),
            peer,
            claims,
            issued_unix: issued.as_secs(),
            expires_unix: expires.map_or(NEVER, |at| at.as_secs()),
            serial,
            signature: [0; SIGNATURE_BYTES],
        };
        membership.signature = authority.sign(CONTEXT, &membership.signed_bytes());
        membership
    }

    /// The authority's identity, which is the network's.
    pub fn network(&self) -> PeerId {
        self.network
    }

    /// The identity that this membership is for.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// What the member stands for.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The member's name.
    pub fn name(&self) -> &str {
        &self.claims.name
    }

    /// The member's mesh address, with the mesh's prefix length.
    pub fn address(&self) -> IpNet {
        self.claims.address
    }

    /// The subnets behind the member.
    pub fn subnets(&self) -> &[IpNet] {
        &self.claims.subnets
    }

    /// Seconds since 1970 at which it was issued.
    pub fn issued_unix(&self) -> u64 {
        self.issued_unix
    }

    /// Seconds since 1970 from which on it is no longer valid; `None` if it does not expire.
    pub fn expires_unix(&self) -> Option<u64> {
        (self.expires_unix != NEVER).then_some(self.expires_unix)
    }

    /// The number that the authority gave to this issue.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether it holds no longer at `unix`, the time since 1970.
    pub fn is_expired(&self, unix: Duration) -> bool {
        unix.as_secs() >= self.expires_unix
    }

    /// The text form for storing, beginning with `mnm1`. It is no secret.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        text::encode(PREFIX, &bytes)
    }

    /// Appends the binary form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.signed_bytes());
        out.extend_from_slice(&self.signature);
    }

    /// Reads the binary form and verifies the signature.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, MembershipError> {
        match reader.u8()? {
            VERSION => {}
            version => return Err(DecodeError::UnsupportedVersion(version).into()),
        }
        let membership = Membership {
            network: reader.peer_id()?,
            peer: reader.peer_id()?,
            claims: Claims::decode(reader)?,
            issued_unix: reader.u64()?,
            expires_unix: reader.u64()?,
            serial: reader.u64()?,
            signature: reader.array()?,
        };
        let authentic = membership.network.verify(CONTEXT, &membership.signed_bytes(), &membership.signature);
        if authentic { Ok(membership) } else { Err(MembershipError::BadSignature) }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(self.network.as_bytes());
        out.extend_from_slice(self.peer.as_bytes());
        self.claims.encode(&mut out);
        out.extend_from_slice(&self.issued_unix.to_le_bytes());
        out.extend_from_slice(&self.expires_unix.to_le_bytes());
        out.extend_from_slice(&self.serial.to_le_bytes());
        out
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl FromStr for Membership {
    type Err = MembershipError;

    fn from_str(text: &str) -> Result<Self, MembershipError> {
        let bytes = text::decode(PREFIX, text).map_err(|error| match error {
            TextError::Foreign => MembershipError::NotAMembership,
            TextError::Mistyped => MembershipError::Mistyped,
        })?;
        let mut reader = Reader::new(&bytes);
        let membership = Membership::decode(&mut reader)?;
        reader.finish()?;
        Ok(membership)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(expires: Option<Duration>) -> Membership {
        let claims = Claims::new("home-1", "10.7.0.2/24".parse().unwrap(), &[]).unwrap();
        let peer = SecretKey::from_bytes([2; 32]).id();
        Membership::issue(&SecretKey::from_bytes([1; 32]), peer, claims, Duration::from_secs(100), expires, 7)
    }

    #[test]
    fn the_text_form_round_trips() {
        let membership = sample(Some(Duration::from_secs(200)));
        assert_eq!(membership.to_text().parse::<Membership>().unwrap(), membership);
        assert_eq!("mn1aaaa".parse::<Membership>(), Err(MembershipError::NotAMembership));
    }

    #[test]
    fn no_altered_byte_verifies() {
        let mut bytes = Vec::new();
        sample(None).encode(&mut bytes);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(Membership::decode(&mut Reader::new(&altered)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn it_expires_at_its_second_or_never() {
        let membership = sample(Some(Duration::from_secs(200)));
        assert!(!membership.is_expired(Duration::from_secs(199)));
        assert!(membership.is_expired(Duration::from_secs(200)));
        assert!(!sample(None).is_expired(Duration::from_secs(u64::MAX - 1)));
        assert_eq!(sample(None).expires_unix(), None);
    }
}
