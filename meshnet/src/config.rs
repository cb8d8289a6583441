//! Owns [`Config`]: everything that a node must be told.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::claims::{Claims, ClaimsError};
use crate::engine::Redeemed;
use crate::key::{PeerId, SecretKey};
use crate::membership::Membership;
use crate::network::NetworkSecret;
use crate::ticket::Ticket;
use crate::wire::MTU_MAX;
use crate::wire::hello::Credential;

/// Most peers that a configuration names.
pub const PEERS_MAX: usize = 256;

/// The largest packet that crosses every usual path inside a frame: what IPv6 demands at least.
pub const MTU_DEFAULT: usize = 1280;

/// Whom a node accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// Whoever knows the network secret. Addresses and subnets are each node's own word: the first
    /// to claim a prefix keeps it while it is there.
    Secret,
    /// Whoever also shows a membership signed by this authority.
    Authority(PeerId),
}

/// A peer to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it can be reached.
    pub endpoint: SocketAddr,
    /// Who must answer there; `None` accepts any member.
    pub id: Option<PeerId>,
}

/// A node's configuration. Make one with a constructor, then set fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The node's key.
    pub secret_key: SecretKey,
    /// The network's secret.
    pub network_secret: NetworkSecret,
    /// Whom to accept.
    pub trust: Trust,
    /// What to show.
    pub credential: Credential,
    /// The authority's key, on the node that invites.
    pub authority_key: Option<SecretKey>,
    /// How long a membership holds that this node issues; `None` for ever.
    pub membership_lifetime: Option<Duration>,
    /// Used tickets of earlier runs, as [`Event::Redeemed`](crate::Event::Redeemed) told them.
    pub redeemed: Vec<Redeemed>,
    /// The node's name; empty by default. A membership or ticket decides if there is one.
    pub name: String,
    /// The node's mesh address and the mesh's prefix length. A membership or ticket decides if there is one.
    pub address: IpNet,
    /// Networks behind this node. A membership or ticket decides if there is one.
    pub subnets: Vec<IpNet>,
    /// Whom to dial, at most [`PEERS_MAX`].
    pub peers: Vec<PeerConfig>,
    /// Where to listen for datagrams; port 0 takes a free one. Default `[::]:0`.
    pub listen: SocketAddr,
    /// Something is sent to every peer at least this often. Default 5 s.
    pub keepalive: Duration,
    /// A peer that was silent for this long is down. Default 15 s.
    pub peer_timeout: Duration,
    /// Session keys are renewed after this time; half as long again and they end. Default 120 s.
    pub rekey_after: Duration,
    /// Largest IP packet carried. The tokio driver takes the device's instead. Default [`MTU_DEFAULT`].
    pub mtu: usize,
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Name, address or subnets are invalid.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The membership is another node's.
    #[error("the membership belongs to {0}, not to this node's key")]
    MembershipOfAnother(PeerId),
    /// The membership or ticket is of another network than the one trusted.
    #[error("the membership or ticket comes from {found}, but this node trusts {trusted}")]
    ForeignCredential {
        /// Who signed it.
        found: PeerId,
        /// Whom the node trusts.
        trusted: PeerId,
    },
    /// The node could convince nobody.
    #[error("a node that trusts an authority needs a membership or a ticket from it")]
    NoCredential,
    /// The authority key is not the trusted authority's.
    #[error("the authority key belongs to {0}, which is not the authority that this node trusts")]
    ForeignAuthorityKey(PeerId),
    /// More than [`PEERS_MAX`].
    #[error("{0} peers are too many: at most 256")]
    TooManyPeers(usize),
    /// A peer's endpoint that nobody can send to.
    #[error("nobody can reach the peer endpoint {0}: it needs a specific address and a port")]
    BadEndpoint(SocketAddr),
    /// A duration outside its range; the field is named.
    #[error("{field} must be between {min:?} and {max:?}")]
    Duration {
        /// The field.
        field: &'static str,
        /// Its least value.
        min: Duration,
        /// Its greatest value.
        max: Duration,
    },
    /// The largest packet is smaller than IP allows or larger than a frame holds.
    #[error("mtu {0} is outside 576..=9000")]
    Mtu(usize),
}

impl Config {
    /// A node of a network in which the secret alone decides who is a member.
    pub fn new(secret_key: SecretKey, network_secret: NetworkSecret, address: IpNet) -> Self {
        Config {
            secret_key,
            network_secret,
            trust: Trust::Secret,
            credential: Credential::Claims,
            authority_key: None,
            membership_lifetime: None,
            redeemed: Vec::new(),
            name: String::new(),
            address,
            subnets: Vec::new(),
            peers: Vec::new(),
            listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
            keepalive: Duration::from_secs(5),
            peer_timeout: Duration::from_secs(15),
            rekey_after: Duration::from_secs(120),
            mtu: MTU_DEFAULT,
        }
    }

    /// The first node of a network with an authority: its own key is the authority's. It signs its
    /// own membership from name, address and subnets at start.
    pub fn founder(secret_key: SecretKey, network_secret: NetworkSecret, address: IpNet) -> Self {
        Config {
            trust: Trust::Authority(secret_key.id()),
            authority_key: Some(secret_key.clone()),
            ..Config::new(secret_key, network_secret, address)
        }
    }

