//! Owns how sessions come to be: the three handshake messages, on both sides, up to the moment at
//! which a peer is up.
//!
//! ```text
//! opener                                     answerer
//!   Opened       -- Handshake1 ------------>   gate, then Answered
//!   Unconfirmed  <-- Handshake2 ------------
//!                -- Handshake3 ------------>   established, says so with a frame
//!   established  <-- any frame --------------
//! ```
//!
//! Neither side sends data before it knows that the other has the keys. Only the opener repeats
//! anything: the first message always afresh, the third as it was, together with a ping.

use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::admission::Admitted;
use crate::engine::contacts::Origin;
use crate::engine::gate::Shut;
use crate::engine::handshake::{Initiator, Keys, Proven, Responder};
use crate::engine::peer::Peer;
use crate::engine::session::{Lifetime, Session};
use crate::engine::{Engine, Event, PEERS_KNOWN_MAX, Rejection};
use crate::entropy::draw;
use crate::key::PeerId;
use crate::ticket::Ticket;
use crate::time::Now;
use crate::wire::control::Control;
use crate::wire::hello::{CIPHER_AES_256_GCM, Credential, Hello, Opening};
use crate::wire::{DataKind, Frame, HEADER_BYTES, Header, Kind};

/// Handshakes under way that others opened, and sessions that wait for a first frame; each.
pub(super) const PENDING_MAX: usize = 256;
/// How long an unanswered handshake is remembered.
const PENDING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before the third message is repeated; grows with each repetition.
const REPEAT_AFTER: Duration = Duration::from_millis(250);
/// Repetitions of the third message.
const REPEATS_MAX: u32 = 5;

/// A handshake under way.
pub(super) enum Pending {
    /// We sent the first message.
    Opened { noise: Initiator, endpoint: SocketAddr, expires_at: Duration },
    /// We sent the second message.
    Answered { noise: Responder, remote: u32, expires_at: Duration },
    /// We sent the third message and wait for any frame.
    Unconfirmed(Box<Unconfirmed>),
}

/// A session that the other side may or may not have.
pub(super) struct Unconfirmed {
    pub(super) session: Session,
    pub(super) peer: PeerId,
    admitted: Admitted,
    /// Where the answer came from.
    pub(super) endpoint: SocketAddr,
    /// Where we had dialled.
    pub(super) dialled: SocketAddr,
    third: Vec<u8>,
    repeats: u32,
    /// When to repeat the third message; `None` after the last time. The session then still opens
    /// what arrives: the other side may have it and send on it.
    pub(super) repeat_at: Option<Duration>,
}

impl Pending {
    pub(super) fn expires_at(&self) -> Duration {
        match self {
            Pending::Opened { expires_at, .. } | Pending::Answered { expires_at, .. } => *expires_at,
            Pending::Unconfirmed(unconfirmed) => unconfirmed.session.ends_at,
        }
    }

