//! Services moved between nodes, one at a time, and each only when its volumes are ready for it.
//!
//! What is to be done is found out first ([`drain`], [`relocate`], [`rebalance`]), and can be looked at. Then the engine
//! [`Maintenance`] does it: it takes answers and gives calls, does no I/O, reads no clock and never waits. A service moves by a
//! placement constraint that is there only until it has moved: Swarm replaces the tasks that are where they may not be, no
//! others, and none when the constraint goes again. A node that is drained is paused first, so that it gets nothing new, and
//! drained at the end, when nothing is left to move. If something fails, or nobody wants it any more, the service that was on
//! its way is as before and where it was, the node as well, and what has moved and what has not is named.
//!
//! Every change of a service is the version that `docker service rollback` goes back to, these as well.

mod rebalance;
mod report;
mod work;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cluster::Availability;
use crate::plan::{Plan, Step};
use crate::rollout::{self, Left, Rollout, RolloutError, RolloutOptions, View};
use crate::spec::ServiceSpec;
pub use rebalance::{Relocation, Spread, even_out, rebalance};
pub use report::{MaintenanceError, MaintenanceOptions, Progress};
pub use work::{Handover, How, Move, Stuck, Work, WorkError, broken_off, drain, relocate};

/// What happens to the engine.
#[derive(Debug, Clone)]
pub enum Input {
    /// The answer to an [`Output::Rollout`].
    Rollout(rollout::Input),
    /// The answer to an [`Output::Availability`]; if it failed, why.
    Changed(Result<(), String>),
    /// The answer to an [`Output::Gate`]; who lags and by how much.
    Gate(Result<(), String>),
    /// It is not wanted any more. The second time also the way back stops, and what is left is named.
    Cancel,
    /// The deadline has come.
    Tick,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A call as a rollout makes it, or its progress.
    Rollout(rollout::Output),
    /// Change the availability of a node, given by ID.
    Availability(String, Availability),
    /// Ask whether the replicas of a volume have everything that its next node needs.
    Gate(Handover),
    /// Tell the person who waits.
    Progress(Progress),
    /// This is the end.
    Done(Result<(), MaintenanceError>),
}

#[derive(Debug)]
enum State {
    /// The node is to have this availability.
    Changing(Availability),
    /// At what there is: for the next service, or for the one that is to be put back.
    Looking,
    Gates,
    /// The service is on its way, and then is made what it was.
    Moving(Box<Rollout>),
    Settling(Box<Rollout>),
    /// It goes back to where it was, and then is made what it was.
    Returning(Box<Rollout>),
    Restoring(Box<Rollout>),
    Over,
}

/// The service that moves.
#[derive(Debug)]
struct OnItsWay {
    /// As it was found last.
    before: ServiceSpec,
    /// Until it has moved.
    during: ServiceSpec,
    /// Until it is where it was, if it does not get there, and whether that is still to be done.
    back: ServiceSpec,
    returns: bool,
    /// In the end, wherever that is.
    after: ServiceSpec,
    /// What helps by hand.
    remedy: String,
    /// Volumes that still have to be asked about, and what was said of the first.
    handovers: VecDeque<Handover>,
    told: Option<Progress>,
}

/// Work that is done.
#[derive(Debug)]
pub struct Maintenance {
    options: MaintenanceOptions,
    work: Work,
    state: State,
    /// How many moves are behind us.
    number: usize,
    way: Option<OnItsWay>,
    /// Why it turns back, once it does.
    why: Option<String>,
    left: Vec<Left>,
    cancelled: u32,
    is_outstanding: bool,
    not_before: Instant,
    since: Instant,
    outputs: VecDeque<Output>,
}

