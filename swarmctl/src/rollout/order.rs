//! Which steps can be done now: what makes a rollout safe is their order.

use std::time::Instant;

use super::{Part, Rollout, Stage};
use crate::plan::Step;

/// How many steps are done at once.
const SIDE_BY_SIDE_MAX: usize = 8;

impl Rollout {
    /// The next steps that can be done, none of which another one of them depends on.
    pub(super) fn next(&self, now: Instant) -> Vec<usize> {
        let is_due = |part: &Part| part.stage == Stage::Waiting && part.not_before.is_none_or(|at| at <= now);
        let is_open = |part: &Part| !matches!(part.stage, Stage::Done | Stage::Left);
        let may_start = |number: usize| {
            let mut before = self.parts[..number].iter().filter(|part| is_open(part));
            let step = &self.parts[number].step;
            match step {
                // On the way back everything is done as soon as it can be.
                _ if self.failure.is_some() => true,
                Step::CreateService(_) | Step::UpdateService { .. } => {
                    let after = self.after.get(step.name());
                    let comes_after = |part: &Part| after.is_some_and(|it| it.contains(part.step.name()));
                    !before.any(|part| !part.step.is_of_service() || comes_after(part))
                }
                // What services use is removed after them.
                step if step.is_removal() => before.all(|part| {
                    part.step.is_removal() && (step.is_of_service() || !part.step.is_of_service())
                }),
                _ => true,
            }
        };
        let ready = (0..self.parts.len()).filter(|&it| is_due(&self.parts[it]) && may_start(it));
        let mut ready: Vec<usize> = ready.collect();
        // On the way back, too, what services use goes after them.
        let is_of_service = |number: &usize| self.parts[*number].step.is_of_service();
        if ready.iter().any(is_of_service) {
            ready.retain(is_of_service);
        }
        ready.truncate(SIDE_BY_SIDE_MAX);
        ready
    }
}
