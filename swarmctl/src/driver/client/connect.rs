//! Where an engine listens, and the way there.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::ConnectError;

/// Where Docker listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long it may take to reach an engine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// A Unix socket of this host.
    Unix(PathBuf),
    /// A TCP port, behind TLS with which both ends prove who they are.
    Tls {
        /// The engine's `host:port`; the host has to be one of its certificate's.
        address: String,
        /// A directory with `ca.pem`, which the engine's certificate has to come from, and with `cert.pem` and `key.pem` to
        /// prove who asks.
        certificates: PathBuf,
    },
}

impl Default for Endpoint {
    /// `/var/run/docker.sock`.
    fn default() -> Self {
        Self::Unix(DEFAULT_SOCKET.into())
    }
}

impl Endpoint {
    /// Reads what `DOCKER_HOST` and `docker --host` take: `unix:///path/to/docker.sock`, or `tcp://host:port` together with a
    /// directory of certificates (see [`Endpoint::Tls`]).
    ///
    /// # Errors
    /// [`ConnectError::UnsupportedHost`] for anything else; [`ConnectError::WithoutTls`] for TCP without certificates, which
    /// would give every right on that host to whoever reaches the port.
    pub fn parse(host: &str, certificates: Option<PathBuf>) -> Result<Self, ConnectError> {
        let shown = || host.chars().take(256).collect();
        if let Some(path) = host.strip_prefix("unix://").map(Path::new).filter(|path| path.is_absolute()) {
            return Ok(Self::Unix(path.to_owned()));
        }
        let is_address = |address: &&str| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        let Some(address) = host.strip_prefix("tcp://").filter(is_address) else {
            return Err(ConnectError::UnsupportedHost { host: shown() });
        };
        let certificates = certificates.ok_or_else(|| ConnectError::WithoutTls { host: shown() })?;
        Ok(Self::Tls { address: address.to_owned(), certificates })
    }

    /// An endpoint, with what is not said taken from the environment as Docker's own client reads it: `DOCKER_HOST` (the
    /// default one when it is not set or empty), and with `DOCKER_TLS_VERIFY` the certificates of `DOCKER_CERT_PATH`
    /// (`~/.docker` unless set).
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn choose(host: Option<&str>, certificates: Option<PathBuf>) -> Result<Self, ConnectError> {
        let said = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let from_env = said("DOCKER_HOST").map(|host| host.to_string_lossy().into_owned());
        let Some(host) = host.map(str::to_owned).or(from_env) else { return Ok(Self::default()) };
        let in_env = || {
            said("DOCKER_TLS_VERIFY")?;
            let named = said("DOCKER_CERT_PATH").map(PathBuf::from);
            named.or_else(|| Some(Path::new(&said("HOME")?).join(".docker")))
        };
        Self::parse(&host, certificates.or_else(in_env))
    }

    /// The endpoint in the environment; [`choose`](Self::choose) with nothing said.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn from_env() -> Result<Self, ConnectError> {
        Self::choose(None, None)
    }
}

impl fmt::Display for Endpoint {
    /// What a person calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tls { address, .. } => write!(f, "tcp://{address}"),
        }
    }
}

/// Bytes both ways.
pub(in crate::driver) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A connection to an engine.
pub(in crate::driver) type Stream = Box<dyn Duplex>;

/// How connections to an engine are opened.
pub(in crate::driver) enum Route {
    Unix(PathBuf),
    Tls { connector: TlsConnector, name: ServerName<'static>, address: String },
}

impl Route {
    /// The way to an endpoint, on which somebody listens.
    pub(in crate::driver) async fn find(endpoint: &Endpoint) -> Result<Self, ConnectError> {
        match endpoint {
            Endpoint::Unix(path) => {
                let route = Self::Unix(path.clone());
                route.open().await.map_err(|error| not_there(path, error))?;
                Ok(route)
            }
            Endpoint::Tls { address, certificates } => {
                let unreachable = |source| ConnectError::Unreachable { address: address.clone(), source };
                let connector = TlsConnector::from(Arc::new(configure(certificates)?));
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
                let name = name.map_err(|error| unreachable(io::Error::other(error)))?;
                let route = Self::Tls { connector, name, address: address.clone() };
                route.open().await.map_err(unreachable)?;
                Ok(route)
            }
        }
    }

