//! The flags of `service create` and `service update`: those of `docker service`, read into a specification.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use hybrid_examples::settings;
use swarmctl::cluster::{Port, Protocol, Publish};
use swarmctl::spec::{
    Attachment, EndpointMode, FileReference, Mount, MountSource, Order, ServiceMode, ServiceSpec,
};

use crate::pair;

/// What a service is given.
#[derive(Args)]
pub struct Flags {
    /// How many tasks it has [default: 1]
    #[arg(long)]
    replicas: Option<u64>,
    /// A variable of its environment; can be given again
    #[arg(long, short, visible_alias = "env-add", value_parser = pair, value_name = "KEY=VALUE")]
    env: Vec<(String, String)>,
    /// A label of the service, which proxies go by; can be given again
    #[arg(long, short, visible_alias = "label-add", value_parser = pair, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
    /// A label of its containers; can be given again
    #[arg(long, visible_alias = "container-label-add", value_parser = pair, value_name = "KEY=VALUE")]
    container_label: Vec<(String, String)>,
    /// What a node has to be, such as node.labels.location==home; can be given again
    #[arg(long, visible_alias = "constraint-add", value_name = "CONSTRAINT")]
    constraint: Vec<String>,
    /// A network that it is attached to; can be given again
    #[arg(long, visible_alias = "network-add", value_name = "NETWORK")]
    network: Vec<String>,
    /// A port: PUBLISHED:TARGET[/udp], or mode=host,published=PORT,target=PORT,protocol=udp; can be given again
    #[arg(long, short, visible_alias = "publish-add", value_parser = port, value_name = "PORT")]
    publish: Vec<Port>,
    /// Something that is mounted, such as type=bind,source=/a,target=/b,readonly or
    /// type=volume,source=NAME,target=/b,volume-driver=DRIVER,volume-opt=KEY=VALUE; can be given again
    #[arg(long, visible_alias = "mount-add", value_parser = mount, value_name = "MOUNT")]
    mount: Vec<(String, Mount)>,
    /// A secret that its tasks can read below /run/secrets; can be given again
    #[arg(long, visible_alias = "secret-add", value_name = "SECRET")]
    secret: Vec<String>,
    /// A config that its tasks can read, at /NAME or at a path of its own; can be given again
    #[arg(long, visible_alias = "config-add", value_name = "CONFIG[:PATH]")]
    config: Vec<String>,
    /// The most memory that a task may use, such as 64m
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    limit_memory: Option<i64>,
    /// The most cores that a task may use, such as 0.5
    #[arg(long, value_parser = cores, value_name = "CORES")]
    limit_cpu: Option<i64>,
    /// The memory that a node must have left for a task
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    reserve_memory: Option<i64>,
    /// The cores that a node must have left for a task
    #[arg(long, value_parser = cores, value_name = "CORES")]
    reserve_cpu: Option<i64>,
    /// How it is found: vip (one address) or dnsrr (those of its tasks)
    #[arg(long, value_parser = endpoint_mode, value_name = "MODE")]
    endpoint_mode: Option<EndpointMode>,
    /// Which of two tasks is there first while it changes: stop-first or start-first
    #[arg(long, value_parser = order, value_name = "ORDER")]
    update_order: Option<Order>,
    /// How many tasks change at once; 0 is all
    #[arg(long, value_name = "COUNT")]
    update_parallelism: Option<u64>,
    /// How long a task may take to end before it is killed
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    stop_grace_period: Option<Duration>,
}

/// What a service is given, and what it loses.
#[derive(Args)]
pub struct Changes {
    #[command(flatten)]
    flags: Flags,
    /// A variable that it loses
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// A label that it loses
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// A label that its containers lose
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// A constraint that it loses
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_rm: Vec<String>,
    /// A network that it leaves
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// A port inside that is not published any more
    #[arg(long, value_name = "TARGET")]
    publish_rm: Vec<u16>,
    /// A path inside where nothing is mounted any more
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    /// A secret that its tasks cannot read any more
    #[arg(long, value_name = "SECRET")]
    secret_rm: Vec<String>,
    /// A config that its tasks cannot read any more
    #[arg(long, value_name = "CONFIG")]
    config_rm: Vec<String>,
}

