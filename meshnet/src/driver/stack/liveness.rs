//! Owns the question whether a host is still there: one answer for all connections to it. TCP's own
//! timers cannot give it quickly (smoltcp repeats after one second at least, and a full window is
//! silent), so a host that is not heard is asked with an ICMP echo, and lost when it stays silent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr,
};

/// Questions asked before a host counts as lost.
const QUESTIONS: u32 = 4;
const IDENT: u16 = 0x6d6e;
const HOP_LIMIT: u8 = 64;
const CONTENT: &[u8] = b"are you there";

/// The hosts that connections lead to.
pub(super) struct Liveness {
    own: IpAddr,
    timeout: Duration,
    hosts: BTreeMap<IpAddr, Host>,
    sequence: u16,
}

struct Host {
    connections: usize,
    heard_at: Duration,
    asked_at: Duration,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send this packet.
    Ask(Vec<u8>),
    /// Every connection to this host is lost.
    Lost(IpAddr),
}

impl Liveness {
    pub(super) fn new(own: IpAddr, timeout: Duration) -> Self {
        Liveness { own, timeout, hosts: BTreeMap::new(), sequence: 0 }
    }

    /// Pause between two questions.
    pub(super) fn ask_every(&self) -> Duration {
        self.timeout / QUESTIONS
    }

    /// One more connection leads to `host`, which was just heard.
    pub(super) fn watch(&mut self, host: IpAddr, now: Duration) {
        let entry = self.hosts.entry(host).or_insert(Host { connections: 0, heard_at: now, asked_at: now });
        entry.connections += 1;
        entry.heard_at = now;
    }

    /// One connection less leads to `host`.
    pub(super) fn release(&mut self, host: IpAddr) {
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.connections -= 1;
            if entry.connections == 0 {
                self.hosts.remove(&host);
            }
        }
    }

    /// A packet of `host` arrived.
    pub(super) fn heard(&mut self, host: IpAddr, now: Duration) {
        if let Some(entry) = self.hosts.get_mut(&host) {
            entry.heard_at = now;
        }
    }

    /// What is due now.
    pub(super) fn verdicts(&mut self, now: Duration) -> Vec<Verdict> {
        let every = self.ask_every();
        let mut verdicts = Vec::new();
        for (address, host) in &mut self.hosts {
            if now >= host.heard_at + self.timeout {
                verdicts.push(Verdict::Lost(*address));
            } else if now >= host.heard_at.max(host.asked_at) + every {
                host.asked_at = now;
                self.sequence = self.sequence.wrapping_add(1);
                verdicts.extend(echo_request(self.own, *address, self.sequence).map(Verdict::Ask));
            }
        }
        verdicts
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let next = |host: &Host| {
            (host.heard_at + self.timeout).min(host.heard_at.max(host.asked_at) + self.ask_every())
        };
        self.hosts.values().map(next).min()
    }
}

/// An ICMP echo request; `None` if the two addresses are of different families.
fn echo_request(source: IpAddr, destination: IpAddr, seq_no: u16) -> Option<Vec<u8>> {
    let checksums = ChecksumCapabilities::default();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let icmp = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no, data: CONTENT };
            let ip = Ipv4Repr {
                src_addr: source,
                dst_addr: destination,
                next_header: IpProtocol::Icmp,
                payload_len: icmp.buffer_len(),
                hop_limit: HOP_LIMIT,
            };
            let mut bytes = vec![0; ip.buffer_len() + icmp.buffer_len()];
            ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &checksums);
            icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[ip.buffer_len()..]), &checksums);
            Some(bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let icmp = Icmpv6Repr::EchoRequest { ident: IDENT, seq_no, data: CONTENT };
            let ip = Ipv6Repr {
                src_addr: source,
                dst_addr: destination,
                next_header: IpProtocol::Icmpv6,
                payload_len: icmp.buffer_len(),
                hop_limit: HOP_LIMIT,
            };
            let mut bytes = vec![0; ip.buffer_len() + icmp.buffer_len()];
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes));
            let mut packet = Icmpv6Packet::new_unchecked(&mut bytes[ip.buffer_len()..]);
            icmp.emit(&source, &destination, &mut packet, &checksums);
            Some(bytes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Addresses;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_silent_host_is_asked_and_then_lost() {
        let host = "10.7.0.2".parse().unwrap();
        let mut liveness = Liveness::new("10.7.0.1".parse().unwrap(), MS(800));
        liveness.watch(host, MS(0));
        assert_eq!(liveness.deadline(), Some(MS(200)));
        assert_eq!(liveness.verdicts(MS(199)), []);
        for at in [200, 400, 600] {
            let verdicts = liveness.verdicts(MS(at));
            let [Verdict::Ask(packet)] = verdicts.as_slice() else {
                panic!("not asked at {at}: {verdicts:?}")
            };
            assert_eq!(Addresses::of(packet).unwrap().destination, host);
            assert_eq!(liveness.verdicts(MS(at)), []);
        }
        assert_eq!(liveness.verdicts(MS(800)), [Verdict::Lost(host)]);
    }

    #[test]
    fn a_host_that_is_heard_is_left_alone_and_forgotten_with_its_last_connection() {
        let host = "fd00::2".parse().unwrap();
        let mut liveness = Liveness::new("fd00::1".parse().unwrap(), MS(800));
        liveness.watch(host, MS(0));
        liveness.watch(host, MS(0));
        liveness.heard(host, MS(150));
        assert_eq!(liveness.verdicts(MS(340)), []);
        assert!(matches!(liveness.verdicts(MS(350)).as_slice(), [Verdict::Ask(_)]));
        liveness.release(host);
        assert!(liveness.deadline().is_some());
        liveness.release(host);
        assert_eq!(liveness.deadline(), None);
    }
}
