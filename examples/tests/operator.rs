//! `swarmctl` in the hands of an operator: every verb, and what goes wrong, on real engines.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use support::cluster::{Cluster, Node};
use support::engine::IMAGE;
use support::{can_run, expect_status, path, run, text, until};

const PROGRAMS: [&str; 8] = ["ip", "nsenter", "unshare", "dockerd", "docker", "iptables", "busybox", "tar"];

fn host(node: &Node) -> String {
    format!("unix://{}", node.socket().display())
}

/// Runs `swarmctl` against the engine of a machine, with the words of a line.
fn try_at(node: &Node, line: &str) -> Output {
    let host = host(node);
    let words: Vec<&str> = line.split_whitespace().collect();
    run("swarmctl", &[&["--host", &host], &words[..]].concat())
}

#[track_caller]
fn at(node: &Node, line: &str) -> String {
    let output = try_at(node, line);
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn json_at(node: &Node, line: &str) -> Value {
    serde_json::from_str(&at(node, &format!("{line} --json"))).unwrap()
}

/// It fails, and says all of this.
#[track_caller]
fn refused(node: &Node, line: &str, words: &[&str]) {
    let output = try_at(node, line);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}: {said}");
    let lacks: Vec<_> = words.iter().filter(|word| !said.contains(*word)).collect();
    assert!(lacks.is_empty(), "{line}: {said} does not say {lacks:?}");
}

#[test]
#[ignore = "needs root and Docker: run with --ignored"]
fn an_operator_has_a_verb_for_everything() {
    if !can_run(&PROGRAMS, &[]) {
        return;
    }
    let mut cluster = Cluster::start(&["vm", "home-1"]);
    let (vm, home) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    let start = Instant::now();
    let done = |what: &str| println!("{what}: {} s since the engines ran", start.elapsed().as_secs());
    membership(vm, home);
    objects(vm);
    done("a Swarm of two, networks, secrets, configs");
    services(vm);
    done("a service made, changed, put back, forced, scaled, removed");
    failures(vm);
    done("what cannot be was refused");
    stacks(vm);
    done("a stack");
    roles(vm, home);
    done("roles");
    nobody_may_use_the_socket(vm);

    // Two managers, of which one is lost: nothing goes any more, and then it does.
    cluster.node_mut(1).engine.kill();
    let vm = &cluster.nodes()[0];
    until("the majority to be lost", || {
        let output = try_at(vm, "node ls");
        text(&output.stderr).contains("swarmctl init --force-new-cluster").then_some(())
    });
    done("the majority was lost");
    at(vm, "init --advertise 10.77.0.1 --force-new-cluster");
    until("the other one to be down", || (json_at(vm, "node ls")[0]["status"] == "down").then_some(()));
    assert!(at(vm, "warnings").contains("node home-1 does not answer"));
    at(vm, "node rm home-1");
    assert_eq!(json_at(vm, "node ls").as_array().unwrap().len(), 1);
    refused(vm, "leave", &["cannot leave"]);
    at(vm, "leave --force");
    done("a Swarm of one again, and its end");
}

fn membership(vm: &Node, home: &Node) {
    refused(vm, "node ls", &["not part of a Swarm", "swarmctl init"]);
    at(
        vm,
        "init --advertise 10.77.0.1 --listen 10.77.0.1:2377 --heartbeat 1s --pool 10.90.0.0/16 --subnet-prefix 24",
    );
    refused(vm, "init --advertise 10.77.0.1", &["already", "swarmctl leave"]);
    let wrong = format!("SWMTKN-1-{}-{}", "a".repeat(50), "b".repeat(25));
    let join = "join --advertise 10.77.0.2 10.77.0.1:2377";
    refused(home, &format!("{join} --token {wrong}"), &["join token"]);
    refused(home, &format!("{join} --token nonsense"), &["join token"]);
    let old = at(vm, "token worker");
    let token = at(vm, "token worker --rotate");
    assert!(token.starts_with("SWMTKN-") && token != old);
    refused(home, &format!("{join} --token {old}"), &["join token", "swarmctl token worker"]);
    let file = home.engine.disk().join("token");
    fs::write(&file, token).unwrap();
    assert_eq!(at(home, &format!("{join} --token-file {}", file.display())), "worker\n");
    refused(home, "node ls", &["worker", "swarmctl node promote"]);
    until("both to be ready", || {
        let nodes = json_at(vm, "node ls");
        nodes.as_array().unwrap().iter().all(|node| node["status"] == "ready").then_some(())
    });
    assert_eq!(at(vm, "node label home-* location=home old=1"), "home-1\n");
    at(vm, "node label location=home old-");
    assert_eq!(json_at(vm, "node ls role=worker")[0]["labels"], serde_json::json!({"location": "home"}));
    refused(vm, "node label mars-* a=b", &["no such node", "mars-*"]);
    let inspected: Value = serde_json::from_str(&at(vm, "node inspect home-1")).unwrap();
    assert_eq!(inspected["Spec"]["Labels"]["location"], "home");
    at(vm, "update --heartbeat 2s --task-history 2");
}