impl Flags {
    /// Writes what is said into a specification; the rest stays.
    pub fn apply(self, spec: &mut ServiceSpec) -> Result<(), String> {
        if let Some(replicas) = self.replicas {
            match &mut spec.mode {
                ServiceMode::Replicated(count) => *count = replicas,
                _ => return Err(format!("service {} has no number of tasks of its own", spec.name)),
            }
        }
        let container = &mut spec.container;
        container.env.extend(self.env.into_iter().map(|(key, value)| (key, Some(value))));
        container.labels.extend(self.container_label);
        container.mounts.extend(self.mount);
        container.secrets.extend(self.secret.into_iter().map(|name| (name.clone(), file(name))));
        container.configs.extend(self.config.into_iter().map(|config| match config.split_once(':') {
            Some((name, path)) => (path.to_owned(), file(name.to_owned())),
            None => (format!("/{config}"), file(config)),
        }));
        container.stop_grace = self.stop_grace_period.or(container.stop_grace);
        spec.labels.extend(self.label);
        spec.placement.constraints.extend(self.constraint.iter().map(|it| constraint(it)));
        spec.networks.extend(self.network.into_iter().map(|network| (network, Attachment::default())));
        for port in self.publish {
            let is_other = |it: &Port| (it.target, it.protocol) != (port.target, port.protocol);
            spec.ports.retain(is_other);
            spec.ports.push(port);
        }
        spec.ports.sort_unstable();
        let (limits, reservations) = (&mut spec.resources.limits, &mut spec.resources.reservations);
        limits.memory_bytes = self.limit_memory.unwrap_or(limits.memory_bytes);
        limits.nano_cpus = self.limit_cpu.unwrap_or(limits.nano_cpus);
        reservations.memory_bytes = self.reserve_memory.unwrap_or(reservations.memory_bytes);
        reservations.nano_cpus = self.reserve_cpu.unwrap_or(reservations.nano_cpus);
        spec.endpoint = self.endpoint_mode.unwrap_or(spec.endpoint);
        spec.update.order = self.update_order.unwrap_or(spec.update.order);
        spec.update.parallelism = self.update_parallelism.unwrap_or(spec.update.parallelism);
        Ok(())
    }
}

impl Changes {
    /// Takes away first, then gives.
    pub fn apply(self, spec: &mut ServiceSpec) -> Result<(), String> {
        let container = &mut spec.container;
        container.env.retain(|key, _| !self.env_rm.contains(key));
        container.labels.retain(|key, _| !self.container_label_rm.contains(key));
        container.mounts.retain(|target, _| !self.mount_rm.contains(target));
        container.secrets.retain(|_, file| !self.secret_rm.contains(&file.source));
        container.configs.retain(|_, file| !self.config_rm.contains(&file.source));
        spec.labels.retain(|key, _| !self.label_rm.contains(key));
        let constraints: Vec<String> = self.constraint_rm.iter().map(|it| constraint(it)).collect();
        spec.placement.constraints.retain(|it| !constraints.contains(&constraint(it)));
        spec.networks.retain(|name, _| !self.network_rm.contains(name));
        spec.ports.retain(|port| !self.publish_rm.contains(&port.target));
        self.flags.apply(spec)
    }
}

/// One way of writing for constraints that mean the same.
fn constraint(text: &str) -> String {
    let operator = ["==", "!="].into_iter().find_map(|it| Some((it, text.split_once(it)?)));
    match operator {
        Some((operator, (key, value))) => format!("{}{operator}{}", key.trim(), value.trim()),
        None => text.trim().to_owned(),
    }
}

fn file(source: String) -> FileReference {
    FileReference { source, uid: "0".to_owned(), gid: "0".to_owned(), mode: 0o444 }
}

/// The parts of `KEY=VALUE,KEY`; a part without a value is empty.
fn parts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').map(|part| part.split_once('=').unwrap_or((part, "")))
}

