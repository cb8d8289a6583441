//! A node's line to the Internet: a real UDP socket that can be cut, and that can come back from elsewhere.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshnet::Underlay;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// What was seen on the line last; older datagrams are forgotten.
const TAP_DATAGRAMS_MAX: usize = 8192;

/// The line of one node. Clones share it.
#[derive(Clone)]
pub struct Line(Arc<Shared>);

struct Shared {
    socket: watch::Sender<Arc<UdpSocket>>,
    cut: AtomicBool,
    received_bytes: AtomicU64,
    tap: Mutex<VecDeque<Vec<u8>>>,
}

impl Line {
    /// A line whose socket is bound to `address`.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind(address).await?);
        let shared = Shared {
            socket: watch::Sender::new(socket),
            cut: AtomicBool::new(false),
            received_bytes: AtomicU64::new(0),
            tap: Mutex::new(VecDeque::new()),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// From now on no datagram passes, in either direction, and nobody is told.
    pub fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
    }

    /// The line is back, with a new socket bound to `address`.
    pub async fn restore(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let socket = UdpSocket::bind(address).await?;
        let local = socket.local_addr()?;
        self.0.socket.send_replace(Arc::new(socket));
        self.0.cut.store(false, Ordering::SeqCst);
        Ok(local)
    }

    /// Bytes that came in over this line.
    pub fn received_bytes(&self) -> u64 {
        self.0.received_bytes.load(Ordering::Relaxed)
    }

    /// Copies of the datagrams that passed, oldest first.
    pub fn tapped(&self) -> Vec<Vec<u8>> {
        self.tap().iter().cloned().collect()
    }

    fn record(&self, datagram: &[u8]) {
        let mut tap = self.tap();
        if tap.len() == TAP_DATAGRAMS_MAX {
            tap.pop_front();
        }
        tap.push_back(datagram.to_vec());
    }

    fn tap(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.0.tap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::SeqCst)
    }
}

impl Underlay for Line {
    async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut current = self.0.socket.subscribe();
        loop {
            let socket = current.borrow_and_update().clone();
            let (len, from) = tokio::select! {
                received = socket.recv_from(buf) => received?,
                _ = current.changed() => continue,
            };
            if !self.is_cut() {
                self.record(&buf[..len]);
                self.0.received_bytes.fetch_add(len as u64, Ordering::Relaxed);
                return Ok((len, from));
            }
        }
    }

    fn send_to(&self, bytes: &[u8], to: SocketAddr) -> impl Future<Output = io::Result<()>> + Send {
        let socket = self.0.socket.borrow().clone();
        let cut = self.is_cut();
        if !cut {
            self.record(bytes);
        }
        async move {
            match cut {
                true => Ok(()),
                false => socket.send_to(bytes, to).await.map(drop),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.borrow().local_addr()
    }
}
