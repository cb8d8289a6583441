//! Owns the UDP socket as an [`Underlay`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;

use crate::driver::Underlay;

/// A socket that was bound to `[::]` carries IPv4 too; addresses appear in their own family.
impl Underlay for UdpSocket {
    async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = UdpSocket::recv_from(self, buf).await?;
        Ok((len, SocketAddr::new(from.ip().to_canonical(), from.port())))
    }

    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let sent = UdpSocket::send_to(self, bytes, to).await;
        match (sent, to) {
            (Ok(_), _) => Ok(()),
            // Linux takes an IPv4 destination on an IPv6 socket; others want it mapped.
            (Err(error), SocketAddr::V4(v4)) if error.kind() == io::ErrorKind::InvalidInput => {
                let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
                UdpSocket::send_to(self, bytes, mapped).await.map(|_| ())
            }
            (Err(error), _) => Err(error),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        UdpSocket::local_addr(self)
    }
}

/// Binds a socket. On a host without IPv6 `[::]` means all of IPv4.
pub(super) async fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    match UdpSocket::bind(listen).await {
        Err(_) if listen.is_ipv6() && listen.ip().is_unspecified() => {
            UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), listen.port())).await
        }
        bound => bound,
    }
}
