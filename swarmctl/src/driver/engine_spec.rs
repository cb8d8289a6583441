//! Specifications in the engine's own form, and back. What is read is made normal, so that it equals what was written; what
//! this crate has no word for stays as it is when something is changed.

mod container;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::convert::{self, missing};
use super::json::{count, list, map, nanos, part, put, rebuilt, sorted, text, texts, time};
use crate::cluster::Port;
use crate::error::SwarmError;
use crate::spec::{
    Amounts, Attachment, EndpointMode, LogDriver, OnFailure, Order, Placement, Resources, RestartCondition,
    RestartPolicy, Rollout, ServiceMode, ServiceSpec,
};
use crate::stack::IMAGE_LABEL;

/// The engine refers to some things by ID.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids {
    /// Names of networks, by ID.
    pub(super) networks: BTreeMap<String, String>,
    /// IDs of secrets, by name.
    pub(super) secrets: BTreeMap<String, String>,
    /// IDs of configs, by name.
    pub(super) configs: BTreeMap<String, String>,
}

/// What the engine is told. `engine` is what it has, or null.
pub(super) fn to_engine(service: &ServiceSpec, mut engine: Value, ids: &Ids) -> Value {
    let ServiceSpec {
        name,
        labels,
        container,
        resources,
        restart,
        placement,
        networks,
        log,
        mode,
        update,
        rollback,
        endpoint,
        ports,
    } = service;
    put(&mut engine, "Name", Some(name.as_str()));
    put(&mut engine, "Labels", Some(json!(labels)));
    put(&mut engine, "Mode", Some(mode_to(*mode)));
    // There is nothing further back.
    let rollback = match rollback.on_failure {
        OnFailure::Rollback => Rollout { on_failure: OnFailure::Pause, ..*rollback },
        _ => *rollback,
    };
    // The engine refuses them for a job.
    let is_job = matches!(mode, ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob);
    put(&mut engine, "UpdateConfig", (!is_job).then(|| rollout_to(update)));
    put(&mut engine, "RollbackConfig", (!is_job).then(|| rollout_to(&rollback)));
    // The template says it; here it would be the old place for the same.
    put(&mut engine, "Networks", None::<Value>);
    let found = part(&mut engine, "EndpointSpec");
    put(found, "Mode", Some(if *endpoint == EndpointMode::Vip { "vip" } else { "dnsrr" }));
    put(found, "Ports", Some(ports.iter().map(port_to).collect::<Value>()));

    let template = part(&mut engine, "TaskTemplate");
    container::write(part(template, "ContainerSpec"), container, ids);
    resources_to(part(template, "Resources"), resources);
    put(template, "RestartPolicy", Some(restart_to(restart)));
    placement_to(part(template, "Placement"), placement);
    let attachment = |(name, attachment): (&String, &Attachment)| {
        let engine = json!({"Target": name, "Aliases": sorted(&attachment.aliases)});
        ((name.clone(), attachment.clone()), engine)
    };
    let read = |network: &Value| attachment_from(network, ids);
    let networks = rebuilt(&template["Networks"], read, networks.iter().map(attachment));
    put(template, "Networks", Some(networks));
    let log = log.as_ref().map(|log| json!({"Name": log.name, "Options": log.options}));
    put(template, "LogDriver", log);
    engine
}

/// What the engine has.
///
/// # Errors
/// When it leaves out what every engine says.
pub(super) fn from_engine(engine: &Value, ids: &Ids) -> Result<ServiceSpec, SwarmError> {
    let template = &engine["TaskTemplate"];
    if !template["ContainerSpec"].is_object() {
        return Err(missing("container of a service"));
    }
    let (labels, resources, endpoint) =
        (map(&engine["Labels"]), &template["Resources"], &engine["EndpointSpec"]);
    let mut container = container::read(&template["ContainerSpec"]);
    // A digest was pinned to the image that was asked for.
    if let Some(asked) = labels.get(IMAGE_LABEL)
        && container.image.strip_prefix(asked.as_str()).is_some_and(|rest| rest.starts_with('@'))
    {
        container.image.clone_from(asked);
    }
    let mut ports = list(&endpoint["Ports"]).map(convert::port).collect::<Result<Vec<_>, _>>()?;
    ports.sort_unstable();
    let placement = &template["Placement"];
    let spread = |preference: &Value| text(&preference["Spread"]["SpreadDescriptor"]);
    let networks = if template["Networks"].is_array() { &template["Networks"] } else { &engine["Networks"] };
    Ok(ServiceSpec {
        name: text(&engine["Name"]).ok_or(missing("service name"))?,
        labels,
        container,
        resources: Resources {
            limits: amounts(&resources["Limits"]),
            reservations: amounts(&resources["Reservations"]),
        },
        restart: restart_from(&template["RestartPolicy"]),
        placement: Placement {
            constraints: texts(&placement["Constraints"]),
            spread: list(&placement["Preferences"]).filter_map(spread).collect(),
            max_per_node: count(&placement["MaxReplicas"]),
        },
        networks: list(networks).filter_map(|network| attachment_from(network, ids)).collect(),
        log: text(&template["LogDriver"]["Name"])
            .map(|name| LogDriver { name, options: map(&template["LogDriver"]["Options"]) }),
        mode: mode_from(&engine["Mode"])?,
        update: rollout_from(&engine["UpdateConfig"]),
        rollback: rollout_from(&engine["RollbackConfig"]),
        endpoint: if endpoint["Mode"] == "dnsrr" { EndpointMode::Dnsrr } else { EndpointMode::Vip },
        ports,
    })
}

