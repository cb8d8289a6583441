//! Every warning is given when it has to be, and only then.

use std::collections::BTreeMap;

use super::*;

/// A node that nothing is wrong with.
fn node(name: &str, role: Role, address: &str) -> Node {
    let mut node = Node::new(format!("id-{name}"), name, role);
    node.address = address.to_owned();
    node.labels = BTreeMap::from([("location".to_owned(), "home".to_owned())]);
    node.engine_version = "20.10.24+dfsg1".to_owned();
    node
}

fn network(mtu: Option<&str>) -> Network {
    Network {
        id: "n".to_owned(),
        name: "net".to_owned(),
        driver: "overlay".to_owned(),
        options: mtu.map(|mtu| (overlay::MTU_OPTION.to_owned(), mtu.to_owned())).into_iter().collect(),
        labels: BTreeMap::new(),
    }
}

fn expected() -> Expectations {
    Expectations {
        mesh: Some("10.77.0.0/24".parse().unwrap()),
        tunnel_mtu: Some(1400),
        home: Some("location=home".parse().unwrap()),
    }
}

fn kinds(nodes: &[Node], networks: &[Network], clocks: &[Clock]) -> Vec<&'static str> {
    warnings(nodes, networks, clocks, &expected()).iter().map(Warning::kind).collect()
}

fn managers(count: usize) -> Vec<Node> {
    (0..count).map(|n| node(&format!("m{n}"), Role::Manager, "10.77.0.1")).collect()
}

#[test]
fn an_even_number_of_managers_is_told_and_two_above_all() {
    for (count, wanted) in [(1, vec![]), (2, vec!["two-managers"]), (3, vec![]), (4, vec!["even-managers"])] {
        assert_eq!(kinds(&managers(count), &[], &[]), wanted, "{count}");
    }
}

#[test]
fn the_last_node_at_home_that_is_drained_is_told() {
    let mut nodes = vec![
        node("vm", Role::Manager, "10.77.0.1"),
        node("a", Role::Worker, "10.77.0.2"),
        node("b", Role::Worker, "10.77.0.3"),
    ];
    nodes[0].labels.clear();
    nodes[1].availability = Availability::Drain;
    assert_eq!(kinds(&nodes, &[], &[]), [""; 0]);
    nodes[2].availability = Availability::Pause;
    let told = warnings(&nodes, &[], &[], &expected());
    let names = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(told, [Warning::NoneAtHome { home: "location=home".to_owned(), nodes: names }]);
    assert!(told[0].to_string().contains("swarmctl node activate"), "{}", told[0]);
}

#[test]
fn nodes_that_are_lost_old_or_outside_are_told_by_name() {
    let mut nodes = managers(3);
    nodes[0].status = NodeStatus::Down;
    nodes[1].reachable = Some(false);
    nodes[2].engine_version = "19.03.5".to_owned();
    let mut outside = node("w", Role::Worker, "192.168.1.7");
    outside.engine_version = "dev".to_owned();
    nodes.push(outside);
    let wanted = ["node-down", "manager-unreachable", "engine-too-old", "outside-mesh"];
    assert_eq!(kinds(&nodes, &[], &[]), wanted);
}

#[test]
fn clocks_are_compared_with_each_other() {
    let clock = |engine: &str, ahead_ms| Clock { engine: engine.to_owned(), ahead_ms };
    let nodes = managers(1);
    assert_eq!(kinds(&nodes, &[], &[clock("a", -1000), clock("b", 1000)]), [""; 0]);
    let told = warnings(&nodes, &[], &[clock("a", -1000), clock("b", 1001)], &expected());
    assert_eq!(told, [Warning::ClockSkew { behind: "a".to_owned(), ahead: "b".to_owned(), ms: 2001 }]);
}

#[test]
fn packets_have_to_fit_through_the_tunnel() {
    let nodes = managers(1);
    for (mtu, is_told) in [(Some("1350"), false), (Some("1351"), true), (None, true), (Some("x"), true)] {
        assert_eq!(!kinds(&nodes, &[network(mtu)], &[]).is_empty(), is_told, "{mtu:?}");
    }
    assert_eq!(warnings(&nodes, &[network(None)], &[], &Expectations::default()), []);
}

#[test]
fn prefixes_hold_what_begins_like_them() {
    for (prefix, address, is) in [
        ("10.77.0.0/24", "10.77.0.255", true),
        ("10.77.0.0/24", "10.77.1.0", false),
        ("0.0.0.0/0", "255.255.255.255", true),
        ("10.0.0.1/32", "10.0.0.2", false),
        ("::/0", "ffff::", true),
        ("fd00:1::/64", "fd00:1::2", true),
        ("fd00:1::/64", "fd00:1:0:1::", false),
        ("::/0", "10.0.0.1", false),
    ] {
        assert_eq!(
            prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap()),
            is,
            "{prefix} {address}"
        );
    }
    for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "/8", "10.0.0.0/-1"] {
        assert!(text.parse::<Prefix>().is_err(), "{text:?}");
    }
}
