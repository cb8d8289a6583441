//! Rollouts against a model of a Swarm: calls that fail, that take effect and fail, services that never run, managers that do
//! not answer, somebody else who changes things, a client that dies at any step. A rollout ends with everything as planned, or
//! as before, or names what is neither. `SEED=n` replays one seed, `SEEDS=n` runs more of them.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "sim/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use random::Random;
use swarmctl::cluster::{Node, Role, Task, TaskState};
use swarmctl::plan::{PlanOptions, Present, Step, plan, plan_removal};
use swarmctl::rollout::{
    ApplyError, Failure, Input, Output, Rollout, RolloutError, RolloutOptions, Seen, SeenTask, UpdateState,
    View,
};
use swarmctl::spec::{BlobSpec, NetworkSpec, ServiceMode, ServiceSpec};
use swarmctl::stack::{STACK_LABEL, Stack};

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    /// Of a hundred calls, so many fail, half of them after they took effect.
    calls: u64,
    /// The call of this number fails in this way.
    at: Option<(u64, Fault)>,
    /// Of a hundred looks, so many find somebody who has just changed a service.
    meddling: u64,
    /// No manager answers from this call on.
    silent_from: Option<u64>,
    cancel_at: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Refused,
    Busy,
    Lost,
    DoneAndLost,
}

/// A Swarm in which tasks run 1 s after they were asked for, or do not, by what their image is called.
struct Model {
    now: Instant,
    present: Present,
    changed: BTreeMap<String, Instant>,
    previous: BTreeMap<String, ServiceSpec>,
    random: Random,
    faults: Faults,
    calls: u64,
    meddled: BTreeSet<String>,
    trace: String,
}

impl Model {
    fn new(seed: u64, faults: Faults, present: Present) -> Self {
        let now = Instant::now();
        let changed =
            present.services.keys().map(|name| (name.clone(), now - Duration::from_secs(60))).collect();
        let (random, trace, meddled) = (Random::new(seed), String::new(), BTreeSet::new());
        let previous = BTreeMap::new();
        Self { now, present, changed, previous, random, faults, calls: 0, meddled, trace }
    }

    /// Runs a plan to its end, or until the client dies.
    fn run(&mut self, rollout: &mut Rollout, dies_at: Option<u64>) -> Option<Result<(), RolloutError>> {
        let start = self.now;
        loop {
            let mut call = None;
            while let Some(output) = rollout.poll() {
                let at = (self.now - start).as_millis();
                self.trace.push_str(&format!("{at} {output:?}\n"));
                match output {
                    Output::Done(result) => return Some(result),
                    Output::Progress(_) => {}
                    it => assert!(call.replace(it).is_none(), "two calls at a time"),
                }
            }
            assert!(self.now - start < Duration::from_secs(1000), "it never ends");
            let input = match call {
                Some(Output::Apply(steps)) => {
                    let mut results = vec![Ok(()); steps.len()];
                    let mut order: Vec<_> = results.iter_mut().zip(&steps).collect();
                    // They reach the manager in any order.
                    while !order.is_empty() {
                        let (result, step) =
                            order.swap_remove(self.random.below(order.len() as u64) as usize);
                        self.call(rollout);
                        *result = self.try_step(step);
                        if dies_at == Some(self.calls) {
                            return None;
                        }
                    }
                    Input::Applied(results)
                }
                Some(_) => {
                    self.call(rollout);
                    let input = self.look();
                    if dies_at == Some(self.calls) {
                        return None;
                    }
                    input
                }
                None => {
                    let at = rollout.deadline().expect("nothing is outstanding");
                    self.now = self.now.max(at);
                    Input::Tick
                }
            };
            rollout.handle(self.now, input);
        }
    }

    /// A moment passes with a call.
    fn call(&mut self, rollout: &mut Rollout) {
        self.calls += 1;
        if self.faults.cancel_at == Some(self.calls) {
            rollout.handle(self.now, Input::Cancel);
        }
        self.now += Duration::from_millis(self.random.below(50));
    }

