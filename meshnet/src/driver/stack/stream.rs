//! Owns connected sockets.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, State};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::driver::stack::Shared;
use crate::driver::stack::core::Core;

/// A TCP connection of the stack. Dropping it sends what was written, then closes.
pub struct TcpStream {
    shared: Arc<Shared>,
    handle: SocketHandle,
}

pub(super) async fn connect(shared: &Arc<Shared>, to: SocketAddr) -> io::Result<TcpStream> {
    let handle = shared.core().connect(shared.config.address, to)?;
    let stream = TcpStream::new(Arc::clone(shared), handle);
    shared.work.notify_one();
    let established = poll_fn(|context| {
        let mut core = shared.core();
        let socket = core.socket(handle);
        match socket.state() {
            State::SynSent | State::SynReceived => {
                socket.register_recv_waker(context.waker());
                Poll::Pending
            }
            State::Closed => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("{to} refused the connection: nobody listens on that port"),
            ))),
            _ => Poll::Ready(Ok(())),
        }
    });
    let waited = shared.config.connect_timeout;
    timeout(waited, established).await.unwrap_or_else(|_| {
        let message = format!("{to} did not answer within {waited:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    })?;
    shared.core().watch(handle, shared.now());
    shared.work.notify_one();
    Ok(stream)
}

impl TcpStream {
    pub(super) fn new(shared: Arc<Shared>, handle: SocketHandle) -> Self {
        TcpStream { shared, handle }
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.shared.core().connections[&self.handle].remote
    }

    /// This end.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.core().connections[&self.handle].local
    }

    fn broken(&self, core: &Core) -> io::Error {
        let connection = &core.connections[&self.handle];
        if connection.is_lost {
            let waited = self.shared.config.user_timeout;
            let message = format!("{} was not heard for {waited:?}", connection.remote.ip());
            io::Error::new(io::ErrorKind::TimedOut, message)
        } else {
            let message = format!("{} reset the connection", connection.remote);
            io::Error::new(io::ErrorKind::ConnectionReset, message)
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut core = self.shared.core();
        let socket = core.socket(self.handle);
        if socket.can_recv() {
            // The window may have been nearly closed: the other side must learn that it opens.
            let was_filled = socket.recv_queue() >= socket.recv_capacity() / 4;
            let taken = socket.recv_slice(buf.initialize_unfilled()).expect("there is something to receive");
            buf.advance(taken);
            if was_filled {
                self.shared.work.notify_one();
            }
            return Poll::Ready(Ok(()));
        }
        if socket.may_recv() {
            socket.register_recv_waker(context.waker());
            return Poll::Pending;
        }
        match socket.recv_slice(&mut []) {
            Ok(_) | Err(RecvError::Finished) => Poll::Ready(Ok(())),
            Err(RecvError::InvalidState) => Poll::Ready(Err(self.broken(&core))),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut core = self.shared.core();
        let socket = core.socket(self.handle);
        if socket.can_send() {
            let taken = socket.send_slice(bytes).expect("the socket can send");
            self.shared.work.notify_one();
            return Poll::Ready(Ok(taken));
        }
        if socket.may_send() {
            socket.register_send_waker(context.waker());
            return Poll::Pending;
        }
        // After our own FIN the pipe is closed by us; otherwise by the other side or the network.
        match socket.state() {
            State::Closed => Poll::Ready(Err(self.broken(&core))),
            _ => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// TCP sends as soon as it can; there is nothing to push.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends FIN after what was written.
    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.core().socket(self.handle).close();
        self.shared.work.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpStream")
            .field("local", &self.local_addr())
            .field("peer", &self.peer_addr())
            .finish_non_exhaustive()
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let now = self.shared.now();
        self.shared.core().drop_connection(self.handle, now);
        self.shared.work.notify_one();
    }
}