fn resources_to(engine: &mut Value, resources: &Resources) {
    let Resources { limits, reservations } = resources;
    for (key, Amounts { nano_cpus, memory_bytes, pids }) in
        [("Limits", limits), ("Reservations", reservations)]
    {
        let engine = part(engine, key);
        put(engine, "NanoCPUs", Some(*nano_cpus));
        put(engine, "MemoryBytes", Some(*memory_bytes));
        if key == "Limits" {
            put(engine, "Pids", Some(*pids));
        }
    }
}

fn amounts(engine: &Value) -> Amounts {
    let amount = |key: &str| engine[key].as_i64().unwrap_or(0);
    Amounts { nano_cpus: amount("NanoCPUs"), memory_bytes: amount("MemoryBytes"), pids: amount("Pids") }
}

fn restart_to(restart: &RestartPolicy) -> Value {
    let RestartPolicy { condition, delay, attempts, window } = restart;
    let condition = match condition {
        RestartCondition::None => "none",
        RestartCondition::OnFailure => "on-failure",
        RestartCondition::Any => "any",
    };
    json!({"Condition": condition, "Delay": nanos(*delay), "MaxAttempts": attempts, "Window": nanos(*window)})
}

fn restart_from(engine: &Value) -> RestartPolicy {
    RestartPolicy {
        condition: match engine["Condition"].as_str() {
            Some("none") => RestartCondition::None,
            Some("on-failure") => RestartCondition::OnFailure,
            _ => RestartCondition::Any,
        },
        delay: time(&engine["Delay"]).unwrap_or(RestartPolicy::default().delay),
        attempts: count(&engine["MaxAttempts"]),
        window: time(&engine["Window"]).unwrap_or_default(),
    }
}

fn placement_to(engine: &mut Value, placement: &Placement) {
    let Placement { constraints, spread, max_per_node } = placement;
    put(engine, "Constraints", Some(sorted(constraints)));
    let preference = |descriptor: &String| json!({"Spread": {"SpreadDescriptor": descriptor}});
    put(engine, "Preferences", Some(spread.iter().map(preference).collect::<Value>()));
    put(engine, "MaxReplicas", Some(*max_per_node));
}

fn attachment_from(engine: &Value, ids: &Ids) -> Option<(String, Attachment)> {
    let target = text(&engine["Target"])?;
    let name = ids.networks.get(&target).cloned().unwrap_or(target);
    Some((name, Attachment { aliases: texts(&engine["Aliases"]) }))
}

fn mode_to(mode: ServiceMode) -> Value {
    match mode {
        ServiceMode::Replicated(replicas) => json!({"Replicated": {"Replicas": replicas}}),
        ServiceMode::Global => json!({"Global": {}}),
        ServiceMode::ReplicatedJob { completions, concurrent } => {
            json!({"ReplicatedJob": {"MaxConcurrent": concurrent, "TotalCompletions": completions}})
        }
        ServiceMode::GlobalJob => json!({"GlobalJob": {}}),
    }
}

fn mode_from(engine: &Value) -> Result<ServiceMode, SwarmError> {
    let (replicated, job) = (&engine["Replicated"], &engine["ReplicatedJob"]);
    if replicated.is_object() {
        Ok(ServiceMode::Replicated(replicated["Replicas"].as_u64().unwrap_or(1)))
    } else if job.is_object() {
        Ok(ServiceMode::ReplicatedJob {
            completions: job["TotalCompletions"].as_u64().unwrap_or(1),
            concurrent: job["MaxConcurrent"].as_u64().unwrap_or(1),
        })
    } else if engine["Global"].is_object() {
        Ok(ServiceMode::Global)
    } else if engine["GlobalJob"].is_object() {
        Ok(ServiceMode::GlobalJob)
    } else {
        Err(missing("service mode that is known"))
    }
}

