//! The client against a real Docker Engine.
#![cfg(all(feature = "driver", target_os = "linux"))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use support::{Engine, can_run, until};
use swarmctl::Swarm;
use swarmctl::cluster::{
    Availability, Mode, NodeStatus, Protocol, Publish, Replicas, Role, SwarmState, TaskState,
};
use swarmctl::error::SwarmError;

#[tokio::test]
#[ignore = "needs root and Docker: run with --ignored"]
async fn nodes_services_and_tasks_of_a_real_swarm() {
    if !can_run() {
        return;
    }
    let mut engine = Engine::start();
    let swarm = engine.connect().await;

    let info = swarm.info().await.unwrap();
    assert_eq!(info.swarm, SwarmState::Inactive);
    assert_eq!(info.name, engine.netns);
    assert!(matches!(swarm.nodes().await, Err(SwarmError::Inactive)));
    assert!(matches!(swarm.services().await, Err(SwarmError::Inactive)));
    assert!(matches!(swarm.tasks(Some("web")).await, Err(SwarmError::Inactive)));

    engine.import_busybox();
    engine.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    engine.docker(&["node", "update", "--label-add", "location=home", &engine.netns]);
    let common = ["service", "create", "--no-resolve-image", "-q", "-d", "--endpoint-mode", "dnsrr"];
    let web = [
        "--name",
        "web",
        "--replicas",
        "2",
        "--label",
        "team=a",
        "--constraint",
        "node.labels.location==home",
        "--publish",
        "mode=host,target=80",
        "--stop-grace-period",
        "1s",
        "busybox:test",
        "/bin/busybox",
        "sleep",
        "600",
    ];
    engine.docker(&[&common[..], &web[..]].concat());
    let nowhere =
        ["--name", "nowhere", "--constraint", "node.labels.location==mars", "busybox:test", "/bin/busybox"];
    engine.docker(&[&common[..], &nowhere[..]].concat());
    let failing = [
        "--name",
        "failing",
        "--restart-condition",
        "none",
        "busybox:test",
        "/bin/busybox",
        "sh",
        "-c",
        "exit 127",
    ];
    engine.docker(&[&common[..], &failing[..]].concat());

    a_node_is_listed_with_all_that_is_known(&swarm, &engine).await;
    services_are_listed_with_their_state(&swarm).await;
    tasks_say_why_they_do_not_run(&swarm).await;
}

async fn a_node_is_listed_with_all_that_is_known(swarm: &Swarm, engine: &Engine) {
    let info = swarm.info().await.unwrap();
    let nodes = swarm.nodes().await.unwrap();
    let [node] = &nodes[..] else { panic!("{nodes:?}") };
    assert_eq!((&node.name, node.role, node.leader), (&engine.netns, Role::Manager, true));
    assert_eq!((node.availability, node.status), (Availability::Active, NodeStatus::Ready));
    assert_eq!((node.address.as_str(), node.labels["location"].as_str()), ("127.0.0.1", "home"));
    assert!(node.engine_version.starts_with(&info.version) || info.version.starts_with(&node.engine_version));
    assert_eq!(info.swarm, SwarmState::Manager { node: node.id.clone() });
}

async fn services_are_listed_with_their_state(swarm: &Swarm) {
    let services = until(
        "web converges",
        async || swarm.services().await.unwrap(),
        |services| services.iter().any(|it| it.name == "web" && it.replicas.running == 2),
    )
    .await;
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["failing", "nowhere", "web"]);
    let web = &services[2];
    assert_eq!((web.mode, web.replicas), (Mode::Replicated, Replicas { running: 2, desired: 2 }));
    assert_eq!((web.image.as_str(), web.labels["team"].as_str()), ("busybox:test", "a"));
    assert_eq!(web.constraints, ["node.labels.location==home"]);
    let [port] = web.ports[..] else { panic!("{:?}", web.ports) };
    assert_eq!(
        (port.target, port.published, port.protocol, port.publish),
        (80, None, Protocol::Tcp, Publish::Host)
    );
}

async fn tasks_say_why_they_do_not_run(swarm: &Swarm) {
    let web = swarm.tasks(Some("web")).await.unwrap();
    let slots: Vec<Option<u64>> = web.iter().map(|task| task.slot).collect();
    assert_eq!(slots, [Some(1), Some(2)]);
    assert!(
        web.iter()
            .all(|task| task.state == TaskState::Running && task.error.is_none() && task.node.is_some())
    );

    let unplaced = until(
        "the scheduler gives its reason",
        async || swarm.tasks(Some("nowhere")).await.unwrap(),
        |tasks| tasks.iter().any(|task| task.error.is_some()),
    )
    .await;
    let reason = unplaced[0].error.as_deref().unwrap();
    assert!(reason.contains("no suitable node"), "{reason}");
    assert_eq!((unplaced[0].state, &unplaced[0].node), (TaskState::Pending, &None));

    let failed = until(
        "the task fails",
        async || swarm.tasks(Some("failing")).await.unwrap(),
        |tasks| tasks.iter().any(|task| task.state == TaskState::Failed),
    )
    .await;
    let reason = failed[0].error.as_deref().unwrap();
    assert!(reason.contains("127") && reason.contains("not found"), "{reason}");

    let unknown = swarm.tasks(Some("no-such-service")).await.unwrap_err();
    assert!(matches!(unknown, SwarmError::NotFound { .. }), "{unknown}");
    assert_eq!(swarm.tasks(None).await.unwrap().len(), 4);
}
