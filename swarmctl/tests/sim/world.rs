//! The world: nodes with an engine, a replica and containers each; one lease record; a queue of what
//! happens when. Holds the invariants, which are checked whenever something happens.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use swarmctl::engine::{
    BackendAnswer, BackendCall, Engine, Event, Input, LeaseAnswer, LeaseCall, OpId, Output, RequestId,
    Unmounted,
};
use swarmctl::error::{MountError, UnmountError};
use swarmctl::lease::{self, LeaseError, LeaseState, Release};
use swarmctl::{BackendError, Barrier, MountId, NodeName, Takeover, VolumeName, VolumeOptions};

use crate::random::Random;
use crate::replica::Replica;

/// How likely what goes wrong, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    call: u64,
    crash: u64,
    partition: u64,
    cancel: u64,
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self { call: 0, crash: 0, partition: 0, cancel: 0 }
    }

    /// Every kind; by seed, calls fail often, seldom or never, and nodes crash or do not.
    pub(crate) fn all(seed: u64) -> Self {
        let crash = if seed.is_multiple_of(2) { 3 } else { 0 };
        Self { call: [0, 2, 8][seed as usize % 3], crash, partition: 6, cancel: 4 }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) mounted: u64,
    pub(crate) failed: u64,
    pub(crate) timed_out: u64,
    pub(crate) cancelled: u64,
    pub(crate) released: u64,
    pub(crate) not_replicated: u64,
    pub(crate) lease_lost: u64,
    pub(crate) crashes: u64,
    pub(crate) taken_over: u64,
    pub(crate) announced: u64,
    pub(crate) set_aside: u64,
}

impl Stats {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { mounted, failed, timed_out, cancelled, released, .. } = other;
        self.mounted += mounted;
        self.failed += failed;
        self.timed_out += timed_out;
        self.cancelled += cancelled;
        self.released += released;
        self.not_replicated += other.not_replicated;
        self.lease_lost += other.lease_lost;
        self.crashes += other.crashes;
        self.taken_over += other.taken_over;
        self.announced += other.announced;
        self.set_aside += other.set_aside;
    }
}

/// A request that has no reply yet.
#[derive(Debug)]
struct Pending {
    mount: Option<MountId>,
    due: Instant,
}

#[derive(Debug)]
struct Node {
    name: NodeName,
    /// `None` while it is down.
    engine: Option<Engine>,
    /// Counts its lives: what was begun in an earlier one has no one to answer to.
    life: u64,
    replica: Replica,
    containers: BTreeSet<MountId>,
    pending: BTreeMap<RequestId, Pending>,
    connected: bool,
}

#[derive(Debug)]
enum Happening {
    Act,
    Replicate,
    Restart(usize),
    Tick(usize),
    Lease { node: usize, life: u64, op: OpId, call: LeaseCall },
    Backend { node: usize, life: u64, op: OpId, call: BackendCall, polls: u32 },
    Answer { node: usize, life: u64, input: Input },
    Reported { about: usize, down: bool },
}

