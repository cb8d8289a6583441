//! Owns the way to a server: the [`Dial`] trait, through which a mesh, a test or plain TCP carries the bytes.

use crate::upstream::{Address, Upstream};
use std::{future::Future, io, pin::Pin};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A future in a box, borrowed for `'a`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Any reliable byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A byte stream to a server.
pub type BoxedStream = Box<dyn Stream>;

/// Opens byte streams to servers.
///
/// The proxy bounds each call by [`Config::dial_timeout`](crate::Config::dial_timeout) and drops the future when it is over. A stream that
/// notices its peer's death by itself (a keep-alive, a user timeout) lets waiting requests be answered early.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `upstream`. Clear text: `upstream.scheme` tells what is spoken on the stream.
    fn dial<'a>(&'a self, upstream: &'a Upstream) -> BoxFuture<'a, io::Result<BoxedStream>>;
}

impl<D: Dial + ?Sized> Dial for std::sync::Arc<D> {
    fn dial<'a>(&'a self, upstream: &'a Upstream) -> BoxFuture<'a, io::Result<BoxedStream>> {
        (**self).dial(upstream)
    }
}

/// Dials over TCP with the host's own network; names are resolved by the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDialer;

impl Dial for TcpDialer {
    fn dial<'a>(&'a self, upstream: &'a Upstream) -> BoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(async move {
            let stream = match &upstream.address {
                Address::Ip(ip) => TcpStream::connect((*ip, upstream.port)).await?,
                Address::Name(name) => TcpStream::connect((&**name, upstream.port)).await?,
            };
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}
