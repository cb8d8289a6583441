//! Owns the meaning of one container's labels: which routers and services it defines. Each container is parsed alone and always to
//! an end: a label that is not understood becomes a [`Diagnostic`] and harms nothing but what it names.
//!
//! Both generations live side by side: `v1` (`traefik.frontend.rule=Host:a.example`) and `v3` (``traefik.http.routers.a.rule=Host(`a.example`)``,
//! the same in Traefik 2). Keys are compared without case, as Traefik does.

mod v1;
mod v3;

use crate::{
    diagnostic::{DIAGNOSTICS_PER_CONTAINER_MAX, Diagnostic},
    route::EntryPoint,
    rule::Rule,
    snapshot::Container,
    upstream::Scheme,
};
use std::collections::BTreeMap;

/// Beginning of every label that is looked at.
pub const PREFIX: &str = "traefik.";
/// The label that names the Docker network whose address is taken. Read by the Docker provider.
pub const NETWORK_LABEL: &str = "traefik.docker.network";

/// What one container's labels define.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) routers: Vec<RouterSpec>,
    pub(crate) services: Vec<ServiceSpec>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// A router as one container defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouterSpec {
    pub(crate) name: String,
    pub(crate) rule: Rule,
    pub(crate) rule_text: String,
    pub(crate) priority: i64,
    /// The service's name; `None` if the labels do not single one out.
    pub(crate) service: Option<String>,
    pub(crate) entry_points: Vec<EntryPoint>,
    pub(crate) tls: bool,
}

/// A service, and where this container serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceSpec {
    pub(crate) name: String,
    /// `None` if neither a label nor an exposed port tells it.
    pub(crate) port: Option<u16>,
    /// `None` if the label asks for one that is not spoken here.
    pub(crate) scheme: Option<Scheme>,
    pub(crate) pass_host_header: bool,
}

/// Parses every label of `container`.
pub(crate) fn parse(container: &Container) -> Parsed {
    let mut labels = Labels::of(container);
    let mut parsed = Parsed::default();
    if !labels.enabled() {
        parsed.diagnostics = labels.diagnostics;
        return parsed;
    }
    v1::parse(&mut labels, &mut parsed);
    v3::parse(&mut labels, &mut parsed);
    labels.report_the_rest();
    if parsed.routers.is_empty() && parsed.services.is_empty() && labels.any && labels.diagnostics.is_empty()
    {
        labels.report(
            "",
            "its labels define no router, so nothing is sent to it",
            "add a rule, e.g. traefik.frontend.rule=Host:app.example.org",
        );
    }
    parsed.diagnostics = labels.diagnostics;
    parsed
}

/// The labels of one container that nobody has taken yet, and what there is to say about them.
struct Labels<'a> {
    container: &'a Container,
    /// Key in lower case without [`PREFIX`] -> key as written, value.
    rest: BTreeMap<String, (&'a str, &'a str)>,
    any: bool,
    diagnostics: Vec<Diagnostic>,
    suppressed: usize,
}

impl<'a> Labels<'a> {
    fn of(container: &'a Container) -> Self {
        let mut rest = BTreeMap::new();
        for (key, value) in &container.labels {
            let lower = key.to_ascii_lowercase();
            if let Some(short) = lower.strip_prefix(PREFIX) {
                rest.insert(short.to_owned(), (key.as_str(), value.trim()));
            }
        }
        // Read by the provider.
        rest.remove("docker.network");
        Self { container, any: !rest.is_empty(), rest, diagnostics: Vec::new(), suppressed: 0 }
    }

    /// Takes `traefik.enable`. Containers are exposed unless it says no, or something that may have been meant as no.
    fn enabled(&mut self) -> bool {
        !self.rest.contains_key("enable") || self.take_bool("enable").unwrap_or(false)
    }

    /// Takes the label: afterwards it counts as understood.
    fn take(&mut self, short: &str) -> Option<(&'a str, &'a str)> {
        self.rest.remove(short)
    }

    fn take_bool(&mut self, short: &str) -> Option<bool> {
        let (key, value) = self.take(short)?;
        let parsed = parse_bool(value);
        if parsed.is_none() {
            self.report(key, &format!("`{}` is neither true nor false", clip(value)), "write true or false");
        }
        parsed
    }

