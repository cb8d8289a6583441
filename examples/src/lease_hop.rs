//! Leases for nodes that are no managers: a record is read and changed through a peer that is one.
//!
//! One question and one answer a stream, a line of JSON each. Who asks has proved to be a peer.
//!
//! A manager remembers when it last told a node that it is up: see [`HopStore::silence`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use swarmctl::cluster::{Node, NodeStatus, Role, SwarmState};
use swarmctl::driver::SwarmStore;
use swarmctl::store::{LeaseStore, Stored, Swap};
use swarmctl::{Endpoint, LeaseError, LeaseState, NodeName, Swarm, VolumeName};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::volume_node::VolumeNode;
use crate::volume_settings::Peer;

/// What a stream about leases is labelled: no volume can be called that.
pub const LABEL: &str = ".lease";
/// The longest question or answer, in bytes.
const LINE_BYTES_MAX: u64 = 256 << 10;
/// How long a peer may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    Read(String),
    Swap(Option<u64>, BTreeMap<String, String>),
    Nodes,
    Silence(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    NotManager,
    Record(Option<(u64, BTreeMap<String, String>)>),
    Swapped(bool),
    Nodes(Vec<Member>),
    /// In milliseconds.
    Silence(u64),
    Failed(String),
}

/// A node of the Swarm, as a manager knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is a manager.
    pub manager: bool,
}

/// The lease records of the Swarm, reached by the engine of this node if it is a manager, else through a peer.
#[derive(Clone)]
pub struct HopStore {
    node: Arc<VolumeNode>,
    engine: Endpoint,
    /// What began before this process did is not known to it.
    began: Instant,
    /// When this node last told another that it is up.
    told_up: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl HopStore {
    /// The way of this node.
    pub fn new(node: Arc<VolumeNode>, engine: Endpoint) -> Self {
        Self { node, engine, began: Instant::now(), told_up: Arc::default() }
    }

    /// The Swarm's nodes.
    ///
    /// # Errors
    /// If no manager answers that reaches most managers.
    pub async fn nodes(&self) -> Result<Vec<Member>, LeaseError> {
        match self.ask(Question::Nodes).await? {
            Told::Nodes(nodes) => Ok(nodes),
            other => Err(unexpected(&other)),
        }
    }

    /// For how long no manager has told a node of these that it is up; `None` if that cannot be known, because it is a manager,
    /// which tells itself, or because one of the managers is no peer, or does not answer.
    pub async fn silence(&self, node: &Member, members: &[Member]) -> Option<Duration> {
        if node.manager {
            return None;
        }
        let mut shortest = self.silence_here(&node.name);
        let mut asking = JoinSet::new();
        let others = members.iter().filter(|it| it.manager && it.name != self.node.name().as_str());
        for manager in others {
            let peer = self.node.peers().find(|peer| peer.name.as_str() == manager.name)?.clone();
            let (hop, question) = (Arc::clone(&self.node), Question::Silence(node.name.clone()));
            asking.spawn(async move { ask(&hop, &peer, LABEL, &question).await });
        }
        while let Some(told) = asking.join_next().await {
            let Ok(Ok(Told::Silence(millis))) = told else { return None };
            shortest = shortest.min(Duration::from_millis(millis));
        }
        Some(shortest)
    }

    fn silence_here(&self, node: &str) -> Duration {
        let told_up = self.told_up.lock().unwrap_or_else(PoisonError::into_inner);
        told_up.get(node).unwrap_or(&self.began).elapsed()
    }

    /// Serves one question of a peer.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn serve(
        &self,
        asker: &NodeName,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let line = tokio::time::timeout(ANSWER_LIMIT, read_line(&mut stream)).await??;
        let told = match serde_json::from_slice(&line) {
            Ok(Question::Silence(node)) => {
                Told::Silence(u64::try_from(self.silence_here(&node).as_millis()).unwrap_or(u64::MAX))
            }
            Ok(Question::Nodes) => self.nodes_for(asker).await,
            Ok(question) => self.here(&question).await.unwrap_or(Told::NotManager),
            Err(error) => Told::Failed(format!("not a question about leases: {error}")),
        };
        write_line(&mut stream, &told).await
    }

    /// The nodes, for one of them. That it may learn from them that it is up is noted before they are looked at, so that no silence
    /// is ever too long, and taken back if it does not.
    async fn nodes_for(&self, asker: &NodeName) -> Told {
        let told_up = || self.told_up.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let before = told_up().insert(asker.to_string(), now);
        let told = self.here(&Question::Nodes).await.unwrap_or(Told::NotManager);
        let is_up =
            matches!(&told, Told::Nodes(nodes) if nodes.iter().any(|it| it.up && it.name == asker.as_str()));
        if !is_up && told_up().get(asker.as_str()) == Some(&now) {
            match before {
                Some(before) => told_up().insert(asker.to_string(), before),
                None => told_up().remove(asker.as_str()),
            };
        }
        told
    }

