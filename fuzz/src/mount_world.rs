//! Two nodes that mount one volume, on one lease: the fuzz input says what is asked for, in which order calls are answered,
//! which of them fail, and how time passes. The world checks what the mount engine promises.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use swarmctl::engine::{
    BackendAnswer, BackendCall, Engine, Input as Request, LeaseAnswer, LeaseCall, OpId, Output, RequestId,
};
use swarmctl::lease::{self, Grant, LeaseError, LeaseState, Release, Takeover};
use swarmctl::{BackendError, Barrier, MountId, NodeName, VolumeName, VolumeOptions};

use crate::Seed;
use crate::input::Input;

const NODES: [&str; 2] = ["home-1", "home-2"];
/// No input needs more; keeps one run short.
const OPERATIONS_MAX: usize = 400;

/// Operations on two engines: every request gets exactly one reply, in bounded time; no epoch has two writers; no writer
/// begins without the barrier of the tenure before; no lease is released before its data is replicated.
pub fn mount(data: &[u8]) {
    play(data);
}

fn play(data: &[u8]) -> World {
    let mut input = Input::new(data);
    let mut world = World::new(input.byte());
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        world.operate(&mut input);
    }
    world.come_to_rest();
    world
}

struct World {
    now: Instant,
    volume: VolumeName,
    lease: LeaseState,
    nodes: [Node; 2],
    writers: BTreeMap<u64, usize>,
    replicated: BTreeSet<String>,
    requests: u64,
    flushes: u64,
}

struct Node {
    name: NodeName,
    engine: Engine,
    calls: Vec<(OpId, Call)>,
    answered: Vec<(OpId, Call)>,
    open_requests: BTreeSet<RequestId>,
    seen_epoch: u64,
    open: Option<u64>,
    /// Barriers that its replica has.
    has: BTreeSet<String>,
    /// What it has to have before it writes under an epoch.
    needs: BTreeMap<u64, Option<Barrier>>,
}

#[derive(Clone)]
enum Call {
    Lease(LeaseCall),
    Backend(BackendCall),
}

/// How a call is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Succeeds,
    Fails,
    /// It is carried out, but the answer says that it failed.
    LosesItsAnswer,
}

impl World {
    fn new(policy: u8) -> Self {
        let volume: VolumeName = "data".parse().expect("a valid name");
        let takeover = match policy % 2 {
            0 => Takeover::Wait,
            _ => Takeover::NewestReplica { after: Duration::from_secs(5) },
        };
        let nodes = NODES.map(|name| {
            let name: NodeName = name.parse().expect("a valid name");
            let mut engine = Engine::new(name.clone(), VolumeOptions::default());
            engine.add(volume.clone(), takeover).expect("the first volume");
            Node {
                name,
                engine,
                calls: Vec::new(),
                answered: Vec::new(),
                open_requests: BTreeSet::new(),
                seen_epoch: 0,
                open: None,
                has: BTreeSet::new(),
                needs: BTreeMap::new(),
            }
        });
        Self {
            now: origin(),
            lease: LeaseState::vacant(volume.clone()),
            volume,
            nodes,
            writers: BTreeMap::new(),
            replicated: BTreeSet::new(),
            requests: 0,
            flushes: 0,
        }
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        let at = usize::from(operation >> 7);
        let other = self.nodes[1 - at].name.clone();
        let id: MountId = ["m1", "m2", "m3"][usize::from(input.byte() % 3)].parse().expect("a valid id");
        let volume = self.volume.clone();
        match operation % 12 {
            0 | 1 => self.request(at, |request| Request::Mount { request, volume, id }),
            2 | 3 => self.request(at, |request| Request::Unmount { request, volume, id }),
            4 => self.request(at, |request| Request::Settle { request, volume }),
            5 => self.answer(at, Fate::Fails),
            6 => self.answer(at, Fate::LosesItsAnswer),
            7 => {
                let waited = Duration::from_millis(u64::from(input.u16()));
                self.now += waited;
                self.handle(at, Request::Tick);
            }
            8 => {
                if let Some(request) = self.nodes[at].open_requests.first().copied() {
                    self.handle(at, Request::Cancel { request });
                }
            }
            9 => match input.byte() % 3 {
                0 => self.handle(at, Request::NodeDown { node: other, silent: Duration::ZERO }),
                1 => self.handle(at, Request::NodeUp(other)),
                _ => self.handle(at, Request::EngineRestarted),
            },
            10 => self.answer_again(at),
            _ => self.answer(at, Fate::Succeeds),
        }
    }

    fn request(&mut self, at: usize, request: impl FnOnce(RequestId) -> Request) {
        self.requests += 1;
        self.nodes[at].open_requests.insert(self.requests);
        self.handle(at, request(self.requests));
    }

