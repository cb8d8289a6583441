//! One service of a file.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::{Attachment, ContainerSpec, HealthCheck, LogDriver, ServiceSpec};
use crate::stack::{IMAGE_LABEL, Stack};

use super::section::{Field, Section};
use super::top::Names;
use super::{Reader, words};

/// What exists in Compose and not in a Swarm, with what to do instead.
const UNSUPPORTED: [(&str, &str); 38] = [
    ("build", "Build the image, push it to a registry that all nodes reach, and name it in `image`"),
    ("blkio_config", "Leave it out"),
    ("cgroup", "Leave it out"),
    ("cgroup_parent", "Leave it out"),
    ("container_name", "Leave it out: other services find this one by its service name"),
    ("cpu_count", LIMITS),
    ("cpu_percent", LIMITS),
    ("cpu_period", LIMITS),
    ("cpu_quota", LIMITS),
    ("cpu_rt_period", LIMITS),
    ("cpu_rt_runtime", LIMITS),
    ("cpu_shares", LIMITS),
    ("cpus", LIMITS),
    ("cpuset", LIMITS),
    ("credential_spec", "Leave it out: it is about Windows"),
    ("device_cgroup_rules", DEVICES),
    ("devices", DEVICES),
    ("domainname", "Write the full name into `hostname`"),
    ("extends", "Write the keys out, or merge them with `<<`"),
    ("external_links", NETWORK),
    ("ipc", "Leave it out"),
    ("isolation", "Leave it out: it is about Windows"),
    ("links", NETWORK),
    ("mac_address", "Leave it out"),
    ("mem_limit", LIMITS),
    ("mem_reservation", "Use `deploy.resources.reservations.memory`"),
    ("mem_swappiness", "Leave it out"),
    ("memswap_limit", LIMITS),
    ("network_mode", "For the node's own network, attach it to an external network named `host`"),
    ("oom_score_adj", "Leave it out"),
    ("pid", "Leave it out"),
    ("platform", "Use `deploy.placement.constraints: [node.platform.arch==x86_64]`"),
    ("privileged", "Give it just what it needs, with `cap_add`"),
    ("profiles", "Put what is not always run into a file of its own"),
    ("pull_policy", "Leave it out: each node pulls what it does not have"),
    ("runtime", "Set the default runtime of the nodes that run it"),
    ("security_opt", "Leave it out"),
    ("shm_size", "Mount a `tmpfs` of that size at /dev/shm"),
];
const LIMITS: &str = "Use `deploy.resources.limits`";
const DEVICES: &str = "Bind-mount the device's file with `volumes`, and add the capabilities that it needs";
const NETWORK: &str = "Leave it out: services on one network find each other by name";

/// More of the same, which are rarer still.
const ALSO_UNSUPPORTED: [(&str, &str); 6] = [
    ("scale", "Use `deploy.replicas`"),
    ("storage_opt", "Leave it out"),
    ("userns_mode", "Leave it out"),
    ("uts", "Leave it out"),
    ("volumes_from", "Mount the same named volume in both services"),
    ("attach", "Leave it out"),
];

