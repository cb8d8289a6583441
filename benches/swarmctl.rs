//! swarmctl: what a container's start and end pay in the engine itself, and a record on its way to the store and back. What they wait
//! for in practice (the store, the data) is not in it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use swarmctl::engine::{BackendAnswer, BackendCall, Engine, Input, LeaseAnswer, LeaseCall, Output};
use swarmctl::lease::{self, LeaseState, Release, Takeover};
use swarmctl::{NodeName, VolumeName, VolumeOptions};

fn main() {
    divan::main();
}

/// Mount and unmount of one volume among so many, every call answered at once.
#[divan::bench(args = [1, 100, 1_000])]
fn mount_and_unmount(bencher: Bencher<'_, '_>, volumes: usize) {
    let mut node = Node::new(volumes);
    bencher.bench_local(|| {
        let (volume, id) = (node.volume.clone(), "m".parse().expect("a valid id"));
        node.run(Input::Mount { request: 1, volume: volume.clone(), id });
        let id = "m".parse().expect("a valid id");
        node.run(Input::Unmount { request: 2, volume, id });
        assert_eq!(std::mem::take(&mut node.replies), 2);
    });
}

/// Acquire and release, the pure transitions.
#[divan::bench]
fn lease_acquire_and_release(bencher: Bencher<'_, '_>) {
    let holder = name("home-1");
    let mut state = LeaseState::vacant(volume(0));
    bencher.bench_local(|| {
        let (held, grant) = lease::acquire(black_box(&state), &holder, 0).expect("nobody else holds it");
        state = lease::release(&held, &grant, &flushed()).expect("the holder releases");
    });
}

/// A record to labels and back.
#[divan::bench]
fn lease_labels(bencher: Bencher<'_, '_>) {
    let (held, grant) =
        lease::acquire(&LeaseState::vacant(volume(0)), &name("home-1"), 41).expect("nobody holds it");
    let state = lease::release(&held, &grant, &flushed()).expect("the holder releases");
    bencher.bench_local(|| {
        LeaseState::from_labels(&black_box(&state).to_labels()).expect("it was written just now")
    });
}

/// A node whose lease and backends answer at once.
struct Node {
    engine: Engine,
    volume: VolumeName,
    lease: LeaseState,
    now: Instant,
    replies: usize,
}

impl Node {
    #[allow(clippy::disallowed_methods)]
    fn new(volumes: usize) -> Self {
        let mut engine = Engine::new(name("home-1"), VolumeOptions::default());
        (0..volumes).for_each(|n| engine.add(volume(n), Takeover::Wait).expect("below the limit"));
        let volume = volume(volumes / 2);
        // Only a place to count from: the engine looks at differences.
        let now = Instant::now();
        Self { engine, lease: LeaseState::vacant(volume.clone()), volume, now, replies: 0 }
    }

    fn run(&mut self, input: Input) {
        self.now += Duration::from_millis(1);
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Lease { op, volume, call } => {
                    let answer = self.lease_answer(call);
                    self.engine.handle(self.now, Input::LeaseAnswer { volume, op, answer });
                }
                Output::Backend { op, volume, call } => {
                    let answer = backend_answer(&call);
                    self.engine.handle(self.now, Input::BackendAnswer { volume, op, answer });
                }
                Output::Mounted { result, .. } => self.replies += usize::from(result.is_ok()),
                Output::Unmounted { result, .. } => self.replies += usize::from(result.is_ok()),
                Output::Event(_) => {}
            }
        }
    }

    fn lease_answer(&mut self, call: LeaseCall) -> LeaseAnswer {
        match call {
            LeaseCall::Acquire { at_least_epoch } => {
                let granted = lease::acquire(&self.lease, &name("home-1"), at_least_epoch);
                let (state, grant) = granted.expect("nobody else is there");
                self.lease = state;
                LeaseAnswer::Granted(Ok(grant))
            }
            LeaseCall::Release { grant, release } => {
                self.lease = lease::release(&self.lease, &grant, &release).expect("the holder releases");
                LeaseAnswer::Released(Ok(()))
            }
            LeaseCall::Takeover { .. } => unreachable!("nobody else is there"),
        }
    }
}

fn backend_answer(call: &BackendCall) -> BackendAnswer {
    match call {
        BackendCall::SeenEpoch => BackendAnswer::SeenEpoch(Ok(0)),
        BackendCall::CatchUp { .. } => BackendAnswer::CaughtUp(Ok(())),
        BackendCall::Open { .. } => BackendAnswer::Opened(Ok(PathBuf::from("data"))),
        BackendCall::Flush => BackendAnswer::Flushed(Ok("b1".parse().expect("a valid barrier"))),
        BackendCall::Replicated { .. } => BackendAnswer::Replicated(Ok(BTreeSet::new())),
        BackendCall::Close => BackendAnswer::Closed(Ok(())),
    }
}

fn flushed() -> Release {
    let replicas = BTreeSet::from([name("home-1"), name("home-2")]);
    Release::Flushed { barrier: "st1aeaqcaibaeaqcai".parse().expect("a valid barrier"), replicas }
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a valid name")
}

fn volume(n: usize) -> VolumeName {
    format!("volume-{n}").parse().expect("a valid name")
}