    async fn ask(&self, question: Question) -> Result<Told, LeaseError> {
        if let Some(told) = self.here(&question).await {
            return match told {
                Told::Failed(reason) => Err(LeaseError::Unavailable { reason }),
                told => Ok(told),
            };
        }
        // All at once: one that is down must not keep the others from being asked. Only a change is for one after the other, so that it
        // is not refused because it was made already.
        let together = if matches!(question, Question::Swap(..)) { 1 } else { usize::MAX };
        let (mut asking, question) = (JoinSet::new(), Arc::new(question));
        let mut peers = self.node.peers().cloned();
        let mut reason = "this node is no manager of its Swarm, and no peer is".to_owned();
        loop {
            for peer in peers.by_ref().take(together.saturating_sub(asking.len())) {
                let (node, question) = (Arc::clone(&self.node), Arc::clone(&question));
                asking.spawn(async move {
                    let told = tokio::time::timeout(ANSWER_LIMIT, ask(&node, &peer, LABEL, &*question)).await;
                    (peer, told.unwrap_or_else(|_| Err("no answer".to_owned())))
                });
            }
            match asking.join_next().await {
                None => return Err(LeaseError::Unavailable { reason }),
                Some(Ok((_, Ok(Told::NotManager)))) => {}
                Some(Ok((peer, Ok(Told::Failed(error)) | Err(error)))) => {
                    reason = format!("{}: {error}", peer.name)
                }
                Some(Ok((_, Ok(told)))) => return Ok(told),
                Some(Err(error)) => reason = error.to_string(),
            }
        }
    }

    /// What this node's own engine says, if it is a manager.
    async fn here(&self, question: &Question) -> Option<Told> {
        let swarm = Swarm::connect(self.engine.clone()).await.ok()?;
        if !matches!(swarm.info().await.ok()?.swarm, SwarmState::Manager { .. }) {
            return None;
        }
        Some(answer(&swarm, question).await.unwrap_or_else(Told::Failed))
    }
}

/// Asks a peer one question, on a stream of its own.
pub(crate) async fn ask<T: DeserializeOwned>(
    node: &VolumeNode,
    peer: &Peer,
    label: &str,
    question: &impl Serialize,
) -> Result<T, String> {
    let mut stream = node.reach(peer.id, label).await.map_err(|error| error.to_string())?;
    write_line(&mut stream, question).await.map_err(|error| error.to_string())?;
    let line = read_line(&mut stream).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&line).map_err(|error| error.to_string())
}

async fn answer(swarm: &Swarm, question: &Question) -> Result<Told, String> {
    let store = SwarmStore::new(swarm.clone());
    match question {
        Question::Read(volume) => {
            let volume: VolumeName = volume.parse().map_err(|error| format!("{error}"))?;
            let stored = store.read(&volume).await.map_err(|error| error.to_string())?;
            Ok(Told::Record(stored.map(|stored| (stored.version, stored.state.to_labels()))))
        }
        Question::Swap(version, labels) => {
            let state = LeaseState::from_labels(labels).map_err(|error| error.to_string())?;
            let swap = store.compare_and_swap(*version, &state).await.map_err(|error| error.to_string())?;
            Ok(Told::Swapped(swap == Swap::Done))
        }
        Question::Nodes => {
            let nodes = swarm.nodes().await.map_err(|error| error.to_string())?;
            reaches_most(&nodes)?;
            let member = |it: Node| Member {
                up: it.status == NodeStatus::Ready,
                manager: it.role == Role::Manager,
                name: it.name,
            };
            Ok(Told::Nodes(nodes.into_iter().map(member).collect()))
        }
        Question::Silence(_) => Err("a node is asked that by its peers only".to_owned()),
    }
}

/// A leader that was cut off goes on answering what it knew for some seconds. It knows sooner which managers it does not reach.
fn reaches_most(nodes: &[Node]) -> Result<(), String> {
    let managers = nodes.iter().filter(|it| it.role == Role::Manager);
    let (all, reached) = (managers.clone().count(), managers.filter(|it| it.reachable == Some(true)).count());
    if reached * 2 > all { Ok(()) } else { Err(format!("a manager that reaches {reached} of {all}")) }
}

impl LeaseStore for HopStore {
    async fn read(&self, volume: &VolumeName) -> Result<Option<Stored>, LeaseError> {
        match self.ask(Question::Read(volume.to_string())).await? {
            Told::Record(None) => Ok(None),
            Told::Record(Some((version, labels))) => {
                let state = LeaseState::from_labels(&labels)
                    .map_err(|error| LeaseError::Unavailable { reason: error.to_string() })?;
                Ok(Some(Stored { version, state }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn compare_and_swap(&self, version: Option<u64>, state: &LeaseState) -> Result<Swap, LeaseError> {
        match self.ask(Question::Swap(version, state.to_labels())).await? {
            Told::Swapped(true) => Ok(Swap::Done),
            Told::Swapped(false) => Ok(Swap::OutOfSequence),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(told: &Told) -> LeaseError {
    LeaseError::Unavailable { reason: format!("a manager gave an answer to another question: {told:?}") }
}

pub(crate) async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_until(b'\n', &mut line).await?;
    Ok(line)
}

pub(crate) async fn write_line(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}
