//! Owns [`Ticket`]: all that a new node needs to join, in one line of text. A ticket is a one-time
//! bearer secret: whoever holds it first becomes the member. A value of this type always carries a
//! valid signature of its authority.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::{Zeroize, Zeroizing};

use crate::claims::{Claims, ClaimsError};
use crate::key::{PeerId, SIGNATURE_BYTES, SecretKey};
use crate::network::NetworkSecret;
use crate::text::{self, TextError};
use crate::wire::codec::{DecodeError, Reader, put_endpoint};

const PREFIX: &str = "mnt1";
const CONTEXT: &[u8] = b"meshnet ticket\0";
const VERSION: u8 = 1;
/// Most endpoints that a ticket names.
pub const ENDPOINTS_MAX: usize = 8;
/// The kind byte of an endpoint that is an address and a port. Host names will be another kind.
const ENDPOINT_ADDRESS: u8 = 0;

/// Names one ticket; the authority remembers it once the ticket is used.
pub type TicketId = [u8; 16];

/// What a ticket shall grant.
#[derive(Debug, Clone)]
pub struct TicketOptions {
    /// The new node's name.
    pub name: String,
    /// The new node's mesh address.
    pub address: IpAddr,
    /// Networks behind the new node.
    pub subnets: Vec<IpNet>,
    /// Where the issuer can be reached, at most [`ENDPOINTS_MAX`].
    pub endpoints: Vec<SocketAddr>,
    /// How long the ticket may be used, counted from its issue.
    pub valid_for: Duration,
}

/// Why a ticket cannot be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// This node holds no authority key.
    #[error("this node cannot invite: it does not hold the network's authority key")]
    NotTheAuthority,
    /// Nobody could find the issuer.
    #[error("the ticket needs an endpoint: the address and port at which the new node can reach this one")]
    NoEndpoint,
    /// More than [`ENDPOINTS_MAX`].
    #[error("{0} endpoints are too many for a ticket: at most 8")]
    TooManyEndpoints(usize),
    /// An endpoint that nobody can send to.
    #[error("nobody can reach {0}: a ticket needs a specific address and a port")]
    BadEndpoint(SocketAddr),
    /// The address is not in the mesh's network or belongs to this node.
    #[error("{address} cannot be assigned: it must be a free host address inside {network}")]
    Address {
        /// The address that was asked for.
        address: IpAddr,
        /// The mesh's own network.
        network: IpNet,
    },
    /// Name or subnets are invalid.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
}

/// Why a text is not a usable ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// The text is of another kind.
    #[error("this is not a ticket: a ticket begins with \"mnt1\"")]
    NotATicket,
    /// The checksum does not match.
    #[error("the ticket is truncated or mistyped: copy it again, whole")]
    Mistyped,
    /// A version that this release does not know.
    #[error("the ticket has version {0}, which this release does not know: update this node")]
    UnsupportedVersion(u8),
    /// The signature is not the authority's.
    #[error("the ticket's signature is invalid: it was altered; ask for a new one")]
    BadSignature,
    /// Its time is over.
    #[error(
        "the ticket expired at {expires_unix} (UNIX seconds): ask for a new one, and check this node's clock"
    )]
    Expired {
        /// Seconds since 1970 from which on it was invalid.
        expires_unix: u64,
    },
    /// The content does not decode.
    #[error("the ticket cannot be read: {0}")]
    Malformed(DecodeError),
}

impl From<DecodeError> for TicketError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnsupportedVersion(version) => TicketError::UnsupportedVersion(version),
            other => TicketError::Malformed(other),
        }
    }
}

/// A signed invitation. Its text form contains the network secret: treat it like a password.
#[derive(Clone)]
pub struct Ticket {
    authority: PeerId,
    network_secret: NetworkSecret,
    id: TicketId,
    claims: Claims,
    endpoints: Vec<SocketAddr>,
    issuer: PeerId,
    expires_unix: u64,
    signature: [u8; SIGNATURE_BYTES],
}

