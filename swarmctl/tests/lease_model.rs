//! Every interleaving of three nodes that acquire, take over, write, release and crash, over a store that
//! can do nothing but compare and swap.
//!
//! A step of a node is either a read or a swap, so that every other node may come in between. A crash
//! forgets what the node was about to do and what it was granted, but leaves the old grant to a zombie that
//! may still try to release it. Checked in every state: no epoch is granted twice, epochs only grow, a stale
//! release changes nothing, a free lease hides no data beyond its barrier, and nobody is granted a lease
//! without being told of the data that it may lack.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use swarmctl::lease::{self, Grant, LeaseState, Refused, Release};
use swarmctl::{Barrier, NodeName};

const NODES: usize = 3;
/// Reads that each node may begin an operation with.
const OPERATIONS: usize = 2;
/// Crashes in all.
const CRASHES: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intent {
    Acquire,
    /// From the holder of the epoch that was seen first.
    Takeover(u64),
    Release,
    ZombieRelease,
}

#[derive(Debug, Clone, Default)]
struct Node {
    operations: usize,
    /// What it read, and what for.
    pending: Option<(Intent, u64, LeaseState)>,
    grant: Option<Grant>,
    wrote: bool,
    zombie: Option<Grant>,
}

/// What is true, whatever the record says.
#[derive(Debug, Clone, Default)]
struct Truth {
    granted: BTreeSet<u64>,
    /// The nodes that wrote since the last barrier and did not release; their data is on them alone.
    unreleased: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
struct World {
    version: u64,
    record: LeaseState,
    nodes: [Node; NODES],
    crashes: usize,
    truth: Truth,
}

#[test]
fn no_interleaving_breaks_the_lease() {
    let mut seen = BTreeSet::new();
    let mut open = vec![World {
        version: 0,
        record: LeaseState::vacant("data".parse().unwrap()),
        nodes: Default::default(),
        crashes: 0,
        truth: Truth::default(),
    }];
    let mut refusals = 0_u64;
    while let Some(world) = open.pop() {
        for next in successors(&world, &mut refusals) {
            if seen.insert(fingerprint(&next)) {
                open.push(next);
            }
        }
    }
    // The search is worth something only if it went through contention and stale grants in earnest.
    assert!(seen.len() > 100_000, "only {} states", seen.len());
    assert!(refusals > 1_000, "only {refusals} stale releases");
}

fn fingerprint(world: &World) -> u128 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let text = format!("{world:?}");
    let hash = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &text).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    hash(0) << 64 | hash(1)
}

fn successors(world: &World, refusals: &mut u64) -> Vec<World> {
    let mut all = Vec::new();
    for index in 0..NODES {
        let node = &world.nodes[index];
        if node.pending.is_some() {
            all.push(swap(world.clone(), index, refusals));
        } else if node.operations < OPERATIONS {
            for intent in [
                Intent::Acquire,
                Intent::Takeover(world.record.epoch),
                Intent::Release,
                Intent::ZombieRelease,
            ] {
                all.extend(read(world, index, intent));
            }
        }
        if node.grant.is_some() && !node.wrote {
            let mut next = world.clone();
            next.nodes[index].wrote = true;
            // A node that was passed over writes under a stale epoch: its replica sets that aside. What a
            // holder goes on from is its own disk: data of others that it was told of is passed over.
            if next.record.holder == Some(name(index)) {
                next.truth.unreleased = BTreeSet::from([index]);
            }
            all.push(next);
        }
        if world.crashes < CRASHES && (node.grant.is_some() || node.pending.is_some()) {
            let mut next = world.clone();
            let node = &mut next.nodes[index];
            node.zombie = node.grant.take().or(node.zombie.take());
            (node.pending, node.wrote) = (None, false);
            next.crashes += 1;
            all.push(next);
        }
    }
    all
}

