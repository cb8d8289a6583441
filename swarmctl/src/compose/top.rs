//! The top of a file: what it calls networks, volumes, secrets and configs, and what the Swarm calls them.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::{BLOB_MAX_BYTES, BlobSpec, MountSource, NetworkSpec};
use crate::stack::{STACK_LABEL, Stack};

use super::Reader;
use super::section::Field;

/// The most services of one file.
const SERVICES_MAX: usize = 1000;

/// What the file's names stand for.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) stack: String,
    pub(super) networks: BTreeMap<String, String>,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) configs: BTreeMap<String, String>,
    volumes: BTreeMap<String, MountSource>,
}

/// A file's `secrets:` or `configs:`.
#[derive(Debug, Clone, Copy)]
enum Blobs {
    Secrets,
    Configs,
}

pub(super) fn read(reader: &mut Reader<'_>, file: &Field<'_>, stack: &str) -> Option<Stack> {
    if !is_stack_name(stack) {
        let form = "letters, digits, `-` and `_`, at most 63, a letter or digit first";
        reader.error(file, format!("{stack:?} cannot be the name of a stack; it must be {form}"));
        return None;
    }
    if file.is_null() {
        reader.error_with(file, "the file says nothing", "Add `services:`");
        return None;
    }
    let mut section = reader.section(file)?;
    // It once chose between formats; all of them are read.
    section.take("version");
    section.take("name");
    let services = section.take("services");
    let [networks, volumes, secrets, configs] =
        ["networks", "volumes", "secrets", "configs"].map(|name| section.take(name));
    section.finish(reader, &[("include", "write the services of both files into one")]);

    let mut stack = Stack::new(stack);
    let mut names = Names { stack: stack.name.clone(), ..Names::default() };
    if let Some(networks) = networks {
        reader.networks(&networks, &mut names, &mut stack);
    }
    if let Some(volumes) = volumes {
        reader.volumes(&volumes, &mut names);
    }
    for (field, kind) in [(secrets, Blobs::Secrets), (configs, Blobs::Configs)] {
        if let Some(field) = field {
            reader.blobs(&field, kind, &mut names, &mut stack);
        }
    }
    let Some(services) = services else {
        reader.error_with(file, "there are no services", "Add `services:`");
        return None;
    };
    let entries = reader.named(&services);
    if entries.len() > SERVICES_MAX {
        reader.error(&services, format!("more than {SERVICES_MAX} services"));
        return None;
    }
    let short: BTreeSet<_> = entries.iter().map(|(name, _)| name.clone()).collect();
    for (name, field) in &entries {
        reader.service(name, field, &mut names, &short, &mut stack);
    }
    Some(stack)
}

impl Names {
    /// What something of the stack is called in the Swarm.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}_{name}", self.stack)
    }

    pub(super) fn owned(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(STACK_LABEL.to_owned(), self.stack.clone())])
    }

    /// A named volume as something to mount.
    pub(super) fn volume(
        &self,
        reader: &mut Reader<'_>,
        field: &Field<'_>,
        name: &str,
        without_copy: bool,
    ) -> Option<MountSource> {
        let mut source = self.volumes.get(name).cloned();
        match &mut source {
            Some(MountSource::Volume { no_copy, .. }) => *no_copy = without_copy,
            _ => reader.error_with(
                field,
                format!("there is no volume {name:?}"),
                "Add it to `volumes:` at the end of the file; a path of the node begins with `/` or `./`",
            ),
        }
        source
    }

    /// The network that services are attached to which name none.
    pub(super) fn default_network(&mut self, stack: &mut Stack) -> String {
        if let Some(name) = self.networks.get("default") {
            return name.clone();
        }
        let name = self.full("default");
        stack.networks.insert(name.clone(), overlay(name.clone(), self.owned()));
        self.networks.insert("default".to_owned(), name.clone());
        name
    }
}

