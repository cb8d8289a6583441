//! Owns one client connection: TLS handshake, strict framing, HTTP/1.1, and its end at shutdown.

use super::{Phase, Shared, forward, gate::Gate, gate::Tunnel};
use crate::route::EntryPoint;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// What the requests of one connection have in common.
pub(super) struct Connection {
    pub(super) proxy: Arc<Shared>,
    pub(super) entry_point: EntryPoint,
    pub(super) client_ip: IpAddr,
    pub(super) tunnel: Tunnel,
    /// Whether a request has come.
    pub(super) used: AtomicBool,
    /// Counts it as open, as long as a tunnel needs it too.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Serves the connection until it ends.
pub(super) async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, connection: Connection) {
    // A delayed acknowledgement costs a request 40 ms; a socket that refuses the option is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return serve_http(stream, Arc::new(connection)).await };
    match timeout(connection.proxy.config.tls_handshake_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve_http(stream, Arc::new(connection)).await,
        Ok(Err(error)) => {
            connection.proxy.counting.tls_errors.add();
            tracing::debug!(client = %connection.client_ip, %error, "TLS handshake failed");
        }
        Err(_) => {
            connection.proxy.counting.tls_errors.add();
            tracing::debug!(client = %connection.client_ip, "TLS handshake took too long");
        }
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Arc<Connection>,
) {
    let config = &connection.proxy.config;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout)
        .max_headers(config.headers_max)
        .max_header_size(config.head_max_bytes);
    let watched = connection.clone();
    let gate = Gate::new(stream, connection.tunnel.clone(), move |violation| {
        watched.proxy.counting.refused.add();
        tracing::debug!(client = %watched.client_ip, %violation, "refused");
    });
    let of_request = connection.clone();
    let service = service_fn(move |request| forward::serve(of_request.clone(), request));
    let mut serving = pin!(http.serve_connection(TokioIo::new(gate), service).with_upgrades());
    let mut phase = connection.proxy.phase.clone();
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(client = %connection.client_ip, %error, "connection ended");
                }
                return;
            }
            changed = phase.changed() => {
                let phase = changed.map_or(Phase::Cut, |()| *phase.borrow_and_update());
                match phase {
                    Phase::Run => {}
                    Phase::Drain if connection.used.load(Relaxed) => serving.as_mut().graceful_shutdown(),
                    // Nothing has been asked yet, so nothing is lost.
                    Phase::Drain | Phase::Cut => return,
                }
            }
        }
    }
}
