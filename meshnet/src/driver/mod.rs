//! Owns the contact with the world: sockets, devices, the clock, the system's entropy, tokio. The loop
//! is the same everywhere: wait, hand over, drain.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod mesh;
#[cfg(feature = "stack")]
pub mod stack;
mod system;
#[cfg(feature = "tun")]
pub mod tun;
mod udp;

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;

pub use mesh::{ConnectError, JoinError, Mesh, StartError};

/// Where a node's IP packets come from and go to: a TUN device, an IP stack in this process.
pub trait Device: Send + Sync + 'static {
    /// Waits for the next packet and writes it into `buf`; gives its length. A packet that does not
    /// fit is dropped by the device.
    fn recv(&self, buf: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
    /// Takes a packet. It may drop it when it cannot keep up, as network devices do.
    fn send(&self, packet: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
    /// The largest packet that it gives or takes, in bytes.
    fn mtu(&self) -> usize;
}

/// What carries datagrams between nodes: a UDP socket, or something that wraps one.
pub trait Underlay: Send + Sync + 'static {
    /// Waits for the next datagram; gives its length and its source.
    fn recv_from(&self, buf: &mut [u8]) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;
    /// Sends a datagram, or drops it: delivery is never certain.
    fn send_to(&self, bytes: &[u8], to: SocketAddr) -> impl Future<Output = io::Result<()>> + Send;
    /// Where this node is reachable, as far as it knows itself.
    ///
    /// # Errors
    /// When the system does not tell.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A device without packets: for a node that only issues tickets and tells its peers of each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDevice;

impl Device for NoDevice {
    async fn recv(&self, _buf: &mut [u8]) -> io::Result<usize> {
        pending().await
    }

    async fn send(&self, _packet: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn mtu(&self) -> usize {
        crate::MTU_DEFAULT
    }
}
