//! Services that move: who can and who cannot, the fewest moves, and the engine against a model of a Swarm in which calls fail,
//! managers are silent, services break, and somebody presses Ctrl-C, at every step. `SEED=n` replays one seed.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "sim/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use random::Random;
use swarmctl::cluster::{Availability, Node, Role, Task, TaskState};
use swarmctl::maintenance::{
    How, Input, Maintenance, MaintenanceError, MaintenanceOptions, Output, Spread, Work, WorkError, drain,
    even_out, rebalance, relocate,
};
use swarmctl::placement;
use swarmctl::plan::{PlanOptions, Present, Step};
use swarmctl::rollout::{self, ApplyError, Seen, SeenTask, View};
use swarmctl::spec::{Mount, MountSource, ServiceMode, ServiceSpec};

#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    /// The call of this number fails in this way.
    at: Option<(u64, Fault)>,
    /// Of a hundred calls, so many fail in any way.
    calls: u64,
    silent_from: Option<u64>,
    cancel_at: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Refused,
    Lost,
    DoneAndLost,
}

/// Three nodes. A task runs 1 s after it was placed. If its image does not work on that node, it fails then, and another is
/// placed 5 s later.
struct Model {
    now: Instant,
    nodes: Vec<Node>,
    services: BTreeMap<String, ServiceSpec>,
    /// By service: node, and since when.
    tasks: BTreeMap<String, Vec<(usize, Instant)>>,
    /// Those that have failed.
    failed: BTreeMap<String, Vec<(usize, Instant)>>,
    first: BTreeMap<String, ServiceSpec>,
    random: Random,
    faults: Faults,
    calls: u64,
    gates: BTreeMap<String, u64>,
}

impl Model {
    fn new(seed: u64, faults: Faults, placed: &[(ServiceSpec, &[usize])]) -> Self {
        let now = Instant::now();
        let node = |n: usize| {
            let mut node = Node::new(format!("id{n}"), format!("home-{n}"), Role::Manager);
            node.volume_drivers.insert("hybrid".to_owned());
            node
        };
        let services: BTreeMap<_, _> = placed.iter().map(|(it, _)| (it.name.clone(), it.clone())).collect();
        let old = now - Duration::from_secs(60);
        let tasks =
            placed.iter().map(|(it, nodes)| (it.name.clone(), nodes.iter().map(|n| (*n, old)).collect()));
        Self {
            now,
            nodes: (0..3).map(node).collect(),
            first: services.clone(),
            services,
            tasks: tasks.collect(),
            failed: BTreeMap::new(),
            random: Random::new(seed),
            faults,
            calls: 0,
            gates: BTreeMap::new(),
        }
    }

    fn view(&self) -> View {
        let present = Present { services: self.services.clone(), ..Present::default() };
        let services = self.services.iter().map(|(name, spec)| (name.clone(), self.seen(name, spec)));
        View { present, nodes: self.nodes.clone(), services: services.collect() }
    }

    fn seen(&self, name: &str, spec: &ServiceSpec) -> Seen {
        let task = |(slot, (node, since)): (usize, &(usize, Instant)), has_failed: bool| {
            let state = match self.now - *since {
                _ if has_failed => TaskState::Failed,
                age if age < Duration::from_secs(1) => TaskState::Preparing,
                _ => TaskState::Running,
            };
            let task = Task {
                id: format!("{name}.{slot}.{node}.{since:?}"),
                service: name.to_owned(),
                slot: Some(slot as u64 + 1),
                node: Some(self.nodes[*node].id.clone()),
                image: String::new(),
                state,
                desired: if has_failed { TaskState::Shutdown } else { TaskState::Running },
                error: has_failed.then(|| format!("exec: \"{}\"", spec.container.image)),
                since: String::new(),
                addresses: Default::default(),
            };
            SeenTask { task, is_current: true, iteration: 0 }
        };
        let now = self.tasks[name].iter().enumerate().map(|it| task(it, false));
        let ended = self.failed.get(name).into_iter().flatten().map(|it| task((0, it), true));
        Seen { tasks: now.chain(ended).collect(), ..Seen::default() }
    }

