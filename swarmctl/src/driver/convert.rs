//! From the engine's answers, in which everything may be missing, to values that are complete. What every
//! engine says is required; what it leaves out when there is nothing to say becomes empty.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    self, EndpointPortConfig, EndpointPortConfigProtocolEnum, EndpointPortConfigPublishModeEnum,
    LocalNodeState, NodeSpecAvailabilityEnum, NodeSpecRoleEnum, ServiceSpecMode, SwarmInfo,
};

use crate::cluster::{
    Availability, Mode, Node, NodeStatus, Port, Protocol, Publish, Replicas, Role, Service, SwarmState, Task,
    TaskState, exit_code_in_words,
};
use crate::error::ListError;

pub(super) fn swarm_state(info: Option<SwarmInfo>) -> SwarmState {
    let info = info.unwrap_or_default();
    let node = info.node_id.unwrap_or_default();
    match info.local_node_state {
        Some(LocalNodeState::ACTIVE) if info.control_available == Some(true) => SwarmState::Manager { node },
        Some(LocalNodeState::ACTIVE) => SwarmState::Worker { node },
        Some(LocalNodeState::PENDING) => SwarmState::Pending,
        Some(LocalNodeState::LOCKED) => SwarmState::Locked,
        Some(LocalNodeState::ERROR) => SwarmState::Failed { reason: info.error.unwrap_or_default() },
        Some(LocalNodeState::INACTIVE | LocalNodeState::EMPTY) | None => SwarmState::Inactive,
    }
}

pub(super) fn node(node: models::Node) -> Result<Node, ListError> {
    let spec = node.spec.ok_or(missing("node specification"))?;
    let description = node.description.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    Ok(Node {
        id: node.id.ok_or(missing("node ID"))?,
        // A node that has never been up has not told its host name.
        name: description.hostname.unwrap_or_default(),
        role: match spec.role {
            Some(NodeSpecRoleEnum::MANAGER) => Role::Manager,
            Some(NodeSpecRoleEnum::WORKER) => Role::Worker,
            Some(NodeSpecRoleEnum::EMPTY) | None => return Err(missing("node role")),
        },
        availability: match spec.availability {
            Some(NodeSpecAvailabilityEnum::ACTIVE) => Availability::Active,
            Some(NodeSpecAvailabilityEnum::PAUSE) => Availability::Pause,
            Some(NodeSpecAvailabilityEnum::DRAIN) => Availability::Drain,
            Some(NodeSpecAvailabilityEnum::EMPTY) | None => return Err(missing("node availability")),
        },
        status: match status.state {
            Some(models::NodeState::READY) => NodeStatus::Ready,
            Some(models::NodeState::DOWN) => NodeStatus::Down,
            Some(models::NodeState::DISCONNECTED) => NodeStatus::Disconnected,
            Some(models::NodeState::UNKNOWN) | None => NodeStatus::Unknown,
        },
        leader: node.manager_status.and_then(|manager| manager.leader).unwrap_or(false),
        address: status.addr.unwrap_or_default(),
        labels: labels(spec.labels),
        engine_version: description.engine.and_then(|engine| engine.engine_version).unwrap_or_default(),
    })
}

pub(super) fn service(service: models::Service) -> Result<Service, ListError> {
    let spec = service.spec.ok_or(missing("service specification"))?;
    let template = spec.task_template.unwrap_or_default();
    let status = service.service_status.ok_or(missing("service status"))?;
    let endpoint = service.endpoint.unwrap_or_default();
    Ok(Service {
        id: service.id.ok_or(missing("service ID"))?,
        name: spec.name.ok_or(missing("service name"))?,
        // Absent for a service that runs a plugin instead of containers.
        image: template.container_spec.and_then(|container| container.image).unwrap_or_default(),
        mode: mode(&spec.mode.ok_or(missing("service mode"))?)?,
        replicas: Replicas {
            running: status.running_tasks.unwrap_or(0),
            desired: status.desired_tasks.unwrap_or(0),
        },
        labels: labels(spec.labels),
        constraints: template.placement.and_then(|placement| placement.constraints).unwrap_or_default(),
        ports: endpoint.ports.unwrap_or_default().iter().map(port).collect::<Result<_, _>>()?,
    })
}

pub(super) fn task(task: models::Task) -> Result<Task, ListError> {
    let status = task.status.ok_or(missing("task status"))?;
    let state = task_state(status.state.ok_or(missing("task state"))?);
    let exit_code = status.container_status.and_then(|container| container.exit_code);
    let container = task.spec.and_then(|spec| spec.container_spec).unwrap_or_default();
    Ok(Task {
        id: task.id.ok_or(missing("task ID"))?,
        // Absent for a container that was attached to a network by hand.
        service: task.service_id.unwrap_or_default(),
        slot: task.slot.and_then(|slot| u64::try_from(slot).ok()).filter(|slot| *slot > 0),
        node: task.node_id.filter(|node| !node.is_empty()),
        image: container.image.unwrap_or_default(),
        state,
        desired: task_state(task.desired_state.ok_or(missing("task's desired state"))?),
        error: in_words(status.err, exit_code),
        since: status.timestamp.unwrap_or_default(),
    })
}