    /// A new node with an invitation.
    pub fn join(secret_key: SecretKey, ticket: Ticket) -> Self {
        let issuer = Some(ticket.issuer());
        let peers = ticket.endpoints().iter().map(|endpoint| PeerConfig { endpoint: *endpoint, id: issuer });
        Config {
            trust: Trust::Authority(ticket.authority()),
            peers: peers.collect(),
            credential: Credential::Ticket(ticket.clone()),
            ..Config::new(secret_key, ticket.network_secret().clone(), ticket.address())
        }
    }

    /// A node that joined earlier and kept its membership. Set [`Config::peers`] to where others are.
    pub fn member(secret_key: SecretKey, network_secret: NetworkSecret, membership: Membership) -> Self {
        Config {
            trust: Trust::Authority(membership.network()),
            credential: Credential::Membership(membership.clone()),
            ..Config::new(secret_key, network_secret, membership.address())
        }
    }

    /// What this node stands for: the credential's word if it has one, else the configuration's.
    ///
    /// # Errors
    /// [`ConfigError::Claims`] if name, address or subnets are invalid.
    pub fn claims(&self) -> Result<Claims, ConfigError> {
        Ok(match &self.credential {
            Credential::Claims => Claims::new(&self.name, self.address, &self.subnets)?,
            Credential::Membership(membership) => membership.claims().clone(),
            Credential::Ticket(ticket) => ticket.claims().clone(),
        })
    }

    /// Whether this node can work so.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.claims()?;
        self.validate_trust()?;
        if self.peers.len() > PEERS_MAX {
            return Err(ConfigError::TooManyPeers(self.peers.len()));
        }
        if let Some(bad) = self.peers.iter().find(|peer| !crate::ticket::is_reachable(&peer.endpoint)) {
            return Err(ConfigError::BadEndpoint(bad.endpoint));
        }
        let seconds = Duration::from_secs;
        in_range("keepalive", self.keepalive, Duration::from_millis(100), seconds(3600))?;
        in_range("peer_timeout", self.peer_timeout, self.keepalive, seconds(24 * 3600))?;
        in_range("rekey_after", self.rekey_after, seconds(2), seconds(3600))?;
        if (576..=MTU_MAX).contains(&self.mtu) { Ok(()) } else { Err(ConfigError::Mtu(self.mtu)) }
    }

    fn validate_trust(&self) -> Result<(), ConfigError> {
        if let Credential::Membership(membership) = &self.credential
            && membership.peer() != self.secret_key.id()
        {
            return Err(ConfigError::MembershipOfAnother(membership.peer()));
        }
        let Trust::Authority(trusted) = self.trust else { return Ok(()) };
        let found = match &self.credential {
            Credential::Claims => None,
            Credential::Membership(membership) => Some(membership.network()),
            Credential::Ticket(ticket) => Some(ticket.authority()),
        };
        match (found, &self.authority_key) {
            (_, Some(key)) if key.id() != trusted => Err(ConfigError::ForeignAuthorityKey(key.id())),
            (Some(found), _) if found != trusted => Err(ConfigError::ForeignCredential { found, trusted }),
            (None, None) => Err(ConfigError::NoCredential),
            _ => Ok(()),
        }
    }
}

fn in_range(field: &'static str, value: Duration, min: Duration, max: Duration) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::Duration { field, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Config {
        let secret = NetworkSecret::from_bytes([2; 32]);
        Config::new(SecretKey::from_bytes([1; 32]), secret, "10.7.0.1/24".parse().unwrap())
    }

    #[test]
    fn the_constructors_make_configurations_that_work() {
        assert_eq!(base().validate(), Ok(()));
        let Config { secret_key, network_secret, address, .. } = base();
        assert_eq!(Config::founder(secret_key, network_secret, address).validate(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_named() {
        let other = SecretKey::from_bytes([3; 32]);
        let trusting = Config { trust: Trust::Authority(other.id()), ..base() };
        assert_eq!(trusting.validate(), Err(ConfigError::NoCredential));
        let own = base().secret_key;
        let foreign_key = Config { authority_key: Some(own.clone()), ..trusting };
        assert_eq!(foreign_key.validate(), Err(ConfigError::ForeignAuthorityKey(own.id())));
        let unspecified = PeerConfig { endpoint: "0.0.0.0:1".parse().unwrap(), id: None };
        let bad = Config { peers: vec![unspecified], ..base() };
        assert_eq!(bad.validate(), Err(ConfigError::BadEndpoint(unspecified.endpoint)));
        let reachable = PeerConfig { endpoint: "192.0.2.1:1".parse().unwrap(), id: None };
        assert_eq!(Config { peers: vec![reachable; PEERS_MAX], ..base() }.validate(), Ok(()));
        let many = Config { peers: vec![reachable; PEERS_MAX + 1], ..base() };
        assert_eq!(many.validate(), Err(ConfigError::TooManyPeers(PEERS_MAX + 1)));
        let hasty = Config { rekey_after: Duration::from_secs(1), ..base() };
        assert!(matches!(hasty.validate(), Err(ConfigError::Duration { field: "rekey_after", .. })));
        assert_eq!(Config { mtu: 575, ..base() }.validate(), Err(ConfigError::Mtu(575)));
    }

    #[test]
    fn a_membership_of_another_node_is_refused() {
        let claims = Claims::new("n", "10.7.0.9/24".parse().unwrap(), &[]).unwrap();
        let other = SecretKey::from_bytes([3; 32]).id();
        let authority = SecretKey::from_bytes([4; 32]);
        let membership = Membership::issue(&authority, other, claims, Duration::ZERO, None, 1);
        let config = Config::member(base().secret_key, base().network_secret, membership);
        assert_eq!(config.validate(), Err(ConfigError::MembershipOfAnother(other)));
    }
}