pub(crate) struct World {
    random: Random,
    faults: Faults,
    takeover: Takeover,
    options: VolumeOptions,
    now: Instant,
    start: Instant,
    queue: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    volume: VolumeName,
    record: LeaseState,
    epochs: BTreeSet<u64>,
    barriers: BTreeMap<String, BTreeSet<u64>>,
    nodes: Vec<Node>,
    /// Every write of a container, by the node that wrote it.
    written: BTreeMap<u64, usize>,
    /// The nodes whose last writes were said to be possibly missing.
    announced: BTreeSet<NodeName>,
    acting: bool,
    pub(crate) stats: Stats,
    pub(crate) trace: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, takeover: Takeover, faults: Faults) -> Self {
        let start = Instant::now();
        let volume: VolumeName = "data".parse().unwrap();
        let mut world = Self {
            random: Random::new(seed),
            faults,
            takeover,
            options: VolumeOptions::default(),
            now: start,
            start,
            queue: BTreeMap::new(),
            sequence: 0,
            record: LeaseState::vacant(volume.clone()),
            volume,
            epochs: BTreeSet::new(),
            barriers: BTreeMap::new(),
            nodes: Vec::new(),
            written: BTreeMap::new(),
            announced: BTreeSet::new(),
            acting: true,
            stats: Stats::default(),
            trace: Vec::new(),
        };
        for index in 0..nodes {
            let name: NodeName = format!("home-{index}").parse().unwrap();
            world.nodes.push(Node {
                engine: Some(world.engine(&name)),
                name,
                life: 0,
                replica: Replica::default(),
                containers: BTreeSet::new(),
                pending: BTreeMap::new(),
                connected: true,
            });
        }
        world.after(100, Happening::Act);
        world.after(100, Happening::Replicate);
        world
    }

    /// Lets the world go on for a while.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
            self.check();
        }
        self.now = end;
    }

    /// No more faults, no more containers: everything must come to rest, with the lease free; and then every
    /// node can mount the volume.
    pub(crate) fn heal_and_finish(&mut self) {
        (self.acting, self.faults) = (false, Faults::none());
        for node in &mut self.nodes {
            node.connected = true;
        }
        self.run(Duration::from_secs(180));
        for index in 0..self.nodes.len() {
            for id in self.nodes[index].containers.clone() {
                self.unmount(index, id);
            }
        }
        self.run(Duration::from_secs(180));
        // A node that has crashed may hold a lease that it knows nothing of. Any other has to come to rest on
        // its own, whatever answers were lost.
        for index in 0..self.nodes.len() {
            if self.nodes[index].life > 0 {
                let volume = self.volume.clone();
                self.request(index, None, |request| Input::Settle { request, volume });
            }
        }
        self.run(Duration::from_secs(180));
        assert_eq!(self.record.holder, None, "the lease is free in the end: {:?}", self.statuses());
        for index in 0..self.nodes.len() {
            let before = self.stats.mounted;
            self.mount(index, "last".parse().unwrap());
            self.run(Duration::from_secs(60));
            assert_eq!(self.stats.mounted, before + 1, "{:?}", self.statuses());
            self.unmount(index, "last".parse().unwrap());
            self.run(Duration::from_secs(60));
            assert_eq!(self.record.holder, None, "{:?}", self.statuses());
        }
        for node in &self.nodes {
            assert!(node.pending.is_empty(), "a request of {} was never answered", node.name);
        }
    }

    fn statuses(&self) -> Vec<String> {
        let status = |node: &Node| format!("{} {:?}", node.name, node.engine.as_ref().map(Engine::status));
        self.nodes.iter().map(status).chain([format!("{:?}", self.record)]).collect()
    }

    /// What must hold at every moment.
    fn check(&self) {
        let open: Vec<&Node> = self.nodes.iter().filter(|node| node.replica.open.is_some()).collect();
        let epochs: BTreeSet<u64> = open.iter().filter_map(|node| node.replica.open).collect();
        assert_eq!(epochs.len(), open.len(), "two writers of one epoch");
        if self.takeover == Takeover::Wait {
            assert!(open.len() <= 1, "two writers: {open:?}");
            if self.record.holder.is_none() {
                let released = self.record.barrier.as_ref().map_or(0, |it| self.barriers[it.as_str()].len());
                assert_eq!(released, self.written.len(), "the lease is free, but its barrier lacks writes");
            }
        }
        for node in &self.nodes {
            for (request, pending) in &node.pending {
                assert!(self.now <= pending.due, "request {request} of {} has no reply in time", node.name);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Act => self.act(),
            Happening::Replicate => self.replicate(),
            Happening::Restart(index) => self.restart(index),
            Happening::Tick(index) => self.tick(index),
            Happening::Lease { node, life, op, call } => self.lease_call(node, life, op, &call),
            Happening::Backend { node, life, op, call, polls } => {
                self.backend_call(node, life, op, call, polls);
            }
            Happening::Answer { node, life, input } => {
                if self.nodes[node].life == life {
                    self.handle(node, input);
                }
            }
            Happening::Reported { about, down } => {
                let name = self.nodes[about].name.clone();
                for index in 0..self.nodes.len() {
                    let name = name.clone();
                    self.handle(
                        index,
                        if down {
                            Input::NodeDown { node: name, silent: Duration::ZERO }
                        } else {
                            Input::NodeUp(name)
                        },
                    );
                }
            }
        }
    }

    /// Something that Docker, a container, or bad luck does.
    fn act(&mut self) {
        if !self.acting {
            return;
        }
        let quiet = self.random.percent(4);
        let pause = 200 + self.random.below(if quiet { 120_000 } else { 4_000 });
        self.after(pause, Happening::Act);
        let index = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap();
        if self.random.percent(self.faults.crash) {
            return self.crash(index);
        }
        if self.random.percent(self.faults.partition) {
            // A node that is cut off goes on, and Swarm takes it for dead.
            self.nodes[index].connected ^= true;
            let down = !self.nodes[index].connected;
            self.after(400, Happening::Reported { about: index, down });
        }
        if self.random.percent(self.faults.cancel)
            && let Some((request, _)) = self.nodes[index].pending.iter().find(|(_, it)| it.mount.is_some())
        {
            let request = *request;
            return self.handle(index, Input::Cancel { request });
        }
        let used: Vec<MountId> = self.nodes[index].containers.iter().cloned().collect();
        match (used.first(), self.random.below(10)) {
            (Some(id), 0..4) => self.unmount(index, id.clone()),
            (Some(id), 4) => self.mount(index, id.clone()),
            (Some(_), 5) if self.faults.crash > 0 => {
                self.nodes[index].containers.clear();
                self.handle(index, Input::EngineRestarted);
            }
            (Some(_), 6..9) => self.write(index),
            (None, 0) => self.unmount(index, "never-mounted".parse().unwrap()),
            (_, _) if self.nodes[index].pending.len() < 4 => {
                let id = format!("c{}", self.sequence).parse().unwrap();
                self.mount(index, id);
            }
            _ => {}
        }
    }

    fn write(&mut self, index: usize) {
        let write = self.written.len() as u64;
        self.written.insert(write, index);
        self.nodes[index].replica.writes.insert(write);
    }

    fn replicate(&mut self) {
        self.after(300, Happening::Replicate);
        for to in 0..self.nodes.len() {
            for from in 0..self.nodes.len() {
                let up = |it: &Node| it.connected && it.engine.is_some();
                if from != to && up(&self.nodes[from]) && up(&self.nodes[to]) && !self.random.percent(30) {
                    let other = self.nodes[from].replica.clone();
                    self.nodes[to].replica.pull(&other);
                }
            }
        }
        self.stats.set_aside = self.nodes.iter().map(|node| node.replica.set_aside.len() as u64).sum();
    }

    fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.engine.take().is_none() {
            return;
        }
        node.life += 1;
        node.replica.open = None;
        node.containers.clear();
        node.pending.clear();
        self.stats.crashes += 1;
        let down = 500 + self.random.below(60_000);
        self.after(400, Happening::Reported { about: index, down: true });
        self.after(down, Happening::Restart(index));
    }

    fn restart(&mut self, index: usize) {
        let engine = self.engine(&self.nodes[index].name);
        self.nodes[index].engine = Some(engine);
        self.after(400, Happening::Reported { about: index, down: false });
        if self.random.percent(50) {
            let volume = self.volume.clone();
            self.request(index, None, |request| Input::Settle { request, volume });
        }
    }

    fn engine(&self, name: &NodeName) -> Engine {
        let mut engine = Engine::new(name.clone(), self.options.clone());
        engine.add(self.volume.clone(), self.takeover).unwrap();
        engine
    }

    fn mount(&mut self, index: usize, id: MountId) {
        let volume = self.volume.clone();
        self.request(index, Some(id.clone()), |request| Input::Mount { request, volume, id });
    }

    /// The container has ended, and its engine says so.
    fn unmount(&mut self, index: usize, id: MountId) {
        self.nodes[index].containers.remove(&id);
        let volume = self.volume.clone();
        self.request(index, None, |request| Input::Unmount { request, volume, id });
    }

    fn request(&mut self, index: usize, mount: Option<MountId>, input: impl FnOnce(RequestId) -> Input) {
        if self.nodes[index].engine.is_none() {
            return;
        }
        let request = self.sequence;
        self.sequence += 1;
        let deadline =
            if mount.is_some() { self.options.mount_deadline } else { self.options.unmount_deadline };
        self.nodes[index].pending.insert(request, Pending { mount, due: self.now + deadline });
        self.handle(index, input(request));
    }

    fn tick(&mut self, index: usize) {
        let due = self.nodes[index].engine.as_ref().and_then(Engine::deadline);
        if due.is_some_and(|at| at <= self.now) {
            self.handle(index, Input::Tick);
        }
    }

    fn handle(&mut self, index: usize, input: Input) {
        self.trace.push(format!("{:?} {index} {input:?}", self.now - self.start));
        let Some(engine) = &mut self.nodes[index].engine else {
            return;
        };
        engine.handle(self.now, input);
        let mut outputs = Vec::new();
        while let Some(output) = engine.poll() {
            outputs.push(output);
        }
        if let Some(at) = engine.deadline() {
            assert!(at > self.now, "a deadline that has passed would make the loop spin");
            self.sequence += 1;
            self.queue.insert((at, self.sequence), Happening::Tick(index));
        }
        for output in outputs {
            self.output(index, output);
        }
    }

    fn output(&mut self, node: usize, output: Output) {
        let life = self.nodes[node].life;
        let slow = self.random.percent(5);
        let delay = 1 + self.random.below(if slow { 15_000 } else { 50 });
        match output {
            Output::Lease { op, call, .. } => self.after(delay, Happening::Lease { node, life, op, call }),
            Output::Backend { op, call, .. } => {
                self.after(delay, Happening::Backend { node, life, op, call, polls: 0 });
            }
            Output::Mounted { request, result } => self.mounted(node, request, result),
            Output::Unmounted { request, result } => self.unmounted(node, request, result),
            Output::Event(Event::Unreleased { tenure, .. }) => {
                self.stats.announced += 1;
                self.announced.insert(tenure.holder);
            }
            Output::Event(Event::LeaseLost { .. }) => {
                self.stats.lease_lost += 1;
                let name = self.nodes[node].name.clone();
                self.announced.insert(name);
            }
            Output::Event(_) => {}
        }
    }

    fn mounted(&mut self, index: usize, request: RequestId, result: Result<PathBuf, MountError>) {
        let pending = self.nodes[index].pending.remove(&request).expect("one reply to each request");
        match result {
            Ok(_) => {
                self.stats.mounted += 1;
                self.check_mounted(index);
                self.nodes[index].containers.insert(pending.mount.expect("it was a mount request"));
            }
            Err(MountError::TimedOut { .. }) => self.stats.timed_out += 1,
            Err(MountError::Cancelled(_)) => self.stats.cancelled += 1,
            Err(_) => self.stats.failed += 1,
        }
    }

    /// A container is about to see this replica.
    fn check_mounted(&self, index: usize) {
        let node = &self.nodes[index];
        assert!(node.replica.open.is_some(), "mounted, but the replica is not the writer");
        if let Some(barrier) = &self.record.barrier
            && self.record.holder.as_ref() == Some(&node.name)
        {
            let promised = &self.barriers[barrier.as_str()];
            assert!(promised.is_subset(&node.replica.writes), "mounted without what the barrier names");
        }
        // A node that is cut off does not know that its lease was taken over, and goes on with what it has.
        if node.replica.open != Some(self.record.epoch) {
            assert_ne!(self.takeover, Takeover::Wait, "a writer was passed over though nobody may");
            return;
        }
        for (write, writer) in &self.written {
            let announced = self.announced.contains(&self.nodes[*writer].name);
            let excused = self.takeover != Takeover::Wait && announced;
            let present = node.replica.writes.contains(write);
            assert!(
                present || excused,
                "write {write} of node {writer} is missing on node {index}, silently"
            );
        }
    }

    fn unmounted(&mut self, index: usize, request: RequestId, result: Result<Unmounted, UnmountError>) {
        let pending = self.nodes[index].pending.remove(&request).expect("one reply to each request");
        assert!(pending.mount.is_none(), "it was not a mount request");
        match result {
            Ok(Unmounted::Released { .. }) => self.stats.released += 1,
            Err(UnmountError::NotReplicated { .. }) => self.stats.not_replicated += 1,
            _ => {}
        }
    }

    /// Whether a call fails, and if so, whether it takes effect all the same.
    fn fate(&mut self) -> (bool, bool) {
        let fails = self.random.percent(self.faults.call);
        (fails, !fails || self.random.percent(50))
    }

    fn lease_call(&mut self, node: usize, life: u64, op: OpId, call: &LeaseCall) {
        let (mut fails, mut takes_effect) = self.fate();
        if !self.nodes[node].connected {
            (fails, takes_effect) = (true, false);
        }
        let holder = self.nodes[node].name.clone();
        let mut record = self.record.clone();
        let granted = match call {
            LeaseCall::Acquire { at_least_epoch } => Some(lease::acquire(&record, &holder, *at_least_epoch)),
            LeaseCall::Takeover { seen_epoch, at_least_epoch } => {
                Some(lease::takeover(&record, &holder, *seen_epoch, *at_least_epoch))
            }
            LeaseCall::Release { .. } => None,
        };
        let lost = || LeaseError::Unavailable { reason: "no answer".to_owned() };
        let answer = match (granted, call) {
            (Some(granted), _) => {
                LeaseAnswer::Granted(granted.map_err(LeaseError::from).map(|(after, grant)| {
                    if takes_effect {
                        assert!(self.epochs.insert(grant.epoch), "epoch {} was granted twice", grant.epoch);
                        self.stats.taken_over += u64::from(matches!(call, LeaseCall::Takeover { .. }));
                        record = after;
                    }
                    grant
                }))
            }
            (None, LeaseCall::Release { grant, release }) => {
                let result = lease::release(&record, grant, release).map_err(LeaseError::from);
                LeaseAnswer::Released(result.map(|after| {
                    if takes_effect {
                        if matches!(release, Release::Flushed { .. }) {
                            assert_eq!(
                                self.nodes[node].replica.open, None,
                                "released while still the writer"
                            );
                        }
                        record = after;
                    }
                }))
            }
            (None, _) => unreachable!("only a release is not a grant"),
        };
        self.record = record;
        let answer = match (fails, answer) {
            (false, answer) => answer,
            (true, LeaseAnswer::Granted(_)) => LeaseAnswer::Granted(Err(lost())),
            (true, LeaseAnswer::Released(_)) => LeaseAnswer::Released(Err(lost())),
        };
        let input = Input::LeaseAnswer { volume: self.volume.clone(), op, answer };
        self.answer(node, life, input);
    }

    fn backend_call(&mut self, node: usize, life: u64, op: OpId, call: BackendCall, polls: u32) {
        if self.nodes[node].life != life {
            return;
        }
        if let BackendCall::CatchUp { barrier, .. } | BackendCall::Replicated { barrier, .. } = &call {
            let reached = match &call {
                BackendCall::CatchUp { .. } => self.holders(barrier).contains(&self.nodes[node].name),
                _ => self.holders(barrier).len() > 1 || self.nodes[node].replica.fenced().is_some(),
            };
            if !reached && polls < 20 {
                return self.after(100, Happening::Backend { node, life, op, call, polls: polls + 1 });
            }
        }
        let (fails, takes_effect) = self.fate();
        let failure = || BackendError::failed("injected");
        let result = if takes_effect { self.apply(node, &call) } else { Err(failure()) };
        let answer = if fails { answer_to(&call, Err(failure())) } else { answer_to(&call, result) };
        let input = Input::BackendAnswer { volume: self.volume.clone(), op, answer };
        self.answer(node, life, input);
    }

    fn apply(&mut self, node: usize, call: &BackendCall) -> Result<Value, BackendError> {
        let name = self.nodes[node].name.clone();
        let replica = &mut self.nodes[node].replica;
        let fenced = replica.fenced().map(|seen| BackendError::Fenced { seen });
        match call {
            BackendCall::SeenEpoch => Ok(Value::Epoch(replica.seen_epoch)),
            BackendCall::Open { grant } => match replica.open(grant.epoch) {
                Ok(()) => Ok(Value::Path("/volumes/data".into())),
                Err(seen) => Err(BackendError::Fenced { seen }),
            },
            BackendCall::Close => {
                replica.open = None;
                Ok(Value::Nothing)
            }
            BackendCall::Flush => {
                if let Some(fenced) = fenced {
                    return Err(fenced);
                }
                let barrier = Barrier::new(format!("b{}", self.barriers.len())).unwrap();
                self.barriers.insert(barrier.to_string(), replica.writes.clone());
                Ok(Value::Barrier(barrier))
            }
            BackendCall::CatchUp { barrier, .. } => {
                let reached = self.holders(barrier).contains(&name);
                if reached { Ok(Value::Nothing) } else { Err(BackendError::behind("changes")) }
            }
            BackendCall::Replicated { barrier, .. } => {
                if let Some(fenced) = fenced {
                    return Err(fenced);
                }
                let holders = self.holders(barrier);
                let enough = holders.len() > 1;
                if enough { Ok(Value::Nodes(holders)) } else { Err(BackendError::behind("the others")) }
            }
        }
    }

    fn holders(&self, barrier: &Barrier) -> BTreeSet<NodeName> {
        let writes = &self.barriers[barrier.as_str()];
        let holds = |node: &&Node| writes.is_subset(&node.replica.writes);
        self.nodes.iter().filter(holds).map(|node| node.name.clone()).collect()
    }

    fn answer(&mut self, node: usize, life: u64, input: Input) {
        let delay = 1 + self.random.below(20);
        self.after(delay, Happening::Answer { node, life, input });
    }

    fn after(&mut self, millis: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + Duration::from_millis(millis), self.sequence), happening);
    }
}

enum Value {
    Nothing,
    Epoch(u64),
    Path(PathBuf),
    Barrier(Barrier),
    Nodes(BTreeSet<NodeName>),
}

fn answer_to(call: &BackendCall, result: Result<Value, BackendError>) -> BackendAnswer {
    macro_rules! value {
        ($variant:ident) => {
            result.map(|value| match value {
                Value::$variant(value) => value,
                _ => unreachable!("each call has one kind of value"),
            })
        };
    }
    match call {
        BackendCall::SeenEpoch => BackendAnswer::SeenEpoch(value!(Epoch)),
        BackendCall::CatchUp { .. } => BackendAnswer::CaughtUp(result.map(|_| ())),
        BackendCall::Open { .. } => BackendAnswer::Opened(value!(Path)),
        BackendCall::Flush => BackendAnswer::Flushed(value!(Barrier)),
        BackendCall::Replicated { .. } => BackendAnswer::Replicated(value!(Nodes)),
        BackendCall::Close => BackendAnswer::Closed(result.map(|_| ())),
    }
}
