//! Change notifications: which paths may have changed, collected for a moment. When in doubt, everything may have.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::database::side_stem;
use crate::path::{PathError, RelPath};

/// More paths than this at once are answered with a walk of everything.
const PATHS_MAX: usize = 4096;

/// What changed since it was last taken.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) paths: BTreeSet<RelPath>,
    /// Notifications were lost, or are too many.
    pub(super) everything: bool,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.everything
    }

    fn add(&mut self, path: RelPath) {
        if self.paths.len() >= PATHS_MAX {
            self.everything = true;
        } else {
            self.paths.insert(path);
        }
    }
}

/// Watches a directory tree until it is dropped.
pub(super) struct Watch {
    changes: Arc<Mutex<Changes>>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Begins; `wake` is told of every change.
    pub(super) fn new(root: &Path, wake: Arc<Notify>) -> Result<Self, notify::Error> {
        let changes = Arc::new(Mutex::new(Changes::default()));
        let (shared, top) = (Arc::clone(&changes), root.to_owned());
        let mut watcher = notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
            let mut changes = shared.lock().unwrap_or_else(PoisonError::into_inner);
            collect(&mut changes, &top, event);
            if !changes.is_empty() {
                wake.notify_one();
            }
        })?;
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(Self { changes, _watcher: watcher })
    }

    /// What changed since the last call.
    pub(super) fn take(&self) -> Changes {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn collect(changes: &mut Changes, root: &Path, event: Result<notify::Event, notify::Error>) {
    let Ok(event) = event else {
        changes.everything = true;
        return;
    };
    if event.need_rescan() {
        changes.everything = true;
    }
    // Being read changes nothing; being closed after writing may have.
    let idle = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    if idle {
        return;
    }
    for path in event.paths {
        match relative(root, &path) {
            Some(Ok(path)) => {
                side_stem(&path).into_iter().for_each(|stem| changes.add(stem));
                changes.add(path);
            }
            Some(Err(PathError::Reserved | PathError::Empty)) => {}
            Some(Err(_)) | None => changes.everything = true,
        }
    }
}

fn relative(root: &Path, path: &Path) -> Option<Result<RelPath, PathError>> {
    path.strip_prefix(root).ok().map(|path| RelPath::new(path.as_os_str().as_bytes()))
}
