//! The binaries as a person and a script meet them: exit status, one line of error, files kept equal, pages served.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, pem::PemObject};
use support::{Daemon, command, expect_failure, expect_status, run, text, until};

const BINARIES: [&str; 4] = ["meshd", "syncd", "edged", "swarmctl"];

fn config(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name).display().to_string()
}

/// Flags that no config file has: what concerns the file, the log, or one single start.
const FLAGS_WITHOUT_A_KEY: [&str; 6] = ["config", "verbose", "log-format", "help", "ticket", "ticket-file"];

#[test]
fn every_binary_explains_itself_with_examples() {
    for binary in BINARIES {
        let help = expect_status(&run(binary, &["--help"]), 0);
        assert!(help.contains("Examples:") && help.contains(&format!("  {binary} ")), "{help}");
        let version = expect_status(&run(binary, &["--version"]), 0);
        assert_eq!(version.trim(), format!("{binary} {}", env!("CARGO_PKG_VERSION")));
        expect_status(&run(binary, &[]), 2);
        expect_status(&run(binary, &["--no-such-flag"]), 2);
    }
}

#[test]
fn usage_errors_exit_with_2() {
    expect_status(&run("meshd", &["up"]), 2);
    expect_status(
        &run("meshd", &["up", "--address", "10.0.0.1", "--listen", "x", "--network-secret-file", "f"]),
        2,
    );
    expect_status(&run("syncd", &["serve", "/tmp"]), 2);
    expect_status(&run("syncd", &["wait", "/tmp", "--peers", "all", "--timeout", "30"]), 2);
    expect_status(&run("syncd", &["wait", "/tmp", "--peers", "nobody"]), 2);
    expect_status(&run("edged", &["run"]), 2);
    expect_status(&run("edged", &["explain", "GET", "http://a/"]), 2);
    expect_status(&run("swarmctl", &["--host", "carrier-pigeon://home", "node", "ls"]), 2);
}

#[test]
fn keys_are_private_files_that_are_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key").display().to_string();
    assert_eq!(expect_status(&run("meshd", &["keygen", "--out", &key]), 0), "");
    let id = expect_status(&run("meshd", &["pubkey", &key]), 0);
    assert!(id.starts_with("mn1"), "{id}");
    assert!(expect_failure("meshd", &["keygen", "--out", &key]).contains(&key));
    assert_eq!(expect_status(&run("meshd", &["pubkey", &key]), 0), id);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

    let printed = expect_status(&run("meshd", &["keygen"]), 0);
    let mut pubkey = command("meshd", &["pubkey"]);
    pubkey.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut pubkey = pubkey.spawn().unwrap();
    pubkey.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
    assert!(text(&pubkey.wait_with_output().unwrap().stdout).starts_with("mn1"));
}

