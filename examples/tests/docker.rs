//! `edged` against a real Docker Engine.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::engine::{Engine, IMAGE};
use support::netns::Netns;
use support::{Daemon, can_run, path, until};

const PROGRAMS: [&str; 9] =
    ["ip", "nsenter", "unshare", "dockerd", "docker", "iptables", "busybox", "curl", "tar"];

/// `edged` in the engine's namespace, where the containers' own addresses are reached.
struct Edge<'a> {
    daemon: Daemon,
    netns: &'a Netns,
}

impl<'a> Edge<'a> {
    fn start(netns: &'a Netns, engine: &Engine) -> Edge<'a> {
        let socket = engine.socket().display().to_string();
        let arguments = ["run", "--docker", &socket, "--listen", "127.0.0.1:0"];
        Edge { daemon: Daemon::start(netns.command(&path("edged"), &arguments)), netns }
    }

    /// Status and body of a GET for this host.
    fn get(&self, host: &str) -> (String, String) {
        let (name, url) = (format!("Host: {host}"), format!("http://{}/", self.daemon.fact("http")));
        let (_, out) =
            self.netns.run("curl", &["-s", "--max-time", "5", "-w", "\n%{http_code}", "-H", &name, &url]);
        let out = support::text(&out);
        let (body, status) = out.rsplit_once('\n').unwrap_or(("", &out));
        (status.to_owned(), body.to_owned())
    }

    fn serves(&self, host: &str) -> Option<()> {
        (self.get(host) == ("200".to_owned(), "served by a container\n".to_owned())).then_some(())
    }
}

fn run_labelled(engine: &Engine, name: &str, labels: &[&str]) {
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend(labels.iter().flat_map(|label| ["--label", label]));
    arguments.extend([IMAGE, "httpd", "-f", "-p", "8080", "-h", "/www"]);
    engine.docker(&arguments);
}

#[test]
#[ignore = "needs root and Docker: run with --ignored"]
fn a_container_is_served_within_a_second_of_its_start_and_dropped_at_its_stop() {
    if !can_run(&PROGRAMS, &[]) {
        return;
    }
    let netns = Netns::new("docker-edge");
    let engine = Engine::start(&netns);
    let edge = Edge::start(&netns, &engine);
    assert_eq!(edge.get("one.example").0, "404");

    run_labelled(&engine, "one", &["traefik.frontend.rule=Host:one.example", "traefik.port=8080"]);
    let started = Instant::now();
    until("the first container to be served", || edge.serves("one.example"));
    assert!(started.elapsed() < Duration::from_secs(1), "served after {:?}", started.elapsed());

    let three = [
        "traefik.http.routers.three.rule=Host(`three.example`)",
        "traefik.http.services.three.loadbalancer.server.port=8080",
    ];
    run_labelled(&engine, "three", &three);
    let started = Instant::now();
    until("the v3 container to be served", || edge.serves("three.example"));
    assert!(started.elapsed() < Duration::from_secs(1), "served after {:?}", started.elapsed());

    let bad = ["traefik.http.routers.bad.rule=Host(`bad.example`", "traefik.port=8080"];
    run_labelled(&engine, "bad", &bad);
    run_labelled(&engine, "late", &["traefik.frontend.rule=Host:late.example", "traefik.port=8080"]);
    until("the container after the bad one to be served", || edge.serves("late.example"));
    assert_eq!(edge.get("bad.example").0, "404");
    assert!(edge.serves("one.example").is_some() && edge.serves("three.example").is_some());
    let complaint =
        until("a word about the bad label", || Some(edge.daemon.stderr()).filter(|log| log.contains("bad")));
    assert!(complaint.contains("traefik.http.routers.bad.rule"), "{complaint}");

    engine.docker(&["stop", "-t", "0", "one"]);
    let stopped = Instant::now();
    until("the stopped container to be dropped", || (edge.get("one.example").0 == "503").then_some(()));
    assert!(stopped.elapsed() < Duration::from_secs(1), "dropped after {:?}", stopped.elapsed());
    assert!(edge.serves("three.example").is_some());
    engine.docker(&["rm", "one"]);
    until("the removed container to be forgotten", || (edge.get("one.example").0 == "404").then_some(()));

    // One that starts later serves what runs already.
    let later = Edge::start(&netns, &engine);
    assert!(later.serves("three.example").is_some() && later.serves("late.example").is_some());

    let (status, took) = edge.daemon.terminate();
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
}
