//! One volume's way from follower to mounted and back.
//!
//! ```text
//!  Following -> Seen -> Granted -> CaughtUp -> Open -> Flushed -> Closing -> Releasing -> Following
//!       seen_epoch  acquire   catch_up    open    flush  replicated    close    release
//! ```
//!
//! A phase says what has been reached, never what is wanted. Whenever no call is outstanding,
//! [`Volume::advance`] looks at the phase and at whether anybody wants the volume mounted, and takes the
//! next step in that direction; thus a request that comes in the middle of anything needs no case of its
//! own. The invariants:
//!
//! - A mount is answered with a path only in `Open`, which is reached only after `catch_up` on the
//!   grant's barrier.
//! - From `Open` and `Flushed` there is a way back to mounted; from `Closing` on there is none: what is
//!   begun there may have happened even if its answer was a failure. Likewise an `open` that failed is
//!   reverted by `close` before it is tried again or given up.
//! - A lease is released with a barrier only after `replicated` and `close` on it. When the replicas lag,
//!   the node keeps the lease: any other would go on from less than was acknowledged to the application.
//!   The unmount is answered at its deadline, with who lags; the rest goes on in the background, and a
//!   mount on this node meanwhile succeeds at once.
//! - A grant that was never opened is released as unused, with the barrier as it was. Where that would give
//!   the lease back to an unreleased tenure, a grant whose `open` failed is not released but settled: its
//!   epoch may be out, and what the tenure before it wrote may be set aside. So is one that would come back
//!   to this very node, which died with a tail and for which nobody mounts the volume any more.
//! - After an acquire whose outcome is unknown the volume is *settled*: acquired again and released
//!   properly, even if nobody wants it any more, for the store may say that this node holds it.

mod answers;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::phase::Phase;
use super::users::Users;
use super::{
    BackendCall, Counters, Event, LeaseCall, OpId, Output, RequestId, Step, Unmounted, VolumeStatus,
};
use crate::config::VolumeOptions;
use crate::error::{MountError, UnmountError};
use crate::lease::{Grant, Release, Takeover};
use crate::name::{MountId, NodeName, VolumeName};

/// What a volume may see and touch of its engine.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) node: &'a NodeName,
    pub(super) options: &'a VolumeOptions,
    pub(super) down_since: &'a BTreeMap<NodeName, Instant>,
    pub(super) outputs: &'a mut VecDeque<Output>,
    pub(super) next_op: &'a mut u64,
    pub(super) counters: &'a mut Counters,
}

/// One volume on this node.
#[derive(Debug)]
pub(super) struct Volume {
    name: VolumeName,
    takeover: Takeover,
    phase: Phase,
    users: Users,
    /// The call that is outstanding.
    op: Option<(OpId, Step)>,
    /// No call is made before.
    retry_at: Option<Instant>,
    /// Failed steps in a row.
    failures: u32,
    /// The store may say that this node holds the lease though it is not in a phase that does.
    settle: bool,
    /// Why the phase is not left, in the words of whoever knows.
    note: Option<String>,
}

enum Call {
    Lease(LeaseCall),
    Backend(BackendCall),
}

/// Requests.
impl Volume {
    pub(super) fn new(name: VolumeName, takeover: Takeover) -> Self {
        Self {
            name,
            takeover,
            phase: Phase::Following,
            users: Users::default(),
            op: None,
            retry_at: None,
            failures: 0,
            settle: false,
            note: None,
        }
    }

    pub(super) fn mount(&mut self, cx: &mut Context<'_>, request: RequestId, id: MountId) {
        self.users.enter(cx, &self.name, request, id);
        self.retry_at = None;
    }

    pub(super) fn unmount(&mut self, cx: &mut Context<'_>, request: RequestId, id: &MountId) {
        let was_mounted = self.users.leave(cx, &self.name, id);
        let result = if self.users.wanted() {
            if was_mounted {
                Unmounted::StillMounted { mounts: self.users.mounts() }
            } else {
                Unmounted::NotMounted
            }
        } else if was_mounted || self.is_leaving() {
            return self.users.await_release(cx, &self.name, request);
        } else {
            Unmounted::NotMounted
        };
        cx.outputs.push_back(Output::Unmounted { request, result: Ok(result) });
    }

