//! Owns a running node: three tasks that feed the engine (datagrams, packets, time and requests) and
//! the handle to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use crate::config::{Config, ConfigError};
use crate::driver::system::{Clock, SystemEntropy};
use crate::driver::udp;
use crate::driver::{Device, Underlay};
use crate::engine::{Counters, Engine, Event, Input, Output, PeerStatus};
use crate::key::PeerId;
use crate::membership::Membership;
use crate::ticket::{InviteError, Ticket, TicketError, TicketOptions};
use crate::wire::control::Refusal;
use crate::wire::hello::Credential;
use crate::wire::{FRAME_MAX, MTU_MAX};

/// Events that a slow subscriber may fall behind before it misses some.
const EVENTS_MAX: usize = 1024;
/// Requests that wait for the task that serves them.
const REQUESTS_MAX: usize = 8;
/// Pause after a socket or device failed, so that a persistent failure does not spin.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);
/// How long [`Mesh::shutdown`] waits for the farewell to leave.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ticket cannot be used any more.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The socket cannot be bound.
    #[error("cannot listen on UDP {listen}: {source} (another program may use the port; choose another)")]
    Bind {
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The underlay does not tell its address.
    #[error("the socket's own address is unknown: {0}")]
    LocalAddr(#[source] io::Error),
}

/// Why a node did not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The issuer refused the ticket.
    #[error("the ticket was refused: {0}")]
    Refused(Refusal),
    /// Nothing was decided in time.
    #[error(
        "no answer from the issuer within {0:?}: check that its endpoint is reachable and that both clocks agree"
    )]
    Timeout(Duration),
    /// The node was shut down.
    #[error("the node was shut down")]
    Stopped,
}

/// Why a peer is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It did not come up in time.
    #[error("peer {peer} did not connect within {waited:?}")]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// How long was waited.
        waited: Duration,
    },
    /// The node was shut down.
    #[error("the node was shut down")]
    Stopped,
}

/// A running node. Clones are handles to the same node; it stops when the last is dropped.
#[derive(Clone)]
pub struct Mesh {
    running: Arc<Running>,
}

/// What ends when the last handle is dropped.
struct Running {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

enum Request {
    Rebound,
    Close(oneshot::Sender<()>),
}

/// What the tasks and the handles share.
struct Shared {
    id: PeerId,
    engine: Mutex<Engine>,
    clock: Clock,
    events: broadcast::Sender<Event>,
    /// The deadline came closer.
    sooner: Notify,
    local_addr: Box<dyn Fn() -> io::Result<SocketAddr> + Send + Sync>,
    /// The last address that the underlay told.
    known_addr: Mutex<SocketAddr>,
}

impl Mesh {
    /// Starts a node on a UDP socket bound to [`Config::listen`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, device: impl Device) -> Result<Mesh, StartError> {
        let listen = config.listen;
        let socket: UdpSocket =
            udp::bind(listen).await.map_err(|source| StartError::Bind { listen, source })?;
        Mesh::start_on(config, device, socket).await
    }

    /// Starts a node on the given underlay; [`Config::listen`] does not matter. The largest packet is
    /// the device's.
    ///
    /// # Errors
    /// See [`StartError`].
    // Async so that it can only be called where its tasks can be spawned.
    pub async fn start_on(
        mut config: Config,
        device: impl Device,
        underlay: impl Underlay,
    ) -> Result<Mesh, StartError> {
        config.mtu = device.mtu();
        let clock = Clock::start();
        if let Credential::Ticket(ticket) = &config.credential {
            ticket.check_expiry(clock.now().unix)?;
        }
        let engine = Engine::new(&config, SystemEntropy, clock.now())?;
        let underlay = Arc::new(underlay);
        let known_addr = underlay.local_addr().map_err(StartError::LocalAddr)?;
        let asked = Arc::clone(&underlay);
        let shared = Arc::new(Shared {
            id: engine.id(),
            engine: Mutex::new(engine),
            clock,
            events: broadcast::channel(EVENTS_MAX).0,
            sooner: Notify::new(),
            local_addr: Box::new(move || asked.local_addr()),
            known_addr: Mutex::new(known_addr),
        });
        let (requests, received) = mpsc::channel(REQUESTS_MAX);
        let device = Arc::new(device);
        let port = |batch| Port {
            shared: Arc::clone(&shared),
            device: Arc::clone(&device),
            underlay: Arc::clone(&underlay),
            batch,
        };
        let tasks = vec![
            tokio::spawn(port(Batch::default()).feed_datagrams()),
            tokio::spawn(port(Batch::default()).feed_packets()),
            tokio::spawn(port(Batch::default()).feed_time(received)),
        ];
        tracing::info!(peer = %shared.id, listen = %known_addr, "mesh node started");
        Ok(Mesh { running: Arc::new(Running { shared, requests, tasks: Mutex::new(tasks) }) })
    }

