//! Label sets as people write them, and the routes and diagnostics that they give.
#![allow(clippy::unwrap_used)]

use edgeproxy::{Container, Diagnostic, EntryPoint, RouteTable, Snapshot, explain};
use http::{HeaderMap, Method};
use std::net::IpAddr;

/// A container at 10.0.0.`n` that exposes 8080 and 80, with labels written as `key=value` lines.
fn container(name: &str, n: u8, labels: &str) -> Container {
    let mut container =
        Container::new(name).with_address(IpAddr::from([10, 0, 0, n])).with_port(8080).with_port(80);
    for line in labels.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').unwrap();
        container = container.with_label(key, value);
    }
    container
}

fn compile(containers: impl IntoIterator<Item = Container>) -> (RouteTable, Vec<Diagnostic>) {
    RouteTable::compile(&containers.into_iter().collect::<Snapshot>())
}

/// Each route as `router | rule | service -> servers`.
fn routes(table: &RouteTable) -> Vec<String> {
    table
        .routes()
        .map(|route| {
            let live: Vec<String> = route.service.live().iter().map(ToString::to_string).collect();
            format!("{} | {} | {} -> {}", route.name, route.rule, route.service.name, live.join(" "))
        })
        .collect()
}

/// The labels give these routes and no diagnostic.
fn check(labels: &str, expected: &[&str]) {
    let (table, diagnostics) = compile([container("app", 1, labels)]);
    assert_eq!(diagnostics, [], "{labels}");
    assert_eq!(routes(&table), expected, "{labels}");
}

/// The labels give one diagnostic that contains `words`, and these routes.
fn check_told(labels: &str, words: &str, expected: &[&str]) {
    let (table, diagnostics) = compile([container("app", 1, labels)]);
    let [diagnostic] = diagnostics.as_slice() else { panic!("{labels}: {diagnostics:#?}") };
    assert!(diagnostic.to_string().contains(words), "{labels}: {diagnostic}");
    assert_eq!(routes(&table), expected, "{labels}");
}

#[test]
fn labels_of_an_original_set_up_work_unchanged() {
    check(
        "traefik.frontend.rule=Host:test.example.org
         traefik.port=8080",
        &["frontend-Host-test-example-org | Host(`test.example.org`) | backend-app -> http://10.0.0.1:8080"],
    );
    check(
        "traefik.frontend.rule=Host:gogs.example.org
         traefik.port=3000
         traefik.backend=gogs",
        &["frontend-Host-gogs-example-org | Host(`gogs.example.org`) | backend-gogs -> http://10.0.0.1:3000"],
    );
}

#[test]
fn v1_labels() {
    check(
        "traefik.frontend.rule=Host:A.example,b.example;PathPrefix:/api
         traefik.frontend.entryPoints=http,https
         traefik.frontend.passHostHeader=true
         traefik.protocol=http
         traefik.enable=true
         traefik.docker.network=web",
        &[
            "frontend-Host-A-example-b-example-PathPrefix-api | (Host(`a.example`) || Host(`b.example`)) && PathPrefix(`/api`) | backend-app -> http://10.0.0.1:80",
        ],
    );
    check("traefik.enable=false\ntraefik.frontend.rule=Host:a\ntraefik.nonsense=1", &[]);
}

#[test]
fn v3_labels() {
    check(
        "traefik.http.routers.web.rule=Host(`a.example`) || Host(`b.example`)
         traefik.http.routers.web.entrypoints=websecure
         traefik.http.routers.web.tls=true
         traefik.http.services.web.loadbalancer.server.port=9000
         traefik.http.services.web.loadbalancer.server.scheme=http",
        &["web | Host(`a.example`) || Host(`b.example`) | web -> http://10.0.0.1:9000"],
    );
    // Without a service the container is one, on its lowest port; keys are compared without case.
    check("Traefik.HTTP.Routers.Web.Rule=Host(`a`)", &["web | Host(`a`) | app -> http://10.0.0.1:80"]);
    check(
        "traefik.http.routers.one.rule=Host(`one`)
         traefik.http.routers.one.service=first
         traefik.http.routers.two.rule=Host(`two.example`)
         traefik.http.routers.two.service=second
         traefik.http.services.first.loadbalancer.server.port=1
         traefik.http.services.second.loadbalancer.server.port=2",
        &[
            "two | Host(`two.example`) | second -> http://10.0.0.1:2",
            "one | Host(`one`) | first -> http://10.0.0.1:1",
        ],
    );
}

#[test]
fn both_generations_live_in_one_container() {
    check(
        "traefik.frontend.rule=Host:old.example
         traefik.port=3000
         traefik.http.routers.new.rule=Host(`new.example`)
         traefik.http.services.new.loadbalancer.server.port=4000",
        &[
            "new | Host(`new.example`) | new -> http://10.0.0.1:4000",
            "frontend-Host-old-example | Host(`old.example`) | backend-app -> http://10.0.0.1:3000",
        ],
    );
}

