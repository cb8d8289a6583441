//! Owns listening sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::driver::stack::Shared;
use crate::driver::stack::stream::TcpStream;

/// A TCP port of the stack. Dropping it closes the port and resets what was not accepted.
pub struct TcpListener {
    shared: Arc<Shared>,
    port: u16,
    arrived: Arc<Notify>,
}

pub(super) fn listen(shared: &Arc<Shared>, port: u16) -> io::Result<TcpListener> {
    let (port, arrived) = shared.core().listen(port)?;
    Ok(TcpListener { shared: Arc::clone(shared), port, arrived })
}

impl TcpListener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// None today; the type leaves room.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let next = {
                let mut core = self.shared.core();
                let listening =
                    core.listeners.get_mut(&self.port).expect("the port is open while this exists");
                let next = (!listening.ready.is_empty()).then(|| listening.ready.remove(0));
                if !listening.ready.is_empty() {
                    // Another task may wait for the next one.
                    listening.arrived.notify_one();
                }
                next.map(|handle| (handle, core.connections[&handle].remote))
            };
            if let Some((handle, remote)) = next {
                // A full backlog has room again.
                self.shared.work.notify_one();
                return Ok((TcpStream::new(Arc::clone(&self.shared), handle), remote));
            }
            self.arrived.notified().await;
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::new(self.shared.config.address, self.port)
    }
}

impl std::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpListener").field("local_addr", &self.local_addr()).finish_non_exhaustive()
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let now = self.shared.now();
        self.shared.core().close_port(self.port, now);
        self.shared.work.notify_one();
    }
}