impl Reader<'_> {
    fn networks(&mut self, field: &Field<'_>, names: &mut Names, stack: &mut Stack) {
        for (name, field) in self.named(field) {
            let Some((full, spec)) = self.network(&name, &field, names) else { continue };
            match spec {
                Some(spec) => drop(stack.networks.insert(full.clone(), spec)),
                None => drop(stack.external.networks.insert(full.clone())),
            }
            names.networks.insert(name, full);
        }
    }

    /// The name of a network, and what it is unless that is somebody else's business.
    fn network(
        &mut self,
        name: &str,
        field: &Field<'_>,
        names: &Names,
    ) -> Option<(String, Option<NetworkSpec>)> {
        let mut spec = overlay(names.full(name), names.owned());
        if field.is_null() {
            return Some((spec.name.clone(), Some(spec)));
        }
        let mut section = self.section(field)?;
        let own_name = section.read(self, "name", Self::name);
        let external = section.take("external").and_then(|external| self.external(&external, name));
        spec.driver = section.read(self, "driver", Self::text).unwrap_or(spec.driver);
        spec.options = section.read(self, "driver_opts", Self::labels).unwrap_or_default();
        spec.labels.extend(section.read(self, "labels", Self::labels).unwrap_or_default());
        spec.attachable = section.read(self, "attachable", Self::boolean).unwrap_or(false);
        spec.internal = section.read(self, "internal", Self::boolean).unwrap_or(false);
        spec.subnets = section.take("ipam").and_then(|ipam| self.subnets(&ipam)).unwrap_or_default();
        section.finish(
            self,
            &[("enable_ipv6", "overlay networks of a Swarm are IPv4"), ("enable_ipv4", "leave it out")],
        );
        match external {
            Some(external) => Some((own_name.unwrap_or(external), None)),
            None => {
                spec.name = own_name.unwrap_or(spec.name);
                Some((spec.name.clone(), Some(spec)))
            }
        }
    }

    fn subnets(&mut self, field: &Field<'_>) -> Option<Vec<(String, Option<String>)>> {
        let mut section = self.section(field)?;
        let driver = section.take("driver");
        if let Some(driver) = driver.filter(|driver| driver.as_text() != Some("default")) {
            self.warn(&driver, "has no effect in a Swarm", "Leave it out");
        }
        let config = section.take("config");
        section.finish(self, &[("options", "leave it out")]);
        let mut subnets = Vec::new();
        for item in config.map(|config| self.list(&config)).unwrap_or_default() {
            let mut section = self.section(&item)?;
            let subnet = section.read(self, "subnet", Self::text);
            let gateway = section.read(self, "gateway", Self::text);
            section.finish(self, &[("ip_range", "use a smaller subnet"), ("aux_addresses", "leave it out")]);
            match subnet {
                Some(subnet) => subnets.push((subnet, gateway)),
                None => self.error(&item, "needs `subnet`"),
            }
        }
        Some(subnets)
    }

    fn volumes(&mut self, field: &Field<'_>, names: &mut Names) {
        for (name, field) in self.named(field) {
            if let Some(source) = self.volume(&name, &field, names) {
                names.volumes.insert(name, source);
            }
        }
    }

    fn volume(&mut self, name: &str, field: &Field<'_>, names: &Names) -> Option<MountSource> {
        let full = Some(names.full(name));
        let volume = |name, driver, options, labels| MountSource::Volume {
            name,
            driver,
            options,
            labels,
            no_copy: false,
        };
        if field.is_null() {
            return Some(volume(full, None, BTreeMap::new(), names.owned()));
        }
        let mut section = self.section(field)?;
        let own_name = section.read(self, "name", Self::name);
        let external = section.take("external").and_then(|external| self.external(&external, name));
        let driver = section.read(self, "driver", Self::text).filter(|driver| driver != "local");
        let options = section.read(self, "driver_opts", Self::labels).unwrap_or_default();
        let mut labels = names.owned();
        labels.extend(section.read(self, "labels", Self::labels).unwrap_or_default());
        section.finish(self, &[]);
        Some(match external {
            // What it is made of, whoever made it knows.
            Some(external) => volume(own_name.or(Some(external)), driver, BTreeMap::new(), BTreeMap::new()),
            None => volume(own_name.or(full), driver, options, labels),
        })
    }

    /// `external: true`, or the old `external: {name: ...}`: the name, if it is external.
    fn external(&mut self, field: &Field<'_>, name: &str) -> Option<String> {
        if !field.is_map() {
            return self.boolean(field).filter(|external| *external).map(|_| name.to_owned());
        }
        let mut section = self.section(field)?;
        let own_name = section.read(self, "name", Self::name);
        section.finish(self, &[]);
        Some(own_name.unwrap_or_else(|| name.to_owned()))
    }

    fn blobs(&mut self, field: &Field<'_>, kind: Blobs, names: &mut Names, stack: &mut Stack) {
        for (name, field) in self.named(field) {
            let Some((full, spec)) = self.blob(&name, &field, names) else { continue };
            let (known, made, external) = match kind {
                Blobs::Secrets => (&mut names.secrets, &mut stack.secrets, &mut stack.external.secrets),
                Blobs::Configs => (&mut names.configs, &mut stack.configs, &mut stack.external.configs),
            };
            match spec {
                Some(spec) => drop(made.insert(full.clone(), spec)),
                None => drop(external.insert(full.clone())),
            }
            known.insert(name, full);
        }
    }

    fn blob(&mut self, name: &str, field: &Field<'_>, names: &Names) -> Option<(String, Option<BlobSpec>)> {
        let mut section = self.section(field)?;
        let own_name = section.read(self, "name", Self::name);
        let external = section.take("external").and_then(|external| self.external(&external, name));
        let file = section.take("file");
        let content = section.take("content");
        let environment = section.take("environment");
        let mut labels = names.owned();
        labels.extend(section.read(self, "labels", Self::labels).unwrap_or_default());
        section.finish(
            self,
            &[
                ("driver", "drivers of secrets are not supported; give a `file`"),
                ("template_driver", "templates are not supported; write the value"),
            ],
        );
        if let Some(external) = external {
            return Some((own_name.unwrap_or(external), None));
        }
        let data = match (file, content, environment) {
            (Some(file), None, None) => self.blob_file(&file)?,
            (None, Some(content), None) => self.text(&content)?.into_bytes(),
            (None, None, Some(variable)) => {
                let variable_name = self.text(&variable)?;
                let Some(value) = self.surroundings.variable(&variable_name) else {
                    self.error_with(&variable, format!("the variable {variable_name} is not set"), "Set it");
                    return None;
                };
                value.into_bytes()
            }
            _ => {
                self.error(field, "needs one of `file`, `content`, `environment` or `external: true`");
                return None;
            }
        };
        if data.is_empty() || data.len() > BLOB_MAX_BYTES {
            let what =
                format!("its content has {} bytes; it must have from 1 to {BLOB_MAX_BYTES}", data.len());
            self.error(field, what);
            return None;
        }
        let name = own_name.unwrap_or_else(|| versioned(&names.full(name), &data));
        Some((name.clone(), Some(BlobSpec { name, data, labels })))
    }

    fn blob_file(&mut self, field: &Field<'_>) -> Option<Vec<u8>> {
        let path = self.text(field)?;
        match self.surroundings.file(&path) {
            Ok(data) => Some(data),
            Err(why) => {
                self.error(field, format!("{path} cannot be read: {why}"));
                None
            }
        }
    }
}

/// An overlay network as `docker stack deploy` makes it.
fn overlay(name: String, labels: BTreeMap<String, String>) -> NetworkSpec {
    NetworkSpec {
        name,
        driver: "overlay".to_owned(),
        options: BTreeMap::new(),
        labels,
        attachable: false,
        internal: false,
        subnets: Vec::new(),
    }
}

/// A name that another content does not have, as neither secrets nor configs can be changed.
fn versioned(name: &str, data: &[u8]) -> String {
    format!("{name}-{}", &blake3::hash(data).to_hex()[..12])
}

fn is_stack_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
