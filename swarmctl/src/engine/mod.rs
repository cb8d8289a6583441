//! The mount engine: takes requests and answers, gives calls to make and replies. It does no I/O, reads
//! no clock and never waits.
//!
//! The caller's loop, whose one rule is to drain the outputs after every input:
//!
//! ```text
//! loop {
//!     wait for a request, an answer, or engine.deadline()
//!     engine.handle(now, input)
//!     while let Some(output) = engine.poll() { do what it says }
//! }
//! ```
//!
//! Every [`Output::Lease`] and [`Output::Backend`] has to be answered exactly once, with a failure when it
//! took too long. At most one is outstanding per volume. `engine/mount.rs` has what happens to one volume.

mod mount;
mod phase;
mod report;
mod users;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::barrier::Barrier;
use crate::config::VolumeOptions;
use crate::error::{AddError, MountError, RemoveError, UnmountError};
use crate::lease::{Grant, LeaseError, Release, Takeover};
use crate::name::{MountId, NodeName, VolumeName};
use crate::volume::BackendError;
use mount::{Context, Volume};
pub use report::{Counters, Event, Step, Unmounted, VolumeStatus};

/// Most volumes on a node.
pub const VOLUMES_MAX: usize = 1024;
/// Most mounts of a volume, with those that wait to be mounted; and most unmounts that wait.
pub const MOUNTS_MAX: usize = 1024;
/// Most nodes that are remembered as down.
pub const NODES_DOWN_MAX: usize = 1024;

/// A request that gets exactly one reply. The caller chooses it, and never one that is still open.
pub type RequestId = u64;

/// A call that was given out. The engine chooses it, and never twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(u64);

/// What happens to the engine.
#[derive(Debug, Clone)]
pub enum Input {
    /// A container is about to use the volume as `id`. Repeats are fine.
    Mount {
        /// Replied to with [`Output::Mounted`].
        request: RequestId,
        /// The volume.
        volume: VolumeName,
        /// The use.
        id: MountId,
    },
    /// The container that used the volume as `id` has ended. Repeats and unknown ids are fine.
    Unmount {
        /// Replied to with [`Output::Unmounted`].
        request: RequestId,
        /// The volume.
        volume: VolumeName,
        /// The use.
        id: MountId,
    },
    /// The caller vouches that no container on this node uses the volume: what an earlier life of this
    /// process may still hold is flushed and released.
    Settle {
        /// Replied to with [`Output::Unmounted`].
        request: RequestId,
        /// The volume.
        volume: VolumeName,
    },
    /// Nobody waits for the mount request any more.
    Cancel {
        /// The request.
        request: RequestId,
    },
    /// The container engine has started anew: all containers that used volumes are gone, and it will not
    /// unmount what they had mounted.
    EngineRestarted,
    /// A node was reported down.
    NodeDown {
        /// The node.
        node: NodeName,
        /// For how long it has certainly not learnt from any manager that it is up; zero if that is not known. It may be told
        /// again, when more is known.
        silent: Duration,
    },
    /// A node was reported ready.
    NodeUp(NodeName),
    /// The answer to an [`Output::Lease`].
    LeaseAnswer {
        /// The volume of the call.
        volume: VolumeName,
        /// The call.
        op: OpId,
        /// The answer.
        answer: LeaseAnswer,
    },
    /// The answer to an [`Output::Backend`].
    BackendAnswer {
        /// The volume of the call.
        volume: VolumeName,
        /// The call.
        op: OpId,
        /// The answer.
        answer: BackendAnswer,
    },
    /// The deadline has come.
    Tick,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Call the lease and hand the answer back.
    Lease {
        /// To be returned with the answer.
        op: OpId,
        /// The volume.
        volume: VolumeName,
        /// The call.
        call: LeaseCall,
    },
    /// Call the volume's backend and hand the answer back.
    Backend {
        /// To be returned with the answer.
        op: OpId,
        /// The volume.
        volume: VolumeName,
        /// The call.
        call: BackendCall,
    },
    /// Reply to a mount request: the directory to mount.
    Mounted {
        /// The request.
        request: RequestId,
        /// The reply.
        result: Result<PathBuf, MountError>,
    },
    /// Reply to an unmount or settle request.
    Unmounted {
        /// The request.
        request: RequestId,
        /// The reply.
        result: Result<Unmounted, UnmountError>,
    },
    /// Tell whoever is interested.
    Event(Event),
}