#[test]
fn meshd_names_what_is_wrong_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let private = |name: &str, content: &str| {
        let path = file(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let secret = private("secret", &expect_status(&run("meshd", &["secretgen"]), 0));
    let key = private("key", &expect_status(&run("meshd", &["keygen"]), 0));
    let up = |more: &[&str]| {
        let first = ["up", "--address", "10.84.0.1/24", "--listen", "127.0.0.1:0"];
        expect_failure("meshd", &[&first, more].concat())
    };
    assert!(up(&["--network-secret-file", "/no/such/file"]).contains("/no/such/file"));
    assert!(up(&["--network-secret-file", &key]).contains(&key), "a key is no network secret");
    assert!(up(&["--network-secret-file", &secret, "--key", &secret]).contains(&secret));
    let open = file("open", &fs::read_to_string(&key).unwrap());
    assert!(up(&["--network-secret-file", &secret, "--key", &open]).contains("chmod 600"));
    let cut = private("cut", &fs::read_to_string(&key).unwrap()[..20]);
    assert!(up(&["--network-secret-file", &secret, "--key", &cut]).contains(&cut));
    assert!(up(&["--network-secret-file", &secret, "--device", "tap"]).contains("tap"));
    assert!(expect_failure("meshd", &["pubkey", &secret]).contains(&secret));
    assert!(expect_failure("meshd", &["status", "--control", "/no/such.sock"]).contains("/no/such.sock"));

    let unknown = file("unknown.toml", "address = \"10.84.0.1/24\"\nlisten = \"127.0.0.1:0\"\nlisen = 3\n");
    let said = expect_failure("meshd", &["up", "--config", &unknown]);
    assert!(said.contains("unknown.toml:3:1: ") && said.contains("`lisen`"), "{said}");
    let wrong = file("wrong.toml", "address = \"10.84.0.1/240\"\n");
    assert!(expect_failure("meshd", &["up", "--config", &wrong]).contains("wrong.toml:1:11: "));
    let partial = file("partial.toml", "listen = \"127.0.0.1:0\"\n");
    assert!(expect_failure("meshd", &["up", "--config", &partial]).contains("address"));
}

#[test]
fn two_meshd_without_a_device_find_each_other_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let secret = place("secret");
    expect_status(&run("meshd", &["secretgen", "--out", &secret]), 0);
    let key = place("key");
    expect_status(&run("meshd", &["keygen", "--out", &key]), 0);
    let up = |address: &str, control: &str, more: &[&str]| {
        let first = ["up", "--address", address, "--listen", "127.0.0.1:0", "--network-secret-file", &secret];
        let last = ["--device", "none", "--control", control];
        Daemon::start(command("meshd", &[&first[..], &last, more].concat()))
    };
    let vm = up("10.84.0.1/24", &place("vm.sock"), &["--name", "vm", "--key", &key]);
    assert_eq!(vm.fact("id"), expect_status(&run("meshd", &["pubkey", &key]), 0).trim());
    let peer = format!("{}@{}", vm.fact("id"), vm.fact("udp"));
    let home = up("10.84.0.2/24", &place("home.sock"), &["--name", "home", "--peer", &peer]);
    let status = until("the two to meet", || {
        let output = run("meshd", &["status", "--json", "--control", &place("vm.sock")]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (status["peers"][0]["state"] == "up").then_some(status)
    });
    assert_eq!(status["peers"][0]["name"], "home", "{status}");
    assert_eq!(status["peers"][0]["id"], home.fact("id"), "{status}");
    let shown = expect_status(&run("meshd", &["status", "--control", &place("vm.sock")]), 0);
    assert!(shown.contains("home") && shown.contains("10.84.0.2"), "{shown}");

    // A second daemon on the same control socket refuses; a killed one's socket is taken over.
    let arguments = ["--network-secret-file", &secret, "--control", &place("vm.sock"), "--device", "none"];
    let first = ["up", "--address", "10.84.0.3/24", "--listen", "127.0.0.1:0"];
    assert!(expect_failure("meshd", &[&first[..], &arguments].concat()).contains("vm.sock"));
    vm.kill();
    assert!(expect_failure("meshd", &["status", "--control", &place("vm.sock")]).contains("running?"));
    let vm = up("10.84.0.1/24", &place("vm.sock"), &["--key", &key]);
    for daemon in [vm, home] {
        let (status, took) = daemon.terminate();
        assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    }
    assert!(!Path::new(&place("vm.sock")).exists());
}

/// A directory that is a replica.
struct Replica {
    dir: tempfile::TempDir,
    id: String,
}

impl Replica {
    fn new() -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let id = expect_status(&run("syncd", &["init", dir.path().to_str().unwrap()]), 0).trim().to_owned();
        Replica { dir, id }
    }

    fn root(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn serve(&self, peer: &str) -> Daemon {
        Daemon::start(command("syncd", &["serve", self.root(), "--listen", "127.0.0.1:0", "--peer", peer]))
    }

    fn wait(&self) {
        expect_status(&run("syncd", &["wait", self.root(), "--peers", "all", "--timeout", "40s"]), 0);
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&expect_status(&run("syncd", &["status", self.root(), "--json"]), 0)).unwrap()
    }

    fn digest(&self) -> String {
        expect_status(&run("syncd", &["digest", self.root()]), 0)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.path().join(name)).ok()
    }
}

