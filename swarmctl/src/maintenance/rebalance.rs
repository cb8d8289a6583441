//! Tasks spread evenly again, with the fewest moves.
//!
//! Swarm places a task once and leaves it there, so that a node that comes back stays empty. Even means: first, the tasks of each
//! service are spread over its nodes; then, all tasks are (the sum of the squares is least, as in Swarm's own strategy). Among
//! all placements that are as even as can be, one with the fewest moves is found by
//! [cancelling negative cycles](https://en.wikipedia.org/wiki/Minimum-cost_flow_problem): as long as there is a chain of moves
//! that makes the whole cheaper, it is made.

use std::collections::BTreeMap;

use super::work::{How, Move, Work, bound_to_node, broken_off, tasks_on};
use crate::placement;
use crate::plan::{self, PlanOptions};
use crate::rollout::View;
use crate::spec::{ServiceMode, ServiceSpec};

/// Where the tasks of a service are and may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// Tasks on each node, by the node's number.
    pub tasks: Vec<u64>,
    /// Whether a task may run on that node.
    pub may: Vec<bool>,
    /// The most on one node; 0 is any number.
    pub most: u64,
}

/// One task that moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relocation {
    /// The number of its service.
    pub service: usize,
    /// From this node.
    pub from: usize,
    /// To that node.
    pub to: usize,
}

/// What there is to be done for tasks to be spread evenly.
#[must_use]
pub fn rebalance(view: &View, options: &PlanOptions) -> Work {
    let mut work = Work { moves: broken_off(view), ..Work::default() };
    let mut names = Vec::new();
    let mut spreads = Vec::new();
    for (name, service) in &view.present.services {
        let tasks: Vec<_> = view.nodes.iter().map(|node| tasks_on(view, name, &node.id)).collect();
        let is_settled = work.moves.iter().all(|it| it.service != *name);
        let is_apart = !service.may_overlap() || plan::leased_volumes(service, options).is_empty();
        let moves = is_settled && is_apart && is_movable(service, tasks.iter().sum());
        let may = view.nodes.iter().map(|node| moves && placement::lacks(service, node).is_empty()).collect();
        names.push(name);
        spreads.push(Spread { tasks, may, most: service.placement.max_per_node });
    }
    let mut by_service: BTreeMap<usize, Vec<Relocation>> = BTreeMap::new();
    for relocation in even_out(&spreads) {
        by_service.entry(relocation.service).or_default().push(relocation);
    }
    for (number, relocations) in by_service {
        let (name, spread) = (names[number], &spreads[number]);
        let service = &view.present.services[name];
        // Of several tasks a constraint would move more than one, and only a single one may not have a second beside it.
        let how = if spread.tasks.iter().sum::<u64>() == 1 {
            How::Onto(view.nodes[relocations[0].to].id.clone())
        } else {
            How::More(relocations.len() as u64)
        };
        work.warnings.extend(plan::unprotected(service, options));
        work.moves.push(Move { service: name.clone(), how, volumes: plan::leased_volumes(service, options) });
    }
    work
}

/// Whether tasks of a service, of which so many run, can be moved. All others only take room.
fn is_movable(service: &ServiceSpec, tasks: u64) -> bool {
    let ServiceMode::Replicated(replicas) = service.mode else { return false };
    // Its data may be on its node alone, and to spread it over other things than nodes is Swarm's to do. What is on its way, or
    // has nowhere to run, is left to Swarm, too.
    bound_to_node(service).is_none()
        && (replicas <= 1 || service.placement.spread.is_empty())
        && tasks == replicas
}