/// A call of the lease; this node is the holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseCall {
    /// [`crate::Lease::acquire`].
    Acquire {
        /// The highest epoch seen.
        at_least_epoch: u64,
    },
    /// [`crate::Lease::takeover`].
    Takeover {
        /// The epoch of the holder that is gone.
        seen_epoch: u64,
        /// The highest epoch seen.
        at_least_epoch: u64,
    },
    /// [`crate::Lease::release`].
    Release {
        /// The tenure that ends.
        grant: Grant,
        /// How.
        release: Release,
    },
}

/// A call of a [`crate::VolumeBackend`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendCall {
    /// [`seen_epoch`](crate::VolumeBackend::seen_epoch).
    SeenEpoch,
    /// [`catch_up`](crate::VolumeBackend::catch_up).
    CatchUp {
        /// What it must have.
        barrier: Barrier,
        /// When to say that it does not.
        timeout: Duration,
    },
    /// [`open`](crate::VolumeBackend::open).
    Open {
        /// The lease.
        grant: Grant,
    },
    /// [`flush`](crate::VolumeBackend::flush).
    Flush,
    /// [`replicated`](crate::VolumeBackend::replicated).
    Replicated {
        /// What the peers must have.
        barrier: Barrier,
        /// When to say that they do not.
        timeout: Duration,
    },
    /// [`close`](crate::VolumeBackend::close).
    Close,
}

/// The answer to a [`LeaseCall`].
#[derive(Debug, Clone)]
pub enum LeaseAnswer {
    /// To acquire and takeover.
    Granted(Result<Grant, LeaseError>),
    /// To release.
    Released(Result<(), LeaseError>),
}

/// The answer to a [`BackendCall`].
#[derive(Debug, Clone)]
pub enum BackendAnswer {
    /// To `SeenEpoch`.
    SeenEpoch(Result<u64, BackendError>),
    /// To `CatchUp`.
    CaughtUp(Result<(), BackendError>),
    /// To `Open`.
    Opened(Result<PathBuf, BackendError>),
    /// To `Flush`.
    Flushed(Result<Barrier, BackendError>),
    /// To `Replicated`.
    Replicated(Result<BTreeSet<NodeName>, BackendError>),
    /// To `Close`.
    Closed(Result<(), BackendError>),
}

/// The mount engine of one node.
#[derive(Debug)]
pub struct Engine {
    node: NodeName,
    options: VolumeOptions,
    volumes: BTreeMap<VolumeName, Volume>,
    down_since: BTreeMap<NodeName, Instant>,
    outputs: VecDeque<Output>,
    next_op: u64,
    counters: Counters,
}

impl Engine {
    /// An engine without volumes for the node of this name.
    pub fn new(node: NodeName, options: VolumeOptions) -> Self {
        Self {
            node,
            options,
            volumes: BTreeMap::new(),
            down_since: BTreeMap::new(),
            outputs: VecDeque::new(),
            next_op: 0,
            counters: Counters::default(),
        }
    }

    /// Adds a volume, which begins as a follower.
    ///
    /// # Errors
    /// When there is one of that name, or there are [`VOLUMES_MAX`].
    pub fn add(&mut self, volume: VolumeName, takeover: Takeover) -> Result<(), AddError> {
        if self.volumes.contains_key(&volume) {
            return Err(AddError::Exists(volume));
        }
        if self.volumes.len() == VOLUMES_MAX {
            return Err(AddError::TooMany { volume, max: VOLUMES_MAX });
        }
        self.volumes.insert(volume.clone(), Volume::new(volume, takeover));
        Ok(())
    }

    /// Forgets a volume that nobody on this node uses, and of which nothing is left to be released.
    ///
    /// # Errors
    /// When there is none of that name, or it is used.
    pub fn remove(&mut self, volume: &VolumeName) -> Result<(), RemoveError> {
        let state = self.volumes.get(volume).ok_or_else(|| RemoveError::UnknownVolume(volume.clone()))?;
        if !state.is_idle() {
            let doing = state.status().state;
            return Err(RemoveError::InUse { volume: volume.clone(), doing });
        }
        self.volumes.remove(volume);
        Ok(())
    }

