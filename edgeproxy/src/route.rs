//! Owns the route table: from a snapshot to routes, and from a request to its route. Immutable once compiled; never does I/O.

use crate::{
    diagnostic::Diagnostic,
    labels::{self, Parsed, RouterSpec, ServiceSpec, diagnostic},
    rule::Rule,
    snapshot::{CONTAINERS_MAX, Container, Snapshot},
    upstream::Upstream,
};
use http::{HeaderMap, Method};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
};

/// Which of the proxy's two doors a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "driver", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum EntryPoint {
    /// Plain HTTP; `http` or `web` in labels.
    Http,
    /// HTTP over TLS; `https` or `websecure` in labels.
    Https,
}

impl EntryPoint {
    /// The entry point of that name, in the spellings of Traefik's documentation.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "http" | "web" => Some(Self::Http),
            "https" | "websecure" | "web-secure" => Some(Self::Https),
            _ => None,
        }
    }
}

impl fmt::Display for EntryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// What rules look at: a request without its body.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RequestView<'a> {
    /// Where it came in.
    pub entry_point: EntryPoint,
    /// The host in the form of [`normalise_host`](crate::host::normalise_host).
    pub host: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The headers; without them no `Header` matcher matches.
    pub headers: Option<&'a HeaderMap>,
}

impl<'a> RequestView<'a> {
    /// A `GET` of `path` at `host`, without headers.
    pub fn new(entry_point: EntryPoint, host: &'a str, path: &'a str) -> Self {
        Self { entry_point, host, path, method: &Method::GET, headers: None }
    }
}

/// One router with the service behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The router's name: from the label, or derived from a v1 rule.
    pub name: String,
    /// The provider that its containers come from.
    pub provider: String,
    /// The containers that define it.
    pub containers: Vec<String>,
    /// Which requests it takes.
    pub rule: Rule,
    /// The rule as it was written.
    pub rule_text: String,
    /// The higher wins; the length of the rule's text unless a label says otherwise.
    pub priority: i64,
    /// The entry points that it is restricted to; empty means both.
    pub entry_points: Vec<EntryPoint>,
    /// Served over TLS only.
    pub tls: bool,
    /// Where its requests go.
    pub service: Arc<Service>,
}

impl Route {
    /// Whether requests that come in by `entry_point` may take it.
    pub fn serves(&self, entry_point: EntryPoint) -> bool {
        (self.entry_points.is_empty() || self.entry_points.contains(&entry_point))
            && (entry_point == EntryPoint::Https || !self.tls)
    }

    fn takes(&self, request: &RequestView<'_>) -> bool {
        self.serves(request.entry_point) && self.rule.matches(request)
    }
}

/// Servers that are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Service {
    /// Its name: from the label, or derived from a backend's or container's name.
    pub name: String,
    /// Every server, up or not.
    pub servers: Vec<Server>,
    /// Whether the client's `Host` reaches the server; else the server's own address does.
    pub pass_host_header: bool,
    live: Vec<Upstream>,
}

impl Service {
    /// The servers that can be dialled now.
    pub fn live(&self) -> &[Upstream] {
        &self.live
    }
}

/// One container as a server of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// The container's name.
    pub container: String,
    /// Where it is dialled; `None` while it has no address or no port.
    pub upstream: Option<Upstream>,
    /// Whether its container can answer.
    pub up: bool,
}

/// Every route, in the order in which they are tried, indexed by host.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// Highest priority first: a smaller index wins.
    routes: Vec<Arc<Route>>,
    /// Routes that can only match these hosts, ascending.
    by_host: BTreeMap<Box<str>, Vec<usize>>,
    /// Routes that may match any host, ascending.
    any_host: Vec<usize>,
}

