//! The proxy's way to its upstreams when they live on mesh addresses.

use std::io;
use std::net::SocketAddr;

use edgeproxy::{Address, BoxFuture, BoxedStream, Dial, Upstream};
use meshnet::stack::Stack;

/// Dials upstreams through a node's in-process IP stack: nothing leaves the node but sealed datagrams.
pub struct MeshDialer(pub Stack);

impl Dial for MeshDialer {
    fn dial<'a>(&'a self, upstream: &'a Upstream) -> BoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(async move {
            let Address::Ip(address) = upstream.address else {
                let what = format!("{upstream}: an upstream on the mesh is named by its IP address");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            };
            let stream = self.0.connect(SocketAddr::new(address, upstream.port)).await?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}