    /// Tasks whose image does not work where they are fail, and others are placed.
    fn go_by(&mut self) {
        for (name, spec) in self.services.clone() {
            let works = |(node, since): &(usize, Instant)| {
                spec.container.image != format!("broken-on-{node}")
                    || self.now - *since < Duration::from_secs(1)
            };
            let (works, fails): (Vec<_>, Vec<_>) = self.tasks[&name].iter().copied().partition(works);
            self.tasks.insert(name.clone(), works);
            let failed = self.failed.entry(name.clone()).or_default();
            failed.extend(fails);
            let is_due = failed.last().is_none_or(|(_, since)| self.now - *since > Duration::from_secs(6));
            if is_due && self.tasks[&name].len() as u64 != replicas(&spec) {
                self.place(&name);
            }
        }
    }

    /// As Swarm does: only tasks that are where they may not be are replaced; new ones go where there are fewest.
    fn place(&mut self, name: &str) {
        let spec = &self.services[name];
        let replicas = replicas(spec);
        let mut tasks = self.tasks[name].clone();
        tasks.retain(|(node, _)| placement::all_hold(spec, &self.nodes[*node]));
        let count = |tasks: &[(usize, Instant)], node: usize| tasks.iter().filter(|it| it.0 == node).count();
        while (tasks.len() as u64) < replicas {
            let open = (0..3).filter(|node| placement::lacks(spec, &self.nodes[*node]).is_empty());
            let all = |node: usize| self.tasks.values().map(|tasks| count(tasks, node)).sum::<usize>();
            let Some(node) = open.min_by_key(|node| (count(&tasks, *node), all(*node))) else { break };
            tasks.push((node, self.now));
        }
        while tasks.len() as u64 > replicas {
            let most = (0..tasks.len()).max_by_key(|at| count(&tasks, tasks[*at].0)).unwrap();
            tasks.remove(most);
        }
        self.tasks.insert(name.to_owned(), tasks);
    }

    fn apply(&mut self, step: &Step) -> Result<(), ApplyError> {
        let Step::UpdateService { before, after } = step else { panic!("only updates: {step}") };
        let there = &self.services[&after.name];
        if there != before.as_ref() && there != after.as_ref() {
            return Err(ApplyError::Refused("changed by somebody else".to_owned()));
        }
        self.services.insert(after.name.clone(), after.as_ref().clone());
        let moving = self.services.iter().filter(|(name, it)| self.first[*name] != **it).count();
        assert!(moving <= 1, "two move at once");
        for volume in volumes(after) {
            assert!(self.gates.get(&volume).is_some_and(|asked| *asked > 2), "{volume} was not waited for");
        }
        let name = after.name.clone();
        self.place(&name);
        Ok(())
    }

    fn run(&mut self, work: Work, dies_at: Option<u64>) -> Option<Result<(), MaintenanceError>> {
        let start = self.now;
        let mut maintenance = Maintenance::new(self.now, work, MaintenanceOptions::default());
        loop {
            let mut call = None;
            while let Some(output) = maintenance.poll() {
                match output {
                    Output::Done(result) => return Some(result),
                    Output::Progress(_) | Output::Rollout(rollout::Output::Progress(_)) => {}
                    it => assert!(call.replace(it).is_none(), "two calls at a time"),
                }
            }
            assert!(self.now - start < Duration::from_secs(1_000), "it never ends");
            let input = match call {
                Some(it) => {
                    self.calls += 1;
                    if self.faults.cancel_at == Some(self.calls) {
                        maintenance.handle(self.now, Input::Cancel);
                    }
                    self.now += Duration::from_millis(self.random.below(50));
                    let input = self.answer(it);
                    if dies_at == Some(self.calls) {
                        return None;
                    }
                    input
                }
                None => {
                    self.now = self.now.max(maintenance.deadline().expect("nothing is outstanding"));
                    self.go_by();
                    Input::Tick
                }
            };
            maintenance.handle(self.now, input);
        }
    }