    fn is_same_phase(&self, other: &Pending) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Engine {
    /// Sends a fresh first message to `endpoint`.
    pub(super) fn dial(&mut self, endpoint: SocketAddr, now: Now) {
        let Some(contact) = self.contacts.get_mut(&endpoint) else { return };
        let previous = contact.handshake.take();
        let recipient = contact.recipient();
        self.drop_opened(previous);
        let index = self.fresh_index();
        let unix_ms = u64::try_from(now.unix.as_millis()).unwrap_or(u64::MAX);
        let recipient = recipient.map_or(0, |peer| Opening::recipient(peer, index, unix_ms));
        let opening = Opening { index, unix_ms, ciphers: CIPHER_AES_256_GCM, recipient };
        let mut frame = self.handshake_frame(Kind::Handshake1, 0);
        let ephemeral = draw(self.entropy.as_mut());
        let noise = self.identity.initiate(ephemeral, &opening.encode(), &mut frame);
        // This node has seen it: whoever reflects it gets no answer.
        let own = frame[HEADER_BYTES..].first_chunk().expect("a first message begins with its ephemeral key");
        let _ = self.gate.admit(*own, unix_ms, now.unix);
        let [jitter] = draw(self.entropy.as_mut());
        self.contacts.tried(&endpoint, index, jitter, now.monotonic);
        let expires_at = now.monotonic + PENDING_TIMEOUT;
        self.pending.insert(index, Pending::Opened { noise, endpoint, expires_at });
        self.transmit(endpoint, frame);
    }

    /// Answers a first message, if it comes from a member, in time and for the first time.
    pub(super) fn receive_first(&mut self, from: SocketAddr, frame: &Frame<'_>, now: Now) {
        // A node that joins would have to show its ticket, and it shows that to the issuer alone.
        if self.is_joining() {
            return;
        }
        if !self.gate.allow(from.ip(), now.monotonic) {
            self.counters.rate_limited += 1;
            return;
        }
        let ephemeral = draw(self.entropy.as_mut());
        let (Ok((opened, payload)), Some(theirs)) =
            (self.identity.open(ephemeral, frame.body), frame.body.first_chunk())
        else {
            self.counters.forged_handshakes += 1;
            return;
        };
        let Ok(opening) = Opening::decode(&payload) else {
            self.counters.malformed_contents += 1;
            return;
        };
        match self.gate.admit(*theirs, opening.unix_ms, now.unix) {
            Ok(()) => {}
            Err(Shut::Stale) => {
                self.counters.stale_handshakes += 1;
                return;
            }
            Err(Shut::Replayed) => {
                self.counters.replayed_handshakes += 1;
                return;
            }
        }
        if !opening.is_for(self.id) {
            self.counters.misdirected_handshakes += 1;
            return;
        }
        if opening.ciphers & CIPHER_AES_256_GCM == 0 {
            self.counters.malformed_contents += 1;
            return;
        }
        let index = self.fresh_index();
        let mut answer = self.handshake_frame(Kind::Handshake2, opening.index);
        let Ok(noise) = opened.answer(&self.hello(index).encode(), &mut answer) else {
            self.counters.forged_handshakes += 1;
            return;
        };
        let expires_at = now.monotonic + PENDING_TIMEOUT;
        self.remember(index, Pending::Answered { noise, remote: opening.index, expires_at });
        self.transmit(from, answer);
        self.wake_by(expires_at);
    }

    /// Answers a second message with the third.
    pub(super) fn receive_second(&mut self, from: SocketAddr, frame: &Frame<'_>, now: Now) {
        let index = frame.header.receiver;
        let (noise, dialled, expires_at) = match self.pending.remove(&index) {
            Some(Pending::Opened { noise, endpoint, expires_at }) => (noise, endpoint, expires_at),
            other => return self.put_back(index, other),
        };
        let (answered, proven) = match noise.answered(frame.body) {
            Ok(read) => read,
            Err((noise, _)) => {
                self.counters.forged_handshakes += 1;
                self.pending.insert(index, Pending::Opened { noise, endpoint: dialled, expires_at });
                return;
            }
        };
        let Some(hello) = self.check_hello(&proven) else { return };
        if hello.id == self.id {
            // We dialled ourselves: an endpoint of our own that somebody told us, or a misconfiguration.
            self.contacts.forget(&dialled);
            return;
        }
        let issuer = self.ticket().map(Ticket::issuer);
        let expected = issuer.or(self.contacts.get_mut(&dialled).and_then(|contact| contact.expected));
        let admitted = if expected.is_some_and(|expected| expected != hello.id) {
            Err(Rejection::UnexpectedPeer)
        } else {
            self.admit(&hello, now)
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => return self.reject(hello.id, from, reason),
        };
        if let Some(contact) = self.contacts.get_mut(&dialled) {
            contact.answered = Some(hello.id);
        }
        let mut third = self.handshake_frame(Kind::Handshake3, hello.index);
        let keys = answered.finish(&self.hello(index).encode(), &mut third);
        let session = self.session(&keys, index, hello.index, true, now.monotonic);
        let repeat_at = Some(now.monotonic + REPEAT_AFTER);
        let unconfirmed = Unconfirmed {
            session,
            peer: hello.id,
            admitted,
            endpoint: from,
            dialled,
            third: third.clone(),
            repeats: 0,
            repeat_at,
        };
        self.remember(index, Pending::Unconfirmed(Box::new(unconfirmed)));
        self.transmit(from, third);
        self.wake_by(now.monotonic + REPEAT_AFTER);
    }

    /// Completes a handshake that another node opened.
    pub(super) fn receive_third(&mut self, from: SocketAddr, frame: &Frame<'_>, now: Now) {
        let index = frame.header.receiver;
        let (noise, remote, expires_at) = match self.pending.remove(&index) {
            Some(Pending::Answered { noise, remote, expires_at }) => (noise, remote, expires_at),
            other => return self.put_back(index, other),
        };
        let (keys, proven) = match noise.finish(frame.body) {
            Ok(read) => read,
            Err((noise, _)) => {
                self.counters.forged_handshakes += 1;
                self.pending.insert(index, Pending::Answered { noise, remote, expires_at });
                return;
            }
        };
        let Some(hello) = self.check_hello(&proven) else { return };
        if hello.id == self.id {
            return;
        }
        let mut session = self.session(&keys, index, remote, false, now.monotonic);
        match self.admit(&hello, now) {
            Ok(admitted) => {
                self.establish(hello.id, session, admitted, from, now);
                self.send_to_peer(hello.id, DataKind::Keepalive, &[], now.monotonic);
            }
            Err(reason) => {
                // A bearer of a ticket learns why; it is the last that the session says.
                if let Rejection::Ticket(refusal) = reason {
                    let mut content = Vec::new();
                    Control::Refused(refusal).encode(&mut content);
                    let mut bytes = self.outbox.buffer();
                    session.seal(DataKind::Control, &content, &mut bytes);
                    self.transmit(from, bytes);
                }
                self.reject(hello.id, from, reason);
            }
        }
    }

    /// Opens a frame on a session that waits for one. The first that opens confirms the session.
    pub(super) fn receive_confirmation(&mut self, from: SocketAddr, frame: &Frame<'_>, now: Now) {
        let index = frame.header.receiver;
        let mut unconfirmed = match self.pending.remove(&index) {
            Some(Pending::Unconfirmed(unconfirmed)) if !unconfirmed.session.is_over(now.monotonic) => {
                unconfirmed
            }
            other => return self.put_back(index, other),
        };
        let mut content = self.outbox.buffer();
        let opened = match unconfirmed.session.open(&frame.header, frame.body, &mut content) {
            Ok(opened) => opened,
            Err(error) => {
                self.count_unopened(error);
                self.outbox.recycle(content);
                return self.put_back(index, Some(Pending::Unconfirmed(unconfirmed)));
            }
        };
        if opened.kind == DataKind::Control
            && let Ok(Control::Refused(refusal)) = Control::decode(&content)
        {
            self.outbox.recycle(content);
            return self.note_refusal(refusal);
        }
        let Unconfirmed { session, peer, admitted, .. } = *unconfirmed;
        self.establish(peer, session, admitted, from, now);
        self.receive_content(peer, opened.kind, content, now);
    }

    /// Repeats the third message, with a ping that the other side answers if it has the session.
    pub(super) fn repeat_third(&mut self, index: u32, now: Duration) {
        let [number] = draw(self.entropy.as_mut());
        let Some(Pending::Unconfirmed(unconfirmed)) = self.pending.get_mut(&index) else { return };
        unconfirmed.repeats += 1;
        let pause = REPEAT_AFTER * 2u32.pow(unconfirmed.repeats);
        unconfirmed.repeat_at = (unconfirmed.repeats < REPEATS_MAX).then_some(now + pause);
        let mut ping = Vec::new();
        Control::Ping(u64::from(number)).encode(&mut ping);
        let mut frame = self.outbox.buffer();
        unconfirmed.session.seal(DataKind::Control, &ping, &mut frame);
        let (to, third, dialled) = (unconfirmed.endpoint, unconfirmed.third.clone(), unconfirmed.dialled);
        let is_last = unconfirmed.repeat_at.is_none();
        self.transmit(to, third);
        self.transmit(to, frame);
        if is_last && let Some(contact) = self.contacts.get_mut(&dialled) {
            contact.handshake = None;
        }
    }

    /// Takes a proven session into use.
    fn establish(
        &mut self,
        id: PeerId,
        session: Session,
        admitted: Admitted,
        endpoint: SocketAddr,
        now: Now,
    ) {
        let at = now.monotonic;
        self.counters.handshakes += 1;
        self.make_room_for(id);
        self.sessions.insert(session.local, id);
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(admitted.claims.clone(), endpoint, at));
        let is_new = peer.up_since.is_none();
        let claims_changed = peer.claims != admitted.claims;
        let moved_from = (!is_new && peer.endpoint != endpoint).then_some(peer.endpoint);
        peer.up_since.get_or_insert(at);
        peer.claims = admitted.claims;
        peer.membership = admitted.membership;
        peer.endpoint = endpoint;
        peer.note_heard(at);
        for ended in peer.keep(session) {
            self.sessions.remove(&ended.local);
        }
        if is_new {
            peer.exchange_at = at;
            peer.enrol_at = at;
        }
        if is_new || claims_changed {
            self.rebuild_routes();
        }
        for handshake in self.contacts.reached(id) {
            self.drop_opened(Some(handshake));
        }
        self.contacts.learn(endpoint, Origin::Proven, Some(id), at);
        if is_new {
            self.emit(Event::PeerUp { peer: id, endpoint });
        } else if let Some(from) = moved_from {
            self.contacts.moved(id, endpoint);
            self.emit(Event::PeerMoved { peer: id, from, to: endpoint });
        }
        if is_new || moved_from.is_some() {
            self.announce(id, at);
        }
        self.flush_queue(id, at);
        self.wake_by(at);
    }