    /// Who this node is.
    pub fn id(&self) -> PeerId {
        self.running.shared.id
    }

    /// This node's mesh address.
    pub fn address(&self) -> IpAddr {
        self.running.shared.engine().claims().address.addr()
    }

    /// Where this node's datagrams leave and arrive.
    pub fn local_addr(&self) -> SocketAddr {
        let shared = &self.running.shared;
        let mut known = lock(&shared.known_addr);
        if let Ok(current) = (shared.local_addr)() {
            *known = current;
        }
        *known
    }

    /// Issues a ticket. Without endpoints in `options` the node's own local address is used, if it is
    /// a specific one.
    ///
    /// # Errors
    /// See [`InviteError`].
    pub fn invite(&self, mut options: TicketOptions) -> Result<Ticket, InviteError> {
        let local = self.local_addr();
        if options.endpoints.is_empty() && !local.ip().is_unspecified() {
            options.endpoints.push(local);
        }
        let shared = &self.running.shared;
        shared.engine().invite(&options, shared.clock.now())
    }

    /// Every peer that was connected at least once.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let shared = &self.running.shared;
        shared.engine().peers(shared.clock.now())
    }

    /// The counts since the start.
    pub fn counters(&self) -> Counters {
        self.running.shared.engine().counters()
    }

    /// This node's membership, once it has one.
    pub fn membership(&self) -> Option<Membership> {
        self.running.shared.engine().membership().cloned()
    }

    /// Follows what happens from now on. A subscriber that falls 1,024 events behind misses some and is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.running.shared.events.subscribe()
    }

    /// Waits until this node has a membership.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn joined(&self, within: Duration) -> Result<Membership, JoinError> {
        self.wait_for(within, |engine, _| {
            if let Some(refusal) = engine.refusal() {
                return Some(Err(JoinError::Refused(refusal)));
            }
            engine.membership().cloned().map(Ok)
        })
        .await
        .map_err(|stopped| if stopped { JoinError::Stopped } else { JoinError::Timeout(within) })?
    }

    /// Waits until packets can flow to `peer`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connected(&self, peer: PeerId, within: Duration) -> Result<(), ConnectError> {
        self.wait_for(within, |engine, shared| engine.is_up(&peer, shared.clock.now()).then_some(()))
            .await
            .map_err(|stopped| match stopped {
                true => ConnectError::Stopped,
                false => ConnectError::Timeout { peer, waited: within },
            })
    }

    /// Tells the node that its own address or port changed. Every peer learns the new one at once.
    pub fn rebound(&self) {
        // A full queue means that the node is about to be told anyway.
        let _ = self.running.requests.try_send(Request::Rebound);
    }

    /// Says farewell to the peers and stops the node, for all handles.
    pub async fn shutdown(self) {
        let (done, farewell) = oneshot::channel();
        if self.running.requests.send(Request::Close(done)).await.is_ok() {
            let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
        }
        let tasks = std::mem::take(&mut *lock(&self.running.tasks));
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            let _ = task.await;
        }
        tracing::info!(peer = %self.id(), "mesh node stopped");
    }

    /// Waits until `check` gives something; looks at every event. The error says whether the node stopped.
    async fn wait_for<T>(
        &self,
        within: Duration,
        check: impl Fn(&Engine, &Shared) -> Option<T>,
    ) -> Result<T, bool> {
        let shared = &self.running.shared;
        let mut events = shared.events.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = check(&shared.engine(), shared) {
                    return Ok(found);
                }
                if self.running.requests.is_closed() {
                    return Err(true);
                }
                // A peer also changes state without an event, when its keys run out: look again at times.
                let _ = timeout(Duration::from_millis(500), events.recv()).await;
            }
        };
        timeout(within, waiting).await.unwrap_or(Err(false))
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        lock(&self.engine)
    }

    /// Gives the engine one input and takes what it wants done.
    fn step(&self, input: Input<'_>, batch: &mut Batch) {
        let now = self.clock.now();
        let mut engine = self.engine();
        let before = engine.deadline();
        engine.handle(now, input);
        batch.drain(&mut engine, &self.events);
        let after = engine.deadline();
        drop(engine);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.sooner.notify_one();
        }
    }
}