impl Ticket {
    /// Signs a ticket. `issuer` is the node at which it can be used, `prefix_len` the length of the
    /// mesh's own network, `id` 16 fresh random bytes, `unix` the time since 1970.
    ///
    /// # Errors
    /// See [`InviteError`].
    pub fn issue(
        authority: &SecretKey,
        network_secret: &NetworkSecret,
        issuer: PeerId,
        options: &TicketOptions,
        prefix_len: u8,
        id: TicketId,
        unix: Duration,
    ) -> Result<Self, InviteError> {
        match options.endpoints.len() {
            0 => return Err(InviteError::NoEndpoint),
            1..=ENDPOINTS_MAX => {}
            count => return Err(InviteError::TooManyEndpoints(count)),
        }
        if let Some(bad) = options.endpoints.iter().find(|endpoint| !is_reachable(endpoint)) {
            return Err(InviteError::BadEndpoint(*bad));
        }
        let address = IpNet::new(options.address, prefix_len).map_err(|_| InviteError::Address {
            address: options.address,
            network: options.address.into(),
        })?;
        let mut ticket = Ticket {
            authority: authority.id(),
            network_secret: network_secret.clone(),
            id,
            claims: Claims::new(&options.name, address, &options.subnets)?,
            endpoints: options.endpoints.clone(),
            issuer,
            expires_unix: unix.saturating_add(options.valid_for).as_secs(),
            signature: [0; SIGNATURE_BYTES],
        };
        ticket.signature = authority.sign(CONTEXT, &ticket.signed_bytes());
        Ok(ticket)
    }

    /// The authority of the network.
    pub fn authority(&self) -> PeerId {
        self.authority
    }

    /// The network's secret.
    pub fn network_secret(&self) -> &NetworkSecret {
        &self.network_secret
    }

    /// The ticket's own name.
    pub fn id(&self) -> TicketId {
        self.id
    }

    /// What the new member will stand for.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The new member's mesh address, with the mesh's prefix length.
    pub fn address(&self) -> IpNet {
        self.claims.address
    }

    /// Where the issuer can be reached.
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// The node at which the ticket can be used.
    pub fn issuer(&self) -> PeerId {
        self.issuer
    }

    /// Seconds since 1970 from which on it is no longer valid.
    pub fn expires_unix(&self) -> u64 {
        self.expires_unix
    }

    /// Succeeds if the ticket may still be used at `unix`, the time since 1970.
    ///
    /// # Errors
    /// [`TicketError::Expired`].
    pub fn check_expiry(&self, unix: Duration) -> Result<(), TicketError> {
        if unix.as_secs() < self.expires_unix {
            Ok(())
        } else {
            Err(TicketError::Expired { expires_unix: self.expires_unix })
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.signed_bytes());
        out.extend_from_slice(&self.signature);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, TicketError> {
        match reader.u8()? {
            VERSION => {}
            version => return Err(TicketError::UnsupportedVersion(version)),
        }
        let mut ticket = Ticket {
            authority: reader.peer_id()?,
            network_secret: NetworkSecret::from_bytes(reader.array()?),
            id: reader.array()?,
            claims: Claims::decode(reader)?,
            endpoints: Vec::new(),
            issuer: reader.peer_id()?,
            expires_unix: reader.u64()?,
            signature: [0; SIGNATURE_BYTES],
        };
        let count = usize::from(reader.u8()?);
        if count == 0 || count > ENDPOINTS_MAX {
            return Err(DecodeError::Invalid("endpoints").into());
        }
        for _ in 0..count {
            match reader.u8()? {
                ENDPOINT_ADDRESS => ticket.endpoints.push(reader.endpoint()?),
                kind => return Err(DecodeError::UnknownKind(kind).into()),
            }
        }
        ticket.signature = reader.array()?;
        let authentic = ticket.authority.verify(CONTEXT, &ticket.signed_bytes(), &ticket.signature);
        if authentic { Ok(ticket) } else { Err(TicketError::BadSignature) }
    }

    fn signed_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Room for the largest ticket: a reallocation would leave the secret behind.
        let mut out = Zeroizing::new(Vec::with_capacity(1024));
        out.push(VERSION);
        out.extend_from_slice(self.authority.as_bytes());
        out.extend_from_slice(self.network_secret.as_bytes());
        out.extend_from_slice(&self.id);
        self.claims.encode(&mut out);
        out.extend_from_slice(self.issuer.as_bytes());
        out.extend_from_slice(&self.expires_unix.to_le_bytes());
        out.push(u8::try_from(self.endpoints.len()).expect("at most ENDPOINTS_MAX endpoints"));
        for endpoint in &self.endpoints {
            out.push(ENDPOINT_ADDRESS);
            put_endpoint(&mut out, *endpoint);
        }
        out
    }
}