    fn answer(&mut self, call: Output) -> Input {
        let fault = match self.faults.at {
            _ if self.faults.silent_from.is_some_and(|from| self.calls >= from) => Some(Fault::Lost),
            Some((at, fault)) if at == self.calls => Some(fault),
            _ if self.random.percent(self.faults.calls) => {
                Some([Fault::Refused, Fault::Lost, Fault::DoneAndLost][self.random.below(3) as usize])
            }
            _ => None,
        };
        let silent = "no answer".to_owned();
        match call {
            Output::Rollout(rollout::Output::Look) => {
                let seen = if fault.is_some() { Err(silent) } else { Ok(Box::new(self.view())) };
                Input::Rollout(rollout::Input::Seen(seen))
            }
            Output::Rollout(rollout::Output::Apply(steps)) => {
                let [step] = &steps[..] else { panic!("one service at a time") };
                Input::Rollout(rollout::Input::Applied(vec![match fault {
                    Some(Fault::Refused) => Err(ApplyError::Refused("no".to_owned())),
                    Some(Fault::Lost) => Err(ApplyError::Unsure(silent)),
                    Some(Fault::DoneAndLost) => self.apply(step).and(Err(ApplyError::Unsure(silent))),
                    None => self.apply(step),
                }]))
            }
            Output::Availability(node, availability) => {
                if !matches!(fault, Some(Fault::Lost | Fault::Refused)) {
                    let node = self.nodes.iter_mut().find(|it| it.id == node).unwrap();
                    node.availability = availability;
                    if availability == Availability::Drain {
                        let has = self.tasks.iter().find(|(_, tasks)| {
                            tasks.iter().any(|it| self.nodes[it.0].availability == Availability::Drain)
                        });
                        assert_eq!(has, None, "Swarm would move it by itself");
                    }
                }
                Input::Changed(if fault.is_some() { Err(silent) } else { Ok(()) })
            }
            Output::Gate(handover) => {
                assert!(!handover.to.is_empty() && handover.to.iter().all(|it| !handover.from.contains(it)));
                let asked = self.gates.entry(handover.volume).or_default();
                *asked += 1;
                let holds = *asked > 2 && fault.is_none();
                Input::Gate(if holds { Ok(()) } else { Err("12 changes from home-0".to_owned()) })
            }
            _ => unreachable!("not a call"),
        }
    }
}

fn replicas(service: &ServiceSpec) -> u64 {
    let ServiceMode::Replicated(replicas) = service.mode else { panic!("replicated ones only") };
    replicas
}

fn volumes(service: &ServiceSpec) -> Vec<String> {
    let name = |mount: &Mount| match &mount.source {
        MountSource::Volume { name, .. } => name.clone(),
        _ => None,
    };
    service.container.mounts.values().filter_map(name).collect()
}

fn options() -> PlanOptions {
    let mut options = PlanOptions::default();
    options.leased_drivers = BTreeSet::from(["hybrid".to_owned()]);
    options.synced_folders = vec!["/sync".to_owned()];
    options
}

fn service(name: &str, image: &str, replicas: u64) -> ServiceSpec {
    let mut service = ServiceSpec::new(name, image);
    service.mode = ServiceMode::Replicated(replicas);
    service
}

fn with_volume(mut service: ServiceSpec) -> ServiceSpec {
    let source = MountSource::Volume {
        name: Some(format!("{}-data", service.name)),
        driver: Some("hybrid".to_owned()),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        no_copy: false,
    };
    service.container.mounts.insert("/data".to_owned(), Mount::new(source, false));
    service
}

/// Three services with tasks on the first node, and one without.
fn model(seed: u64, faults: Faults, image: &str) -> Model {
    let mut git = with_volume(service("git", image, 1));
    if image != "good" {
        // It has nowhere else to go.
        git.placement.constraints.insert("node.hostname!=home-1".to_owned());
    }
    let placed: [(ServiceSpec, &[usize]); 4] = [
        (service("cache", "good", 1), &[0]),
        (git, &[0]),
        (service("web", "good", 2), &[0, 1]),
        (service("other", "good", 1), &[1]),
    ];
    Model::new(seed, faults, &placed)
}

fn check(model: &Model, result: &Result<(), MaintenanceError>) {
    let is_named = |error: &MaintenanceError, name: &str| {
        error.left.iter().any(|left| left.step.split(' ').any(|word| word == name))
    };
    let on_first = |name: &str| model.tasks[name].iter().any(|it| it.0 == 0);
    match result {
        Ok(()) => {
            assert_eq!(model.services, model.first);
            assert_eq!(model.nodes[0].availability, Availability::Drain);
            assert!(model.tasks.keys().all(|name| !on_first(name)), "{:?}", model.tasks);
        }
        Err(error) => {
            for (name, spec) in &model.services {
                assert!(model.first[name] == *spec || is_named(error, name), "{name} is not named: {error}");
            }
            let is_active = model.nodes[0].availability == Availability::Active;
            assert!(is_active || is_named(error, "id0"), "the node is not named: {error}");
            assert!(error.moved.iter().all(|name| !on_first(name)), "{error}");
            let is_back = |name: &String| on_first(name) || is_named(error, name);
            assert!(error.remaining.iter().all(is_back), "not where it was: {error} {:?}", model.tasks);
            let named = error.moved.len() + error.remaining.len();
            assert_eq!(named, 3, "{error}");
        }
    }
    assert_eq!(model.tasks["other"].len(), 1);
    assert_eq!(model.tasks["other"][0].0, 1, "what is elsewhere stays there");
}