    fn take_port(&mut self, short: &str) -> Option<u16> {
        let (key, value) = self.take(short)?;
        match value.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => {
                self.report(
                    key,
                    &format!("`{}` is not a port", clip(value)),
                    "write a number from 1 to 65535",
                );
                None
            }
        }
    }

    fn take_priority(&mut self, short: &str) -> Option<i64> {
        let (key, value) = self.take(short)?;
        match value.parse::<i64>() {
            // Zero means "the default" in Traefik, too.
            Ok(0) => None,
            Ok(priority) => Some(priority),
            Err(_) => {
                self.report(
                    key,
                    &format!("`{}` is not a whole number", clip(value)),
                    "write a number, the higher wins",
                );
                None
            }
        }
    }

    fn take_scheme(&mut self, short: &str) -> Option<Scheme> {
        let Some((key, value)) = self.take(short) else { return Some(Scheme::Http) };
        if value.eq_ignore_ascii_case("http") {
            return Some(Scheme::Http);
        }
        self.report(
            key,
            &format!(
                "servers that speak `{}` are not supported by this version, so this one is not used",
                clip(value)
            ),
            "let the container speak http behind the proxy",
        );
        None
    }

    /// Takes a list of entry points. `None` if it names only unknown ones: then the router is reachable nowhere.
    fn take_entry_points(&mut self, short: &str) -> Option<Vec<EntryPoint>> {
        let Some((key, value)) = self.take(short) else { return Some(Vec::new()) };
        let mut entry_points = Vec::new();
        for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match EntryPoint::from_name(name) {
                Some(entry_point) => entry_points.push(entry_point),
                None => self.report(
                    key,
                    &format!("there is no entry point `{}`", clip(name)),
                    "use http (or web) for the plain one, https (or websecure) for TLS",
                ),
            }
        }
        entry_points.sort();
        entry_points.dedup();
        if entry_points.is_empty() && !value.is_empty() { None } else { Some(entry_points) }
    }

    /// The lowest exposed port: what Traefik takes when no label says.
    fn default_port(&self) -> Option<u16> {
        self.container.ports.iter().copied().min()
    }

    fn report(&mut self, label: &str, what: &str, remedy: &str) {
        if self.diagnostics.len() >= DIAGNOSTICS_PER_CONTAINER_MAX {
            self.suppressed += 1;
            let n = self.suppressed + 1;
            let last = &mut self.diagnostics[DIAGNOSTICS_PER_CONTAINER_MAX - 1];
            last.label.clear();
            last.what = format!("{n} more of its labels are not understood");
            last.remedy = "mend the ones above first".into();
            return;
        }
        self.diagnostics.push(diagnostic(self.container, label, what, remedy));
    }

    /// Whatever nobody took is not understood.
    fn report_the_rest(&mut self) {
        for (short, (key, _)) in std::mem::take(&mut self.rest) {
            let (what, remedy) = not_understood(&short);
            self.report(key, what, remedy);
        }
    }
}

/// A diagnostic about `container`.
pub(crate) fn diagnostic(container: &Container, label: &str, what: &str, remedy: &str) -> Diagnostic {
    Diagnostic {
        provider: container.provider.clone(),
        container: container.name.clone(),
        label: label.into(),
        what: what.into(),
        remedy: remedy.into(),
    }
}

fn not_understood(short: &str) -> (&'static str, &'static str) {
    if short.starts_with("tcp.") || short.starts_with("udp.") {
        ("TCP and UDP routers are not supported by this version", "route it as HTTP, or publish its port")
    } else if short.starts_with("http.middlewares.") {
        ("middlewares are not supported by this version", "remove the label, or let the application do it")
    } else if short.contains(".frontend.") || short.ends_with(".port") {
        (
            "segment labels are not supported by this version",
            "use traefik.http.routers.NAME labels, one NAME a segment",
        )
    } else {
        ("this label is not understood and has no effect", "check its spelling, or remove it")
    }
}

/// The spellings that Traefik takes (Go's `strconv.ParseBool`).
fn parse_bool(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

/// Enough of a value to recognise it.
fn clip(value: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let mut clipped: String =
        value.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect();
    if value.chars().nth(SHOWN_CHARS_MAX).is_some() {
        clipped.push('…');
    }
    clipped
}