impl RouteTable {
    /// Builds the table of a snapshot. Total: whatever the labels are, the containers whose labels are understood get their routes.
    ///
    /// The outcome does not depend on the order of the containers. Two containers that define the same router or service become two
    /// servers of it. Where they contradict each other, the one that is up wins, then the first by provider and name.
    pub fn compile(snapshot: &Snapshot) -> (Self, Vec<Diagnostic>) {
        let mut draft = Draft::default();
        let mut containers: Vec<&Container> = snapshot.containers.iter().collect();
        containers.sort_by(|a, b| (!a.up, &a.provider, &a.name).cmp(&(!b.up, &b.provider, &b.name)));
        if let Some(first_left_out) = containers.get(CONTAINERS_MAX) {
            let what = format!(
                "a snapshot has at most {CONTAINERS_MAX} containers; this one and those after it are left out"
            );
            draft.diagnostics.push(diagnostic(
                first_left_out,
                "",
                &what,
                "remove containers that are no longer used",
            ));
        }
        for container in containers.into_iter().take(CONTAINERS_MAX) {
            draft.add(container);
        }
        draft.finish()
    }

    /// The route that takes the request: of those whose rule matches, the one with the highest priority.
    pub fn lookup(&self, request: &RequestView<'_>) -> Option<&Arc<Route>> {
        self.candidates(request.host).find(|route| route.takes(request))
    }

    /// Every route, highest priority first.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.routes.iter().map(Arc::as_ref)
    }

    /// The routes that can match `host` at all, highest priority first: two ascending lists, merged.
    pub(crate) fn candidates(&self, host: &str) -> impl Iterator<Item = &Arc<Route>> {
        let (mut exact, mut any) =
            (self.by_host.get(host).map_or(&[][..], Vec::as_slice), self.any_host.as_slice());
        std::iter::from_fn(move || {
            let list = match (exact.first(), any.first()) {
                (Some(a), Some(b)) if a > b => &mut any,
                (Some(_), _) => &mut exact,
                (None, _) => &mut any,
            };
            let (first, rest) = list.split_first()?;
            *list = rest;
            self.routes.get(*first)
        })
    }

    fn index(routes: Vec<Route>) -> Self {
        let mut table = Self { routes: routes.into_iter().map(Arc::new).collect(), ..Self::default() };
        for (index, route) in table.routes.iter().enumerate() {
            match route.rule.hosts() {
                None => table.any_host.push(index),
                Some(hosts) => {
                    for host in hosts {
                        table.by_host.entry(host.into()).or_default().push(index);
                    }
                }
            }
        }
        table
    }
}

/// Names are unique within a provider.
type Key = (String, String);

/// The table while containers are added to it.
#[derive(Default)]
struct Draft<'a> {
    routers: BTreeMap<Key, DraftRouter<'a>>,
    services: BTreeMap<Key, Service>,
    diagnostics: Vec<Diagnostic>,
}

struct DraftRouter<'a> {
    spec: RouterSpec,
    /// Those that define it, the first of them rules.
    containers: Vec<&'a Container>,
    /// Order of definition; settles equal priorities.
    order: usize,
}

impl<'a> Draft<'a> {
    fn add(&mut self, container: &'a Container) {
        let Parsed { routers, services, diagnostics } = labels::parse(container);
        self.diagnostics.extend(diagnostics);
        for service in services {
            self.add_server(container, service);
        }
        for router in routers {
            self.add_router(container, router);
        }
    }

    fn add_server(&mut self, container: &Container, spec: ServiceSpec) {
        let port = container.mapped_port.or(spec.port);
        if port.is_none() {
            let what = format!("no port is known for its service `{}`, so it is not used", spec.name);
            let remedy = format!(
                "add traefik.port=PORT, or traefik.http.services.{}.loadbalancer.server.port=PORT",
                spec.name
            );
            self.diagnostics.push(diagnostic(container, "", &what, &remedy));
        }
        if container.up && container.address.is_none() {
            let remedy =
                format!("attach it to a network of the proxy's, or name one with {}", labels::NETWORK_LABEL);
            self.diagnostics.push(diagnostic(container, "", "it has no address, so it is not used", &remedy));
        }
        let key = (container.provider.clone(), spec.name.clone());
        let service = self.services.entry(key).or_insert_with(|| Service {
            name: spec.name,
            pass_host_header: spec.pass_host_header,
            ..Service::default()
        });
        let upstream = match (&container.address, port, spec.scheme) {
            (Some(address), Some(port), Some(scheme)) => {
                Some(Upstream { address: address.clone(), port, scheme })
            }
            _ => None,
        };
        service
            .live
            .extend(upstream.clone().filter(|upstream| container.up && !service.live.contains(upstream)));
        service.servers.push(Server { container: container.name.clone(), upstream, up: container.up });
    }