    /// Lets the node in that said `hello`, or not.
    fn admit(&mut self, hello: &Hello, now: Now) -> Result<Admitted, Rejection> {
        let is_full = self.peers.len() >= PEERS_KNOWN_MAX && self.peers.values().all(Peer::is_up);
        if is_full && !self.peers.contains_key(&hello.id) {
            return Err(Rejection::TooManyPeers);
        }
        let serial = u64::from_le_bytes(draw(self.entropy.as_mut()));
        let mut admitted = self.admission.admit(hello, now.unix, serial)?;
        if let Some(redeemed) = admitted.redeemed.take() {
            self.emit(Event::Redeemed(Box::new(redeemed)));
        }
        Ok(admitted)
    }

    fn reject(&mut self, peer: PeerId, endpoint: SocketAddr, reason: Rejection) {
        self.counters.rejected_peers += 1;
        self.emit(Event::PeerRejected { peer, endpoint, reason });
    }

    /// Reads a hello and checks that the identity in it is the one that the handshake proved.
    fn check_hello(&mut self, proven: &Proven) -> Option<Hello> {
        let Ok(hello) = Hello::decode(&proven.payload) else {
            self.counters.malformed_contents += 1;
            return None;
        };
        if hello.id.x25519_public() != Some(proven.x25519) {
            self.counters.forged_handshakes += 1;
            return None;
        }
        if hello.cipher != CIPHER_AES_256_GCM {
            self.counters.malformed_contents += 1;
            return None;
        }
        Some(hello)
    }

