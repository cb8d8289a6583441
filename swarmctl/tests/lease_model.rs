//! Every interleaving of nodes that acquire, take over, write, release and crash, over a store that can do nothing but compare
//! and swap; and over one whose managers die, as Raft allows: a swap that was acknowledged stays, one whose answer was lost
//! happens at any later time or never, and a Swarm that is lost for good is created anew, without any record.
//!
//! A step of a node is either a read or a swap, so that every other node may come in between. A crash
//! forgets what the node was about to do and what it was granted, but leaves the old grant to a zombie that
//! may still try to release it. Checked in every state: no epoch is granted twice, epochs only grow, a stale
//! release changes nothing, a free lease hides no data beyond its barrier, and nobody is granted a lease
//! without being told of the data that it may lack. A Swarm that was created anew may grant an epoch again under which nobody
//! had written; what is checked there is that no two ever write under one, which the replicas refuse when the volume is opened.
//! They reach each other.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use swarmctl::lease::{self, Grant, LeaseState, Refused, Release};
use swarmctl::{Barrier, NodeName};

/// What may still happen.
#[derive(Debug, Clone, Copy)]
struct Budget {
    /// Reads that each node may begin an operation with.
    operations: usize,
    /// Crashes of nodes, in all.
    crashes: usize,
    /// Managers that die with a swap whose answer nobody gets.
    lost_answers: usize,
    /// Swarms that are created anew.
    new_swarms: usize,
}

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
    /// What it is about to swap.
    pending: Option<Pending>,
    grant: Option<Grant>,
    wrote: bool,
    zombie: Option<Grant>,
}

/// A swap that was decided on.
#[derive(Debug, Clone)]
struct Pending {
    intent: Intent,
    /// The version that was read, and the record.
    version: u64,
    before: LeaseState,
    /// The highest epoch that the replicas had seen.
    seen: u64,
}

