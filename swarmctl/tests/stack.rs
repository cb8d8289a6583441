//! Stacks, and what changes in a Swarm, against a real Docker Engine.
#![cfg(all(feature = "driver", feature = "compose", target_os = "linux"))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use support::{Engine, can_run};
use swarmctl::cluster::{Availability, Role};
use swarmctl::compose::{self, Surroundings};
use swarmctl::driver::{InitOptions, NodeChange, SwarmLease, SwarmStore};
use swarmctl::error::{Kind, SwarmError};
use swarmctl::lease::Release;
use swarmctl::lease::{LeaseState, Refused};
use swarmctl::plan::{Plan, PlanOptions, plan, plan_removal};
use swarmctl::rollout::{Progress, RolloutError, RolloutOptions};
use swarmctl::spec::{BlobSpec, NetworkSpec, RestartCondition, ServiceMode, ServiceSpec};
use swarmctl::stack::Stack;
use swarmctl::{Barrier, Lease, LeaseError, NodeName, Swarm, VolumeName};
use tokio::sync::Notify;

/// With the image that the engine has.
fn shop() -> Stack {
    let text = include_str!("compose/shop.yml");
    let (stack, diagnostics) = compose::read(text, "shop", &Here);
    assert_eq!(diagnostics, []);
    let mut stack = stack.unwrap();
    for service in stack.services.values_mut() {
        service.container.image = "busybox:test".to_owned();
        service.labels.insert(swarmctl::stack::IMAGE_LABEL.to_owned(), "busybox:test".to_owned());
    }
    stack
}

struct Here;

impl Surroundings for Here {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "TAG").then(|| "1".to_owned())
    }

    fn absolute(&self, path: &str) -> Result<String, String> {
        Ok(path.replacen("./", "/srv/stack/", 1))
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        Ok(if path.ends_with(".env") { b"QUEUE=high\n".to_vec() } else { b"hunter2\n".to_vec() })
    }
}

async fn planned(swarm: &Swarm, stack: &Stack) -> Plan {
    plan(stack, &swarm.present().await.unwrap(), &PlanOptions::default()).unwrap()
}

async fn carry_out(swarm: &Swarm, plan: &Plan) {
    for step in &plan.steps {
        swarm.apply(step).await.unwrap_or_else(|error| panic!("{step}{error}"));
    }
}

#[tokio::test]
#[ignore = "needs root and Docker: run with --ignored"]
async fn a_swarm_is_made_changed_and_left() {
    if !can_run() {
        return;
    }
    let mut engine = Engine::start();
    let swarm = engine.connect().await;
    engine.import_busybox();
    let mut options = InitOptions::new("127.0.0.1");
    options.heartbeat = Some(Duration::from_secs(1));
    let node = swarm.init(&options).await.unwrap();
    assert!(matches!(swarm.init(&options).await, Err(SwarmError::Active)));

    nodes_and_tokens(&swarm, &node, &engine.netns).await;
    services(&swarm).await;
    a_stack(&swarm).await;
    rollouts(&swarm).await;
    leases(&swarm).await;

    let last = swarm.leave(false).await.unwrap_err();
    assert!(matches!(last, SwarmError::LastManager { .. }), "{last}");
    swarm.leave(true).await.unwrap();
    assert!(matches!(swarm.nodes().await, Err(SwarmError::Inactive)));
}

async fn nodes_and_tokens(swarm: &Swarm, node: &str, name: &str) {
    let tokens = swarm.join_tokens().await.unwrap();
    assert!(tokens.worker.starts_with("SWMTKN-") && tokens.worker != tokens.manager);
    assert!(!format!("{tokens:?}").contains("SWMTKN"));
    let rotated = swarm.rotate_token(Role::Worker).await.unwrap();
    assert!(rotated.worker != tokens.worker && rotated.manager == tokens.manager);

    let location =
        BTreeMap::from([("location".to_owned(), "home".to_owned()), ("old".to_owned(), "1".to_owned())]);
    swarm.change_node(name, &NodeChange { set_labels: location, ..Default::default() }).await.unwrap();
    let change = NodeChange {
        availability: Some(Availability::Drain),
        remove_labels: BTreeSet::from(["old".to_owned()]),
        ..Default::default()
    };
    swarm.change_node(node, &change).await.unwrap();
    let nodes = swarm.nodes().await.unwrap();
    assert_eq!(nodes[0].availability, Availability::Drain);
    assert_eq!(nodes[0].labels, BTreeMap::from([("location".to_owned(), "home".to_owned())]));
    let active = NodeChange { availability: Some(Availability::Active), ..Default::default() };
    swarm.change_node(node, &active).await.unwrap();
    let unknown = swarm.change_node("nobody", &active).await.unwrap_err();
    assert!(matches!(unknown, SwarmError::NotFound { kind: Kind::Node, .. }), "{unknown}");
    let manager = swarm.remove_node(node, false).await.unwrap_err();
    assert!(matches!(manager, SwarmError::InUse { kind: Kind::Node, .. }), "{manager}");
    let worker = NodeChange { role: Some(Role::Worker), ..Default::default() };
    let last = swarm.change_node(node, &worker).await.unwrap_err();
    assert!(matches!(last, SwarmError::LastManager { .. }), "{last}");
}

