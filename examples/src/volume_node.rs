//! The replicas of a node's volumes, and the streams to the other nodes: each volume is a folder that all of them share.
//!
//! A folder's identity follows from the volume's name. A node that is asked for a volume which it does not have makes a replica
//! of it: wherever a container is started next, its data is on the way already. Only nodes that are named as peers may ask.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use swarmctl::engine::VOLUMES_MAX;
use swarmctl::{BackendError, NodeName, VolumeName};
use syncfs::greeting::{Answer, Greeting, Label, Refusal};
use syncfs::tls::TlsStream;
use syncfs::{Config, ContentHash, CutRule, DeviceId, Folder, FolderId, Identity, SyncError};
use tokio::net::TcpStream;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::daemon::Failure;
use crate::sync_door::{self, DoorError};
use crate::sync_link::Backoff;
use crate::sync_sessions::Sessions;
use crate::volume_notice;
use crate::volume_settings::Peer;

/// How long a connection to one address may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The replicas of a node, and its peers.
pub struct VolumeNode {
    identity: Identity,
    name: NodeName,
    root: PathBuf,
    peers: BTreeMap<DeviceId, Peer>,
    replicas: Mutex<BTreeMap<VolumeName, Arc<Replica>>>,
    /// Replicas come and go one after the other.
    changing: AsyncMutex<()>,
    sessions: Sessions,
    next_place: AtomicUsize,
}

/// The replica of a volume.
pub struct Replica {
    /// Its folder.
    pub folder: Folder,
    /// Where its data is.
    pub data: PathBuf,
    volume: VolumeName,
    place: usize,
    tasks: Mutex<JoinSet<()>>,
    notice: Mutex<Option<String>>,
}

impl Replica {
    /// Says what a person has to know of the volume, in the log and from now on in what engines show of it.
    pub fn tell(&self, notice: String) {
        tracing::warn!(volume = %self.volume, "{notice}");
        *self.notice.lock().unwrap_or_else(PoisonError::into_inner) = Some(notice);
    }

    /// What was told last.
    pub fn notice(&self) -> Option<String> {
        self.notice.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}

/// A stream that came in about something that is not a volume: who sent it, what it named, and the stream, which was welcomed.
pub type Other = (NodeName, Label, TlsStream<TcpStream>);

impl VolumeNode {
    /// The node whose key and replicas are below `root`.
    ///
    /// # Errors
    /// If the key cannot be read or made.
    pub fn new(root: &Path, name: NodeName, peers: Vec<Peer>) -> Result<Self, Failure> {
        let identity = Identity::load_or_create(&root.join("key"))?;
        if peers.iter().any(|peer| peer.id == identity.device()) {
            return Err(Failure::new("a [[peer]] is this node itself: name the others"));
        }
        Ok(Self {
            identity,
            name,
            root: root.join("volumes"),
            peers: peers.into_iter().map(|peer| (peer.id, peer)).collect(),
            replicas: Mutex::default(),
            changing: AsyncMutex::default(),
            sessions: Sessions::default(),
            next_place: AtomicUsize::new(0),
        })
    }

    /// This node's name in the Swarm.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Its identity among its peers.
    pub fn device(&self) -> DeviceId {
        self.identity.device()
    }

    /// The other nodes.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// Another node.
    pub fn peer(&self, device: DeviceId) -> Option<&Peer> {
        self.peers.get(&device)
    }

    /// The directory with a volume's replica and what is known of it.
    pub fn directory(&self, volume: &VolumeName) -> PathBuf {
        self.root.join(volume.as_str())
    }

    /// The volumes of which a replica is on the disk.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn on_disk(&self) -> io::Result<Vec<VolumeName>> {
        std::fs::create_dir_all(&self.root)?;
        let names =
            std::fs::read_dir(&self.root)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    /// The replica of a volume, if it is open.
    pub fn replica(&self, volume: &VolumeName) -> Option<Arc<Replica>> {
        self.replicas().get(volume).cloned()
    }

    /// The replica of a volume, made if there is none. With rules for its cuts it is opened anew.
    ///
    /// # Errors
    /// If the disk refuses, or there are too many volumes.
    pub async fn open(
        self: &Arc<Self>,
        volume: &VolumeName,
        cuts: Option<&[CutRule]>,
    ) -> Result<Arc<Replica>, BackendError> {
        let _turn = self.changing.lock().await;
        if let Some(open) = self.replica(volume) {
            match cuts {
                None | Some([]) => return Ok(open),
                Some(_) => self.shut(volume).await,
            }
        }
        if self.replicas().len() >= VOLUMES_MAX {
            return Err(BackendError::failed(format!(
                "this node has {VOLUMES_MAX} volumes, the most it can"
            )));
        }
        let directory = self.directory(volume);
        let data = directory.join("data");
        std::fs::create_dir_all(&data)
            .map_err(|error| BackendError::failed(format!("{}: {error}", data.display())))?;
        let mut config = Config::new(&data);
        config.state = Some(directory.join("state"));
        config.name = volume.to_string();
        config.device = Some(self.identity.device());
        config.folder = Some(folder_id(volume));
        config.cuts = cuts.unwrap_or_default().to_vec();
        let folder = Folder::create(config).await.map_err(BackendError::failed)?;
        let place = self.next_place.fetch_add(1, Ordering::Relaxed);
        let replica = Arc::new(Replica {
            folder,
            data,
            volume: volume.clone(),
            place,
            tasks: Mutex::default(),
            notice: Mutex::default(),
        });
        replica.spawn(volume_notice::report_branches(Arc::clone(&replica)));
        self.replicas().insert(volume.clone(), Arc::clone(&replica));
        for peer in self.peers.values().filter(|peer| !peer.addresses.is_empty()) {
            let (node, dialling, peer) = (Arc::clone(self), Arc::clone(&replica), peer.id);
            replica.spawn(async move { node.dial(&dialling, peer).await });
        }
        Ok(replica)
    }