#[test]
fn whatever_has_no_effect_is_told() {
    let route = "frontend-Host-a | Host(`a`) | backend-app -> http://10.0.0.1:80";
    let with = |label: &str| format!("traefik.frontend.rule=Host:a\n{label}");
    for (label, words) in [
        ("traefik.frontend.rul=Host:b", "label traefik.frontend.rul: this label is not understood"),
        ("traefik.weight=3", "traefik.weight"),
        ("traefik.port=http", "`http` is not a port"),
        ("traefik.port=0", "`0` is not a port"),
        ("traefik.swarm.network=x", "not understood"),
        ("traefik.frontend.priority=high", "not a whole number"),
        ("traefik.frontend.entryPoints=http,ftp", "no entry point `ftp`"),
        ("traefik.http.middlewares.auth.basicauth.users=x", "middlewares are not supported"),
        ("traefik.tcp.routers.db.rule=HostSNI(`*`)", "TCP and UDP"),
        ("traefik.admin.frontend.rule=Host:b", "segment labels"),
    ] {
        check_told(&with(label), words, &[route]);
    }
    check_told("traefik.frontend.rule=Host:a\ntraefik.enable=no", "neither true nor false", &[]);
    check_told("traefik.port=80", "not understood", &[]);
    check_told("traefik.enable=true", "define no router", &[]);
    check_told("traefik.frontend.rule=Hots:a", "`Hots` is not a matcher", &[]);
    check_told("traefik.frontend.rule=Host:a\ntraefik.frontend.entryPoints=ftp", "no entry point", &[]);
    check_told("traefik.http.routers.x.tls=true", "the router `x` has no rule", &[]);
    check_told(
        "traefik.http.routers.x.rule=Host(`a`)\ntraefik.http.routers.x.tls.certresolver=le",
        "served over TLS, but this detail has no effect",
        &["x | Host(`a`) | app -> http://10.0.0.1:80"],
    );
    check_told("traefik.http.routers.x.rule=HostRegexp(`a`)", "`HostRegexp` is not supported", &[]);
    check_told(
        "traefik.frontend.rule=Host:a\ntraefik.protocol=https",
        "speak `https`",
        &["frontend-Host-a | Host(`a`) | backend-app -> "],
    );
}

#[test]
fn a_tls_label_that_is_not_understood_keeps_the_route_off_the_plain_entry_point() {
    for (value, tls) in [("true", true), ("false", false), ("yes", true)] {
        let labels = format!("traefik.http.routers.x.rule=Host(`a`)\ntraefik.http.routers.x.tls={value}");
        let (table, diagnostics) = compile([container("app", 1, &labels)]);
        assert_eq!(table.routes().next().unwrap().tls, tls, "{value}");
        assert_eq!(diagnostics.len(), usize::from(value == "yes"));
    }
}

#[test]
fn a_router_is_never_served_without_what_may_protect_it() {
    check_told(
        "traefik.http.routers.x.rule=Host(`a`)\ntraefik.http.routers.x.middlewares=auth",
        "`auth` may be what protects it",
        &[],
    );
    check_told(
        "traefik.frontend.rule=Host:a\ntraefik.frontend.auth.basic=u:p",
        "this protection is not supported",
        &[],
    );
    check_told(
        "traefik.frontend.rule=Host:a\ntraefik.frontend.whiteList.sourceRange=10.0.0.0/8",
        "this protection",
        &[],
    );
    let (_, diagnostics) =
        compile([container("app", 1, "traefik.frontend.rule=Host:a\ntraefik.frontend.auth.basic=u:$ecret")]);
    assert!(!format!("{diagnostics:?}").contains("$ecret"));
}

#[test]
fn ambiguous_services_are_told_and_answer_503() {
    check_told(
        "traefik.http.routers.x.rule=Host(`a`)
         traefik.http.services.one.loadbalancer.server.port=1
         traefik.http.services.two.loadbalancer.server.port=2",
        "several services",
        &["x | Host(`a`) |  -> "],
    );
    check_told(
        "traefik.http.routers.x.rule=Host(`a`)\ntraefik.http.routers.x.service=typo",
        "names the service `typo`, which no container defines",
        &["x | Host(`a`) | typo -> "],
    );
}