async fn services(swarm: &Swarm) {
    let mut web = ServiceSpec::new("web", "busybox:test");
    web.container.command = ["/bin/busybox", "sleep", "600"].map(str::to_owned).to_vec();
    swarm.create_service(&web).await.unwrap();
    assert_eq!(swarm.service_spec("web").await.unwrap(), web);
    let twice = swarm.create_service(&web).await.unwrap_err();
    assert!(matches!(twice, SwarmError::Exists { kind: Kind::Service, .. }), "{twice}");
    swarm.scale("web", 3).await.unwrap();
    assert_eq!(swarm.service_spec("web").await.unwrap().mode, ServiceMode::Replicated(3));
    swarm.force_update("web").await.unwrap();
    swarm.roll_back("web").await.unwrap();
    swarm.remove_service("web").await.unwrap();
    let gone = swarm.scale("web", 1).await.unwrap_err();
    assert!(matches!(gone, SwarmError::NotFound { kind: Kind::Service, .. }), "{gone}");
    web.networks.insert("nowhere".to_owned(), Default::default());
    let lacks = swarm.create_service(&web).await.unwrap_err();
    assert!(matches!(lacks, SwarmError::NotFound { kind: Kind::Network, .. }), "{lacks}");
}

async fn a_stack(swarm: &Swarm) {
    let network = NetworkSpec::new("traefik-net", "overlay");
    swarm.create_network(&network).await.unwrap();
    let twice = swarm.create_network(&network).await.unwrap_err();
    assert!(matches!(twice, SwarmError::Exists { kind: Kind::Network, .. }), "{twice}");
    let key = BlobSpec::new("cookie_key", b"key".to_vec(), BTreeMap::new());
    swarm.create_secret(&key).await.unwrap();
    let twice = swarm.create_secret(&key).await.unwrap_err();
    assert!(matches!(twice, SwarmError::Exists { kind: Kind::Secret, .. }), "{twice}");

    let mut stack = shop();
    let first = planned(swarm, &stack).await;
    assert_eq!(first.steps.len(), 7, "{first}");
    carry_out(swarm, &first).await;
    assert_eq!(planned(swarm, &stack).await.to_string(), "", "a second plan has nothing to do");
    let used = swarm.remove_secret("cookie_key").await.unwrap_err();
    assert!(matches!(used, SwarmError::InUse { kind: Kind::Secret, .. }), "{used}");

    let web = stack.services.get_mut("shop_web").unwrap();
    web.mode = ServiceMode::Replicated(1);
    web.container.env.insert("PRICE".to_owned(), Some("6".to_owned()));
    let second = planned(swarm, &stack).await;
    assert_eq!(second.steps.len(), 1, "{second}");
    carry_out(swarm, &second).await;
    assert_eq!(planned(swarm, &stack).await.to_string(), "");

    carry_out(swarm, &plan_removal("shop", &swarm.present().await.unwrap())).await;
    let left = swarm.present().await.unwrap();
    assert!(left.services.is_empty() && left.configs.is_empty(), "{left:?}");
    assert_eq!(left.secrets.keys().collect::<Vec<_>>(), ["cookie_key"]);
}

/// A stack of the usual kind gets there; one that cannot says why within seconds, and is as before.
async fn rollouts(swarm: &Swarm) {
    let stack = runnable(shop());
    let before = swarm.present().await.unwrap();
    let said = deploy(swarm, &stack).await.unwrap();
    for service in stack.services.keys() {
        assert!(said.contains(&format!("{service}: ")), "{said}");
    }
    for service in swarm.services().await.unwrap() {
        assert_eq!(service.replicas.running, service.replicas.desired, "{service:?}");
    }
    assert!(planned(swarm, &stack).await.is_empty());

    let good = swarm.present().await.unwrap();
    type Change = fn(&mut ServiceSpec);
    let changes: [(&str, Change); 4] = [
        ("no such image: busybox:nowhere on ", |it| it.container.image = "busybox:nowhere".to_owned()),
        ("lacks node.labels.zone==attic", |it| {
            it.placement.constraints.insert("node.labels.zone==attic".to_owned());
        }),
        ("with exit code (3)", |it| {
            it.container.command = ["/bin/busybox", "sh", "-c", "exit 3"].map(str::to_owned).to_vec();
        }),
        ("its command is not in the image", |it| it.container.command = vec!["/bin/nothing".to_owned()]),
    ];
    for (number, (expected, change)) in changes.into_iter().enumerate() {
        let mut broken = stack.clone();
        let web = broken.services.get_mut("shop_web").unwrap();
        let mut new = web.clone();
        change(&mut new);
        // What runs is changed as well, and put back.
        if number == 0 {
            change(web);
        }
        new.name = "shop_new".to_owned();
        new.mode = ServiceMode::Replicated(1);
        broken.services.insert(new.name.clone(), new);
        let start = std::time::Instant::now();
        let error = deploy(swarm, &broken).await.unwrap_err();
        println!("{:.1} s: {error}", start.elapsed().as_secs_f64());
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.left.is_empty() && error.is_undone, "{error}");
        assert_eq!(swarm.present().await.unwrap(), good);
    }
    single_changes(swarm).await;

    let removal = plan_removal("shop", &swarm.present().await.unwrap());
    swarm.deploy(&removal, RolloutOptions::default(), &Notify::new(), |_| {}).await.unwrap();
    let mut after = swarm.present().await.unwrap();
    // The engine's own, made with the first overlay network.
    after.networks.remove("docker_gwbridge");
    assert_eq!(after, before);
}