impl Maintenance {
    /// Begins to work. What is stuck or ends is left to Swarm: whoever minds looks at the work first.
    #[must_use]
    pub fn new(now: Instant, work: Work, options: MaintenanceOptions) -> Self {
        let state = if work.drain.is_some() { State::Changing(Availability::Pause) } else { State::Looking };
        let mut maintenance = Self {
            options,
            work,
            state,
            number: 0,
            way: None,
            why: None,
            left: Vec::new(),
            cancelled: 0,
            is_outstanding: false,
            not_before: now,
            since: now,
            outputs: VecDeque::new(),
        };
        maintenance.advance(now);
        maintenance
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if matches!(input, Input::Cancel) {
            self.cancelled += 1;
        }
        if let Some(rollout) = self.state.rollout() {
            let input = match input {
                Input::Rollout(input) => input,
                Input::Cancel => rollout::Input::Cancel,
                Input::Tick | Input::Changed(_) | Input::Gate(_) => rollout::Input::Tick,
            };
            rollout.handle(now, input);
            return self.advance(now);
        }
        match (&self.state, input) {
            (State::Looking, Input::Rollout(rollout::Input::Seen(answer))) => {
                self.is_outstanding = false;
                match answer {
                    Ok(view) if self.why.is_some() => self.put_back(now, &view),
                    Ok(view) => self.looked(now, &view),
                    Err(why) => self.again(now, why),
                }
            }
            (State::Changing(wanted), Input::Changed(answer)) => {
                self.is_outstanding = false;
                let is_last = *wanted == Availability::Drain && self.why.is_none();
                match answer {
                    Ok(()) if is_last => self.finish(),
                    Ok(()) => self.go(now, State::Looking),
                    Err(why) => self.again(now, why),
                }
            }
            (State::Gates, Input::Gate(answer)) => {
                self.is_outstanding = false;
                self.asked(now, answer);
            }
            _ => {}
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
        match &self.state {
            State::Moving(it) | State::Settling(it) | State::Returning(it) | State::Restoring(it) => {
                it.deadline()
            }
            State::Over => None,
            State::Changing(_) | State::Looking | State::Gates => {
                (!self.is_outstanding).then_some(self.not_before)
            }
        }
    }

    fn go(&mut self, now: Instant, state: State) {
        self.state = state;
        self.since = now;
        self.not_before = now;
    }

    /// A manager was silent, or refused.
    fn again(&mut self, now: Instant, why: String) {
        self.not_before = now + self.options.pause;
        if now.saturating_duration_since(self.since) < self.options.silence_limit {
            return;
        }
        match (&self.state, &self.why) {
            (_, None) => self.turn_back(now, why),
            (State::Changing(_), _) => {
                self.leave_node(why);
                self.go(now, State::Looking);
            }
            _ => self.leave_service(why),
        }
    }

    /// The next service begins to move.
    fn looked(&mut self, now: Instant, view: &View) {
        let Some(next) = self.work.moves.get(self.number) else { return };
        let Some(service) = view.present.services.get(&next.service) else {
            // Somebody removed it, and there is nothing to move.
            self.number += 1;
            return;
        };
        self.way = Some(OnItsWay {
            before: service.clone(),
            during: next.during(service),
            back: next.back(service, view),
            returns: true,
            after: next.afterwards(service),
            remedy: next.remedy(),
            handovers: next.handovers(service, view).into(),
            told: None,
        });
        let progress = Progress::Moves(next.service.clone(), self.number + 1, self.work.moves.len());
        self.outputs.push_back(Output::Progress(progress));
        self.go(now, State::Gates);
    }

    /// The replicas of a volume are ready, or not yet.
    fn asked(&mut self, now: Instant, answer: Result<(), String>) {
        let Some(way) = self.way.as_mut().filter(|way| !way.handovers.is_empty()) else { return };
        let volume = way.handovers[0].volume.clone();
        match answer {
            Ok(()) => {
                way.handovers.pop_front();
                self.since = now;
            }
            Err(why) if now.saturating_duration_since(self.since) >= self.options.gate_limit => {
                let limit = self.options.gate_limit.as_secs();
                self.turn_back(now, format!("volume {volume} has waited for {limit} s for {why}"));
            }
            Err(why) => {
                let progress = Some(Progress::Waits(volume, why));
                if self.cancelled == 0 && way.told != progress {
                    self.outputs.extend(progress.clone().map(Output::Progress));
                    way.told = progress;
                }
                self.not_before = now + self.options.pause;
            }
        }
    }

    /// What was done to a service has ended.
    fn rolled(&mut self, now: Instant, result: Result<(), RolloutError>) {
        match (&self.state, result) {
            (State::Moving(_), Ok(())) => {
                self.number += 1;
                let rollout = self.change(now, |way| (&way.during, &way.after));
                self.go(now, State::Settling(rollout));
            }
            (State::Settling(_), Ok(())) => {
                self.way = None;
                self.go(now, State::Looking);
            }
            // Whether it is there again or not, it is made what it was.
            (State::Returning(_), result) => {
                if let (Err(error), Some(way)) = (result, &self.way) {
                    let step = format!("service {} may not be on the node where it was", way.after.name);
                    self.left.push(Left { step, why: error.failure.to_string() });
                }
                self.go(now, State::Looking);
            }
            (State::Restoring(_), Ok(())) => self.finish(),
            (State::Restoring(_), Err(error)) => self.leave_service(error.failure.to_string()),
            (_, Err(error)) => self.turn_back(now, error.failure.to_string()),
            (_, Ok(())) => {}
        }
    }

    /// A change of the service on its way.
    fn change(
        &self,
        now: Instant,
        which: impl Fn(&OnItsWay) -> (&ServiceSpec, &ServiceSpec),
    ) -> Box<Rollout> {
        let (before, after) = which(self.way.as_ref().expect("a service is on its way"));
        let step = Step::UpdateService { before: Box::new(before.clone()), after: Box::new(after.clone()) };
        let plan = Plan { steps: vec![step], ..Plan::default() };
        let mut options = RolloutOptions { undo: false, ..self.options.rollout };
        if !matches!(self.state, State::Gates) {
            // What is made as it was has run before.
            options.settle = Duration::ZERO;
        }
        if self.why.is_some() {
            options.limit = options.undo_limit;
        }
        Box::new(Rollout::new(now, &plan, options))
    }

    /// First the node, so that it takes the tasks of a service that did not get away, then that service.
    fn turn_back(&mut self, now: Instant, why: String) {
        self.why = Some(why);
        match (&self.state, &mut self.way) {
            // Nothing of the service was changed yet.
            (State::Gates, way) => *way = None,
            // It has moved, and stays there.
            (State::Settling(_), Some(way)) => way.returns = false,
            _ => {}
        }
        let next = self.work.drain.as_ref().map_or(State::Looking, |(_, before)| State::Changing(*before));
        self.go(now, next);
    }

    /// The next step back, from how the service is found.
    fn put_back(&mut self, now: Instant, view: &View) {
        let Some(way) = &mut self.way else { return };
        let Some(there) = view.present.services.get(&way.after.name) else { return self.finish() };
        if ![&way.before, &way.during, &way.back, &way.after].contains(&there) {
            let why = "somebody else changed it at the same time, and it is left as it is";
            return self.leave_service(why.to_owned());
        }
        way.before = there.clone();
        // What was never changed has not gone anywhere.
        let returns = std::mem::take(&mut way.returns) && way.before != way.after;
        if returns {
            let rollout = self.change(now, |way| (&way.before, &way.back));
            self.go(now, State::Returning(rollout));
        } else {
            let rollout = self.change(now, |way| (&way.before, &way.after));
            self.go(now, State::Restoring(rollout));
        }
    }

    /// The node stays as it is, which is not as it was.
    fn leave_node(&mut self, why: String) {
        if let Some((node, before)) = &self.work.drain {
            let step = format!("~ node {node} (docker node update --availability {before} {node})");
            self.left.push(Left { step, why });
        }
    }

    /// The service on its way stays as it is, and that is the end.
    fn leave_service(&mut self, why: String) {
        if let Some(way) = self.way.take() {
            let step = format!("~ service {} ({})", way.after.name, way.remedy);
            self.left.push(Left { step, why });
        }
        self.finish();
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Instant) {
        loop {
            if let Some(rollout) = self.state.rollout() {
                let mut result = None;
                while let Some(output) = rollout.poll() {
                    match output {
                        rollout::Output::Done(done) => result = Some(done),
                        output => self.outputs.push_back(Output::Rollout(output)),
                    }
                }
                let Some(result) = result else { return };
                self.rolled(now, result);
                continue;
            }
            if self.is_outstanding || matches!(self.state, State::Over) {
                return;
            }
            let is_back = self.why.is_some();
            if self.cancelled > 0 && !is_back {
                self.turn_back(now, "cancelled".to_owned());
            } else if self.cancelled > 1 && is_back {
                if matches!(self.state, State::Changing(_)) {
                    self.leave_node("cancelled".to_owned());
                }
                self.leave_service("cancelled".to_owned());
            } else if now < self.not_before || !self.call(now) {
                return;
            }
        }
    }

    /// Makes the next call, or goes on without one. Returns whether it went on.
    fn call(&mut self, now: Instant) -> bool {
        let is_more =
            if self.why.is_some() { self.way.is_some() } else { self.number < self.work.moves.len() };
        let output = match &self.state {
            State::Changing(wanted) => {
                let node = self.work.drain.as_ref().map_or(String::new(), |(node, _)| node.clone());
                Output::Availability(node, *wanted)
            }
            State::Looking if is_more => Output::Rollout(rollout::Output::Look),
            State::Looking if self.work.drain.is_some() && self.why.is_none() => {
                self.go(now, State::Changing(Availability::Drain));
                return true;
            }
            State::Gates => match self.way.as_ref().and_then(|way| way.handovers.front()) {
                Some(handover) => Output::Gate(handover.clone()),
                None => {
                    let rollout = self.change(now, |way| (&way.before, &way.during));
                    self.go(now, State::Moving(rollout));
                    return true;
                }
            },
            _ => {
                self.finish();
                return true;
            }
        };
        self.outputs.push_back(output);
        self.is_outstanding = true;
        false
    }

    fn finish(&mut self) {
        self.state = State::Over;
        let names = |moves: &[Move]| moves.iter().map(|it| it.service.clone()).collect();
        let result = match self.why.take() {
            None => Ok(()),
            Some(why) => Err(MaintenanceError {
                why,
                moved: names(&self.work.moves[..self.number]),
                remaining: names(&self.work.moves[self.number..]),
                left: std::mem::take(&mut self.left),
            }),
        };
        self.outputs.push_back(Output::Done(result));
    }
}

impl State {
    fn rollout(&mut self) -> Option<&mut Rollout> {
        match self {
            Self::Moving(it) | Self::Settling(it) | Self::Returning(it) | Self::Restoring(it) => Some(it),
            Self::Changing(_) | Self::Looking | Self::Gates | Self::Over => None,
        }
    }
}