#[test]
fn a_drained_node_is_left_by_one_service_after_the_other() {
    let mut model = model(1, Faults::default(), "good");
    let before = model.tasks["web"].clone();
    let work = drain("home-0", &model.view(), &options()).unwrap();
    assert_eq!(work.moves.iter().map(|it| it.service.as_str()).collect::<Vec<_>>(), ["cache", "git", "web"]);
    let result = model.run(work, None).unwrap();
    assert_eq!(result, Ok(()));
    check(&model, &result);
    assert!(model.tasks["web"].contains(&before[1]), "the task on another node is the same one");
}

#[test]
fn a_service_that_breaks_on_the_next_node_stays_and_the_node_is_as_before() {
    let mut model = model(1, Faults::default(), "broken-on-2");
    let work = drain("home-0", &model.view(), &options()).unwrap();
    let error = model.run(work, None).unwrap().unwrap_err();
    assert!(error.why.starts_with("service git: its command is not in the image on home-2"), "{error}");
    assert_eq!(
        (error.moved.join(" "), error.remaining.join(" ")),
        ("cache".to_owned(), "git web".to_owned())
    );
    assert_eq!(error.left, []);
    assert_eq!(model.nodes[0].availability, Availability::Active);
    assert_eq!(model.services, model.first);
    assert_eq!(model.tasks["git"].iter().map(|it| it.0).collect::<Vec<_>>(), [0], "it is back where it was");
}

#[test]
fn who_cannot_move_is_named_before_anything_begins() {
    let model = model(1, Faults::default(), "good");
    let mut view = model.view();
    view.nodes[2].volume_drivers.clear();
    let git = view.present.services.get_mut("git").unwrap();
    git.placement.constraints.insert("node.labels.disk==large".to_owned());
    let source = MountSource::Bind { path: "/sync/web".to_owned(), propagation: None };
    let web = view.present.services.get_mut("web").unwrap();
    web.container.mounts.insert("/srv".to_owned(), Mount::new(source, false));
    view.present.services.get_mut("cache").unwrap().mode = ServiceMode::Global;
    let work = drain("id0", &view, &options()).unwrap();
    assert_eq!(
        work.stuck.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["service git cannot move: home-1 lacks node.labels.disk==large; \
          home-2 lacks node.labels.disk==large and has no volume driver hybrid"]
    );
    assert_eq!(work.ends, ["cache"]);
    assert_eq!(work.moves.len(), 1);
    assert!(work.warnings.concat().contains("binds /sync/web"), "{:?}", work.warnings);
    assert_eq!(drain("attic", &view, &options()), Err(WorkError::NoNode("attic".to_owned())));
    let lacks = relocate("git", "home-2", &view, &options()).unwrap_err().to_string();
    assert!(
        lacks.starts_with("service git cannot move to home-2: home-2 lacks node.labels.disk==large"),
        "{lacks}"
    );
}

#[test]
fn a_service_with_a_volume_of_its_node_alone_goes_nowhere() {
    let mut alone = with_volume(service("db", "good", 1));
    let mount = alone.container.mounts.get_mut("/data").unwrap();
    let MountSource::Volume { driver, .. } = &mut mount.source else { panic!("a volume") };
    *driver = None;
    let mut spread = service("web", "good", 2);
    spread.placement.spread.push("node.labels.zone".to_owned());
    let placed: [(ServiceSpec, &[usize]); 4] = [
        (alone, &[1]),
        (service("one", "good", 1), &[1]),
        (service("two", "good", 1), &[1]),
        (spread, &[1, 1]),
    ];
    let model = Model::new(1, Faults::default(), &placed);
    let moves: Vec<_> = rebalance(&model.view(), &options()).moves.into_iter().map(|it| it.service).collect();
    assert_eq!(moves, ["one", "two"]);
    let work = drain("home-1", &model.view(), &options()).unwrap();
    assert!(work.stuck[0].why.starts_with("its volume db-data has the driver local"), "{:?}", work.stuck);
    let refused = relocate("db", "home-2", &model.view(), &options()).unwrap_err().to_string();
    assert!(refused.starts_with("service db cannot move to home-2: its volume db-data"), "{refused}");

    let mut view = model.view();
    let mount = view.present.services.get_mut("db").unwrap().container.mounts.get_mut("/data").unwrap();
    let MountSource::Volume { options: volume, .. } = &mut mount.source else { panic!("a volume") };
    volume.insert("type".to_owned(), "nfs".to_owned());
    view.present.services.get_mut("one").unwrap().mode =
        ServiceMode::ReplicatedJob { completions: 1, concurrent: 1 };
    let stuck: Vec<_> =
        drain("home-1", &view, &options()).unwrap().stuck.into_iter().map(|it| it.service).collect();
    assert_eq!(stuck, ["one"], "what is elsewhere goes along, and a job does not begin anew");
}

