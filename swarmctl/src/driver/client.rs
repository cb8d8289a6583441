//! The client of a Docker Engine: what it is, and what its Swarm looks like.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{ListServicesOptions, ListTasksOptions};

use super::convert;
use crate::cluster::{API_VERSION_MIN, ApiVersion, EngineInfo, Node, Service, SwarmState, Task};
use crate::error::{ConnectError, ListError};

/// Where Docker listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// A Unix socket of this host.
    Unix(PathBuf),
}

impl Default for Endpoint {
    /// `/var/run/docker.sock`.
    fn default() -> Self {
        Self::Unix(DEFAULT_SOCKET.into())
    }
}

impl Endpoint {
    /// Reads what `DOCKER_HOST` and `docker --host` take: `unix:///path/to/docker.sock`.
    ///
    /// # Errors
    /// [`ConnectError::UnsupportedHost`] for anything but an absolute path of a Unix socket.
    pub fn parse(host: &str) -> Result<Self, ConnectError> {
        match host.strip_prefix("unix://").map(Path::new) {
            Some(path) if path.is_absolute() => Ok(Self::Unix(path.to_owned())),
            _ => Err(ConnectError::UnsupportedHost { host: host.chars().take(256).collect() }),
        }
    }

    /// The endpoint in the environment's `DOCKER_HOST`; the default one when that is not set or empty.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn from_env() -> Result<Self, ConnectError> {
        match std::env::var_os("DOCKER_HOST") {
            Some(host) if !host.is_empty() => Self::parse(&host.to_string_lossy()),
            _ => Ok(Self::default()),
        }
    }
}

/// A Docker Engine, and through it the Swarm that it is part of. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Swarm {
    docker: Docker,
    version: String,
    api_version: ApiVersion,
}

impl Swarm {
    /// Connects to an engine and agrees on an API version with it, from 1.41 (Docker 20.10) on.
    ///
    /// # Errors
    /// When nobody listens, the socket may not be opened, or the engine is too old; each says what helps.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, ConnectError> {
        let Endpoint::Unix(path) = endpoint;
        probe(&path).await?;
        let not_an_engine =
            |source: Error| ConnectError::NotAnEngine { path: path.clone(), source: source.into() };
        let docker = Docker::connect_with_unix(
            &path.to_string_lossy(),
            ANSWER_TIMEOUT.as_secs(),
            bollard::API_DEFAULT_VERSION,
        )
        .map_err(not_an_engine)?;
        let answer = docker.version().await.map_err(not_an_engine)?;
        let api = answer.api_version.unwrap_or_default();
        let version = answer.version.unwrap_or_default();
        let Some(api_version) = ApiVersion::parse(&api).filter(|api| *api >= API_VERSION_MIN) else {
            return Err(ConnectError::TooOld { path, version, api });
        };
        Ok(Self { docker, version, api_version })
    }

    /// What the engine says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn info(&self) -> Result<EngineInfo, ListError> {
        let info = self.docker.info().await.map_err(list_error)?;
        Ok(EngineInfo {
            name: info.name.ok_or(ListError::Incomplete { what: "name" })?,
            version: self.version.clone(),
            api_version: self.api_version,
            swarm: convert::swarm_state(info.swarm),
        })
    }

    /// The nodes of the Swarm, by name.
    ///
    /// # Errors
    /// When the engine is not a manager that works; each says what helps.
    pub async fn nodes(&self) -> Result<Vec<Node>, ListError> {
        let nodes = match self.docker.list_nodes(None).await {
            Ok(nodes) => nodes,
            Err(error) => return Err(self.explain(error).await),
        };
        let mut nodes = nodes.into_iter().map(convert::node).collect::<Result<Vec<_>, _>>()?;
        nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(nodes)
    }

    /// The services of the Swarm, by name.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn services(&self) -> Result<Vec<Service>, ListError> {
        let options = ListServicesOptions { status: Some(true), ..Default::default() };
        let services = match self.docker.list_services(Some(options)).await {
            Ok(services) => services,
            Err(error) => return Err(self.explain(error).await),
        };
        let mut services = services.into_iter().map(convert::service).collect::<Result<Vec<_>, _>>()?;
        services.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(services)
    }

    /// The tasks of one service, given by name or ID, or of all; by service, slot and age, newest first.
    /// Swarm keeps a few of those that have ended.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`ListError::UnknownService`].
    pub async fn tasks(&self, service: Option<&str>) -> Result<Vec<Task>, ListError> {
        let filters = match service {
            None => None,
            Some(name) => Some(HashMap::from([("service".to_owned(), vec![self.service_id(name).await?])])),
        };
        let tasks = match self.docker.list_tasks(Some(ListTasksOptions { filters })).await {
            Ok(tasks) => tasks,
            Err(error) => return Err(self.explain(error).await),
        };
        let mut tasks = tasks.into_iter().map(convert::task).collect::<Result<Vec<_>, _>>()?;
        tasks.sort_by(|a, b| {
            (&a.service, a.slot, &a.node).cmp(&(&b.service, b.slot, &b.node)).then(b.since.cmp(&a.since))
        });
        Ok(tasks)
    }

    async fn service_id(&self, name: &str) -> Result<String, ListError> {
        let unknown = || ListError::UnknownService { name: name.to_owned() };
        // The name becomes part of a request's path.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return Err(unknown());
        }
        match self.docker.inspect_service(name, None).await {
            Ok(service) => service.id.ok_or(ListError::Incomplete { what: "service ID" }),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Err(unknown()),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// What an error about the Swarm means. An engine refuses in the same way whatever its place in the
    /// Swarm is, so it is asked for that.
    async fn explain(&self, error: Error) -> ListError {
        if let Error::DockerResponseServerError { status_code: 406 | 503, .. } = error
            && let Ok(info) = self.info().await
        {
            match info.swarm {
                SwarmState::Inactive | SwarmState::Pending => return ListError::Inactive,
                SwarmState::Worker { .. } => return ListError::NotManager,
                SwarmState::Locked => return ListError::Locked,
                SwarmState::Manager { .. } | SwarmState::Failed { .. } => {}
            }
        }
        list_error(error)
    }
}

