//! [`Folder`]: the handle that programs hold.

mod sync;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::aftermath::Aftermath;
use super::pause;
use super::state::{State, state_dir};
use super::worker::{Command, Outlet, Worker};
use crate::config::{Config, Direction};
use crate::cutting::{Consistency, check_rules};
use crate::device::{DeviceId, IndexId};
use crate::digest::Digest;
use crate::error::{
    FenceError, FlushError, Lag, OpenError, QueryError, RestoreError, ScanError, StoreError, WaitError,
};
use crate::history::{At, Version};
use crate::path::RelPath;
use crate::status::{Conflict, Event, Role, ScanReport, Status};
use crate::token::Token;

/// Commands that may wait for the folder's thread; among them messages of peers, each at most a frame.
const COMMANDS_MAX: usize = 4;
/// Events that a slow subscriber may lag behind.
const SUBSCRIBER_LAG_MAX: usize = 1024;

/// A replica that is open. Clones are handles of the same one; when the last is dropped, it closes.
///
/// One thread of its own does all disk work; the methods only wait for it and never block the runtime.
#[derive(Clone)]
pub struct Folder {
    shared: Arc<Shared>,
}

struct Shared {
    device: DeviceId,
    state_dir: PathBuf,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    events: broadcast::Sender<Event>,
    progress: watch::Receiver<u64>,
    stopped: watch::Receiver<()>,
    next_session: AtomicU64,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").field("device", &self.shared.device).finish_non_exhaustive()
    }
}

impl Folder {
    /// Makes a directory a replica and says which device it is. A directory that is one already stays the one it is.
    ///
    /// # Errors
    /// If there is no such directory, it is a replica of another device or folder than `config` names, or its state
    /// directory cannot be made or read.
    pub async fn init(config: Config) -> Result<DeviceId, OpenError> {
        blocking(move || State::init(&config)).await
    }

    /// Opens a replica, after one scan of its directory.
    ///
    /// # Errors
    /// If there is no such directory, it is not initialised, it is open elsewhere, or its state is damaged.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        check_rules(&config.cuts)?;
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (events, _) = broadcast::channel(SUBSCRIBER_LAG_MAX);
        let (status_sender, status) = watch::channel(blank());
        let (progress_sender, progress) = watch::channel(0);
        let (stopped_sender, stopped) = watch::channel(());
        let (ready, opened) = oneshot::channel();
        let state_dir = state_dir(&config, &config.root);
        let state_dir = std::path::absolute(&state_dir).unwrap_or(state_dir);
        let outlet = Outlet { status: status_sender, events: events.clone(), progress: progress_sender };
        let run = move || {
            let outlet = Arc::new(outlet);
            match begin(&config, &outlet) {
                Err(error) => drop(ready.send(Err(error))),
                Ok((worker, runtime)) => {
                    if ready.send(Ok(())).is_ok() {
                        runtime.block_on(pause::run(config, outlet, worker, inbox));
                    }
                }
            }
            drop(stopped_sender);
        };
        let spawned = std::thread::Builder::new().name("syncfs".to_owned()).spawn(run);
        let start = |source| OpenError::Io { path: "syncfs".into(), what: "start a thread", source };
        spawned.map_err(start)?;
        opened.await.map_err(|_| start(std::io::Error::other("it ended at once")))??;
        let device = status.borrow().device;
        let next_session = AtomicU64::new(1);
        let shared = Shared { device, state_dir, commands, status, events, progress, stopped, next_session };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// [`Folder::init`] if that is still to be done, with the state where `config` says, then [`Folder::open`].
    ///
    /// # Errors
    /// As those two.
    pub async fn create(config: Config) -> Result<Self, OpenError> {
        let copy = config.clone();
        blocking(move || State::init(&copy)).await?;
        Self::open(config).await
    }