/// The fewest moves after which tasks are spread as evenly as they can be. A task that is where it may not be stays: Swarm itself
/// looks after those.
#[must_use]
pub fn even_out(services: &[Spread]) -> Vec<Relocation> {
    let nodes = services.iter().map(|it| it.tasks.len()).max().unwrap_or(0);
    let mut now: Vec<Vec<u64>> = services.iter().map(|it| it.tasks.clone()).collect();
    // Each turn makes the whole cheaper, and it cannot become cheaper than nothing.
    while let Some(chain) = cheaper(services, &now, nodes) {
        for Relocation { service, from, to } in chain {
            now[service][from] -= 1;
            now[service][to] += 1;
        }
    }
    let mut relocations = Vec::new();
    for (service, (before, after)) in services.iter().map(|it| &it.tasks).zip(&now).enumerate() {
        let less = before.iter().zip(after).enumerate();
        let from = less.clone().flat_map(|(node, (before, after))| (*after..*before).map(move |_| node));
        let to = less.flat_map(|(node, (before, after))| (*before..*after).map(move |_| node));
        relocations.extend(from.zip(to).map(|(from, to)| Relocation { service, from, to }));
    }
    relocations
}

/// What moving one task costs: evenness of its service, of all, moves. Compared in this order.
type Cost = (i64, i64, i64);

const FREE: Cost = (0, 0, 0);

fn sum(one: Cost, other: Cost) -> Cost {
    (one.0 + other.0, one.1 + other.1, one.2 + other.2)
}

/// A chain of moves that makes the whole cheaper ([Bellman-Ford](https://en.wikipedia.org/wiki/Bellman%E2%80%93Ford_algorithm)).
/// The nodes are the vertices, and one more, through which a chain that has two ends closes.
fn cheaper(services: &[Spread], now: &[Vec<u64>], nodes: usize) -> Option<Vec<Relocation>> {
    let load: Vec<i64> =
        (0..nodes).map(|node| now.iter().map(|tasks| tasks[node].cast_signed()).sum()).collect();
    let outside = nodes;
    let mut edges: Vec<(usize, usize, Cost, Option<Relocation>)> = Vec::new();
    for (from, all) in load.iter().copied().enumerate() {
        for to in (0..nodes).filter(|to| *to != from) {
            let possible = (0..services.len()).filter_map(|service| {
                let cost = cost(&services[service], &now[service], from, to)?;
                Some((cost, Relocation { service, from, to }))
            });
            edges.extend(possible.min().map(|(cost, relocation)| (from, to, cost, Some(relocation))));
        }
        // A node with one task more, and one with one task less.
        edges.push((from, outside, (0, 2 * all + 1, 0), None));
        edges.push((outside, from, (0, 1 - 2 * all, 0), None));
    }
    let mut best = vec![FREE; nodes + 1];
    let mut by: Vec<Option<usize>> = vec![None; nodes + 1];
    let mut last = None;
    for _ in 0..=nodes {
        last = None;
        for (number, (from, to, cost, _)) in edges.iter().enumerate() {
            let through = sum(best[*from], *cost);
            if through < best[*to] {
                best[*to] = through;
                by[*to] = Some(number);
                last = Some(*to);
            }
        }
    }
    // Whoever still gets cheaper after so many rounds is on a cycle, or behind one.
    let mut vertex = last?;
    for _ in 0..=nodes {
        vertex = edges[by[vertex]?].0;
    }
    let (start, mut chain) = (vertex, Vec::new());
    loop {
        let (from, _, _, relocation) = edges[by[vertex]?];
        chain.extend(relocation);
        vertex = from;
        if vertex == start {
            return (!chain.is_empty()).then_some(chain);
        }
    }
}

/// What it costs to move one task of a service; nothing if it cannot be.
fn cost(service: &Spread, now: &[u64], from: usize, to: usize) -> Option<Cost> {
    let (there, here) = (now[to], now[from]);
    let is_open = service.may[from] && service.may[to] && (service.most == 0 || there < service.most);
    if here == 0 || !is_open {
        return None;
    }
    let spread = 2 * (there.cast_signed() - here.cast_signed() + 1);
    // Moves are counted where tasks arrive beyond what was there; one that goes back takes one away.
    let arrives = i64::from(there >= service.tasks[to]);
    let returns = i64::from(here > service.tasks[from]);
    Some((spread, 0, arrives - returns))
}
