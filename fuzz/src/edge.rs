//! edgeproxy: rules, hosts, label sets, headers, label files. All of them are written by whoever may start a container or
//! open a connection.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use edgeproxy::diagnostic::DIAGNOSTICS_PER_CONTAINER_MAX;
use edgeproxy::host::{normalise_host, split_authority};
use edgeproxy::route::{EntryPoint, RequestView, Route, RouteTable};
use edgeproxy::rule::{RULE_MAX_BYTES, Rule};
use edgeproxy::snapshot::{Container, Snapshot};

use crate::Seed;

/// A rule in either form: an error points into the text; what parses prints in a form that parses to the same rule, and
/// matches no host but those that it says it is bound to.
pub fn rule(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for parsed in [Rule::parse(&text), Rule::parse_v1(&text)] {
        match parsed {
            Err(error) => assert!(error.offset <= text.len(), "{error} is behind the end of {text:?}"),
            Ok(rule) => check_rule(&rule),
        }
    }
}

fn check_rule(rule: &Rule) {
    let printed = rule.to_string();
    match Rule::parse(&printed) {
        Ok(again) => assert_eq!(&again, rule, "{printed}"),
        // Printing writes out what a list of values abbreviated, so that a rule at a limit may pass it.
        Err(error) => {
            assert!(printed.len() > RULE_MAX_BYTES || error.what.starts_with("nested"), "{printed}: {error}")
        }
    }
    let hosts = rule.hosts();
    let some_host = hosts.iter().flatten().next().copied().unwrap_or("a.example");
    for host in [some_host, "another.example"] {
        let bound = hosts.as_ref().is_none_or(|hosts| hosts.contains(host));
        let matches = rule.matches(&RequestView::new(EntryPoint::Https, host, "/path"));
        assert!(bound || !matches, "{printed} matches {host}, to which it is not bound");
    }
}

/// An authority: what is accepted as a host is in normal form, and the normal form is a fixed point.
pub fn host(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some((host, port)) = split_authority(&text) {
        assert_eq!(normalise_host(&host).as_deref(), Some(&*host), "of {text:?}");
        assert!(
            !host.is_empty() && !host.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' '),
            "{host:?}"
        );
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
        let authority = port.map_or(bracketed.clone(), |port| format!("{bracketed}:{port}"));
        assert_eq!(split_authority(&authority), Some((host, port)));
    }
}

/// A set of containers with labels as lines of text: compiling is total, does not depend on the order of the containers, says a
/// bounded amount about each; no provider's labels touch the routes of another; and a lookup finds what trying every
/// route in turn finds.
pub fn labels(data: &[u8]) {
    let snapshot = snapshot(&String::from_utf8_lossy(data));
    let (table, diagnostics) = RouteTable::compile(&snapshot);

    let reversed: Snapshot = snapshot.containers.iter().rev().cloned().collect();
    if names(&snapshot).len() == snapshot.containers.len() {
        let (other_table, other_diagnostics) = RouteTable::compile(&reversed);
        assert!(table.routes().eq(other_table.routes()), "the order of the containers changed the routes");
        assert_eq!(diagnostics, other_diagnostics);
    }
    for container in &snapshot.containers {
        let about = diagnostics
            .iter()
            .filter(|said| said.container == container.name && said.provider == container.provider);
        let same_name = snapshot.containers.iter().filter(|other| other.name == container.name).count();
        // What its labels say, and what its at most as many routers and services do.
        let most = DIAGNOSTICS_PER_CONTAINER_MAX + 4 * (1 + container.labels.len());
        assert!(about.count() <= same_name * most, "too much is said about {}", container.name);
    }
    let providers: BTreeSet<&str> =
        snapshot.containers.iter().map(|container| container.provider.as_str()).collect();
    for provider in providers {
        let alone: Snapshot =
            snapshot.containers.iter().filter(|container| container.provider == provider).cloned().collect();
        let (alone, _) = RouteTable::compile(&alone);
        let together = table.routes().filter(|route| route.provider == provider);
        assert!(together.eq(alone.routes()), "another provider changed the routes of {provider:?}");
    }
    check_lookup(&table);
}

fn check_lookup(table: &RouteTable) {
    let mut hosts: BTreeSet<&str> =
        table.routes().flat_map(|route| route.rule.hosts().unwrap_or_default()).collect();
    hosts.insert("nobody.example");
    for host in hosts {
        for (entry_point, path) in [(EntryPoint::Http, "/"), (EntryPoint::Https, "/api/x")] {
            let request = RequestView::new(entry_point, host, path);
            let takes = |route: &&Route| route.serves(entry_point) && route.rule.matches(&request);
            assert_eq!(
                table.lookup(&request).map(|route| &**route),
                table.routes().find(takes),
                "{host}{path}"
            );
        }
    }
}

fn names(snapshot: &Snapshot) -> BTreeSet<(&str, &str)> {
    snapshot
        .containers
        .iter()
        .map(|container| (container.provider.as_str(), container.name.as_str()))
        .collect()
}

/// A labels file: what parses is a set of named containers whose table compiles; what does not says where it is wrong.
pub fn labels_file(data: &[u8]) {
    match edgeproxy::parse_labels_file(data) {
        Ok(snapshot) => {
            assert!(snapshot.containers.iter().all(|container| container.address.is_some()));
            assert!(snapshot.containers.iter().all(|container| container.mapped_port != Some(0)));
            let (table, _) = RouteTable::compile(&snapshot);
            check_lookup(&table);
        }
        Err(message) => assert!(!message.trim().is_empty()),
    }
}