/// What is true, whatever the record says.
#[derive(Debug, Clone, Default)]
struct Truth {
    granted: BTreeSet<u64>,
    /// The epochs under which somebody wrote, which replicas remember.
    written: BTreeSet<u64>,
    /// The nodes that wrote since the last barrier and did not release; their data is on them alone.
    unreleased: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
struct World {
    version: u64,
    record: LeaseState,
    nodes: Vec<Node>,
    budget: Budget,
    /// Whether the record was lost once.
    anew: bool,
    /// A swap that a manager may still carry out, and whose it is.
    in_flight: Option<(usize, Pending)>,
    truth: Truth,
}

#[test]
fn no_interleaving_breaks_the_lease() {
    let budget = Budget { operations: 2, crashes: 1, lost_answers: 0, new_swarms: 0 };
    let (states, refusals) = search(3, budget);
    // The search is worth something only if it went through contention and stale grants in earnest.
    assert!(states > 100_000, "only {states} states");
    assert!(refusals > 1_000, "only {refusals} stale releases");
}

#[test]
fn managers_that_die_at_any_step_do_not_break_the_lease() {
    let budget = Budget { operations: 2, crashes: 1, lost_answers: 1, new_swarms: 1 };
    let (states, refusals) = search(2, budget);
    println!("{states} states, {refusals} stale releases");
    assert!(states > 10_000, "only {states} states");
    assert!(refusals > 100, "only {refusals} stale releases");
}

/// Goes through everything that can happen; gives how many states there are, and how many releases were refused.
fn search(nodes: usize, budget: Budget) -> (usize, u64) {
    let mut seen = BTreeSet::new();
    let mut open = vec![World {
        version: 0,
        record: LeaseState::vacant("data".parse().unwrap()),
        nodes: vec![Node::default(); nodes],
        budget,
        anew: false,
        in_flight: None,
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
    (seen.len(), refusals)
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
    all.extend(lands(world));
    all.extend(created_anew(world));
    for index in 0..world.nodes.len() {
        let node = &world.nodes[index];
        if node.pending.is_some() {
            all.push(swap(world.clone(), index, refusals));
            all.extend(answer_lost(world, index));
        } else if node.operations < world.budget.operations {
            for intent in [
                Intent::Acquire,
                Intent::Takeover(world.record.epoch),
                Intent::Release,
                Intent::ZombieRelease,
            ] {
                all.extend(read(world, index, intent));
            }
        }
        let unseen = |grant: &Grant| world.truth.written.last().is_none_or(|seen| *seen < grant.epoch);
        if node.grant.as_ref().is_some_and(unseen) && !node.wrote {
            let mut next = world.clone();
            next.nodes[index].wrote = true;
            let epoch = node.grant.as_ref().map_or(0, |grant| grant.epoch);
            assert!(next.truth.written.insert(epoch), "two wrote under epoch {epoch}: {world:?}");
            // A node that was passed over writes under a stale epoch: its replica sets that aside. What a
            // holder goes on from is its own disk: data of others that it was told of is passed over.
            if next.record.holder == Some(name(index)) {
                next.truth.unreleased = BTreeSet::from([index]);
            }
            all.push(next);
        }
        if world.budget.crashes > 0 && (node.grant.is_some() || node.pending.is_some()) {
            let mut next = world.clone();
            let node = &mut next.nodes[index];
            node.zombie = node.grant.take().or(node.zombie.take());
            (node.pending, node.wrote) = (None, false);
            next.budget.crashes -= 1;
            all.push(next);
        }
    }
    all
}

/// The manager dies that a node gave its swap to: the node knows nothing, and what it wanted may happen yet. A release is repeated
/// with the same grant.
fn answer_lost(world: &World, index: usize) -> Option<World> {
    if world.budget.lost_answers == 0 {
        return None;
    }
    let mut next = world.clone();
    next.budget.lost_answers -= 1;
    next.in_flight = Some((index, next.nodes[index].pending.take()?));
    Some(next)
}

/// A swap whose answer was lost comes to the store after all.
fn lands(world: &World) -> Option<World> {
    let (index, Pending { intent, version, before, seen }) = world.in_flight.clone()?;
    let mut next = world.clone();
    next.in_flight = None;
    if version != next.version {
        return Some(next);
    }
    match intent {
        Intent::Acquire | Intent::Takeover(_) => {
            let granted = match intent {
                Intent::Takeover(from) => lease::takeover(&before, &name(index), from, seen),
                _ => lease::acquire(&before, &name(index), seen),
            };
            if let Ok((after, grant)) = granted {
                // Nobody has it: whoever asked was told that it is not known.
                let had = next.nodes[index].grant.take();
                self::granted(&mut next, index, after, grant);
                next.nodes[index].grant = had;
            }
        }
        Intent::Release | Intent::ZombieRelease => {
            let node = &next.nodes[index];
            let grant = if intent == Intent::Release { &node.grant } else { &node.zombie };
            let grant = grant.clone()?;
            let how =
                if node.wrote || intent == Intent::ZombieRelease { flushed(&grant) } else { Release::Unused };
            let after = lease::release(&before, &grant, &how).ok()?;
            if how != Release::Unused {
                next.truth.unreleased.clear();
            }
            commit(&mut next, after);
        }
    }
    Some(next)
}

/// The Swarm is lost, and there is another without a record. What survived a crash does not survive that, for a node that leaves a
/// Swarm ends its containers; and no operation that the old one had begun comes to the new one.
fn created_anew(world: &World) -> Option<World> {
    if world.budget.new_swarms == 0 || world.version == 0 {
        return None;
    }
    let mut next = world.clone();
    next.budget.new_swarms -= 1;
    next.anew = true;
    next.record = LeaseState::vacant(next.record.volume);
    next.version += 1;
    next.in_flight = None;
    for node in &mut next.nodes {
        (node.zombie, node.pending) = (None, None);
    }
    next.truth.granted = next.truth.written.clone();
    Some(next)
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
        let seen = world.truth.written.last().copied().unwrap_or_default();
        node.pending = Some(Pending { intent, version: world.version, before: world.record.clone(), seen });
        next
    })
}

/// The swap that follows a read; when the record has changed meanwhile, it is read and decided again, as
/// `StoredLease` does.
fn swap(mut world: World, index: usize, refusals: &mut u64) -> World {
    let Pending { intent, version, before, seen: highest } =
        world.nodes[index].pending.take().expect("called with a pending swap");
    if version != world.version {
        let (version, before) = (world.version, world.record.clone());
        world.nodes[index].pending = Some(Pending { intent, version, before, seen: highest });
        return world;
    }
    match intent {
        Intent::Acquire => {
            if let Ok((after, grant)) = lease::acquire(&before, &name(index), highest) {
                granted(&mut world, index, after, grant);
            }
        }
        Intent::Takeover(seen) => {
            if let Ok((after, grant)) = lease::takeover(&before, &name(index), seen, highest) {
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
                if after == before {
                    // It had happened; its answer was lost.
                    return world;
                }
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
                // It had happened; its answer was lost.
                Ok(after) if after == before => {}
                Ok(after) => {
                    assert_eq!((grant.epoch, Some(&grant.holder)), (before.epoch, before.holder.as_ref()));
                    world.truth.unreleased.clear();
                    commit(&mut world, after);
                }
                Err(Refused::Stale { epoch, current, .. }) => {
                    assert!(epoch <= current || world.anew);
                    *refusals += 1;
                }
                Err(other) => panic!("a release is refused as stale or not at all: {other}"),
            }
        }
    }
    world
}

fn granted(world: &mut World, index: usize, after: LeaseState, grant: Grant) {
    assert!(world.truth.granted.insert(grant.epoch), "epoch {} was granted twice: {world:?}", grant.epoch);
    assert_eq!(world.truth.granted.last(), Some(&grant.epoch), "epochs only grow");
    if grant.store_behind {
        // Said is that anything may be missing.
        world.truth.unreleased.clear();
    }
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
