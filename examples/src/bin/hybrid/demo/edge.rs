//! Step *route*: the vm's edge proxy, configured by labels alone, and the status page.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgeproxy::{
    Certificates, Config, Container, LocalCa, MemoryProvider, MemoryProviderHandle, Proxy, Snapshot,
};
use hybrid_examples::mesh_dial::MeshDialer;
use hybrid_examples::web::{self, Server};
use hyper::StatusCode;
use rustls::ClientConfig;
use tokio::net::TcpListener;

use super::Options;
use super::network::Network;
use super::node::{Node, loopback};
use super::page::{self, Board};
use super::report::{Proof, StepError};
use super::site::{NOTES_PORT, Site};
use super::visitor::{Visitor, trust};

/// The public name of the notes application.
pub const NOTES_HOST: &str = "notes.localhost";
const WHOAMI_HOST: &str = "whoami.localhost";
const WHOAMI_PORT: u16 = 8000;
/// A line that stays dark this long while dialling is answered with the page.
const DIAL_TIMEOUT: Duration = Duration::from_millis(600);
/// A request that finds its service on the move waits this long before it is told to come back.
const HOLD: Duration = Duration::from_secs(3);

/// The vm's public side.
pub struct Edge {
    pub proxy: Arc<Proxy>,
    pub https: SocketAddr,
    pub http: SocketAddr,
    pub page: SocketAddr,
    pub tls: Arc<ClientConfig>,
    pub authority: PathBuf,
    containers: MemoryProviderHandle,
    addresses: (IpAddr, IpAddr),
    /// Stop with the edge.
    _servers: [Server; 2],
}

impl Edge {
    /// Tells the proxy where the notes are served now; `None`: nowhere, they are on the move.
    pub async fn notes_at(&self, address: Option<IpAddr>) -> Result<(), StepError> {
        Ok(self.containers.set(snapshot(address, self.addresses.1)).await?)
    }

    /// Where a browser finds the notes.
    pub fn url(&self) -> String {
        format!("https://{NOTES_HOST}:{}/", self.https.port())
    }

    /// A visitor of the notes from outside.
    pub async fn visitor(&self) -> Result<Visitor, StepError> {
        Visitor::https(self.https, NOTES_HOST, &self.tls).await
    }
}

/// Starts the edge and visits it.
pub async fn play(
    network: &Network,
    site: &Site,
    root: &Path,
    options: &Options,
) -> Result<(Edge, Proof), StepError> {
    let edge = start(network, site, root, options).await?;
    edge.notes_at(Some(edge.addresses.0)).await?;

    let redirect = Visitor::http(edge.http, NOTES_HOST).await?.get("/notes").await?;
    let to = redirect.headers.get("location").and_then(|to| to.to_str().ok()).unwrap_or_default().to_owned();
    let expected = format!("https://{NOTES_HOST}:{}/notes", edge.https.port());
    let notes = edge.visitor().await?.get("/notes").await?;
    let whoami = Visitor::https(edge.https, WHOAMI_HOST, &edge.tls).await?.get("/").await?;
    let routes = edge.proxy.routes().routes().count() as u64;
    let forwarded = whoami.text().contains("x-forwarded-proto: https");
    let page = Visitor::http(edge.page, "localhost").await?.get("/").await?;
    let listed = network.nodes().iter().filter(|node| page.text().contains(node.name)).count() as u64;

    let proof = Proof::new()
        .must("routes", routes, "2", routes == 2)
        .must("redirect_status", redirect.status.as_u16().into(), "a redirect", redirect.status.is_redirection())
        .must("redirects_to_https", (to == expected).into(), "1", to == expected)
        .must("notes_status", notes.status.as_u16().into(), "200", notes.status == StatusCode::OK)
        .must("whoami_status", whoami.status.as_u16().into(), "200", whoami.status == StatusCode::OK)
        .must("forwarded_headers", forwarded.into(), "1", forwarded)
        .must("nodes_on_page", listed, "3", listed == 3)
        .sentence(format!(
            "{routes} routes from labels (v1 and v3); http redirects to https; {NOTES_HOST} and {WHOAMI_HOST} answer over the mesh"
        ));
    Ok((edge, proof))
}

