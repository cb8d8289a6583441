//! What a person has to know of a volume that was taken over: up to when the replica here has what its holder wrote, and, once
//! that is back, in which branch the rest is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use swarmctl::lease::Tenure;
use syncfs::{Branch, Cause, DeviceId, Event};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::sync_report::{counted, size};
use crate::sync_time;
use crate::volume_node::Replica;

/// A branch counts as complete when nothing was added to it for so long.
const QUIET: Duration = Duration::from_secs(1);
/// How many files are looked at for the last write.
const FILES_MAX: usize = 200_000;

/// What this replica has of what `passed` wrote, and what is missing as far as that can be known here. To be asked once the folder
/// is held under a later epoch, so that nothing of it comes in any more, and before anything is written here.
pub async fn taken_over(replica: &Replica, passed: &Tenure, device: Option<DeviceId>) -> String {
    let status = replica.folder.current_status().await;
    let data = replica.data.clone();
    let last = tokio::task::spawn_blocking(move || last_write(&data)).await.ok().flatten();
    let announced = status.peers.iter().find(|peer| Some(peer.device) == device).map(|peer| peer.transfer);
    let announced = match announced.filter(|it| it.left_files > 0) {
        Some(left) => format!(
            "{} that it had told of, with {}, had not come",
            counted(left.left_files, "change"),
            size(left.left_bytes)
        ),
        None => "it had told of nothing that did not come".to_owned(),
    };
    let has = match last {
        Some((at_ns, path)) => {
            format!("what was written there up to {} UTC, {path} last", moment(at_ns))
        }
        None => "nothing of what was written there".to_owned(),
    };
    format!(
        "taken over from {} (epoch {}), which is down: this replica has {has}; {announced}. What was written there later is missing \
         here, and is kept there as a branch once that node is back",
        passed.holder, passed.epoch
    )
}

/// Says of every branch of a replica what it holds and where it is, once it is complete, for ever. Those that are there already are
/// told of, too: whoever set them aside may have ended before it said so, and they stay until somebody has looked at them.
pub async fn report_branches(replica: Arc<Replica>) {
    let mut events = replica.folder.subscribe();
    let mut told = BTreeMap::new();
    loop {
        while let Ok(event) = tokio::time::timeout(QUIET, set_aside(&mut events)).await {
            if event.is_err() {
                return;
            }
        }
        let mut branches = replica.folder.branches().await.unwrap_or_default();
        // The newest is told of last, which is what is shown.
        branches.sort_unstable_by_key(|branch| branch.number);
        for branch in branches {
            if told.insert(branch.number, branch.paths) != Some(branch.paths) {
                replica.tell(kept(&replica, &branch));
            }
        }
        if set_aside(&mut events).await.is_err() {
            return;
        }
    }
}

/// Waits until something is set aside, or may have been.
async fn set_aside(events: &mut Receiver<Event>) -> Result<(), RecvError> {
    loop {
        match events.recv().await {
            Ok(Event::SetAside { .. }) | Err(RecvError::Lagged(_)) => return Ok(()),
            Ok(_) => {}
            Err(RecvError::Closed) => return Err(RecvError::Closed),
        }
    }
}

fn kept(replica: &Replica, branch: &Branch) -> String {
    let what = match branch.cause {
        Cause::StaleEpoch => {
            format!(
                "written under epoch {}, which had ended when epoch {} took over",
                branch.epoch, branch.over
            )
        }
        Cause::FollowerEdit => "changed here without the lease of the volume".to_owned(),
        _ => "which stood here without being in the volume".to_owned(),
    };
    let place = replica.folder.state_dir().join("aside").join(branch.name());
    format!(
        "{} ({}), {what}: kept as the branch {}, in {}",
        counted(branch.paths, "file"),
        size(branch.bytes),
        branch.name(),
        place.display()
    )
}

/// When the newest file below a directory was written, in nanoseconds since 1970 by the clock of whoever wrote it, and which it is.
fn last_write(data: &Path) -> Option<(i64, String)> {
    let (mut directories, mut newest, mut seen) = (vec![data.to_owned()], None, 0);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            seen += 1;
            if found.is_dir() {
                // The replica's own is not what anybody wrote.
                directories.extend(Some(entry.path()).filter(|it| *it != data.join(".syncfs")));
            } else if seen > FILES_MAX {
                return newest;
            } else if let Ok(at) = found.modified() {
                let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
                let at = i64::try_from(at.as_nanos()).unwrap_or(i64::MAX);
                if newest.as_ref().is_none_or(|(newest, _)| *newest < at) {
                    let path = entry.path();
                    newest = Some((at, path.strip_prefix(data).unwrap_or(&path).display().to_string()));
                }
            }
        }
    }
    newest
}

/// To the millisecond.
fn moment(at_ns: i64) -> String {
    format!("{}.{:03}", sync_time::shown(at_ns), at_ns.div_euclid(1_000_000).rem_euclid(1000))
}