    fn handle(&mut self, at: usize, input: Request) {
        let node = &mut self.nodes[at];
        node.engine.handle(self.now, input);
        while let Some(output) = node.engine.poll() {
            match output {
                Output::Lease { op, call, .. } => node.calls.push((op, Call::Lease(call))),
                Output::Backend { op, call, .. } => node.calls.push((op, Call::Backend(call))),
                Output::Mounted { request, result } => {
                    assert!(node.open_requests.remove(&request), "a second reply to {request}");
                    assert!(result.is_err() || node.open.is_some(), "mounted, but not open");
                }
                Output::Unmounted { request, .. } => {
                    assert!(node.open_requests.remove(&request), "a second reply to {request}");
                }
                Output::Event(_) => {}
            }
        }
        assert!(node.calls.len() <= 1, "two calls are outstanding for one volume");
    }

    fn answer(&mut self, at: usize, fate: Fate) {
        let Some((op, call)) = self.nodes[at].calls.pop() else { return };
        let answer = match &call {
            Call::Lease(call) => {
                let answer = self.lease_answer(at, call, fate);
                Request::LeaseAnswer { volume: self.volume.clone(), op, answer }
            }
            Call::Backend(call) => {
                let answer = self.backend_answer(at, call, fate);
                Request::BackendAnswer { volume: self.volume.clone(), op, answer }
            }
        };
        self.nodes[at].answered.push((op, call));
        self.handle(at, answer);
    }

    /// A late second answer to a call that was answered: it must be ignored.
    fn answer_again(&mut self, at: usize) {
        let Some((op, call)) = self.nodes[at].answered.last().cloned() else { return };
        let ignored = self.nodes[at].engine.counters().answers_ignored;
        let volume = self.volume.clone();
        let again = match call {
            Call::Lease(_) => {
                let answer = LeaseAnswer::Released(Ok(()));
                Request::LeaseAnswer { volume, op, answer }
            }
            Call::Backend(_) => {
                let answer = BackendAnswer::Opened(Ok(PathBuf::from("forged")));
                Request::BackendAnswer { volume, op, answer }
            }
        };
        self.handle(at, again);
        assert_eq!(self.nodes[at].engine.counters().answers_ignored, ignored + 1);
    }

    fn lease_answer(&mut self, at: usize, call: &LeaseCall, fate: Fate) -> LeaseAnswer {
        let unavailable = || LeaseError::Unavailable { reason: "no manager answers".to_owned() };
        let name = self.nodes[at].name.clone();
        let granted = match call {
            LeaseCall::Release { grant, release } => {
                if fate != Fate::Fails {
                    self.check_release(at, grant, release);
                }
                let released = match lease::release(&self.lease, grant, release) {
                    _ if fate == Fate::Fails => Err(unavailable()),
                    Ok(state) => {
                        self.lease = state;
                        Ok(())
                    }
                    Err(refused) => Err(refused.into()),
                };
                let lost = fate == Fate::LosesItsAnswer;
                return LeaseAnswer::Released(if lost { Err(unavailable()) } else { released });
            }
            _ if fate == Fate::Fails => return LeaseAnswer::Granted(Err(unavailable())),
            LeaseCall::Acquire { at_least_epoch } => lease::acquire(&self.lease, &name, *at_least_epoch),
            LeaseCall::Takeover { seen_epoch, at_least_epoch } => {
                lease::takeover(&self.lease, &name, *seen_epoch, *at_least_epoch)
            }
        };
        LeaseAnswer::Granted(match granted {
            Ok((state, grant)) => {
                self.lease = state;
                self.nodes[at].needs.insert(grant.epoch, grant.barrier.clone());
                if fate == Fate::LosesItsAnswer { Err(unavailable()) } else { Ok(grant) }
            }
            Err(refused) => Err(refused.into()),
        })
    }

    fn check_release(&self, at: usize, grant: &Grant, release: &Release) {
        if let Release::Flushed { barrier, .. } = release {
            assert!(self.replicated.contains(barrier.as_str()), "released before {barrier} was replicated");
            assert_ne!(self.nodes[at].open, Some(grant.epoch), "released while still the writer");
        }
    }

