//! A Swarm of three machines with a volume driver on each, and services that say outside of their volumes what they do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cluster::{Cluster, Node};
use super::engine::IMAGE;
use super::{Daemon, expect_status, path, run, text, until};

/// What has to be installed.
pub(crate) const PROGRAMS: [&str; 9] =
    ["ip", "nsenter", "unshare", "dockerd", "docker", "iptables", "busybox", "tar", "git"];

/// Where services run: not on the manager.
pub(crate) const HOMES: [&str; 2] = ["home-1", "home-2"];

/// The manager `vm` and the [`HOMES`].
pub(crate) struct Site {
    // Before the machines, whose disks they use.
    drivers: Vec<Option<Daemon>>,
    pub(crate) cluster: Cluster,
    /// `/acks` of each service, on whatever node it runs.
    pub(crate) acks: tempfile::TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let trouble = fs::read_to_string(self.acks.path().join("trouble")).unwrap_or_default();
            eprintln!("--- the service said:\n{}", trouble.lines().take(20).collect::<Vec<_>>().join("\n"));
        }
    }
}

/// One sign of life of a service.
pub(crate) struct Beat {
    /// Since 1970.
    pub(crate) at: Duration,
    pub(crate) slot: String,
    pub(crate) node: String,
}

impl Site {
    /// Starts all of it.
    pub(crate) fn start() -> Site {
        let cluster = Cluster::start(&["vm", HOMES[0], HOMES[1]]);
        cluster.form();
        configure(cluster.nodes());
        let drivers = cluster.nodes().iter().map(|_| None).collect();
        let mut site = Site { drivers, cluster, acks: tempfile::tempdir().unwrap() };
        for name in ["vm", HOMES[0], HOMES[1]] {
            site.start_driver(name);
        }
        for node in site.cluster.nodes() {
            until("the driver to be known", || {
                let known = node.docker(&["info", "-f", "{{.Plugins.Volume}}"]);
                known.contains("synced").then_some(())
            });
        }
        site
    }

    /// Starts the driver of a node, which does not run.
    pub(crate) fn start_driver(&mut self, name: &str) {
        let index = self.index(name);
        let node = &self.cluster.nodes()[index];
        let config = node.engine.disk().join("volumed.toml").display().to_string();
        let command = node.netns.command(&path("volumed"), &["run", "-v", "--config", &config]);
        self.drivers[index] = Some(Daemon::start(command));
    }

    /// Kills the driver of a node.
    pub(crate) fn kill_driver(&mut self, name: &str) {
        let index = self.index(name);
        self.drivers[index].take().expect("its driver runs").kill();
    }

    /// A power cut: the engine, its containers and the driver end at once.
    pub(crate) fn kill(&mut self, name: &str) {
        let index = self.index(name);
        self.cluster.node_mut(index).engine.kill();
        self.kill_driver(name);
    }

    /// The power is back.
    pub(crate) fn revive(&mut self, name: &str) {
        let index = self.index(name);
        self.start_driver(name);
        self.cluster.node_mut(index).engine.relaunch();
        self.cluster.node_mut(index).engine.ready();
    }

    fn index(&self, name: &str) -> usize {
        self.cluster.nodes().iter().position(|node| node.name == name).expect("a machine of this name")
    }