    fn fault(&mut self) -> Option<Fault> {
        let is_silent = self.faults.silent_from.is_some_and(|from| self.calls >= from);
        match self.faults.at {
            _ if is_silent => Some(Fault::Lost),
            Some((at, fault)) if at == self.calls => Some(fault),
            _ if self.random.percent(self.faults.calls) => Some(match self.random.below(8) {
                0 => Fault::Refused,
                1 | 2 => Fault::Busy,
                3 | 4 => Fault::Lost,
                _ => Fault::DoneAndLost,
            }),
            _ => None,
        }
    }

    fn look(&mut self) -> Input {
        if self.fault().is_some() {
            return Input::Seen(Err("no answer".to_owned()));
        }
        if self.random.percent(self.faults.meddling) {
            self.meddle();
        }
        Input::Seen(Ok(Box::new(self.view())))
    }

    fn try_step(&mut self, step: &Step) -> Result<(), ApplyError> {
        match self.fault() {
            Some(Fault::Refused) => Err(ApplyError::Refused("no".to_owned())),
            Some(Fault::Busy) => Err(ApplyError::Busy("in use".to_owned())),
            Some(Fault::Lost) => Err(ApplyError::Unsure("no answer".to_owned())),
            Some(Fault::DoneAndLost) => {
                let _ = self.apply(step);
                Err(ApplyError::Unsure("no answer".to_owned()))
            }
            None => self.apply(step),
        }
    }

    /// As an engine does: nothing twice, nothing that is used, nothing that somebody else has changed.
    fn apply(&mut self, step: &Step) -> Result<(), ApplyError> {
        let refused = |why: &str| Err(ApplyError::Refused(why.to_owned()));
        let Present { services, networks, secrets, configs } = &self.present;
        match step {
            Step::CreateService(it) if services.contains_key(&it.name) => return refused("exists"),
            Step::CreateNetwork(it) if networks.contains_key(&it.name) => return refused("exists"),
            Step::CreateSecret(it) if secrets.contains_key(&it.name) => return refused("exists"),
            Step::CreateConfig(it) if configs.contains_key(&it.name) => return refused("exists"),
            Step::CreateService(it) => {
                assert!(it.networks.keys().all(|name| networks.contains_key(name)), "a network comes first");
            }
            Step::UpdateService { before, after } => match services.get(&after.name) {
                Some(there) if there == before.as_ref() || there == after.as_ref() => {}
                _ => return refused("changed by somebody else"),
            },
            Step::RemoveNetwork(name) if services.values().any(|it| it.networks.contains_key(name)) => {
                return Err(ApplyError::Busy("a service uses it".to_owned()));
            }
            // Tasks of services that are removed take their time, and an engine may say that it is done when it is not.
            Step::RemoveNetwork(name) if self.is_lingering(name) => {
                let says_done = self.random.percent(50);
                return if says_done { Ok(()) } else { Err(ApplyError::Busy("a task uses it".to_owned())) };
            }
            _ => {}
        }
        let name = step.name();
        assert!(name != "stranger", "what belongs to others is touched: {step}");
        self.changed.insert(name.to_owned(), self.now);
        self.previous.extend(self.present.services.get(name).map(|it| (name.to_owned(), it.clone())));
        self.present.apply(step);
        Ok(())
    }

    /// Whether tasks that are ending use a network.
    fn is_lingering(&self, network: &str) -> bool {
        let mut users = self.previous.iter().filter(|(_, it)| it.networks.contains_key(network));
        users.any(|(name, _)| self.now - self.changed[name] < Duration::from_secs(1))
    }