    fn backend_answer(&mut self, at: usize, call: &BackendCall, fate: Fate) -> BackendAnswer {
        let happens = fate != Fate::Fails;
        let failed = || BackendError::failed("the disk is on fire");
        let node = &mut self.nodes[at];
        match call {
            BackendCall::SeenEpoch => BackendAnswer::SeenEpoch(if fate == Fate::Succeeds {
                Ok(node.seen_epoch)
            } else {
                Err(failed())
            }),
            BackendCall::CatchUp { barrier, .. } => {
                if happens {
                    node.has.insert(barrier.to_string());
                }
                let behind = BackendError::behind("12 changes");
                BackendAnswer::CaughtUp(if fate == Fate::Succeeds { Ok(()) } else { Err(behind) })
            }
            BackendCall::Open { grant } => {
                let epoch = &grant.epoch;
                if happens {
                    let needs = node.needs.get(epoch).expect("only a granted epoch is opened").as_ref();
                    assert!(
                        needs.is_none_or(|barrier| node.has.contains(barrier.as_str())),
                        "opened without {needs:?}"
                    );
                    let writer = *self.writers.entry(*epoch).or_insert(at);
                    assert_eq!(writer, at, "epoch {epoch} has two writers");
                    node.seen_epoch = node.seen_epoch.max(*epoch);
                    node.open = Some(*epoch);
                }
                BackendAnswer::Opened(if fate == Fate::Succeeds {
                    Ok(PathBuf::from("data"))
                } else {
                    Err(failed())
                })
            }
            BackendCall::Flush => {
                if !happens {
                    return BackendAnswer::Flushed(Err(failed()));
                }
                self.flushes += 1;
                let barrier: Barrier = format!("b{}", self.flushes).parse().expect("a valid barrier");
                node.has.insert(barrier.to_string());
                BackendAnswer::Flushed(if fate == Fate::Succeeds { Ok(barrier) } else { Err(failed()) })
            }
            BackendCall::Replicated { barrier, .. } => {
                if fate != Fate::Succeeds {
                    return BackendAnswer::Replicated(Err(BackendError::behind("home-2")));
                }
                self.replicated.insert(barrier.to_string());
                BackendAnswer::Replicated(Ok(BTreeSet::from([node.name.clone()])))
            }
            BackendCall::Close => {
                if happens {
                    node.open = None;
                }
                BackendAnswer::Closed(if fate == Fate::Succeeds { Ok(()) } else { Err(failed()) })
            }
        }
    }

    /// From now on everything succeeds: within the promised times every request has its reply.
    fn come_to_rest(&mut self) {
        let until = self.now + Duration::from_secs(200);
        while self.now < until {
            for at in 0..self.nodes.len() {
                // Far more than the steps from any phase to any other.
                for _ in 0..32 {
                    self.answer(at, Fate::Succeeds);
                }
            }
            self.now += Duration::from_secs(1);
            (0..self.nodes.len()).for_each(|at| self.handle(at, Request::Tick));
        }
        for node in &self.nodes {
            assert!(
                node.open_requests.is_empty(),
                "{:?} of {} never got a reply",
                node.open_requests,
                node.name
            );
        }
    }
}

/// Where the virtual time begins. The engine only ever looks at differences.
#[allow(clippy::disallowed_methods)]
fn origin() -> Instant {
    Instant::now()
}

/// Seeds of [`mount`].
pub fn mount_seeds() -> Vec<Seed> {
    const ANSWER: [u8; 2] = [11, 0];
    const OTHER: u8 = 128;
    let answers = |count: usize| ANSWER.repeat(count);
    // 128 is 8 more than a multiple of 12: with the high bit set, operation N of the list above is N + 4 modulo 12.
    let there = |operation: u8, id: u8| [OTHER + (operation + 4) % 12, id];
    let answers_there = |count: usize| there(11, 0).repeat(count);
    vec![
        ("mount_unmount", [&[0, 0, 0][..], &answers(5), &[2, 0], &answers(5)].concat()),
        (
            "move",
            [
                &[0, 0, 0][..],
                &answers(5),
                &there(0, 1),
                &answers_there(2),
                &[2, 0],
                &answers(5),
                &[7, 0, 200, 0],
                &answers_there(6),
            ]
            .concat(),
        ),
        ("two_users", [&[0, 0, 0, 0, 1][..], &answers(5), &[2, 0, 2, 1], &answers(5)].concat()),
        (
            "failing",
            [
                &[0, 0, 0][..],
                &answers(1),
                &[5, 0, 7, 0, 0, 8],
                &answers(1),
                &[6, 0, 7, 0, 0, 16],
                &answers(9),
            ]
            .concat(),
        ),
        (
            "takeover",
            [&[1, 0, 0][..], &answers(5), &there(9, 0), &[0], &there(0, 0), &answers_there(9)].concat(),
        ),
        (
            "late_answers",
            [&[0, 0, 0][..], &answers(2), &[10, 0, 11, 0, 10, 0], &answers(4), &[10, 0]].concat(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_reach_what_they_are_named_after() {
        let counters = |name: &str| {
            let (_, bytes) = mount_seeds().into_iter().find(|(seed, _)| *seed == name).unwrap();
            play(&bytes).nodes.map(|node| node.engine.counters())
        };
        let [here, there] = counters("move");
        assert_eq!((here.mounted, here.released, there.mounted), (1, 1, 1));
        assert_eq!(counters("two_users")[0].mounted, 2);
        assert!(counters("failing")[0].steps_failed >= 2);
        assert_eq!(counters("takeover")[1].taken_over, 1);
        assert!(counters("late_answers")[0].answers_ignored >= 2);
    }
}
