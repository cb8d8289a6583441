//! edgeproxy
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
