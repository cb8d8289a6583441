//! The read-only status page: nodes, mesh paths, routes, replicas. Rendered at each request, no script.

use std::fmt::Write as _;
use std::sync::Arc;

use edgeproxy::Proxy;
use hybrid_examples::web::{self, Reply, escape};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use syncfs::Folder;

use super::network::Network;
use super::site::Site;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;\
color:#1c2733;background:#fbfbf9}h1{margin-bottom:0}h2{margin:2rem 0 .4rem;font-size:1.1rem}table{border-collapse:\
collapse;width:100%}th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid #dfe3e0;vertical-align:\
top}th{font-weight:600;color:#5b6770}code{font-size:.9em}.good{color:#11733c}.bad{color:#b3261e}";

/// What the page looks at.
pub struct Board {
    network: Network,
    folders: Vec<(&'static str, &'static str, Folder)>,
    proxy: Arc<Proxy>,
}

impl Board {
    /// A page over the whole set-up.
    pub fn new(network: &Network, site: &Site, proxy: Arc<Proxy>) -> Self {
        let folders = vec![
            ("notes", "home-1", site.volume.home_1.clone()),
            ("notes", "home-2", site.volume.home_2.clone()),
            ("shared", "home-1", site.shared.home_1.clone()),
            ("shared", "home-2", site.shared.home_2.clone()),
        ];
        Self { network: network.clone(), folders, proxy }
    }
}

/// Answers a request for the page.
pub async fn answer(board: Arc<Board>, request: Request<Incoming>) -> Reply {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return web::reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "this page is read-only\n");
    }
    if request.uri().path() != "/" {
        return web::reply(StatusCode::NOT_FOUND, "text/plain", "there is one page: /\n");
    }
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <meta http-equiv=refresh content=2><title>hybrid</title><style>{STYLE}</style><h1>hybrid</h1>\
         <p>One VM in front, two homes behind, on this machine.</p>"
    );
    paths(&mut page, &board.network);
    routes(&mut page, &board.proxy);
    replicas(&mut page, &board.folders);
    conflicts(&mut page, &board.folders).await;
    web::reply(StatusCode::OK, "text/html; charset=utf-8", page)
}

fn paths(page: &mut String, network: &Network) {
    table(page, "Mesh", &["node", "address", "line", "peer", "path", "state", "round trip"]);
    for node in network.nodes() {
        for peer in node.mesh.peers() {
            let path = peer.endpoint.to_string();
            let rtt = peer
                .rtt
                .map_or_else(|| "-".to_owned(), |rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1000.0));
            let cells = [
                node.name.to_owned(),
                node.address().to_string(),
                node.mesh.local_addr().to_string(),
                peer.claims.name.clone(),
                path,
                format!("{:?}", peer.state).to_lowercase(),
                rtt,
            ];
            row(page, &cells);
        }
    }
    page.push_str("</table>");
}

fn routes(page: &mut String, proxy: &Proxy) {
    table(page, "Routes", &["rule", "router", "servers"]);
    for route in proxy.routes().routes() {
        let servers: Vec<String> = route
            .service
            .servers
            .iter()
            .map(|server| match &server.upstream {
                Some(upstream) if server.up => format!("{}: {upstream}", server.container),
                _ => format!("{}: on the move", server.container),
            })
            .collect();
        row(page, &[route.rule_text.clone(), route.name.clone(), servers.join(", ")]);
    }
    page.push_str("</table>");
    for diagnostic in proxy.diagnostics() {
        let _ = write!(page, "<p class=bad>{}</p>", escape(&diagnostic.to_string()));
    }
}

fn replicas(page: &mut String, folders: &[(&str, &str, Folder)]) {
    table(page, "Replicas", &["folder", "node", "files", "bytes", "epoch", "role", "peer in sync"]);
    for (name, node, folder) in folders {
        let status = folder.status();
        let peers: Vec<String> = status
            .peers
            .iter()
            .map(|peer| match (peer.connected, peer.behind) {
                (true, 0) => "yes".to_owned(),
                (true, behind) => format!("{behind} changes behind"),
                (false, _) => "not connected".to_owned(),
            })
            .collect();
        let cells = [
            (*name).to_owned(),
            (*node).to_owned(),
            status.files.to_string(),
            status.bytes.to_string(),
            status.epoch.to_string(),
            format!("{:?}", status.role).to_lowercase(),
            peers.join(", "),
        ];
        row(page, &cells);
        for problem in &status.problems {
            let _ = write!(page, "<tr><td colspan=7 class=bad>{}</td></tr>", escape(&problem.what));
        }
    }
    page.push_str("</table>");
}

async fn conflicts(page: &mut String, folders: &[(&str, &str, Folder)]) {
    table(page, "Conflicts", &["folder", "node", "file", "other version kept as"]);
    for (name, node, folder) in folders {
        for conflict in folder.conflicts().await.unwrap_or_default() {
            let cells = [
                (*name).to_owned(),
                (*node).to_owned(),
                conflict.path.to_string(),
                conflict.kept_as.to_string(),
            ];
            row(page, &cells);
        }
    }
    page.push_str("</table>");
}

fn table(page: &mut String, title: &str, columns: &[&str]) {
    let _ = write!(page, "<h2>{title}</h2><table><tr>");
    columns.iter().for_each(|column| page.push_str(&format!("<th>{column}")));
    page.push_str("</tr>");
}

fn row(page: &mut String, cells: &[String]) {
    page.push_str("<tr>");
    for cell in cells {
        let class = match cell.as_str() {
            "up" | "yes" => " class=good",
            "down" | "not connected" => " class=bad",
            _ => "",
        };
        let _ = write!(page, "<td{class}>{}</td>", escape(cell));
    }
    page.push_str("</tr>");
}
