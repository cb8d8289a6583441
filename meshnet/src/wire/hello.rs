//! Owns the encrypted payloads of the three handshake messages: [`Opening`] in the first, [`Hello`]
//! in the second and third.

use aws_lc_rs::digest;

use crate::claims::Claims;
use crate::key::PeerId;
use crate::membership::{Membership, MembershipError};
use crate::ticket::{Ticket, TicketError};
use crate::wire::VERSION;
use crate::wire::codec::{DecodeError, Reader};

/// The bit of [`Opening::ciphers`] and the value of [`Hello::cipher`] that mean AES-256-GCM. Other
/// ciphers will be other bits.
pub const CIPHER_AES_256_GCM: u8 = 1;

/// The payload of the first message. The pre-shared key protects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The sender's index for what follows.
    pub index: u32,
    /// The sender's clock, milliseconds since 1970: bounds how long a replay must be remembered.
    pub unix_ms: u64,
    /// The data ciphers that the sender has, one bit each.
    pub ciphers: u8,
    /// For whom the message is, as [`Opening::recipient`] computes it; zero if the sender does not know
    /// who will answer. Nobody else answers it, so a recorded message is of no use elsewhere.
    pub recipient: u64,
}

impl Opening {
    /// Length of the encoded form.
    pub const BYTES: usize = 22;

    /// The bytes of the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.unix_ms.to_le_bytes());
        out.push(self.ciphers);
        out.extend_from_slice(&self.recipient.to_le_bytes());
        out
    }

    /// The value that names `peer` in a message with this index and time: a part of a hash, so that
    /// the message does not show the identity itself to whoever gets hold of the network secret later.
    pub fn recipient(peer: PeerId, index: u32, unix_ms: u64) -> u64 {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"meshnet recipient\0");
        context.update(&index.to_le_bytes());
        context.update(&unix_ms.to_le_bytes());
        context.update(peer.as_bytes());
        let hash = context.finish();
        u64::from_le_bytes(*hash.as_ref().first_chunk().expect("SHA-256 is longer than 8 bytes"))
    }

    /// Whether the message may be for `peer`.
    pub fn is_for(&self, peer: PeerId) -> bool {
        self.recipient == 0 || self.recipient == Opening::recipient(peer, self.index, self.unix_ms)
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            VERSION => {}
            version => return Err(DecodeError::UnsupportedVersion(version)),
        }
        let opening = Opening {
            index: index(&mut reader)?,
            unix_ms: reader.u64()?,
            ciphers: reader.u8()?,
            recipient: reader.u64()?,
        };
        reader.finish()?;
        Ok(opening)
    }
}

/// What a node shows to be let in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credential {
    /// Nothing but its own word: good where the network secret alone decides.
    Claims,
    /// The authority's signed word.
    Membership(Membership),
    /// An invitation, to be exchanged for a membership at the node that issued it.
    Ticket(Ticket),
}

/// The payload of the second and the third message: who the sender is.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The sender's index for the session.
    pub index: u32,
    /// The data cipher: chosen by the second message, repeated by the third.
    pub cipher: u8,
    /// The sender's identity. The Noise static key must be its X25519 form.
    pub id: PeerId,
    /// What the sender says it stands for. Where a credential carries claims, those count.
    pub claims: Claims,
    /// What the sender shows.
    pub credential: Credential,
}

/// Why a hello is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The payload does not decode.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The membership inside is invalid.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The ticket inside is invalid.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

const CLAIMS: u8 = 0;
const MEMBERSHIP: u8 = 1;
const TICKET: u8 = 2;