    fn meddle(&mut self) {
        let names: Vec<_> = self.present.services.keys().filter(|it| *it != "stranger").cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.random.below(names.len() as u64) as usize].clone();
        let service = self.present.services.get_mut(&name).unwrap();
        service.labels.insert("by".to_owned(), "somebody else".to_owned());
        self.meddled.insert(name);
    }

    fn view(&mut self) -> View {
        let mut services = BTreeMap::new();
        for (name, spec) in self.present.services.clone() {
            let age = self.now - self.changed[&name];
            services.insert(name.clone(), seen(&name, &spec, age));
            if spec.container.image != "rolls-back" {
                continue;
            }
            let mut update = UpdateState::Updating;
            if age > Duration::from_secs(2) {
                // Swarm itself puts the version before back.
                self.present.services.insert(name.clone(), self.previous[&name].clone());
                update = UpdateState::RolledBack("rollback completed".to_owned());
            }
            services.get_mut(&name).unwrap().update = Some(update);
        }
        View {
            present: self.present.clone(),
            nodes: vec![Node::new("n1", "home-1", Role::Manager)],
            services,
        }
    }
}

/// How a service is, so long after it was changed.
fn seen(name: &str, spec: &ServiceSpec, age: Duration) -> Seen {
    let ServiceMode::Replicated(replicas) = spec.mode else { panic!("a test has replicated ones only") };
    let task = |id: String, slot, state, error: Option<&str>| SeenTask {
        task: Task {
            id,
            service: name.to_owned(),
            slot: Some(slot),
            node: Some("n1".to_owned()),
            image: spec.container.image.clone(),
            state,
            desired: if state > TaskState::Running { TaskState::Shutdown } else { TaskState::Running },
            error: error.map(str::to_owned),
            since: String::new(),
            addresses: Default::default(),
        },
        is_current: true,
        iteration: 0,
    };
    let tasks = (1..=replicas).flat_map(|slot| {
        let id = |n: u128| format!("{name}.{slot}.{}.{n}", spec.container.image);
        match spec.container.image.as_str() {
            "no-image" => vec![task(id(0), slot, TaskState::Rejected, Some("No such image: no-image"))],
            "no-node" => {
                let said = "no suitable node (insufficient resources on 1 node)";
                vec![task(id(0), slot, TaskState::Pending, Some(said))]
            }
            "exits" => (0..=age.as_millis() / 700)
                .map(|n| task(id(n), slot, TaskState::Failed, Some("task: non-zero exit (1)")))
                .collect(),
            _ if age < Duration::from_secs(1) => vec![task(id(0), slot, TaskState::Preparing, None)],
            _ => vec![task(id(0), slot, TaskState::Running, None)],
        }
    });
    Seen { update: None, iteration: 0, tasks: tasks.collect() }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([(STACK_LABEL.to_owned(), "shop".to_owned())])
}

fn service(name: &str, image: &str, replicas: u64) -> ServiceSpec {
    let mut service = ServiceSpec::new(name, image);
    service.labels = labels();
    service.mode = ServiceMode::Replicated(replicas);
    service.networks.insert("shop_net".to_owned(), Default::default());
    service
}

/// What is there before: one service as it stays, one that changes, one that goes, and a stranger.
fn before() -> Present {
    let mut present = Present::default();
    let mut stranger = ServiceSpec::new("stranger", "theirs");
    stranger.labels.insert(STACK_LABEL.to_owned(), "other".to_owned());
    let mut network = NetworkSpec::new("shop_net", "overlay");
    network.labels = labels();
    present.apply(&Step::CreateNetwork(network));
    for service in [
        service("shop_db", "good:1", 1),
        service("shop_web", "good:1", 2),
        service("shop_old", "good:1", 1),
        stranger,
    ] {
        present.apply(&Step::CreateService(Box::new(service)));
    }
    present
}

