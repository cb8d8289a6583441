//! Owns the listening sockets: binds them, accepts up to the limit, and stops at shutdown.

use super::{
    Phase, Shared,
    connection::{self, Connection},
    gate::Tunnel,
};
use crate::{error::StartError, route::EntryPoint};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;

/// Pause after the system refused to accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds an entry point. Returns the address too, since port 0 takes a free one.
pub(super) async fn bind(
    entry_point: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Bind { entry_point, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let actual = listener.local_addr().map_err(failed)?;
    Ok((listener, actual))
}

/// Accepts until the proxy drains.
pub(super) async fn accept(
    listener: TcpListener,
    entry_point: EntryPoint,
    tls: Option<TlsAcceptor>,
    proxy: Arc<Shared>,
    slots: Arc<Semaphore>,
) {
    let mut phase = proxy.phase.clone();
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // At the limit the connection waits here, and those behind it in the system's queue.
                    let Ok(permit) = slots.clone().acquire_owned().await else { return };
                    proxy.counting.connections.add();
                    let connection = Connection {
                        proxy: proxy.clone(),
                        entry_point,
                        client_ip: peer.ip(),
                        tunnel: Tunnel::default(),
                        used: Default::default(),
                        _permit: permit,
                    };
                    tokio::spawn(connection::serve(stream, tls.clone(), connection));
                }
                Err(error) => {
                    proxy.counting.accept_errors.add();
                    tracing::warn!(%error, %entry_point, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = phase.wait_for(|phase| *phase != Phase::Run) => {}
    }
}
