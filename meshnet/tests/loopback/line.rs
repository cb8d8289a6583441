//! Owns a line that can be cut and moved to another port while a node uses it, and that records what
//! passes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use meshnet::Underlay;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

#[derive(Clone)]
pub(crate) struct Line(Arc<State>);

struct State {
    socket: Mutex<Option<Arc<UdpSocket>>>,
    address: Mutex<SocketAddr>,
    changed: Notify,
    sent: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
}

impl Line {
    pub(crate) async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        Line(Arc::new(State {
            socket: Mutex::new(Some(Arc::new(socket))),
            address: Mutex::new(address),
            changed: Notify::new(),
            sent: Mutex::new(Vec::new()),
        }))
    }

    /// From now on nothing passes, in either direction.
    pub(crate) fn cut(&self) {
        *self.0.socket.lock().unwrap() = None;
        self.0.changed.notify_waiters();
    }

    /// The line works again, from another port.
    pub(crate) async fn come_back_elsewhere(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        *self.0.address.lock().unwrap() = socket.local_addr().unwrap();
        *self.0.socket.lock().unwrap() = Some(Arc::new(socket));
        self.0.changed.notify_waiters();
    }

    /// What was sent so far, and where to.
    pub(crate) fn sent(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.0.sent.lock().unwrap().clone()
    }

    fn socket(&self) -> Option<Arc<UdpSocket>> {
        self.0.socket.lock().unwrap().clone()
    }
}

impl Underlay for Line {
    async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.socket() {
                Some(socket) => tokio::select! {
                    received = socket.recv_from(buf) => return received,
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let Some(socket) = self.socket() else { return Ok(()) };
        self.0.sent.lock().unwrap().push((to, bytes.to_vec()));
        socket.send_to(bytes, to).await.map(|_| ())
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(*self.0.address.lock().unwrap())
    }
}
