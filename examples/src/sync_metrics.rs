//! What a `syncd` counts, as Prometheus text over HTTP. Labels name folders and peers, never files: there are as many
//! series as the configuration says, whatever the folders hold.
//!
//! | metric | meaning |
//! |---|---|
//! | `syncfs_first_scan` | 1 while the daemon still looks through a folder for the first time; all but the next is missing then |
//! | `syncfs_files_read_total` | files that were read since the start |
//! | `syncfs_files`, `syncfs_bytes` | live files of a folder and their size |
//! | `syncfs_sequence`, `syncfs_epoch` | local changes so far; highest lease number seen |
//! | `syncfs_pending` | versions of peers that are decided on and not durable yet |
//! | `syncfs_conflicts`, `syncfs_branches`, `syncfs_problems` | what a person should look at |
//! | `syncfs_restless`, `syncfs_restless_seconds` | databases and groups without a pause that is long enough to read them; for how long the first of them |
//! | `syncfs_unmaterialised`, `syncfs_unmaterialised_bytes` | databases that are newer than their visible files; bytes of deltas beside those |
//! | `syncfs_consistent` | 1 while what stands here is known to be consistent |
//! | `syncfs_refused_total` | versions refused because of a stale epoch |
//! | `syncfs_differing` | paths of which a peer has a version that a replica which only sends did not take |
//! | `syncfs_paused` | 1 while a folder cannot work |
//! | `syncfs_receiving_paused` | 1 while it cannot, or has no room for what peers have |
//! | `syncfs_held_deletions` | files that vanished at once and wait for a confirmation |
//! | `syncfs_peer_connected`, `syncfs_peer_behind` | whether a session is open; changes that the peer lacks |
//! | `syncfs_peer_left_files`, `syncfs_peer_left_bytes` | what is still to come from the peer |
//! | `syncfs_peer_sessions_total`, `syncfs_peer_received_bytes_total`, `syncfs_peer_sent_bytes_total` | since the start |
//! | `syncd_refused_total` | streams that did not become a session, sessions that failed, by `reason` |

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::StatusCode;
use tokio::net::TcpListener;

use crate::daemon::{Context, Failure};
use crate::sync_node::Node;
use crate::sync_report::{self, SyncReport};
use crate::sync_time;
use crate::web::{self, Reply, Server};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves `/metrics` on an address; returns the server and where it really listens.
pub async fn serve(node: Arc<Node>, address: SocketAddr) -> Result<(Server, SocketAddr), Failure> {
    let cannot = || format!("cannot listen on {address} for metrics");
    let listener = TcpListener::bind(address).await.context(cannot())?;
    let bound = listener.local_addr().context(cannot())?;
    let server = web::serve(listener, move |request| {
        let node = Arc::clone(&node);
        async move {
            match request.uri().path() {
                "/metrics" => answer(&node),
                _ => web::reply(StatusCode::NOT_FOUND, TEXT, "the metrics are at /metrics\n"),
            }
        }
    });
    Ok((server, bound))
}

fn answer(node: &Node) -> Reply {
    let folders = node.folders().iter().enumerate().map(|(place, share)| {
        (share.served.config.root.display().to_string(), node.status(place), share.files_read())
    });
    let refused: Vec<_> = node.refusals().collect();
    web::reply(StatusCode::OK, TEXT, text(&folders.collect::<Vec<_>>(), &refused))
}

