//! The volumes of one node: runs the mount engine. Wait, handle, drain.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::VolumeOptions;
use crate::engine::{
    BackendAnswer, BackendCall, Counters, Engine, Event, Input, LeaseAnswer, LeaseCall, Output, RequestId,
    Unmounted, VolumeStatus,
};
use crate::error::{AddError, MountError, RemoveError, UnmountError};
use crate::lease::{Lease, LeaseError, Takeover};
use crate::name::{MountId, NodeName, VolumeName};
use crate::volume::{BackendError, VolumeBackend};

/// Requests that wait for the loop; more make their callers wait.
const COMMANDS_MAX: usize = 64;
/// Events that a slow subscriber may be behind before it misses some.
const EVENTS_MAX: usize = 256;

/// What happens to the volumes of a node, as it happens.
pub type VolumeEvents = broadcast::Receiver<Event>;

/// The volumes of one node. Clones are handles to the same; the volumes live as long as one of them.
///
/// Dropping the last handle is like a crash: leases that are held stay held by this node, and what it left
/// is taken up when it mounts the volume again, or by [`settle`](Self::settle).
#[derive(Debug)]
pub struct VolumeManager<L, B> {
    commands: mpsc::Sender<Command<B>>,
    abandoned: Arc<Notify>,
    status: watch::Receiver<(Vec<VolumeStatus>, Counters)>,
    events: broadcast::Sender<Event>,
    lease: Arc<L>,
}

impl<L, B> Clone for VolumeManager<L, B> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
            abandoned: Arc::clone(&self.abandoned),
            status: self.status.clone(),
            events: self.events.clone(),
            lease: Arc::clone(&self.lease),
        }
    }
}

enum Command<B> {
    Add(VolumeName, B, Takeover, oneshot::Sender<Result<(), AddError>>),
    Remove(VolumeName, oneshot::Sender<Result<(), RemoveError>>),
    Mount(VolumeName, MountId, oneshot::Sender<Result<PathBuf, MountError>>),
    Unmount(VolumeName, MountId, oneshot::Sender<Result<Unmounted, UnmountError>>),
    Settle(VolumeName, oneshot::Sender<Result<Unmounted, UnmountError>>),
    Tell(Input),
}

impl<L: Lease, B: VolumeBackend> VolumeManager<L, B> {
    /// Starts the volumes of `node`, none at first, on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(node: NodeName, lease: L, options: VolumeOptions) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (status_in, status) = watch::channel((Vec::new(), Counters::default()));
        let events = broadcast::Sender::new(EVENTS_MAX);
        let abandoned = Arc::new(Notify::new());
        let lease = Arc::new(lease);
        let driver = Driver {
            engine: Engine::new(node.clone(), options.clone()),
            node,
            options,
            lease: Arc::clone(&lease),
            backends: BTreeMap::new(),
            calls: JoinSet::new(),
            mounts: BTreeMap::new(),
            unmounts: BTreeMap::new(),
            next_request: 0,
            status: status_in,
            events: events.clone(),
        };
        tokio::spawn(driver.run(inbox, Arc::clone(&abandoned)));
        Self { commands, abandoned, status, events, lease }
    }

    /// Adds a volume whose replica on this node is `backend`. It begins as a follower.
    ///
    /// # Errors
    /// When there is one of that name, or there are too many.
    pub async fn add(&self, volume: VolumeName, backend: B, takeover: Takeover) -> Result<(), AddError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Add(volume, backend, takeover, reply);
        self.ask(command, answer).await.unwrap_or(Err(AddError::Ended))
    }

    /// Forgets a volume that nobody on this node uses, and drops its backend.
    ///
    /// # Errors
    /// When there is none of that name, or it is used, or not released yet.
    pub async fn remove(&self, volume: &VolumeName) -> Result<(), RemoveError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Remove(volume.clone(), reply);
        self.ask(command, answer).await.unwrap_or(Err(RemoveError::Ended))
    }

    /// Mounts a volume for one container, and returns its directory once it holds everything that the last
    /// holder released. Mounting the same id again returns the same; dropping the future calls the mount off.
    ///
    /// # Errors
    /// Within [`VolumeOptions::mount_deadline`], with what was waited for.
    pub async fn mount(&self, volume: &str, mount_id: &str) -> Result<PathBuf, MountError> {
        let volume = volume.parse::<VolumeName>()?;
        let id = mount_id.parse::<MountId>()?;
        let (reply, answer) = oneshot::channel();
        let _called_off = NotifyOnDrop(&self.abandoned);
        self.ask(Command::Mount(volume, id, reply), answer).await.unwrap_or(Err(MountError::Ended))
    }

    /// Unmounts a volume for one container. The last unmount flushes, waits until the replicas have
    /// everything, and releases the lease.
    ///
    /// # Errors
    /// Within [`VolumeOptions::unmount_deadline`]. The mount id is gone in any case, and what could not be
    /// finished goes on in the background.
    pub async fn unmount(&self, volume: &str, mount_id: &str) -> Result<Unmounted, UnmountError> {
        let volume = volume.parse::<VolumeName>()?;
        let id = mount_id.parse::<MountId>()?;
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Unmount(volume, id, reply), answer).await.unwrap_or(Err(UnmountError::Ended))
    }

    /// Flushes and releases what this node may still hold from before this manager was started. The caller
    /// vouches that no container on this node uses the volume.
    ///
    /// # Errors
    /// As [`unmount`](Self::unmount).
    pub async fn settle(&self, volume: &str) -> Result<Unmounted, UnmountError> {
        let volume = volume.parse::<VolumeName>()?;
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Settle(volume, reply), answer).await.unwrap_or(Err(UnmountError::Ended))
    }

    /// The container engine has started anew: all mount ids are dropped, for their containers are gone.
    pub async fn engine_restarted(&self) {
        self.tell(Input::EngineRestarted).await;
    }

    /// Swarm says that a node is down, which for the time `silent` has certainly not learnt from any manager that it is up (zero
    /// if that is not known). Matters to volumes with [`crate::Takeover::NewestReplica`] only.
    pub async fn node_down(&self, node: NodeName, silent: Duration) {
        self.tell(Input::NodeDown { node, silent }).await;
    }

    /// Swarm says that a node is ready again.
    pub async fn node_up(&self, node: NodeName) {
        self.tell(Input::NodeUp(node)).await;
    }

    /// All volumes, by name.
    pub fn status(&self) -> Vec<VolumeStatus> {
        self.status.borrow().0.clone()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.status.borrow().1
    }

    /// What happens from now on.
    pub fn events(&self) -> VolumeEvents {
        self.events.subscribe()
    }

    /// The lease that the volumes use.
    pub fn lease(&self) -> &L {
        &self.lease
    }

    async fn ask<T>(&self, command: Command<B>, answer: oneshot::Receiver<T>) -> Option<T> {
        self.commands.send(command).await.ok()?;
        answer.await.ok()
    }

    async fn tell(&self, input: Input) {
        // The loop ends with the last handle, and this is one.
        let _ = self.commands.send(Command::Tell(input)).await;
    }
}

