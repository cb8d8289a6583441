//! Owns what must hold at every moment of every run, whatever the network does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshnet::wire::{FRAME_MAX, Frame, Kind};

/// In every packet; must never be seen on the wire.
pub(crate) const MARKER: &[u8] = b"THIS-MUST-NEVER-BE-SEEN-ON-THE-WIRE";
const HEADER: usize = 20;

#[derive(Default)]
pub(crate) struct Check {
    /// Every packet's source and destination, by its number.
    packets: Vec<(IpAddr, IpAddr)>,
    delivered: BTreeMap<u64, usize>,
    /// Sender, receiving index and counter of every data frame.
    nonces: BTreeSet<(usize, u32, u64)>,
    /// A digest of everything that happened.
    pub(crate) trace: u64,
}

impl Check {
    /// A packet with its own number.
    pub(crate) fn packet(&mut self, source: IpAddr, destination: IpAddr) -> (u64, Vec<u8>) {
        let number = self.packets.len() as u64;
        self.packets.push((source, destination));
        let mut packet = vec![0; HEADER];
        packet.extend_from_slice(&number.to_le_bytes());
        packet.extend_from_slice(MARKER);
        packet[0] = 0x45;
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
            panic!("the simulation speaks IPv4 inside");
        };
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&destination.octets());
        (number, packet)
    }

    /// The packet arrives once, at the node it is for.
    pub(crate) fn delivered(&mut self, node: usize, node_ip: IpAddr, packet: &[u8]) {
        let number = u64::from_le_bytes(packet[HEADER..HEADER + 8].try_into().unwrap());
        let (source, destination) = self.packets[number as usize];
        assert_eq!(packet, self.rebuild(number, source, destination), "packet {number} was altered");
        assert_eq!(destination, node_ip, "packet {number} went to the wrong node {node}");
        let earlier = self.delivered.insert(number, node);
        assert_eq!(earlier, None, "packet {number} was delivered twice");
        self.mix(number);
    }

    pub(crate) fn was_delivered(&self, number: u64) -> bool {
        self.delivered.contains_key(&number)
    }

    pub(crate) fn deliveries(&self) -> usize {
        self.delivered.len()
    }

    /// Nothing readable, nothing oversized, no nonce twice.
    pub(crate) fn transmitted(&mut self, now: Duration, node: usize, to: SocketAddr, bytes: &[u8]) {
        assert!(bytes.len() <= FRAME_MAX);
        assert!(!bytes.windows(MARKER.len()).any(|part| part == MARKER), "plaintext on the wire");
        let frame = Frame::decode(bytes).expect("what a node sends decodes");
        if frame.header.kind == Kind::Data {
            let nonce = (node, frame.header.receiver, frame.header.counter);
            assert!(self.nonces.insert(nonce), "a nonce was used twice: {nonce:?}");
        }
        self.mix(now.as_nanos() as u64);
        self.mix(u64::from(to.port()));
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn rebuild(&self, number: u64, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let mut other = Check { packets: vec![(source, destination); number as usize], ..Check::default() };
        other.packet(source, destination).1
    }

    /// FNV-1a.
    fn mix(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0100_0000_01b3);
    }
}
