//! Owns an IP stack in this process: TCP over the mesh without root, without a device, without a
//! change to the host. smoltcp does TCP; this module gives it a task, sockets with the interfaces of
//! tokio, bounds, and a quick eye for a path that died.
//!
//! All memory is bounded: buffers of each socket, sockets, packets in both directions.

mod core;
mod listener;
mod liveness;
mod queues;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use self::core::Core;
pub use self::listener::TcpListener;
pub use self::stream::TcpStream;
use crate::MTU_DEFAULT;
use crate::driver::Device;
use crate::wire::MTU_MAX;

/// What the stack shall be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StackConfig {
    /// Its address.
    pub address: IpAddr,
    /// Length of the mesh's own network prefix.
    pub prefix_len: u8,
    /// Largest packet, in bytes. Default [`MTU_DEFAULT`]; limited to 1280..=9000.
    pub mtu: usize,
    /// How long [`Stack::connect`] waits. Default 10 s.
    pub connect_timeout: Duration,
    /// A host that is not heard for this long although it was asked is lost, and every connection to it fails.
    /// It is asked (an empty segment, an ICMP echo) after a quarter of that time. Default 20 s.
    pub user_timeout: Duration,
    /// Buffer of each connection in each direction. Default 64 KiB; limited to 4 KiB..=4 MiB.
    pub buffer_bytes: usize,
}

impl StackConfig {
    /// A stack with this address.
    pub fn new(address: IpAddr, prefix_len: u8) -> Self {
        StackConfig {
            address,
            prefix_len,
            mtu: MTU_DEFAULT,
            connect_timeout: Duration::from_secs(10),
            user_timeout: Duration::from_secs(20),
            buffer_bytes: 64 * 1024,
        }
    }
}

/// The stack's programs' side. Clones are handles to the same stack.
#[derive(Clone)]
pub struct Stack {
    shared: Arc<Shared>,
}

/// The stack's mesh side: give it to [`Mesh::start`](crate::Mesh::start).
pub struct StackDevice {
    shared: Arc<Shared>,
    mtu: usize,
}

/// Makes a stack and the device that connects it to a mesh. Its task ends when the stack, the device
/// and all connections are dropped.
///
/// # Panics
/// Outside a tokio runtime, and if `prefix_len` is longer than the address.
pub fn new(config: StackConfig) -> (Stack, StackDevice) {
    let config = StackConfig {
        mtu: config.mtu.clamp(1280, MTU_MAX),
        buffer_bytes: config.buffer_bytes.clamp(4 * 1024, 4 * 1024 * 1024),
        user_timeout: config.user_timeout.max(Duration::from_millis(100)),
        ..config
    };
    let mtu = config.mtu;
    let work = Arc::new(Notify::new());
    let shared = Arc::new(Shared {
        core: Mutex::new(Core::new(&config)),
        work: Arc::clone(&work),
        outgoing: Notify::new(),
        start: Instant::now(),
        config,
    });
    tokio::spawn(run(Arc::downgrade(&shared), work));
    (Stack { shared: Arc::clone(&shared) }, StackDevice { shared, mtu })
}

impl Stack {
    /// The stack's address.
    pub fn address(&self) -> IpAddr {
        self.shared.config.address
    }

    /// Connects to a TCP port.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listens there, `TimedOut` after the configured time,
    /// `AddrNotAvailable` if no local port or socket is free, `InvalidInput` for an address that
    /// cannot be connected to.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        stream::connect(&self.shared, to).await
    }

    /// Listens on a TCP port; 0 takes a free one.
    ///
    /// # Errors
    /// `AddrInUse` if the port is taken, `AddrNotAvailable` if no socket is free.
    // Async as in tokio, so that a listener over the host's network can take its place.
    pub async fn listen(&self, port: u16) -> io::Result<TcpListener> {
        listener::listen(&self.shared, port)
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for StackDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StackDevice").field("mtu", &self.mtu).finish_non_exhaustive()
    }
}

impl Device for StackDevice {
    async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let taken = self.shared.core().queues.take_outgoing(buf);
            if let Some(taken) = taken {
                if taken.made_room {
                    self.shared.work.notify_one();
                }
                return Ok(taken.len);
            }
            self.shared.outgoing.notified().await;
        }
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.shared.core().queues.put_incoming(packet);
        self.shared.work.notify_one();
        Ok(())
    }

    fn mtu(&self) -> usize {
        self.mtu
    }
}

/// What the task, the device and the sockets share.
struct Shared {
    core: Mutex<Core>,
    /// The task has something to do.
    work: Arc<Notify>,
    /// The device has packets to give.
    outgoing: Notify,
    start: Instant,
    config: StackConfig,
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The task finds that nobody is left.
        self.work.notify_one();
    }
}

/// Waits for work or for TCP's next timer, then lets TCP do all there is to do.
async fn run(shared: std::sync::Weak<Shared>, work: Arc<Notify>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let turn = {
            let mut core = strong.core();
            core.turn(strong.now())
        };
        if turn.has_outgoing {
            strong.outgoing.notify_one();
        }
        let deadline = turn.deadline.map(|at| strong.start + at);
        drop(strong);
        match deadline {
            Some(at) => {
                tokio::select! {
                    () = work.notified() => {}
                    () = sleep_until(at.into()) => {}
                }
            }
            None => work.notified().await,
        }
    }
}
