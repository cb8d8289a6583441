//! Step *move*: the notes move from home-1 to home-2 while eight clients write, and nothing is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hybrid_examples::notes::{Check, Note, Notes, check_copy};
use hyper::StatusCode;
use tokio::task::JoinSet;

use super::edge::Edge;
use super::network::Network;
use super::report::{Proof, StepError, millis};
use super::site::{NOTES_PORT, Site, VOLUME};
use super::visitor::Visitor;

const CLIENTS: usize = 8;
/// How long the clients write before the move begins and after it ended.
const WRITE_FOR: Duration = Duration::from_millis(1200);
const PAUSE: Duration = Duration::from_millis(3);
/// A client that is told nothing waits this long before it tries again.
const RETRY: Duration = Duration::from_millis(50);
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

/// What one client saw.
#[derive(Default)]
struct Seen {
    /// Key, text and time of each note that was acknowledged.
    acked: Vec<(String, String, Instant)>,
    /// Answers that said: later.
    unavailable: u64,
    /// Requests that ended without an answer.
    broken: u64,
}

/// Moves the service and compares what was acknowledged with what is there.
pub async fn play(network: &Network, site: &mut Site, edge: &Arc<Edge>) -> Result<((), Proof), StepError> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(write(client, edge.clone(), stop.clone()));
    }
    tokio::time::sleep(WRITE_FOR).await;
    let began = Instant::now();
    relocate(network, site, edge).await?;
    let ended = Instant::now();
    tokio::time::sleep(WRITE_FOR).await;
    stop.store(true, Ordering::SeqCst);
    let seen = clients.join_all().await;
    compare(site, edge, &seen, began, ended).await
}

/// The same steps that a volume driver takes: stop, unmount (flush, replicate, release the lease), mount
/// elsewhere (take the lease, catch up, open), start.
async fn relocate(network: &Network, site: &mut Site, edge: &Edge) -> Result<(), StepError> {
    let notes = site.notes.take().ok_or("the notes do not run")?;
    edge.notes_at(None).await?;
    notes.stop().await;
    site.volumes_1.unmount(VOLUME, "notes.1").await?;
    let directory = site.volumes_2.mount(VOLUME, "notes.2").await?;
    let listener = network.home_2.stack.listen(NOTES_PORT).await?;
    site.notes = Some(Notes::start(&directory, network.home_2.name, listener)?);
    edge.notes_at(Some(network.home_2.address())).await?;
    Ok(())
}

async fn compare(
    site: &Site,
    edge: &Edge,
    seen: &[Seen],
    began: Instant,
    ended: Instant,
) -> Result<((), Proof), StepError> {
    let mut visitor = edge.visitor().await?;
    let answer = visitor.get("/notes").await?;
    let served_by = answer.headers.get("x-served-by").is_some_and(|node| node == "home-2");
    let stored: Vec<Note> = serde_json::from_slice(&answer.body)?;
    let mut times: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for note in &stored {
        *times.entry((&note.key, &note.text)).or_default() += 1;
    }
    let acked: Vec<_> = seen.iter().flat_map(|client| &client.acked).collect();
    let present =
        acked.iter().filter(|(key, text, _)| times.contains_key(&(key.as_str(), text.as_str()))).count();
    let check: Check = serde_json::from_slice(&visitor.get("/check").await?.body)?;
    let downtime = millis(downtime(&acked, began, ended));
    let moved_while_writing =
        acked.iter().any(|note| note.2 < began) && acked.iter().any(|note| note.2 > ended);

    let token = site.volume.home_2.flush().await?;
    site.volume.home_2.wait(&token, &[site.volume.home_1.device()], SYNC_TIMEOUT).await?;
    let equal = site.volume.settle(SYNC_TIMEOUT).await?;
    let replica = check_replica(&site.root).await?;
    let sound = check.integrity == "ok" && replica.integrity == "ok";

    let (acked, present) = (acked.len() as u64, present as u64);
    let epoch = site.volume.home_2.epoch();
    let proof = Proof::new()
        .must("acked", acked, "more than 0", acked > 0)
        .must("present", present, &acked.to_string(), present == acked)
        .must("duplicates", check.duplicates, "0", check.duplicates == 0)
        .number("downtime_ms", downtime)
        .number("unavailable_answers", seen.iter().map(|client| client.unavailable).sum())
        .number("unanswered_requests", seen.iter().map(|client| client.broken).sum())
        .must("written_before_and_after", moved_while_writing.into(), "1", moved_while_writing)
        .must("served_by_home_2", served_by.into(), "1", served_by)
        .must("integrity_ok", sound.into(), "1", sound)
        .must("digests_equal", equal.into(), "1", equal)
        .must("replica_notes", replica.notes, &check.notes.to_string(), replica.notes == check.notes)
        .must("epoch", epoch, "at least 2", epoch >= 2)
        .sentence(format!(
            "moved to home-2 (epoch {epoch}) under {CLIENTS} writers: {present} of {acked} acknowledged notes there, \
             {} twice, {downtime} ms without an acknowledgement",
            check.duplicates
        ));
    Ok(((), proof))
}

/// Looks into home-1's replica by way of a copy: nobody opens a file that a replica may replace.
async fn check_replica(root: &Path) -> Result<Check, StepError> {
    let replica = Site::directory(root, "home-1", VOLUME);
    tokio::task::spawn_blocking(move || check_copy(&replica)).await?
}

/// The longest time around the move in which nobody had a note acknowledged.
fn downtime(acked: &[&(String, String, Instant)], began: Instant, ended: Instant) -> Duration {
    let mut times: Vec<Instant> = acked.iter().map(|note| note.2).collect();
    times.sort();
    let gaps = times.windows(2).filter(|gap| gap[1] >= began && gap[0] <= ended);
    gaps.map(|gap| gap[1] - gap[0]).max().unwrap_or_else(|| ended - began)
}

/// One client: writes note after note; each is repeated, with its key, until it is acknowledged.
async fn write(client: usize, edge: Arc<Edge>, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let mut connection: Option<Visitor> = None;
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let (key, text) = (format!("client-{client}-{n}"), format!("note {n} of client {client}"));
        let mut visitor = match connection.take() {
            Some(visitor) => visitor,
            None => match edge.visitor().await {
                Ok(visitor) => visitor,
                Err(_) => {
                    seen.broken += 1;
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            },
        };
        match visitor.post(&key, &text).await {
            Ok(answer) if answer.status == StatusCode::CREATED => {
                seen.acked.push((key, text, Instant::now()));
                n += 1;
                connection = Some(visitor);
                tokio::time::sleep(PAUSE).await;
            }
            Ok(answer) => {
                seen.unavailable += 1;
                tokio::time::sleep(answer.retry_after().unwrap_or(RETRY)).await;
            }
            Err(_) => {
                seen.broken += 1;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    seen
}
