//! Owns everything that happens because time passes, and the deadline at which it does.

use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::contacts::{Contact, Origin};
use crate::engine::establish::Pending;
use crate::engine::peer::{EXCHANGE_EVERY, PROBE_EVERY};
use crate::engine::{DownReason, Engine, Event};
use crate::key::PeerId;
use crate::time::Now;
use crate::wire::DataKind;
use crate::wire::control::Control;

/// Wall clocks jump: expiry is looked at again at least this often.
const EXPIRY_CHECK_EVERY: Duration = Duration::from_secs(60);

impl Engine {
    /// Does what is due and sets the next deadline.
    pub(super) fn tick(&mut self, now: Now) {
        self.deadline = None;
        self.tend_handshakes(now.monotonic);
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.tend_peer(id, now);
        }
        self.tend_contacts(now);
        self.schedule(now);
    }

    /// This node's own address changed: pings tell every peer where it is now, and everything that
    /// was being tried is tried at once.
    pub(super) fn rebound(&mut self, now: Now) {
        self.contacts.retry_now(None, now.monotonic);
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.ping(id, now.monotonic);
        }
        self.tick(now);
    }

    /// Tells every peer that this node leaves.
    pub(super) fn close(&mut self, now: Duration) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send_control(id, &Control::Leave, now);
        }
    }

    /// Ends all sessions with a peer.
    pub(super) fn take_down(&mut self, id: PeerId, reason: DownReason, now: Duration) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_up()) else { return };
        peer.up_since = None;
        peer.queue.clear();
        peer.ping = None;
        let endpoint = peer.endpoint;
        for session in peer.sessions.drain(..) {
            self.sessions.remove(&session.local);
        }
        self.contacts.learn(endpoint, Origin::Proven, Some(id), now);
        self.contacts.retry_now(Some(id), now);
        self.rebuild_routes();
        self.emit(Event::PeerDown { peer: id, reason });
        self.wake_by(now);
    }

    fn tend_handshakes(&mut self, now: Duration) {
        self.pending.retain(|_, pending| now < pending.expires_at());
        let due = |(index, pending): (&u32, &Pending)| match pending {
            Pending::Unconfirmed(unconfirmed) => {
                unconfirmed.repeat_at.filter(|at| *at <= now).map(|_| *index)
            }
            Pending::Opened { .. } | Pending::Answered { .. } => None,
        };
        for index in self.pending.iter().filter_map(due).collect::<Vec<_>>() {
            self.repeat_third(index, now);
        }
    }

    fn tend_peer(&mut self, id: PeerId, now: Now) {
        let at = now.monotonic;
        let joining = self.is_joining();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_up()) else { return };
        if peer.membership.as_ref().is_some_and(|membership| membership.is_expired(now.unix)) {
            return self.take_down(id, DownReason::MembershipExpired, at);
        }
        if at >= peer.last_heard + self.peer_timeout {
            return self.take_down(id, DownReason::Silent, at);
        }
        for ended in peer.sessions.extract_if(.., |session| session.is_over(at)) {
            self.sessions.remove(&ended.local);
        }
        if joining && at >= peer.enrol_at {
            peer.enrol_at = at + PROBE_EVERY;
            self.send_control(id, &Control::Enrol, at);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if at >= peer.exchange_at {
            peer.exchange_at = at + EXCHANGE_EVERY;
            peer.exchanged_at = at;
            self.send_peers(id, at);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.unanswered_since.is_some() && at >= peer.probe_at {
            self.ping(id, at);
        } else if at >= peer.last_sent + self.keepalive {
            self.send_to_peer(id, DataKind::Keepalive, &[], at);
        }
    }

    /// Dials where somebody is missing or keys must be renewed.
    fn tend_contacts(&mut self, now: Now) {
        if self.refused.is_some() {
            return;
        }
        let hopeless: Vec<SocketAddr> =
            self.contacts.iter().map(|(at, _)| at).filter(|at| self.contacts.is_hopeless(at)).collect();
        for endpoint in hopeless {
            self.contacts.forget(&endpoint);
        }
        let due: Vec<SocketAddr> = self
            .contacts
            .iter()
            .filter(|(endpoint, contact)| {
                contact.next_at <= now.monotonic && self.is_wanted(endpoint, contact, now.monotonic)
            })
            .map(|(endpoint, _)| endpoint)
            .collect();
        for endpoint in due {
            self.dial(endpoint, now);
        }
    }

    /// Whether a handshake at this endpoint would serve anything.
    fn is_wanted(&self, endpoint: &SocketAddr, contact: &Contact, now: Duration) -> bool {
        let finishing = contact.handshake.and_then(|index| self.pending.get(&index));
        if matches!(finishing, Some(Pending::Unconfirmed(_))) {
            return false;
        }
        if self.is_joining() && contact.origin == Origin::Hearsay {
            return false;
        }
        match contact.peer().and_then(|id| self.peers.get(&id)) {
            Some(peer) if peer.is_up() => peer.endpoint == *endpoint && peer.wants_session(now),
            _ => true,
        }
    }

    /// Finds the next moment at which anything is due.
    fn schedule(&mut self, now: Now) {
        let joining = self.is_joining();
        let handshakes = self.pending.values().map(|pending| match pending {
            Pending::Unconfirmed(unconfirmed) => unconfirmed.repeat_at.unwrap_or(pending.expires_at()),
            Pending::Opened { .. } | Pending::Answered { .. } => pending.expires_at(),
        });
        let (keepalive, timeout) = (self.keepalive, self.peer_timeout);
        let peers =
            self.peers.values().filter_map(|peer| peer.deadline(now.monotonic, keepalive, timeout, joining));
        let expiries = self.peers.values().filter(|peer| peer.is_up()).filter_map(|peer| {
            let expires = Duration::from_secs(peer.membership.as_ref()?.expires_unix()?);
            Some(now.monotonic + expires.saturating_sub(now.unix).min(EXPIRY_CHECK_EVERY))
        });
        let contacts = self
            .contacts
            .iter()
            .filter(|(endpoint, contact)| {
                self.refused.is_none() && self.is_wanted(endpoint, contact, now.monotonic)
            })
            .map(|(_, contact)| contact.next_at);
        if let Some(next) = handshakes.chain(peers).chain(expiries).chain(contacts).min() {
            // Whatever was due has been done; a timer that could not be served waits a little.
            self.wake_by(next.max(now.monotonic + Duration::from_millis(1)));
        }
    }
}
