//! What an answer means for its volume: where it has got, what is said, when it is tried again.

use std::time::Duration;

use super::super::phase::{Phase, reached};
use super::super::report::cut;
use super::super::{BackendAnswer, Event, LeaseAnswer, OpId, Step, Unmounted};
use super::{Context, Volume, owes};
use crate::error::{MountError, UnmountError};
use crate::lease::{Grant, LeaseError, Refused, Release};
use crate::name::NodeName;
use crate::volume::BackendError;

impl Volume {
    pub(in crate::engine) fn lease_answer(&mut self, cx: &mut Context<'_>, op: OpId, answer: LeaseAnswer) {
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
            LeaseError::Refused(_) | LeaseError::Declined { .. } => {
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

    pub(in crate::engine) fn backend_answer(
        &mut self,
        cx: &mut Context<'_>,
        op: OpId,
        answer: BackendAnswer,
    ) {
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
