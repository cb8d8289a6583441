//! The rollout engine: carries a plan out, waits until every service of it is as it should be, and puts back what it changed
//! if one does not get there. It does no I/O, reads no clock and never waits.
//!
//! The caller's loop, whose one rule is to drain the outputs after every input:
//!
//! ```text
//! loop {
//!     wait for an answer, Ctrl-C, or rollout.deadline()
//!     rollout.handle(now, input)
//!     while let Some(output) = rollout.poll() { do what it says }
//! }
//! ```
//!
//! At most one [`Output::Apply`] or [`Output::Look`] is outstanding, and each has to be answered exactly once. Steps are done in
//! the plan's order, those that do not depend on each other at once; a service begins once those that it comes after are there, and
//! nothing is removed before everything else is there. What an answer leaves open is looked up before anything else is done. In the
//! end either everything is as planned, or what was changed is as before, or what is neither is named.

mod options;
mod order;
mod reason;
mod report;
mod standing;
mod undo;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::cluster::Node;
use crate::plan::{Plan, Present, Step};
use crate::spec::ServiceSpec;
pub use options::RolloutOptions;
pub use reason::{Trouble, TroubleKind, trouble};
pub use report::{Failure, Left, Progress, RolloutError};
pub use standing::{Seen, SeenTask, Standing, UpdateState, standing};
use undo::{Found, found, reverse, title};

/// Of the time that a rollout waits, looking takes no more than one part in so many, unless the pause gets longer than this.
const BUSY_SHARE: u32 = 10;
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What happens to the engine.
#[derive(Debug, Clone)]
pub enum Input {
    /// The answer to an [`Output::Apply`]: one for each step, in the same order.
    Applied(Vec<Result<(), ApplyError>>),
    /// The answer to an [`Output::Look`]; if it failed, why.
    Seen(Result<Box<View>, String>),
    /// It is not wanted any more: what was changed is put back. The second time also that stops, and what is left is named.
    Cancel,
    /// The deadline has come.
    Tick,
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    /// It was not, and will not be.
    Refused(String),
    /// It was not, and may be later, such as the removal of a network that tasks which are ending still use.
    Busy(String),
    /// It may have been.
    Unsure(String),
}

/// What a manager says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// What there is.
    pub present: Present,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// How the services are, by name.
    pub services: BTreeMap<String, Seen>,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Do these steps, in any order or side by side, and hand the answers back.
    Apply(Vec<Step>),
    /// Ask a manager and hand the answer back.
    Look,
    /// Tell the person who waits.
    Progress(Progress),
    /// This is the end.
    Done(Result<(), RolloutError>),
}

/// One step, and how far it is.
#[derive(Debug)]
struct Part {
    step: Step,
    stage: Stage,
    /// Why it was not done when it was last tried.
    why: Option<String>,
    not_before: Option<Instant>,
    /// Since when the service is as it should be, and since when no node takes a task of it.
    there_since: Option<Instant>,
    unplaced_since: Option<Instant>,
    told: Option<Progress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Whether it was done is not known.
    Unsure,
    /// It was done, and the service is on its way.
    Applied,
    Done,
    /// It will not be done.
    Left,
}

#[derive(Debug)]
enum Call {
    Apply(Vec<usize>),
    /// Since when it is waited for.
    Look(Instant),
}

/// A plan that is carried out.
#[derive(Debug)]
pub struct Rollout {
    options: RolloutOptions,
    parts: Vec<Part>,
    after: BTreeMap<String, BTreeSet<String>>,
    /// Why it goes back, once it does.
    failure: Option<Failure>,
    cancelled: u32,
    call: Option<Call>,
    /// The next look; before anything else is done if it must come first.
    look_at: Instant,
    must_look: bool,
    until: Instant,
    /// Tasks that there were before.
    old: Option<BTreeSet<String>>,
    /// Why the manager could not be asked last time.
    silent: Option<String>,
    /// Whether somebody else made the changes.
    is_watch: bool,
    outputs: VecDeque<Output>,
    is_over: bool,
}

