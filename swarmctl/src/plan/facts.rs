//! A specification as lines, so that a person sees what differs between two.
//!
//! Every structure is taken apart by name: a field that is added cannot be forgotten here.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use crate::spec::{
    Amounts, ContainerSpec, Dns, EndpointMode, FileReference, HealthCheck, LogDriver, Mount, MountSource,
    OnFailure, Order, Placement, Resources, RestartCondition, RestartPolicy, Rollout, ServiceMode,
    ServiceSpec,
};

/// What is worth saying about a service, by key. What is as Docker would assume is left out.
pub(super) type Facts = BTreeMap<String, String>;

/// Words in the name of a variable or option whose value is not for everybody's eyes.
const SECRET_WORDS: [&str; 6] = ["pass", "secret", "token", "key", "credential", "auth"];

/// Whether a fact may hold a secret, so that only its key is shown.
pub(super) fn is_secret(key: &str) -> bool {
    let lower = key.to_lowercase();
    lower.strip_prefix("env ").is_some_and(|name| SECRET_WORDS.iter().any(|word| name.contains(word)))
}

/// The facts of a service.
pub(super) fn of_service(service: &ServiceSpec) -> Facts {
    let ServiceSpec {
        name: _,
        labels,
        container,
        resources: Resources { limits, reservations },
        restart,
        placement: Placement { constraints, spread, max_per_node },
        networks,
        log,
        mode,
        update,
        rollback,
        endpoint,
        ports,
    } = service;
    let mut facts = Facts::new();
    of_container(&mut facts, container);
    for (key, value) in labels {
        facts.insert(format!("label {key}"), value.clone());
    }
    of_amounts(&mut facts, "limit", limits);
    of_amounts(&mut facts, "reservation", reservations);
    of_restart(&mut facts, restart);
    list(&mut facts, "constraint", constraints);
    unless(&mut facts, "spread over", spread.join(", "), spread.is_empty());
    unless(&mut facts, "replicas per node at most", max_per_node, *max_per_node == 0);
    for (network, attachment) in networks {
        let aliases: Vec<_> = attachment.aliases.iter().map(String::as_str).collect();
        facts.insert(format!("network {network}"), format!("as {}", aliases.join(", ")));
    }
    if let Some(LogDriver { name, options }) = log {
        facts.insert("log driver".to_owned(), format!("{name}{}", pairs(options)));
    }
    let mode = match mode {
        ServiceMode::Replicated(replicas) => replicas.to_string(),
        ServiceMode::Global => "one on each node".to_owned(),
        ServiceMode::ReplicatedJob { completions, concurrent } => {
            format!("{completions} that end, {concurrent} at once")
        }
        ServiceMode::GlobalJob => "one that ends on each node".to_owned(),
    };
    facts.insert("replicas".to_owned(), mode);
    of_rollout(&mut facts, "update", update);
    of_rollout(&mut facts, "rollback", rollback);
    unless(&mut facts, "endpoint mode", "dnsrr", *endpoint == EndpointMode::Vip);
    for port in ports {
        facts.insert(format!("port {port}"), String::new());
    }
    facts
}

fn of_container(facts: &mut Facts, container: &ContainerSpec) {
    let ContainerSpec {
        image,
        entrypoint,
        command,
        env,
        labels,
        hostname,
        workdir,
        user,
        groups,
        mounts,
        secrets,
        configs,
        stop_signal,
        stop_grace,
        health,
        hosts,
        dns: Dns { servers, search, options },
        init,
        read_only,
        tty,
        stdin,
        cap_add,
        cap_drop,
        sysctls,
        ulimits,
    } = container;
    facts.insert("image".to_owned(), image.clone());
    unless(facts, "entrypoint", words(entrypoint), entrypoint.is_empty());
    unless(facts, "command", words(command), command.is_empty());
    for (name, value) in env {
        facts.insert(format!("env {name}"), value.clone().unwrap_or_else(|| "unset".to_owned()));
    }
    for (key, value) in labels {
        facts.insert(format!("container label {key}"), value.clone());
    }
    for (key, value) in
        [("hostname", hostname), ("working directory", workdir), ("user", user), ("stop signal", stop_signal)]
    {
        facts.extend(value.as_ref().map(|value| (key.to_owned(), value.clone())));
    }
    list(facts, "group", groups);
    for (target, mount) in mounts {
        facts.insert(format!("mount {target}"), of_mount(mount));
    }
    of_files(facts, "secret", secrets);
    of_files(facts, "config", configs);
    facts.extend(stop_grace.map(|grace| ("stop grace period".to_owned(), time(grace))));
    health.iter().for_each(|health| of_health(facts, health));
    for (name, address) in hosts {
        facts.insert(format!("host {name} at {address}"), String::new());
    }
    for (key, values) in
        [("name servers", servers), ("search domains", search), ("resolver options", options)]
    {
        unless(facts, key, values.join(", "), values.is_empty());
    }
    facts.extend(init.map(|init| ("init".to_owned(), yes(init))));
    for (key, value) in [("read-only", read_only), ("terminal", tty), ("standard input", stdin)] {
        unless(facts, key, yes(*value), !value);
    }
    list(facts, "capability", cap_add);
    list(facts, "no capability", cap_drop);
    for (key, value) in sysctls {
        facts.insert(format!("sysctl {key}"), value.clone());
    }
    for (key, (soft, hard)) in ulimits {
        facts.insert(format!("ulimit {key}"), format!("{soft}:{hard}"));
    }
}

