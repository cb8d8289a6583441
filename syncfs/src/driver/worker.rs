//! The one thread of an open folder. It owns the engine, and with it the directory and the index; everybody else sends
//! it commands. Its loop: wait for something, handle all that came, work, settle, hand out messages.

mod branches;
mod checks;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use self::branches::BranchCommand;
use super::disk::RealDisk;
use super::history::{Kept, Opening, now_ns};
use super::hooks::Hooks;
use super::sqlite_index::SqliteIndex;
use super::state::State;
use crate::check::{CheckReport, Repair};
use crate::config::Config;
use crate::device::{DeviceId, IndexId};
use crate::digest::Digest;
use crate::disk::Disk;
use crate::engine::{Engine, Input, SessionId};
use crate::error::{FenceError, FlushError, Lag, QueryError, RestoreError, StoreError, Violation, WaitError};
use crate::hash::ContentHash;
use crate::history::{At, Version};
use crate::path::RelPath;
use crate::record::VersionVector;
use crate::status::{Conflict, Event, Resolution, ScanReport, Status, Summary};
use crate::token::Token;
use crate::wire::Message;

/// Messages handled before what is complete is made durable.
const BATCH: usize = 64;
/// How long a folder under load goes without making things durable.
const SETTLE_AFTER: Duration = Duration::from_millis(25);
/// First and longest pause before a path that did not hold still is looked at again.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How often a folder is walked, at least, whose changes are not reported.
const UNWATCHED_RESCAN: Duration = Duration::from_secs(60);
/// How soon everything is looked at again, at the earliest, while a mass deletion is held back: a tree that was moved about is
/// found at rest then, or somebody has put it back.
const HELD_RESCAN: Duration = Duration::from_secs(2);
/// Such scans take no more than this part of the time.
const HELD_SHARE: u32 = 20;
/// How often it is looked whether the folder is still there, whatever else happens.
const ROOT_EVERY: Duration = Duration::from_secs(10);
/// How old a status may be while much happens.
const STATUS_EVERY: Duration = Duration::from_millis(20);
/// How often the status follows a transfer in which nothing else happens.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// How often what is kept is looked through for what is too old or too much.
const TIDY_EVERY: Duration = Duration::from_secs(600);

type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// What the thread can be asked.
pub(super) enum Command {
    Scan(Reply<ScanReport, StoreError>),
    ConfirmDeletions(Reply<ScanReport, StoreError>),
    RejoinAlone(Reply<bool, StoreError>),
    Check(Repair, Reply<CheckReport, StoreError>),
    /// `seal`: nothing has the folder open.
    Flush {
        seal: bool,
        reply: Reply<Token, FlushError>,
    },
    Materialise(Option<RelPath>, Reply<u64, StoreError>),
    Status(oneshot::Sender<Status>),
    Digest(Reply<Digest, StoreError>),
    Conflicts(Reply<Vec<Conflict>, StoreError>),
    Hold(u64, Reply<(), FenceError>),
    Follow(Reply<(), FenceError>),
    Differing(Reply<Vec<RelPath>, QueryError>),
    Override(Reply<u64, StoreError>),
    History(RelPath, Reply<Vec<Version>, QueryError>),
    /// Kept contents, those with the next names after this one.
    Contents(Option<ContentHash>, Reply<Vec<Opening>, StoreError>),
    Restore(RelPath, At, Option<RelPath>, Reply<Vec<RelPath>, RestoreError>),
    Branch(BranchCommand),
    Resolve(RelPath, Resolution, Reply<(), RestoreError>),
    Lagging(Token, Vec<DeviceId>, Reply<Vec<Lag>, WaitError>),
    Behind(Token, Reply<Option<Lag>, WaitError>),
    Open(SessionId, Option<DeviceId>, mpsc::Sender<Outgoing>),
    Received(SessionId, Message),
    /// Bytes arrive on a stream.
    Heard(SessionId),
    /// A stream can take another message, or is gone.
    Nudge,
    Closed(SessionId, oneshot::Sender<(Summary, Option<Violation>)>),
    Stop,
}

/// What a stream's task is handed.
pub(super) enum Outgoing {
    Message(Message),
    /// The last one: why the session ended.
    End(Violation),
}