    fn hello(&self, index: u32) -> Hello {
        let credential: Credential = self.credential.clone();
        Hello { index, cipher: CIPHER_AES_256_GCM, id: self.id, claims: self.claims.clone(), credential }
    }

    fn session(
        &mut self,
        keys: &Keys,
        local: u32,
        remote: u32,
        opened_here: bool,
        since: Duration,
    ) -> Session {
        let [jitter] = draw(self.entropy.as_mut());
        let lifetime = Lifetime { since, rekey_after: self.rekey_after, jitter };
        Session::new(keys, local, remote, opened_here, lifetime)
    }

    /// A buffer that begins with a handshake frame's header.
    fn handshake_frame(&mut self, kind: Kind, receiver: u32) -> Vec<u8> {
        let mut frame = self.outbox.buffer();
        frame.clear();
        frame.extend_from_slice(&Header { kind, receiver, counter: 0 }.encode());
        frame
    }

    /// A random index that names nothing yet.
    fn fresh_index(&mut self) -> u32 {
        loop {
            let index = u32::from_le_bytes(draw(self.entropy.as_mut()));
            let is_taken = self.sessions.contains_key(&index) || self.pending.contains_key(&index);
            if index != 0 && !is_taken {
                return index;
            }
        }
    }

    /// Remembers a handshake; if there are too many in its phase, the one that would end first goes.
    fn remember(&mut self, index: u32, pending: Pending) {
        let alike = self.pending.iter().filter(|(_, other)| other.is_same_phase(&pending));
        if alike.clone().count() >= PENDING_MAX
            && let Some(first) = alike.min_by_key(|(_, other)| other.expires_at()).map(|(index, _)| *index)
        {
            self.pending.remove(&first);
        }
        self.pending.insert(index, pending);
    }

