//! Owns the data plane: a packet from the device to the right peer, a frame from a peer to the device,
//! and every check in between.

use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::contacts::Origin;
use crate::engine::peer::{PROBE_AFTER, QUEUE_MAX};
use crate::engine::session::OpenError;
use crate::engine::{Engine, Event, Output};
use crate::key::PeerId;
use crate::packet::Addresses;
use crate::time::Now;
use crate::wire::{DataKind, Frame, Kind};

impl Engine {
    /// Takes a datagram apart and gives it to whom it concerns.
    pub(super) fn receive_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Now) {
        self.counters.datagrams_in += 1;
        let Ok(frame) = Frame::decode(bytes) else {
            self.counters.malformed_frames += 1;
            return;
        };
        match frame.header.kind {
            Kind::Handshake1 => self.receive_first(from, &frame, now),
            Kind::Handshake2 => self.receive_second(from, &frame, now),
            Kind::Handshake3 => self.receive_third(from, &frame, now),
            Kind::Data => self.receive_data(from, &frame, now),
        }
    }

    fn receive_data(&mut self, from: SocketAddr, frame: &Frame<'_>, now: Now) {
        let at = now.monotonic;
        let Some(id) = self.sessions.get(&frame.header.receiver).copied() else {
            return self.receive_confirmation(from, frame, now);
        };
        let peer = self.peers.get_mut(&id).expect("every session's peer is known");
        let session = peer
            .sessions
            .iter_mut()
            .find(|session| session.local == frame.header.receiver)
            .expect("every index in the table has its session");
        if session.is_over(at) {
            self.counters.unknown_sessions += 1;
            return;
        }
        let mut content = self.outbox.buffer();
        let opened = match session.open(&frame.header, frame.body, &mut content) {
            Ok(opened) => opened,
            Err(error) => {
                self.count_unopened(error);
                return self.outbox.recycle(content);
            }
        };
        peer.note_heard(at);
        // Any session will do: after both sides opened one at once each may send on another.
        if opened.is_newest && peer.endpoint != from {
            let moved_from = std::mem::replace(&mut peer.endpoint, from);
            self.follow(id, moved_from, from, at);
        }
        self.receive_content(id, opened.kind, content, now);
    }

    /// Acts on what an authenticated frame carried.
    pub(super) fn receive_content(&mut self, from: PeerId, kind: DataKind, content: Vec<u8>, now: Now) {
        match kind {
            DataKind::Keepalive => self.outbox.recycle(content),
            DataKind::Packet => self.deliver(from, content),
            DataKind::Control => {
                self.receive_control(from, &content, now);
                self.outbox.recycle(content);
            }
        }
    }

    /// Gives a packet to the device if the peer may send it and this node may have it.
    fn deliver(&mut self, from: PeerId, packet: Vec<u8>) {
        let Some(addresses) = Addresses::of(&packet) else {
            self.counters.malformed_packets += 1;
            return self.outbox.recycle(packet);
        };
        if self.routes.lookup(addresses.source) != Some(from) {
            self.counters.spoofed_sources += 1;
            return self.outbox.recycle(packet);
        }
        if !self.own_prefixes().any(|prefix| prefix.contains(&addresses.destination)) {
            self.counters.misdirected_packets += 1;
            return self.outbox.recycle(packet);
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.bytes_in += packet.len() as u64;
        }
        self.counters.packets_in += 1;
        self.outbox.push(Output::Deliver, packet);
    }

    /// Sends a packet from the device to the peer that holds its destination.
    pub(super) fn send_packet(&mut self, packet: &[u8], now: Duration) {
        if packet.len() > self.mtu {
            self.counters.oversized_packets += 1;
            return;
        }
        let Some(addresses) = Addresses::of(packet) else {
            self.counters.malformed_packets += 1;
            return;
        };
        let holder = self.routes.lookup(addresses.destination).filter(|holder| *holder != self.id);
        let Some(id) = holder else {
            self.counters.unroutable_packets += 1;
            return;
        };
        if self.send_to_peer(id, DataKind::Packet, packet, now) {
            return;
        }
        let peer = self.peers.get_mut(&id).expect("only peers that are known hold routes");
        if peer.queue.len() < QUEUE_MAX {
            peer.queue.push_back(packet.to_vec());
        } else {
            self.counters.queue_drops += 1;
        }
        self.wake_by(now);
    }

    /// Seals `content` for a peer and sends it; `false` if there is no session to send on.
    pub(super) fn send_to_peer(&mut self, id: PeerId, kind: DataKind, content: &[u8], now: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let endpoint = peer.endpoint;
        let Some(session) = peer.sender(now) else { return false };
        let mut frame = self.outbox.buffer();
        session.seal(kind, content, &mut frame);
        peer.last_sent = now;
        if kind == DataKind::Packet {
            peer.bytes_out += content.len() as u64;
            self.counters.packets_out += 1;
            if peer.unanswered_since.is_none() {
                peer.note_asked(now);
                self.wake_by(now + PROBE_AFTER);
            }
        }
        self.transmit(endpoint, frame);
        true
    }

    /// Sends what waited for a session.
    pub(super) fn flush_queue(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for packet in std::mem::take(&mut peer.queue) {
            self.send_to_peer(id, DataKind::Packet, &packet, now);
        }
    }

    /// Follows a peer to another endpoint.
    fn follow(&mut self, id: PeerId, from: SocketAddr, to: SocketAddr, now: Duration) {
        self.contacts.learn(to, Origin::Proven, Some(id), now);
        self.contacts.moved(id, to);
        self.emit(Event::PeerMoved { peer: id, from, to });
        self.announce(id, now);
    }

    pub(super) fn count_unopened(&mut self, error: OpenError) {
        match error {
            OpenError::Forged => self.counters.forged_frames += 1,
            OpenError::Replayed => self.counters.replayed_frames += 1,
            OpenError::Malformed => self.counters.malformed_contents += 1,
        }
    }
}