/// What the handle keeps of the thread.
pub(super) struct Outlet {
    pub(super) status: watch::Sender<Status>,
    pub(super) events: broadcast::Sender<Event>,
    /// Counts what a barrier may depend on.
    pub(super) progress: watch::Sender<u64>,
}

pub(super) struct Worker {
    engine: Engine<RealDisk, SqliteIndex>,
    outlet: Arc<Outlet>,
    streams: BTreeMap<SessionId, mpsc::Sender<Outgoing>>,
    /// Readable when something was notified of.
    notices: Option<AsyncFd<Arc<OwnedFd>>>,
    started: Instant,
    rescan: Duration,
    debounce: Duration,
    next_scan: Instant,
    scan_took: Duration,
    changed_at: Option<Instant>,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    name: String,
    /// Knowledge and index that barriers were last told of.
    told: (VersionVector, IndexId),
    /// Commands around cuts, and flushes that wait for them.
    hooks: Hooks,
    flushes: Vec<Reply<Token, FlushError>>,
    /// Checks that are under way (the first) and to come.
    checks: Vec<(Repair, Reply<CheckReport, StoreError>)>,
    /// When the history is next tidied up.
    tidy_at: Instant,
    /// When it was last looked whether the folder is there.
    root_at: Instant,
    status_stale: bool,
    status_at: Instant,
    /// Since when there is no room.
    short_since_ns: Option<i64>,
    /// Bytes of chunks at the last status.
    fetched: u64,
    _state: State,
}