fn rollout_to(rollout: &Rollout) -> Value {
    let Rollout { parallelism, delay, on_failure, monitor, failures_max_ppm, order } = rollout;
    json!({
        "Parallelism": parallelism,
        "Delay": nanos(*delay),
        "FailureAction": match on_failure {
            OnFailure::Pause => "pause",
            OnFailure::Continue => "continue",
            OnFailure::Rollback => "rollback",
        },
        "Monitor": nanos(*monitor),
        "MaxFailureRatio": f64::from(*failures_max_ppm) / 1e6,
        "Order": if *order == Order::StopFirst { "stop-first" } else { "start-first" },
    })
}

fn rollout_from(engine: &Value) -> Rollout {
    if !engine.is_object() {
        return Rollout::default();
    }
    let failures_max = engine["MaxFailureRatio"].as_f64().unwrap_or(0.0).clamp(0.0, 1.0);
    Rollout {
        parallelism: count(&engine["Parallelism"]),
        delay: time(&engine["Delay"]).unwrap_or_default(),
        on_failure: match engine["FailureAction"].as_str() {
            Some("continue") => OnFailure::Continue,
            Some("rollback") => OnFailure::Rollback,
            _ => OnFailure::Pause,
        },
        monitor: time(&engine["Monitor"])
            .filter(|it| *it > Duration::ZERO)
            .unwrap_or(Rollout::default().monitor),
        failures_max_ppm: (failures_max * 1e6).round() as u32,
        order: if engine["Order"] == "start-first" { Order::StartFirst } else { Order::StopFirst },
    }
}

fn port_to(port: &Port) -> Value {
    let Port { target, published, protocol, publish } = port;
    let mut engine =
        json!({"TargetPort": target, "Protocol": protocol.to_string(), "PublishMode": publish.to_string()});
    put(&mut engine, "PublishedPort", *published);
    engine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_word_for_survives_a_change() {
        let engine = json!({
            "Name": "web",
            "Mode": {"Replicated": {"Replicas": 1}},
            "FromTheFuture": 1,
            "TaskTemplate": {
                "ForceUpdate": 7,
                "Networks": [{"Target": "n", "Aliases": ["web"], "DriverOpts": {"a": "b"}}],
                "Runtime": "container",
                "ContainerSpec": {
                    "Image": "nginx",
                    "Mounts": [
                        {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"NonRecursive": true}},
                        {"Type": "cluster", "Source": "c", "Target": "/c"},
                    ],
                    "Privileges": {"SELinuxContext": {"Disable": true}},
                    "OomScoreAdj": 5,
                    "Healthcheck": {"Test": ["CMD", "true"], "StartInterval": 9},
                },
                "Resources": {"Reservations": {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}]}},
                "Placement": {"Platforms": [{"OS": "linux"}]},
            },
        });
        let mut spec = from_engine(&engine, &Ids::default()).unwrap();
        spec.mode = ServiceMode::Replicated(2);
        let after = to_engine(&spec, engine.clone(), &Ids::default());
        for place in [
            "/FromTheFuture",
            "/TaskTemplate/ForceUpdate",
            "/TaskTemplate/Networks",
            "/TaskTemplate/Runtime",
            "/TaskTemplate/ContainerSpec/Mounts",
            "/TaskTemplate/ContainerSpec/Privileges",
            "/TaskTemplate/ContainerSpec/OomScoreAdj",
            "/TaskTemplate/ContainerSpec/Healthcheck/StartInterval",
            "/TaskTemplate/Resources/Reservations/GenericResources",
            "/TaskTemplate/Placement/Platforms",
        ] {
            assert_eq!(after.pointer(place), engine.pointer(place), "{place}");
        }
        assert_eq!(after["Mode"]["Replicated"]["Replicas"], 2);
        assert_eq!(from_engine(&after, &Ids::default()).unwrap(), spec);
    }

    #[test]
    fn an_answer_of_any_shape_is_refused_or_read_and_never_a_panic() {
        for engine in [
            json!(null),
            json!([1]),
            json!({"Name": 1, "TaskTemplate": {"ContainerSpec": {}}, "Mode": {"Global": {}}}),
            json!({"Name": "a", "TaskTemplate": {"ContainerSpec": "x"}, "Mode": []}),
        ] {
            assert!(from_engine(&engine, &Ids::default()).is_err(), "{engine}");
        }
        let odd = json!({"Name": "a", "TaskTemplate": {"ContainerSpec": {"Mounts": 1}, "Resources": 3}, "Mode": {"Global": {}}});
        let spec = from_engine(&odd, &Ids::default()).unwrap();
        assert_eq!(from_engine(&to_engine(&spec, odd, &Ids::default()), &Ids::default()).unwrap(), spec);
    }
}
