//! What a task runs.

use serde_json::{Value, json};

use super::super::json::{count, list, map, nanos, part, put, rebuilt, sorted, text, texts, time};
use super::Ids;
use crate::spec::{ContainerSpec, Dns, FileReference, HealthCheck, Mount, MountSource};

/// Writes into the engine's form.
pub(super) fn write(engine: &mut Value, container: &ContainerSpec, ids: &Ids) {
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
    let variable = |(name, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    };
    put(engine, "Image", Some(image.as_str()));
    put(engine, "Command", Some(json!(entrypoint)));
    put(engine, "Args", Some(json!(command)));
    put(engine, "Env", Some(env.iter().map(variable).collect::<Value>()));
    put(engine, "Labels", Some(json!(labels)));
    put(engine, "Hostname", hostname.clone());
    put(engine, "Dir", workdir.clone());
    put(engine, "User", user.clone());
    put(engine, "Groups", Some(sorted(groups)));
    let made = mounts.iter().map(|it| ((it.0.clone(), it.1.clone()), mount_to(it)));
    // Also what this crate has no word for.
    let others = list(&engine["Mounts"]).filter(|it| mount_from(it).is_none()).cloned();
    let made = rebuilt(&engine["Mounts"], mount_from, made);
    put(engine, "Mounts", Some(list(&made).cloned().chain(others).collect::<Value>()));
    for (kind, files, ids) in [("Secret", secrets, &ids.secrets), ("Config", configs, &ids.configs)] {
        let files = files.iter().map(|it| file_to(it, kind, ids.get(&it.1.source)));
        put(engine, &format!("{kind}s"), Some(files.collect::<Value>()));
    }
    put(engine, "StopSignal", stop_signal.clone());
    put(engine, "StopGracePeriod", stop_grace.map(nanos));
    match health {
        Some(health) => health_to(part(engine, "Healthcheck"), health),
        None => put(engine, "Healthcheck", None::<Value>),
    }
    let hosts = hosts.iter().map(|(name, address)| format!("{address} {name}"));
    put(engine, "Hosts", Some(hosts.collect::<Value>()));
    let dns = json!({"Nameservers": servers, "Search": search, "Options": options});
    put(engine, "DNSConfig", (container.dns != Dns::default()).then_some(dns));
    put(engine, "Init", *init);
    put(engine, "ReadOnly", Some(*read_only));
    put(engine, "TTY", Some(*tty));
    put(engine, "OpenStdin", Some(*stdin));
    put(engine, "CapabilityAdd", Some(sorted(cap_add)));
    put(engine, "CapabilityDrop", Some(sorted(cap_drop)));
    put(engine, "Sysctls", Some(json!(sysctls)));
    let limit =
        |(name, (soft, hard)): (&String, &(i64, i64))| json!({"Name": name, "Soft": soft, "Hard": hard});
    put(engine, "Ulimits", Some(ulimits.iter().map(limit).collect::<Value>()));
}

/// Reads the engine's form.
pub(super) fn read(engine: &Value) -> ContainerSpec {
    let (dns, health) = (&engine["DNSConfig"], &engine["Healthcheck"]);
    let limit =
        |limit: &Value| Some((text(&limit["Name"])?, (limit["Soft"].as_i64()?, limit["Hard"].as_i64()?)));
    ContainerSpec {
        image: text(&engine["Image"]).unwrap_or_default(),
        entrypoint: texts(&engine["Command"]),
        command: texts(&engine["Args"]),
        env: texts::<Vec<_>>(&engine["Env"]).into_iter().map(variable_from).collect(),
        labels: map(&engine["Labels"]),
        hostname: text(&engine["Hostname"]),
        workdir: text(&engine["Dir"]),
        user: text(&engine["User"]),
        groups: texts(&engine["Groups"]),
        mounts: list(&engine["Mounts"]).filter_map(mount_from).collect(),
        secrets: list(&engine["Secrets"]).filter_map(|file| file_from(file, "SecretName")).collect(),
        configs: list(&engine["Configs"]).filter_map(|file| file_from(file, "ConfigName")).collect(),
        stop_signal: text(&engine["StopSignal"]),
        stop_grace: time(&engine["StopGracePeriod"]),
        health: health.is_object().then(|| health_from(health)),
        hosts: texts::<Vec<_>>(&engine["Hosts"]).iter().flat_map(|line| hosts_from(line)).collect(),
        dns: Dns {
            servers: texts(&dns["Nameservers"]),
            search: texts(&dns["Search"]),
            options: texts(&dns["Options"]),
        },
        init: engine["Init"].as_bool(),
        read_only: engine["ReadOnly"] == true,
        tty: engine["TTY"] == true,
        stdin: engine["OpenStdin"] == true,
        cap_add: texts(&engine["CapabilityAdd"]),
        cap_drop: texts(&engine["CapabilityDrop"]),
        sysctls: map(&engine["Sysctls"]),
        ulimits: list(&engine["Ulimits"]).filter_map(limit).collect(),
    }
}

