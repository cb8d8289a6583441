//! Owns where to dial and when: configured endpoints and those that other members named. Every
//! endpoint is tried with growing pauses; configured ones and those of peers that were connected once
//! for ever, hearsay only for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::PEERS_KNOWN_MAX;
use crate::key::PeerId;

/// Endpoints remembered of hearsay.
pub(super) const HEARSAY_MAX: usize = 256;
/// Endpoints remembered of peers that were connected there, beyond the configured ones.
pub(super) const PROVEN_MAX: usize = PEERS_KNOWN_MAX;
/// Tries after which hearsay is forgotten.
const HEARSAY_TRIES_MAX: u32 = 12;
/// Tries that name who answered last.
const NAMED_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How an endpoint became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Another member named it.
    Hearsay,
    /// A peer was connected there.
    Proven,
    /// The configuration names it.
    Configured,
}

/// One endpoint to dial.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    pub(super) origin: Origin,
    /// Who must answer.
    pub(super) expected: Option<PeerId>,
    /// Who answered last.
    pub(super) answered: Option<PeerId>,
    /// The index of the handshake that is under way.
    pub(super) handshake: Option<u32>,
    pub(super) next_at: Duration,
    tries: u32,
}

impl Contact {
    /// Whom a handshake there would reach, as far as is known.
    pub(super) fn peer(&self) -> Option<PeerId> {
        self.expected.or(self.answered)
    }

    /// For whom a first message there should be. Who merely answered last may have been replaced:
    /// after some tries in vain anybody may answer.
    pub(super) fn recipient(&self) -> Option<PeerId> {
        self.expected.or(self.answered.filter(|_| self.tries < NAMED_TRIES))
    }
}

/// All endpoints to dial.
#[derive(Default)]
pub(super) struct Contacts {
    by_endpoint: BTreeMap<SocketAddr, Contact>,
}

impl Contacts {
    /// Learns an endpoint; `false` if there is no room. A known one keeps its better origin.
    pub(super) fn learn(
        &mut self,
        endpoint: SocketAddr,
        origin: Origin,
        expected: Option<PeerId>,
        now: Duration,
    ) -> bool {
        if let Some(contact) = self.by_endpoint.get_mut(&endpoint) {
            contact.origin = contact.origin.max(origin);
            // A peer that was proven here replaces what was only said or answered before.
            if contact.origin != Origin::Configured && origin == Origin::Proven {
                contact.expected = expected;
            }
            return true;
        }
        if !self.make_room(origin) {
            return false;
        }
        let contact = Contact { origin, expected, answered: None, handshake: None, next_at: now, tries: 0 };
        self.by_endpoint.insert(endpoint, contact);
        true
    }

    pub(super) fn get_mut(&mut self, endpoint: &SocketAddr) -> Option<&mut Contact> {
        self.by_endpoint.get_mut(endpoint)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketAddr, &Contact)> {
        self.by_endpoint.iter().map(|(endpoint, contact)| (*endpoint, contact))
    }

    /// Never dials there again.
    pub(super) fn forget(&mut self, endpoint: &SocketAddr) {
        self.by_endpoint.remove(endpoint);
    }

