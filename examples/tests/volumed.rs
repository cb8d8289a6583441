//! The volume driver without an engine: what it answers on its socket, and what it refuses.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use support::{Daemon, expect_failure, expect_status, path, run, until};

/// A node with a driver.
struct Node {
    place: tempfile::TempDir,
    name: &'static str,
}

impl Node {
    fn new(name: &'static str) -> Node {
        Node { place: tempfile::tempdir().unwrap(), name }
    }

    fn root(&self) -> String {
        self.place.path().join("root").display().to_string()
    }

    fn id(&self) -> String {
        expect_status(&run("volumed", &["id", &self.root()]), 0).trim().to_owned()
    }

    fn config(&self) -> String {
        self.place.path().join("volumed.toml").display().to_string()
    }

    /// Writes its settings, with a peer that is dialled at an address if it is known.
    fn configure(&self, peer: &Node, address: Option<&str>) {
        let text = format!(
            "root = {:?}\nlisten = \"127.0.0.1:0\"\nname = {:?}\ndocker = \"unix:///nonexistent/docker.sock\"\nplugins = {:?}\n\
             [[peer]]\nid = {:?}\nname = {:?}\naddresses = {:?}\n",
            self.root(),
            self.name,
            self.place.path().join("plugins"),
            peer.id(),
            peer.name,
            Vec::from_iter(address),
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn serve(&self) -> Daemon {
        let mut command = Command::new(path("volumed"));
        command.args(["run", "--config", &self.config()]);
        Daemon::start(command)
    }

    /// What the driver answers to a request of an engine.
    fn ask(&self, method: &str, body: &Value) -> Value {
        let mut stream = UnixStream::connect(self.place.path().join("plugins/synced.sock")).unwrap();
        let body = body.to_string();
        let head = format!("POST /VolumeDriver.{method} HTTP/1.1\r\nHost: engine\r\nConnection: close");
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// The reason why it is refused; empty if it is not.
    fn refusal(&self, method: &str, body: &Value) -> String {
        self.ask(method, body)["Err"].as_str().unwrap().to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join("root/volumes/notes/data").join(name)
    }
}

#[test]
fn a_replica_that_is_nowhere_else_is_not_removed() {
    let [a, b] = ["home-1", "home-2"].map(Node::new);
    a.configure(&b, None);
    let daemon = a.serve();
    b.configure(&a, Some(&daemon.fact("sync")));
    let notes = json!({"Name": "notes"});
    assert_eq!(a.refusal("Create", &notes), "");
    std::fs::write(a.file("one"), "of the first").unwrap();
    let refused = a.refusal("Remove", &notes);
    assert!(refused.contains("no other node") && refused.contains("volumes/notes"), "{refused}");
    assert_eq!(
        a.ask("Get", &notes)["Volume"]["Name"],
        "notes",
        "a volume that was not removed is still there"
    );

    let _other = b.serve();
    assert_eq!(b.refusal("Create", &notes), "");
    until("a replica", || std::fs::read(b.file("one")).ok());
    until("the other to have everything", || a.refusal("Remove", &notes).is_empty().then_some(()));
    assert!(a.refusal("Get", &notes).contains("no such volume"));
    assert_eq!(std::fs::read(b.file("one")).unwrap(), b"of the first");
}

#[test]
fn the_options_of_a_volume_are_changed_by_name_only() {
    let [a, b] = ["home-1", "home-2"].map(Node::new);
    a.configure(&b, None);
    let daemon = a.serve();
    let second = expect_failure("volumed", &["run", "--config", &a.config()]);
    assert!(second.contains("synced.sock is served by a process that is running"), "{second}");

    let with = |options: Value| json!({"Name": "notes", "Opts": options});
    assert_eq!(a.refusal("Create", &with(json!({"replicas": "1"}))), "");
    let refused = a.refusal("Create", &with(json!({"replicas": "2"})));
    assert!(refused.contains("replicas=1") && refused.contains("volumed options ROOT notes"), "{refused}");
    let wrong = expect_failure("volumed", &["options", &a.root(), "notes", "replicas=0"]);
    assert!(wrong.contains("replicas is a number"), "{wrong}");
    assert!(expect_failure("volumed", &["options", &a.root(), "other", "replicas=2"]).contains("no volume"));
    let changed = run("volumed", &["options", &a.root(), "notes", "replicas=2", "group=a,b"]);
    assert_eq!(expect_status(&changed, 0), "group=a,b\nreplicas=2\n");
    assert_eq!(expect_status(&run("volumed", &["options", &a.root(), "notes", "group="]), 0), "replicas=2\n");
    daemon.terminate();
    let _daemon = a.serve();
    assert_eq!(a.refusal("Create", &with(json!({"replicas": "2"}))), "");
}