impl Rollout {
    /// Begins to carry a plan out.
    #[must_use]
    pub fn new(now: Instant, plan: &Plan, options: RolloutOptions) -> Self {
        let parts = plan.steps.iter().map(|step| Part::new(step.clone(), Stage::Waiting)).collect();
        let mut rollout = Self::with(now, parts, plan.after.clone(), options);
        rollout.advance(now);
        rollout
    }

    /// Begins to wait for services that were changed already. Nothing is put back if they do not get there.
    #[must_use]
    pub fn watch(now: Instant, services: Vec<ServiceSpec>, options: RolloutOptions) -> Self {
        let part = |spec| Part::new(Step::CreateService(Box::new(spec)), Stage::Applied);
        let parts = services.into_iter().map(part).collect();
        let options = RolloutOptions { undo: false, ..options };
        let mut rollout = Self::with(now, parts, BTreeMap::new(), options);
        // All that happened to them counts.
        rollout.old = Some(BTreeSet::new());
        rollout.is_watch = true;
        rollout.advance(now);
        rollout
    }

    fn with(
        now: Instant,
        parts: Vec<Part>,
        after: BTreeMap<String, BTreeSet<String>>,
        options: RolloutOptions,
    ) -> Self {
        Self {
            options,
            parts,
            after,
            failure: None,
            cancelled: 0,
            call: None,
            look_at: now,
            must_look: true,
            until: now + options.limit,
            old: None,
            silent: None,
            is_watch: false,
            outputs: VecDeque::new(),
            is_over: false,
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.is_over {
            return;
        }
        match input {
            Input::Applied(results) => self.applied(now, results),
            Input::Seen(result) => {
                // An engine that is slow to answer is busy, with the very tasks that are waited for: it is asked less often.
                if let Some(Call::Look(asked)) = self.call.take() {
                    let pause = (now.saturating_duration_since(asked) * BUSY_SHARE).min(BUSY_PAUSE_MAX);
                    self.look_at = now + pause.max(self.options.pause);
                }
                match result {
                    Ok(view) => self.seen(now, &view),
                    Err(why) => self.silent = Some(why),
                }
            }
            Input::Cancel => self.cancelled += 1,
            Input::Tick => {}
        }
        self.advance(now);
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is wanted; `None` while an answer is outstanding, or at the end.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (!self.is_over && self.call.is_none()).then(|| self.look_at.min(self.until))
    }

    fn applied(&mut self, now: Instant, results: Vec<Result<(), ApplyError>>) {
        let Some(Call::Apply(numbers)) = self.call.take() else { return };
        let mut refused = Vec::new();
        for (number, result) in numbers.into_iter().zip(results) {
            let part = &mut self.parts[number];
            match result {
                // The engine keeps a network until the last task that uses it has ended, whatever it answers.
                Ok(()) if matches!(part.step, Step::RemoveNetwork(_)) => {
                    part.stage = Stage::Unsure;
                    self.must_look = true;
                }
                Ok(()) => {
                    part.stage = done(&part.step, &self.options);
                    part.why = None;
                    self.outputs.push_back(Output::Progress(Progress::Step(title(&part.step))));
                }
                Err(ApplyError::Busy(why)) => self.busy(now, number, why),
                Err(ApplyError::Unsure(why)) => {
                    part.stage = Stage::Unsure;
                    part.why = Some(why);
                    self.must_look = true;
                }
                Err(ApplyError::Refused(why)) => refused.push((number, why)),
            }
        }
        // Last, for it may turn everything back: then it has to be known how far the others are.
        let was_back = self.failure.is_some();
        for (number, why) in refused {
            self.give_up(now, number, why);
            if self.failure.is_some() != was_back {
                break;
            }
        }
    }

    /// A step has to wait for something that ends by itself.
    fn busy(&mut self, now: Instant, number: usize, why: String) {
        let part = &mut self.parts[number];
        part.stage = Stage::Waiting;
        part.not_before = Some(now + self.options.pause);
        let progress = Progress::Busy { step: title(&part.step), why: why.clone() };
        part.why = Some(why);
        if part.told.as_ref() != Some(&progress) {
            self.outputs.push_back(Output::Progress(progress.clone()));
            part.told = Some(progress);
        }
    }

    /// A step will not be done.
    fn give_up(&mut self, now: Instant, number: usize, why: String) {
        let part = &mut self.parts[number];
        part.why = Some(why.clone());
        part.stage = Stage::Left;
        // When only removals are left, the services are as they should be, and are left alone.
        if self.failure.is_none() && !part.step.is_removal() {
            let step = title(&part.step);
            self.turn_back(now, Failure::Refused { step, why });
        }
    }

    fn seen(&mut self, now: Instant, view: &View) {
        self.silent = None;
        self.must_look = false;
        let old = || view.services.values().flat_map(|it| &it.tasks).map(|it| it.task.id.clone()).collect();
        self.old.get_or_insert_with(old);
        for number in 0..self.parts.len() {
            match self.parts[number].stage {
                Stage::Unsure => self.look_up(now, number, view),
                Stage::Applied => self.look_after(now, number, view),
                Stage::Waiting | Stage::Done | Stage::Left => {}
            }
            if self.must_look {
                // It has turned back, and what is to be put back has to be looked at anew.
                return;
            }
        }
    }

    /// Finds out whether a step was done.
    fn look_up(&mut self, now: Instant, number: usize, view: &View) {
        let part = &mut self.parts[number];
        match found(&part.step, &view.present) {
            Found::Before if matches!(part.step, Step::RemoveNetwork(_)) => {
                self.busy(now, number, "tasks that are ending still use it".to_owned());
            }
            Found::Before => {
                part.stage = Stage::Waiting;
                part.not_before = Some(now + self.options.pause);
            }
            Found::After => {
                part.stage = done(&part.step, &self.options);
                if matches!(part.step, Step::RemoveNetwork(_)) {
                    self.outputs.push_back(Output::Progress(Progress::Step(title(&part.step))));
                }
            }
            Found::Neither => {
                let why = "somebody else changed it at the same time, and it is left as it is".to_owned();
                self.give_up(now, number, why);
            }
        }
    }

    /// Finds out how far a service is.
    fn look_after(&mut self, now: Instant, number: usize, view: &View) {
        let Self { parts, options, old, failure, outputs, .. } = self;
        let part = &mut parts[number];
        let wanted = match &part.step {
            Step::CreateService(it) => it.as_ref(),
            Step::UpdateService { after, .. } => after.as_ref(),
            _ => return,
        };
        let seen = view.services.get(&wanted.name);
        let (Some(seen), Found::After) = (seen, found(&part.step, &view.present)) else {
            let why = match seen.and_then(|seen| seen.update.as_ref()) {
                Some(UpdateState::RolledBack(said) | UpdateState::RollingBack(said)) => {
                    format!("Swarm put the version before back: {said}")
                }
                _ => "somebody else changed it at the same time, and it is left as it is".to_owned(),
            };
            return self.fail(now, number, why);
        };
        let nothing = BTreeSet::new();
        let standing = standing(wanted, seen, &view.nodes, old.as_ref().unwrap_or(&nothing));
        let Standing { running, desired, is_there, trouble, ended, is_final } = standing;
        let kind = trouble.as_ref().map(|it| it.kind);
        let note = trouble.map(|it| it.words);
        let progress = Progress::Service {
            service: wanted.name.clone(),
            running,
            desired,
            note: note.clone(),
            is_back: failure.is_some(),
        };
        if part.told.as_ref() != Some(&progress) {
            outputs.push_back(Output::Progress(progress.clone()));
            part.told = Some(progress);
        }
        let has_check = wanted.container.health.as_ref().is_some_and(|it| !it.test.is_empty());
        let settle = if has_check { Duration::ZERO } else { options.settle };
        part.there_since = is_there.then(|| part.there_since.unwrap_or(now));
        if part.there_since.is_some_and(|since| now.saturating_duration_since(since) >= settle) {
            part.stage = Stage::Done;
            part.why = None;
            return;
        }
        let is_unplaced = kind == Some(TroubleKind::Unplaced);
        part.unplaced_since = is_unplaced.then(|| part.unplaced_since.unwrap_or(now));
        let waited = part.unplaced_since.map(|since| now.saturating_duration_since(since));
        let ended_max = if kind == Some(TroubleKind::Definite) {
            // Another node may have what this one lacks.
            let fitting = view.nodes.iter().filter(|node| crate::placement::lacks(wanted, node).is_empty());
            options.ended_max.min(fitting.count() as u64).max(1)
        } else {
            options.ended_max
        };
        let is_hopeless = is_final || ended >= ended_max || waited.is_some_and(|it| it >= options.unplaced);
        part.why = Some(note.clone().unwrap_or_else(|| format!("{running} of {desired} tasks run")));
        if let (true, Some(why)) = (is_hopeless, note) {
            self.fail(now, number, why);
        }
    }

    /// A service will not be as it should be.
    fn fail(&mut self, now: Instant, number: usize, why: String) {
        if self.failure.is_some() {
            let part = &mut self.parts[number];
            part.stage = Stage::Left;
            part.why = Some(why);
            return;
        }
        let service = self.parts[number].step.name().to_owned();
        self.turn_back(now, Failure::Service { service, why });
    }

    fn turn_back(&mut self, now: Instant, failure: Failure) {
        let parts = std::mem::take(&mut self.parts);
        self.failure = Some(failure);
        self.until = now + self.options.undo_limit;
        self.must_look = true;
        self.look_at = now;
        // What was surely not done needs nothing. Whether the rest is as before is looked up first.
        let was_begun = |part: &Part| matches!(part.stage, Stage::Unsure | Stage::Applied | Stage::Done);
        let back = parts.into_iter().rev().filter(was_begun).map(|part| {
            let mut back = match reverse(&part.step) {
                Some(step) => Part::new(step, Stage::Unsure),
                None => Part::new(part.step, Stage::Left),
            };
            back.why = part.why;
            back
        });
        self.parts = back.collect();
        if self.is_watch {
            self.parts.clear();
        }
        if !self.options.undo {
            self.finish();
        }
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Instant) {
        if self.is_over || self.call.is_some() {
            return;
        }
        let is_back = self.failure.is_some();
        let is_done = |part: &Part| matches!(part.stage, Stage::Done | Stage::Left);
        let is_late = now >= self.until;
        // Once everything is there, what is left to be removed is no reason to go back.
        let is_tidying = !is_back && self.parts.iter().all(|part| is_done(part) || part.step.is_removal());
        let is_stopped = if is_back { self.cancelled > 1 } else { self.cancelled > 0 };
        if self.parts.iter().all(is_done) || ((is_back || is_tidying) && (is_late || is_stopped)) {
            self.finish();
        } else if is_stopped {
            self.turn_back(now, Failure::Cancelled);
        } else if is_late {
            let waiting = self.parts.iter().filter(|part| !is_done(part)).map(Part::left).collect();
            let silent = self.silent.clone();
            self.turn_back(now, Failure::TimedOut { after: self.options.limit, waiting, silent });
        }
        if self.is_over {
            return;
        }
        let next = if self.must_look { Vec::new() } else { self.next(now) };
        if !next.is_empty() {
            let steps = next.iter().map(|number| self.parts[*number].step.clone()).collect();
            self.call = Some(Call::Apply(next));
            self.outputs.push_back(Output::Apply(steps));
        } else if now >= self.look_at {
            self.call = Some(Call::Look(now));
            self.outputs.push_back(Output::Look);
        }
    }

    fn finish(&mut self) {
        self.is_over = true;
        let left: Vec<_> =
            self.parts.iter().filter(|part| part.stage != Stage::Done).map(Part::left).collect();
        let result = match (self.failure.take(), left.is_empty()) {
            (None, true) => Ok(()),
            (None, false) => Err(RolloutError { failure: Failure::NotRemoved, left, is_undone: false }),
            (Some(failure), _) => Err(RolloutError { failure, left, is_undone: self.options.undo }),
        };
        self.outputs.push_back(Output::Done(result));
    }
}

impl Part {
    fn new(step: Step, stage: Stage) -> Self {
        Self { step, stage, why: None, not_before: None, there_since: None, unplaced_since: None, told: None }
    }

    fn left(&self) -> Left {
        Left { step: title(&self.step), why: self.why.clone().unwrap_or_default() }
    }
}

/// How far a step is once the engine has taken it.
fn done(step: &Step, options: &RolloutOptions) -> Stage {
    match step {
        Step::CreateService(_) | Step::UpdateService { .. } if !options.detach => Stage::Applied,
        _ => Stage::Done,
    }
}
