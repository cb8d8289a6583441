//! The proxy's way to its upstreams when they live on mesh addresses.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use edgeproxy::{BoxedStream, Dial, Upstream};
use meshnet::stack::Stack;

/// Dials upstreams through a node's in-process IP stack: nothing leaves the node but sealed datagrams.
pub struct MeshDialer(pub Stack);

impl Dial for MeshDialer {
    fn dial<'a>(
        &'a self,
        upstream: &'a Upstream,
    ) -> Pin<Box<dyn Future<Output = io::Result<BoxedStream>> + Send + 'a>> {
        Box::pin(async move {
            let address: IpAddr = upstream.host.parse().map_err(|_| {
                let what = format!("{}: an upstream on the mesh is named by its IP address", upstream.host);
                io::Error::new(io::ErrorKind::InvalidInput, what)
            })?;
            let stream = self.0.connect(SocketAddr::new(address, upstream.port)).await?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}
