//! What a Swarm costs with `swarmctl` and `volumed`, and what it costs without them, in the same run: on three real engines, as
//! root.
//!
//! ```sh
//! cargo bench -p hybrid-examples --profile dist --bench swarm             # three rounds
//! cargo bench -p hybrid-examples --profile dist --bench swarm -- 5 100    # how many, and with how many MiB in the volume
//! cargo bench -p hybrid-examples --profile dist --bench swarm -- 5 0      # without a volume: the stacks alone
//! ```
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

#[path = "../examples/tests/support/mod.rs"]
mod support;

use std::fs;
use std::time::Duration;

use support::cluster::Node;
use support::engine::IMAGE;
use support::site::{PROGRAMS, Site, now, volume_mount};
use support::{can_run, until};
use swarmctl::cluster::time_ms;

const SERVICES: usize = 20;
/// A volume whose newest state is known to be consistent at any time, so that it is taken over when its node is killed.
const OPTIONS: [&str; 3] = ["group=log", "takeover=newest-replica", "takeover-after=4s"];

fn main() {
    if !can_run(&PROGRAMS, &[]) {
        return;
    }
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<usize>().ok());
    let (rounds, mib) = (numbers.next().unwrap_or(3), numbers.next().unwrap_or(100));
    let mut site = Site::start();
    let mut rows = vec![stacks(&site, rounds)];
    if mib > 0 {
        rows.extend(moves(&mut site, rounds, mib));
    }
    println!(
        "\n| s, {rounds} rounds | ours | docker | medians differ by | goal | met |\n|---|---|---|---|---|---|"
    );
    rows.iter().for_each(|row| println!("{}", row.line()));
    for (node, now, most) in site.memory() {
        let met = if most <= 20.0 { "yes" } else { "no" };
        println!(
            "| memory of the driver on {node}: MiB now, at most | {now:.1}, {most:.1} | | | ≤ 20 | {met} |"
        );
    }
}

/// The figures of one kind, of all rounds, in seconds.
struct Row {
    what: String,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    /// How much longer ours may take.
    surplus: Option<f64>,
}

impl Row {
    fn new(what: impl Into<String>, surplus: Option<f64>) -> Row {
        Row { what: what.into(), ours: Vec::new(), theirs: Vec::new(), surplus }
    }

    fn line(&self) -> String {
        let all = |all: &[f64]| {
            let all: Vec<String> = all.iter().map(|one| format!("{one:.2}")).collect();
            all.join(", ")
        };
        let (ours, theirs) = (all(&self.ours), all(&self.theirs));
        let surplus = median(&self.ours) - median(&self.theirs);
        let (goal, met) = match self.surplus {
            Some(most) => (format!("≤ {most:+.0}"), if surplus <= most { "yes" } else { "no" }),
            None => (String::new(), ""),
        };
        format!("| {} | {ours} | {theirs} | {surplus:+.2} | {goal} | {met} |", self.what)
    }
}

fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2])
}

/// A stack of twenty services, until all of their containers run.
fn stacks(site: &Site, rounds: usize) -> Row {
    let mut file = String::from("version: \"3.8\"\nservices:\n");
    for number in 0..SERVICES {
        let service = format!(
            "  s{number}:\n    image: {IMAGE}\n    command: [sleep, \"600\"]\n    stop_signal: SIGKILL\n"
        );
        file.push_str(&service);
    }
    let path = site.acks.path().join("compose.yml");
    fs::write(&path, file).unwrap();
    let path = path.display().to_string();
    let ours = || site.swarmctl(&["stack", "deploy", &path, "--name", "shop"]);
    let theirs = || {
        site.cluster.docker(&["stack", "deploy", "--resolve-image", "never", "-c", &path, "shop"]);
    };
    // The first containers of an engine take longer.
    deployed(site, theirs);
    let mut row = Row::new(format!("`stack deploy` of {SERVICES} services, until all run"), Some(0.0));
    for _ in 0..rounds {
        row.ours.push(deployed(site, ours));
        row.theirs.push(deployed(site, theirs));
    }
    row
}

