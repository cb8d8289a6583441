use super::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn summary(value: serde_json::Value) -> ContainerSummary {
    serde_json::from_value(value).unwrap()
}

/// As API 1.41 lists it.
fn running() -> serde_json::Value {
    json!({
        "Id": "0123abcd",
        "Names": ["/other/alias", "/gogs"],
        "Labels": {"traefik.frontend.rule": "Host:gogs.example.org", "traefik.port": "3000"},
        "State": "running",
        "Status": "Up 2 seconds",
        "Ports": [
            {"PrivatePort": 3000, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 22, "PublicPort": 2222, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 22, "PublicPort": 2222, "Type": "tcp"},
            {"PrivatePort": 53, "Type": "udp"},
        ],
        "NetworkSettings": {"Networks": {
            "bridge": {"IPAddress": "172.17.0.2"},
            "app_back": {"IPAddress": "172.18.0.2", "GlobalIPv6Address": "fd00::2"},
            "gone": {"IPAddress": ""},
            "six": {"IPAddress": "", "GlobalIPv6Address": "fd00::3"},
        }},
    })
}

fn address(labels: &[(&str, &str)], networks: serde_json::Value) -> Option<String> {
    let mut value = running();
    value["Labels"] = labels.iter().copied().collect();
    value["NetworkSettings"]["Networks"] = networks;
    container(summary(value), false).address.map(|address| address.to_string())
}

#[test]
fn a_running_container_is_mapped_whole() {
    let mapped = container(summary(running()), false);
    assert_eq!(mapped.name, "gogs");
    assert_eq!(mapped.address, Some("172.17.0.2".parse().unwrap()));
    assert_eq!(mapped.ports, [22, 3000]);
    assert_eq!(mapped.labels["traefik.port"], "3000");
    assert!(mapped.up);
}

#[test]
fn only_a_healthy_running_container_is_up() {
    for (state, status, stopping, up) in [
        ("running", "Up 2 seconds", false, true),
        ("running", "Up 2 seconds (healthy)", false, true),
        ("running", "Up 2 seconds (unhealthy)", false, false),
        ("running", "Up 2 seconds (health: starting)", false, false),
        ("running", "Up 2 seconds", true, false),
        ("paused", "Up 2 seconds (Paused)", false, false),
        ("exited", "Exited (0) 1 second ago", false, false),
        ("created", "Created", false, false),
    ] {
        let mut value = running();
        (value["State"], value["Status"]) = (state.into(), status.into());
        assert_eq!(container(summary(value), stopping).up, up, "{state} {status} {stopping}");
    }
}

#[test]
fn the_address_is_that_of_the_named_network_else_the_bridges_else_the_first() {
    let networks = running()["NetworkSettings"]["Networks"].clone();
    assert_eq!(address(&[], networks.clone()).as_deref(), Some("172.17.0.2"));
    assert_eq!(address(&[(NETWORK_LABEL, "app_back")], networks.clone()).as_deref(), Some("172.18.0.2"));
    assert_eq!(
        address(&[(NETWORK_LABEL, "back")], networks.clone()).as_deref(),
        Some("172.18.0.2"),
        "a Compose project's"
    );
    assert_eq!(address(&[(NETWORK_LABEL, "six")], networks.clone()).as_deref(), Some("fd00::3"));
    assert_eq!(address(&[(NETWORK_LABEL, "gone")], networks.clone()), None);
    assert_eq!(
        address(&[(NETWORK_LABEL, "typo")], networks),
        None,
        "never an address on a network that was not meant"
    );
    assert_eq!(
        address(&[], json!({"b": {"IPAddress": "10.0.0.2"}, "a": {"IPAddress": "10.0.0.1"}})).as_deref(),
        Some("10.0.0.1")
    );
    assert_eq!(address(&[], json!({})), None);
}

#[test]
fn a_container_with_nothing_but_an_id_is_still_named() {
    let mapped = container(summary(json!({"Id": "0123abcd"})), false);
    assert_eq!((mapped.name.as_str(), mapped.up, mapped.address), ("0123abcd", false, None));
}

fn event(action: &str, attributes: serde_json::Value) -> Option<Change> {
    let event =
        json!({"Type": "container", "Action": action, "Actor": {"ID": "c1", "Attributes": attributes}});
    change(serde_json::from_value(event).unwrap())
}

#[test]
fn events_mean_what_they_do_to_the_list() {
    for signal in ["15", "9", "2", "3"] {
        assert_eq!(event("kill", json!({"signal": signal})), Some(Change::Stopping("c1".into())));
    }
    assert_eq!(event("kill", json!({"signal": "1"})), None, "HUP means reload");
    assert_eq!(event("start", json!({})), Some(Change::Started("c1".into())));
    for action in ["die", "destroy", "rename", "health_status: unhealthy", "connect", "pause"] {
        assert_eq!(event(action, json!({})), Some(Change::Look), "{action}");
    }
    for action in ["exec_start: sh", "top", "attach"] {
        assert_eq!(event(action, json!({})), None, "{action}");
    }
}

#[test]
fn versions_compare_as_numbers() {
    assert_eq!(parse_version("1.41"), Some((1, 41)));
    assert_eq!(parse_version("1.9").map(|old| old.min(API_NEWEST)), Some((1, 9)));
    assert_eq!(parse_version("1.99").map(|new| new.min(API_NEWEST)), Some(API_NEWEST));
    assert_eq!(parse_version("latest"), None);
}

#[tokio::test]
async fn what_is_wrong_with_the_socket_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no.sock");
    let error = DockerProvider::connect(&missing).await.unwrap_err().to_string();
    assert!(error.contains("no.sock") && error.contains("is Docker installed"), "{error}");

    // A socket that nobody listens on any more.
    let dead = dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let error = DockerProvider::connect(&dead).await.unwrap_err().to_string();
    assert!(error.contains("systemctl start docker"), "{error}");

    // Somebody who is no engine.
    let other = dir.path().join("other.sock");
    let listener = tokio::net::UnixListener::bind(&other).unwrap();
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        stream
    };
    let (connected, _stream) = tokio::join!(DockerProvider::connect(&other), answer);
    let error = connected.unwrap_err().to_string();
    assert!(error.contains("Api-Version"), "{error}");
}
