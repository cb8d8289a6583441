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
//!   epoch may be out, and what the tenure before it wrote may be set aside.
//! - After an acquire whose outcome is unknown the volume is *settled*: acquired again and released
//!   properly, even if nobody wants it any more, for the store may say that this node holds it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::phase::{Phase, reached};
use super::report::cut;
use super::users::Users;
use super::{
    BackendAnswer, BackendCall, Counters, Event, LeaseAnswer, LeaseCall, OpId, Output, RequestId, Step,
    Unmounted, VolumeStatus,
};
use crate::config::VolumeOptions;
use crate::error::{MountError, UnmountError};
use crate::lease::{Grant, LeaseError, Refused, Release, Takeover};
use crate::name::{MountId, NodeName, VolumeName};
use crate::volume::BackendError;

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
        self.settle |= match &self.phase {
            Phase::Granted { grant } | Phase::CaughtUp { grant } => owes(grant),
            _ => !self.is_leaving(),
        };
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
                None => (Step::Open, BackendCall::Open { epoch: grant.epoch }),
            },
            Phase::CaughtUp { grant } => (Step::Open, BackendCall::Open { epoch: grant.epoch }),
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
        let held = matches!(self.phase, Phase::Seen { held: Some(_), .. });
        users.expire_waiting(cx, || MountError::TimedOut {
            volume: volume.clone(),
            waited: cx.options.mount_deadline,
            doing: if held { format!("{doing}; is that node up (docker node ls)?") } else { doing.clone() },
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

/// Answers.
impl Volume {
    pub(super) fn lease_answer(&mut self, cx: &mut Context<'_>, op: OpId, answer: LeaseAnswer) {
        match (self.step_of(op), answer) {
            (Some(Step::Acquire | Step::Takeover), LeaseAnswer::Granted(result)) => {
                let step = self.op.take().map_or(Step::Acquire, |(_, step)| step);
                match result {
                    Ok(grant) => self.granted(cx, grant, step),
                    Err(error) => self.not_granted(cx, step, error),
                }
            }
            (Some(Step::Release), LeaseAnswer::Released(result)) => {
                self.op = None;
                self.released(cx, result);
            }
            _ => cx.counters.answers_ignored += 1,
        }
    }

    fn granted(&mut self, cx: &mut Context<'_>, grant: Grant, step: Step) {
        self.note = None;
        cx.counters.taken_over += u64::from(step == Step::Takeover);
        let volume = || self.name.clone();
        cx.event(Event::Granted { volume: volume(), epoch: grant.epoch });
        for tenure in &grant.unreleased {
            let (tenure, barrier) = (tenure.clone(), grant.barrier.clone());
            cx.event(Event::Unreleased { volume: volume(), tenure, barrier });
        }
        if grant.store_behind {
            cx.event(Event::StoreBehind { volume: volume(), epoch: grant.epoch });
        }
        self.settle &= owes(&grant);
        self.phase = Phase::Granted { grant };
    }

    fn not_granted(&mut self, cx: &mut Context<'_>, step: Step, error: LeaseError) {
        let Phase::Seen { held, .. } = &mut self.phase else {
            unreachable!("the lease is asked for in Seen only, and the phase waits for the answer");
        };
        match error {
            LeaseError::Refused(Refused::Held { by, epoch }) => {
                self.settle = false;
                self.users.dismiss(cx, &Ok(Unmounted::NotMounted));
                let news = Some((by, epoch));
                let changed = *held != news;
                *held = news;
                self.note = None;
                self.retry_at = Some(cx.now + cx.options.lease_poll);
                if changed && self.users.wanted() {
                    cx.event(Event::Waiting { volume: self.name.clone(), doing: self.doing() });
                }
            }
            LeaseError::Refused(Refused::Moved { .. }) => {
                *held = None;
                self.retry_at = Some(cx.now + cx.options.lease_poll);
            }
            LeaseError::Refused(_) => {
                let error = MountError::Lease { volume: self.name.clone(), source: error };
                self.users.turn_away(cx, &error);
                self.settle = false;
                self.phase = Phase::Following;
                self.failed(cx, step, &error.to_string());
            }
            LeaseError::Unavailable { .. } => {
                *held = None;
                self.settle = true;
                self.failed(cx, step, &error.to_string());
            }
        }
    }

    fn released(&mut self, cx: &mut Context<'_>, result: Result<(), LeaseError>) {
        let Phase::Releasing { grant, release } = &self.phase else {
            unreachable!("the lease is released in Releasing only, and the phase waits for the answer");
        };
        let (volume, epoch) = (self.name.clone(), grant.epoch);
        match result {
            Ok(()) => {
                let barrier = match release {
                    Release::Flushed { barrier, .. } => Some(barrier.clone()),
                    Release::Unused => None,
                };
                cx.counters.released += 1;
                if let Some(barrier) = barrier.clone() {
                    self.users.dismiss(cx, &Ok(Unmounted::Released { epoch, barrier }));
                }
                cx.event(Event::Released { volume, epoch, barrier });
                self.phase = Phase::Following;
                self.note = None;
                self.retry_at = (self.failures > 0).then(|| cx.now + self.pause(cx));
            }
            // Another node took the lease over and gave it back: what is here is still the newest.
            Err(LeaseError::Refused(Refused::Stale { holder: Some(by), .. })) if by == *cx.node => {
                self.settle = true;
                self.phase = Phase::Following;
            }
            Err(LeaseError::Refused(Refused::Stale { current, holder, .. })) => {
                // Of an unused grant nothing is lost, or it was said when the replica was fenced.
                if matches!(release, Release::Flushed { .. }) {
                    self.lost(cx, epoch, current, holder);
                }
                self.phase = Phase::Following;
            }
            Err(error) => self.failed(cx, Step::Release, &error.to_string()),
        }
    }

    pub(super) fn backend_answer(&mut self, cx: &mut Context<'_>, op: OpId, answer: BackendAnswer) {
        let Some(step) = self.step_of(op).filter(|step| answer.is_to(*step)) else {
            cx.counters.answers_ignored += 1;
            return;
        };
        self.op = None;
        let phase = std::mem::replace(&mut self.phase, Phase::Following);
        let (phase, error) = reached(phase, answer, self.users.wanted());
        if let Phase::Reverting { grant } = &phase {
            self.settle |= !grant.unreleased.is_empty();
        }
        self.phase = phase;
        match error {
            None => {
                self.progress();
                if step == Step::Close && matches!(self.phase, Phase::CaughtUp { .. }) {
                    self.retry_at = Some(cx.now + self.pause(cx));
                }
            }
            Some(BackendError::Behind { detail }) => self.behind(cx, &detail),
            Some(error) => self.step_failed(cx, step, error),
        }
    }

    /// Data is on its way: say so, ask again.
    fn behind(&mut self, cx: &mut Context<'_>, detail: &str) {
        let note = Some(format!("waiting for {}", cut(detail)));
        self.retry_at = Some(cx.now + cx.options.lease_poll);
        if self.note != note {
            self.note = note;
            cx.event(Event::Waiting { volume: self.name.clone(), doing: self.doing() });
        }
    }

    fn step_failed(&mut self, cx: &mut Context<'_>, step: Step, error: BackendError) {
        self.failed(cx, step, &error.to_string());
        let volume = self.name.clone();
        match (step, error) {
            (Step::Flush | Step::Replicate, BackendError::Fenced { seen }) => {
                if let Phase::Open { grant, .. } | Phase::Flushed { grant, .. } =
                    std::mem::replace(&mut self.phase, Phase::Following)
                {
                    self.lost(cx, grant.epoch, seen, None);
                    self.phase = Phase::Closing { grant, release: Release::Unused };
                }
            }
            (Step::SeenEpoch | Step::CatchUp | Step::Open, source) => {
                if step == Step::Open {
                    self.retry_at = None;
                }
                self.users.turn_away(cx, &MountError::Step { volume, step, source });
            }
            (_, source) => self.users.dismiss(cx, &Err(UnmountError::Step { volume, step, source })),
        }
    }

    fn lost(&mut self, cx: &mut Context<'_>, epoch: u64, current: u64, holder: Option<NodeName>) {
        cx.counters.leases_lost += 1;
        let volume = self.name.clone();
        cx.event(Event::LeaseLost { volume: volume.clone(), epoch, current });
        self.users.dismiss(cx, &Err(UnmountError::LeaseLost { volume, epoch, current, holder }));
    }

    /// A step of the backend succeeded. One that leads towards a mount says nothing about the next, so that
    /// a volume that can be acquired but not opened is not tried in quick succession.
    fn progress(&mut self) {
        self.note = None;
        if matches!(self.phase, Phase::Open { .. }) {
            self.settle = false;
        }
        if matches!(self.phase, Phase::Open { .. } | Phase::Flushed { .. } | Phase::Closing { .. }) {
            self.failures = 0;
        }
    }

    /// A step failed: the next one waits, the longer the more have failed.
    fn failed(&mut self, cx: &mut Context<'_>, step: Step, reason: &str) {
        let reason = cut(reason);
        cx.counters.steps_failed += 1;
        self.retry_at = Some(cx.now + self.pause(cx));
        self.failures = self.failures.saturating_add(1);
        self.note = Some(reason.clone());
        cx.event(Event::Failed { volume: self.name.clone(), step, reason });
    }

    fn pause(&self, cx: &Context<'_>) -> Duration {
        let factor = 1_u32 << self.failures.min(16);
        cx.options.retry_first.saturating_mul(factor).min(cx.options.retry_max)
    }

    fn step_of(&self, op: OpId) -> Option<Step> {
        self.op.filter(|(outstanding, _)| *outstanding == op).map(|(_, step)| step)
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
