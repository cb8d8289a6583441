use super::*;
use crate::rule::tests::any_rule;
use proptest::prelude::*;

fn web(name: &str, rule: &str) -> Container {
    Container::new(name)
        .with_address("10.0.0.1".parse::<std::net::IpAddr>().unwrap())
        .with_port(80)
        .with_label(format!("traefik.http.routers.{name}.rule"), rule)
}

fn table(containers: impl IntoIterator<Item = Container>) -> RouteTable {
    let (table, diagnostics) = RouteTable::compile(&containers.into_iter().collect());
    assert_eq!(diagnostics, []);
    table
}

fn takes(table: &RouteTable, host: &str, path: &str) -> Option<String> {
    table.lookup(&RequestView::new(EntryPoint::Http, host, path)).map(|route| route.name.clone())
}

#[test]
fn the_longer_rule_wins_unless_a_priority_says_otherwise() {
    let (short, long) = ("Host(`a.example`)", "Host(`a.example`) && PathPrefix(`/x`)");
    let by_length = table([web("short", short), web("long", long)]);
    assert_eq!(takes(&by_length, "a.example", "/x").as_deref(), Some("long"));
    assert_eq!(takes(&by_length, "a.example", "/y").as_deref(), Some("short"));
    assert_eq!(takes(&by_length, "b.example", "/x"), None);
    let first = web("short", short).with_label("traefik.http.routers.short.priority", "1000");
    assert_eq!(takes(&table([first, web("long", long)]), "a.example", "/x").as_deref(), Some("short"));
}

#[test]
fn a_rule_without_a_host_competes_with_those_that_have_one() {
    let table = table([
        web("low", "Host(`a.example`)").with_label("traefik.http.routers.low.priority", "1"),
        web("any", "PathPrefix(`/x`)").with_label("traefik.http.routers.any.priority", "2"),
        web("high", "Host(`a.example`) && Path(`/x/y`)")
            .with_label("traefik.http.routers.high.priority", "3"),
    ]);
    assert_eq!(takes(&table, "a.example", "/x/y").as_deref(), Some("high"));
    assert_eq!(takes(&table, "a.example", "/x").as_deref(), Some("any"));
    assert_eq!(takes(&table, "a.example", "/").as_deref(), Some("low"));
    assert_eq!(takes(&table, "b.example", "/x").as_deref(), Some("any"));
}

#[test]
fn entry_points_and_tls_restrict_a_route() {
    let table = table([
        web("secure", "Host(`s.example`)").with_label("traefik.http.routers.secure.tls", "true"),
        web("plain", "Host(`p.example`)").with_label("traefik.http.routers.plain.entrypoints", "web"),
        web("both", "Host(`b.example`)"),
    ]);
    for (host, http, https) in
        [("s.example", false, true), ("p.example", true, false), ("b.example", true, true)]
    {
        for (entry_point, served) in [(EntryPoint::Http, http), (EntryPoint::Https, https)] {
            let got = table.lookup(&RequestView::new(entry_point, host, "/")).is_some();
            assert_eq!(got, served, "{host} {entry_point}");
        }
    }
}

#[test]
fn containers_beyond_the_limit_are_left_out_and_named() {
    let containers = |n: usize| -> Snapshot { (0..n).map(|n| Container::new(format!("c{n:06}"))).collect() };
    assert_eq!(RouteTable::compile(&containers(CONTAINERS_MAX)).1, []);
    let (_, diagnostics) = RouteTable::compile(&containers(CONTAINERS_MAX + 1));
    assert_eq!(diagnostics.len(), 1);
    assert_eq!(diagnostics[0].container, format!("c{CONTAINERS_MAX:06}"));
}

/// What `lookup` must give: the first of all routes that takes the request.
fn naive<'a>(table: &'a RouteTable, request: &RequestView<'_>) -> Option<&'a str> {
    table
        .routes()
        .find(|route| route.serves(request.entry_point) && route.rule.matches(request))
        .map(|r| r.name.as_str())
}

proptest! {
    #[test]
    fn the_index_finds_what_a_scan_of_all_routes_finds(
        rules in prop::collection::vec((any_rule(), 1..5_i64), 0..12),
        host in "[a-d]\\.example",
        path in "/[a-c]{0,2}",
    ) {
        let containers = rules.iter().enumerate().map(|(n, (rule, priority))| {
            web(&format!("r{n}"), &rule.to_string()).with_label(format!("traefik.http.routers.r{n}.priority"), priority.to_string())
        });
        let (table, _) = RouteTable::compile(&containers.collect());
        prop_assert_eq!(table.routes().len(), rules.len());
        let request = RequestView::new(EntryPoint::Https, &host, &path);
        prop_assert_eq!(table.lookup(&request).map(|route| route.name.as_str()), naive(&table, &request));
    }

    #[test]
    fn the_order_of_containers_does_not_matter(
        containers in prop::collection::vec(("[a-c]", any_rule(), any::<bool>(), "[pq]"), 0..8).prop_shuffle(),
        seed in any::<prop::sample::Index>(),
    ) {
        // Names are unique within a provider.
        let containers: Vec<Container> = containers.into_iter().enumerate().map(|(n, (router, rule, up, provider))| {
            let mut container = Container::new(format!("c{n}")).with_up(up).with_port(80)
                .with_label(format!("traefik.http.routers.{router}.rule"), rule.to_string());
            container.provider = provider;
            container
        }).collect();
        let mut turned = containers.clone();
        if !turned.is_empty() {
            let by = seed.index(turned.len());
            turned.rotate_left(by);
        }
        let (a, b) = (RouteTable::compile(&containers.into_iter().collect()), RouteTable::compile(&turned.into_iter().collect()));
        prop_assert_eq!(a.0.routes().collect::<Vec<_>>(), b.0.routes().collect::<Vec<_>>());
        prop_assert_eq!(a.1, b.1);
    }

    #[test]
    fn no_labels_make_the_compiler_panic(
        labels in prop::collection::btree_map("traefik\\.(http\\.(routers|services)\\.[ab]?\\.?)?(rule|tls|priority|service|loadbalancer\\.server\\.port|frontend\\.rule|port|enable|\\PC{0,4})", "\\PC{0,12}", 0..12),
    ) {
        let mut container = Container::new("c");
        container.labels = labels;
        let (table, diagnostics) = RouteTable::compile(&std::iter::once(container).collect());
        prop_assert!(table.routes().len() <= 12);
        for diagnostic in diagnostics {
            prop_assert!(!diagnostic.what.is_empty() && !diagnostic.remedy.is_empty());
        }
    }
}