/// The text of some folders, by path and with the files that were read, and of the refusals.
fn text(folders: &[(String, SyncReport, u64)], refused: &[(&'static str, u64)]) -> String {
    let mut text = String::new();
    let scans = folders.iter().map(|(path, report, _)| (&**path, u64::from(report.first_scan.is_some())));
    family(&mut text, "syncfs_first_scan", "gauge", scans);
    let read = folders.iter().map(|(path, _, read)| (&**path, *read));
    family(&mut text, "syncfs_files_read_total", "counter", read);
    let open = folders.iter().filter(|(_, report, _)| report.first_scan.is_none());
    let folders: Vec<_> = open.map(|(path, report, _)| (&**path, report)).collect();
    let folder = |text: &mut String, name: &str, kind: &str, value: &dyn Fn(&SyncReport) -> u64| {
        family(text, name, kind, folders.iter().map(|(path, report)| (*path, value(report))));
    };
    folder(&mut text, "syncfs_files", "gauge", &|report| report.files);
    folder(&mut text, "syncfs_bytes", "gauge", &|report| report.bytes);
    folder(&mut text, "syncfs_sequence", "gauge", &|report| report.sequence);
    folder(&mut text, "syncfs_epoch", "gauge", &|report| report.epoch);
    folder(&mut text, "syncfs_pending", "gauge", &|report| report.pending);
    folder(&mut text, "syncfs_conflicts", "gauge", &|report| report.conflicts);
    folder(&mut text, "syncfs_problems", "gauge", &|report| report.problems.len() as u64);
    folder(&mut text, "syncfs_differing", "gauge", &|report| report.differing);
    folder(&mut text, "syncfs_paused", "gauge", &|report| {
        u64::from(report.paused.as_ref().is_some_and(|pause| !pause.only_receiving))
    });
    folder(&mut text, "syncfs_receiving_paused", "gauge", &|report| u64::from(report.paused.is_some()));
    folder(&mut text, "syncfs_consistent", "gauge", &|report| u64::from(report.consistency.state == "known"));
    folder(&mut text, "syncfs_branches", "gauge", &|report| report.branches);
    folder(&mut text, "syncfs_held_deletions", "gauge", &|report| report.held_deletions);
    folder(&mut text, "syncfs_restless", "gauge", &|report| report.restless.len() as u64);
    let now = sync_time::now_ns() / 1_000_000_000;
    folder(&mut text, "syncfs_restless_seconds", "gauge", &|report| {
        let since = report.restless.iter().map(|restless| restless.since).min();
        u64::try_from(since.map_or(0, |since| now - since)).unwrap_or(0)
    });
    folder(&mut text, "syncfs_unmaterialised", "gauge", &|report| report.unmaterialised.len() as u64);
    folder(&mut text, "syncfs_unmaterialised_bytes", "gauge", &|report| {
        report.unmaterialised.iter().map(|behind| behind.bytes).sum()
    });
    folder(&mut text, "syncfs_refused_total", "counter", &|report| report.refused);
    let peer = |text: &mut String,
                name: &str,
                kind: &str,
                value: &dyn Fn(&sync_report::PeerReport) -> u64| {
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for (path, report) in &folders {
            for peer in &report.peers {
                let who = escape(peer.name.as_ref().unwrap_or(&peer.device));
                let _ =
                    writeln!(text, "{name}{{folder=\"{}\",peer=\"{who}\"}} {}", escape(path), value(peer));
            }
        }
    };
    peer(&mut text, "syncfs_peer_connected", "gauge", &|peer| u64::from(peer.connected));
    peer(&mut text, "syncfs_peer_behind", "gauge", &|peer| peer.behind);
    peer(&mut text, "syncfs_peer_left_files", "gauge", &|peer| peer.left_files);
    peer(&mut text, "syncfs_peer_left_bytes", "gauge", &|peer| peer.left_bytes);
    peer(&mut text, "syncfs_peer_sessions_total", "counter", &|peer| peer.sessions);
    peer(&mut text, "syncfs_peer_received_bytes_total", "counter", &|peer| peer.received_bytes);
    peer(&mut text, "syncfs_peer_sent_bytes_total", "counter", &|peer| peer.sent_bytes);
    let _ = writeln!(text, "# TYPE syncd_refused_total counter");
    for (reason, count) in refused {
        let _ = writeln!(text, "syncd_refused_total{{reason=\"{reason}\"}} {count}");
    }
    text
}

/// A metric of folders, by path. The text format wants all that is of one metric together.
fn family<'a>(text: &mut String, name: &str, kind: &str, values: impl Iterator<Item = (&'a str, u64)>) {
    let _ = writeln!(text, "# TYPE {name} {kind}");
    for (path, value) in values {
        let _ = writeln!(text, "{name}{{folder=\"{}\"}} {value}", escape(path));
    }
}

/// A label's value, as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_of_one_metric_stands_together() {
        let folders = ["/a", "/b"].map(|path| (path.to_owned(), SyncReport::default(), 7));
        let text = text(&folders, &[("slow", 1)]);
        let mut metric = "";
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => metric = rest.split(' ').next().unwrap(),
                None => assert_eq!(line.split('{').next(), Some(metric), "{text}"),
            }
        }
        assert!(text.contains("syncfs_files_read_total{folder=\"/b\"} 7\n"), "{text}");
    }

    #[test]
    fn a_path_cannot_break_out_of_its_label() {
        assert_eq!(escape("/a\"} 1\nx\\"), "/a\\\"} 1\\nx\\\\");
    }
}