/// Seconds until the last container of the stack runs, whether or not the command has returned. It is gone afterwards.
fn deployed(site: &Site, deploy: impl FnOnce() + Send) -> f64 {
    let start = now();
    let services = std::thread::scope(|scope| {
        scope.spawn(deploy);
        until("all services of the stack", || {
            // Whoever asks all the time takes from the engines what they need to start containers.
            std::thread::sleep(Duration::from_millis(500));
            let listed = site.cluster.docker(&["service", "ls", "--format", "{{.Name}} {{.Replicas}}"]);
            let running = listed.lines().filter_map(|it| Some(it.strip_suffix(" 1/1")?.to_owned()));
            Some(running.collect::<Vec<_>>()).filter(|running| running.len() == SERVICES)
        })
    });
    // Each engine says itself since when its containers run.
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let ids = site.cluster.docker(&[&["service", "ps", "-q", "--no-trunc"], &services[..]].concat());
    let ids: Vec<&str> = ids.lines().collect();
    let format = ["inspect", "--type", "task", "-f", "{{json .Status.Timestamp}}"];
    let since = site.cluster.docker(&[&format[..], &ids].concat());
    let since = since.lines().map(|it| time_ms(it.trim_matches('"')).expect("a time"));
    let last = Duration::from_millis(since.max().expect("tasks").unsigned_abs());
    let took = last.saturating_sub(start).as_secs_f64();
    until("nothing of the stack", || {
        // Fails while a task that ends still uses the network.
        site.cluster.nodes()[0].engine.try_docker(&["stack", "rm", "shop"]);
        let containers = |node: &Node| node.docker(&["ps", "-q"]);
        let networks = site.cluster.docker(&["network", "ls", "-q", "-f", "name=shop_default"]);
        let gone = networks.is_empty() && site.cluster.nodes().iter().all(|node| containers(node).is_empty());
        gone.then_some(())
    });
    took
}

/// A service with a volume and one without: their node is drained, and killed.
fn moves(site: &mut Site, rounds: usize, mib: usize) -> [Row; 3] {
    let volume = volume_mount("data", &OPTIONS);
    let fill = format!(
        "/usr/bin/dd if=/dev/urandom of=/data/blob bs=1M count={mib} && echo full > /acks/full; exec /usr/bin/sleep 600"
    );
    site.create("fill", &["--stop-grace-period", "0s", "--mount", &volume], &["/bin/sh", "-c", &fill]);
    until("the volume to be full", || fs::read(site.acks.path().join("full")).ok());
    site.cluster.docker(&["service", "rm", "fill"]);
    site.until_free("data");

    let mut drain =
        Row::new(format!("drain of a node with a volume of {mib} MiB, until it serves elsewhere"), None);
    let mut down = Row::new("… without service meanwhile", Some(1.0));
    let mut killed = Row::new("`kill -9` of a node, until it serves elsewhere", Some(1.0));
    for _ in 0..rounds {
        site.serve_plain();
        let (took, gap) = interrupted(site, &["plain"], "home-1", |site| {
            site.cluster.docker(&["node", "update", "--availability", "drain", "home-1"]);
        })[0];
        drain.theirs.push(took);
        down.theirs.push(gap);
        site.cluster.docker(&["service", "rm", "plain"]);
        site.cluster.docker(&["node", "update", "--availability", "active", "home-1"]);

        site.serve_beats("data", &["--mount", &volume], "echo $line >> /data/log");
        until("the service", || (site.beats("data").len() > 50).then_some(()));
        let node = site.beats("data").pop().unwrap().node;
        let (took, gap) = interrupted(site, &["data"], &node, |site| {
            site.swarmctl(&["drain", &node, "--plugins", &site.plugins()]);
        })[0];
        drain.ours.push(took);
        down.ours.push(gap);
        site.cluster.docker(&["node", "update", "--availability", "active", &node]);

        // Both at once: when a Swarm notices it is the same for both then.
        site.serve_plain();
        let node = site.beats("data").pop().unwrap().node;
        let both = interrupted(site, &["data", "plain"], &node, |site| site.kill(&node));
        killed.ours.push(both[0].0);
        killed.theirs.push(both[1].0);
        site.revive(&node);
        site.cluster.until_node(&node, "Ready");
        for service in ["plain", "data"] {
            site.cluster.docker(&["service", "rm", service]);
        }
        site.until_free("data");
    }
    [drain, down, killed]
}

/// Interrupts services on a node: for each, seconds until it is heard from another node, and seconds without a word from it.
fn interrupted(
    site: &mut Site,
    services: &[&str],
    node: &str,
    interrupt: impl FnOnce(&mut Site),
) -> Vec<(f64, f64)> {
    // What is written all the time is on its way all the time.
    std::thread::sleep(Duration::from_secs(2));
    let began = now();
    interrupt(site);
    let times = services.iter().map(|service| {
        let (last, first) = site.moved(service, node);
        ((first - began).as_secs_f64(), (first - last).as_secs_f64())
    });
    times.collect()
}
