//! Owns what the engine tells: events as they happen, counters, and the state of each peer.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::claims::Claims;
use crate::key::PeerId;
use crate::membership::Membership;
use crate::ticket::TicketId;
use crate::wire::control::Refusal;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Packets can flow to and from this peer.
    PeerUp {
        /// The peer.
        peer: PeerId,
        /// Where it is.
        endpoint: SocketAddr,
    },
    /// Packets flow no longer.
    PeerDown {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: DownReason,
    },
    /// The peer changed its address or port and was followed.
    PeerMoved {
        /// The peer.
        peer: PeerId,
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
    },
    /// A node that knows the network secret was not let in.
    PeerRejected {
        /// The identity that it proved.
        peer: PeerId,
        /// Where it was.
        endpoint: SocketAddr,
        /// Why.
        reason: Rejection,
    },
    /// A peer claimed a prefix that another peer, or this node itself, holds. The rest of its claims stands.
    ClaimRefused {
        /// Who claimed it.
        peer: PeerId,
        /// What it claimed.
        prefix: IpNet,
        /// Who holds it.
        holder: PeerId,
    },
    /// This node exchanged its ticket for a membership. Store it: it replaces the ticket.
    Joined(Box<Membership>),
    /// This node's ticket was not accepted; it tries no further.
    JoinRefused {
        /// Why.
        reason: Refusal,
    },
    /// This node accepted a ticket. Store it and give it back in
    /// [`Config::redeemed`](crate::Config::redeemed): the ticket must stay used after a restart.
    Redeemed(Box<Redeemed>),
}

/// Why a peer went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownReason {
    /// Nothing was heard from it for [`Config::peer_timeout`](crate::Config::peer_timeout).
    Silent,
    /// It said that it leaves.
    Left,
    /// Its membership expired.
    MembershipExpired,
}

/// Why a node that knows the network secret was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// It showed no membership where one is needed.
    #[error("it has no membership")]
    NoMembership,
    /// Its membership comes from another authority.
    #[error("its membership is of another network")]
    ForeignMembership,
    /// Its membership is another node's.
    #[error("its membership belongs to another node")]
    MembershipOfAnother,
    /// Its membership has expired.
    #[error("its membership has expired")]
    MembershipExpired,
    /// Its ticket was not accepted.
    #[error("its ticket is not accepted: {0}")]
    Ticket(Refusal),
    /// Another node answers at the endpoint than the one that was dialled.
    #[error("another node was expected at its endpoint")]
    UnexpectedPeer,
    /// As many peers are up as a node takes.
    #[error("no more peers are taken")]
    TooManyPeers,
}

/// A ticket that was used, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redeemed {
    /// The ticket.
    pub ticket: TicketId,
    /// Seconds since 1970 at which the ticket expires; from then on this entry is not needed.
    pub ticket_expires_unix: u64,
    /// The membership that it was exchanged for; names the node that used it.
    pub membership: Membership,
}

impl Redeemed {
    /// An entry as it was stored.
    pub fn new(ticket: TicketId, ticket_expires_unix: u64, membership: Membership) -> Self {
        Redeemed { ticket, ticket_expires_unix, membership }
    }
}

/// Whether packets can flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// The peer was heard lately, but fresh keys are being agreed.
    Connecting,
    /// Packets flow.
    Up,
    /// It left or is silent; its endpoints are tried again and again.
    Down,
}

/// One peer as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Who it is.
    pub id: PeerId,
    /// Its name, mesh address and subnets.
    pub claims: Claims,
    /// Where it was last heard, authenticated.
    pub endpoint: SocketAddr,
    /// Whether packets can flow.
    pub state: PeerState,
    /// How long ago it was last heard.
    pub last_heard: Duration,
    /// The last measured round trip.
    pub rtt: Option<Duration>,
    /// Packet bytes received from it.
    pub bytes_in: u64,
    /// Packet bytes sent to it.
    pub bytes_out: u64,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Plain counts since the start. Hostile input is counted here and nowhere else.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Counters {
            /// Every counter's name and value, in a fixed order, for metrics.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams received.
    datagrams_in,
    /// Datagrams sent.
    datagrams_out,
    /// Packets delivered to the device.
    packets_in,
    /// Packets taken from the device and sent.
    packets_out,
    /// Datagrams that are no frame of this protocol.
    malformed_frames,
    /// First messages above what a source may send.
    rate_limited,
    /// Handshake messages that do not decrypt: strangers, or damage on the way.
    forged_handshakes,
    /// First messages whose time is too far from this node's clock.
    stale_handshakes,
    /// First messages seen before.
    replayed_handshakes,
    /// First messages for another node.
    misdirected_handshakes,
    /// Nodes with the network secret that were not let in.
    rejected_peers,
    /// Handshakes completed.
    handshakes,
    /// Frames for an index that names no session.
    unknown_sessions,
    /// Frames that do not decrypt.
    forged_frames,
    /// Frames seen before or too old to tell.
    replayed_frames,
    /// Decrypted contents that do not parse.
    malformed_contents,
    /// Packets that are no IP packets.
    malformed_packets,
    /// Packets larger than the mtu.
    oversized_packets,
    /// Packets from the device to an address that no peer holds.
    unroutable_packets,
    /// Packets from a peer whose source address is not that peer's.
    spoofed_sources,
    /// Packets from a peer to an address that is not this node's.
    misdirected_packets,
    /// Packets dropped because a peer's queue was full while keys were agreed.
    queue_drops,
    /// Peer exchange messages above what a peer may send, or endpoints above what a node remembers.
    exchange_drops,
}
