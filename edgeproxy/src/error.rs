//! Owns the errors of the crate's operations, one enum each. Every message says what was wrong, where, and what to do.

use std::{io, net::SocketAddr, path::PathBuf};

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Neither entry point was configured.
    #[error("nothing to listen on: set Config::http, Config::https or both")]
    NoEntryPoint,
    /// An entry point's address could not be bound.
    #[error("cannot listen on {address} ({entry_point}): {source}; {}", bind_remedy(source))]
    Bind {
        /// `http` or `https`.
        entry_point: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS library refused its settings.
    #[error("TLS cannot be set up: {0}; this is a defect of the build, please report it")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn bind_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there (ss -ltnp shows it), or choose another port",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port or grant it"
        }
        io::ErrorKind::AddrNotAvailable => "this host has no such address; use one of its own, or 0.0.0.0",
        _ => "choose another address",
    }
}

/// Why a proxy did not end quietly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// Connections were still busy when the grace period ended, and were cut.
    #[error(
        "{0} connections were still busy when the grace period ended, and were cut; a longer grace lets them finish"
    )]
    Cut(usize),
}

/// Why a provider could not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The file with labels could not be read.
    #[error("cannot read the labels file {}: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file with labels is larger than is read.
    #[error("the labels file {} is larger than the {max} bytes that are read; remove what is not needed", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest that is read.
        max: u64,
    },
    /// The file with labels is not a list of containers.
    #[error("the labels file {} is wrong: {message}; expected a JSON list of {{\"name\", \"address\", \"labels\": {{…}}}}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// The Docker Engine's socket could not be opened.
    #[error("cannot reach the Docker Engine at {}: {source}; {}", path.display(), socket_remedy(source))]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The Docker Engine answered something else than expected.
    #[error("the Docker Engine at {} gave no usable answer to {request}: {message}; check that it is a Docker Engine with API 1.41 or newer", path.display())]
    Engine {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        request: &'static str,
        /// What went wrong.
        message: String,
    },
    /// The proxy has stopped: nobody takes snapshots any more.
    #[error("the proxy has stopped")]
    ProxyStopped,
}

fn socket_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "no such socket: is Docker installed and running?",
        io::ErrorKind::PermissionDenied => "no permission: run as root, or as a member of the group docker",
        io::ErrorKind::ConnectionRefused => "nobody listens there: start it with `systemctl start docker`",
        _ => "check that the path is the Engine's socket, usually /var/run/docker.sock",
    }
}

/// Why a certificate could not be loaded or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate's text is not PEM, or holds no certificate.
    #[error(
        "{origin} holds no certificate: {message}; expected PEM text with -----BEGIN CERTIFICATE-----, the leaf first"
    )]
    Certificate {
        /// The file, or `certificate`.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// The key's text is not PEM, or holds no key that is supported.
    #[error(
        "{origin} holds no usable private key: {message}; expected an unencrypted PEM key (PKCS#8, PKCS#1 or SEC1)"
    )]
    Key {
        /// The file, or `key`.
        origin: String,
        /// What is wrong; never the key.
        message: String,
    },
    /// The key belongs to another certificate.
    #[error("the key of {origin} does not belong to its certificate; give the pair that was issued together")]
    Mismatch {
        /// The certificate's file, or `certificate`.
        origin: String,
    },
    /// A certificate could not be made.
    #[error(
        "cannot issue a certificate for {names}: {message}; use host names such as app.example.org, or IP addresses"
    )]
    Issue {
        /// For whom.
        names: String,
        /// What is wrong.
        message: String,
    },
}