/// Wakes the loop when a request's future goes away, finished or not.
struct NotifyOnDrop<'a>(&'a Notify);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

struct PendingMount {
    volume: VolumeName,
    id: MountId,
    reply: oneshot::Sender<Result<PathBuf, MountError>>,
}

struct Driver<L, B> {
    node: NodeName,
    options: VolumeOptions,
    engine: Engine,
    lease: Arc<L>,
    backends: BTreeMap<VolumeName, Arc<B>>,
    /// At most one a volume.
    calls: JoinSet<Input>,
    mounts: BTreeMap<RequestId, PendingMount>,
    unmounts: BTreeMap<RequestId, oneshot::Sender<Result<Unmounted, UnmountError>>>,
    next_request: RequestId,
    status: watch::Sender<(Vec<VolumeStatus>, Counters)>,
    events: broadcast::Sender<Event>,
}

impl<L: Lease, B: VolumeBackend> Driver<L, B> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command<B>>, abandoned: Arc<Notify>) {
        loop {
            let deadline = self.engine.deadline().map(tokio::time::Instant::from_std);
            let tick = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(answer) = self.calls.join_next() => match answer {
                    Ok(answer) => self.handle(answer),
                    // A call catches its panics and is never aborted: the runtime is shutting down.
                    Err(_) => return,
                },
                () = abandoned.notified() => self.cancel_abandoned(),
                () = tick => self.handle(Input::Tick),
            }
            self.drain();
        }
    }

    fn handle(&mut self, input: Input) {
        self.engine.handle(tokio::time::Instant::now().into_std(), input);
    }

    fn command(&mut self, command: Command<B>) {
        let request = self.next_request;
        self.next_request += 1;
        match command {
            Command::Add(volume, backend, takeover, reply) => {
                let result = self.engine.add(volume.clone(), takeover);
                if result.is_ok() {
                    self.backends.insert(volume, Arc::new(backend));
                }
                // Nobody waits when the caller's future was dropped; the volume is there all the same.
                let _ = reply.send(result);
            }
            Command::Remove(volume, reply) => {
                let result = self.engine.remove(&volume);
                if result.is_ok() {
                    self.backends.remove(&volume);
                }
                // As above.
                let _ = reply.send(result);
            }
            Command::Mount(volume, id, reply) => {
                let pending = PendingMount { volume: volume.clone(), id: id.clone(), reply };
                self.mounts.insert(request, pending);
                self.handle(Input::Mount { request, volume, id });
            }
            Command::Unmount(volume, id, reply) => {
                self.unmounts.insert(request, reply);
                self.handle(Input::Unmount { request, volume, id });
            }
            Command::Settle(volume, reply) => {
                self.unmounts.insert(request, reply);
                self.handle(Input::Settle { request, volume });
            }
            Command::Tell(input) => self.handle(input),
        }
    }

    fn cancel_abandoned(&mut self) {
        let abandoned: Vec<RequestId> =
            self.mounts.iter().filter(|(_, it)| it.reply.is_closed()).map(|(request, _)| *request).collect();
        for request in abandoned {
            self.handle(Input::Cancel { request });
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Lease { op, volume, call } => {
                    let lease = Arc::clone(&self.lease);
                    let (node, limit) = (self.node.clone(), self.options.step_timeout);
                    self.calls.spawn(async move {
                        let answer = call_lease(&*lease, &volume, &node, call, limit).await;
                        Input::LeaseAnswer { volume, op, answer }
                    });
                }
                Output::Backend { op, volume, call } => {
                    let backend =
                        self.backends.get(&volume).expect("every volume of the engine has a backend");
                    let (backend, limit) = (Arc::clone(backend), self.options.step_timeout);
                    self.calls.spawn(async move {
                        let answer = call_backend(&*backend, call, limit).await;
                        Input::BackendAnswer { volume, op, answer }
                    });
                }
                Output::Mounted { request, result } => self.mounted(request, result),
                Output::Unmounted { request, result } => {
                    if let Some(reply) = self.unmounts.remove(&request) {
                        // An unmount is carried out whether or not its caller still waits.
                        let _ = reply.send(result);
                    }
                }
                Output::Event(event) => {
                    tracing::info!(node = %self.node, ?event, "volume");
                    // Nobody has subscribed.
                    let _ = self.events.send(event);
                }
            }
        }
        let news = (self.engine.status(), self.engine.counters());
        self.status.send_if_modified(|status| {
            let changed = *status != news;
            *status = news;
            changed
        });
    }

    fn mounted(&mut self, request: RequestId, result: Result<PathBuf, MountError>) {
        let Some(PendingMount { volume, id, reply }) = self.mounts.remove(&request) else {
            return;
        };
        let undelivered = reply.send(result).is_err_and(|result| result.is_ok());
        if undelivered {
            // Its caller went away at the last moment, and would never unmount it.
            let request = self.next_request;
            self.next_request += 1;
            self.handle(Input::Unmount { request, volume, id });
        }
    }
}

