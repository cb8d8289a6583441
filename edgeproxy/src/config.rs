//! Owns the settings of a proxy: what it listens on, how long it waits, how much it takes.

use std::{net::SocketAddr, time::Duration};

/// Settings of a [`Proxy`](crate::Proxy). Start from [`Config::default`] and set what differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Address of the plain entry point; port 0 takes a free one. Default: none.
    pub http: Option<SocketAddr>,
    /// Address of the TLS entry point; port 0 takes a free one. Default: none.
    pub https: Option<SocketAddr>,
    /// Answer plain requests with a redirect to https wherever a route is served over TLS. Default: no.
    pub redirect_to_https: bool,
    /// The port that redirects name, if the outside world sees another one than the proxy listens on. Default: the one it listens on.
    pub public_https_port: Option<u16>,
    /// Believe the client's `X-Forwarded-*`, `Forwarded` and `X-Real-Ip`. Only for a proxy whose every client is another, trusted proxy. Default: no.
    pub trust_forwarded_headers: bool,
    /// Longest wait for a connection to one server. Default: 3 s.
    pub dial_timeout: Duration,
    /// Longest wait for the head of a response once the request was sent. Default: 60 s.
    pub response_header_timeout: Duration,
    /// Longest wait for the head of a request, from the moment the connection is idle: bounds slow heads and idle connections. Default: 30 s.
    pub header_read_timeout: Duration,
    /// Longest pause within a request body. A body as a whole may take any time. Default: 60 s.
    pub body_idle_timeout: Duration,
    /// Longest wait for a TLS handshake. Default: 10 s.
    pub tls_handshake_timeout: Duration,
    /// How long a request waits for its route to get a live server before it is answered 503. Default: 0.
    pub hold_unavailable: Duration,
    /// Most requests that wait for a live server at one time; further ones get their 503 at once. Default: 1024.
    pub held_requests_max: usize,
    /// What `Retry-After` says on a 503. Default: 5 s.
    pub retry_after: Duration,
    /// How long [`ProxyBuilder::start`](crate::ProxyBuilder::start) waits for the first snapshot of every provider. Default: 2 s.
    pub first_snapshot_timeout: Duration,
    /// Most client connections at one time, tunnels included; further ones wait to be accepted. Default: 8192.
    pub connections_max: usize,
    /// Largest head of a request, in bytes. Default: 64 KiB.
    pub head_max_bytes: usize,
    /// Most header lines in a request. Default: 100.
    pub headers_max: usize,
    /// Most idle connections kept to one server. Default: 64.
    pub idle_connections_per_server_max: usize,
    /// How long an idle connection to a server is kept. Default: 30 s.
    pub server_idle_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: None,
            https: None,
            redirect_to_https: false,
            public_https_port: None,
            trust_forwarded_headers: false,
            dial_timeout: Duration::from_secs(3),
            response_header_timeout: Duration::from_secs(60),
            header_read_timeout: Duration::from_secs(30),
            body_idle_timeout: Duration::from_secs(60),
            tls_handshake_timeout: Duration::from_secs(10),
            hold_unavailable: Duration::ZERO,
            held_requests_max: 1024,
            retry_after: Duration::from_secs(5),
            first_snapshot_timeout: Duration::from_secs(2),
            connections_max: 8192,
            head_max_bytes: 64 * 1024,
            headers_max: 100,
            idle_connections_per_server_max: 64,
            server_idle_timeout: Duration::from_secs(30),
        }
    }
}