#[test]
fn syncd_makes_nothing_where_there_is_no_replica() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, absent) = (dir.path().to_str().unwrap(), dir.path().join("absent"));
    let absent = absent.to_str().unwrap();
    assert!(expect_failure("syncd", &["init", absent]).contains(absent));
    for verb in ["id", "status", "conflicts"] {
        assert!(expect_failure("syncd", &[verb, plain]).contains("run init"));
        assert!(expect_failure("syncd", &[verb, absent]).contains(absent));
    }
    for place in [plain, absent] {
        expect_failure("syncd", &["serve", place, "--listen", "127.0.0.1:0"]);
        expect_failure("syncd", &["wait", place, "--peers", "all"]);
    }
    assert_eq!(fs::read_dir(plain).unwrap().count(), 0, "something was made");
}

#[test]
fn two_syncd_keep_two_folders_equal_with_a_database_in_them_and_survive_a_kill() {
    let (a, b) = (Replica::new(), Replica::new());
    assert_eq!(
        expect_status(&run("syncd", &["init", a.root()]), 0).trim(),
        a.id,
        "a second init keeps the ID"
    );
    a.write("letters/one.txt", b"dear b");
    a.write("empty", b"");
    let db = rusqlite::Connection::open(a.dir.path().join("notes.db")).unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    db.execute_batch("CREATE TABLE note(text)").unwrap();
    db.execute("INSERT INTO note VALUES ('first')", ()).unwrap();

    let a_daemon = a.serve(&b.id);
    let b_daemon = b.serve(&format!("{}@{}", a.id, a_daemon.fact("sync")));
    assert_eq!(expect_status(&run("syncd", &["id", a.root()]), 0).trim(), a.id, "also while it is served");
    a.wait();
    assert_eq!(b.read("letters/one.txt").unwrap(), b"dear b");
    assert_eq!(b.read("empty").unwrap(), b"");
    assert_eq!(notes(&b), ["first"]);

    b.write("answer.txt", b"dear a");
    b.wait();
    assert_eq!(a.read("answer.txt").unwrap(), b"dear a");
    db.execute("INSERT INTO note VALUES ('second')", ()).unwrap();
    a.wait();
    assert_eq!(notes(&b), ["first", "second"]);
    // Everything that each has is the other's too; then the digests say so.
    until("equal digests", || (a.digest() == b.digest()).then_some(()));
    assert_eq!(a.status()["peers"][0]["connected"], true);

    // A second daemon on the folder refuses and harms nothing.
    let second = expect_failure("syncd", &["serve", a.root(), "--listen", "127.0.0.1:0"]);
    assert!(second.contains(a.root()), "{second}");

    a_daemon.kill();
    a.write("while-away.txt", b"still here");
    let lagging = run("syncd", &["wait", b.root(), "--peers", "all", "--timeout", "300ms"]);
    b.write("late.txt", b"written while a was dead");
    let lagging = if lagging.status.success() {
        run("syncd", &["wait", b.root(), "--peers", "all", "--timeout", "300ms"])
    } else {
        lagging
    };
    expect_status(&lagging, 1);
    assert!(text(&lagging.stderr).contains(&a.id), "{}", text(&lagging.stderr));
    drop(b_daemon);

    let a_daemon = a.serve(&b.id);
    let b_daemon = b.serve(&format!("{}@{}", a.id, a_daemon.fact("sync")));
    a.wait();
    b.wait();
    assert_eq!(b.read("while-away.txt").unwrap(), b"still here");
    assert_eq!(a.read("late.txt").unwrap(), b"written while a was dead");
    assert_eq!(expect_status(&run("syncd", &["conflicts", a.root()]), 0), "");
    for daemon in [a_daemon, b_daemon] {
        let (status, took) = daemon.terminate();
        assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    }
    assert!(expect_status(&run("syncd", &["status", a.root()]), 0).contains(&a.id), "also when not served");
}

fn notes(replica: &Replica) -> Vec<String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(replica.dir.path().join("notes.db"), flags).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut query = db.prepare("SELECT text FROM note ORDER BY rowid").unwrap();
    query.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_stranger_is_not_let_into_a_folder() {
    let (ours, stranger, friend) = (Replica::new(), Replica::new(), Replica::new());
    ours.write("secret.txt", b"not for everybody");
    let serve = ["-v", "serve", ours.root(), "--listen", "127.0.0.1:0", "--peer", &friend.id];
    let daemon = Daemon::start(command("syncd", &serve));
    let peer = format!("{}@{}", ours.id, daemon.fact("sync"));
    let _stranger = stranger.serve(&peer);
    let refusal = format!("{} was turned away: it is not among the peers", stranger.id);
    until("the stranger to be turned away", || daemon.stderr().contains(&refusal).then_some(()));
    until("the stranger to learn why", || {
        let trouble = stranger.status()["peers"][0]["trouble"].as_str().unwrap_or_default().to_owned();
        trouble.contains("was not told of this device").then_some(())
    });
    let _friend = friend.serve(&peer);
    until("the friend to have the file", || friend.read("secret.txt"));
    assert_eq!(stranger.read("secret.txt"), None);
    assert_eq!(stranger.status()["files"], 0);
}