impl Reader<'_> {
    pub(super) fn service(
        &mut self,
        name: &str,
        field: &Field<'_>,
        names: &mut Names,
        services: &BTreeSet<String>,
        stack: &mut Stack,
    ) -> Option<()> {
        let mut section = self.section(field)?;
        let Some(image) = section.read(self, "image", Self::text).filter(|image| !image.is_empty()) else {
            self.error_with(field, "has no image", "Add `image:`; Swarm runs images, it does not build them");
            return None;
        };
        let mut service = ServiceSpec::new(names.full(name), &image);
        service.labels = names.owned();
        service.labels.insert(IMAGE_LABEL.to_owned(), image);
        service.networks = match section.take("networks") {
            Some(networks) => self.attachments(&networks, name, names)?,
            None => BTreeMap::from([(names.default_network(stack), attachment(name))]),
        };
        service.ports = section.read(self, "ports", Self::ports).unwrap_or_default();
        service.restart = section.read(self, "restart", Self::restart).unwrap_or_default();
        service.log = section.read(self, "logging", Self::logging);
        self.container(&mut section, names, &mut service.container);
        if let Some(deploy) = section.take("deploy") {
            self.deploy(&deploy, &mut service);
        }
        let after = section.take("depends_on").map(|field| self.depends_on(&field, services, names));
        // Services on one network reach every port of each other, so this says nothing.
        section.take("expose");
        section.finish(self, &[&UNSUPPORTED[..], &ALSO_UNSUPPORTED[..]].concat());
        stack.after.insert(service.name.clone(), after.unwrap_or_default());
        stack.services.insert(service.name.clone(), service);
        Some(())
    }

    fn container(&mut self, section: &mut Section<'_>, names: &Names, container: &mut ContainerSpec) {
        container.command = section.read(self, "command", Self::command).unwrap_or_default();
        container.entrypoint = section.read(self, "entrypoint", Self::command).unwrap_or_default();
        container.env = self.environment(section);
        container.labels = names.owned();
        container.labels.extend(section.read(self, "labels", Self::labels).unwrap_or_default());
        container.hostname = section.read(self, "hostname", Self::text);
        container.workdir = section.read(self, "working_dir", Self::text);
        container.user = section.read(self, "user", Self::text);
        container.groups = section.read(self, "group_add", Self::set).unwrap_or_default();
        container.mounts =
            section.take("volumes").and_then(|field| self.mounts(&field, names)).unwrap_or_default();
        if let Some(tmpfs) = section.take("tmpfs") {
            self.tmpfs(&tmpfs, &mut container.mounts);
        }
        let secrets = section.take("secrets");
        container.secrets =
            secrets.and_then(|it| self.references(&it, &names.secrets, "")).unwrap_or_default();
        let configs = section.take("configs");
        container.configs =
            configs.and_then(|it| self.references(&it, &names.configs, "/")).unwrap_or_default();
        container.stop_signal = section.read(self, "stop_signal", Self::text);
        container.stop_grace = section.read(self, "stop_grace_period", Self::duration);
        container.health = section.read(self, "healthcheck", Self::health);
        container.hosts = section.read(self, "extra_hosts", Self::hosts).unwrap_or_default();
        container.dns.servers = section.read(self, "dns", Self::texts).unwrap_or_default();
        container.dns.search = section.read(self, "dns_search", Self::texts).unwrap_or_default();
        container.dns.options = section.read(self, "dns_opt", Self::texts).unwrap_or_default();
        container.init = section.read(self, "init", Self::boolean);
        container.read_only = section.read(self, "read_only", Self::boolean).unwrap_or(false);
        container.tty = section.read(self, "tty", Self::boolean).unwrap_or(false);
        container.stdin = section.read(self, "stdin_open", Self::boolean).unwrap_or(false);
        container.cap_add = section.read(self, "cap_add", Self::capabilities).unwrap_or_default();
        container.cap_drop = section.read(self, "cap_drop", Self::capabilities).unwrap_or_default();
        container.sysctls = section.read(self, "sysctls", Self::labels).unwrap_or_default();
        container.ulimits = section.read(self, "ulimits", Self::ulimits).unwrap_or_default();
    }

    /// A command line, or its words.
    fn command(&mut self, field: &Field<'_>) -> Option<Vec<String>> {
        if field.is_list() {
            return self.texts(field);
        }
        let line = self.text(field)?;
        match words::split(&line) {
            Ok(words) => Some(words),
            Err(why) => {
                self.error_with(field, format!("cannot be split into words: {why}"), "Write it as a list");
                None
            }
        }
    }

    fn environment(&mut self, section: &mut Section<'_>) -> BTreeMap<String, Option<String>> {
        let mut env = BTreeMap::new();
        if let Some(files) = section.take("env_file") {
            for file in self.list(&files) {
                env.extend(self.env_file(&file).unwrap_or_default());
            }
        }
        env.extend(section.read(self, "environment", Self::pairs).unwrap_or_default());
        for (name, value) in &mut env {
            if value.is_none() {
                *value = self.surroundings.variable(name);
            }
        }
        env
    }

    /// Lines of `NAME=value`, as they are: neither quotes nor variables mean anything in them.
    fn env_file(&mut self, field: &Field<'_>) -> Option<BTreeMap<String, Option<String>>> {
        let (path, required) = if field.is_map() {
            let mut section = self.section(field)?;
            let path = section.read(self, "path", Self::text);
            let required = section.read(self, "required", Self::boolean);
            section.finish(self, &[("format", "write plain NAME=value lines")]);
            (path?, required.unwrap_or(true))
        } else {
            (self.text(field)?, true)
        };
        let data = match self.surroundings.file(&path) {
            Ok(data) => data,
            Err(_) if !required => return None,
            Err(why) => {
                self.error(field, format!("{path} cannot be read: {why}"));
                return None;
            }
        };
        let Ok(text) = String::from_utf8(data) else {
            self.error(field, format!("{path} is not UTF-8"));
            return None;
        };
        let mut pairs = BTreeMap::new();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) =
                line.split_once('=').map_or((line, None), |(name, value)| (name, Some(value)));
            if name.is_empty() || name.contains(char::is_whitespace) {
                self.error(field, format!("{path}, line {}: {name:?} is no variable's name", number + 1));
                continue;
            }
            pairs.insert(name.to_owned(), value.map(str::to_owned));
        }
        Some(pairs)
    }

    fn attachments(
        &mut self,
        field: &Field<'_>,
        service: &str,
        names: &Names,
    ) -> Option<BTreeMap<String, Attachment>> {
        let wanted: Vec<(String, Option<Field<'_>>)> = if field.is_map() {
            self.entries(field).into_iter().map(|(name, field)| (name, Some(field))).collect()
        } else {
            self.texts(field)?.into_iter().map(|name| (name, None)).collect()
        };
        let mut attachments = BTreeMap::new();
        for (name, options) in wanted {
            let Some(network) = names.networks.get(&name) else {
                let remedy = "Add it to `networks:` at the end of the file";
                self.error_with(
                    options.as_ref().unwrap_or(field),
                    format!("there is no network {name:?}"),
                    remedy,
                );
                continue;
            };
            let mut attachment = attachment(service);
            if let Some(options) = options.filter(|options| !options.is_null())
                && let Some(mut section) = self.section(&options)
            {
                attachment.aliases.extend(section.read(self, "aliases", Self::set).unwrap_or_default());
                section.finish(self, &FIXED_ADDRESSES);
            }
            attachments.insert(network.clone(), attachment);
        }
        Some(attachments)
    }

    fn depends_on(
        &mut self,
        field: &Field<'_>,
        services: &BTreeSet<String>,
        names: &Names,
    ) -> BTreeSet<String> {
        let wanted: Vec<String> = if field.is_map() {
            self.entries(field).into_iter().map(|(name, _)| name).collect()
        } else {
            self.texts(field).unwrap_or_default()
        };
        let mut after = BTreeSet::new();
        for name in wanted {
            if services.contains(&name) {
                after.insert(names.full(&name));
            } else {
                self.error(field, format!("there is no service {name:?}"));
            }
        }
        after
    }

    fn health(&mut self, field: &Field<'_>) -> Option<HealthCheck> {
        let mut section = self.section(field)?;
        let test = section.take("test").and_then(|test| {
            if test.is_list() {
                self.texts(&test)
            } else {
                self.text(&test).map(|line| vec!["CMD-SHELL".to_owned(), line])
            }
        });
        let is_off = section.read(self, "disable", Self::boolean).unwrap_or(false);
        let health = HealthCheck {
            test: if is_off { vec!["NONE".to_owned()] } else { test.unwrap_or_default() },
            interval: section.read(self, "interval", Self::duration),
            timeout: section.read(self, "timeout", Self::duration),
            retries: section.read(self, "retries", Self::whole).unwrap_or(0),
            start_period: section.read(self, "start_period", Self::duration),
        };
        section.finish(
            self,
            &[("start_interval", "engines before 25 do not know it; use a shorter `interval`")],
        );
        if health.test.first().is_some_and(|first| !["NONE", "CMD", "CMD-SHELL"].contains(&first.as_str())) {
            self.error_with(
                field,
                "`test` must begin with CMD, CMD-SHELL or NONE",
                "Or write it as one line",
            );
            return None;
        }
        Some(health)
    }

    fn logging(&mut self, field: &Field<'_>) -> Option<LogDriver> {
        let mut section = self.section(field)?;
        let name = section.read(self, "driver", Self::text);
        let options = section.read(self, "options", Self::labels).unwrap_or_default();
        section.finish(self, &[]);
        Some(LogDriver { name: name.unwrap_or_default(), options })
    }

    /// `name:address`, `name=address`, or a mapping.
    fn hosts(&mut self, field: &Field<'_>) -> Option<BTreeSet<(String, String)>> {
        if !field.is_list() {
            let entries = self.entries(field);
            let pair = |(name, field): (String, Field<'_>)| self.text(&field).map(|address| (name, address));
            return Some(entries.into_iter().filter_map(pair).collect());
        }
        let mut hosts = BTreeSet::new();
        for item in self.list(field) {
            let Some(text) = self.text(&item) else { continue };
            match text.split_once(['=', ':']) {
                Some((name, address)) if !name.is_empty() && !address.is_empty() => {
                    hosts.insert((name.trim().to_owned(), address.trim().to_owned()));
                }
                _ => self.error(&item, format!("must be like name:192.0.2.1, not {text:?}")),
            }
        }
        Some(hosts)
    }

    /// In capitals and with their prefix, as the engine keeps them.
    fn capabilities(&mut self, field: &Field<'_>) -> Option<BTreeSet<String>> {
        let full = |name: String| match name.to_ascii_uppercase() {
            name if name == "ALL" || name.starts_with("CAP_") => name,
            name => format!("CAP_{name}"),
        };
        Some(self.texts(field)?.into_iter().map(full).collect())
    }

    fn ulimits(&mut self, field: &Field<'_>) -> Option<BTreeMap<String, (i64, i64)>> {
        let number = |reader: &mut Self, field: &Field<'_>| {
            reader.parsed(field, "a whole number, -1 for no limit", |text| {
                text.parse::<i64>().ok().filter(|n| *n >= -1)
            })
        };
        let mut limits = BTreeMap::new();
        for (name, field) in self.entries(field) {
            let limit = if field.is_map() {
                let Some(mut section) = self.section(&field) else { continue };
                let soft = section.read(self, "soft", number);
                let hard = section.read(self, "hard", number);
                section.finish(self, &[]);
                soft.zip(hard)
            } else {
                number(self, &field).map(|limit| (limit, limit))
            };
            match limit {
                Some(limit) => drop(limits.insert(name, limit)),
                None => self.error(&field, "needs one number, or `soft` and `hard`"),
            }
        }
        Some(limits)
    }
}

const FIXED_ADDRESSES: [(&str, &str); 7] = [
    ("ipv4_address", "Swarm chooses the addresses of tasks; use names"),
    ("ipv6_address", "Swarm chooses the addresses of tasks; use names"),
    ("link_local_ips", "Leave it out"),
    ("mac_address", "Leave it out"),
    ("priority", "Leave it out"),
    ("driver_opts", "Leave it out"),
    ("gw_priority", "Leave it out"),
];

/// Found by the name of the service in the file, too.
fn attachment(service: &str) -> Attachment {
    Attachment { aliases: BTreeSet::from([service.to_owned()]) }
}