/// One task's way to engine, device and underlay.
struct Port<D, U> {
    shared: Arc<Shared>,
    device: Arc<D>,
    underlay: Arc<U>,
    batch: Batch,
}

impl<D: Device, U: Underlay> Port<D, U> {
    async fn feed_datagrams(mut self) {
        let mut buffer = vec![0; FRAME_MAX + 1];
        loop {
            match self.underlay.recv_from(&mut buffer).await {
                Ok((len, from)) => {
                    let bytes = &buffer[..len.min(FRAME_MAX + 1)];
                    self.shared.step(Input::Datagram { from, bytes }, &mut self.batch);
                    self.flush().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "receiving from the underlay failed");
                    sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn feed_packets(mut self) {
        let mut buffer = vec![0; MTU_MAX];
        loop {
            match self.device.recv(&mut buffer).await {
                Ok(len) => {
                    self.shared.step(Input::Packet(&buffer[..len.min(MTU_MAX)]), &mut self.batch);
                    self.flush().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "reading from the device failed");
                    sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn feed_time(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let deadline = self.shared.engine().deadline();
            let until_deadline = async {
                match deadline {
                    Some(at) => sleep_until(self.shared.clock.instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            let request = tokio::select! {
                () = until_deadline => None,
                () = self.shared.sooner.notified() => continue,
                request = requests.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
            };
            let (input, done) = match request {
                None => (Input::Tick, None),
                Some(Request::Rebound) => (Input::Rebound, None),
                Some(Request::Close(done)) => (Input::Close, Some(done)),
            };
            self.shared.step(input, &mut self.batch);
            self.flush().await;
            if let Some(done) = done {
                let _ = done.send(());
                return;
            }
        }
    }

    /// Does what the engine wanted. What cannot be sent now is lost, as datagrams may be.
    async fn flush(&mut self) {
        for (output, bytes) in self.batch.entries.iter().take(self.batch.used) {
            let done = match output {
                Output::Transmit { to } => self.underlay.send_to(bytes, *to).await,
                Output::Deliver => self.device.send(bytes).await,
                Output::Event(_) => Ok(()),
            };
            if let Err(error) = done {
                tracing::trace!(%error, ?output, "an output was lost");
            }
        }
        self.batch.used = 0;
    }
}

/// Outputs of one step; the buffers are used again and again.
#[derive(Default)]
struct Batch {
    entries: Vec<(Output, Vec<u8>)>,
    used: usize,
}

impl Batch {
    fn drain(&mut self, engine: &mut Engine, events: &broadcast::Sender<Event>) {
        self.used = 0;
        loop {
            if self.used == self.entries.len() {
                self.entries.push((Output::Deliver, Vec::new()));
            }
            let entry = &mut self.entries[self.used];
            match engine.poll(&mut entry.1) {
                None => return,
                Some(Output::Event(event)) => {
                    log(&event);
                    // Nobody listening is fine.
                    let _ = events.send(event);
                }
                Some(output) => {
                    entry.0 = output;
                    self.used += 1;
                }
            }
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::PeerUp { peer, endpoint } => tracing::info!(%peer, %endpoint, "peer up"),
        Event::PeerDown { peer, reason } => tracing::info!(%peer, ?reason, "peer down"),
        Event::PeerMoved { peer, from, to } => tracing::info!(%peer, %from, %to, "peer moved"),
        Event::PeerRejected { peer, endpoint, reason } => {
            tracing::debug!(%peer, %endpoint, %reason, "peer rejected");
        }
        Event::ClaimRefused { peer, prefix, holder } => {
            tracing::info!(%peer, %prefix, %holder, "claim refused");
        }
        Event::Joined(membership) => tracing::info!(address = %membership.address(), "joined the mesh"),
        Event::JoinRefused { reason } => tracing::info!(%reason, "ticket refused"),
        Event::Redeemed(redeemed) => {
            tracing::info!(peer = %redeemed.membership.peer(), "ticket exchanged for a membership");
        }
    }
}

/// A panic in another task must not take this one with it: the engine keeps its invariants at every return.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