fn of_files(facts: &mut Facts, kind: &str, files: &BTreeMap<String, FileReference>) {
    for (target, FileReference { source, uid, gid, mode }) in files {
        facts.insert(format!("{kind} {target}"), format!("{source}, owner {uid}:{gid}, mode {mode:04o}"));
    }
}

fn of_mount(mount: &Mount) -> String {
    let Mount { source, read_only } = mount;
    let source = match source {
        MountSource::Bind { path, propagation } => match propagation {
            Some(propagation) => format!("{path} of the node, {propagation}"),
            None => format!("{path} of the node"),
        },
        MountSource::Volume { name, driver, options, labels, no_copy } => {
            let name = name.as_deref().unwrap_or("a nameless volume");
            let driver = driver.as_ref().map_or(String::new(), |driver| format!(" of {driver}"));
            let no_copy = if *no_copy { ", begins empty" } else { "" };
            format!("{name}{driver}{}{no_copy}{}", pairs(options), pairs(labels))
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            let size = size_bytes.map_or(String::new(), |size| format!(", {size} bytes"));
            let mode = mode.map_or(String::new(), |mode| format!(", mode {mode:04o}"));
            format!("memory{size}{mode}")
        }
    };
    if *read_only { format!("{source}, read-only") } else { source }
}

fn of_health(facts: &mut Facts, health: &HealthCheck) {
    let HealthCheck { test, interval, timeout, retries, start_period } = health;
    unless(facts, "health check", words(test), test.is_empty());
    for (key, value) in [
        ("health check every", interval),
        ("health check takes at most", timeout),
        ("health check begins after", start_period),
    ] {
        facts.extend(value.map(|value| (key.to_owned(), time(value))));
    }
    unless(facts, "health check retries", retries, *retries == 0);
}

fn of_amounts(facts: &mut Facts, kind: &str, amounts: &Amounts) {
    let Amounts { nano_cpus, memory_bytes, pids } = amounts;
    unless(facts, &format!("{kind} cores"), *nano_cpus as f64 / 1e9, *nano_cpus == 0);
    unless(facts, &format!("{kind} memory"), format!("{memory_bytes} bytes"), *memory_bytes == 0);
    unless(facts, &format!("{kind} processes"), pids, *pids == 0);
}

fn of_restart(facts: &mut Facts, restart: &RestartPolicy) {
    let RestartPolicy { condition, delay, attempts, window } = restart;
    let usual = RestartPolicy::default();
    let condition = match condition {
        RestartCondition::None => "never",
        RestartCondition::OnFailure => "on failure",
        RestartCondition::Any => "always",
    };
    unless(facts, "restart", condition, condition == "always");
    unless(facts, "restart delay", time(*delay), *delay == usual.delay);
    unless(facts, "restart attempts", attempts, *attempts == 0);
    unless(facts, "restart window", time(*window), window.is_zero());
}

fn of_rollout(facts: &mut Facts, kind: &str, rollout: &Rollout) {
    let Rollout { parallelism, delay, on_failure, monitor, failures_max_ppm, order } = rollout;
    let usual = Rollout::default();
    unless(facts, &format!("{kind} parallelism"), parallelism, *parallelism == usual.parallelism);
    unless(facts, &format!("{kind} delay"), time(*delay), delay.is_zero());
    let action = match on_failure {
        OnFailure::Pause => "pause",
        OnFailure::Continue => "continue",
        OnFailure::Rollback => "roll back",
    };
    unless(facts, &format!("{kind} on failure"), action, *on_failure == usual.on_failure);
    unless(facts, &format!("{kind} monitor"), time(*monitor), *monitor == usual.monitor);
    let share = f64::from(*failures_max_ppm) / 1e6;
    unless(facts, &format!("{kind} failures at most"), share, *failures_max_ppm == 0);
    let order = match order {
        Order::StopFirst => "stop first",
        Order::StartFirst => "start first",
    };
    unless(facts, &format!("{kind} order"), order, order == "stop first");
}

fn unless(facts: &mut Facts, key: &str, value: impl ToString, usual: bool) {
    if !usual {
        facts.insert(key.to_owned(), value.to_string());
    }
}

fn list<'a>(facts: &mut Facts, key: &str, values: impl IntoIterator<Item = &'a String>) {
    facts.extend(values.into_iter().map(|value| (format!("{key} {value}"), String::new())));
}

fn pairs(pairs: &BTreeMap<String, String>) -> String {
    pairs.iter().map(|(key, value)| format!(", {key}={value}")).collect()
}

fn words(words: &[impl Debug]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ")
}

fn time(time: Duration) -> String {
    format!("{time:?}")
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