    /// Puts a handshake back for which a message came that it does not wait for: a replay mostly.
    fn put_back(&mut self, index: u32, pending: Option<Pending>) {
        match pending {
            Some(pending) => {
                self.pending.insert(index, pending);
            }
            None => self.counters.unknown_sessions += 1,
        }
    }

    /// Drops a handshake unless it is past the point at which the other side may rely on it.
    fn drop_opened(&mut self, index: Option<u32>) {
        if let Some(index) = index
            && matches!(self.pending.get(&index), Some(Pending::Opened { .. }))
        {
            self.pending.remove(&index);
        }
    }

    /// Forgets the peer that has been down longest if there is no room for `id`.
    fn make_room_for(&mut self, id: PeerId) {
        if self.peers.len() < PEERS_KNOWN_MAX || self.peers.contains_key(&id) {
            return;
        }
        let down = self.peers.iter().filter(|(_, peer)| !peer.is_up());
        if let Some(oldest) = down.min_by_key(|(_, peer)| peer.last_heard).map(|(id, _)| *id) {
            self.peers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::peer::SESSIONS_MAX;
    use crate::engine::{Input, Output};
    use crate::{Config, Entropy, NetworkSecret, PeerConfig, SecretKey};

    const HERE: u16 = 1;

    struct Counting(u64);

    impl Entropy for Counting {
        fn fill(&mut self, bytes: &mut [u8]) {
            for chunk in bytes.chunks_mut(8) {
                self.0 += 1;
                let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                chunk.copy_from_slice(&mixed.to_be_bytes()[..chunk.len()]);
            }
        }
    }

    fn at(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 7))
    }

