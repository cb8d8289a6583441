//! Owns the provider that follows a Docker Engine: lists its containers, then listens to its events and lists again. Only ever reads.
//!
//! A container serves while it runs and is not unhealthy. It is taken out at the signal that stops it, not at its end, so that no request is
//! sent to a server that is closing down.

use super::provider::{Provider, SnapshotSink};
use crate::{
    error::ProviderError,
    labels::NETWORK_LABEL,
    snapshot::{Container, Snapshot},
    upstream::Address,
};
use bollard::{
    ClientVersion, Docker,
    models::{ContainerSummary, ContainerSummaryStateEnum, EventMessage, PortSummaryTypeEnum},
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder},
};
use futures_util::{Stream, StreamExt};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::IpAddr,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, SystemTime},
};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout},
};

/// Newest API version that is asked for; an older engine is spoken to in its own.
const API_NEWEST: (usize, usize) = (1, 50);
/// Longest wait for an answer of the engine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Events within this time are answered by one listing.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How far back events are asked for: what is told twice does no harm.
const OVERLAP: Duration = Duration::from_secs(2);
/// Without events, the containers are listed this often all the same.
const SAFETY_POLL: Duration = Duration::from_secs(30);
/// First and longest pause before the engine is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A container that was told to stop and still runs after this long is taken to have ignored it.
const STOPPING_MAX: Duration = Duration::from_secs(60);
/// Most containers that are remembered as stopping.
const STOPPING_CONTAINERS_MAX: usize = 4096;

/// A provider that tells what a Docker Engine runs.
#[derive(Debug)]
pub struct DockerProvider {
    docker: Docker,
    path: PathBuf,
}

impl DockerProvider {
    /// Connects to the engine behind a Unix socket, usually `/var/run/docker.sock`, and agrees on an API version with it.
    ///
    /// # Errors
    /// If there is no socket, no permission, nobody behind it, or something else than a Docker Engine.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, ProviderError> {
        let path = socket.as_ref();
        let version = timeout(ANSWER_TIMEOUT, negotiate(path))
            .await
            .unwrap_or_else(|_| Err(engine_error(path, "GET /_ping", "no answer in time")))?;
        let docker =
            Docker::connect_with_unix(&path.display().to_string(), ANSWER_TIMEOUT.as_secs(), &version)
                .map_err(|error| engine_error(path, "connect", error))?;
        Ok(Self { docker, path: path.into() })
    }
}

impl Provider for DockerProvider {
    fn name(&self) -> &str {
        "docker"
    }

