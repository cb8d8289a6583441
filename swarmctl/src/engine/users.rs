//! Who uses a volume on this node: mount ids that are mounted, requests that wait to be, and unmounts that
//! wait for their answer. Owns that every request is answered once, and within its deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use super::mount::Context;
use super::{MOUNTS_MAX, Output, RequestId, Unmounted};
use crate::error::{MountError, UnmountError};
use crate::name::{MountId, VolumeName};

/// The users of one volume.
#[derive(Debug, Default)]
pub(super) struct Users {
    mounts: BTreeSet<MountId>,
    waiting: BTreeMap<RequestId, Waiting>,
    leaving: BTreeMap<RequestId, Instant>,
}

#[derive(Debug)]
struct Waiting {
    id: MountId,
    deadline: Instant,
}

impl Users {
    /// Whether anybody needs the volume to be mounted.
    pub(super) fn wanted(&self) -> bool {
        !self.mounts.is_empty() || !self.waiting.is_empty()
    }

    pub(super) fn mounts(&self) -> usize {
        self.mounts.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Queues a mount request.
    pub(super) fn enter(&mut self, cx: &mut Context<'_>, name: &VolumeName, request: RequestId, id: MountId) {
        if self.mounts.len() + self.waiting.len() >= MOUNTS_MAX {
            let error = MountError::TooMany { volume: name.clone(), max: MOUNTS_MAX };
            return refuse(cx, request, error);
        }
        let deadline = cx.now + cx.options.mount_deadline;
        self.waiting.insert(request, Waiting { id, deadline });
    }

    /// Forgets a mount id; says whether it was mounted. Requests that wait under it are called off.
    pub(super) fn leave(&mut self, cx: &mut Context<'_>, name: &VolumeName, id: &MountId) -> bool {
        let called_off = self.take_waiting(|it| it.id == *id);
        for request in called_off.into_keys() {
            refuse(cx, request, MountError::Cancelled(name.clone()));
        }
        self.mounts.remove(id)
    }

    /// Calls a waiting mount request off.
    pub(super) fn cancel(&mut self, cx: &mut Context<'_>, name: &VolumeName, request: RequestId) {
        if self.waiting.remove(&request).is_some() {
            refuse(cx, request, MountError::Cancelled(name.clone()));
        }
    }

    /// Forgets all mounts: their containers are gone and will not unmount.
    pub(super) fn forget_mounts(&mut self) {
        self.mounts.clear();
    }

    /// Queues an unmount until the volume is released.
    pub(super) fn await_release(&mut self, cx: &mut Context<'_>, name: &VolumeName, request: RequestId) {
        if self.leaving.len() >= MOUNTS_MAX {
            let error = UnmountError::TooMany { volume: name.clone(), max: MOUNTS_MAX };
            return cx.outputs.push_back(Output::Unmounted { request, result: Err(error) });
        }
        self.leaving.insert(request, cx.now + cx.options.unmount_deadline);
    }

    /// Everybody who waits has the volume now; says whether anybody did.
    pub(super) fn admit(&mut self, cx: &mut Context<'_>, path: &Path) -> bool {
        let admitted = std::mem::take(&mut self.waiting);
        let any = !admitted.is_empty();
        for (request, Waiting { id, .. }) in admitted {
            self.mounts.insert(id);
            cx.counters.mounted += 1;
            cx.outputs.push_back(Output::Mounted { request, result: Ok(path.to_owned()) });
        }
        any
    }

    /// Nobody who waits will get the volume.
    pub(super) fn turn_away(&mut self, cx: &mut Context<'_>, error: &MountError) {
        for request in std::mem::take(&mut self.waiting).into_keys() {
            refuse(cx, request, error.clone());
        }
    }

    /// Answers all unmounts that wait.
    pub(super) fn dismiss(&mut self, cx: &mut Context<'_>, result: &Result<Unmounted, UnmountError>) {
        for request in std::mem::take(&mut self.leaving).into_keys() {
            cx.outputs.push_back(Output::Unmounted { request, result: result.clone() });
        }
    }

    /// Answers the mount requests whose deadline has come.
    pub(super) fn expire_waiting(&mut self, cx: &mut Context<'_>, error: impl FnOnce() -> MountError) {
        let now = cx.now;
        let expired = self.take_waiting(|it| it.deadline <= now);
        if !expired.is_empty() {
            let error = error();
            for request in expired.into_keys() {
                refuse(cx, request, error.clone());
            }
        }
    }

    /// Answers the unmounts whose deadline has come.
    pub(super) fn expire_leaving(&mut self, cx: &mut Context<'_>, error: impl FnOnce() -> UnmountError) {
        if self.leaving.values().any(|deadline| *deadline <= cx.now) {
            let error = error();
            let expired: Vec<RequestId> =
                self.leaving.iter().filter(|(_, at)| **at <= cx.now).map(|(request, _)| *request).collect();
            for request in expired {
                self.leaving.remove(&request);
                cx.outputs.push_back(Output::Unmounted { request, result: Err(error.clone()) });
            }
        }
    }

    /// The earliest deadline of any request.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.values().map(|it| it.deadline);
        waiting.chain(self.leaving.values().copied()).min()
    }

    fn take_waiting(&mut self, which: impl Fn(&Waiting) -> bool) -> BTreeMap<RequestId, Waiting> {
        let (taken, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|(_, it)| which(it));
        self.waiting = kept;
        taken
    }
}

fn refuse(cx: &mut Context<'_>, request: RequestId, error: MountError) {
    cx.counters.mounts_failed += 1;
    cx.outputs.push_back(Output::Mounted { request, result: Err(error) });
}
