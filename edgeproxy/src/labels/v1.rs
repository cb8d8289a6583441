//! Owns the labels of Traefik 1: one router and one service a container.
//!
//! `traefik.frontend.rule`, `.frontend.entryPoints`, `.frontend.priority`, `.frontend.passHostHeader`, `traefik.backend`, `traefik.port`,
//! `traefik.protocol`. Behaviour reference: the documentation of Traefik 1.7, "Docker provider".

use super::{Labels, Parsed, RouterSpec, ServiceSpec, clip};
use crate::rule::Rule;

/// Labels of which each keeps somebody out. A router that has one is left out rather than served without it.
const PROTECTIONS: [&str; 4] =
    ["frontend.auth", "frontend.whitelist", "frontend.basicauth", "frontend.ratelimit"];

pub(super) fn parse(labels: &mut Labels<'_>, parsed: &mut Parsed) {
    let Some((rule_key, rule_text)) = labels.take("frontend.rule") else { return };
    let name = labels.take("backend").map_or(labels.container.name.as_str(), |(_, name)| name);
    let service = format!("backend-{name}");
    let (entry_points, priority) =
        (labels.take_entry_points("frontend.entrypoints"), labels.take_priority("frontend.priority"));
    let service_spec = ServiceSpec {
        name: service.clone(),
        port: labels.take_port("port").or_else(|| labels.default_port()),
        scheme: labels.take_scheme("protocol"),
        pass_host_header: labels.take_bool("frontend.passhostheader").unwrap_or(true),
    };
    let protected = protection(labels);
    parsed.services.push(service_spec);
    let rule = match Rule::parse_v1(rule_text) {
        Ok(rule) => rule,
        Err(error) => {
            let what = format!("the rule `{}` is not understood: {error}", clip(rule_text));
            return labels.report(
                rule_key,
                &what,
                "write e.g. Host:app.example.org or Host:app.example.org;PathPrefix:/api",
            );
        }
    };
    if let Some(key) = protected {
        return labels.report(
            key,
            "this protection is not supported by this version, so its router is left out rather than served without it",
            "remove the label to serve it unprotected",
        );
    }
    let Some(entry_points) = entry_points else { return };
    parsed.routers.push(RouterSpec {
        name: router_name(rule_text),
        rule,
        rule_text: rule_text.to_owned(),
        priority: priority.unwrap_or(rule_text.len() as i64),
        service: Some(service),
        entry_points,
        tls: false,
    });
}

fn protection<'a>(labels: &mut Labels<'a>) -> Option<&'a str> {
    let short = labels.rest.keys().find(|short| PROTECTIONS.iter().any(|p| short.starts_with(p)))?.clone();
    labels.take(&short).map(|(key, _)| key)
}

/// `Host:a.example;PathPrefix:/x` -> `frontend-Host-a-example-PathPrefix-x`, the name that Traefik 1 shows.
fn router_name(rule_text: &str) -> String {
    let words = rule_text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once("frontend").chain(words).collect::<Vec<_>>().join("-")
}