    /// Removes the replica of a volume with all that it holds.
    ///
    /// # Errors
    /// If the disk refuses.
    pub async fn remove(&self, volume: &VolumeName) -> io::Result<()> {
        let _turn = self.changing.lock().await;
        self.shut(volume).await;
        std::fs::remove_dir_all(self.directory(volume))
    }

    /// Closes all replicas: what is complete becomes durable.
    pub async fn close(&self) {
        let volumes: Vec<VolumeName> = self.replicas().keys().cloned().collect();
        for volume in volumes {
            self.shut(&volume).await;
        }
    }

    async fn shut(&self, volume: &VolumeName) {
        let Some(replica) = self.replicas().remove(volume) else { return };
        replica.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        replica.folder.clone().close().await;
    }

    fn replicas(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Arc<Replica>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a stream that came in to its end if it is about a volume, else gives it back.
    ///
    /// # Errors
    /// If it does not become a session.
    pub async fn admit(self: &Arc<Self>, stream: TcpStream) -> Result<Option<Other>, DoorError> {
        let (mut stream, device) = self.identity.accept(stream).await?;
        let greeting = sync_door::greeted(&mut stream).await?;
        let refused = |why, told| DoorError::TurnedAway { device, why, told };
        let (why, told) = match (self.peers.get(&device), greeting.label) {
            (None, _) => ("it is not among the peers of this node", Refusal::UnknownDevice),
            (Some(_), None) => ("it names no volume", Refusal::Ambiguous),
            (Some(peer), Some(label)) => match label.as_str().parse::<VolumeName>() {
                Ok(volume) => match self.open(&volume, None).await {
                    Ok(replica) => return self.admitted(&replica, device, stream).await,
                    Err(error) => {
                        tracing::warn!(%volume, %error, "no replica for a peer");
                        ("there is no replica of the volume", Refusal::UnknownFolder)
                    }
                },
                Err(_) => {
                    sync_door::answer(&mut stream, Answer::Welcome).await?;
                    return Ok(Some((peer.name.clone(), label, stream)));
                }
            },
        };
        sync_door::answer(&mut stream, Answer::Refused(told)).await?;
        Err(refused(why, told))
    }

    async fn admitted(
        &self,
        replica: &Replica,
        device: DeviceId,
        mut stream: TlsStream<TcpStream>,
    ) -> Result<Option<Other>, DoorError> {
        let pair = (replica.place, device);
        let Some(mut turn) = self.sessions.enter(pair, false, self.device() < device) else {
            sync_door::answer(&mut stream, Answer::Refused(Refusal::Connected)).await?;
            return Ok(None);
        };
        sync_door::answer(&mut stream, Answer::Welcome).await?;
        tokio::select! {
            () = session(replica, device, stream) => {}
            () = turn.replaced() => {}
        }
        Ok(None)
    }

    /// Dials a peer for a volume whenever the two are not connected, for ever.
    async fn dial(&self, replica: &Replica, peer: DeviceId) {
        let mut backoff = Backoff::default();
        loop {
            let pair = (replica.place, peer);
            self.sessions.vacant(pair).await;
            let began = Instant::now();
            match self.reach(peer, replica.volume.as_str()).await {
                Err(DoorError::Refused(Refusal::Connected)) => {}
                Err(error) => tracing::debug!(volume = %replica.volume, %peer, %error, "no session"),
                Ok(stream) => {
                    if let Some(mut turn) = self.sessions.enter(pair, true, self.device() < peer) {
                        tokio::select! {
                            () = session(replica, peer, stream) => {}
                            () = turn.replaced() => {}
                        }
                    }
                }
            }
            backoff.lasted(began.elapsed());
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    /// A stream to a peer that is about what `label` says, from the first of its addresses at which it proves to be there.
    ///
    /// # Errors
    /// The last failure if it is at none.
    pub async fn reach(&self, peer: DeviceId, label: &str) -> Result<TlsStream<TcpStream>, DoorError> {
        let mut failure = DoorError::Io(io::Error::new(io::ErrorKind::NotFound, "no address to dial"));
        let addresses = self.peers.get(&peer).map_or(&[][..], |peer| &peer.addresses);
        for address in addresses {
            let attempt = async {
                let stream = TcpStream::connect(&address.resolve().await?[..]).await?;
                stream.set_nodelay(true)?;
                Ok::<_, DoorError>(self.identity.connect(stream, peer).await?)
            };
            match tokio::time::timeout(CONNECT_LIMIT, attempt).await.unwrap_or(Err(DoorError::Slow)) {
                Err(error) => failure = error,
                Ok(mut stream) => {
                    let label = label.parse().expect("a name of a volume, or our own word, is a label");
                    sync_door::greet(&mut stream, &Greeting { folder: None, label: Some(label) }).await?;
                    return Ok(stream);
                }
            }
        }
        Err(failure)
    }
}

async fn session(replica: &Replica, peer: DeviceId, stream: TlsStream<TcpStream>) {
    match replica.folder.sync(stream, Some(peer)).await {
        Ok(_) | Err(SyncError::Closed) => {}
        Err(error) => tracing::info!(volume = %replica.volume, %peer, %error, "a session failed"),
    }
}

/// The same on every node, without that they agree on one.
fn folder_id(volume: &VolumeName) -> FolderId {
    let hash = ContentHash::of(format!("volume {volume}").as_bytes());
    let bytes = hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes");
    FolderId::from_bytes(bytes)
}
