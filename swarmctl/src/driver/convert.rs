//! From the engine's answers, in which everything may be missing, to values that are complete. What every
//! engine says is required; what it leaves out when there is nothing to say becomes empty.

use std::net::IpAddr;

use serde_json::Value;

use super::json::{count, list, map, text, texts};
use crate::cluster::{
    Availability, Mode, Network, Node, NodeStatus, Port, Protocol, Publish, Replicas, Role, Service,
    SwarmState, Task, TaskState, exit_code_in_words,
};
use crate::error::SwarmError;

pub(super) fn swarm_state(info: &Value) -> SwarmState {
    let node = text(&info["NodeID"]).unwrap_or_default();
    match info["LocalNodeState"].as_str() {
        Some("active") if info["ControlAvailable"] == true => SwarmState::Manager { node },
        Some("active") => SwarmState::Worker { node },
        Some("pending") => SwarmState::Pending,
        Some("locked") => SwarmState::Locked,
        Some("error") => SwarmState::Failed { reason: text(&info["Error"]).unwrap_or_default() },
        _ => SwarmState::Inactive,
    }
}

pub(super) fn node(node: &Value) -> Result<Node, SwarmError> {
    let (spec, status) = (&node["Spec"], &node["Status"]);
    let (description, engine) = (&node["Description"], &node["Description"]["Engine"]);
    let volume_driver = |it: &Value| (it["Type"] == "Volume").then(|| text(&it["Name"])).flatten();
    Ok(Node {
        id: text(&node["ID"]).ok_or(missing("node ID"))?,
        // A node that has never been up has not told its host name.
        name: text(&description["Hostname"]).unwrap_or_default(),
        role: match spec["Role"].as_str() {
            Some("manager") => Role::Manager,
            Some("worker") => Role::Worker,
            _ => return Err(missing("node role")),
        },
        availability: match spec["Availability"].as_str() {
            Some("active") => Availability::Active,
            Some("pause") => Availability::Pause,
            Some("drain") => Availability::Drain,
            _ => return Err(missing("node availability")),
        },
        status: match status["State"].as_str() {
            Some("ready") => NodeStatus::Ready,
            Some("down") => NodeStatus::Down,
            Some("disconnected") => NodeStatus::Disconnected,
            _ => NodeStatus::Unknown,
        },
        leader: node["ManagerStatus"]["Leader"] == true,
        reachable: text(&node["ManagerStatus"]["Reachability"]).map(|it| it == "reachable"),
        address: text(&status["Addr"]).unwrap_or_default(),
        labels: map(&spec["Labels"]),
        engine_version: text(&engine["EngineVersion"]).unwrap_or_default(),
        engine_labels: map(&engine["Labels"]),
        os: text(&description["Platform"]["OS"]).unwrap_or_default(),
        arch: text(&description["Platform"]["Architecture"]).unwrap_or_default(),
        volume_drivers: list(&engine["Plugins"]).filter_map(volume_driver).collect(),
    })
}

pub(super) fn service(service: &Value) -> Result<Service, SwarmError> {
    let (spec, status) = (&service["Spec"], &service["ServiceStatus"]);
    let template = &spec["TaskTemplate"];
    if !status.is_object() {
        return Err(missing("service status"));
    }
    Ok(Service {
        id: text(&service["ID"]).ok_or(missing("service ID"))?,
        name: text(&spec["Name"]).ok_or(missing("service name"))?,
        // Absent for a service that runs a plugin instead of containers.
        image: text(&template["ContainerSpec"]["Image"]).unwrap_or_default(),
        mode: mode(&spec["Mode"])?,
        replicas: Replicas {
            running: count(&status["RunningTasks"]),
            desired: count(&status["DesiredTasks"]),
        },
        labels: map(&spec["Labels"]),
        constraints: texts(&template["Placement"]["Constraints"]),
        ports: list(&service["Endpoint"]["Ports"]).map(port).collect::<Result<_, _>>()?,
    })
}

pub(super) fn task(task: &Value) -> Result<Task, SwarmError> {
    let status = &task["Status"];
    Ok(Task {
        id: text(&task["ID"]).ok_or(missing("task ID"))?,
        // Absent for a container that was attached to a network by hand.
        service: text(&task["ServiceID"]).unwrap_or_default(),
        slot: task["Slot"].as_u64().filter(|slot| *slot > 0),
        node: text(&task["NodeID"]),
        image: text(&task["Spec"]["ContainerSpec"]["Image"]).unwrap_or_default(),
        state: task_state(&status["State"]).ok_or(missing("task state"))?,
        desired: task_state(&task["DesiredState"]).ok_or(missing("task's desired state"))?,
        error: in_words(text(&status["Err"]), status["ContainerStatus"]["ExitCode"].as_i64()),
        since: text(&status["Timestamp"]).unwrap_or_default(),
        addresses: list(&task["NetworksAttachments"]).filter_map(address).collect(),
    })
}