/// A client that dies while a service has more tasks than it should leaves them, and the next one does not.
#[test]
fn a_rebalance_that_was_broken_off_is_brought_to_its_end() {
    let placed: [(ServiceSpec, &[usize]); 2] =
        [(service("web", "good", 2), &[1, 1]), (service("one", "good", 1), &[2])];
    let undisturbed = || Model::new(1, Faults::default(), &placed);
    let work = rebalance(&undisturbed().view(), &options());
    assert_eq!(work.moves.len(), 1);
    let mut deaths = 0;
    for dies_at in 1.. {
        let mut model = undisturbed();
        if model.run(work.clone(), Some(dies_at)).is_some() {
            break;
        }
        deaths += u64::from(model.services != model.first);
        while rebalance(&model.view(), &options()) != Work::default() {
            let again = rebalance(&model.view(), &options());
            assert_eq!(model.run(again, None).unwrap(), Ok(()));
        }
        assert_eq!(model.services, model.first, "dies at {dies_at}");
        assert_eq!(model.tasks["web"].iter().map(|it| it.0).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1]));
    }
    assert!(deaths > 0, "it never died in between");
}

#[test]
fn a_service_moves_to_a_node_and_is_not_bound_to_it() {
    let mut model = model(1, Faults::default(), "good");
    let work = relocate("git", "home-2", &model.view(), &options()).unwrap();
    assert_eq!(model.run(work, None).unwrap(), Ok(()));
    assert_eq!(model.tasks["git"].iter().map(|it| it.0).collect::<Vec<_>>(), [2]);
    assert_eq!(model.services, model.first);
}

/// Every call fails once in every way, somebody presses Ctrl-C at every call, and the client dies after every call.
#[test]
fn a_failure_at_any_step_leaves_nothing_unnamed() {
    let mut ends = [0; 2];
    for image in ["good", "broken-on-2"] {
        let mut undisturbed = model(0, Faults::default(), image);
        let work = drain("home-0", &undisturbed.view(), &options()).unwrap();
        let result = undisturbed.run(work.clone(), None).unwrap();
        check(&undisturbed, &result);
        let at_each = |fault: fn(u64) -> Faults| (1..=undisturbed.calls + 10).map(fault);
        let faults = at_each(|at| Faults { at: Some((at, Fault::Refused)), ..Faults::default() })
            .chain(at_each(|at| Faults { at: Some((at, Fault::Lost)), ..Faults::default() }))
            .chain(at_each(|at| Faults { at: Some((at, Fault::DoneAndLost)), ..Faults::default() }))
            .chain(at_each(|at| Faults { cancel_at: Some(at), ..Faults::default() }))
            .chain(at_each(|at| Faults { silent_from: Some(at), ..Faults::default() }));
        for (seed, faults) in faults.enumerate() {
            let mut model = model(seed as u64, faults, image);
            let result = model.run(work.clone(), None).unwrap();
            check(&model, &result);
            ends[usize::from(result.is_err())] += 1;
        }
        for dies_at in 1..=undisturbed.calls {
            let mut model = model(dies_at, Faults::default(), image);
            if model.run(work.clone(), Some(dies_at)).is_some() || image != "good" {
                continue;
            }
            // The same command again ends what was begun.
            let again = drain("home-0", &model.view(), &options()).unwrap();
            let result = model.run(again, None).unwrap();
            assert_eq!(result, Ok(()));
            check(&model, &result);
        }
    }
    assert!(ends.iter().all(|count| *count > 20), "a case hardly occurred: {ends:?}");
}

#[test]
fn whatever_fails_nothing_is_left_unnamed() {
    let seeds = std::env::var("SEED").map_or(0..300, |seed| seed.parse().map(|it| it..it + 1).unwrap());
    for seed in seeds {
        let mut random = Random::new(seed);
        let faults = Faults {
            calls: [2, 10, 40][random.below(3) as usize],
            cancel_at: random.percent(20).then(|| 1 + random.below(40)),
            ..Faults::default()
        };
        let mut model = model(seed, faults, ["good", "broken-on-2"][random.below(2) as usize]);
        let work = drain("home-0", &model.view(), &options()).unwrap();
        eprintln!("SEED={seed}");
        let result = model.run(work, None).unwrap();
        check(&model, &result);
    }
}