    /// What the driver of a node has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        self.drivers[self.index(name)].as_ref().expect("its driver runs").stderr()
    }

    /// How much memory the driver of each node has resident, in MiB, and how much it had at most.
    pub(crate) fn memory(&self) -> Vec<(&str, f64, f64)> {
        let nodes = self.cluster.nodes().iter().zip(&self.drivers);
        let mut all = Vec::new();
        for (node, driver) in nodes {
            let pid = driver.as_ref().expect("its driver runs").pid();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let mib = |key: &str| {
                let line =
                    status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel says it");
                line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
            };
            all.push((node.name.as_str(), mib("VmRSS:"), mib("VmHWM:")));
        }
        all
    }

    /// Runs `swarmctl` against the manager, and shows what it says meanwhile.
    #[track_caller]
    pub(crate) fn swarmctl(&self, arguments: &[&str]) {
        let host = format!("unix://{}", self.cluster.nodes()[0].socket().display());
        let output = run("swarmctl", &[&["--host", &host], arguments].concat());
        expect_status(&output, 0);
        println!("swarmctl {}:\n{}", arguments.join(" "), text(&output.stderr));
    }

    /// Where the manager's volume driver is asked.
    pub(crate) fn plugins(&self) -> String {
        self.cluster.nodes()[0].engine.plugins().display().to_string()
    }

    /// Starts a service on the homes, with `/acks` and the host's `/usr`.
    pub(crate) fn create(&self, name: &str, options: &[&str], command: &[&str]) {
        let mut arguments = vec!["service", "create", "--no-resolve-image", "-q", "-d", "--name", name];
        arguments.extend(["--constraint", "node.hostname!=vm", "--restart-delay", "100ms"]);
        let mounts = [bind(Path::new("/usr"), "/usr", ",readonly"), bind(self.acks.path(), "/acks", "")];
        arguments.extend(mounts.iter().flat_map(|mount| ["--mount", mount]));
        arguments.extend(options);
        arguments.push(IMAGE);
        arguments.extend(command);
        self.cluster.docker(&arguments);
    }

    /// Starts a service that says in `/acks/NAME` again and again that it is there, where `also`, a command, succeeds before.
    pub(crate) fn serve_beats(&self, name: &str, options: &[&str], also: &str) {
        fs::write(self.acks.path().join(name), "").unwrap();
        let beat = format!(
            "while :; do line=\"$(/usr/bin/date +%s%3N) $SLOT $NODE\"; {also} && echo $line >> /acks/{name}; /usr/bin/sleep 0.02; done"
        );
        let environment = ["-e", "SLOT={{.Task.Slot}}", "-e", "NODE={{.Node.Hostname}}"];
        let stop = ["--stop-grace-period", "1s"];
        self.create(name, &[&environment[..], &stop, options].concat(), &["/bin/sh", "-c", &beat]);
    }

    /// Starts a service that needs no volume, `plain`, on both homes: what Swarm takes by itself.
    pub(crate) fn serve_plain(&self) {
        self.serve_beats("plain", &["--replicas", "2"], ":");
        until("the plain service on both homes", || {
            let nodes: BTreeSet<String> = self.beats("plain").into_iter().map(|beat| beat.node).collect();
            (nodes.len() == HOMES.len()).then_some(())
        });
    }

    /// What a service that beats has said.
    pub(crate) fn beats(&self, service: &str) -> Vec<Beat> {
        let text = fs::read_to_string(self.acks.path().join(service)).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let beat = |line: &str| {
            let [at, slot, node] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
            let at = Duration::from_millis(at.parse().ok()?);
            Some(Beat { at, slot: slot.to_owned(), node: node.to_owned() })
        };
        whole.lines().filter_map(beat).collect()
    }

    /// When the task of a service that was on a node was last heard there, and when it was first heard elsewhere, which is waited
    /// for.
    pub(crate) fn moved(&self, service: &str, from: &str) -> (Duration, Duration) {
        let slot =
            self.beats(service).into_iter().rfind(|beat| beat.node == from).expect("it ran there").slot;
        until("the service elsewhere", || {
            let beats = self.beats(service);
            let last = beats.iter().rfind(|beat| beat.node == from)?.at;
            let first = beats.iter().find(|beat| beat.slot == slot && beat.node != from && beat.at > last)?;
            Some((last, first.at))
        })
    }

    /// A word of a volume's lease record.
    pub(crate) fn lease_of(&self, volume: &str, key: &str) -> String {
        let template = format!("{{{{index .Spec.Labels \"swarmctl.lease.{key}\"}}}}");
        self.cluster.docker(&["config", "inspect", "-f", &template, &format!("lease.{volume}")])
    }

    /// Waits until nobody holds a volume.
    pub(crate) fn until_free(&self, volume: &str) {
        until("the lease to be free", || self.lease_of(volume, "holder").is_empty().then_some(()));
    }

    /// The root of a node's driver.
    pub(crate) fn root(&self, node: &str) -> PathBuf {
        self.cluster.named(node).engine.disk().join("volumed")
    }

    /// What a node has of a volume.
    pub(crate) fn data(&self, node: &str, volume: &str) -> PathBuf {
        self.root(node).join("volumes").join(volume).join("data")
    }
}

/// A mount of a directory of the host.
pub(crate) fn bind(from: &Path, to: &str, mode: &str) -> String {
    format!("type=bind,source={},target={to}{mode}", from.display())
}

/// The mount at `/data` of a volume with these options. It is a line of comma-separated values, in which the group of paths has to
/// be quoted.
pub(crate) fn volume_mount(volume: &str, options: &[&str]) -> String {
    let mut mount = format!("type=volume,source={volume},target=/data,volume-driver=synced");
    for option in options {
        let _ = write!(mount, ",\"volume-opt={option}\"");
    }
    mount
}

/// The home that this one is not.
pub(crate) fn other_home(node: &str) -> &'static str {
    if node == HOMES[0] { HOMES[1] } else { HOMES[0] }
}

/// Since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Every node with its key, and with the others as peers.
fn configure(nodes: &[Node]) {
    let root = |node: &Node| node.engine.disk().join("volumed").display().to_string();
    let id = |node: &Node| expect_status(&run("volumed", &["id", &root(node)]), 0).trim().to_owned();
    let ids: Vec<String> = nodes.iter().map(id).collect();
    for node in nodes {
        let (socket, plugins) = (node.socket(), node.engine.plugins());
        let mut text = format!(
            "root = {:?}\nlisten = \"{}:7420\"\nname = {:?}\ndocker = \"unix://{}\"\nplugins = {plugins:?}\n",
            root(node),
            node.address,
            node.name,
            socket.display()
        );
        for (peer, id) in nodes.iter().zip(&ids).filter(|(peer, _)| peer.name != node.name) {
            let (name, address) = (&peer.name, &peer.address);
            let _ =
                writeln!(text, "[[peer]]\nid = {id:?}\nname = {name:?}\naddresses = [\"{address}:7420\"]");
        }
        fs::write(node.engine.disk().join("volumed.toml"), text).unwrap();
    }
}