    fn add_router(&mut self, container: &'a Container, spec: RouterSpec) {
        let order = self.routers.len();
        match self.routers.entry((container.provider.clone(), spec.name.clone())) {
            Entry::Vacant(vacant) => {
                vacant.insert(DraftRouter { spec, containers: vec![container], order });
            }
            Entry::Occupied(mut same) if same.get().spec == spec => same.get_mut().containers.push(container),
            Entry::Occupied(other) => {
                let winner = &other.get().containers[0].name;
                let what =
                    format!("container {winner} defines the router `{}` differently and wins", spec.name);
                self.diagnostics.push(diagnostic(
                    container,
                    "",
                    &what,
                    "give one of the two routers another name",
                ));
            }
        }
    }

    fn finish(mut self) -> (RouteTable, Vec<Diagnostic>) {
        let services: BTreeMap<Key, Arc<Service>> =
            self.services.into_iter().map(|(key, service)| (key, Arc::new(service))).collect();
        let mut routers: Vec<DraftRouter<'_>> = self.routers.into_values().collect();
        routers.sort_by_key(|router| (Reverse(router.spec.priority), router.order));
        report_unreachable(&routers, &mut self.diagnostics);
        let routes = routers
            .into_iter()
            .map(|router| finish_router(router, &services, &mut self.diagnostics))
            .collect();
        self.diagnostics.sort();
        (RouteTable::index(routes), self.diagnostics)
    }
}

fn finish_router(
    router: DraftRouter<'_>,
    services: &BTreeMap<Key, Arc<Service>>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Route {
    let DraftRouter { spec, containers, .. } = router;
    let first = containers[0];
    let name = spec.service.unwrap_or_default();
    let service = services.get(&(first.provider.clone(), name.clone())).cloned().unwrap_or_else(|| {
        if !name.is_empty() {
            let what =
                format!("its router `{}` names the service `{name}`, which no container defines", spec.name);
            let remedy =
                format!("add traefik.http.services.{name}.loadbalancer.server.port=PORT to its servers");
            diagnostics.push(diagnostic(first, "", &what, &remedy));
        }
        Arc::new(Service { name, ..Service::default() })
    });
    Route {
        name: spec.name,
        provider: first.provider.clone(),
        containers: containers.iter().map(|container| container.name.clone()).collect(),
        rule: spec.rule,
        rule_text: spec.rule_text,
        priority: spec.priority,
        entry_points: spec.entry_points,
        tls: spec.tls,
        service,
    }
}

/// Names every router whose requests another one with the same rule and entry points, but another service, takes first.
fn report_unreachable(in_order: &[DraftRouter<'_>], diagnostics: &mut Vec<Diagnostic>) {
    let mut taken: BTreeMap<String, &DraftRouter<'_>> = BTreeMap::new();
    for router in in_order {
        let spec = &router.spec;
        let what_it_takes = format!("{} {:?} {}", spec.rule, spec.entry_points, spec.tls);
        match taken.entry(what_it_takes) {
            Entry::Vacant(vacant) => {
                vacant.insert(router);
            }
            Entry::Occupied(first) => {
                let (winner, loser) = (first.get(), router.containers[0]);
                let same_service =
                    winner.spec.service == spec.service && winner.containers[0].provider == loser.provider;
                if !same_service {
                    let what = format!(
                        "its router `{}` is never reached: `{}` of container {} takes the same requests",
                        spec.name, winner.spec.name, winner.containers[0].name
                    );
                    diagnostics.push(diagnostic(
                        loser,
                        "",
                        &what,
                        "change one of the two rules, or their priority",
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
