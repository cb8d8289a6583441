//! Whether a volume can change hands: which node lacks how much of it, as the node knows that has it.
//!
//! Whoever is about to move a service asks the driver of its own node, which asks the one of the node that writes, over the
//! stream between them. One question and one answer a stream, a line of JSON each. A mount waits for more than this in any case,
//! until the next node has what was written last; asked before, the service can stay and serve meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use swarmctl::name::NameError;
use swarmctl::{NodeName, VolumeName};
use syncfs::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};

use crate::lease_hop::{ask, read_line, write_line};
use crate::volume_node::VolumeNode;

/// What a stream with such a question is labelled: no volume can be called that.
pub const LABEL: &str = ".lag";
/// How long one look at what arrives may take.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(4);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a peer may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    volume: String,
    to: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Lag(Option<String>),
    Failed(String),
}

/// Which of the nodes `to` lacks how much of what those of `from` have, in words.
///
/// # Errors
/// In words, if a node of `from` does not tell.
pub async fn lag(
    node: &VolumeNode,
    volume: &VolumeName,
    from: &[NodeName],
    to: &[NodeName],
) -> Result<Option<String>, String> {
    let to: Vec<String> = to.iter().map(ToString::to_string).collect();
    for writer in from {
        let lag = match writer == node.name() {
            true => here(node, volume, &to).await?,
            false => there(node, volume, writer, &to).await?,
        };
        if lag.is_some() {
            return Ok(lag);
        }
    }
    Ok(None)
}

/// Serves one question of a peer.
///
/// # Errors
/// If the stream breaks.
pub async fn serve(
    node: &VolumeNode,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let line = timeout(ANSWER_LIMIT, read_line(&mut stream)).await??;
    let told = async {
        let Question { volume, to } = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        let volume = volume.parse().map_err(|error: NameError| error.to_string())?;
        here(node, &volume, &to).await
    };
    write_line(&mut stream, &told.await.map_or_else(Told::Failed, Told::Lag)).await
}

async fn there(
    node: &VolumeNode,
    volume: &VolumeName,
    writer: &NodeName,
    to: &[String],
) -> Result<Option<String>, String> {
    let peer = node.peers().find(|peer| peer.name == *writer);
    let peer = peer
        .ok_or_else(|| format!("{writer} has the volume, and is not among the peers of {}", node.name()))?;
    let question = Question { volume: volume.to_string(), to: to.to_vec() };
    let asking = ask(node, peer, LABEL, &question);
    let told =
        timeout(ARRIVAL_LIMIT + ANSWER_LIMIT, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()));
    match told.map_err(|error| format!("{writer}: {error}"))? {
        Told::Lag(lag) => Ok(lag),
        Told::Failed(error) => Err(format!("{writer}: {error}")),
    }
}

/// Waits until these nodes have what is known here now. All that is written meanwhile does not count. What is written without a
/// pause in which it could be read comes to nobody before its writer stops: when nothing has arrived for a while, nothing more is
/// waited for. A single file that takes longer than that looks the same, and is left to the mount.
async fn here(node: &VolumeNode, volume: &VolumeName, to: &[String]) -> Result<Option<String>, String> {
    let replica =
        node.replica(volume).ok_or_else(|| format!("{} has no replica of the volume", node.name()))?;
    let (began, first) = (Instant::now(), replica.folder.current_status().await);
    let mut status = first.clone();
    loop {
        let lag = to.iter().filter(|name| *name != node.name().as_str()).find_map(|name| {
            let device = node.peers().find(|peer| peer.name.as_str() == name).map(|peer| peer.id);
            let of = |status: &Status| status.peers.iter().find(|peer| Some(peer.device) == device).cloned();
            let Some(peer) = of(&status) else { return Some(format!("{name}, which has no replica yet")) };
            if !peer.connected {
                return Some(format!("{name}, which is not connected"));
            }
            let arrives = of(&first).is_none_or(|before| before.acked < peer.acked);
            let is_over = began.elapsed() >= ARRIVAL_LIMIT && !arrives;
            (peer.acked < first.sequence && !is_over)
                .then(|| format!("{name}, which lacks {} changes", peer.behind))
        });
        if lag.is_none() || began.elapsed() >= ARRIVAL_LIMIT {
            return Ok(lag);
        }
        sleep(LOOK_EVERY).await;
        status = replica.folder.current_status().await;
    }
}