fn port(text: &str) -> Result<Port, String> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{text}` is not a port")),
    };
    let mut port = Port { target: 0, published: None, protocol: Protocol::Tcp, publish: Publish::Ingress };
    if !text.contains('=') {
        let (ports, word) = text.split_once('/').unwrap_or((text, "tcp"));
        port.protocol = protocol(word)?;
        match ports.split_once(':') {
            Some((published, target)) => {
                (port.published, port.target) = (Some(number(published)?), number(target)?);
            }
            None => port.target = number(ports)?,
        }
        return Ok(port);
    }
    for (key, value) in parts(text) {
        match key {
            "mode" if value == "host" => port.publish = Publish::Host,
            "mode" if value == "ingress" => port.publish = Publish::Ingress,
            "published" => port.published = Some(number(value)?),
            "target" => port.target = number(value)?,
            "protocol" => port.protocol = protocol(value)?,
            _ => return Err(format!("`{key}={value}`: use mode=host|ingress, published, target, protocol")),
        }
    }
    if port.target == 0 { Err("it needs target=PORT".to_owned()) } else { Ok(port) }
}

fn protocol(word: &str) -> Result<Protocol, String> {
    match word {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("`{word}` is not a transport: use tcp, udp or sctp")),
    }
}

fn mount(text: &str) -> Result<(String, Mount), String> {
    let (mut kind, mut source, mut target, mut read_only) = ("volume", None, None, false);
    let (mut driver, mut options, mut no_copy) = (None, BTreeMap::new(), false);
    for (key, value) in parts(text) {
        let yes = value.is_empty() || value == "true" || value == "1";
        match key {
            "type" => kind = value,
            "source" | "src" => source = Some(value.to_owned()),
            "target" | "dst" | "destination" => target = Some(value.to_owned()),
            "readonly" | "ro" => read_only = yes,
            "volume-driver" => driver = Some(value.to_owned()).filter(|driver| driver != "local"),
            "volume-opt" => options.extend([pair(value)?]),
            "volume-nocopy" => no_copy = yes,
            _ => {
                return Err(format!(
                    "`{key}` is not known: use type, source, target, readonly, volume-driver, volume-opt"
                ));
            }
        }
    }
    // As the engine writes it back.
    let target = target.filter(|target| target.starts_with('/')).ok_or("it needs target=/PATH")?;
    let target = if target.len() > 1 { target.trim_end_matches('/').to_owned() } else { target };
    let source = match kind {
        "bind" => {
            let path = source.filter(|path| path.starts_with('/')).ok_or("a bind needs source=/PATH")?;
            MountSource::Bind { path, propagation: None }
        }
        "volume" => MountSource::Volume { name: source, driver, options, labels: BTreeMap::new(), no_copy },
        "tmpfs" => MountSource::Tmpfs { size_bytes: None, mode: None },
        _ => return Err(format!("type `{kind}` is not known: use bind, volume or tmpfs")),
    };
    Ok((target, Mount::new(source, read_only)))
}

fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is not a size: write 64m or 2g");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_end_matches(['b', 'B']) {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return Err(wrong()),
    };
    number.parse::<i64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(wrong)
}

fn cores(text: &str) -> Result<i64, String> {
    let cores = text.parse::<f64>().ok().filter(|cores| (0.0..=4096.0).contains(cores));
    cores
        .map(|cores| (cores * 1e9).round() as i64)
        .ok_or_else(|| format!("`{text}` is no number of cores: write 0.5"))
}

fn endpoint_mode(text: &str) -> Result<EndpointMode, String> {
    match text {
        "vip" => Ok(EndpointMode::Vip),
        "dnsrr" => Ok(EndpointMode::Dnsrr),
        _ => Err("use vip or dnsrr".to_owned()),
    }
}

fn order(text: &str) -> Result<Order, String> {
    match text {
        "stop-first" => Ok(Order::StopFirst),
        "start-first" => Ok(Order::StartFirst),
        _ => Err("use stop-first or start-first".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_both_ways_of_writing() {
        for (text, shown) in [
            ("443:443", "443->443/tcp (ingress)"),
            ("80", "80/tcp (ingress)"),
            ("53:5353/udp", "53->5353/udp (ingress)"),
            ("mode=host,published=8090,target=80", "8090->80/tcp (host)"),
        ] {
            assert_eq!(port(text).unwrap().to_string(), shown, "{text}");
        }
        for text in ["", "0", "70000", "80:x", "80/icmp", "mode=host", "mode=x,target=1", "target=1,size=2"] {
            assert!(port(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn mounts_are_read_as_docker_reads_them() {
        let (target, bind) = mount("type=bind,source=/sync/gogs/,target=/data/").unwrap();
        assert_eq!(target, "/data");
        let path = "/sync/gogs/".to_owned();
        assert_eq!(bind, Mount::new(MountSource::Bind { path, propagation: None }, false));
        let (_, volume) = mount("source=git,dst=/git,ro,volume-driver=synced,volume-opt=replicas=2").unwrap();
        let MountSource::Volume { name, driver, options, .. } = volume.source else { panic!("{volume:?}") };
        assert_eq!((name.as_deref(), driver.as_deref()), (Some("git"), Some("synced")));
        assert_eq!(options["replicas"], "2");
        for text in [
            "",
            "type=bind,target=/a",
            "type=bind,source=a,target=/a",
            "type=npipe,target=/a",
            "target=a",
            "size=3",
        ] {
            assert!(mount(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn constraints_and_amounts_have_one_form() {
        assert_eq!(constraint("node.labels.location == home"), "node.labels.location==home");
        assert_eq!((bytes("64m"), bytes("2gb"), bytes("7")), (Ok(64 << 20), Ok(2 << 30), Ok(7)));
        assert_eq!(cores("0.5"), Ok(500_000_000));
        for text in ["", "m", "-1", "1t", "9999999999999g"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
        assert!(cores("NaN").is_err() && cores("-1").is_err());
    }
}