/// One request, one answer, over a plain connection: status and body.
fn get(address: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    parse(&answer)
}

fn parse(answer: &str) -> (u16, String) {
    let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// A server that answers every connection with the same words.
fn upstream(words: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                request.push(byte[0]);
            }
            let length = words.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{words}"
            );
        }
    });
    port
}

#[test]
fn edged_serves_explains_and_follows_its_labels_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("labels.json");
    let (notes, git) = (upstream("notes here"), upstream("git here"));
    let container = |name: &str, labels: String| {
        format!(r#"{{"name":"{name}","address":"127.0.0.1","labels":{{{labels}}}}}"#)
    };
    let v1 = container(
        "notes",
        format!(r#""traefik.frontend.rule":"Host:notes.example","traefik.port":"{notes}""#),
    );
    let v3 = container(
        "git",
        format!(
            r#""traefik.http.routers.git.rule":"Host(`git.example`)","traefik.http.services.git.loadbalancer.server.port":"{git}""#
        ),
    );
    let bad = container("bad", r#""traefik.http.routers.bad.rule":"Host(`bad.example`""#.to_owned());
    fs::write(&file, format!("[{v1}]")).unwrap();
    let labels = file.to_str().unwrap();
    let edge = Daemon::start(command("edged", &["run", "--labels", labels, "--listen", "127.0.0.1:0"]));
    let address = edge.fact("http");
    assert_eq!(
        until("the notes", || Some(get(&address, "notes.example")).filter(|a| a.0 == 200)).1,
        "notes here"
    );
    assert_eq!(get(&address, "git.example").0, 404);
    expect_status(&run("edged", &["check", labels]), 0);

    fs::write(&file, format!("[{v1},{v3},{bad}]")).unwrap();
    assert_eq!(until("git", || Some(get(&address, "git.example")).filter(|a| a.0 == 200)).1, "git here");
    assert_eq!(get(&address, "notes.example").1, "notes here");
    assert_eq!(get(&address, "bad.example").0, 404);
    let checked = run("edged", &["check", labels]);
    assert!(expect_status(&checked, 1).contains("git.example"));
    assert!(text(&checked.stdout).contains("traefik.http.routers.bad.rule"), "{}", text(&checked.stdout));

    let explain = |url: &str, more: &[&str]| {
        expect_status(&run("edged", &[&["explain", "--labels", labels, "GET", url], more].concat()), 0)
    };
    let told = explain("http://git.example/x", &[]);
    assert!(told.contains("git") && told.contains(&git.to_string()), "{told}");
    assert!(explain("http://bad.example/", &[]).contains("traefik.http.routers.bad.rule"));
    let told: serde_json::Value =
        serde_json::from_str(&explain("http://git.example/x", &["--json"])).unwrap();
    assert_eq!(told["outcome"]["kind"], "forwarded", "{told}");

    // A file that cannot be read leaves the last good routes in place.
    fs::write(&file, "[{").unwrap();
    let complaint =
        until("a word about it", || Some(edge.stderr()).filter(|log| log.contains("labels.json")));
    assert!(complaint.contains("labels.json"), "{complaint}");
    assert_eq!(get(&address, "notes.example").1, "notes here");
    let (status, took) = edge.terminate();
    assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
}

/// The same over TLS, trusting nothing but the authority in this file.
fn get_over_tls(address: &str, authority: &str, host: &str) -> Option<(u16, String)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let session =
        rustls::ClientConnection::new(Arc::new(config), host.to_owned().try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(address).unwrap());
    stream.sock.set_read_timeout(Some(support::PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(parse(&answer))
}

#[test]
fn edged_serves_https_with_certificates_of_its_own_authority() {
    let dir = tempfile::tempdir().unwrap();
    let port = upstream("sealed");
    let labels = dir.path().join("labels.json");
    let label = format!(r#""traefik.frontend.rule":"Host:a.example","traefik.port":"{port}""#);
    fs::write(&labels, format!(r#"[{{"name":"a","address":"127.0.0.1","labels":{{{label}}}}}]"#)).unwrap();
    let labels = labels.to_str().unwrap();
    let first = ["run", "--labels", labels, "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"];
    let edge = Daemon::start(command("edged", &[&first[..], &["--redirect-to-https"]].concat()));
    let (address, authority) = (edge.fact("https"), edge.fact("ca"));
    let answer = until("a certificate for the route", || get_over_tls(&address, &authority, "a.example"));
    assert_eq!(answer, (200, "sealed".to_owned()));
    assert_eq!(
        get_over_tls(&address, &authority, "b.example"),
        None,
        "a certificate for a host without a route"
    );
    assert!((300..400).contains(&get(&edge.fact("http"), "a.example").0));
    edge.terminate();
    assert!(!Path::new(&authority).exists(), "the authority's certificate stayed behind");
}

#[test]
fn edged_names_what_is_wrong_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let broken = file("broken.json", "[\n {\"name\": \"a\", \"adress\": \"127.0.0.1\", \"labels\": {}}\n]");
    for verb in [&["check"][..], &["run", "--listen", "127.0.0.1:0", "--labels"]] {
        let said = expect_failure("edged", &[verb, &[&broken]].concat());
        assert!(said.contains("broken.json") && said.contains("line 2") && said.contains("adress"), "{said}");
    }
    assert!(expect_failure("edged", &["check", "/no/such.json"]).contains("/no/such.json"));
    let labels = file("labels.json", "[]");
    assert!(expect_failure("edged", &["run", "--docker", "/no/such.sock"]).contains("/no/such.sock"));
    let not_pem = ["--tls-listen", "127.0.0.1:0", "--tls-cert", &labels, "--tls-key", &labels];
    let first = ["run", "--labels", &labels, "--listen", "127.0.0.1:0"];
    assert!(expect_failure("edged", &[&first[..], &not_pem].concat()).contains("labels.json"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    let said = expect_failure("edged", &["run", "--labels", &labels, "--listen", &taken_address]);
    assert!(said.contains(&taken_address), "{said}");
    let unknown = file("edged.toml", "labels = \"labels.json\"\nport = 80\n");
    let said = expect_failure("edged", &["check", &unknown]);
    assert!(said.contains("edged.toml:2:1: ") && said.contains("`port`"), "{said}");
}

#[test]
fn swarmctl_says_that_no_engine_answers() {
    let said = expect_failure("swarmctl", &["--host", "unix:///no/such.sock", "node", "ls"]);
    assert!(said.contains("/no/such.sock"), "{said}");
}

#[test]
fn the_config_samples_name_every_key_and_are_read() {
    for (binary, sample, parse) in [
        ("meshd", "meshd.toml", &["up", "--config"][..]),
        ("syncd", "syncd.toml", &["serve", "--config"]),
        ("edged", "edged.toml", &["check"]),
    ] {
        // The sample names files that are not there: what fails comes after its keys were all read.
        let said = expect_failure(binary, &[parse, &[&config(sample)]].concat());
        assert!(!said.contains(&format!("{sample}:")), "{said}");
        let text = fs::read_to_string(config(sample)).unwrap();
        let verb = if binary == "edged" { "run" } else { parse[0] };
        let help = expect_status(&run(binary, &[verb, "--help"]), 0);
        let flags =
            help.lines().filter(|l| l.trim().starts_with('-')).filter_map(|l| l.split("--").nth(1)).map(
                |flag| {
                    flag.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                        .next()
                        .unwrap_or_default()
                        .to_owned()
                },
            );
        for flag in flags.filter(|flag| !FLAGS_WITHOUT_A_KEY.contains(&flag.as_str())) {
            assert!(
                text.lines()
                    .any(|line| { line.starts_with(&format!("{flag} = ")) || line == format!("[[{flag}]]") }),
                "{sample} lacks {flag}"
            );
        }
    }
}