/// With what an engine that has nothing but busybox can run.
fn runnable(mut stack: Stack) -> Stack {
    for service in stack.services.values_mut() {
        let container = &mut service.container;
        container.entrypoint.clear();
        container.command = ["/bin/busybox", "sleep", "600"].map(str::to_owned).to_vec();
        container.health = None;
        container.mounts.clear();
        container.stop_grace = Some(Duration::from_secs(1));
        service.placement = Default::default();
        service.ports.clear();
        service.restart.delay = Duration::from_millis(200);
        service.update.monitor = Duration::from_secs(1);
    }
    stack
}

/// What is changed by one call is waited for, too; jobs are waited for until they have ended.
async fn single_changes(swarm: &Swarm) {
    let wait = async |service: &str| {
        swarm.converged(service, RolloutOptions::default(), &Notify::new(), |_| {}).await.unwrap()
    };
    swarm.force_update("shop_web").await.unwrap();
    wait("shop_web").await.unwrap();
    swarm.scale("shop_web", 1).await.unwrap();
    wait("shop_web").await.unwrap();
    let mut job = ServiceSpec::new("job", "busybox:test");
    job.mode = ServiceMode::ReplicatedJob { completions: 2, concurrent: 2 };
    job.restart.condition = RestartCondition::OnFailure;
    job.container.command = ["/bin/busybox", "true"].map(str::to_owned).to_vec();
    swarm.create_service(&job).await.unwrap();
    wait("job").await.unwrap();
    job.name = "bad".to_owned();
    job.restart.condition = RestartCondition::None;
    job.container.command[1] = "false".to_owned();
    swarm.create_service(&job).await.unwrap();
    let error = wait("bad").await.unwrap_err();
    assert!(error.to_string().contains("with exit code (1)"), "{error}");
    swarm.remove_service("job").await.unwrap();
    swarm.remove_service("bad").await.unwrap();
}

async fn deploy(swarm: &Swarm, stack: &Stack) -> Result<String, RolloutError> {
    let mut said = String::new();
    let plan = planned(swarm, stack).await;
    let tell = |progress: &Progress| said.push_str(&format!("{progress}\n"));
    swarm.deploy(&plan, RolloutOptions::default(), &Notify::new(), tell).await.map(|()| said)
}

/// Of many that contend at once each gets a grant of an epoch of its own, or is told who holds the lease.
async fn leases(swarm: &Swarm) {
    let volume: VolumeName = "data".parse().unwrap();
    let lease = SwarmLease::new(SwarmStore::new(swarm.clone()));
    assert_eq!(lease.observe(&volume).await.unwrap(), LeaseState::vacant(volume.clone()));
    let contenders = (0..4).map(|n| {
        let (lease, volume) = (lease.clone(), volume.clone());
        let holder: NodeName = format!("node-{n}").parse().unwrap();
        tokio::spawn(async move {
            let mut epochs = Vec::new();
            for _ in 0..10 {
                match lease.acquire(&volume, &holder, 0).await {
                    Ok(grant) => {
                        epochs.push(grant.epoch);
                        lease.release(&grant, &Release::Unused).await.unwrap();
                    }
                    Err(LeaseError::Refused(Refused::Held { .. })) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
            epochs
        })
    });
    let mut epochs = Vec::new();
    for contender in contenders.collect::<Vec<_>>() {
        epochs.extend(contender.await.unwrap());
    }
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=epochs.len() as u64).collect::<Vec<_>>(), "each epoch is granted once");
    assert!(!epochs.is_empty());

    // A Swarm that was made anew goes on above what a replica has seen.
    let holder: NodeName = "node-0".parse().unwrap();
    let grant = lease.acquire(&volume, &holder, 1000).await.unwrap();
    assert!(grant.epoch == 1001 && grant.store_behind);
    let barrier = Barrier::new("b1").unwrap();
    let flushed = Release::Flushed { barrier: barrier.clone(), replicas: BTreeSet::from([holder]) };
    lease.release(&grant, &flushed).await.unwrap();
    let state = lease.observe(&volume).await.unwrap();
    assert_eq!((state.epoch, state.holder, state.barrier), (1001, None, Some(barrier)));
}