#[test]
fn one_bad_container_harms_no_other() {
    let good = || container("good", 1, "traefik.frontend.rule=Host:good.example");
    let (alone, _) = compile([good()]);
    for bad in [
        "traefik.frontend.rule=",
        "traefik.frontend.rule=Host:good.example;;;(",
        "traefik.http.routers..rule=Host(`x`)",
        "traefik.http.routers.x.rule=Host(`good.example`",
        "traefik.http.services.backend-good.loadbalancer.server.port=99999999",
        "traefik.=1",
    ] {
        let (table, diagnostics) = compile([good(), container("bad", 2, bad)]);
        let route = |table: &RouteTable| table.routes().find(|r| r.containers == ["good"]).cloned();
        assert_eq!(route(&table).map(|r| r.rule), route(&alone).map(|r| r.rule), "{bad}");
        assert!(
            route(&table).unwrap().service.live().contains(&route(&alone).unwrap().service.live()[0]),
            "{bad}"
        );
        assert!(
            !diagnostics.is_empty() && diagnostics.iter().all(|d| d.container == "bad"),
            "{bad}: {diagnostics:#?}"
        );
    }
}

#[test]
fn replicas_of_one_service_become_its_servers() {
    let labels =
        "traefik.http.routers.web.rule=Host(`a`)\ntraefik.http.services.web.loadbalancer.server.port=80";
    let (table, diagnostics) = compile([container("web.2", 2, labels), container("web.1", 1, labels)]);
    assert_eq!(diagnostics, []);
    assert_eq!(routes(&table), ["web | Host(`a`) | web -> http://10.0.0.1:80 http://10.0.0.2:80"]);
    assert_eq!(table.routes().next().unwrap().containers, ["web.1", "web.2"]);
    let v1 = "traefik.frontend.rule=Host:a\ntraefik.backend=web";
    let (table, diagnostics) = compile([container("web.2", 2, v1), container("web.1", 1, v1)]);
    assert_eq!(diagnostics, []);
    assert_eq!(
        routes(&table),
        ["frontend-Host-a | Host(`a`) | backend-web -> http://10.0.0.1:80 http://10.0.0.2:80"]
    );
}

#[test]
fn a_container_that_is_down_keeps_its_route() {
    let labels = "traefik.frontend.rule=Host:a\ntraefik.backend=web";
    let mut down = container("web.1", 1, labels).with_up(false);
    down.address = None;
    let (table, diagnostics) = compile([down.clone()]);
    assert_eq!(
        (routes(&table), diagnostics),
        (vec!["frontend-Host-a | Host(`a`) | backend-web -> ".to_owned()], vec![])
    );
    let (table, diagnostics) = compile([down, container("web.2", 2, labels)]);
    assert_eq!(diagnostics, []);
    assert_eq!(routes(&table), ["frontend-Host-a | Host(`a`) | backend-web -> http://10.0.0.2:80"]);
    assert_eq!(table.routes().next().unwrap().service.servers.len(), 2);
}

#[test]
fn a_server_without_address_or_port_is_told() {
    let mut nowhere = container("app", 1, "traefik.frontend.rule=Host:a");
    nowhere.address = None;
    let (table, diagnostics) = compile([nowhere]);
    assert!(diagnostics[0].what.contains("no address"), "{diagnostics:?}");
    assert_eq!(routes(&table), ["frontend-Host-a | Host(`a`) | backend-app -> "]);
    let mut portless = container("app", 1, "traefik.frontend.rule=Host:a");
    portless.ports.clear();
    let (_, diagnostics) = compile([portless.clone()]);
    assert!(
        diagnostics[0].what.contains("no port") && diagnostics[0].remedy.contains("traefik.port"),
        "{diagnostics:?}"
    );
    portless.mapped_port = Some(32768);
    let (table, diagnostics) = compile([portless.with_label("traefik.port", "3000")]);
    assert_eq!(diagnostics, []);
    assert_eq!(routes(&table), ["frontend-Host-a | Host(`a`) | backend-app -> http://10.0.0.1:32768"]);
}

#[test]
fn contradictions_have_a_winner_and_are_told() {
    // The same router, differently.
    let (table, diagnostics) = compile([
        container("b", 2, "traefik.http.routers.web.rule=Host(`b.example`)"),
        container("a", 1, "traefik.http.routers.web.rule=Host(`a.example`)"),
    ]);
    assert_eq!(routes(&table), ["web | Host(`a.example`) | a -> http://10.0.0.1:80"]);
    assert_eq!((diagnostics.len(), diagnostics[0].container.as_str()), (1, "b"));
    assert!(
        diagnostics[0].what.contains("container a defines the router `web` differently"),
        "{diagnostics:?}"
    );

    // The same rule, to different services.
    let (table, diagnostics) = compile([
        container("b", 2, "traefik.http.routers.two.rule=Host(`a.example`)"),
        container("a", 1, "traefik.http.routers.one.rule=Host(`A.example`)"),
    ]);
    assert_eq!(table.routes().next().unwrap().name, "one");
    assert_eq!((diagnostics.len(), diagnostics[0].container.as_str()), (1, "b"));
    assert!(diagnostics[0].what.contains("never reached: `one` of container a"), "{diagnostics:?}");

    // One that is up goes before one that is down.
    let (table, _) = compile([
        container("a", 1, "traefik.http.routers.web.rule=Host(`old.example`)").with_up(false),
        container("b", 2, "traefik.http.routers.web.rule=Host(`new.example`)"),
    ]);
    assert_eq!(routes(&table), ["web | Host(`new.example`) | b -> http://10.0.0.2:80"]);
}