    pub(super) fn settle(&mut self, cx: &mut Context<'_>, request: RequestId) {
        self.users.forget_mounts();
        if self.users.wanted() {
            let result = Ok(Unmounted::StillMounted { mounts: 0 });
            return cx.outputs.push_back(Output::Unmounted { request, result });
        }
        // A grant says by itself whether anything is owed.
        self.settle |=
            !matches!(self.phase, Phase::Granted { .. } | Phase::CaughtUp { .. }) && !self.is_leaving();
        self.users.await_release(cx, &self.name, request);
    }

    pub(super) fn cancel(&mut self, cx: &mut Context<'_>, request: RequestId) {
        self.users.cancel(cx, &self.name, request);
    }

    pub(super) fn forget_mounts(&mut self) {
        self.users.forget_mounts();
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let retry_at = if self.op.is_none() { self.retry_at } else { None };
        retry_at.into_iter().chain(self.users.deadline()).min()
    }

    pub(super) fn status(&self) -> VolumeStatus {
        VolumeStatus {
            volume: self.name.clone(),
            state: self.doing(),
            epoch: self.phase.grant().map(|grant| grant.epoch),
            mounts: self.users.mounts(),
            waiting: self.users.waiting(),
        }
    }

    /// Whether it follows and nobody, not even a call that is outstanding, wants anything else.
    pub(super) fn is_idle(&self) -> bool {
        let quiet = self.op.is_none() && !self.settle && !self.users.wanted();
        quiet && matches!(self.phase, Phase::Following)
    }

    /// Whether the volume is on its way out, so that an unmount has a release to wait for.
    fn is_leaving(&self) -> bool {
        let open = matches!(self.phase, Phase::Open { .. } | Phase::Flushed { .. });
        let closing = matches!(
            self.phase,
            Phase::Closing { release: Release::Flushed { .. }, .. }
                | Phase::Releasing { release: Release::Flushed { .. }, .. }
        );
        (open && self.users.mounts() == 0) || closing
    }

    fn doing(&self) -> String {
        let wanted = self.users.wanted() || self.settle;
        let text = self.phase.describe(wanted, self.users.mounts());
        match &self.note {
            Some(note) if text != "mounted" => format!("{text}: {note}"),
            _ => text,
        }
    }
}