/// `web` changes and comes after the new `cache`, which uses a new network and secret; `old` is not wanted any more.
fn wanted(cache: &str, web: &str) -> Stack {
    let mut stack = Stack::new("shop");
    for name in ["shop_net", "shop_back"] {
        let mut network = NetworkSpec::new(name, "overlay");
        network.labels = labels();
        stack.networks.insert(name.to_owned(), network);
    }
    let secret = BlobSpec::new("shop_key", b"key".to_vec(), labels());
    stack.secrets.insert(secret.name.clone(), secret);
    let mut cache = service("shop_cache", cache, 1);
    cache.networks.insert("shop_back".to_owned(), Default::default());
    for service in [service("shop_db", "good:1", 1), cache, service("shop_web", web, 3)] {
        stack.services.insert(service.name.clone(), service);
    }
    stack.after.insert("shop_web".to_owned(), BTreeSet::from(["shop_cache".to_owned()]));
    stack
}

fn options() -> PlanOptions {
    let mut options = PlanOptions::default();
    options.prune = true;
    options
}

fn begin(model: &Model, stack: &Stack) -> Rollout {
    let plan = plan(stack, &model.present, &options()).unwrap();
    Rollout::new(model.now, &plan, RolloutOptions::default())
}

/// The names of everything in which two states differ.
fn differences(one: &Present, other: &Present) -> BTreeSet<String> {
    fn of<T: PartialEq>(one: &BTreeMap<String, T>, other: &BTreeMap<String, T>) -> Vec<String> {
        let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
        names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
    }
    [
        of(&one.services, &other.services),
        of(&one.networks, &other.networks),
        of(&one.secrets, &other.secrets),
        of(&one.configs, &other.configs),
    ]
    .concat()
    .into_iter()
    .collect()
}

/// Either as planned, or as before, or named.
fn check(model: &Model, stack: &Stack, start: &Present, result: &Result<(), RolloutError>) {
    let is_named = |error: &RolloutError, name: &String| {
        error.left.iter().any(|left| left.step.split(' ').any(|word| word == name))
            || model.meddled.contains(name)
    };
    match result {
        Ok(()) => {
            let unmeddled = model.meddled.is_empty();
            assert!(
                !unmeddled || plan(stack, &model.present, &options()).unwrap().is_empty(),
                "not as planned"
            );
            for step in &plan(stack, start, &options()).unwrap().steps {
                if let Step::CreateService(it) | Step::UpdateService { after: it, .. } = step {
                    assert!(it.container.image.starts_with("good"), "{} does not run", it.name);
                }
            }
        }
        Err(error) if error.failure == Failure::NotRemoved => {
            assert!(!error.left.is_empty());
            let mut end = start.clone();
            for step in plan(stack, start, &options()).unwrap().steps {
                end.apply(&step);
            }
            for name in differences(&model.present, &end) {
                assert!(is_named(error, &name), "{name} is not named: {error}");
            }
        }
        Err(error) => {
            for name in differences(&model.present, start) {
                assert!(
                    is_named(error, &name),
                    "{name} is not as before, and not named: {error}\n{}",
                    model.trace
                );
            }
        }
    }
    assert_eq!(model.present.services["stranger"], start.services["stranger"]);
}

fn seeds(run: impl Fn(u64)) {
    let parse = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match parse("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..parse("SEEDS").unwrap_or(300),
    };
    for seed in seeds {
        eprintln!("SEED={seed}");
        run(seed);
    }
}