async fn start(network: &Network, site: &Site, root: &Path, options: &Options) -> Result<Edge, StepError> {
    let authority = LocalCa::new("hybrid demo")?;
    let certificate = authority.issue(&[NOTES_HOST, WHOAMI_HOST])?;
    let certificates = Certificates::new();
    certificates.add(&certificate);
    let authority_file = root.join("ca.pem");
    std::fs::write(&authority_file, authority.certificate_pem())?;

    let wanted = (free(options.https_port).await?, free(options.http_port).await?);
    let (proxy, containers) = match open(network, &certificates, wanted).await {
        Ok(opened) => opened,
        // Somebody took a port that was free a moment ago.
        Err(_) => open(network, &certificates, (loopback(), loopback())).await?,
    };
    let proxy = Arc::new(proxy);

    let whoami = whoami(&network.home_2).await?;
    let listener = listen(options.page_port).await?;
    let page_address = listener.local_addr()?;
    let board = Arc::new(Board::new(network, site, proxy.clone()));
    let page = web::serve(listener, move |request| page::answer(board.clone(), request));
    Ok(Edge {
        https: proxy.https_addr().ok_or("the edge has no https address")?,
        http: proxy.http_addr().ok_or("the edge has no http address")?,
        page: page_address,
        tls: trust(authority.certificate_pem())?,
        authority: authority_file,
        addresses: (network.home_1.address(), network.home_2.address()),
        proxy,
        containers,
        _servers: [whoami, page],
    })
}

/// Opens the proxy on an HTTPS and an HTTP address.
async fn open(
    network: &Network,
    certificates: &Certificates,
    (https, http): (SocketAddr, SocketAddr),
) -> Result<(Proxy, MemoryProviderHandle), StepError> {
    let mut config = Config::default();
    config.https = Some(https);
    config.http = Some(http);
    config.redirect_to_https = true;
    config.dial_timeout = DIAL_TIMEOUT;
    config.hold_unavailable = HOLD;
    let (provider, containers) = MemoryProvider::new("demo");
    let proxy = Proxy::builder(config)
        .provider(provider)
        .dialer(MeshDialer(network.vm.stack.clone()))
        .certificates(certificates.clone())
        .start()
        .await?;
    Ok((proxy, containers))
}

/// Listens on `port` of loopback, or on a free one when somebody has it.
async fn listen(port: u16) -> Result<TcpListener, StepError> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => Ok(TcpListener::bind(loopback()).await?),
    }
}

/// The address of `port` on loopback, or of a free one when somebody has it.
async fn free(port: u16) -> Result<SocketAddr, StepError> {
    Ok(listen(port).await?.local_addr()?)
}

/// A service that says which node answers and what the proxy told it.
async fn whoami(node: &Node) -> Result<Server, StepError> {
    let listener = node.stack.listen(WHOAMI_PORT).await?;
    let name = node.name;
    Ok(web::serve(listener, move |request| async move {
        let mut text = format!("served by {name}\n");
        for (key, value) in request.headers() {
            text.push_str(&format!("{key}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        web::reply(StatusCode::OK, "text/plain; charset=utf-8", text)
    }))
}

/// What Docker would tell of the two containers: the notes with labels of Traefik v1, whoami with those of v3.
fn snapshot(notes: Option<IpAddr>, whoami: IpAddr) -> Snapshot {
    let mut first = Container::new("notes.1")
        .with_label("traefik.frontend.rule", format!("Host:{NOTES_HOST}"))
        .with_label("traefik.port", NOTES_PORT.to_string())
        .with_up(notes.is_some());
    first.address = notes.map(Into::into);
    let second = Container::new("whoami.1")
        .with_address(whoami)
        .with_label("traefik.http.routers.whoami.rule", format!("Host(`{WHOAMI_HOST}`)"))
        .with_label("traefik.http.routers.whoami.tls", "true")
        .with_label("traefik.http.services.whoami.loadbalancer.server.port", WHOAMI_PORT.to_string());
    Snapshot::from_iter([first, second])
}