/// Steps.
impl Volume {
    /// Answers what is overdue, and takes the next step if none is outstanding.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>) {
        self.expire(cx);
        if self.op.is_some() {
            return;
        }
        self.turn(cx);
        if self.retry_at.is_some_and(|at| cx.now < at) {
            return;
        }
        self.retry_at = None;
        let Some((step, call)) = self.next_call(cx) else {
            return;
        };
        let op = OpId(*cx.next_op);
        *cx.next_op += 1;
        self.op = Some((op, step));
        let volume = self.name.clone();
        cx.outputs.push_back(match call {
            Call::Lease(call) => Output::Lease { op, volume, call },
            Call::Backend(call) => Output::Backend { op, volume, call },
        });
    }

    /// Changes of direction, which need no call.
    fn turn(&mut self, cx: &mut Context<'_>) {
        let wanted = self.users.wanted();
        let phase = std::mem::replace(&mut self.phase, Phase::Following);
        self.phase = match phase {
            Phase::Seen { .. } if !wanted && !self.settle => Phase::Following,
            // Released unused, what was written here before would stay held, and nothing would come to flush it: of a mount
            // that was called off there is no unmount.
            Phase::Granted { ref grant } | Phase::CaughtUp { ref grant } if !wanted && owes(grant) => {
                self.settle = true;
                phase
            }
            Phase::Granted { grant } | Phase::CaughtUp { grant } if !wanted && !self.settle => {
                self.retry_at = None;
                Phase::Releasing { grant, release: Release::Unused }
            }
            Phase::Open { grant, path } | Phase::Flushed { grant, path, .. } if wanted => {
                let epoch = grant.epoch;
                self.users.dismiss(cx, &Ok(Unmounted::StillMounted { mounts: self.users.mounts() }));
                if self.users.admit(cx, &path) {
                    let mounts = self.users.mounts();
                    cx.event(Event::Mounted { volume: self.name.clone(), epoch, mounts });
                }
                (self.note, self.retry_at) = (None, None);
                Phase::Open { grant, path }
            }
            phase => phase,
        };
        if matches!(self.phase, Phase::Following) && !wanted && !self.settle {
            (self.note, self.retry_at, self.failures) = (None, None, 0);
            self.users.dismiss(cx, &Ok(Unmounted::NotMounted));
        }
    }

    /// The call that leads on from the phase.
    fn next_call(&self, cx: &Context<'_>) -> Option<(Step, Call)> {
        let wanted = self.users.wanted();
        let timeout = cx.options.progress_interval;
        let (step, call) = match &self.phase {
            Phase::Following if wanted || self.settle => (Step::SeenEpoch, BackendCall::SeenEpoch),
            Phase::Following => return None,
            Phase::Seen { epoch, held } => return Some(self.lease_call(cx, *epoch, held.as_ref())),
            Phase::Granted { grant } => match &grant.barrier {
                Some(barrier) => (Step::CatchUp, BackendCall::CatchUp { barrier: barrier.clone(), timeout }),
                None => (Step::Open, BackendCall::Open { grant: grant.clone() }),
            },
            Phase::CaughtUp { grant } => (Step::Open, BackendCall::Open { grant: grant.clone() }),
            Phase::Open { .. } if wanted => return None,
            Phase::Open { .. } => (Step::Flush, BackendCall::Flush),
            Phase::Flushed { barrier, .. } => {
                (Step::Replicate, BackendCall::Replicated { barrier: barrier.clone(), timeout })
            }
            Phase::Reverting { .. } | Phase::Closing { .. } => (Step::Close, BackendCall::Close),
            Phase::Releasing { grant, release } => {
                let call = LeaseCall::Release { grant: grant.clone(), release: release.clone() };
                return Some((Step::Release, Call::Lease(call)));
            }
        };
        Some((step, Call::Backend(call)))
    }

    fn lease_call(&self, cx: &Context<'_>, seen: u64, held: Option<&(NodeName, u64)>) -> (Step, Call) {
        if let (Takeover::NewestReplica { after }, Some((by, epoch))) = (self.takeover, held)
            && cx.down_since.get(by).is_some_and(|since| *since + after <= cx.now)
        {
            let call = LeaseCall::Takeover { seen_epoch: *epoch, at_least_epoch: seen };
            return (Step::Takeover, Call::Lease(call));
        }
        (Step::Acquire, Call::Lease(LeaseCall::Acquire { at_least_epoch: seen }))
    }

    fn expire(&mut self, cx: &mut Context<'_>) {
        let doing = self.doing();
        let (users, volume) = (&mut self.users, &self.name);
        let why = match self.phase {
            Phase::Seen { held: Some(_), .. } => {
                "; either that node is down (docker node ls), or a container there uses the volume, which is for one node at a time"
            }
            _ => "",
        };
        users.expire_waiting(cx, || MountError::TimedOut {
            volume: volume.clone(),
            waited: cx.options.mount_deadline,
            doing: format!("{doing}{why}"),
        });
        users.expire_leaving(cx, || match &self.phase {
            Phase::Flushed { grant, barrier, .. } => UnmountError::NotReplicated {
                volume: volume.clone(),
                epoch: grant.epoch,
                barrier: barrier.clone(),
                lagging: self.note.clone().unwrap_or_else(|| "they have not answered".to_owned()),
            },
            _ => UnmountError::TimedOut { volume: volume.clone(), doing },
        });
    }
}

/// Whether the store would name the grant's own node as the holder if the grant were released as unused.
fn owes(grant: &Grant) -> bool {
    grant.unreleased.last().is_some_and(|tenure| tenure.holder == grant.holder)
}

impl Context<'_> {
    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}