/// The text form, which contains the network secret.
impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        self.encode(&mut bytes);
        let mut text = text::encode(PREFIX, &bytes);
        let written = f.write_str(&text);
        text.zeroize();
        written
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("authority", &self.authority)
            .field("claims", &self.claims)
            .field("endpoints", &self.endpoints)
            .field("expires_unix", &self.expires_unix)
            .finish_non_exhaustive()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let bytes = text::decode(PREFIX, text).map(Zeroizing::new).map_err(|error| match error {
            TextError::Foreign => TicketError::NotATicket,
            TextError::Mistyped => TicketError::Mistyped,
        })?;
        let mut reader = Reader::new(&bytes);
        let ticket = Ticket::decode(&mut reader)?;
        reader.finish()?;
        Ok(ticket)
    }
}

/// Whether a datagram could be sent there at all.
pub(crate) fn is_reachable(endpoint: &SocketAddr) -> bool {
    let ip = endpoint.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    endpoint.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> TicketOptions {
        TicketOptions {
            name: "home-1".into(),
            address: "10.7.0.2".parse().unwrap(),
            subnets: vec!["192.168.1.0/24".parse().unwrap()],
            endpoints: vec!["198.51.100.7:51820".parse().unwrap(), "[2001:db8::1]:51820".parse().unwrap()],
            valid_for: Duration::from_secs(600),
        }
    }

    fn issue(options: &TicketOptions) -> Result<Ticket, InviteError> {
        let authority = SecretKey::from_bytes([1; 32]);
        let secret = NetworkSecret::from_bytes([2; 32]);
        Ticket::issue(&authority, &secret, authority.id(), options, 24, [3; 16], Duration::from_secs(1000))
    }

    #[test]
    fn the_text_form_round_trips_and_debug_hides_the_secret() {
        let ticket = issue(&options()).unwrap();
        let parsed: Ticket = ticket.to_string().parse().unwrap();
        assert_eq!(parsed.to_string(), ticket.to_string());
        assert_eq!(parsed.address(), "10.7.0.2/24".parse().unwrap());
        assert_eq!(parsed.endpoints(), ticket.endpoints());
        assert_eq!(parsed.network_secret().as_bytes(), &[2; 32]);
        assert!(!format!("{ticket:?}").contains("2, 2, 2"));
    }

    #[test]
    fn each_kind_of_bad_ticket_has_its_own_error() {
        let ticket = issue(&options()).unwrap();
        let text = ticket.to_string();
        assert_eq!("hello".parse::<Ticket>().unwrap_err(), TicketError::NotATicket);
        assert_eq!(text[..text.len() - 3].parse::<Ticket>().unwrap_err(), TicketError::Mistyped);
        let mut bytes = Vec::new();
        ticket.encode(&mut bytes);
        bytes[0] = 9;
        let newer = text::encode(PREFIX, &bytes);
        assert_eq!(newer.parse::<Ticket>().unwrap_err(), TicketError::UnsupportedVersion(9));
        bytes[0] = VERSION;
        *bytes.last_mut().unwrap() ^= 1;
        let forged = text::encode(PREFIX, &bytes);
        assert_eq!(forged.parse::<Ticket>().unwrap_err(), TicketError::BadSignature);
        assert!(ticket.check_expiry(Duration::from_secs(1599)).is_ok());
        let late = ticket.check_expiry(Duration::from_secs(1600)).unwrap_err();
        assert_eq!(late, TicketError::Expired { expires_unix: 1600 });
    }

    #[test]
    fn no_altered_byte_verifies() {
        let mut bytes = Vec::new();
        issue(&options()).unwrap().encode(&mut bytes);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(Ticket::decode(&mut Reader::new(&altered)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_ticket_that_nobody_could_use_is_not_issued() {
        let without = TicketOptions { endpoints: vec![], ..options() };
        assert_eq!(issue(&without).unwrap_err(), InviteError::NoEndpoint);
        let many =
            TicketOptions { endpoints: vec!["192.0.2.1:1".parse().unwrap(); ENDPOINTS_MAX + 1], ..options() };
        assert_eq!(issue(&many).unwrap_err(), InviteError::TooManyEndpoints(ENDPOINTS_MAX + 1));
        let wildcard = TicketOptions { endpoints: vec!["0.0.0.0:51820".parse().unwrap()], ..options() };
        assert!(matches!(issue(&wildcard), Err(InviteError::BadEndpoint(_))));
    }
}