/// A network's ID, and the task's address there, which the engine writes with the length of the network's prefix.
fn address(attachment: &Value) -> Option<(String, IpAddr)> {
    let written = attachment["Addresses"][0].as_str()?;
    let address = written.split_once('/').map_or(written, |(address, _)| address);
    Some((text(&attachment["Network"]["ID"])?, address.parse().ok()?))
}

/// A network that reaches over the nodes; nothing for one of the engine's own.
pub(super) fn network(network: &Value) -> Option<Result<Network, SwarmError>> {
    if network["Scope"] != "swarm" {
        return None;
    }
    let read = || {
        Ok(Network {
            id: text(&network["Id"]).ok_or(missing("network ID"))?,
            name: text(&network["Name"]).ok_or(missing("network name"))?,
            driver: text(&network["Driver"]).unwrap_or_default(),
            options: map(&network["Options"]),
            labels: map(&network["Labels"]),
        })
    };
    Some(read())
}

fn mode(mode: &Value) -> Result<Mode, SwarmError> {
    let modes = [
        ("Replicated", Mode::Replicated),
        ("Global", Mode::Global),
        ("ReplicatedJob", Mode::ReplicatedJob),
        ("GlobalJob", Mode::GlobalJob),
    ];
    let found = modes.into_iter().find(|(key, _)| mode[key].is_object());
    found.map(|(_, mode)| mode).ok_or(missing("service mode that is known"))
}

pub(super) fn port(port: &Value) -> Result<Port, SwarmError> {
    let number =
        |port: &Value| port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    Ok(Port {
        target: number(&port["TargetPort"]).ok_or(missing("target port"))?,
        published: number(&port["PublishedPort"]),
        protocol: match port["Protocol"].as_str() {
            Some("udp") => Protocol::Udp,
            Some("sctp") => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        publish: match port["PublishMode"].as_str() {
            Some("host") => Publish::Host,
            _ => Publish::Ingress,
        },
    })
}

fn task_state(state: &Value) -> Option<TaskState> {
    Some(match state.as_str()? {
        "new" | "allocated" => TaskState::New,
        "pending" => TaskState::Pending,
        "assigned" => TaskState::Assigned,
        "accepted" => TaskState::Accepted,
        "preparing" => TaskState::Preparing,
        "ready" => TaskState::Ready,
        "starting" => TaskState::Starting,
        "running" => TaskState::Running,
        "complete" => TaskState::Complete,
        "shutdown" => TaskState::Shutdown,
        "failed" => TaskState::Failed,
        "rejected" => TaskState::Rejected,
        "remove" => TaskState::Remove,
        "orphaned" => TaskState::Orphaned,
        _ => return None,
    })
}

/// The engine's reason, with the meaning of the exit code where it has one.
fn in_words(error: Option<String>, exit_code: Option<i64>) -> Option<String> {
    let error = error.map(|error| error.trim().to_owned()).filter(|error| !error.is_empty())?;
    Some(match exit_code.and_then(exit_code_in_words) {
        Some(meaning) => format!("{error} ({meaning})"),
        None => error,
    })
}

pub(super) fn missing(what: &'static str) -> SwarmError {
    SwarmError::Incomplete { what }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_without_what_every_engine_says_is_refused_by_name() {
        let error = node(&json!({})).unwrap_err().to_string();
        assert!(error.contains("node ID"), "{error}");
        let error = service(&json!([])).unwrap_err().to_string();
        assert!(error.contains("service status"), "{error}");
        let error = task(&json!({"ID": "t", "Status": {"State": "dancing"}})).unwrap_err().to_string();
        assert!(error.contains("task state"), "{error}");
    }

    #[test]
    fn a_manager_a_worker_and_a_locked_engine_are_told_apart() {
        let info = |state, control| {
            swarm_state(&json!({"LocalNodeState": state, "ControlAvailable": control, "NodeID": "n1"}))
        };
        let node = || "n1".to_owned();
        assert_eq!(info("active", true), SwarmState::Manager { node: node() });
        assert_eq!(info("active", false), SwarmState::Worker { node: node() });
        assert_eq!(info("locked", false), SwarmState::Locked);
        assert_eq!(swarm_state(&Value::Null), SwarmState::Inactive);
    }

    #[test]
    fn a_failure_is_told_in_the_engines_words_and_ours() {
        let exit = in_words(Some("task: non-zero exit (137)".into()), Some(137)).unwrap();
        assert_eq!(exit, "task: non-zero exit (137) (killed, by SIGKILL or for using too much memory)");
        let plugin = in_words(Some("no suitable node (missing plugin on 2 nodes)".into()), Some(0));
        assert_eq!(plugin.unwrap(), "no suitable node (missing plugin on 2 nodes)");
        assert_eq!(in_words(Some(String::new()), Some(0)), None);
    }

    #[test]
    fn ports_outside_the_range_are_not_invented() {
        let config = |published| json!({"TargetPort": 80, "PublishedPort": published});
        assert_eq!(port(&config(8080)).unwrap().published, Some(8080));
        assert_eq!(port(&config(0)).unwrap().published, None);
        assert_eq!(port(&config(70_000)).unwrap().published, None);
        assert!(port(&json!({})).is_err());
    }
}
