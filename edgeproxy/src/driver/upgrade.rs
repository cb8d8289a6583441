//! Owns tunnels: connections that went on with another protocol (a WebSocket) and now carry bytes both ways.

use super::{Phase, connection::Connection};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;

/// Copies both ways until both sides have ended, one breaks, or the proxy cuts it. Keeps `connection` counted as open meanwhile.
pub(super) async fn tunnel(client: OnUpgrade, server: OnUpgrade, connection: Arc<Connection>) {
    let copy = async {
        let (client, server) = (client.await?, server.await?);
        let copied =
            tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
        Ok::<_, hyper::Error>(copied)
    };
    let mut phase = connection.proxy.phase.clone();
    tokio::select! {
        ended = copy => match ended {
            Ok(Ok((sent, received))) => tracing::debug!(sent, received, "tunnel ended"),
            Ok(Err(error)) => tracing::debug!(%error, "tunnel broke"),
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        },
        _ = phase.wait_for(|phase| *phase == Phase::Cut) => tracing::debug!("tunnel cut"),
    }
}
