//! Owns the conversation between connected peers: pings, who else is there, and the exchange of a
//! ticket for a membership.

use std::time::Duration;

use crate::engine::contacts::Origin;
use crate::engine::peer::PROBE_EVERY;
use crate::engine::{DownReason, Engine, Event};
use crate::entropy::draw;
use crate::key::PeerId;
use crate::membership::Membership;
use crate::ticket::is_reachable;
use crate::time::Now;
use crate::wire::DataKind;
use crate::wire::control::{Control, PEERS_PER_MESSAGE_MAX, Refusal};
use crate::wire::hello::Credential;

impl Engine {
    /// Acts on a control message of a peer.
    pub(super) fn receive_control(&mut self, from: PeerId, bytes: &[u8], now: Now) {
        let Ok(control) = Control::decode(bytes) else {
            self.counters.malformed_contents += 1;
            return;
        };
        match control {
            Control::Ping(number) => self.send_control(from, &Control::Pong(number), now.monotonic),
            Control::Pong(number) => self.note_pong(from, number, now.monotonic),
            Control::Peers(peers) => self.learn_peers(from, &peers, now.monotonic),
            Control::Enrol => self.hand_out_membership(from, now.monotonic),
            Control::Enrolled(membership) => self.take_membership(*membership, now),
            Control::Refused(refusal) => self.note_refusal(refusal),
            Control::Leave => self.take_down(from, DownReason::Left, now.monotonic),
        }
    }

    /// Sends a control message to a peer, if there is a session.
    pub(super) fn send_control(&mut self, to: PeerId, control: &Control, now: Duration) {
        let mut content = self.outbox.buffer();
        content.clear();
        control.encode(&mut content);
        self.send_to_peer(to, DataKind::Control, &content, now);
        self.outbox.recycle(content);
    }

    /// Asks a peer whether it is there.
    pub(super) fn ping(&mut self, id: PeerId, now: Duration) {
        let number = u64::from_le_bytes(draw(self.entropy.as_mut()));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.ping = Some((number, now));
        peer.note_asked(now);
        peer.probe_at = now + PROBE_EVERY;
        self.send_control(id, &Control::Ping(number), now);
        self.wake_by(now + PROBE_EVERY);
    }

    fn note_pong(&mut self, from: PeerId, number: u64, now: Duration) {
        if let Some(peer) = self.peers.get_mut(&from)
            && let Some((asked, at)) = peer.ping
            && asked == number
        {
            peer.rtt = Some(now.saturating_sub(at));
            peer.ping = None;
        }
    }

    /// Lets all other peers know soon where `about` is.
    pub(super) fn announce(&mut self, about: PeerId, now: Duration) {
        for (id, peer) in &mut self.peers {
            if *id != about && peer.is_up() {
                peer.hurry_exchange(now);
            }
        }
        self.wake_by(now);
    }

    /// Tells a peer which others are connected and where they are.
    pub(super) fn send_peers(&mut self, to: PeerId, now: Duration) {
        let known: Vec<_> = self
            .peers
            .iter()
            .filter(|(id, peer)| **id != to && peer.is_up())
            .map(|(id, peer)| (*id, peer.endpoint))
            .collect();
        for part in known.chunks(PEERS_PER_MESSAGE_MAX) {
            self.send_control(to, &Control::Peers(part.to_vec()), now);
        }
    }

    /// Notes where other members are said to be, and dials those that are not connected.
    fn learn_peers(&mut self, from: PeerId, peers: &[(PeerId, std::net::SocketAddr)], now: Duration) {
        let allowed = self.peers.get_mut(&from).is_some_and(|peer| peer.may_exchange(now));
        if !allowed {
            self.counters.exchange_drops += 1;
            return;
        }
        for (id, endpoint) in peers {
            let is_up = self.peers.get(id).is_some_and(|peer| peer.is_up());
            if *id == self.id || is_up || !is_reachable(endpoint) {
                continue;
            }
            if !self.contacts.learn(*endpoint, Origin::Hearsay, Some(*id), now) {
                self.counters.exchange_drops += 1;
            }
        }
        self.wake_by(now);
    }

    /// Gives a peer the membership that it was let in with.
    fn hand_out_membership(&mut self, to: PeerId, now: Duration) {
        if self.admission.authority_key().is_none() {
            return;
        }
        let membership = self.peers.get(&to).and_then(|peer| peer.membership.clone());
        if let Some(membership) = membership {
            self.send_control(to, &Control::Enrolled(Box::new(membership)), now);
        }
    }

    /// Takes the membership that this node's ticket was exchanged for, and uses it from now on.
    fn take_membership(&mut self, membership: Membership, now: Now) {
        if !self.is_joining() || self.admission.check(self.id, &membership, now.unix).is_err() {
            return;
        }
        self.claims = membership.claims().clone();
        self.credential = Credential::Membership(membership.clone());
        self.rebuild_routes();
        self.emit(Event::Joined(Box::new(membership)));
    }

    /// Notes that this node's ticket was not accepted.
    pub(super) fn note_refusal(&mut self, refusal: Refusal) {
        if self.is_joining() && refusal.is_final() && self.refused.is_none() {
            self.refused = Some(refusal);
            self.emit(Event::JoinRefused { reason: refusal });
        }
    }
}
