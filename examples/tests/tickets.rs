//! A network that new nodes enter by ticket, as a person and a script meet it: found, invite, join, restart, and every
//! ticket that does not work. No device, no root: the nodes meet on loopback.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use meshnet::{NetworkSecret, SecretKey, Ticket, TicketOptions};
use support::{Daemon, command, expect_failure, expect_status, run, text, until};

/// Everything of one network's hosts, in one directory: NAME.key, NAME.state/, NAME.sock.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let lab = Lab { dir: tempfile::tempdir().unwrap() };
        expect_status(&run("meshd", &["secretgen", "--out", &lab.place("secret")]), 0);
        lab.draw_key("vm");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn place(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn draw_key(&self, node: &str) {
        expect_status(&run("meshd", &["keygen", "--out", &self.place(&format!("{node}.key"))]), 0);
    }

    /// The arguments that run `node` with its own key, state and control socket.
    fn up(&self, node: &str, more: &[&str]) -> Vec<String> {
        let mut arguments = vec!["up".to_owned(), "--device=none".to_owned()];
        for (flag, file) in [("key", "key"), ("state", "state"), ("control", "sock")] {
            arguments.push(format!("--{flag}={}", self.place(&format!("{node}.{file}"))));
        }
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        arguments
    }

    fn start(&self, node: &str, more: &[&str]) -> Daemon {
        let arguments = self.up(node, more);
        Daemon::start(command("meshd", &arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    #[track_caller]
    fn refusal(&self, node: &str, more: &[&str]) -> String {
        let arguments = self.up(node, more);
        expect_failure("meshd", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The founder, listening on `listen`.
    fn found(&self, listen: &str) -> Daemon {
        let secret = self.place("secret");
        let first = ["--authority", "--address", "10.86.0.1/24", "--name", "vm", "--listen", listen];
        self.start("vm", &[&first[..], &["--network-secret-file", &secret]].concat())
    }

    fn invite(&self, more: &[&str]) -> std::process::Output {
        run("meshd", &[&["invite", "--control", &self.place("vm.sock")], more].concat())
    }

    /// A ticket in a private file.
    fn ticket(&self, name: &str, address: &str) -> String {
        let ticket = expect_status(&self.invite(&[name, "--address", address]), 0);
        assert_eq!(ticket.lines().count(), 1, "{ticket}");
        self.private(&format!("{name}.ticket"), &ticket)
    }

    fn private(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        self.place(name)
    }

    /// Joins with the ticket in a file.
    fn join(&self, node: &str, ticket: &str) -> Daemon {
        self.start(node, &["--ticket-file", ticket, "--listen", "127.0.0.1:0"])
    }

    /// Fails to join, and leaves nothing.
    #[track_caller]
    fn cannot_join(&self, node: &str, ticket: &str) -> String {
        let said = self.refusal(node, &["--ticket-file", ticket, "--listen", "127.0.0.1:0"]);
        assert!(!self.path(&format!("{node}.state")).exists(), "half a membership was left");
        assert!(!self.path(&format!("{node}.sock")).exists(), "the control socket was left");
        said
    }

    fn status(&self, node: &str) -> serde_json::Value {
        let control = self.place(&format!("{node}.sock"));
        let output = run("meshd", &["status", "--json", "--control", &control]);
        serde_json::from_str(&expect_status(&output, 0)).unwrap()
    }

    #[track_caller]
    fn meet(&self, node: &str, other: &str) {
        until(&format!("{node} to meet {other}"), || {
            let status = self.status(node);
            let up = |peer: &serde_json::Value| peer["name"] == other && peer["state"] == "up";
            status["peers"].as_array().unwrap().iter().any(up).then_some(())
        });
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_node_joins_by_ticket_and_is_a_member_from_then_on() {
    let lab = Lab::new();
    let vm = lab.found("127.0.0.1:0");
    let listen = vm.fact("udp");
    let more = ["home", "--address", "10.86.0.2", "--subnet", "192.168.7.0/24", "--endpoint", &listen];
    let ticket = lab.private("home.ticket", &expect_status(&lab.invite(&more), 0));
    lab.draw_key("home");
    let home = lab.join("home", &ticket);
    assert_eq!(home.fact("address"), "10.86.0.2/24");
    lab.meet("vm", "home");
    lab.meet("home", "vm");
    assert_eq!(
        (&lab.status("vm")["role"], &lab.status("home")["role"]),
        (&"authority".into(), &"member".into())
    );
    assert_eq!(lab.status("vm")["peers"][0]["prefixes"][1], "192.168.7.0/24");
    assert_eq!(lab.status("home")["name"], "home");
    assert_eq!(mode(&lab.path("home.state")), 0o700);
    assert_eq!(mode(&lab.path("home.state/membership.toml")), 0o600);
    assert_eq!((mode(&lab.path("vm.state")), mode(&lab.path("vm.state/used-tickets"))), (0o700, 0o600));
    assert_eq!(fs::read_dir(lab.path("home.state")).unwrap().count(), 1, "something else was left");

    // The address is taken for as long as the member is there.
    let taken = lab.invite(&["again", "--address", "10.86.0.2"]);
    expect_status(&taken, 1);
    assert!(text(&taken.stderr).contains("10.86.0.2 cannot be assigned"), "{}", text(&taken.stderr));

    // The member needs no ticket any more, and says that it ignores one.
    let (status, took) = home.terminate();
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    let home = lab.start("home", &["--listen", "127.0.0.1:0"]);
    lab.meet("home", "vm");
    home.kill();
    let home = lab.join("home", &ticket);
    lab.meet("home", "vm");
    assert!(home.stderr().contains("the ticket is ignored"), "{}", home.stderr());
    home.kill();
    fs::remove_file(&ticket).unwrap();
    let home = lab.join("home", &ticket);
    lab.meet("home", "vm");

    // Both killed and started again, the founder on its port.
    home.kill();
    vm.kill();
    let _vm = lab.found(&listen);
    let _home = lab.start("home", &["--listen", "127.0.0.1:0"]);
    lab.meet("vm", "home");
    lab.meet("home", "vm");
}

#[test]
fn a_used_ticket_is_refused_to_another_key_also_after_the_founders_restart() {
    let lab = Lab::new();
    let vm = lab.found("127.0.0.1:0");
    let listen = vm.fact("udp");
    let ticket = lab.ticket("home", "10.86.0.2");
    for node in ["home", "thief"] {
        lab.draw_key(node);
    }
    let home = lab.join("home", &ticket);
    let said = lab.cannot_join("thief", &ticket);
    assert!(said.contains(&listen) && said.contains("already used") && said.contains("new one"), "{said}");

    // Killed with no warning as soon as the ticket is in the ledger.
    until("the ticket in the ledger", || {
        (fs::read_to_string(lab.path("vm.state/used-tickets")).unwrap().lines().count() == 2).then_some(())
    });
    vm.kill();
    let vm = lab.found(&listen);
    assert!(lab.cannot_join("thief", &ticket).contains("already used"));
    // The key that used it may: its membership was perhaps lost on the way.
    fs::copy(lab.path("home.key"), lab.path("again.key")).unwrap();
    drop(home);
    drop(lab.join("again", &ticket));

    // Ended in order, it keeps its ledger too.
    let (status, took) = vm.terminate();
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    let _vm = lab.found(&listen);
    assert!(lab.cannot_join("thief", &ticket).contains("already used"));
}

#[test]
fn a_ticket_that_cannot_work_is_named_and_leaves_nothing() {
    let lab = Lab::new();
    let vm = lab.found("127.0.0.1:0");
    let good = fs::read_to_string(lab.ticket("home", "10.86.0.2")).unwrap();
    lab.draw_key("home");
    let said_of = |name: &str, content: &str| {
        let file = lab.private(name, content);
        let said = lab.cannot_join("home", &file);
        assert!(said.contains(&file), "{said}");
        said
    };
    assert!(said_of("note", "milk, eggs\n").contains("not a ticket"));
    assert!(said_of("empty", "").contains("not a ticket"));
    assert!(said_of("key", &fs::read_to_string(lab.path("home.key")).unwrap()).contains("not a ticket"));
    assert!(said_of("cut", &good[..good.len() / 2]).contains("copy it again"));
    let other = if good.as_bytes()[60] == b'a' { "b" } else { "a" };
    let mistyped = format!("{}{other}{}", &good[..60], &good[61..]);
    assert!(said_of("mistyped", &mistyped).contains("copy it again"));
    let expired = said_of("expired", &craft(&lab, Duration::ZERO, "127.0.0.1:9"));
    assert!(expired.contains("expired") && expired.contains("new one"), "{expired}");
    let newer = said_of("newer", UNSUPPORTED);
    assert!(newer.contains("version 9") && newer.contains("update"), "{newer}");
    let absent = lab.place("absent");
    assert!(lab.cannot_join("home", &absent).contains(&absent));
    let open = lab.place("open");
    fs::write(&open, &good).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(lab.cannot_join("home", &open).contains("chmod 600"));
    let said = lab.refusal("home", &["--ticket", "milk", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("--ticket: this is not a ticket"), "{said}");

    // None of these used the good one up.
    let _home = lab.join("home", &lab.place("home.ticket"));
    drop(vm);
}

/// Nothing but a ticket's version, 9, in a ticket's text form.
const UNSUPPORTED: &str = "mnt1bf6zsjce";

/// A ticket signed with the founder's key that was issued at `issued` for an hour.
fn craft(lab: &Lab, issued: Duration, endpoint: &str) -> String {
    let key: SecretKey = fs::read_to_string(lab.path("vm.key")).unwrap().trim().parse().unwrap();
    let secret: NetworkSecret = fs::read_to_string(lab.path("secret")).unwrap().trim().parse().unwrap();
    let options = TicketOptions {
        name: "home".to_owned(),
        address: "10.86.0.2".parse().unwrap(),
        subnets: Vec::new(),
        endpoints: vec![endpoint.parse().unwrap()],
        valid_for: Duration::from_secs(3600),
    };
    Ticket::issue(&key, &secret, key.id(), &options, 24, [7; 16], issued).unwrap().to_string()
}

#[test]
fn an_issuer_that_does_not_answer_is_named_and_nothing_is_left() {
    let lab = Lab::new();
    lab.draw_key("home");
    // Somebody is there and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let ticket = lab.private("ticket", &craft(&lab, now, &endpoint));
    let said = lab.cannot_join("home", &ticket);
    assert!(said.contains(&endpoint) && said.contains("no answer") && said.contains("check"), "{said}");
}

#[test]
fn an_invitation_that_cannot_be_written_says_why() {
    let lab = Lab::new();
    let secret = lab.place("secret");
    let said_of = |more: &[&str]| {
        let output = lab.invite(more);
        expect_status(&output, 1);
        let said = text(&output.stderr);
        assert!(said.starts_with("meshd: ") && said.lines().count() == 1, "{said}");
        said
    };
    assert!(said_of(&["home", "--address", "10.86.0.2"]).contains("vm.sock"), "nobody runs");
    {
        let first = ["--address", "10.86.0.1/24", "--listen", "127.0.0.1:0"];
        let _plain = lab.start("vm", &[&first[..], &["--network-secret-file", &secret]].concat());
        assert_eq!(lab.status("vm")["role"], "secret");
        assert!(said_of(&["home", "--address", "10.86.0.2"]).contains("authority"));
    }
    let vm = lab.found("0.0.0.0:0");
    assert!(said_of(&["home", "--address", "10.86.0.2"]).contains("--endpoint HOST:PORT"));
    let endpoint = format!("localhost:{}", vm.fact("udp").rsplit_once(':').unwrap().1);
    let invite = |address: &str| said_of(&["home", "--address", address, "--endpoint", &endpoint]);
    assert!(invite("10.87.0.2").contains("10.86.0.0/24"), "outside the network");
    assert!(invite("10.86.0.1").contains("cannot be assigned"), "the founder's own");
    assert!(said_of(&["a b", "--address", "10.86.0.2", "--endpoint", &endpoint]).contains("name"));
    let nowhere = said_of(&["home", "--address", "10.86.0.2", "--endpoint", "no-such-host.invalid:1"]);
    assert!(nowhere.contains("no-such-host.invalid:1"), "{nowhere}");
    expect_status(&lab.invite(&["home", "--address", "10.86.0.2", "--valid-for", "0s"]), 2);
    expect_status(&lab.invite(&["home"]), 2);

    // By a name, and to a founder that listens everywhere.
    let ticket = ["home", "--address", "10.86.0.2", "--endpoint", &endpoint];
    let ticket = lab.private("home.ticket", &expect_status(&lab.invite(&ticket), 0));
    lab.draw_key("home");
    let _home = lab.join("home", &ticket);
    lab.meet("vm", "home");
}

#[test]
fn settings_that_contradict_a_ticket_or_a_membership_are_named() {
    let lab = Lab::new();
    let _vm = lab.found("127.0.0.1:0");
    let (ticket, secret) = (lab.ticket("home", "10.86.0.2"), lab.place("secret"));
    // A key is needed, and a ticket decides the rest.
    for more in [
        &["--ticket-file", &ticket][..],
        &["--ticket", "mnt1"],
        &["--ticket-file", &ticket, "--key", "k", "--authority"],
        &["--ticket-file", &ticket, "--key", "k", "--address", "10.86.0.3/24"],
        &["--ticket-file", &ticket, "--key", "k", "--ticket", "mnt1"],
        &[
            "--authority",
            "--address",
            "10.86.0.1/24",
            "--listen",
            "127.0.0.1:0",
            "--network-secret-file",
            &secret,
        ],
    ] {
        let output = run("meshd", &[&["up"], more].concat());
        expect_status(&output, 2);
        assert!(more.contains(&"k") || text(&output.stderr).contains("--key"), "{}", text(&output.stderr));
    }
    lab.draw_key("home");
    let said = lab.refusal("home", &["--listen", "127.0.0.1:0"]);
    assert!(said.contains("home.state holds no membership"), "{said}");
    let config = lab.place("home.toml");
    fs::write(&config, "address = \"10.86.0.9/24\"\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let said = lab.refusal("home", &["--config", &config, "--ticket-file", &ticket]);
    assert!(said.contains("`address`"), "{said}");

    drop(lab.join("home", &ticket));
    // The member's state is not used with a secret, another key, another network, or as an authority.
    let plain = ["--address", "10.86.0.2/24", "--listen", "127.0.0.1:0", "--network-secret-file", &secret];
    assert!(lab.refusal("home", &plain).contains("membership.toml"));
    assert!(lab.refusal("home", &[&plain[..], &["--authority"]].concat()).contains("membership.toml"));
    fs::rename(lab.path("home.key"), lab.path("lost.key")).unwrap();
    lab.draw_key("home");
    let said = lab.refusal("home", &["--listen", "127.0.0.1:0"]);
    assert!(said.contains("membership.toml") && said.contains("not to this node's key"), "{said}");
    let other = Lab::new();
    let _founder = other.found("127.0.0.1:0");
    let foreign = other.ticket("home", "10.86.0.2");
    let before = fs::read(lab.path("home.state/membership.toml")).unwrap();
    let said = lab.refusal("home", &["--ticket-file", &foreign, "--listen", "127.0.0.1:0"]);
    assert!(said.contains("another network") && said.contains("membership.toml"), "{said}");
    assert_eq!(fs::read(lab.path("home.state/membership.toml")).unwrap(), before);
    // Two founders do not share a ledger.
    let first =
        ["up", "--device=none", "--authority", "--address", "10.86.0.1/24", "--listen", "127.0.0.1:0"];
    let (key, state, control) = (lab.place("vm.key"), lab.place("vm.state"), lab.place("third.sock"));
    let last = ["--network-secret-file", &secret, "--key", &key, "--state", &state, "--control", &control];
    assert!(expect_failure("meshd", &[&first[..], &last].concat()).contains("in use"));
}