fn mode(mode: &ServiceSpecMode) -> Result<Mode, ListError> {
    if mode.replicated.is_some() {
        Ok(Mode::Replicated)
    } else if mode.global.is_some() {
        Ok(Mode::Global)
    } else if mode.replicated_job.is_some() {
        Ok(Mode::ReplicatedJob)
    } else if mode.global_job.is_some() {
        Ok(Mode::GlobalJob)
    } else {
        Err(missing("service mode that is known"))
    }
}

fn port(port: &EndpointPortConfig) -> Result<Port, ListError> {
    let number = |port: i64| u16::try_from(port).ok().filter(|port| *port > 0);
    Ok(Port {
        target: port.target_port.and_then(number).ok_or(missing("target port"))?,
        published: port.published_port.and_then(number),
        protocol: match port.protocol {
            Some(EndpointPortConfigProtocolEnum::UDP) => Protocol::Udp,
            Some(EndpointPortConfigProtocolEnum::SCTP) => Protocol::Sctp,
            Some(EndpointPortConfigProtocolEnum::TCP | EndpointPortConfigProtocolEnum::EMPTY) | None => {
                Protocol::Tcp
            }
        },
        publish: match port.publish_mode {
            Some(EndpointPortConfigPublishModeEnum::HOST) => Publish::Host,
            Some(EndpointPortConfigPublishModeEnum::INGRESS | EndpointPortConfigPublishModeEnum::EMPTY)
            | None => Publish::Ingress,
        },
    })
}

fn task_state(state: models::TaskState) -> TaskState {
    match state {
        models::TaskState::NEW | models::TaskState::ALLOCATED => TaskState::New,
        models::TaskState::PENDING => TaskState::Pending,
        models::TaskState::ASSIGNED => TaskState::Assigned,
        models::TaskState::ACCEPTED => TaskState::Accepted,
        models::TaskState::PREPARING => TaskState::Preparing,
        models::TaskState::READY => TaskState::Ready,
        models::TaskState::STARTING => TaskState::Starting,
        models::TaskState::RUNNING => TaskState::Running,
        models::TaskState::COMPLETE => TaskState::Complete,
        models::TaskState::SHUTDOWN => TaskState::Shutdown,
        models::TaskState::FAILED => TaskState::Failed,
        models::TaskState::REJECTED => TaskState::Rejected,
        models::TaskState::REMOVE => TaskState::Remove,
        models::TaskState::ORPHANED => TaskState::Orphaned,
    }
}

/// The engine's reason, with the meaning of the exit code where it has one.
fn in_words(error: Option<String>, exit_code: Option<i64>) -> Option<String> {
    let error = error.map(|error| error.trim().to_owned()).filter(|error| !error.is_empty())?;
    Some(match exit_code.and_then(exit_code_in_words) {
        Some(meaning) => format!("{error} ({meaning})"),
        None => error,
    })
}

fn labels(labels: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    labels.unwrap_or_default().into_iter().collect()
}

fn missing(what: &'static str) -> ListError {
    ListError::Incomplete { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_what_every_engine_says_is_refused_by_name() {
        let error = node(models::Node::default()).unwrap_err().to_string();
        assert!(error.contains("node specification"), "{error}");
        let error = service(models::Service::default()).unwrap_err().to_string();
        assert!(error.contains("service specification"), "{error}");
        let error = task(models::Task::default()).unwrap_err().to_string();
        assert!(error.contains("task status"), "{error}");
    }

    #[test]
    fn a_manager_a_worker_and_a_locked_engine_are_told_apart() {
        let info = |state, control| {
            Some(SwarmInfo {
                local_node_state: Some(state),
                control_available: Some(control),
                node_id: Some("n1".to_owned()),
                ..Default::default()
            })
        };
        let node = || "n1".to_owned();
        assert_eq!(swarm_state(info(LocalNodeState::ACTIVE, true)), SwarmState::Manager { node: node() });
        assert_eq!(swarm_state(info(LocalNodeState::ACTIVE, false)), SwarmState::Worker { node: node() });
        assert_eq!(swarm_state(info(LocalNodeState::LOCKED, false)), SwarmState::Locked);
        assert_eq!(swarm_state(None), SwarmState::Inactive);
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
        let config = |published| EndpointPortConfig {
            target_port: Some(80),
            published_port: Some(published),
            ..Default::default()
        };
        assert_eq!(port(&config(8080)).unwrap().published, Some(8080));
        assert_eq!(port(&config(0)).unwrap().published, None);
        assert_eq!(port(&config(70_000)).unwrap().published, None);
        assert!(port(&EndpointPortConfig::default()).is_err());
    }
}