#[test]
fn without_faults_everything_is_as_planned_and_in_order() {
    let mut model = Model::new(1, Faults::default(), before());
    let stack = wanted("good:2", "good:2");
    let result = model.run(&mut begin(&model, &stack), None).unwrap();
    assert_eq!(result, Ok(()));
    check(&model, &stack, &before(), &result);
    let place = |what: &str| model.trace.find(what).unwrap_or_else(|| panic!("{what}: {}", model.trace));
    let cache_runs = place(r#"service: "shop_cache", running: 1, desired: 1"#);
    assert!(cache_runs < place("Apply([UpdateService"), "web comes after the cache runs");
    assert!(
        place(r#"service: "shop_web", running: 3"#) < place("Apply([RemoveService"),
        "removals come last"
    );
    let first = model.trace.lines().find(|line| line.contains("Apply(")).unwrap();
    assert!(first.contains("CreateNetwork") && first.contains("CreateSecret"), "side by side: {first}");
}

#[test]
fn what_tasks_that_are_ending_still_use_is_waited_for_and_that_is_said() {
    for seed in 0..20 {
        let mut model = Model::new(seed, Faults::default(), before());
        let plan = plan_removal("shop", &model.present);
        let mut options = RolloutOptions::default();
        // It makes no difference to what is removed.
        options.detach = seed % 2 == 0;
        let result = model.run(&mut Rollout::new(model.now, &plan, options), None).unwrap();
        assert_eq!(result, Ok(()));
        let Present { services, networks, .. } = &model.present;
        assert_eq!((services.len(), networks.len()), (1, 0), "the stranger stays");
        let place = |what: &str| model.trace.find(what).unwrap_or_else(|| panic!("{what}: {}", model.trace));
        let waits = place(r#"Busy { step: "- network shop_net""#);
        assert!(place("RemoveService") < waits && waits < place(r#"Progress(Step("- network shop_net"))"#));
        assert_eq!(
            model.trace.matches(r#"Progress(Step("- network shop_net"))"#).count(),
            1,
            "{}",
            model.trace
        );
    }
}

#[test]
fn detached_it_ends_once_everything_was_asked_for() {
    let mut model = Model::new(1, Faults::default(), before());
    let start = model.now;
    let plan = plan(&wanted("good:2", "exits"), &model.present, &options()).unwrap();
    let mut options = RolloutOptions::default();
    options.detach = true;
    let result = model.run(&mut Rollout::new(model.now, &plan, options), None).unwrap();
    assert_eq!(result, Ok(()));
    assert!(model.present.services.contains_key("shop_cache"));
    assert!(model.now - start < Duration::from_secs(1), "{:?}", model.now - start);
}

#[test]
fn a_service_that_does_not_run_is_told_and_everything_is_as_before() {
    let cases = [
        ("no-image", "good:2", "service shop_cache: no such image: no-image on home-1"),
        ("good:2", "no-node", "service shop_web: no node takes it: insufficient resources on 1 node"),
        ("good:2", "exits", "service shop_web: it ended on home-1 with exit code (1)"),
        ("good:2", "rolls-back", "service shop_web: Swarm put the version before back"),
    ];
    for (cache, web, said) in cases {
        let mut model = Model::new(1, Faults::default(), before());
        let start = model.now;
        let stack = wanted(cache, web);
        let error = model.run(&mut begin(&model, &stack), None).unwrap().unwrap_err();
        assert!(error.to_string().starts_with(said), "{error}");
        assert_eq!((error.left.as_slice(), error.is_undone), ([].as_slice(), true), "{error}");
        assert_eq!(differences(&model.present, &before()), BTreeSet::new(), "{error}");
        assert!(model.now - start < Duration::from_secs(25), "{error}: {:?}", model.now - start);
        assert!(
            !model.trace.contains("a service uses it"),
            "networks go after what uses them: {}",
            model.trace
        );
    }
}

/// Every call fails once in every way, and the client dies after every call: then the same is begun again.
#[test]
fn a_failure_at_any_step_leaves_nothing_unnamed() {
    let images = ["good:2", "no-image", "exits", "rolls-back"];
    let mut ends = [0; 3];
    for web in images {
        let stack = wanted("good:2", web);
        let mut undisturbed = Model::new(0, Faults::default(), before());
        let result = undisturbed.run(&mut begin(&undisturbed, &stack), None).unwrap();
        check(&undisturbed, &stack, &before(), &result);
        let calls = undisturbed.calls;
        for fault in [Fault::Refused, Fault::Busy, Fault::Lost, Fault::DoneAndLost] {
            for at in 1..=calls + 10 {
                let faults = Faults { at: Some((at, fault)), ..Faults::default() };
                let mut model = Model::new(at, faults, before());
                let result = model.run(&mut begin(&model, &stack), None).unwrap();
                check(&model, &stack, &before(), &result);
                ends[match &result {
                    Ok(()) => 0,
                    Err(error) if error.left.is_empty() => 1,
                    Err(_) => 2,
                }] += 1;
            }
        }
        for dies_at in 1..=calls {
            let mut model = Model::new(dies_at, Faults::default(), before());
            if model.run(&mut begin(&model, &stack), Some(dies_at)).is_none() {
                let start = model.present.clone();
                let result = model.run(&mut begin(&model, &stack), None).unwrap();
                check(&model, &stack, &start, &result);
                assert!(web != "good:2" || result.is_ok(), "{result:?}");
            }
        }
    }
    assert!(ends.iter().all(|count| *count > 0), "a case never occurred: {ends:?}");
}

#[test]
fn whatever_fails_and_whoever_meddles_nothing_is_left_unnamed() {
    seeds(|seed| {
        let mut random = Random::new(seed);
        let mut image = || ["good:2", "good:3", "no-image", "no-node", "exits"][random.below(5) as usize];
        let stack = wanted(image(), image());
        let faults = Faults {
            calls: [0, 10, 40][random.below(3) as usize],
            meddling: [0, 0, 3][random.below(3) as usize],
            silent_from: random.percent(20).then(|| 1 + random.below(60)),
            cancel_at: random.percent(20).then(|| 1 + random.below(60)),
            at: None,
        };
        let mut model = Model::new(seed, faults, before());
        let result = model.run(&mut begin(&model, &stack), None).unwrap();
        check(&model, &stack, &before(), &result);
    });
}

#[test]
fn an_engine_that_is_slow_is_asked_less_often() {
    for (took_ms, pause_ms) in [(1, 200), (20, 200), (90, 900), (3000, 1000)] {
        let mut model = Model::new(1, Faults::default(), before());
        let services = vec![service("shop_web", "no-node", 1)];
        let mut rollout = Rollout::watch(model.now, services, RolloutOptions::default());
        assert_eq!(rollout.poll(), Some(Output::Look));
        model.now += Duration::from_millis(took_ms);
        rollout.handle(model.now, Input::Seen(Err("no answer".to_owned())));
        assert_eq!(rollout.deadline().unwrap() - model.now, Duration::from_millis(pause_ms), "{took_ms} ms");
    }
}

#[test]
fn cancelled_at_any_call_it_goes_back() {
    let stack = wanted("good:2", "good:2");
    let mut cancelled = 0;
    for at in 1..=60 {
        let faults = Faults { cancel_at: Some(at), ..Faults::default() };
        let mut model = Model::new(at, faults, before());
        let result = model.run(&mut begin(&model, &stack), None).unwrap();
        check(&model, &stack, &before(), &result);
        if let Err(error) = &result
            && error.failure == Failure::Cancelled
        {
            cancelled += 1;
            assert_eq!(error.left, [], "{error}");
        }
    }
    assert!(cancelled > 10, "{cancelled}");
}

#[test]
fn without_undo_nothing_is_put_back_and_everything_is_named() {
    let stack = wanted("good:2", "no-image");
    let mut model = Model::new(1, Faults::default(), before());
    let plan = plan(&stack, &model.present, &options()).unwrap();
    let mut options = RolloutOptions::default();
    options.undo = false;
    let mut rollout = Rollout::new(model.now, &plan, options);
    let error = model.run(&mut rollout, None).unwrap().unwrap_err();
    let steps: Vec<_> = error.left.iter().map(|left| left.step.as_str()).collect();
    let expected = ["~ service shop_web", "- service shop_cache", "- secret shop_key", "- network shop_back"];
    assert_eq!(steps, expected, "{error}");
    check(&model, &stack, &before(), &Err(error));
}

#[test]
fn the_same_input_gives_the_same_trace() {
    let trace = |seed| {
        let faults = Faults { calls: 20, ..Faults::default() };
        let mut model = Model::new(seed, faults, before());
        let stack = wanted("good:2", "good:2");
        let _ = model.run(&mut begin(&model, &stack), None);
        model.trace
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
