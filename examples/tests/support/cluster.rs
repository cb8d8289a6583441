//! Several engines, each a machine of its own on a network that they share: the hosts of a real Swarm.
//!
//! What works on kernels without IPVS: services in `--endpoint-mode dnsrr`, `tasks.NAME`, ports published in `mode=host`. A
//! service's virtual address and the ingress mesh do not.

use std::path::PathBuf;

use super::engine::Engine;
use super::netns::Netns;
use super::until;

/// Machines on one network. The first is the manager once they are a Swarm.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    switch: Netns,
}

/// A machine with an engine.
pub(crate) struct Node {
    // Before its network: the engine ends first.
    pub(crate) engine: Engine,
    pub(crate) netns: Netns,
    pub(crate) name: String,
    pub(crate) address: String,
}

impl Cluster {
    /// Starts a machine of each of these names, whose engines have [`IMAGE`](super::engine::IMAGE) and are no Swarm yet.
    pub(crate) fn start(names: &[&str]) -> Cluster {
        let switch = Netns::new("switch");
        switch.ip(&["link", "add", "bridge0", "type", "bridge"]);
        switch.ip(&["link", "set", "bridge0", "up"]);
        let node = |(index, name): (usize, &&str)| {
            let netns = Netns::new(name);
            let (port, address) = (format!("port-{name}"), format!("10.77.0.{}", index + 1));
            netns.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", switch.name()]);
            switch.ip(&["link", "set", &port, "master", "bridge0", "up"]);
            netns.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
            netns.ip(&["link", "set", "eth0", "up"]);
            Node { engine: Engine::launch(&netns, name), netns, name: (*name).to_owned(), address }
        };
        let mut nodes: Vec<Node> = names.iter().enumerate().map(node).collect();
        for node in &mut nodes {
            node.engine.ready();
            node.engine.import();
        }
        Cluster { nodes, switch }
    }

    /// Makes them a Swarm in which a dead node is noticed within about three seconds: the first is its manager, the others are
    /// workers.
    pub(crate) fn form(&self) {
        let [manager, workers @ ..] = &self.nodes[..] else { panic!("no machines") };
        let (address, listen) = (&manager.address, format!("{}:2377", manager.address));
        let at = ["--advertise-addr", address, "--listen-addr", &listen];
        manager.docker(&[&["swarm", "init", "--dispatcher-heartbeat", "1s"], &at[..]].concat());
        let token = manager.docker(&["swarm", "join-token", "-q", "worker"]);
        for worker in workers {
            let (address, own) = (&worker.address, format!("{}:2377", worker.address));
            let at = ["--advertise-addr", address, "--listen-addr", &own, "--token", &token, &listen];
            worker.docker(&[&["swarm", "join"], &at[..]].concat());
        }
        for node in &self.nodes {
            self.until_node(&node.name, "Ready");
        }
    }

    /// The machines.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A machine, to be changed.
    pub(crate) fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// The machine of this name.
    pub(crate) fn named(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a machine of this name")
    }

    /// Runs the `docker` client against the first machine.
    #[track_caller]
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        self.nodes[0].docker(arguments)
    }

    /// Waits until the manager says that a node is `Ready` or `Down`.
    pub(crate) fn until_node(&self, name: &str, status: &str) {
        until(&format!("node {name} to be {status}"), || {
            let line = format!("{name} {status}");
            let nodes = self.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]);
            nodes.lines().any(|it| it == line).then_some(())
        });
    }

    /// The names of the nodes on which tasks of a service run, one for each task.
    pub(crate) fn runs_on(&self, service: &str) -> Vec<String> {
        let arguments = ["service", "ps", service, "-f", "desired-state=running", "--format"];
        let tasks = self.docker(&[&arguments[..], &["{{.Node}} {{.CurrentState}}"]].concat());
        let running = tasks.lines().filter_map(|task| task.split_once(" Running "));
        running.map(|(node, _)| node.to_owned()).collect()
    }

    /// Pulls a machine's cable.
    pub(crate) fn cut(&self, name: &str) {
        self.switch.ip(&["link", "set", &format!("port-{name}"), "down"]);
    }

    /// Plugs it in again.
    pub(crate) fn mend(&self, name: &str) {
        self.switch.ip(&["link", "set", &format!("port-{name}"), "up"]);
    }
}

impl Node {
    /// Runs the `docker` client against it; fails the test with what it said.
    #[track_caller]
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        self.engine.docker(arguments)
    }

    /// The API socket of its engine.
    pub(crate) fn socket(&self) -> PathBuf {
        self.engine.socket()
    }
}