/// Opens the socket once, for the operating system's own reason when it cannot be.
async fn probe(path: &Path) -> Result<(), ConnectError> {
    let path = path.to_owned();
    match tokio::net::UnixStream::connect(&path).await {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            ErrorKind::NotFound => ConnectError::SocketMissing { path },
            ErrorKind::PermissionDenied => ConnectError::NoPermission { path },
            ErrorKind::ConnectionRefused => ConnectError::NotListening { path },
            _ => ConnectError::Socket { path, source: error },
        }),
    }
}

fn list_error(error: Error) -> ListError {
    match error {
        Error::DockerResponseServerError { message, .. } if message.contains("does not have a leader") => {
            ListError::NoLeader
        }
        Error::DockerResponseServerError { status_code, message } => {
            ListError::Engine { status: status_code, message: message.trim().to_owned() }
        }
        error => ListError::Unreachable { source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_unix_sockets_are_endpoints() {
        let parsed = Endpoint::parse("unix:///run/docker.sock").unwrap();
        assert_eq!(parsed, Endpoint::Unix("/run/docker.sock".into()));
        for host in ["", "tcp://10.0.0.1:2375", "ssh://root@vm", "unix://docker.sock", "/run/docker.sock"] {
            let error = Endpoint::parse(host).unwrap_err();
            assert!(matches!(error, ConnectError::UnsupportedHost { .. }), "{host:?}");
        }
    }

    #[test]
    fn a_swarm_without_quorum_is_recognised_by_the_engines_words() {
        let message = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too \
                       few managers are online.";
        let error = Error::DockerResponseServerError { status_code: 500, message: message.to_owned() };
        assert!(matches!(list_error(error), ListError::NoLeader));
    }

    #[tokio::test]
    async fn a_missing_socket_and_a_dead_one_are_told_apart() {
        let dir = std::env::temp_dir().join(format!("swarmctl-probe-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("docker.sock");
        let missing = Swarm::connect(Endpoint::Unix(path.clone())).await.unwrap_err();
        assert!(matches!(missing, ConnectError::SocketMissing { .. }), "{missing}");

        drop(tokio::net::UnixListener::bind(&path).unwrap());
        let dead = Swarm::connect(Endpoint::Unix(path)).await.unwrap_err();
        assert!(matches!(dead, ConnectError::NotListening { .. }), "{dead}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