    /// Where this replica keeps its state: what it sets aside is below `aside/` in it.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.shared.state_dir
    }

    /// This replica's name.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.shared.device
    }

    /// Looks at the whole directory now.
    ///
    /// # Errors
    /// If the directory is gone or the index fails; nothing is taken as deleted then.
    pub async fn scan(&self) -> Result<ScanReport, ScanError> {
        Ok(self.ask(Command::Scan).await.ok_or(ScanError::Closed)??)
    }

    /// Takes up everything that stands in the directory now, databases as cuts of now, and gives the token that a barrier
    /// waits for. Files and databases must be closed or flushed by their application as far as they shall be included.
    ///
    /// # Errors
    /// [`FlushError::Unstable`] if something could not be read consistently within about a second.
    pub async fn flush(&self) -> Result<Token, FlushError> {
        self.ask(|reply| Command::Flush { seal: false, reply }).await.ok_or(FlushError::Closed)?
    }

    /// [`Folder::flush`] when nothing has the folder open any more, after the last unmount say: what stands here then is known to be
    /// consistent, and so it is on every replica that has reached the token ([`Status::consistency`]). On a replica that
    /// follows, no more than a flush.
    ///
    /// # Errors
    /// As [`Folder::flush`].
    pub async fn seal(&self) -> Result<Token, FlushError> {
        self.ask(|reply| Command::Flush { seal: true, reply }).await.ok_or(FlushError::Closed)?
    }

    /// On the replica that made the token: returns when all `peers` have everything up to it, durably.
    ///
    /// # Errors
    /// [`WaitError::Timeout`] names who lags and by how much; [`WaitError::Fenced`] if a newer lease took over meanwhile.
    pub async fn wait(&self, token: &Token, peers: &[DeviceId], timeout: Duration) -> Result<(), WaitError> {
        let ask = |reply| Command::Lagging(*token, peers.to_vec(), reply);
        self.barrier(timeout, || async { self.ask(ask).await.ok_or(WaitError::Closed)? }).await
    }

    /// On another replica: returns when this one has everything up to the token, durably.
    ///
    /// # Errors
    /// As [`Folder::wait`].
    pub async fn reached(&self, token: &Token, timeout: Duration) -> Result<(), WaitError> {
        let ask = |reply| Command::Behind(*token, reply);
        let lags = || async { Ok(self.ask(ask).await.ok_or(WaitError::Closed)??.into_iter().collect()) };
        self.barrier(timeout, lags).await
    }

    async fn barrier<F>(&self, timeout: Duration, lags: impl Fn() -> F) -> Result<(), WaitError>
    where
        F: Future<Output = Result<Vec<Lag>, WaitError>>,
    {
        let mut progress = self.shared.progress.clone();
        let deadline = Instant::now() + timeout;
        loop {
            progress.mark_unchanged();
            let not_yet = match lags().await {
                Ok(lags) if lags.is_empty() => return Ok(()),
                Ok(lags) => WaitError::Timeout(lags),
                // That may pass in time.
                Err(paused @ WaitError::Store(StoreError::Paused(_))) => paused,
                Err(error) => return Err(error),
            };
            match tokio::time::timeout_at(deadline, progress.changed()).await {
                Err(_) => return Err(not_yet),
                Ok(Err(_)) => return Err(WaitError::Closed),
                Ok(Ok(())) => {}
            }
        }
    }

    /// One hash of the folder as the index has it: equal digests prove equal folders.
    ///
    /// # Errors
    /// If the index fails.
    pub async fn digest(&self) -> Result<Digest, QueryError> {
        Ok(self.ask(Command::Digest).await.ok_or(QueryError::Closed)??)
    }

    /// Becomes the folder's one writer under the lease number `epoch`; see [`crate::fence`]. Wait until the last holder's
    /// token is reached before.
    ///
    /// # Errors
    /// [`FenceError::Stale`] if a higher epoch was seen; [`FenceError::Resyncing`] after a lost lease.
    pub async fn hold(&self, epoch: u64) -> Result<(), FenceError> {
        self.ask(|reply| Command::Hold(epoch, reply)).await.ok_or(FenceError::Closed)?
    }

    /// Stops being the writer. On a folder that was ever leased, local edits are set aside and undone from now on.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub async fn follow(&self) -> Result<(), FenceError> {
        self.ask(Command::Follow).await.ok_or(FenceError::Closed)?
    }

    /// Makes the visible file of every database its current version; `at` limits that to this path and what is below it.
    /// [`Folder::hold`] does so for all, too. Returns how many are still [unmaterialised](Status::unmaterialised), because a part
    /// of their content has to come from a peer first.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub async fn materialise(&self, at: Option<&RelPath>) -> Result<u64, QueryError> {
        Ok(self.ask(|reply| Command::Materialise(at.cloned(), reply)).await.ok_or(QueryError::Closed)??)
    }

    /// What vanished and was held back as a mass deletion (see [`Status::held_deletions`]) was meant: it is deleted now, here
    /// and on the peers.
    ///
    /// # Errors
    /// As [`Folder::scan`].
    pub async fn confirm_deletions(&self) -> Result<ScanReport, ScanError> {
        Ok(self.ask(Command::ConfirmDeletions).await.ok_or(ScanError::Closed)??)
    }

    /// On a replica that waits for a peer to tell it everything, because its index was lost or is older than what peers know: no
    /// peer remembers more (all rejoin, or none is left), so that what stands here is this replica's own. Where one does all the
    /// same, what it deleted may come back. Returns whether this replica was waiting.
    ///
    /// # Errors
    /// As [`Folder::scan`].
    pub async fn rejoin_alone(&self) -> Result<bool, ScanError> {
        Ok(self.ask(Command::RejoinAlone).await.ok_or(ScanError::Closed)??)
    }

    /// On a replica that only sends: the paths of which a peer has a version that was not taken, at most 10,000.
    ///
    /// # Errors
    /// If the folder is closed.
    pub async fn differing(&self) -> Result<Vec<RelPath>, QueryError> {
        self.ask(Command::Differing).await.ok_or(QueryError::Closed)?
    }

    /// On a replica that only sends: what stands here replaces the versions of peers that differ, as a write that has seen
    /// them. Returns how many it replaces.
    ///
    /// # Errors
    /// As [`Folder::scan`].
    pub async fn override_peers(&self) -> Result<u64, ScanError> {
        Ok(self.ask(Command::Override).await.ok_or(ScanError::Closed)??)
    }

    /// The kept versions of a path, or of everything below it, newest first: what peers replaced or deleted here (see
    /// [`crate::history`]). At most 10,000.
    ///
    /// # Errors
    /// If the history cannot be read.
    pub async fn history(&self, path: &RelPath) -> Result<Vec<Version>, QueryError> {
        self.ask(|reply| Command::History(path.clone(), reply)).await.ok_or(QueryError::Closed)?
    }

    /// Brings kept versions back, of a file or of everything below a directory, to where they stood or, instead, to `to`.
    /// That is an ordinary local write: what stands there is kept in the history, and peers get it as a new version. Files
    /// that were created later stay. Returns the paths that were written.
    ///
    /// # Errors
    /// [`RestoreError::Unknown`] if no such version is kept; [`RestoreError::Follower`] where the write would be undone. What
    /// was restored before the error stays.
    pub async fn restore(
        &self,
        path: &RelPath,
        at: At,
        to: Option<&RelPath>,
    ) -> Result<Vec<RelPath>, RestoreError> {
        let ask = |reply| Command::Restore(path.clone(), at, to.cloned(), reply);
        self.ask(ask).await.ok_or(RestoreError::Closed)?
    }

    /// The highest lease number ever seen; 0 if the folder was never leased. At least that of a [`Folder::hold`] that returned.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.status.borrow().epoch
    }

    /// The state of a moment ago: while much happens, of 20 ms ago; while much is read, of when that began.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    /// The state of now: all that has reached the folder before the question is in it. Waits for what is being read.
    pub async fn current_status(&self) -> Status {
        // A folder that is paused or closed stays as it was shown last.
        self.ask(Command::Status).await.unwrap_or_else(|| self.status())
    }

    /// All conflicts ever recorded here, oldest first.
    ///
    /// # Errors
    /// If the index fails.
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, QueryError> {
        Ok(self.ask(Command::Conflicts).await.ok_or(QueryError::Closed)??)
    }

    /// Events from now on. A subscriber that is too slow misses some, and is told so by its receiver.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Makes everything durable, ends all sessions, and releases the folder. Returns when another can open it.
    pub async fn close(self) {
        let _ = self.shared.commands.send(Command::Stop).await;
        let mut stopped = self.shared.stopped.clone();
        while stopped.changed().await.is_ok() {}
    }

    async fn command(&self, command: Command) -> Option<()> {
        self.shared.commands.send(command).await.ok()
    }

    /// `None` if the folder is closed.
    pub(super) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.command(command(reply)).await?;
        answer.await.ok()
    }
}

fn begin(config: &Config, outlet: &Arc<Outlet>) -> Result<(Worker, tokio::runtime::Runtime), OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let start = |source| OpenError::Io { path: "syncfs".into(), what: "start a thread", source };
    let runtime = runtime.map_err(start)?;
    let worker = {
        let _inside = runtime.enter();
        pause::begin(config, outlet, &Aftermath::default())?
    };
    Ok((worker, runtime))
}

/// Before the first look at anything; nobody sees it.
fn blank() -> Status {
    Status {
        device: DeviceId::from_bytes([0; 32]),
        folder: None,
        index: IndexId(0),
        files: 0,
        bytes: 0,
        sequence: 0,
        epoch: 0,
        role: Role::Shared,
        pending: 0,
        peers: Vec::new(),
        problems: Vec::new(),
        conflicts: 0,
        branches: 0,
        refused: 0,
        held_deletions: 0,
        direction: Direction::Both,
        differing: 0,
        pause: None,
        consistency: Consistency::default(),
        unmaterialised: Vec::new(),
        restless: Vec::new(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let ended = |error| OpenError::Io {
        path: "syncfs".into(),
        what: "run a task",
        source: std::io::Error::other(error),
    };
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}