#[test]
fn a_node_that_is_back_gets_its_share_with_the_fewest_moves() {
    let placed: [(ServiceSpec, &[usize]); 4] = [
        (service("a", "good", 1), &[1]),
        (service("b", "good", 1), &[2]),
        (service("web", "good", 2), &[1, 1]),
        (service("c", "good", 1), &[2]),
    ];
    let mut model = Model::new(1, Faults::default(), &placed);
    let work = rebalance(&model.view(), &options());
    let moves: Vec<_> = work.moves.iter().map(|it| (it.service.as_str(), &it.how)).collect();
    assert_eq!(moves, [("web", &How::More(1))], "one move spreads web, and leaves 2, 2 and 1");
    assert_eq!(model.run(work, None).unwrap(), Ok(()));
    assert_eq!(model.services, model.first);
    assert_eq!(model.tasks["web"].iter().map(|it| it.0).collect::<BTreeSet<_>>(), BTreeSet::from([0, 1]));
    assert_eq!(rebalance(&model.view(), &options()), Work::default(), "a second time there is nothing to do");
}

/// The least that a placement of these services can cost, by trying all.
fn best(services: &[Spread], chosen: &mut Vec<Vec<u64>>) -> (u64, u64, u64) {
    let Some(service) = services.get(chosen.len()) else { return cost(services, chosen) };
    let nodes = service.tasks.len();
    let all = service.tasks.iter().sum::<u64>();
    // What is where it may not be stays there.
    let fixed = |node: usize| (!service.may[node]).then_some(service.tasks[node]);
    let mut least = (u64::MAX, 0, 0);
    let mut counts = vec![0; nodes];
    loop {
        let is_possible = counts.iter().sum::<u64>() == all
            && (0..nodes).all(|node| match fixed(node) {
                Some(count) => counts[node] == count,
                None => service.most == 0 || counts[node] <= service.most.max(service.tasks[node]),
            });
        if is_possible {
            chosen.push(counts.clone());
            least = least.min(best(services, chosen));
            chosen.pop();
        }
        let Some(next) = counts.iter().position(|count| *count < all) else { return least };
        counts[next] += 1;
        counts[..next].fill(0);
    }
}

fn cost(services: &[Spread], now: &[Vec<u64>]) -> (u64, u64, u64) {
    let nodes = services.first().map_or(0, |it| it.tasks.len());
    let spread = now.iter().flatten().map(|count| count * count).sum();
    let load = |node: usize| now.iter().map(|tasks| tasks[node]).sum::<u64>();
    let pairs = services.iter().zip(now);
    let moves =
        pairs.flat_map(|(it, now)| it.tasks.iter().zip(now).map(|(before, now)| now.saturating_sub(*before)));
    (spread, (0..nodes).map(|node| load(node).pow(2)).sum(), moves.sum())
}

fn spreads() -> impl Strategy<Value = Vec<Spread>> {
    let one = (proptest::collection::vec(0..3_u64, 3), proptest::collection::vec(any::<bool>(), 3), 0..3_u64);
    let spread = one.prop_map(|(mut tasks, may, most)| {
        // Swarm places no more than that.
        tasks.iter_mut().filter(|_| most > 0).for_each(|tasks| *tasks = most.min(*tasks));
        Spread { tasks, may, most }
    });
    proptest::collection::vec(spread, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// As even as can be, with as few moves as can be, and never where a task may not be.
    #[test]
    fn no_placement_is_more_even_and_none_as_even_takes_fewer_moves(services in spreads()) {
        let mut now: Vec<_> = services.iter().map(|it| it.tasks.clone()).collect();
        let moves = even_out(&services);
        for it in &moves {
            prop_assert!(services[it.service].may[it.to] && services[it.service].may[it.from]);
            now[it.service][it.from] -= 1;
            now[it.service][it.to] += 1;
        }
        for (service, now) in services.iter().zip(&now) {
            for (before, now) in service.tasks.iter().zip(now) {
                prop_assert!(service.most == 0 || *now <= service.most.max(*before));
            }
        }
        prop_assert_eq!(cost(&services, &now), best(&services, &mut Vec::new()));
        prop_assert_eq!(moves.len() as u64, cost(&services, &now).2);
    }
}
