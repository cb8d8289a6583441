//! Owns the labels of Traefik 2 and 3: any number of named routers and services a container.
//!
//! `traefik.http.routers.NAME.{rule,entrypoints,tls,service,priority}`,
//! `traefik.http.services.NAME.loadbalancer.{server.port,server.scheme,passhostheader}`.
//! Behaviour reference: the documentation of Traefik 3, "Docker provider" and "Routers".

use super::{Labels, Parsed, RouterSpec, ServiceSpec, clip};
use crate::rule::Rule;
use std::collections::BTreeSet;

pub(super) fn parse(labels: &mut Labels<'_>, parsed: &mut Parsed) {
    let mut services: Vec<ServiceSpec> =
        names(labels, "http.services.").iter().filter_map(|name| service(labels, name)).collect();
    let routers = names(labels, "http.routers.");
    if !routers.is_empty() && services.is_empty() {
        // A router without any service goes to the container itself.
        services.push(ServiceSpec {
            name: labels.container.name.clone(),
            port: labels.default_port(),
            scheme: Some(Default::default()),
            pass_host_header: true,
        });
    }
    for name in &routers {
        parsed.routers.extend(router(labels, name, &services));
    }
    parsed.services.extend(services);
}

/// Every NAME that follows `prefix`.
fn names(labels: &Labels<'_>, prefix: &str) -> BTreeSet<String> {
    labels
        .rest
        .range(prefix.to_owned()..)
        .map_while(|(short, _)| short.strip_prefix(prefix))
        .filter_map(|rest| rest.split_once('.').map(|(name, _)| name.to_owned()))
        .filter(|name| !name.is_empty())
        .collect()
}

/// The service, or `None` if not one of its labels is understood.
fn service(labels: &mut Labels<'_>, name: &str) -> Option<ServiceSpec> {
    let prefix = format!("http.services.{name}.loadbalancer.");
    let understood = ["server.port", "server.scheme", "passhostheader"];
    if !understood.iter().any(|key| labels.rest.contains_key(&format!("{prefix}{key}"))) {
        return None;
    }
    Some(ServiceSpec {
        name: name.to_owned(),
        port: labels.take_port(&format!("{prefix}server.port")).or_else(|| labels.default_port()),
        scheme: labels.take_scheme(&format!("{prefix}server.scheme")),
        pass_host_header: labels.take_bool(&format!("{prefix}passhostheader")).unwrap_or(true),
    })
}

fn router(labels: &mut Labels<'_>, name: &str, services: &[ServiceSpec]) -> Option<RouterSpec> {
    let prefix = format!("http.routers.{name}.");
    let priority = labels.take_priority(&format!("{prefix}priority"));
    let tls = tls(labels, &prefix);
    let service = service_of(labels, &prefix, services);
    let entry_points = labels.take_entry_points(&format!("{prefix}entrypoints"));
    let (middlewares, rule) =
        (labels.take(&format!("{prefix}middlewares")), labels.take(&format!("{prefix}rule")));
    let Some((rule_key, rule_text)) = rule else {
        let what = format!("the router `{name}` has no rule, so nothing reaches it");
        labels.report("", &what, &format!("add traefik.http.routers.{name}.rule=Host(`app.example.org`)"));
        return None;
    };
    let rule = match Rule::parse(rule_text) {
        Ok(rule) => rule,
        Err(error) => {
            let what = format!("the rule `{}` is not understood: {error}", clip(rule_text));
            labels.report(rule_key, &what, "write e.g. Host(`app.example.org`) && PathPrefix(`/api`)");
            return None;
        }
    };
    if let Some((key, value)) = middlewares.filter(|(_, value)| !value.is_empty()) {
        let what = format!(
            "middlewares are not supported by this version; `{}` may be what protects it, so the router is left out",
            clip(value)
        );
        labels.report(key, &what, "remove the label to serve it without");
        return None;
    }
    Some(RouterSpec {
        name: name.to_owned(),
        rule,
        rule_text: rule_text.to_owned(),
        priority: priority.unwrap_or(rule_text.len() as i64),
        service,
        entry_points: entry_points?,
        tls,
    })
}

/// `tls=true`, or any `tls.…` label, which implies it; so does a value that is not understood, since it may have been meant as true.
fn tls(labels: &mut Labels<'_>, prefix: &str) -> bool {
    let given = labels.rest.contains_key(&format!("{prefix}tls"));
    let explicit = labels.take_bool(&format!("{prefix}tls"));
    let details: Vec<String> =
        labels.rest.keys().filter(|short| short.starts_with(&format!("{prefix}tls."))).cloned().collect();
    for short in &details {
        if let Some((key, _)) = labels.take(short) {
            labels.report(
                key,
                "the router is served over TLS, but this detail has no effect in this version",
                "give the proxy a certificate for the host",
            );
        }
    }
    explicit.unwrap_or(given || !details.is_empty())
}

/// The service that the label names, else the only one that the container defines.
fn service_of(labels: &mut Labels<'_>, prefix: &str, services: &[ServiceSpec]) -> Option<String> {
    if let Some((_, value)) = labels.take(&format!("{prefix}service")) {
        let value = value.to_ascii_lowercase();
        return Some(value.strip_suffix("@docker").map(str::to_owned).unwrap_or(value));
    }
    if let [only] = services {
        return Some(only.name.clone());
    }
    labels.report(
        "",
        "it defines several services, and a router that does not say which is its own",
        &format!("add {}{prefix}service=NAME", super::PREFIX),
    );
    None
}
