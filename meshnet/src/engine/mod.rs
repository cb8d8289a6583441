//! Owns the protocol: one node's state and everything that happens to it. It does no I/O, reads no
//! clock and draws no entropy of its own; [`Input`] and [`Output`] are the whole specification of
//! what surrounds it.
//!
//! ```text
//! loop {
//!     wait for a datagram, a packet, a request, or engine.deadline()
//!     engine.handle(now, input)
//!     while let Some(output) = engine.poll(&mut buffer) { do it }
//! }
//! ```
//!
//! The one rule: after each input, poll until nothing is left.

mod admission;
mod contacts;
mod control;
mod establish;
mod event;
mod forward;
mod gate;
mod handshake;
mod outbox;
mod peer;
pub mod replay;
pub mod routes;
mod session;
mod upkeep;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

pub use event::{Counters, DownReason, Event, PeerState, PeerStatus, Redeemed, Rejection};

use crate::claims::Claims;
use crate::config::{Config, ConfigError};
use crate::engine::admission::Admission;
use crate::engine::contacts::{Contacts, Origin};
use crate::engine::establish::Pending;
use crate::engine::gate::Gate;
use crate::engine::handshake::Identity;
use crate::engine::outbox::Outbox;
use crate::engine::peer::Peer;
use crate::engine::routes::{Conflict, Routes};
use crate::entropy::{Entropy, draw};
use crate::key::PeerId;
use crate::membership::Membership;
use crate::network::NetworkSecret;
use crate::ticket::{InviteError, Ticket, TicketOptions};
use crate::time::Now;
use crate::wire::control::Refusal;
use crate::wire::hello::Credential;

/// What happens to a node.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A datagram arrived.
    Datagram {
        /// Where it claims to come from.
        from: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The device has an IP packet to send.
    Packet(&'a [u8]),
    /// This node's own address or port changed: every peer must learn where it is now.
    Rebound,
    /// The deadline has come. Harmless at any other time.
    Tick,
    /// The node stops: tell the peers.
    Close,
}

/// What the surroundings must do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send the bytes in the buffer as a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
    },
    /// Give the IP packet in the buffer to the device.
    Deliver,
    /// Tell whoever is interested.
    Event(Event),
}

/// Peers that a node knows at the same time, those that are down included.
pub const PEERS_KNOWN_MAX: usize = 1024;

/// One node.
pub struct Engine {
    id: PeerId,
    identity: Identity,
    network_secret: NetworkSecret,
    claims: Claims,
    credential: Credential,
    /// Why the ticket was not accepted, once that is final. The node then falls silent.
    refused: Option<Refusal>,
    keepalive: Duration,
    peer_timeout: Duration,
    rekey_after: Duration,
    mtu: usize,
    admission: Admission,
    gate: Gate,
    contacts: Contacts,
    peers: BTreeMap<PeerId, Peer>,
    /// Which peer an index belongs to, for all established sessions.
    sessions: BTreeMap<u32, PeerId>,
    /// Handshakes under way, by our own index.
    pending: BTreeMap<u32, Pending>,
    routes: Routes,
    conflicts: Vec<Conflict>,
    entropy: Box<dyn Entropy>,
    outbox: Outbox,
    counters: Counters,
    deadline: Option<Duration>,
}

impl Engine {
    /// A node at rest; its first deadline is at once.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration cannot work.
    pub fn new(config: &Config, entropy: impl Entropy + 'static, now: Now) -> Result<Self, ConfigError> {
        config.validate()?;
        let id = config.secret_key.id();
        let claims = config.claims()?;
        let mut contacts = Contacts::default();
        for peer in &config.peers {
            contacts.learn(peer.endpoint, Origin::Configured, peer.id, now.monotonic);
        }
        let credential = match (&config.credential, &config.authority_key) {
            (Credential::Claims, Some(key)) => {
                let issued = now.unix;
                Credential::Membership(Membership::issue(key, id, claims.clone(), issued, None, 0))
            }
            (credential, _) => credential.clone(),
        };
        let mut engine = Engine {
            id,
            identity: Identity::new(&config.secret_key, config.network_secret.clone()),
            network_secret: config.network_secret.clone(),
            claims,
            credential,
            refused: None,
            keepalive: config.keepalive,
            peer_timeout: config.peer_timeout,
            rekey_after: config.rekey_after,
            mtu: config.mtu,
            admission: Admission::new(
                config.trust,
                config.authority_key.clone(),
                config.membership_lifetime,
                &config.redeemed,
            ),
            gate: Gate::default(),
            contacts,
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            pending: BTreeMap::new(),
            routes: Routes::default(),
            conflicts: Vec::new(),
            entropy: Box::new(entropy),
            outbox: Outbox::default(),
            counters: Counters::default(),
            deadline: Some(now.monotonic),
        };
        engine.rebuild_routes();
        Ok(engine)
    }