    /// Notes a try at `endpoint`; `jitter` is random, so that nodes do not try in step.
    pub(super) fn tried(&mut self, endpoint: &SocketAddr, handshake: u32, jitter: u8, now: Duration) {
        let Some(contact) = self.by_endpoint.get_mut(endpoint) else { return };
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(contact.tries.min(10))).min(LONGEST_PAUSE);
        contact.handshake = Some(handshake);
        contact.next_at = now + pause + pause / 4 * u32::from(jitter) / 256;
        contact.tries = contact.tries.saturating_add(1);
    }

    /// Whether `endpoint` is hearsay that was tried often enough.
    pub(super) fn is_hopeless(&self, endpoint: &SocketAddr) -> bool {
        self.by_endpoint
            .get(endpoint)
            .is_some_and(|contact| contact.origin == Origin::Hearsay && contact.tries >= HEARSAY_TRIES_MAX)
    }

    /// Starts every contact's tries from the beginning, `peer`'s only if one is given.
    pub(super) fn retry_now(&mut self, peer: Option<PeerId>, now: Duration) {
        for contact in self.by_endpoint.values_mut() {
            if peer.is_none() || contact.peer() == peer {
                contact.tries = 0;
                contact.next_at = now;
                contact.handshake = None;
            }
        }
    }

    /// `peer` is connected: no handshake with it is needed at any endpoint. Gives the handshakes to drop.
    pub(super) fn reached(&mut self, peer: PeerId) -> Vec<u32> {
        let mut dropped = Vec::new();
        for contact in self.by_endpoint.values_mut().filter(|contact| contact.peer() == Some(peer)) {
            contact.tries = 0;
            dropped.extend(contact.handshake.take());
        }
        dropped
    }

    /// The endpoints of `peer` other than `endpoint` that were only proven are outdated.
    pub(super) fn moved(&mut self, peer: PeerId, endpoint: SocketAddr) {
        let outdated: Vec<SocketAddr> = self
            .iter()
            .filter(|(at, contact)| {
                *at != endpoint && contact.origin != Origin::Configured && contact.peer() == Some(peer)
            })
            .map(|(at, _)| at)
            .collect();
        for at in outdated {
            self.forget(&at);
        }
    }

    /// Makes room for one more of this origin at the cost of the one that was tried most in vain.
    fn make_room(&mut self, origin: Origin) -> bool {
        let limit = match origin {
            Origin::Hearsay => HEARSAY_MAX,
            Origin::Proven => PROVEN_MAX,
            Origin::Configured => return true,
        };
        let alike = || self.iter().filter(|(_, contact)| contact.origin == origin);
        if alike().count() < limit {
            return true;
        }
        let victim = alike().max_by_key(|(_, contact)| contact.tries);
        match victim.map(|(at, contact)| (at, contact.tries)) {
            // Nothing that was only said pushes out what was not even tried.
            Some((_, 0)) if origin == Origin::Hearsay => false,
            Some((at, _)) => {
                self.forget(&at);
                true
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn endpoint(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n + 1))
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_start_again_on_demand() {
        let mut contacts = Contacts::default();
        let mut now = Duration::ZERO;
        contacts.learn(endpoint(0), Origin::Configured, None, now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            contacts.tried(&endpoint(0), 1, 0, now);
            let next = contacts.get_mut(&endpoint(0)).unwrap().next_at;
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
        contacts.retry_now(None, now);
        contacts.tried(&endpoint(0), 1, 255, now);
        let pause = contacts.get_mut(&endpoint(0)).unwrap().next_at - now;
        assert!(pause > FIRST_PAUSE && pause < FIRST_PAUSE * 5 / 4);
    }

    #[test]
    fn learned_endpoints_are_bounded_and_vain_ones_make_room() {
        let mut contacts = Contacts::default();
        let peer = Some(SecretKey::from_bytes([1; 32]).id());
        let now = Duration::ZERO;
        for n in 0..HEARSAY_MAX as u16 {
            assert!(contacts.learn(endpoint(n), Origin::Hearsay, peer, now));
        }
        assert!(!contacts.learn(endpoint(1000), Origin::Hearsay, peer, now));
        contacts.tried(&endpoint(7), 1, 0, now);
        assert!(contacts.learn(endpoint(1000), Origin::Hearsay, peer, now));
        assert!(contacts.get_mut(&endpoint(7)).is_none(), "it had been tried in vain");
        for n in 2000..2000 + PROVEN_MAX as u16 + 5 {
            assert!(contacts.learn(endpoint(n), Origin::Proven, peer, now));
        }
        assert!(contacts.learn(endpoint(1001), Origin::Configured, None, now));
        assert_eq!(contacts.iter().count(), HEARSAY_MAX + PROVEN_MAX + 1);
    }

    #[test]
    fn hearsay_is_given_up_after_some_tries() {
        let mut contacts = Contacts::default();
        contacts.learn(endpoint(0), Origin::Hearsay, None, Duration::ZERO);
        contacts.learn(endpoint(1), Origin::Proven, None, Duration::ZERO);
        for _ in 0..HEARSAY_TRIES_MAX {
            assert!(!contacts.is_hopeless(&endpoint(0)));
            contacts.tried(&endpoint(0), 1, 0, Duration::ZERO);
            contacts.tried(&endpoint(1), 1, 0, Duration::ZERO);
        }
        assert!(contacts.is_hopeless(&endpoint(0)));
        assert!(!contacts.is_hopeless(&endpoint(1)));
    }
}