    /// A new connection.
    pub(in crate::driver) async fn open(&self) -> io::Result<Stream> {
        let opening = async {
            Ok(match self {
                Self::Unix(path) => Box::new(UnixStream::connect(path).await?) as Stream,
                Self::Tls { connector, name, address } => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Box::new(connector.connect(name.clone(), stream).await?)
                }
            })
        };
        timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// The name that requests are addressed to.
    pub(in crate::driver) fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "docker",
            Self::Tls { address, .. } => address,
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Route").field(&self.host()).finish()
    }
}

/// Trusts the one authority that is named, and no other.
fn configure(certificates: &Path) -> Result<ClientConfig, ConnectError> {
    let (authority, certificate, key) =
        (certificates.join("ca.pem"), certificates.join("cert.pem"), certificates.join("key.pem"));
    let unusable = |path: &Path, reason: String| ConnectError::Certificate { path: path.to_owned(), reason };
    let read = |path: &Path| -> Result<Vec<CertificateDer<'static>>, ConnectError> {
        let bytes = std::fs::read(path).map_err(|error| unusable(path, error.to_string()))?;
        let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let list = list.map_err(|error| unusable(path, error.to_string()))?;
        if list.is_empty() { Err(unusable(path, "it holds no certificate".to_owned())) } else { Ok(list) }
    };
    let mut roots = RootCertStore::empty();
    for one in read(&authority)? {
        roots.add(one).map_err(|error| unusable(&authority, error.to_string()))?;
    }
    let own = read(&certificate)?;
    let bytes = std::fs::read(&key).map_err(|error| unusable(&key, error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unusable(&key, error.to_string()))?;
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&authority, error.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(own, secret)
        .map_err(|error| unusable(&certificate, error.to_string()))
}

/// The operating system's own reason why a socket cannot be opened.
fn not_there(path: &Path, error: io::Error) -> ConnectError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::NotFound => ConnectError::SocketMissing { path },
        ErrorKind::PermissionDenied => ConnectError::NoPermission { path },
        ErrorKind::ConnectionRefused => ConnectError::NotListening { path },
        _ => ConnectError::Socket { path, source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_absolute_socket_or_an_address_with_certificates() {
        let parsed = Endpoint::parse("unix:///run/docker.sock", None).unwrap();
        assert_eq!(parsed, Endpoint::Unix("/run/docker.sock".into()));
        let certificates = Some(PathBuf::from("/certs"));
        let parsed = Endpoint::parse("tcp://vm.example:2376", certificates.clone()).unwrap();
        let tls = Endpoint::Tls { address: "vm.example:2376".to_owned(), certificates: "/certs".into() };
        assert_eq!(parsed, tls);
        let open = Endpoint::parse("tcp://10.0.0.1:2375", None).unwrap_err();
        assert!(matches!(open, ConnectError::WithoutTls { .. }), "{open}");
        for host in [
            "",
            "tcp://",
            "tcp://vm",
            "tcp://vm:0",
            "tcp://vm/x:1",
            "ssh://root@vm",
            "unix://docker.sock",
            "/run/a",
        ] {
            let error = Endpoint::parse(host, certificates.clone()).unwrap_err();
            assert!(matches!(error, ConnectError::UnsupportedHost { .. }), "{host:?}");
        }
    }

    #[tokio::test]
    async fn a_missing_socket_and_a_dead_one_are_told_apart() {
        let dir = std::env::temp_dir().join(format!("swarmctl-probe-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("docker.sock");
        let missing = Route::find(&Endpoint::Unix(path.clone())).await.unwrap_err();
        assert!(matches!(missing, ConnectError::SocketMissing { .. }), "{missing}");

        drop(tokio::net::UnixListener::bind(&path).unwrap());
        let dead = Route::find(&Endpoint::Unix(path)).await.unwrap_err();
        assert!(matches!(dead, ConnectError::NotListening { .. }), "{dead}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