    fn engine(n: u16, dials: bool, now: Now) -> Engine {
        let mut seed = [1; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        let address = format!("10.7.{}.{}/16", n >> 8, n & 0xff).parse().unwrap();
        let secret = NetworkSecret::from_bytes([9; 32]);
        let mut config = Config::new(SecretKey::from_bytes(seed), secret, address);
        if dials {
            config.peers = vec![PeerConfig { endpoint: at(HERE), id: None }];
        }
        Engine::new(&config, Counting(u64::from(n) << 32), now).unwrap()
    }

    fn now() -> Now {
        Now { monotonic: Duration::from_secs(1), unix: Duration::from_secs(1_800_000_000) }
    }

    /// Carries datagrams between the two until neither has more to say; gives the events of `here`.
    fn converse(here: &mut Engine, there: &mut Engine, n: u16, now: Now) -> Vec<Event> {
        let mut events = Vec::new();
        let mut bytes = Vec::new();
        loop {
            let mut is_quiet = true;
            while let Some(output) = there.poll(&mut bytes) {
                if matches!(output, Output::Transmit { .. }) {
                    is_quiet = false;
                    here.handle(now, Input::Datagram { from: at(n), bytes: &bytes });
                }
            }
            while let Some(output) = here.poll(&mut bytes) {
                match output {
                    Output::Transmit { to } if to == at(n) => {
                        is_quiet = false;
                        there.handle(now, Input::Datagram { from: at(HERE), bytes: &bytes });
                    }
                    Output::Event(event) => events.push(event),
                    _ => {}
                }
            }
            if is_quiet {
                return events;
            }
        }
    }

    #[test]
    fn known_peers_are_bounded_and_one_that_left_makes_room() {
        let mut here = engine(HERE, false, now());
        let last = 2 + u16::try_from(PEERS_KNOWN_MAX).unwrap();
        let mut first = None;
        for n in 2..last {
            let mut there = engine(n, true, now());
            there.handle(now(), Input::Tick);
            converse(&mut here, &mut there, n, now());
            first.get_or_insert(there);
        }
        assert_eq!(here.peers.values().filter(|peer| peer.is_up()).count(), PEERS_KNOWN_MAX);
        let mut late = engine(last, true, now());
        late.handle(now(), Input::Tick);
        let events = converse(&mut here, &mut late, last, now());
        let rejected =
            Event::PeerRejected { peer: late.id(), endpoint: at(last), reason: Rejection::TooManyPeers };
        assert!(events.contains(&rejected), "{events:?}");
        let mut first = first.unwrap();
        first.handle(now(), Input::Close);
        converse(&mut here, &mut first, 2, now());
        let mut late = engine(last + 1, true, now());
        late.handle(now(), Input::Tick);
        converse(&mut here, &mut late, last + 1, now());
        assert!(here.is_up(&late.id(), now()));
        assert_eq!(here.peers.len(), PEERS_KNOWN_MAX);
        assert!(!here.peers.contains_key(&first.id()));
    }

    #[test]
    fn handshakes_under_way_are_bounded() {
        let mut here = engine(HERE, false, now());
        let mut bytes = Vec::new();
        for n in 2..2 + PENDING_MAX as u16 + 50 {
            let mut there = engine(n, true, now());
            there.handle(now(), Input::Tick);
            there.poll(&mut bytes).unwrap();
            here.handle(now(), Input::Datagram { from: at(n), bytes: &bytes });
            while here.poll(&mut bytes).is_some() {}
        }
        assert_eq!(here.pending.len(), PENDING_MAX);
        here.handle(Now { monotonic: Duration::from_secs(60), ..now() }, Input::Tick);
        assert!(here.pending.is_empty(), "they expire");
    }

    #[test]
    fn sessions_of_one_peer_are_bounded_and_the_latest_is_used() {
        let mut here = engine(HERE, false, now());
        let mut there = engine(2, true, now());
        for second in 1..20 {
            let now = Now { monotonic: Duration::from_secs(second), ..now() };
            there.dial(at(HERE), now);
            converse(&mut here, &mut there, 2, now);
        }
        for engine in [&here, &there] {
            let peer = engine.peers.values().next().unwrap();
            assert_eq!(peer.sessions.len(), SESSIONS_MAX);
            assert_eq!(engine.sessions.len(), SESSIONS_MAX);
            assert_eq!(peer.sessions[0].since, Duration::from_secs(19));
            assert!(peer.sessions.is_sorted_by_key(|session| std::cmp::Reverse(session.since)));
        }
    }
}
