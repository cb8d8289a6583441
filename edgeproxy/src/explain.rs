//! Owns the answer to "where does this request go, and why": for a command, a status page, a 404 that somebody does not understand.

use crate::{
    diagnostic::Diagnostic,
    host::split_authority,
    route::{EntryPoint, RequestView, Route, RouteTable},
    rule::Rule,
};
use http::{HeaderMap, Method, Uri};
use std::fmt;

/// Most near misses that are listed.
pub const NEAR_MISSES_MAX: usize = 5;

/// What happens to a request. `Display` tells it in words; serialises to JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "driver", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Explanation {
    /// The request, `GET https://app.example.org/x`.
    pub request: String,
    /// Where it came in.
    pub entry_point: EntryPoint,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Routes that nearly took it, and why they did not. Only filled if no route did.
    pub near_misses: Vec<NearMiss>,
    /// Diagnostics that may be the reason: those of the containers involved, or all if no route took the request.
    pub diagnostics: Vec<Diagnostic>,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "driver", derive(serde::Serialize), serde(rename_all = "snake_case", tag = "kind"))]
#[non_exhaustive]
pub enum Outcome {
    /// It is forwarded to one of `servers`.
    Forwarded {
        /// The router that takes it.
        router: String,
        /// The rule as written.
        rule: String,
        /// The provider of the router.
        provider: String,
        /// The service behind it.
        service: String,
        /// Its live servers, as URLs.
        servers: Vec<String>,
    },
    /// A router takes it, but its service has no live server: 503.
    Unavailable {
        /// The router that takes it.
        router: String,
        /// The rule as written.
        rule: String,
        /// The provider of the router.
        provider: String,
        /// The service behind it.
        service: String,
        /// Its servers, each with the reason why it is not used.
        servers: Vec<String>,
    },
    /// No router takes it: 404.
    NoRoute,
    /// The URL names no host that could be looked up: 400.
    BadUrl {
        /// What is wrong with it.
        what: String,
    },
}

/// A route that did not take the request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "driver", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NearMiss {
    /// The router.
    pub router: String,
    /// Its rule as written.
    pub rule: String,
    /// Why it did not take the request.
    pub why: String,
}

/// Tells what happens to a request for `url` (absolute, `https://app.example.org/x`). The entry point is the scheme's, unless given.
pub fn explain(
    table: &RouteTable,
    diagnostics: &[Diagnostic],
    method: &Method,
    url: &str,
    headers: &HeaderMap,
    entry_point: Option<EntryPoint>,
) -> Explanation {
    let target = parse_url(url);
    let entry_point = entry_point.unwrap_or(match &target {
        Ok((EntryPoint::Http, ..)) => EntryPoint::Http,
        _ => EntryPoint::Https,
    });
    let mut explanation = Explanation {
        request: format!("{method} {url}"),
        entry_point,
        outcome: Outcome::NoRoute,
        near_misses: Vec::new(),
        diagnostics: Vec::new(),
    };
    let (host, path) = match target {
        Ok((_, host, path)) => (host, path),
        Err(what) => {
            explanation.outcome = Outcome::BadUrl { what };
            return explanation;
        }
    };
    let request = RequestView { entry_point, host: &host, path: &path, method, headers: Some(headers) };
    match table.lookup(&request) {
        Some(route) => {
            explanation.outcome = outcome(route);
            let involved = |d: &&Diagnostic| {
                d.provider == route.provider
                    && (route.containers.contains(&d.container)
                        || route.service.servers.iter().any(|server| server.container == d.container))
            };
            explanation.diagnostics = diagnostics.iter().filter(involved).cloned().collect();
        }
        None => {
            explanation.near_misses = near_misses(table, &request);
            explanation.diagnostics = diagnostics.to_vec();
        }
    }
    explanation
}

