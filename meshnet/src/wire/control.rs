//! Owns the control messages that peers exchange inside a session.

use std::net::SocketAddr;

use crate::key::PeerId;
use crate::membership::{Membership, MembershipError};
use crate::wire::codec::{DecodeError, Reader, put_endpoint};

/// Most peers that one [`Control::Peers`] message names; more go into further messages.
pub const PEERS_PER_MESSAGE_MAX: usize = 20;

/// One control message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// "Are you there?" The number comes back in a [`Control::Pong`].
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// Members that the sender is connected to and where it last heard each of them, authenticated.
    /// A hint where to dial, never a statement to believe: each is asked for its own credential.
    Peers(Vec<(PeerId, SocketAddr)>),
    /// "Give me my membership": from a node that showed a ticket.
    Enrol,
    /// The membership.
    Enrolled(Box<Membership>),
    /// The ticket is not accepted; the session ends with this message.
    Refused(Refusal),
    /// The sender leaves; it will not be there any more.
    Leave,
}

/// Why a ticket was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Another node used it.
    #[error("the ticket was already used by another node: ask for a new one")]
    TicketUsed,
    /// Its time is over by the issuer's clock.
    #[error("the ticket has expired: ask for a new one")]
    TicketExpired,
    /// It is signed by the authority of another network.
    #[error("the ticket belongs to another network")]
    ForeignTicket,
    /// The node that was asked is no authority.
    #[error("this node does not issue memberships: the ticket must be used at its issuer")]
    NotTheIssuer,
    /// The issuer remembers as many used tickets as it can.
    #[error("the issuer cannot remember more used tickets: wait until some expire")]
    LedgerFull,
}

impl Refusal {
    /// Whether asking again, here or elsewhere, is pointless.
    pub fn is_final(self) -> bool {
        matches!(self, Refusal::TicketUsed | Refusal::TicketExpired | Refusal::ForeignTicket)
    }
}

/// Why a control message is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The message does not decode.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The membership inside is invalid.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

const PING: u8 = 1;
const PONG: u8 = 2;
const PEERS: u8 = 3;
const ENROL: u8 = 4;
const ENROLLED: u8 = 5;
const REFUSED: u8 = 6;
const LEAVE: u8 = 7;

const REFUSALS: [Refusal; 5] = [
    Refusal::TicketUsed,
    Refusal::TicketExpired,
    Refusal::ForeignTicket,
    Refusal::NotTheIssuer,
    Refusal::LedgerFull,
];

impl Control {
    /// Appends the message's bytes.
    ///
    /// # Panics
    /// If [`Control::Peers`] names more than [`PEERS_PER_MESSAGE_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Control::Ping(number) => {
                out.push(PING);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Control::Pong(number) => {
                out.push(PONG);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Control::Peers(peers) => {
                assert!(peers.len() <= PEERS_PER_MESSAGE_MAX, "the sender splits longer lists");
                out.push(PEERS);
                out.push(u8::try_from(peers.len()).expect("the limit fits a byte"));
                for (id, endpoint) in peers {
                    out.extend_from_slice(id.as_bytes());
                    put_endpoint(out, *endpoint);
                }
            }
            Control::Enrol => out.push(ENROL),
            Control::Enrolled(membership) => {
                out.push(ENROLLED);
                membership.encode(out);
            }
            Control::Refused(refusal) => {
                let code =
                    REFUSALS.iter().position(|known| known == refusal).expect("every refusal is listed");
                out.push(REFUSED);
                out.push(u8::try_from(code).expect("the list is short"));
            }
            Control::Leave => out.push(LEAVE),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        let mut reader = Reader::new(bytes);
        let control = match reader.u8()? {
            PING => Control::Ping(reader.u64()?),
            PONG => Control::Pong(reader.u64()?),
            PEERS => {
                let count = usize::from(reader.u8()?);
                if count > PEERS_PER_MESSAGE_MAX {
                    return Err(DecodeError::Invalid("peer count").into());
                }
                let peer = |_| Ok((reader.peer_id()?, reader.endpoint()?));
                Control::Peers((0..count).map(peer).collect::<Result<_, DecodeError>>()?)
            }
            ENROL => Control::Enrol,
            ENROLLED => Control::Enrolled(Box::new(Membership::decode(&mut reader)?)),
            REFUSED => {
                let code = usize::from(reader.u8()?);
                Control::Refused(*REFUSALS.get(code).ok_or(DecodeError::Invalid("refusal"))?)
            }
            LEAVE => Control::Leave,
            kind => return Err(DecodeError::UnknownKind(kind).into()),
        };
        reader.finish()?;
        Ok(control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn peers(count: usize) -> Vec<(PeerId, SocketAddr)> {
        let id = SecretKey::from_bytes([1; 32]).id();
        vec![(id, "[2001:db8::1]:51820".parse().unwrap()); count]
    }

    #[test]
    fn messages_round_trip() {
        let mut messages = vec![
            Control::Ping(1),
            Control::Pong(u64::MAX),
            Control::Peers(peers(0)),
            Control::Peers(peers(PEERS_PER_MESSAGE_MAX)),
            Control::Enrol,
            Control::Leave,
        ];
        messages.extend(REFUSALS.map(Control::Refused));
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert!(bytes.len() <= 1200, "{message:?} does not fit a small packet");
            assert_eq!(Control::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn longer_lists_than_the_limit_are_refused() {
        let mut bytes = Vec::new();
        Control::Peers(peers(PEERS_PER_MESSAGE_MAX)).encode(&mut bytes);
        bytes[1] += 1;
        assert_eq!(Control::decode(&bytes), Err(DecodeError::Invalid("peer count").into()));
        assert_eq!(Control::decode(&[99]), Err(DecodeError::UnknownKind(99).into()));
        assert_eq!(Control::decode(&[LEAVE, 0]), Err(DecodeError::TrailingBytes.into()));
    }
}