#[test]
fn diagnostics_of_one_container_are_bounded() {
    use edgeproxy::diagnostic::DIAGNOSTICS_PER_CONTAINER_MAX as MAX;
    let noisy = |n: usize| {
        let labels: String = (0..n).map(|n| format!("traefik.nonsense{n:04}=x\n")).collect();
        compile([container("app", 1, &format!("traefik.frontend.rule=Host:a\n{labels}"))]).1
    };
    assert_eq!(noisy(MAX).len(), MAX);
    assert!(noisy(MAX).iter().all(|d| !d.what.contains("more")));
    let told = noisy(MAX + 9);
    assert_eq!(told.len(), MAX);
    assert!(told.iter().any(|d| d.what == "10 more of its labels are not understood"), "{told:#?}");
}

#[test]
fn explain_tells_where_a_request_goes_or_why_nowhere() {
    let (table, diagnostics) = compile([
        container(
            "gogs",
            1,
            "traefik.frontend.rule=Host:gogs.example.org;PathPrefix:/git\ntraefik.port=3000\ntraefik.typo=1",
        ),
        container("off", 2, "traefik.frontend.rule=Host:off.example.org").with_up(false),
        container("bad", 3, "traefik.frontend.rule=Hots:bad.example.org"),
        container(
            "tls",
            4,
            "traefik.http.routers.tls.rule=Host(`tls.example.org`)\ntraefik.http.routers.tls.tls=true",
        ),
    ]);
    let told =
        |url: &str| explain(&table, &diagnostics, &Method::GET, url, &HeaderMap::new(), None).to_string();
    for (url, lines) in [
        (
            "https://Gogs.example.org./git/x?y",
            &[
                "router   frontend-Host-gogs",
                "service  backend-gogs",
                "server   http://10.0.0.1:3000",
                "traefik.typo",
            ][..],
        ),
        ("https://off.example.org/", &["answer   503", "http://10.0.0.2:80 (container off): down"]),
        ("https://gogs.example.org/other", &["answer   404", "PathPrefix(`/git`) does not hold"]),
        ("http://tls.example.org/", &["entry point http", "served over TLS only"]),
        (
            "https://bad.example.org/",
            &[
                "answer   404",
                "container bad",
                "`Hots` is not a matcher",
                "Host(`off.example.org`) does not hold",
            ],
        ),
        ("gogs.example.org", &["answer   400", "https://gogs.example.org"]),
        ("ftp://gogs.example.org/", &["answer   400", "`ftp`"]),
    ] {
        let told = told(url);
        for line in lines {
            assert!(told.contains(line), "no `{line}` for {url} in\n{told}");
        }
    }
    let forced = explain(
        &table,
        &diagnostics,
        &Method::GET,
        "https://tls.example.org/",
        &HeaderMap::new(),
        Some(EntryPoint::Http),
    );
    assert!(forced.to_string().contains("answer   404"), "{forced}");
}

#[test]
fn near_misses_are_bounded() {
    use edgeproxy::explain::NEAR_MISSES_MAX as MAX;
    let misses = |n: usize| {
        let (table, _) = compile((0..n).map(|n| {
            container(&format!("c{n}"), 1, &format!("traefik.frontend.rule=Host:h{n}.example.org"))
        }));
        let url = "https://other.example.org/";
        explain(&table, &[], &Method::GET, url, &HeaderMap::new(), None).near_misses.len()
    };
    assert_eq!((misses(MAX - 1), misses(MAX), misses(MAX + 1)), (MAX - 1, MAX, MAX));
}

#[cfg(feature = "driver")]
#[test]
fn explain_serialises_to_json() {
    let (table, diagnostics) = compile([container("app", 1, "traefik.frontend.rule=Host:a")]);
    let told = explain(&table, &diagnostics, &Method::GET, "https://a/", &HeaderMap::new(), None);
    let json = serde_json::to_value(&told).unwrap();
    assert_eq!(json["outcome"]["kind"], "forwarded");
    assert_eq!(json["outcome"]["servers"][0], "http://10.0.0.1:80");
    assert_eq!(json["entry_point"], "https");
}