/// Containers as lines of text. `@PROVIDER/NAME` begins one, `@PROVIDER/NAME!` one that is down; `#PORT` is a port that it
/// exposes, `=ADDRESS` where it is reached, `KEY=VALUE` one of its labels.
fn snapshot(text: &str) -> Snapshot {
    let mut containers: Vec<Container> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('@') {
            let (name, up) = name.strip_suffix('!').map_or((name, true), |name| (name, false));
            let (provider, name) = name.split_once('/').unwrap_or(("p", name));
            let mut container = Container::new(name).with_up(up);
            container.provider = provider.to_owned();
            containers.push(container);
            continue;
        }
        let Some(container) = containers.last_mut() else { continue };
        if let Some(port) = line.strip_prefix('#') {
            container.ports.extend(port.parse::<u16>());
        } else if let Some(address) = line.strip_prefix('=') {
            container.address = address.parse().ok();
        } else if let Some((key, value)) = line.split_once('=') {
            container.labels.insert(key.to_owned(), value.to_owned());
        }
    }
    Snapshot { containers }
}

/// Seeds of [`rule`].
pub fn rule_seeds() -> Vec<Seed> {
    let deep = |inner: &str, depth: usize| format!("{}{inner}{}", "(".repeat(depth), ")".repeat(depth));
    vec![
        ("v1_hosts", "Host:a.example,b.example;PathPrefix:/api".into()),
        ("v1_headers", "Headers:X-Stage,beta;Method:GET,post".into()),
        ("v3_host", "Host(`a.example`)".into()),
        (
            "v3_all",
            "Host(`a.example`, `b.example`) && !(PathPrefix(`/x`) || Path(`/`)) || Method(`PUT`)".into(),
        ),
        ("v3_quotes", r#"Header("x-quote", "a \"b\" \\ `c`")"#.into()),
        ("v3_deep", deep("Host(`a.example`)", 20).into()),
        ("hostile_too_deep", deep("Host(`a.example`)", 4000).into()),
        ("hostile_nots", "!".repeat(5000).into()),
        ("hostile_open", "Host(`a.example".into()),
        ("hostile_bytes", b"Host(`\xff\xfe`) && \xf0\x9f".to_vec()),
    ]
}

/// Seeds of [`host`].
pub fn host_seeds() -> Vec<Seed> {
    vec![
        ("name_port", "Example.ORG.:8080".into()),
        ("ipv4", "127.0.0.1".into()),
        ("ipv6", "[0:0::1]:443".into()),
        ("hostile_two_ports", "a:1:2".into()),
        ("hostile_user", "user@example.org".into()),
        ("hostile_list", "a.example,b.example".into()),
        ("hostile_control", b"a\0.example\r\n".to_vec()),
    ]
}

/// Seeds of [`labels`].
pub fn labels_seeds() -> Vec<Seed> {
    let mut many = String::new();
    for n in 0..40 {
        writeln!(many, "@docker/c{n}\n=10.0.0.{n}\n#80\ntraefik.http.routers.r{n}.rule=Host(`h{n}.example`)\ntraefik.x{n}=1")
            .expect("a String takes all that is written");
    }
    vec![
        (
            "v1",
            "@docker/gogs\n=10.0.0.2\n#22\n#3000\ntraefik.frontend.rule=Host:git.example\ntraefik.port=3000\ntraefik.backend=gogs".into(),
        ),
        (
            "v3",
            "@docker/web\n=10.0.0.3\ntraefik.http.routers.web.rule=Host(`www.example`) && PathPrefix(`/api`)\n\
             traefik.http.routers.web.entrypoints=websecure\ntraefik.http.routers.web.tls=true\n\
             traefik.http.services.web.loadbalancer.server.port=8080"
                .into(),
        ),
        (
            "replicas",
            "@docker/a\n=10.0.0.4\n#80\ntraefik.http.routers.s.rule=Host(`s.example`)\n\
             @docker/b!\n=10.0.0.5\n#80\ntraefik.http.routers.s.rule=Host(`s.example`)"
                .into(),
        ),
        (
            "hostile_claims",
            "@docker/good\n=10.0.0.6\n#80\ntraefik.frontend.rule=Host:good.example\n\
             @file/thief\n=10.0.0.7\n#80\ntraefik.frontend.rule=Host:good.example\ntraefik.http.routers.x.rule=Host(`\n\
             traefik.http.routers.x.priority=99999999999999999999\ntraefik.port=0\ntraefik.enable=perhaps"
                .into(),
        ),
        ("hostile_same_name", "@p/a\n#1\ntraefik.frontend.rule=Host:a\n@p/a\n#2\ntraefik.frontend.rule=Host:b".into()),
        ("many", many.into()),
    ]
}

/// Seeds of [`labels_file`].
pub fn labels_file_seeds() -> Vec<Seed> {
    vec![
        (
            "two",
            r#"[{"name": "git", "address": "10.0.0.2", "ports": [3000], "labels": {"traefik.frontend.rule": "Host:git.example"}},
               {"name": "web", "address": "[::1]:8080", "up": false, "labels": {"traefik.http.routers.w.rule": "Host(`w.example`)"}}]"#.into(),
        ),
        ("none", "[]".into()),
        ("hostile_unknown_key", r#"[{"name": "a", "address": "a.example", "labels": {}, "port": 1}]"#.into()),
        ("hostile_port", r#"[{"name": "a", "address": "10.0.0.1:0", "labels": {}}]"#.into()),
        ("hostile_address", r#"[{"name": "a", "address": "a b", "labels": {"traefik.port": "1"}}]"#.into()),
        ("hostile_deep", "[".repeat(1000).into()),
        ("hostile_truncated", r#"[{"name": "a", "labels": {"traefik.port": "80"#.into()),
    ]
}
