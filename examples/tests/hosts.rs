//! Two hosts, two `meshd`: a kernel TUN interface on each, a wire between them, and real programs that talk.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::netns::Netns;
use support::{Daemon, PATIENCE, can_run, expect_status, path, run, until};

/// What stands in every block of the file that is carried: it must never be seen on the wire.
const MARKER: &str = "nobody-on-the-wire-may-read-this";
const FILE_BYTES: usize = 8 << 20;

/// A process that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One host: its namespace, its files.
struct Host {
    netns: Netns,
    home: tempfile::TempDir,
}

impl Host {
    fn new(purpose: &str, secret: &Path) -> Host {
        let host = Host { netns: Netns::new(purpose), home: tempfile::tempdir().unwrap() };
        fs::copy(secret, host.home.path().join("network.secret")).unwrap();
        expect_status(&run("meshd", &["keygen", "--out", &host.file("node.key")]), 0);
        host
    }

    fn file(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn id(&self) -> String {
        expect_status(&run("meshd", &["pubkey", &self.file("node.key")]), 0).trim().to_owned()
    }

    fn mesh(&self, address: &str, listen: &str, peer: Option<&str>) -> Daemon {
        let (secret, key, control) =
            (self.file("network.secret"), self.file("node.key"), self.file("mesh.sock"));
        let mut arguments =
            vec!["up", "--address", address, "--listen", listen, "--network-secret-file", &secret];
        arguments.extend(["--key", &key, "--control", &control, "--device-name", "mesh0"]);
        arguments.extend(peer.iter().flat_map(|peer| ["--peer", peer]));
        Daemon::start(self.netns.command(&path("meshd"), &arguments))
    }

    fn status(&self) -> serde_json::Value {
        let output = run("meshd", &["status", "--json", "--control", &self.file("mesh.sock")]);
        serde_json::from_str(&expect_status(&output, 0)).unwrap()
    }

    fn pings(&self, address: &str) -> bool {
        self.netns.run("ping", &["-c", "1", "-W", "1", address]).0
    }

    /// Serves its home directory by HTTP on its mesh address.
    fn serve(&self, address: &str) -> Running {
        let home = self.home.path().display().to_string();
        let mut httpd =
            self.netns.command(Path::new("busybox"), &["httpd", "-f", "-p", address, "-h", &home]);
        Running(httpd.stdin(Stdio::null()).spawn().unwrap())
    }

    fn fetch(&self, url: &str) -> Option<Vec<u8>> {
        let limit = PATIENCE.as_secs().to_string();
        let (ok, body) =
            self.netns.run("curl", &["-sf", "--max-time", &limit, "--connect-timeout", "5", url]);
        ok.then_some(body)
    }
}

fn payload() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    for block in 0u64.. {
        if bytes.len() >= FILE_BYTES {
            break;
        }
        bytes.extend_from_slice(format!("{MARKER} {block}\n").as_bytes());
    }
    bytes
}

/// Captures what passes `eth0` of a host into a file, until dropped.
fn capture(host: &Host, file: &str) -> Running {
    let arguments = ["-i", "eth0", "-U", "-w", file, "-Z", "root", "-B", "65536"];
    let mut tcpdump = host.netns.command(Path::new("tcpdump"), &arguments);
    let child = tcpdump.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("tcpdump to begin", || fs::metadata(file).ok().filter(|m| m.len() > 0));
    Running(child)
}