fn read(world: &World, index: usize, intent: Intent) -> Option<World> {
    let node = &world.nodes[index];
    let sensible = match intent {
        Intent::Acquire => node.grant.is_none(),
        Intent::Takeover(_) => {
            node.grant.is_none() && world.record.holder.as_ref().is_some_and(|by| *by != name(index))
        }
        Intent::Release => node.grant.is_some(),
        Intent::ZombieRelease => node.zombie.is_some(),
    };
    sensible.then(|| {
        let mut next = world.clone();
        let node = &mut next.nodes[index];
        node.operations += 1;
        node.pending = Some((intent, world.version, world.record.clone()));
        next
    })
}

/// The swap that follows a read; when the record has changed meanwhile, it is read and decided again, as
/// `StoredLease` does.
fn swap(mut world: World, index: usize, refusals: &mut u64) -> World {
    let (intent, version, before) = world.nodes[index].pending.take().expect("called with a pending swap");
    if version != world.version {
        world.nodes[index].pending = Some((intent, world.version, world.record.clone()));
        return world;
    }
    match intent {
        Intent::Acquire => {
            if let Ok((after, grant)) = lease::acquire(&before, &name(index), 0) {
                granted(&mut world, index, after, grant);
            }
        }
        Intent::Takeover(seen) => {
            if let Ok((after, grant)) = lease::takeover(&before, &name(index), seen, 0) {
                let passed_over = before.holder.as_ref().and(grant.unreleased.last());
                assert!(passed_over.is_none_or(|it| it.epoch == seen), "a tenure that nobody looked at");
                granted(&mut world, index, after, grant);
            }
        }
        Intent::Release => {
            let grant = world.nodes[index].grant.take().expect("only a grant is released");
            let wrote = std::mem::take(&mut world.nodes[index].wrote);
            let how = if wrote { flushed(&grant) } else { Release::Unused };
            if let Ok(after) = lease::release(&before, &grant, &how) {
                assert_eq!(grant.epoch, before.epoch, "a stale grant was released");
                if wrote {
                    world.truth.unreleased.clear();
                }
                commit(&mut world, after);
            } else {
                *refusals += 1;
            }
        }
        Intent::ZombieRelease => {
            let grant = world.nodes[index].zombie.take().expect("only a zombie's grant is released so");
            match lease::release(&before, &grant, &flushed(&grant)) {
                Ok(after) => {
                    assert_eq!((grant.epoch, Some(&grant.holder)), (before.epoch, before.holder.as_ref()));
                    world.truth.unreleased.clear();
                    commit(&mut world, after);
                }
                Err(Refused::Stale { epoch, current, .. }) => {
                    assert!(epoch <= current);
                    *refusals += 1;
                }
                Err(other) => panic!("a release is refused as stale or not at all: {other}"),
            }
        }
    }
    world
}

fn granted(world: &mut World, index: usize, after: LeaseState, grant: Grant) {
    assert!(world.truth.granted.insert(grant.epoch), "epoch {} was granted twice", grant.epoch);
    assert_eq!(world.truth.granted.last(), Some(&grant.epoch), "epochs only grow");
    assert_eq!((after.epoch, after.holder.as_ref()), (grant.epoch, Some(&name(index))));
    for writer in &world.truth.unreleased {
        let told = grant.unreleased.iter().any(|tenure| tenure.holder == name(*writer));
        assert!(told, "node {index} goes on without the data of node {writer} and is not told: {world:?}");
    }
    commit(world, after);
    world.nodes[index].grant = Some(grant);
}

fn commit(world: &mut World, after: LeaseState) {
    assert!(after.epoch >= world.record.epoch, "epochs only grow");
    let free = after.holder.is_none();
    assert!(
        !free || world.truth.unreleased.is_empty(),
        "a free lease hides data beyond its barrier: {world:?}"
    );
    world.record = after;
    world.version += 1;
}

fn flushed(grant: &Grant) -> Release {
    let barrier = Barrier::new(format!("flush-{}", grant.epoch)).unwrap();
    Release::Flushed { barrier, replicas: BTreeSet::from([grant.holder.clone()]) }
}

fn name(index: usize) -> NodeName {
    format!("home-{index}").parse().unwrap()
}