fn parse_url(url: &str) -> Result<(EntryPoint, String, String), String> {
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is not a URL: {error}"))?;
    let entry_point = match uri.scheme_str() {
        Some("http") => EntryPoint::Http,
        Some("https") => EntryPoint::Https,
        Some(other) => return Err(format!("the scheme `{other}` is not served: write http:// or https://")),
        None => return Err(format!("`{url}` has no scheme: write https://{url}")),
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let (host, _) = split_authority(authority).ok_or_else(|| format!("`{authority}` is not a host"))?;
    Ok((entry_point, host.into_owned(), uri.path().to_owned()))
}

fn outcome(route: &Route) -> Outcome {
    let (router, rule, provider, service) =
        (route.name.clone(), route.rule_text.clone(), route.provider.clone(), route.service.name.clone());
    if !route.service.live().is_empty() {
        let servers = route.service.live().iter().map(ToString::to_string).collect();
        return Outcome::Forwarded { router, rule, provider, service, servers };
    }
    let why = |server: &crate::route::Server| match (&server.upstream, server.up) {
        (Some(upstream), _) => format!("{upstream} (container {}): down", server.container),
        (None, true) => format!("container {}: no address or no port", server.container),
        (None, false) => format!("container {}: down, no address or no port", server.container),
    };
    let servers = route.service.servers.iter().map(why).collect();
    Outcome::Unavailable { router, rule, provider, service, servers }
}

/// Routes for the same host first, then those of hosts that differ in their first label only.
fn near_misses(table: &RouteTable, request: &RequestView<'_>) -> Vec<NearMiss> {
    let same_host = table.candidates(request.host).map(|route| near_miss(route, request));
    let domain = request.host.split_once('.').map(|(_, domain)| domain);
    let same_domain = table.routes().filter(|route| {
        let hosts = route.rule.hosts().unwrap_or_default();
        !hosts.contains(request.host)
            && hosts
                .iter()
                .any(|host| domain.is_some() && host.split_once('.').map(|(_, domain)| domain) == domain)
    });
    same_host.chain(same_domain.map(|route| near_miss(route, request))).take(NEAR_MISSES_MAX).collect()
}

fn near_miss(route: &Route, request: &RequestView<'_>) -> NearMiss {
    let why = if !route.rule.matches(request) {
        format!("{} does not hold", first_failing(&route.rule, request))
    } else if route.tls && request.entry_point == EntryPoint::Http {
        "it is served over TLS only".into()
    } else {
        format!("it is not served on the entry point {}", request.entry_point)
    };
    NearMiss { router: route.name.clone(), rule: route.rule_text.clone(), why }
}

/// The part of a rule that does not match, as small as possible.
fn first_failing<'a>(rule: &'a Rule, request: &RequestView<'_>) -> &'a Rule {
    match rule {
        Rule::All(rules) => {
            rules.iter().find(|rule| !rule.matches(request)).map_or(rule, |part| first_failing(part, request))
        }
        rule => rule,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (entry point {})", self.request, self.entry_point)?;
        match &self.outcome {
            Outcome::Forwarded { router, rule, provider, service, servers } => {
                writeln!(f, "  router   {router} ({provider})\n  rule     {rule}\n  service  {service}")?;
                servers.iter().try_for_each(|server| writeln!(f, "  server   {server}"))?;
            }
            Outcome::Unavailable { router, rule, provider, service, servers } => {
                writeln!(f, "  router   {router} ({provider})\n  rule     {rule}\n  service  {service}")?;
                writeln!(f, "  answer   503: the service has no live server")?;
                servers.iter().try_for_each(|server| writeln!(f, "  server   {server}"))?;
            }
            Outcome::NoRoute => writeln!(f, "  answer   404: no router takes it")?,
            Outcome::BadUrl { what } => writeln!(f, "  answer   400: {what}")?,
        }
        for miss in &self.near_misses {
            writeln!(f, "  not      {}, rule {}: {}", miss.router, miss.rule, miss.why)?;
        }
        self.diagnostics.iter().try_for_each(|diagnostic| writeln!(f, "  note     {diagnostic}"))
    }
}