fn objects(vm: &Node) {
    at(vm, "network create traefik-net --tunnel-mtu 1400");
    refused(vm, "network create traefik-net", &["exists already", "network rm traefik-net"]);
    // A manager knows its name before it has given it a driver.
    until("the network with its MTU", || {
        let networks = json_at(vm, "network ls");
        let is_there = |it: &Value| it["name"] == "traefik-net" && it["mtu"] == "1350";
        networks.as_array().unwrap().iter().any(is_there).then_some(())
    });
    let host = host(vm);
    let mut create = Command::new(path("swarmctl"))
        .args(["--host", &host, "secret", "create", "key", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    create.stdin.take().unwrap().write_all(b"hunter2").unwrap();
    assert!(create.wait().unwrap().success());
    assert_eq!(json_at(vm, "secret ls")[0]["name"], "key");
    let file = vm.engine.disk().join("motd");
    fs::write(&file, "welcome").unwrap();
    at(vm, &format!("config create motd {}", file.display()));
    at(vm, "config rm motd");
    refused(vm, "config rm motd", &["no such config"]);
}

/// The services that the operator of the original set-up made, with an image that is here.
fn services(vm: &Node) {
    let bee = format!(
        "service create --name test_bee --constraint node.labels.location==home --network traefik-net \
         --label traefik.frontend.rule=Host:test.example.org --label traefik.port=8080 --endpoint-mode dnsrr \
         --secret key --stop-grace-period 1s --limit-memory 64m {IMAGE} sh -c"
    );
    let host = host(vm);
    let mut words = vec!["--host", &host];
    words.extend(bee.split_whitespace());
    words.push("busybox cat /run/secrets/key; echo; exec sleep 1000");
    expect_status(&run("swarmctl", &words), 0);
    let listed = json_at(vm, "service ls");
    assert_eq!((&listed[0]["running"], &listed[0]["desired"]), (&1.into(), &1.into()), "{listed}");
    assert!(at(vm, "service ps test_bee").contains(" s ago"));
    let tasks = json_at(vm, "service ps test_bee");
    assert_eq!((&tasks[0]["node"], &tasks[0]["state"]), (&"home-1".into(), &"running".into()), "{tasks}");
    assert!(tasks[0]["addresses"][0].as_str().unwrap().starts_with("10.90."), "{tasks}");
    until("the task's line", || {
        at(vm, "service logs test_bee --tail 10").contains("stdout | hunter2").then_some(())
    });
    refused(vm, "network rm traefik-net", &["in use"]);

    at(
        vm,
        "service update --env-add A=1 --label-rm traefik.port --mount-add type=bind,source=/tmp/,target=/host test_bee",
    );
    let spec = json_at(vm, "service inspect test_bee");
    let container = &spec["Spec"]["TaskTemplate"]["ContainerSpec"];
    assert_eq!((&container["Env"][0], &container["Mounts"][0]["Target"]), (&"A=1".into(), &"/host".into()));
    assert_eq!(spec["Spec"]["Labels"]["traefik.port"], Value::Null);
    at(vm, "service rollback test_bee");
    let back = json_at(vm, "service inspect test_bee");
    assert_eq!(back["Spec"]["Labels"]["traefik.port"], "8080");
    let first = json_at(vm, "service ps test_bee")[0]["id"].clone();
    at(vm, "service force test_bee");
    assert_ne!(json_at(vm, "service ps test_bee")[0]["id"], first);
    at(vm, "service scale test_bee 2");
    assert_eq!(json_at(vm, "service ls")[0]["running"], 2);
    assert_eq!(at(vm, "service rm test_bee"), "test_bee\n");
    refused(vm, "service ps test_bee", &["no such service", "swarmctl service ls"]);
}

/// What cannot be is refused with the reason, and nothing of it is left.
fn failures(vm: &Node) {
    let create = "service create --endpoint-mode dnsrr --timeout 30s --name";
    refused(
        vm,
        &format!("{create} nowhere --constraint node.labels.location==mars {IMAGE}"),
        &["nowhere", "location"],
    );
    refused(vm, &format!("{create} imageless no-such-image:1"), &["imageless", "no-such-image:1"]);
    refused(vm, &format!("{create} lonely --network no-net {IMAGE}"), &["no such network", "no-net"]);
    assert_eq!(json_at(vm, "service ls"), serde_json::json!([]));
    at(vm, &format!("service create -d --name traefik -p 443:443 {IMAGE} sleep 1000"));
    refused(
        vm,
        &format!("service create --name second -p 443:443 {IMAGE}"),
        &["443", "traefik", "another port"],
    );
    refused(vm, &format!("service create --name traefik {IMAGE}"), &["exists already"]);
    at(vm, "service rm traefik");
}

fn stacks(vm: &Node) {
    let file = vm.engine.disk().join("shop.yml");
    let compose = |services: &str| fs::write(&file, format!("services:\n{services}")).unwrap();
    compose("  web:\n    image: a:1\n    envronment: {A: b}\n");
    let file_name = file.display().to_string();
    refused(
        vm,
        &format!("stack plan {file_name} --name shop"),
        &["shop.yml:4:5", "envronment", "`environment`"],
    );
    let web = format!(
        "  web:\n    image: {IMAGE}\n    command: sleep 1000\n    stop_grace_period: 1s\n    deploy: {{endpoint_mode: dnsrr}}\n"
    );
    compose(&web);
    let planned = at(vm, &format!("stack plan {file_name} --name shop"));
    assert!(planned.contains("+ service shop_web"), "{planned}");
    at(vm, &format!("stack deploy {file_name} --name shop"));
    assert_eq!(at(vm, &format!("stack plan {file_name} --name shop")), "", "a second plan has nothing to do");
    assert_eq!(json_at(vm, "stack ls")[0]["name"], "shop");
    at(vm, "stack rm shop");
    refused(vm, "stack rm shop", &["nothing belongs to a stack shop"]);
    // Its network is used for a moment after its service is gone.
    at(vm, &format!("stack deploy --detach {file_name} --name shop"));
    until("a task", || (json_at(vm, "service ls")[0]["running"] == 1).then_some(()));
    at(vm, "stack rm --detach shop");
    refused(vm, "stack rm shop", &["nothing belongs to a stack shop"]);
}

fn roles(vm: &Node, home: &Node) {
    at(vm, "node pause home-1");
    at(vm, "node activate home-1");
    refused(vm, "node rm home-1", &["still answers", "swarmctl leave"]);
    refused(vm, "node demote vm", &["majority"]);
    let output = try_at(vm, "node promote home-1");
    assert!(text(&output.stderr).contains("two managers tolerate no failure"), "{}", text(&output.stderr));
    // The managers reach it a moment before it answers questions itself.
    until("the new manager to answer", || try_at(home, "node ls").status.success().then_some(()));
    at(home, "node demote home-1");
    let output = try_at(vm, "node promote role=worker");
    assert_eq!(text(&output.stdout), "home-1\n");
    let line = format!(
        "warnings --mesh 10.78.0.0/24 --tunnel-mtu 1300 --home location=mars --engine {}",
        host(home)
    );
    let warnings = json_at(vm, &line);
    let kinds: Vec<&str> =
        warnings.as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect();
    let wanted = ["two-managers", "outside-mesh", "outside-mesh", "none-at-home", "mtu-too-large"];
    assert_eq!(kinds, wanted, "{warnings}");
}

/// Whoever is not root gets the words, not the socket.
fn nobody_may_use_the_socket(vm: &Node) {
    let dir = tempfile::Builder::new().prefix("swarmctl-").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("swarmctl");
    fs::copy(path("swarmctl"), &program).unwrap();
    let mut command = Command::new(&program);
    let output = command.args(["--host", &host(vm), "node", "ls"]).uid(65534).gid(65534).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("usermod -aG docker"), "{said}");
}

/// Where the running tasks of a service are, each with its ID, and the IDs of all that are known, ended ones as well.
fn tasks(node: &Node, service: &str) -> (Vec<(String, String)>, BTreeSet<String>) {
    let tasks = json_at(node, &format!("service ps {service}"));
    let word = |task: &Value, key: &str| task[key].as_str().unwrap_or_default().to_owned();
    let all = tasks.as_array().unwrap();
    let running = all.iter().filter(|task| task["state"] == "running" && task["desired"] == "running");
    let mut running: Vec<_> = running.map(|task| (word(task, "node"), word(task, "id"))).collect();
    running.sort();
    (running, all.iter().map(|task| word(task, "id")).collect())
}

fn nodes_of(node: &Node, service: &str) -> Vec<String> {
    tasks(node, service).0.into_iter().map(|(node, _)| node).collect()
}

fn constraints(node: &Node, service: &str) -> Value {
    json_at(node, &format!("service inspect {service}"))["Spec"]["TaskTemplate"]["Placement"]["Constraints"]
        .clone()
}

fn availability(node: &Node, name: &str) -> Value {
    json_at(node, &format!("node ls {name}"))[0]["availability"].clone()
}

#[test]
#[ignore = "needs root and Docker: run with --ignored"]
fn a_node_is_drained_and_gets_its_share_back() {
    if !can_run(&PROGRAMS, &[]) {
        return;
    }
    let cluster = Cluster::start(&["vm", "home-1", "home-2"]);
    cluster.form();
    let vm = &cluster.nodes()[0];
    let create = "service create --constraint node.hostname!=vm --stop-grace-period 1s --name";
    at(vm, &format!("{create} git --mount type=bind,source=/tmp,target=/data {IMAGE} sleep 1000"));
    at(vm, &format!("{create} web --replicas 2 {IMAGE} sleep 1000"));
    at(vm, &format!("{create} db --constraint node.hostname==home-1 {IMAGE} sleep 1000"));
    refused(vm, "move git --to vm", &["cannot move to vm: vm lacks node.hostname!=vm"]);
    at(vm, "move git --to home-1");
    assert_eq!(nodes_of(vm, "git"), ["home-1"]);

    // Whoever cannot move is named before anything begins.
    refused(
        vm,
        "drain home-1",
        &["service db cannot move: home-2 lacks node.hostname==home-1", "left as it is"],
    );
    assert_eq!(
        (availability(vm, "home-1"), nodes_of(vm, "git")),
        ("active".into(), vec!["home-1".to_owned()])
    );
    at(vm, "service rm db");

    // Ctrl-C, while git is on its way.
    cancelled(vm);

    let stays = tasks(vm, "web").0.into_iter().find(|(node, _)| node == "home-2").unwrap();
    let output = try_at(vm, "drain home-1 --synced-folder /tmp");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    for words in ["service git binds /tmp", "git moves (1 of 2)", "web moves (2 of 2)"] {
        assert!(said.contains(words), "{said} does not say {words}");
    }
    assert_eq!(
        (nodes_of(vm, "git"), availability(vm, "home-1")),
        (vec!["home-2".to_owned()], "drain".into())
    );
    assert!(tasks(vm, "web").0.contains(&stays), "a task that was elsewhere is another one");
    assert_eq!(constraints(vm, "web"), serde_json::json!(["node.hostname!=vm"]));

    at(vm, "node activate home-1");
    let before = tasks(vm, "git");
    assert_eq!(before.0[0].0, "home-2", "Swarm brings nothing back by itself");
    let moves = json_at(vm, "rebalance --plan")["moves"].clone();
    assert_eq!(moves[0]["service"], "web", "one move makes it even: {moves}");
    assert_eq!(moves.as_array().unwrap().len(), 1);
    at(vm, "rebalance");
    assert_eq!(nodes_of(vm, "web"), ["home-1", "home-2"]);
    assert_eq!(json_at(vm, "rebalance --plan")["moves"], serde_json::json!([]));
    assert_eq!(tasks(vm, "git"), before, "nothing else moved");

    // One task more for the move, none for the end of the constraint.
    at(vm, "move git --to home-1");
    let after = tasks(vm, "git");
    assert_eq!((after.0[0].0.as_str(), after.1.difference(&before.1).count()), ("home-1", 1));
    assert_eq!(constraints(vm, "git"), serde_json::json!(["node.hostname!=vm"]));
}

fn cancelled(vm: &Node) {
    let host = host(vm);
    let mut drain = Command::new(path("swarmctl"))
        .args(["--host", &host, "drain", "home-1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(drain.stderr.take().unwrap());
    let mut lines = String::new();
    while !lines.contains("~ service git") {
        assert_ne!(said.read_line(&mut lines).unwrap(), 0, "{lines}");
    }
    assert_eq!(availability(vm, "home-1"), "pause");
    assert!(Command::new("kill").args(["-INT", &drain.id().to_string()]).status().unwrap().success());
    said.read_to_string(&mut lines).unwrap();
    assert_eq!(drain.wait().unwrap().code(), Some(1), "{lines}");
    assert!(lines.contains("cancelled") && lines.contains("not moved: git, web"), "{lines}");
    assert!(!lines.contains("left to be put back"), "{lines}");
    assert_eq!(
        (availability(vm, "home-1"), nodes_of(vm, "git")),
        ("active".into(), vec!["home-1".to_owned()])
    );
    assert_eq!(constraints(vm, "git"), serde_json::json!(["node.hostname!=vm"]));
}
