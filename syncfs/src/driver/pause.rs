//! A folder through the times when its directory or its index cannot be used: a full or read-only disk, no descriptors, a
//! directory that is not there, an index that is damaged. The thread then lets go of everything, so that a disk can be
//! unmounted and mounted again, says why to whoever asks, and tries every few seconds to begin anew. A beginning is what
//! it is after a crash, so a pause costs no more than one: nothing is half done, and what was not committed is done again.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::aftermath::Aftermath;
use super::disk::RealDisk;
use super::history::{Kept, now_ns};
use super::state::State;
use super::tree::{dead, failed};
use super::worker::{Command, Outlet, Worker};
use crate::config::Config;
use crate::disk::DiskError;
use crate::error::{OpenError, StoreError};
use crate::history::History;
use crate::index::IndexError;
use crate::status::{Event, Pause};

/// First and longest time until a paused folder is tried again.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// As much must be writable before a folder goes on: what a commit of the index takes, about.
const PROBE_BYTES: usize = 256 << 10;

/// Takes a replica up. Blocks: it scans the whole directory once.
pub(super) fn begin(
    config: &Config,
    outlet: &Arc<Outlet>,
    aftermath: &Aftermath,
) -> Result<Worker, OpenError> {
    match begin_with(config, outlet, aftermath, aftermath.index_is_damaged) {
        // A row that cannot be read shows only when it is.
        Err(OpenError::Store(StoreError::Index(IndexError::Damaged(_)))) => {
            begin_with(config, outlet, aftermath, true)
        }
        other => other,
    }
}

fn begin_with(
    config: &Config,
    outlet: &Arc<Outlet>,
    aftermath: &Aftermath,
    distrust: bool,
) -> Result<Worker, OpenError> {
    let (state, index, _) = State::open(config, distrust)?;
    let mut disk = RealDisk::new(&state, config.min_free, aftermath).map_err(StoreError::from)?;
    disk.cuts.lock = config.sqlite_lock;
    disk.files_read = Arc::clone(&config.files_read);
    if config.history != History::Off {
        disk.history = Some(Kept::open(config, &state.dir).map_err(StoreError::from)?);
    }
    Ok(Worker::new(config, state, disk, index, Arc::clone(outlet))?)
}

/// Runs a folder, through its pauses, until it is told to stop or every handle is gone.
pub(super) async fn run(
    config: Config,
    outlet: Arc<Outlet>,
    mut worker: Worker,
    mut commands: mpsc::Receiver<Command>,
) {
    while let Err(error) = worker.run(&mut commands).await {
        tracing::warn!(folder = config.name, %error, "the folder is paused");
        let since_ns = now_ns();
        // Before its streams end, so that peers are told why.
        tell(&outlet, &error.to_string(), since_ns);
        worker.refuse_waiting(&StoreError::Paused(error.to_string()));
        let aftermath = worker.into_disk().aftermath(matches!(error, StoreError::Disk(DiskError::Dead(_))));
        let Some(next) = pause(&config, &outlet, &error, since_ns, aftermath, &mut commands).await else {
            return;
        };
        worker = next;
    }
}

/// Until the folder can go on; `None` if it was told to stop before.
async fn pause(
    config: &Config,
    outlet: &Arc<Outlet>,
    error: &StoreError,
    since_ns: i64,
    mut aftermath: Aftermath,
    commands: &mut mpsc::Receiver<Command>,
) -> Option<Worker> {
    aftermath.index_is_damaged = matches!(error, StoreError::Index(IndexError::Damaged(_)));
    let mut why = error.to_string();
    let mut wait = TRY_AGAIN.0;
    let mut next = Instant::now() + wait;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None | Some(Command::Stop) => return None,
                Some(command) => command.refuse(&StoreError::Paused(why.clone())),
            },
            () = tokio::time::sleep_until(next) => {
                match probe(config).and_then(|()| begin(config, outlet, &aftermath)) {
                    Ok(worker) => {
                        tracing::info!(folder = config.name, "the folder goes on");
                        let _ = outlet.events.send(Event::Resumed);
                        outlet.progress.send_modify(|count| *count += 1);
                        return Some(worker);
                    }
                    Err(error) if error.to_string() != why => {
                        why = error.to_string();
                        tracing::warn!(folder = config.name, %error, "the folder stays paused");
                        tell(outlet, &why, since_ns);
                    }
                    Err(_) => {}
                }
                wait = (wait * 2).min(TRY_AGAIN.1);
                next = Instant::now() + wait;
            }
        }
    }
}

fn tell(outlet: &Outlet, why: &str, since_ns: i64) {
    outlet.status.send_modify(|status| {
        status.pause = Some(Pause { why: why.to_owned(), since_ns, only_receiving: false });
        status.peers.iter_mut().for_each(|peer| peer.connected = false);
    });
    let _ = outlet.events.send(Event::Paused(why.to_owned()));
    outlet.progress.send_modify(|count| *count += 1);
}

/// Whether the disk takes anything at all: cheaper than a beginning that fails.
fn probe(config: &Config) -> Result<(), OpenError> {
    let dir = State::existing_dir(config)?;
    let path = dir.join("probe");
    let written = write_probe(&path).map_err(StoreError::from);
    let _ = std::fs::remove_file(&path);
    Ok(written?)
}

fn write_probe(path: &Path) -> Result<(), DiskError> {
    let mut file = File::create(path).map_err(|error| failed("write into the state directory", error))?;
    file.write_all(&[0; PROBE_BYTES]).map_err(|error| failed("write into the state directory", error))?;
    rustix::fs::fsync(&file).map_err(dead)
}