async fn call_lease<L: Lease>(
    lease: &L,
    volume: &VolumeName,
    node: &NodeName,
    call: LeaseCall,
    limit: Duration,
) -> LeaseAnswer {
    match call {
        LeaseCall::Acquire { at_least_epoch } => {
            let call = || lease.acquire(volume, node, at_least_epoch);
            LeaseAnswer::Granted(guarded(call, limit, unavailable).await)
        }
        LeaseCall::Takeover { seen_epoch, at_least_epoch } => {
            let call = || lease.takeover(volume, node, seen_epoch, at_least_epoch);
            LeaseAnswer::Granted(guarded(call, limit, unavailable).await)
        }
        LeaseCall::Release { grant, release } => {
            LeaseAnswer::Released(guarded(|| lease.release(&grant, &release), limit, unavailable).await)
        }
    }
}

async fn call_backend<B: VolumeBackend>(backend: &B, call: BackendCall, limit: Duration) -> BackendAnswer {
    let failed = BackendError::failed::<String>;
    match call {
        BackendCall::SeenEpoch => {
            BackendAnswer::SeenEpoch(guarded(|| backend.seen_epoch(), limit, failed).await)
        }
        BackendCall::CatchUp { barrier, timeout } => {
            let call = || backend.catch_up(&barrier, timeout);
            BackendAnswer::CaughtUp(guarded(call, timeout + limit, failed).await)
        }
        BackendCall::Open { grant } => {
            BackendAnswer::Opened(guarded(|| backend.open(&grant), limit, failed).await)
        }
        BackendCall::Flush => BackendAnswer::Flushed(guarded(|| backend.flush(), limit, failed).await),
        BackendCall::Replicated { barrier, timeout } => {
            let call = || backend.replicated(&barrier, timeout);
            BackendAnswer::Replicated(guarded(call, timeout + limit, failed).await)
        }
        BackendCall::Close => BackendAnswer::Closed(guarded(|| backend.close(), limit, failed).await),
    }
}

/// A call's result, or an error made from words when it takes too long or panics.
async fn guarded<T, E, F: Future<Output = Result<T, E>>>(
    call: impl FnOnce() -> F,
    limit: Duration,
    error: impl Fn(String) -> E,
) -> Result<T, E> {
    let call = AssertUnwindSafe(async { call().await }).catch_unwind();
    match timeout(limit, call).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(error("it panicked: this is a bug".to_owned())),
        Err(_) => Err(error(format!("no answer within {} s", limit.as_secs_f32()))),
    }
}

fn unavailable(reason: String) -> LeaseError {
    LeaseError::Unavailable { reason }
}