#[test]
#[ignore = "needs root and network namespaces: run with --ignored"]
fn two_hosts_talk_over_tun_and_find_each_other_again_after_a_kill() {
    if !can_run(&["ip", "nsenter", "ping", "curl", "busybox", "tcpdump"], &["/dev/net/tun"]) {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let secret = shared.path().join("network.secret");
    expect_status(&run("meshd", &["secretgen", "--out", secret.to_str().unwrap()]), 0);
    let (vm, home) = (Host::new("hosts-vm", &secret), Host::new("hosts-home", &secret));
    vm.netns.link("10.81.0.1/24", &home.netns, "10.81.0.2/24");
    let dump = shared.path().join("wire.pcap").display().to_string();
    let tcpdump = capture(&vm, &dump);

    let vm_mesh = vm.mesh("10.82.0.1/24", "10.81.0.1:3210", None);
    let home_mesh = home.mesh("10.82.0.2/24", "10.81.0.2:0", Some(&format!("{}@10.81.0.1:3210", vm.id())));
    assert_eq!((vm_mesh.fact("id"), vm_mesh.fact("device")), (vm.id(), "mesh0".to_owned()));
    until("a ping through the mesh", || home.pings("10.82.0.1").then_some(()));
    until("a ping the other way", || vm.pings("10.82.0.2").then_some(()));
    let status = vm.status();
    assert_eq!(status["peers"][0]["id"], home.id(), "{status}");
    assert_eq!(status["peers"][0]["state"], "up", "{status}");

    let sent = payload();
    fs::write(vm.file("file"), &sent).unwrap();
    let _vm_web = vm.serve("10.82.0.1:8000");
    let got = until("the file through the mesh", || home.fetch("http://10.82.0.1:8000/file"));
    assert!(got == sent, "{} bytes of {} arrived, or other ones", got.len(), sent.len());

    drop(tcpdump);
    let wire = fs::read(&dump).unwrap();
    assert!(wire.len() > sent.len() / 2, "the capture has only {} bytes", wire.len());
    assert!(!contains(&wire, MARKER.as_bytes()), "the file is readable on the wire");

    home_mesh.kill();
    assert!(!vm.pings("10.82.0.2"), "nobody is there to answer");
    let home_mesh = home.mesh("10.82.0.2/24", "10.81.0.2:0", Some("10.81.0.1:3210"));
    until("a ping after the restart", || vm.pings("10.82.0.2").then_some(()));
    assert!(until("the file again", || home.fetch("http://10.82.0.1:8000/file")) == sent);

    for mesh in [home_mesh, vm_mesh] {
        let (status, took) = mesh.terminate();
        assert!(status.success() && took.as_secs() < 2, "{status} after {took:?}");
    }
    assert!(!vm.netns.ip(&["link"]).contains("mesh0"), "the interface stayed behind");
}

#[test]
#[ignore = "needs root and network namespaces: run with --ignored"]
fn a_host_with_another_secret_stays_outside() {
    if !can_run(&["ip", "nsenter", "ping", "tcpdump"], &["/dev/net/tun"]) {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let secrets = ["ours", "theirs"].map(|name| shared.path().join(name));
    for secret in &secrets {
        expect_status(&run("meshd", &["secretgen", "--out", secret.to_str().unwrap()]), 0);
    }
    let (vm, stranger) = (Host::new("hosts-in", &secrets[0]), Host::new("hosts-out", &secrets[1]));
    vm.netns.link("10.81.1.1/24", &stranger.netns, "10.81.1.2/24");
    let dump = shared.path().join("wire.pcap").display().to_string();
    let _tcpdump = capture(&vm, &dump);
    let _vm_mesh = vm.mesh("10.83.0.1/24", "10.81.1.1:3210", None);
    let _stranger_mesh = stranger.mesh("10.83.0.2/24", "10.81.1.2:3211", Some("10.81.1.1:3210"));

    let datagrams = |from: &str| {
        let filter = format!("udp and src host {from}");
        let listed = Command::new("tcpdump").args(["-nr", &dump, &filter]).output().unwrap();
        support::text(&listed.stdout).lines().count()
    };
    until("the stranger to knock three times", || (datagrams("10.81.1.2") >= 3).then_some(()));
    assert_eq!(datagrams("10.81.1.1"), 0, "the stranger got an answer");
    assert!(!stranger.pings("10.83.0.1"));
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