impl Worker {
    /// Takes a replica up. Blocks: it scans the whole directory once.
    pub(super) fn new(
        config: &Config,
        state: State,
        disk: RealDisk,
        index: SqliteIndex,
        outlet: Arc<Outlet>,
    ) -> Result<Self, StoreError> {
        let fd = disk.watch.fd();
        let mut engine = Engine::new(disk, index)?;
        engine.ignore(&config.ignore);
        engine.guard_deletions(config.mass_deletion);
        engine.direct(config.direction);
        engine.cut_by(&config.cuts);
        engine.keep_branches(config.branch_age, config.branch_bytes_max);
        // Every directory is watched before it is read, so that nothing falls between the scan and what comes after.
        engine.scan()?;
        #[allow(deprecated, reason = "the new constructor is unsafe; what it asks for, an `OwnedFd` keeps")]
        let notices = fd.and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE).ok());
        let now = Instant::now();
        let told = (engine.meta().knowledge.clone(), engine.meta().index);
        outlet.status.send_replace(engine.status()?);
        Ok(Self {
            engine,
            outlet,
            streams: BTreeMap::new(),
            notices,
            started: now,
            rescan: config.rescan,
            debounce: config.debounce,
            next_scan: now,
            scan_took: Duration::ZERO,
            changed_at: None,
            retry_at: Some(now + RETRY.0),
            retry_pause: RETRY.0,
            name: config.name.clone(),
            told,
            hooks: Hooks::new(&config.cuts, &config.root),
            flushes: Vec::new(),
            checks: Vec::new(),
            tidy_at: now,
            root_at: now,
            status_stale: false,
            status_at: now,
            short_since_ns: None,
            fetched: 0,
            _state: state,
        })
    }

    /// Runs until it is told to stop, or every handle is gone.
    ///
    /// # Errors
    /// If the directory or the index fails: then it is at its end.
    pub(super) async fn run(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), StoreError> {
        self.next_scan = Instant::now() + self.rescan();
        let mut settled = Instant::now();
        loop {
            let mut more = self.engine.work()?;
            let mut handled = 0;
            while handled < BATCH {
                match commands.try_recv() {
                    Ok(Command::Stop) | Err(mpsc::error::TryRecvError::Disconnected) => return self.stop(),
                    Ok(command) => self.handle(command).await?,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                }
                handled += 1;
            }
            more |= handled == BATCH;
            self.look_at_disk()?;
            if !more || settled.elapsed() >= SETTLE_AFTER {
                self.engine.settle()?;
                settled = Instant::now();
                if more {
                    // Nobody waits for notifications meanwhile, which must not pile up either.
                    self.changed_at.get_or_insert(settled);
                }
                more |= self.engine.is_busy();
            }
            self.hand_out()?;
            self.publish()?;
            if more || handled > 0 || self.check_more()? || self.tidy() {
                continue;
            }
            let deadline = self.deadline();
            tokio::select! {
                command = commands.recv() => match command {
                    None | Some(Command::Stop) => return self.stop(),
                    Some(command) => self.handle(command).await?,
                },
                () = notified(self.notices.as_ref()), if self.changed_at.is_none() => {
                    self.changed_at = Some(Instant::now());
                }
                step = self.hooks.step() => self.take_step(step).await?,
                () = tokio::time::sleep_until(deadline) => {
                    self.hooks.start_due(!self.engine.is_undoing());
                    let now_ms = self.now_ms();
                    self.engine.handle(now_ms, Input::Tick)?;
                    self.look_at_root()?;
                }
            }
        }
    }

    /// After the end: tells those whose flush waits for a hook, or whose check is under way.
    pub(super) fn refuse_waiting(&mut self, why: &StoreError) {
        for (_, reply) in self.checks.drain(..) {
            let _ = reply.send(Err(why.clone()));
        }
        for reply in self.flushes.drain(..) {
            let _ = reply.send(Err(FlushError::Store(why.clone())));
        }
    }

    /// The disk, after the end.
    pub(super) fn into_disk(self) -> RealDisk {
        self.engine.into_parts().0
    }

    fn stop(&mut self) -> Result<(), StoreError> {
        self.engine.settle()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn deadline(&self) -> Instant {
        let engine = self.engine.deadline().map(|at_ms| self.started + Duration::from_millis(at_ms));
        let changed = self.changed_at.map(|at| at + self.debounce);
        let status = self.status_stale.then_some(self.status_at + STATUS_EVERY);
        let tidy = self.engine.keeps_history().then_some(self.tidy_at);
        [engine, changed, self.retry_at, status, tidy, self.hooks.deadline(), Some(self.root_at + ROOT_EVERY)]
            .into_iter()
            .flatten()
            .fold(self.next_scan, Instant::min)
    }

    /// The paths that were notified of.
    fn noticed(&mut self) -> Result<BTreeSet<RelPath>, StoreError> {
        self.changed_at = None;
        let changes = self.engine.disk_mut().changes();
        if changes.everything {
            self.next_scan = Instant::now();
        } else if !changes.attributes.is_empty() {
            let (now_ms, dirs) = (self.now_ms(), changes.attributes.into_iter().collect());
            self.engine.handle(now_ms, Input::Adjusted(dirs))?;
        }
        Ok(changes.paths)
    }

    /// How long until everything is looked at again.
    fn rescan(&mut self) -> Duration {
        let watched = self.notices.is_some() && self.engine.disk_mut().watch.missing().is_none();
        if watched { self.rescan } else { self.rescan.min(UNWATCHED_RESCAN) }
    }

    /// A disk that was unmounted does not say so.
    fn look_at_root(&mut self) -> Result<(), StoreError> {
        if self.root_at.elapsed() >= ROOT_EVERY {
            self.root_at = Instant::now();
            self.engine.disk_mut().check_root()?;
        }
        Ok(())
    }

    /// Takes up what was reported, what did not hold still, and from time to time everything.
    fn look_at_disk(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut paths = Vec::new();
        if self.changed_at.is_some_and(|at| at + self.debounce <= now) {
            paths.extend(self.noticed()?);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            let unsettled = self.engine.unsettled();
            self.retry_pause =
                if unsettled.is_empty() { RETRY.0 } else { (self.retry_pause * 2).min(RETRY.1) };
            paths.extend(unsettled);
        }
        if self.next_scan <= now {
            self.engine.scan()?;
            self.scan_took = now.elapsed();
            self.next_scan = now + self.rescan();
        } else if !paths.is_empty() {
            let now_ms = self.now_ms();
            self.engine.handle(now_ms, Input::Touched(paths))?;
        }
        if self.engine.held_deletions() > 0 {
            self.next_scan = self.next_scan.min(now + HELD_RESCAN.max(self.scan_took * HELD_SHARE));
        }
        if self.engine.disk_mut().has_noticed() {
            self.changed_at.get_or_insert(now);
        }
        if self.retry_at.is_none() && self.engine.has_unsettled() {
            self.retry_at = Some(now + self.retry_pause);
        }
        Ok(())
    }

    /// A step of tidying up, if it is time. Returns whether another is due.
    fn tidy(&mut self) -> bool {
        if self.tidy_at > Instant::now() {
            return false;
        }
        let more = match self.engine.disk_mut().history.as_mut().map(Kept::tidy) {
            None => false,
            Some(Ok(more)) => more,
            Some(Err(error)) => {
                tracing::warn!(folder = self.name, %error, "the history is not tidied up");
                false
            }
        };
        if !more {
            self.tidy_at = Instant::now() + TIDY_EVERY;
        }
        more
    }

    fn close(&mut self, session: SessionId) -> Result<(), StoreError> {
        self.streams.remove(&session);
        let now_ms = self.now_ms();
        self.engine.handle(now_ms, Input::Closed { session })
    }

    /// Gives every stream as many messages as it can take, and closes those that ended.
    fn hand_out(&mut self) -> Result<(), StoreError> {
        let mut over = Vec::new();
        for (&session, stream) in &self.streams {
            loop {
                let permit = match stream.try_reserve() {
                    Ok(permit) => permit,
                    Err(mpsc::error::TrySendError::Full(())) => break,
                    Err(mpsc::error::TrySendError::Closed(())) => {
                        over.push(session);
                        break;
                    }
                };
                if let Some(message) = self.engine.poll(session)? {
                    permit.send(Outgoing::Message(message));
                } else {
                    if let Some(violation) = self.engine.ended(session) {
                        permit.send(Outgoing::End(violation.clone()));
                        over.push(session);
                    }
                    break;
                }
            }
        }
        over.into_iter().try_for_each(|session| self.close(session))
    }

    /// Tells subscribers, barriers and status readers what changed.
    fn publish(&mut self) -> Result<(), StoreError> {
        let events = self.engine.events();
        let told = |event: &Event| {
            matches!(
                event,
                Event::Acked { .. }
                    | Event::Connected(_)
                    | Event::Disconnected(_)
                    | Event::Fenced { .. }
                    | Event::Paused(_)
                    | Event::PeerPaused { .. }
            )
        };
        let told = events.iter().any(told);
        if !events.is_empty() {
            self.status_stale = true;
        }
        for event in events {
            tracing::debug!(folder = self.name, ?event);
            let _ = self.outlet.events.send(event);
        }
        let meta = self.engine.meta();
        if told || meta.knowledge != self.told.0 || meta.index != self.told.1 {
            self.told = (meta.knowledge.clone(), meta.index);
            self.outlet.progress.send_modify(|count| *count += 1);
            self.status_stale = true;
        }
        let shown = {
            let status = self.outlet.status.borrow();
            (status.differing, status.held_deletions, status.restless.len())
        };
        let restless = self.engine.restless().len();
        self.status_stale |= shown != (self.engine.differing(), self.engine.held_deletions(), restless);
        let fetched = self.engine.fetched_bytes();
        if fetched != self.fetched && self.status_at.elapsed() >= PROGRESS_EVERY {
            (self.fetched, self.status_stale) = (fetched, true);
        }
        if self.status_stale && self.status_at.elapsed() >= STATUS_EVERY {
            self.show_status()?;
        }
        Ok(())
    }

    fn show_status(&mut self) -> Result<(), StoreError> {
        (self.status_stale, self.status_at) = (false, Instant::now());
        let mut status = self.engine.status()?;
        self.short_since_ns = status.pause.as_ref().map(|_| self.short_since_ns.unwrap_or_else(now_ns));
        if let (Some(pause), Some(since_ns)) = (&mut status.pause, self.short_since_ns) {
            pause.since_ns = since_ns;
        }
        self.outlet.status.send_replace(status);
        Ok(())
    }
}

/// Returns when something was notified of.
async fn notified(notices: Option<&AsyncFd<Arc<OwnedFd>>>) {
    match notices {
        Some(notices) => match notices.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