impl Hello {
    /// The bytes of the payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.push(self.cipher);
        out.extend_from_slice(self.id.as_bytes());
        match &self.credential {
            Credential::Claims => {
                out.push(CLAIMS);
                self.claims.encode(&mut out);
            }
            Credential::Membership(membership) => {
                out.push(MEMBERSHIP);
                membership.encode(&mut out);
            }
            Credential::Ticket(ticket) => {
                out.push(TICKET);
                ticket.encode(&mut out);
            }
        }
        out
    }

    /// Reads a payload; signatures inside are verified, the sender's right to show them is not.
    ///
    /// # Errors
    /// See [`HelloError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let mut reader = Reader::new(bytes);
        let index = index(&mut reader)?;
        let cipher = reader.u8()?;
        let id = reader.peer_id()?;
        let (claims, credential) = match reader.u8()? {
            CLAIMS => (Claims::decode(&mut reader)?, Credential::Claims),
            MEMBERSHIP => {
                let membership = Membership::decode(&mut reader)?;
                (membership.claims().clone(), Credential::Membership(membership))
            }
            TICKET => {
                let ticket = Ticket::decode(&mut reader)?;
                (ticket.claims().clone(), Credential::Ticket(ticket))
            }
            kind => return Err(DecodeError::UnknownKind(kind).into()),
        };
        reader.finish()?;
        Ok(Hello { index, cipher, id, claims, credential })
    }
}

/// An index that names a session; zero names none.
fn index(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    match reader.u32()? {
        0 => Err(DecodeError::Invalid("index")),
        index => Ok(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{NAME_MAX, SUBNETS_MAX};
    use crate::ticket::{ENDPOINTS_MAX, TicketOptions};
    use crate::wire::{HANDSHAKE_MAX, HEADER_BYTES, TAG_BYTES};
    use crate::{NetworkSecret, SecretKey};
    use std::time::Duration;

    #[test]
    fn openings_round_trip() {
        let opening = Opening { index: 7, unix_ms: 1_700_000_000_123, ciphers: 3, recipient: 9 };
        assert_eq!(opening.encode().len(), Opening::BYTES);
        assert_eq!(Opening::decode(&opening.encode()), Ok(opening));
        let zero = Opening { index: 0, ..opening };
        assert_eq!(Opening::decode(&zero.encode()), Err(DecodeError::Invalid("index")));
    }

    #[test]
    fn an_opening_is_for_one_peer_or_for_anyone() {
        let peer = |n| SecretKey::from_bytes([n; 32]).id();
        let recipient = Opening::recipient(peer(1), 7, 8);
        let opening = Opening { index: 7, unix_ms: 8, ciphers: 1, recipient };
        assert!(opening.is_for(peer(1)) && !opening.is_for(peer(2)));
        assert!(!Opening { unix_ms: 9, ..opening }.is_for(peer(1)), "it does not fit another message");
        assert!(Opening { recipient: 0, ..opening }.is_for(peer(2)));
    }

    #[test]
    fn the_largest_hello_fits_the_largest_handshake_frame() {
        let key = SecretKey::from_bytes([1; 32]);
        let options = TicketOptions {
            name: "n".repeat(NAME_MAX),
            address: "fd00::1".parse().unwrap(),
            subnets: (0..SUBNETS_MAX).map(|n| format!("fd01:{n:x}::/32").parse().unwrap()).collect(),
            endpoints: vec!["[2001:db8::1]:51820".parse().unwrap(); ENDPOINTS_MAX],
            valid_for: Duration::from_secs(60),
        };
        let secret = NetworkSecret::from_bytes([2; 32]);
        let ticket =
            Ticket::issue(&key, &secret, key.id(), &options, 64, [3; 16], Duration::from_secs(5)).unwrap();
        let claims = ticket.claims().clone();
        let hello = Hello {
            index: 9,
            cipher: CIPHER_AES_256_GCM,
            id: key.id(),
            claims,
            credential: Credential::Ticket(ticket),
        };
        let bytes = hello.encode();
        // The second message is the longest: ephemeral key, static key with tag, payload with tag.
        assert!(HEADER_BYTES + 32 + 32 + TAG_BYTES + bytes.len() + TAG_BYTES <= HANDSHAKE_MAX);
        let decoded = Hello::decode(&bytes).unwrap();
        assert_eq!(decoded.encode(), bytes);
        assert_eq!(decoded.claims, hello.claims);
    }
}