    /// Takes one input. Poll until nothing is left before the next.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::Datagram { from, bytes } => self.receive_datagram(from, bytes, now),
            Input::Packet(packet) => self.send_packet(packet, now.monotonic),
            Input::Rebound => self.rebound(now),
            Input::Tick => self.tick(now),
            Input::Close => self.close(now.monotonic),
        }
    }

    /// The next thing to do; its bytes, if it has any, replace what is in `buffer`.
    pub fn poll(&mut self, buffer: &mut Vec<u8>) -> Option<Output> {
        self.outbox.pop(buffer)
    }

    /// When to give [`Input::Tick`] at the latest, on the monotonic clock.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Who this node is.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// What this node stands for.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// This node's membership, once it has one.
    pub fn membership(&self) -> Option<&Membership> {
        match &self.credential {
            Credential::Membership(membership) => Some(membership),
            Credential::Claims | Credential::Ticket(_) => None,
        }
    }

    /// Why this node's ticket was not accepted, if that is final.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refused
    }

    /// The counts since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Every peer that was connected at least once, in the order of their identities.
    pub fn peers(&self, now: Now) -> Vec<PeerStatus> {
        let status = |(id, peer): (&PeerId, &Peer)| PeerStatus {
            id: *id,
            claims: peer.claims.clone(),
            endpoint: peer.endpoint,
            state: peer.state(now.monotonic),
            last_heard: now.monotonic.saturating_sub(peer.last_heard),
            rtt: peer.rtt,
            bytes_in: peer.bytes_in,
            bytes_out: peer.bytes_out,
        };
        self.peers.iter().map(status).collect()
    }

    /// Whether packets can flow to this peer.
    pub fn is_up(&self, peer: &PeerId, now: Now) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.state(now.monotonic) == PeerState::Up)
    }

    /// Issues a ticket.
    ///
    /// # Errors
    /// [`InviteError`], [`InviteError::NotTheAuthority`] first of all.
    pub fn invite(&mut self, options: &TicketOptions, now: Now) -> Result<Ticket, InviteError> {
        let key = self.admission.authority_key().ok_or(InviteError::NotTheAuthority)?;
        let network = self.claims.address.trunc();
        let in_use = |peer: &Peer| peer.is_up() && peer.claims.address.addr() == options.address;
        let is_free = options.address != self.claims.address.addr() && !self.peers.values().any(in_use);
        if !network.contains(&options.address) || !is_free {
            return Err(InviteError::Address { address: options.address, network });
        }
        let id = draw(self.entropy.as_mut());
        Ticket::issue(key, &self.network_secret, self.id, options, network.prefix_len(), id, now.unix)
    }

    fn emit(&mut self, event: Event) {
        let buffer = self.outbox.buffer();
        self.outbox.push(Output::Event(event), buffer);
    }

    fn transmit(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.counters.datagrams_out += 1;
        self.outbox.push(Output::Transmit { to }, bytes);
    }

    /// Makes sure that the next tick comes at `at` or before.
    fn wake_by(&mut self, at: Duration) {
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    /// The ticket of a node that joins: until it has its membership, it talks to the issuer alone.
    fn ticket(&self) -> Option<&Ticket> {
        match &self.credential {
            Credential::Ticket(ticket) => Some(ticket),
            Credential::Claims | Credential::Membership(_) => None,
        }
    }

    fn is_joining(&self) -> bool {
        self.ticket().is_some()
    }

    fn own_prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.claims.prefixes()
    }

    /// Builds the routing table from this node's own prefixes and those of the peers that are up,
    /// the one that has been up longest first.
    fn rebuild_routes(&mut self) {
        let mut up: Vec<_> =
            self.peers.iter().filter_map(|(id, peer)| Some((peer.up_since?, *id, peer))).collect();
        up.sort_by_key(|(since, id, _)| (*since, *id));
        let own = self.own_prefixes().map(|prefix| (prefix, self.id));
        let others = up.iter().flat_map(|(_, id, peer)| peer.claims.prefixes().map(|prefix| (prefix, *id)));
        let (routes, conflicts) = Routes::build(own.chain(others));
        let news: Vec<_> =
            conflicts.iter().filter(|conflict| !self.conflicts.contains(conflict)).copied().collect();
        self.routes = routes;
        self.conflicts = conflicts;
        for Conflict { peer, prefix, holder } in news {
            self.emit(Event::ClaimRefused { peer, prefix, holder });
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("id", &self.id)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}