    /// Never ends by itself: an engine that goes away is waited for, and the containers it had stay as they were.
    async fn run(self, sink: SnapshotSink) -> Result<(), ProviderError> {
        let mut follower = Follower { provider: self, sink, stopping: BTreeMap::new() };
        let mut pause = BACK_OFF.0;
        loop {
            let listed = match follower.follow().await {
                Err(Interrupted { error: ProviderError::ProxyStopped, .. }) => return Ok(()),
                Err(Interrupted { error, listed }) => {
                    tracing::warn!(%error, retry_ms = pause.as_millis() as u64, "lost the Docker Engine");
                    listed
                }
                Ok(()) => {
                    tracing::debug!("the Docker Engine ended its events");
                    true
                }
            };
            if listed {
                pause = BACK_OFF.0;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }
}

struct Follower {
    provider: DockerProvider,
    sink: SnapshotSink,
    /// Containers that were told to stop, by ID.
    stopping: BTreeMap<String, Instant>,
}

/// Why following ended, and whether the engine had answered before.
struct Interrupted {
    error: ProviderError,
    listed: bool,
}

impl Follower {
    /// Lists, then listens to what has happened since just before, so that nothing between the two is missed.
    async fn follow(&mut self) -> Result<(), Interrupted> {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(OVERLAP);
        let since = since.as_secs().to_string();
        self.list().await.map_err(|error| Interrupted { error, listed: false })?;
        let filters = HashMap::from([("type", vec!["container", "network"])]);
        let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
        let docker = self.provider.docker.clone();
        let mut events = pin!(docker.events(Some(options)));
        loop {
            let next = timeout(SAFETY_POLL, next_change(events.as_mut())).await;
            match next.unwrap_or(Some(Ok(Change::Look))) {
                None => return Ok(()),
                Some(Err(error)) => {
                    let error = engine_error(&self.provider.path, "GET /events", error);
                    return Err(Interrupted { error, listed: true });
                }
                Some(Ok(Change::Stopping(id))) => self.note_stopping(id),
                Some(Ok(Change::Started(id))) => {
                    self.stopping.remove(&id);
                    self.debounce(events.as_mut()).await;
                }
                Some(Ok(Change::Look)) => self.debounce(events.as_mut()).await,
            }
            self.list().await.map_err(|error| Interrupted { error, listed: true })?;
        }
    }

    /// Lets a burst of events pass, without missing who is told to stop in it.
    async fn debounce(
        &mut self,
        mut events: impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin,
    ) {
        let until = Instant::now() + DEBOUNCE;
        while let Ok(Some(Ok(change))) = tokio::time::timeout_at(until, next_change(&mut events)).await {
            match change {
                Change::Stopping(id) => return self.note_stopping(id),
                Change::Started(id) => drop(self.stopping.remove(&id)),
                Change::Look => {}
            }
        }
    }

    fn note_stopping(&mut self, id: String) {
        self.stopping.retain(|_, since| since.elapsed() < STOPPING_MAX);
        if self.stopping.len() < STOPPING_CONTAINERS_MAX {
            self.stopping.insert(id, Instant::now());
        }
    }

    async fn list(&mut self) -> Result<(), ProviderError> {
        let failed =
            |error: &dyn std::fmt::Display| engine_error(&self.provider.path, "GET /containers/json", error);
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed = timeout(ANSWER_TIMEOUT, self.provider.docker.list_containers(Some(options)))
            .await
            .map_err(|_| failed(&"no answer in time"))?
            .map_err(|error| failed(&error))?;
        self.stopping.retain(|_, since| since.elapsed() < STOPPING_MAX);
        let snapshot: Snapshot = listed
            .into_iter()
            .map(|summary| {
                let stopping = summary.id.as_ref().is_some_and(|id| self.stopping.contains_key(id));
                container(summary, stopping)
            })
            .collect();
        self.sink.publish(snapshot).await
    }
}

/// What an event means for the list of containers.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// This container was told to stop.
    Stopping(String),
    /// This container has started.
    Started(String),
    /// Something else that may matter.
    Look,
}

/// The next event that matters.
async fn next_change<S>(mut events: S) -> Option<Result<Change, bollard::errors::Error>>
where
    S: Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin,
{
    loop {
        match events.next().await? {
            Ok(event) => match change(event) {
                Some(change) => return Some(Ok(change)),
                None => continue,
            },
            Err(error) => return Some(Err(error)),
        }
    }
}

fn change(event: EventMessage) -> Option<Change> {
    let action = event.action?;
    let actor = event.actor.unwrap_or_default();
    match action.as_str() {
        "kill" => {
            let signal = actor.attributes.and_then(|mut attributes| attributes.remove("signal"))?;
            // INT, QUIT, KILL, TERM: what stops a program. HUP, USR1 or WINCH ask for something else.
            ["2", "3", "9", "15"].contains(&signal.as_str()).then_some(Change::Stopping(actor.id?))
        }
        "start" => Some(Change::Started(actor.id?)),
        "create" | "die" | "stop" | "destroy" | "pause" | "unpause" | "rename" | "connect" | "disconnect"
        | "update" => Some(Change::Look),
        action if action.starts_with("health_status") => Some(Change::Look),
        _ => None,
    }
}

/// What the engine says of a container, as the proxy sees it.
fn container(summary: ContainerSummary, stopping: bool) -> Container {
    let ContainerSummary { id, names, ports, labels, state, status, network_settings, .. } = summary;
    let mut names = names.unwrap_or_default().into_iter().map(|name| name.trim_start_matches('/').to_owned());
    // Links add names with a slash inside.
    let name = names.find(|name| !name.contains('/')).or(id).unwrap_or_default();
    let labels: BTreeMap<String, String> = labels.unwrap_or_default().into_iter().collect();
    let networks = network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let addresses: BTreeMap<String, IpAddr> = networks
        .into_iter()
        .filter_map(|(network, endpoint)| {
            let of = |text: Option<String>| text.and_then(|text| text.parse::<IpAddr>().ok());
            Some((network, of(endpoint.ip_address).or(of(endpoint.global_ipv6_address))?))
        })
        .collect();
    let mut ports: Vec<u16> = ports
        .unwrap_or_default()
        .into_iter()
        .filter(|port| matches!(port.typ, None | Some(PortSummaryTypeEnum::TCP)))
        .map(|port| port.private_port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let status = status.unwrap_or_default();
    let healthy = !status.contains("(unhealthy)") && !status.contains("(health: starting)");
    let mut container = Container::new(name);
    container.up = state == Some(ContainerSummaryStateEnum::RUNNING) && healthy && !stopping;
    container.address = pick_address(&labels, &addresses).map(Address::Ip);
    (container.ports, container.labels) = (ports, labels);
    container
}

/// The address on the network that the label names (with or without the name of the Compose project before it), else on the default
/// bridge, else on the first network by name.
fn pick_address(labels: &BTreeMap<String, String>, addresses: &BTreeMap<String, IpAddr>) -> Option<IpAddr> {
    if let Some(wanted) = labels.get(NETWORK_LABEL) {
        let suffix = format!("_{wanted}");
        let named = addresses
            .get(wanted)
            .or_else(|| addresses.iter().find(|(name, _)| name.ends_with(&suffix)).map(|(_, ip)| ip));
        return named.copied();
    }
    addresses.get("bridge").or_else(|| addresses.values().next()).copied()
}

/// Asks `GET /_ping`, which every engine answers whatever its version, for the newest version that it speaks. Also finds out what is wrong
/// with the socket. (bollard 0.21 sends its paths without the version; an engine then answers in its own, which suits just as well.)
async fn negotiate(path: &Path) -> Result<ClientVersion, ProviderError> {
    const REQUEST: &str = "GET /_ping";
    let failed = |error: hyper::Error| engine_error(path, REQUEST, error);
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| ProviderError::Socket { path: path.into(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let ping = async {
        let request =
            http::Request::get("/_ping").header("host", "docker").body(Empty::<bytes::Bytes>::new());
        sender.send_request(request.expect("a constant request is valid")).await
    };
    let driven = async {
        // Whatever ends the connection, the request on it hears of it.
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    let response = tokio::select! {
        response = ping => response.map_err(failed)?,
        never = driven => match never {},
    };
    let spoken = response.headers().get("api-version").and_then(|version| version.to_str().ok());
    let (major_version, minor_version) = spoken
        .and_then(parse_version)
        .ok_or_else(|| engine_error(path, REQUEST, "there is no Api-Version in its answer"))?
        .min(API_NEWEST);
    Ok(ClientVersion { major_version, minor_version })
}

fn parse_version(text: &str) -> Option<(usize, usize)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn engine_error(path: &Path, request: &'static str, error: impl std::fmt::Display) -> ProviderError {
    ProviderError::Engine { path: path.into(), request, message: error.to_string() }
}

#[cfg(test)]
mod tests;