fn variable_from(line: String) -> (String, Option<String>) {
    match line.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (line, None),
    }
}

/// A line of `/etc/hosts`: an address and its names.
fn hosts_from(line: &str) -> Vec<(String, String)> {
    let mut words = line.split_whitespace();
    let address = words.next().unwrap_or_default().to_owned();
    words.map(|name| (name.to_owned(), address.clone())).collect()
}

fn mount_to((target, mount): (&String, &Mount)) -> Value {
    let mut engine = json!({"Target": target, "ReadOnly": mount.read_only});
    match &mount.source {
        MountSource::Bind { path, propagation } => {
            put(&mut engine, "Type", Some("bind"));
            put(&mut engine, "Source", Some(path.as_str()));
            if let Some(word) = propagation {
                put(&mut engine, "BindOptions", Some(json!({"Propagation": word})));
            }
        }
        MountSource::Volume { name, driver, options, labels, no_copy } => {
            let mut volume = json!({"NoCopy": no_copy, "Labels": labels});
            if driver.is_some() || !options.is_empty() {
                let mut config = json!({"Options": options});
                put(&mut config, "Name", driver.clone());
                put(&mut volume, "DriverConfig", Some(config));
            }
            put(&mut engine, "Type", Some("volume"));
            put(&mut engine, "Source", name.clone());
            put(&mut engine, "VolumeOptions", Some(volume));
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            let mut memory = json!({});
            put(&mut memory, "SizeBytes", *size_bytes);
            put(&mut memory, "Mode", *mode);
            put(&mut engine, "Type", Some("tmpfs"));
            put(&mut engine, "TmpfsOptions", Some(memory));
        }
    }
    engine
}

/// Nothing for what Swarm does not mount into services (pipes of Windows, cluster volumes).
fn mount_from(engine: &Value) -> Option<(String, Mount)> {
    let source = match engine["Type"].as_str()? {
        "bind" => MountSource::Bind {
            path: text(&engine["Source"])?,
            propagation: text(&engine["BindOptions"]["Propagation"]),
        },
        "volume" => {
            let options = &engine["VolumeOptions"];
            let driver = &options["DriverConfig"];
            MountSource::Volume {
                name: text(&engine["Source"]),
                driver: text(&driver["Name"]).filter(|name| name != "local"),
                options: map(&driver["Options"]),
                labels: map(&options["Labels"]),
                no_copy: options["NoCopy"] == true,
            }
        }
        "tmpfs" => {
            let options = &engine["TmpfsOptions"];
            MountSource::Tmpfs {
                size_bytes: Some(count(&options["SizeBytes"])).filter(|size| *size > 0),
                mode: u32::try_from(count(&options["Mode"])).ok().filter(|mode| *mode != 0),
            }
        }
        _ => return None,
    };
    Some((text(&engine["Target"])?, Mount { source, read_only: engine["ReadOnly"] == true }))
}

fn file_to((target, reference): (&String, &FileReference), kind: &str, id: Option<&String>) -> Value {
    let FileReference { source, uid, gid, mode } = reference;
    let mut engine = json!({"File": {"Name": target, "UID": uid, "GID": gid, "Mode": mode}});
    put(&mut engine, &format!("{kind}Name"), Some(source.as_str()));
    put(&mut engine, &format!("{kind}ID"), id.cloned());
    engine
}

fn file_from(engine: &Value, name: &str) -> Option<(String, FileReference)> {
    let file = &engine["File"];
    let id = |key: &str| text(&file[key]).unwrap_or_else(|| "0".to_owned());
    let mode = file["Mode"].as_u64().and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o444);
    let reference = FileReference { source: text(&engine[name])?, uid: id("UID"), gid: id("GID"), mode };
    Some((text(&file["Name"])?, reference))
}

fn health_to(engine: &mut Value, health: &HealthCheck) {
    let HealthCheck { test, interval, timeout, retries, start_period } = health;
    put(engine, "Test", Some(json!(test)));
    put(engine, "Interval", interval.map(nanos));
    put(engine, "Timeout", timeout.map(nanos));
    put(engine, "Retries", Some(*retries));
    put(engine, "StartPeriod", start_period.map(nanos));
}

fn health_from(engine: &Value) -> HealthCheck {
    let time = |key: &str| time(&engine[key]).filter(|time| !time.is_zero());
    HealthCheck {
        test: texts(&engine["Test"]),
        interval: time("Interval"),
        timeout: time("Timeout"),
        retries: count(&engine["Retries"]),
        start_period: time("StartPeriod"),
    }
}
