//! A reverse proxy that configures itself from the labels of Docker containers, as Traefik does: in the label language of Traefik 1 and
//! that of Traefik 2 and 3, side by side.
//!
//! ```
//! use edgeproxy::{Container, EntryPoint, RouteTable, route::RequestView};
//!
//! let gogs = Container::new("gogs")
//!     .with_address("10.7.0.2".parse::<edgeproxy::Address>()?)
//!     .with_label("traefik.frontend.rule", "Host:git.example.org")
//!     .with_label("traefik.port", "3000");
//! let (table, diagnostics) = RouteTable::compile(&[gogs].into_iter().collect());
//! assert!(diagnostics.is_empty());
//! let route = table.lookup(&RequestView::new(EntryPoint::Https, "git.example.org", "/")).ok_or("no route")?;
//! assert_eq!(route.service.live()[0].to_string(), "http://10.7.0.2:3000");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A running proxy, with feature `driver`:
//!
//! ```no_run
//! # #[cfg(feature = "driver")]
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = edgeproxy::Config::default();
//! config.http = Some("0.0.0.0:80".parse()?);
//! let labels = edgeproxy::LabelsFile::open("labels.json")?;
//! let proxy = edgeproxy::Proxy::builder(config).provider(labels).start().await?;
//! println!("{} routes", proxy.routes().routes().len());
//! proxy.shutdown(std::time::Duration::from_secs(10)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture
//!
//! Two planes. The control plane turns what providers report into an immutable [`RouteTable`]; the data plane reads the newest one at each
//! request and never waits for the control plane.
//!
//! ```text
//! Provider --Snapshot--> engine::merge --Snapshot--> RouteTable::compile --> table (swapped atomically)
//!  Docker                 one of all providers        labels -> rules ->       |
//!  labels file            a burst published once      routes + diagnostics     v  lookup
//!  memory                                                       client --> gate --> HTTP/1.1 --> forward --> Dial --> server
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`snapshot`] | what a provider reports: containers with labels |
//! | [`labels`] | the meaning of one container's labels, v1 and v3 |
//! | [`rule`], [`host`] | the rule grammar; the normal form of hosts |
//! | [`route`] | the route table: compile and look up |
//! | [`diagnostic`], [`mod@explain`] | what is said about labels; where a request goes, and why |
//! | [`engine::merge`] | several providers' snapshots as one, debounced |
//! | [`framing`] | strict HTTP/1.1 framing, byte by byte |
//! | [`headers`], [`redirect`], [`error_page`] | what changes at the border; the proxy's own replies |
//! | [`upstream`] | the address of a server |
//! | [`config`], [`error`] | settings; errors |
//! | `driver` | everything that touches the world: sockets, TLS, files, Docker, clock |
//!
//! Everything outside of `driver` is pure: no I/O, no clock, no threads. Without the feature `driver` only that is built.
//!
//! To support a further matcher, open `rule.rs`; a further label, `labels/v1.rs` or `labels/v3.rs`; a further provider, implement
//! `Provider`; another way to servers, implement `Dial`.
//!
//! # Invariants
//!
//! - A label that is not understood harms what it names and nothing else, and is told as a [`Diagnostic`].
//! - A route whose containers are all down answers 503 with `Retry-After`; only what no label asks for is 404.
//! - A router that names protection which is not supported (authentication, allow-lists, any middleware) is left out, never served without.
//! - The same containers give the same table, in whatever order they are reported.
//! - A request in flight keeps the route and the connection that it has, whatever is published meanwhile.
//! - A request that may have reached a server is never sent again, unless it has no body and its method is idempotent.
//! - Everything that grows has a limit: see [`Config`] and the `*_MAX` constants.
//!
//! # Threats
//!
//! - *Request smuggling*: whatever makes it ambiguous where a message ends is refused with 400 before the HTTP parser sees it ([`framing`]);
//!   bodies are framed anew towards the server; `h2c` upgrades and `CONNECT` are not passed on.
//! - *Forged identity*: `X-Forwarded-*`, `Forwarded` and `X-Real-Ip` of clients are replaced, names that imitate them (`X_Forwarded_For`) refused.
//! - *Exhaustion*: heads are bounded in bytes, lines and time, bodies by progress, connections in number. A client that reads slowly, and a
//!   silent WebSocket, hold one connection each for as long as they like.
//! - *Labels*: whoever can label a container can take any route that no other container has. Give the Docker socket and the right to deploy
//!   to the same people.
//! - *Servers* are trusted: what they answer is passed on.
//! - Logs name method, host and path; never a query, a cookie, an `Authorization`, or a key.

pub mod config;
pub mod diagnostic;
pub mod engine;
pub mod error;
pub mod error_page;
pub mod explain;
pub mod framing;
pub mod headers;
pub mod host;
pub mod labels;
pub mod redirect;
pub mod route;
pub mod rule;
pub mod snapshot;
pub mod upstream;

#[cfg(feature = "driver")]
pub mod driver;

pub use config::Config;
pub use diagnostic::Diagnostic;
pub use explain::{Explanation, explain};
pub use route::{EntryPoint, Route, RouteTable};
pub use snapshot::{Container, Snapshot};
pub use upstream::{Address, Upstream};

#[cfg(feature = "docker")]
pub use driver::docker::DockerProvider;
#[cfg(feature = "driver")]
pub use driver::{
    Proxy, ProxyBuilder,
    counters::Counters,
    dial::{BoxFuture, BoxedStream, Dial, Stream, TcpDialer},
    labels_file::{LabelsFile, parse_labels_file},
    local_ca::LocalCa,
    memory::{MemoryProvider, MemoryProviderHandle},
    provider::{Provider, SnapshotSink},
    tls::{Certificates, CertifiedKey},
};