    /// Takes an input at the time `now`, which never goes back.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Mount { request, volume, id } => self.mount(now, request, volume, id),
            Input::Unmount { request, volume, id } => {
                self.unmount(now, request, volume, |it, context| it.unmount(context, request, &id));
            }
            Input::Settle { request, volume } => {
                self.unmount(now, request, volume, |it, context| it.settle(context, request));
            }
            Input::Cancel { request } => self.each(now, |it, context| it.cancel(context, request)),
            Input::EngineRestarted => self.each(now, |it, _| it.forget_mounts()),
            Input::NodeDown { node, silent } => {
                let since = now.checked_sub(silent).unwrap_or(now);
                if let Some(known) = self.down_since.get_mut(&node) {
                    *known = since.min(*known);
                } else if self.down_since.len() < NODES_DOWN_MAX {
                    self.down_since.insert(node, since);
                }
                self.each(now, |_, _| {});
            }
            Input::NodeUp(node) => {
                self.down_since.remove(&node);
                self.each(now, |_, _| {});
            }
            Input::LeaseAnswer { volume, op, answer } => {
                self.on(now, &volume, |it, context| it.lease_answer(context, op, answer));
            }
            Input::BackendAnswer { volume, op, answer } => {
                self.on(now, &volume, |it, context| it.backend_answer(context, op, answer));
            }
            Input::Tick => self.each(now, |_, _| {}),
        }
    }

    /// The next thing to do; call it until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.volumes.values().filter_map(Volume::deadline).min()
    }

    /// All volumes, by name.
    pub fn status(&self) -> Vec<VolumeStatus> {
        self.volumes.values().map(Volume::status).collect()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn mount(&mut self, now: Instant, request: RequestId, volume: VolumeName, id: MountId) {
        if !self.on(now, &volume, |it, context| it.mount(context, request, id)) {
            let result = Err(MountError::UnknownVolume(volume.to_string()));
            self.outputs.push_back(Output::Mounted { request, result });
        }
    }

    fn unmount(
        &mut self,
        now: Instant,
        request: RequestId,
        volume: VolumeName,
        action: impl FnOnce(&mut Volume, &mut Context<'_>),
    ) {
        if !self.on(now, &volume, action) {
            let result = Err(UnmountError::UnknownVolume(volume.to_string()));
            self.outputs.push_back(Output::Unmounted { request, result });
        }
    }

    /// Lets something happen to one volume, if it is there, and whatever follows from it.
    fn on(
        &mut self,
        now: Instant,
        name: &VolumeName,
        action: impl FnOnce(&mut Volume, &mut Context<'_>),
    ) -> bool {
        let Some(volume) = self.volumes.get_mut(name) else {
            return false;
        };
        let mut context = Context {
            now,
            node: &self.node,
            options: &self.options,
            down_since: &self.down_since,
            outputs: &mut self.outputs,
            next_op: &mut self.next_op,
            counters: &mut self.counters,
        };
        action(volume, &mut context);
        volume.advance(&mut context);
        true
    }

    fn each(&mut self, now: Instant, action: impl Fn(&mut Volume, &mut Context<'_>)) {
        let names: Vec<VolumeName> = self.volumes.keys().cloned().collect();
        for name in names {
            self.on(now, &name, &action);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::lease::{Refused, Tenure};

    fn engine() -> (Engine, VolumeName, Instant) {
        let mut engine = Engine::new("home-1".parse().unwrap(), VolumeOptions::default());
        let volume: VolumeName = "data".parse().unwrap();
        engine.add(volume.clone(), Takeover::Wait).unwrap();
        (engine, volume, Instant::now())
    }

    fn outputs(engine: &mut Engine) -> Vec<Output> {
        std::iter::from_fn(|| engine.poll()).collect()
    }

    #[test]
    fn volumes_are_bounded() {
        let mut engine = Engine::new("home-1".parse().unwrap(), VolumeOptions::default());
        for n in 0..VOLUMES_MAX {
            engine.add(format!("v{n}").parse().unwrap(), Takeover::Wait).unwrap();
        }
        let error = engine.add("surplus".parse().unwrap(), Takeover::Wait).unwrap_err();
        assert!(matches!(error, AddError::TooMany { max: VOLUMES_MAX, .. }));
    }

    #[test]
    fn waiting_mounts_are_bounded_and_the_surplus_is_told() {
        let (mut engine, volume, now) = engine();
        for n in 0..=MOUNTS_MAX as u64 {
            let id = format!("c{n}").parse().unwrap();
            engine.handle(now, Input::Mount { request: n, volume: volume.clone(), id });
        }
        let refused: Vec<Output> =
            outputs(&mut engine).into_iter().filter(|it| matches!(it, Output::Mounted { .. })).collect();
        let error = MountError::TooMany { volume, max: MOUNTS_MAX };
        assert_eq!(refused, [Output::Mounted { request: MOUNTS_MAX as u64, result: Err(error) }]);
    }

    #[test]
    fn waiting_unmounts_are_bounded_and_the_surplus_is_told() {
        let (mut engine, volume, now) = engine();
        for n in 0..=MOUNTS_MAX as u64 {
            engine.handle(now, Input::Settle { request: n, volume: volume.clone() });
        }
        let refused: Vec<Output> =
            outputs(&mut engine).into_iter().filter(|it| matches!(it, Output::Unmounted { .. })).collect();
        let error = UnmountError::TooMany { volume, max: MOUNTS_MAX };
        assert_eq!(refused, [Output::Unmounted { request: MOUNTS_MAX as u64, result: Err(error) }]);
    }

    #[test]
    fn nodes_that_are_down_are_bounded() {
        let (mut engine, _, now) = engine();
        for n in 0..NODES_DOWN_MAX + 5 {
            let node = format!("n{n}").parse().unwrap();
            engine.handle(now, Input::NodeDown { node, silent: Duration::ZERO });
        }
        assert_eq!(engine.down_since.len(), NODES_DOWN_MAX);
    }

    #[test]
    fn answers_to_no_call_or_of_the_wrong_kind_are_counted_and_change_nothing() {
        let (mut engine, volume, now) = engine();
        engine.handle(now, Input::Mount { request: 1, volume: volume.clone(), id: "c1".parse().unwrap() });
        let Some(Output::Backend { op, .. }) = engine.poll() else { panic!("it asks for the epoch first") };
        for (op, answer) in [
            (OpId(op.0 + 1), BackendAnswer::SeenEpoch(Ok(7))),
            (op, BackendAnswer::Opened(Ok("/elsewhere".into()))),
        ] {
            engine.handle(now, Input::BackendAnswer { volume: volume.clone(), op, answer });
        }
        assert_eq!(outputs(&mut engine), []);
        assert_eq!(engine.counters().answers_ignored, 2);
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let (mut engine, volume, now) = engine();
        engine.handle(now, Input::Mount { request: 1, volume: volume.clone(), id: "c1".parse().unwrap() });
        let Some(Output::Backend { op, .. }) = engine.poll() else { panic!("it asks for the epoch first") };
        let answer = BackendAnswer::SeenEpoch(Err(BackendError::failed("ä".repeat(10_000))));
        engine.handle(now, Input::BackendAnswer { volume, op, answer });
        let reason = outputs(&mut engine).into_iter().find_map(|output| match output {
            Output::Event(Event::Failed { reason, .. }) => Some(reason),
            _ => None,
        });
        assert_eq!(reason.unwrap().chars().count(), 256);
    }

    /// The next call, once the events before it are drained.
    fn call(engine: &mut Engine) -> Output {
        let calls: Vec<Output> = outputs(engine)
            .into_iter()
            .filter(|it| matches!(it, Output::Lease { .. } | Output::Backend { .. }))
            .collect();
        let [call] = &calls[..] else { panic!("one call at a time: {calls:?}") };
        call.clone()
    }

    #[test]
    fn a_takeover_counts_from_when_the_holder_was_last_told_that_it_is_up_if_that_is_known() {
        for silent in [0, 8] {
            let (mut engine, _, began) = engine();
            let volume: VolumeName = "git".parse().unwrap();
            let takeover = Takeover::NewestReplica { after: Duration::from_secs(10) };
            engine.add(volume.clone(), takeover).unwrap();
            let holder: NodeName = "home-2".parse().unwrap();
            let down = |silent| Input::NodeDown { node: holder.clone(), silent: Duration::from_secs(silent) };
            engine.handle(began, down(0));
            engine.handle(began, down(silent));
            // Less is known than before: that changes nothing.
            engine.handle(began, down(0));
            engine.handle(
                began,
                Input::Mount { request: 1, volume: volume.clone(), id: "c1".parse().unwrap() },
            );
            let Output::Backend { op, .. } = call(&mut engine) else { panic!("it asks for the epoch first") };
            let answer = BackendAnswer::SeenEpoch(Ok(0));
            engine.handle(began, Input::BackendAnswer { volume: volume.clone(), op, answer });
            let mut now = began;
            let took_over = loop {
                let Output::Lease { op, call, .. } = call(&mut engine) else { panic!("a call of the lease") };
                if matches!(call, LeaseCall::Takeover { .. }) {
                    break now - began;
                }
                let held = Refused::Held { by: holder.clone(), epoch: 1 };
                let answer = LeaseAnswer::Granted(Err(held.into()));
                engine.handle(now, Input::LeaseAnswer { volume: volume.clone(), op, answer });
                now = engine.deadline().expect("it asks again");
                engine.handle(now, Input::Tick);
            };
            assert_eq!(took_over.as_secs(), 10 - silent);
        }
    }

    #[test]
    fn a_takeover_whose_open_failed_is_tried_again_and_not_given_back() {
        let (mut engine, volume, now) = engine();
        let answer = |engine: &mut Engine, now: Instant, answer: BackendAnswer| {
            let Output::Backend { op, volume, .. } = call(engine) else { panic!("a call of the backend") };
            engine.handle(now, Input::BackendAnswer { volume, op, answer });
        };
        engine.handle(now, Input::Mount { request: 1, volume: volume.clone(), id: "c1".parse().unwrap() });
        answer(&mut engine, now, BackendAnswer::SeenEpoch(Ok(1)));
        let Output::Lease { op, .. } = call(&mut engine) else { panic!("a call of the lease") };
        let gone = Tenure { holder: "home-2".parse().unwrap(), epoch: 1 };
        let grant = Grant {
            volume: volume.clone(),
            holder: "home-1".parse().unwrap(),
            epoch: 2,
            barrier: None,
            unreleased: vec![gone],
            store_behind: false,
        };
        engine.handle(now, Input::LeaseAnswer { volume, op, answer: LeaseAnswer::Granted(Ok(grant)) });
        answer(&mut engine, now, BackendAnswer::Opened(Err(BackendError::failed("disk full"))));
        answer(&mut engine, now, BackendAnswer::Closed(Ok(())));
        let again = engine.deadline().expect("it is tried again");
        engine.handle(again, Input::Tick);
        let call = call(&mut engine);
        assert!(matches!(call, Output::Backend { call: BackendCall::Open { .. }, .. }), "{call:?}");
    }

    #[test]
    fn what_this_node_wrote_before_it_died_is_flushed_though_its_mount_is_called_off() {
        for (holder, is_flushed) in [("home-1", true), ("home-2", false)] {
            let (mut engine, volume, now) = engine();
            let mount = Input::Mount { request: 1, volume: volume.clone(), id: "c1".parse().unwrap() };
            engine.handle(now, mount);
            let Output::Backend { op, .. } = call(&mut engine) else { panic!("a call of the backend") };
            let answer = BackendAnswer::SeenEpoch(Ok(1));
            engine.handle(now, Input::BackendAnswer { volume: volume.clone(), op, answer });
            let Output::Lease { op, .. } = call(&mut engine) else { panic!("a call of the lease") };
            engine.handle(now, Input::Cancel { request: 1 });
            let grant = Grant {
                volume: volume.clone(),
                holder: "home-1".parse().unwrap(),
                epoch: 2,
                barrier: None,
                unreleased: vec![Tenure { holder: holder.parse().unwrap(), epoch: 1 }],
                store_behind: false,
            };
            engine.handle(now, Input::LeaseAnswer { volume, op, answer: LeaseAnswer::Granted(Ok(grant)) });
            let call = call(&mut engine);
            let opens = matches!(call, Output::Backend { call: BackendCall::Open { .. }, .. });
            assert_eq!(opens, is_flushed, "{call:?}");
        }
    }

    #[test]
    fn an_acquire_whose_answer_was_lost_is_cleared_up_though_nobody_waits_any_more() {
        let (mut engine, volume, now) = engine();
        engine.handle(now, Input::Mount { request: 1, volume: volume.clone(), id: "c1".parse().unwrap() });
        let Output::Backend { op, .. } = call(&mut engine) else { panic!("a call of the backend") };
        let answer = BackendAnswer::SeenEpoch(Ok(0));
        engine.handle(now, Input::BackendAnswer { volume: volume.clone(), op, answer });
        let Output::Lease { op, .. } = call(&mut engine) else { panic!("a call of the lease") };
        let lost = LeaseError::Unavailable { reason: "no answer".to_owned() };
        engine.handle(now, Input::LeaseAnswer { volume, op, answer: LeaseAnswer::Granted(Err(lost)) });
        engine.handle(now, Input::Cancel { request: 1 });
        let again = engine.deadline().expect("it is tried again");
        outputs(&mut engine);
        engine.handle(again, Input::Tick);
        let call = call(&mut engine);
        assert!(matches!(call, Output::Lease { call: LeaseCall::Acquire { .. }, .. }), "{call:?}");
    }
}
