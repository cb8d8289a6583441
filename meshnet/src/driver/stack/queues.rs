//! Owns the packets between the stack and its device, in both directions, as smoltcp's device.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Packets that wait for the stack; more are dropped, as a network device does.
const INCOMING_MAX: usize = 1024;
/// Packets that wait for the device; TCP sends no more until there is room.
const OUTGOING_MAX: usize = 256;
/// Buffers kept for reuse.
const POOL_MAX: usize = 512;

/// Packets in both directions and spare buffers.
pub(super) struct Queues {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    pool: Vec<Vec<u8>>,
    mtu: usize,
}

/// A packet was taken.
pub(super) struct Taken {
    pub(super) len: usize,
    /// There had been no room for another.
    pub(super) made_room: bool,
}

impl Queues {
    pub(super) fn new(mtu: usize) -> Self {
        Queues { incoming: VecDeque::new(), outgoing: VecDeque::new(), pool: Vec::new(), mtu }
    }

    pub(super) fn put_incoming(&mut self, packet: &[u8]) {
        if self.incoming.len() < INCOMING_MAX && packet.len() <= self.mtu {
            let mut buffer = self.pool.pop().unwrap_or_default();
            buffer.clear();
            buffer.extend_from_slice(packet);
            self.incoming.push_back(buffer);
        }
    }

    /// Gives the next packet for the stack, to look at before the stack takes it.
    pub(super) fn next_incoming(&self) -> Option<&[u8]> {
        self.incoming.front().map(Vec::as_slice)
    }

    pub(super) fn take_outgoing(&mut self, out: &mut [u8]) -> Option<Taken> {
        let made_room = !self.has_room();
        let packet = self.outgoing.pop_front()?;
        let len = packet.len().min(out.len());
        out[..len].copy_from_slice(&packet[..len]);
        recycle(&mut self.pool, packet);
        Some(Taken { len, made_room })
    }

    pub(super) fn put_outgoing(&mut self, packet: Vec<u8>) {
        if self.has_room() {
            self.outgoing.push_back(packet);
        }
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_MAX
    }
}

fn recycle(pool: &mut Vec<Vec<u8>>, buffer: Vec<u8>) {
    if pool.len() < POOL_MAX {
        pool.push(buffer);
    }
}

impl Device for Queues {
    type RxToken<'a> = Incoming<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }

    fn receive(&mut self, _now: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        // An answer may go one packet over the limit: smoltcp wants room before it reads.
        let buffer = self.pool.pop().unwrap_or_default();
        let incoming = Incoming { packet, pool: &mut self.pool };
        Some((incoming, Outgoing { buffer, queue: &mut self.outgoing }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        if !self.has_room() {
            return None;
        }
        let buffer = self.pool.pop().unwrap_or_default();
        Some(Outgoing { buffer, queue: &mut self.outgoing })
    }
}

/// A packet on its way into the stack.
pub(super) struct Incoming<'a> {
    packet: Vec<u8>,
    pool: &'a mut Vec<Vec<u8>>,
}

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(&self.packet);
        recycle(self.pool, self.packet);
        result
    }
}

/// Room for one packet on its way out.
pub(super) struct Outgoing<'a> {
    buffer: Vec<u8>,
    queue: &'a mut VecDeque<Vec<u8>>,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, write: F) -> R {
        self.buffer.clear();
        self.buffer.resize(len, 0);
        let result = write(&mut self.buffer);
        self.queue.push_back(self.buffer);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_bounded() {
        let mut queues = Queues::new(1280);
        for _ in 0..INCOMING_MAX + 10 {
            queues.put_incoming(&[1; 100]);
        }
        queues.put_incoming(&[1; 1281]);
        assert_eq!(queues.incoming.len(), INCOMING_MAX);
        for _ in 0..OUTGOING_MAX + 10 {
            queues.put_outgoing(vec![1; 100]);
        }
        assert_eq!(queues.outgoing.len(), OUTGOING_MAX);
        assert!(queues.transmit(Instant::ZERO).is_none());
        let taken = queues.take_outgoing(&mut [0; 1280]).unwrap();
        assert!(taken.made_room && taken.len == 100);
        assert!(!queues.take_outgoing(&mut [0; 1280]).unwrap().made_room);
        assert!(queues.transmit(Instant::ZERO).is_some());
    }
}
