//! A Swarm that is looked at again and again: whenever its event stream says something, and after a pause, for tasks, of which it
//! says nothing. The stream is opened before the first look after it, so that nothing that happens later is missed.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::super::convert;
use super::super::json::list;
use super::{Swarm, filtered};
use crate::error::SwarmError;
use crate::events::{Change, Snapshot};

/// How long one waits for more events after the first one, so that many of them are one look.
const TOGETHER: Duration = Duration::from_millis(50);

/// How a Swarm is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// The pause after which it is looked at although nothing was said.
    pub refresh: Duration,
    /// The shortest pause after the engine was lost; it doubles each time.
    pub backoff_min: Duration,
    /// The longest one.
    pub backoff_max: Duration,
}

impl Default for WatchOptions {
    /// A look each second, 100 ms to 10 s after a loss.
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(1),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// What there is to say about a Swarm that is watched.
#[derive(Debug)]
pub enum Update {
    /// What happened since the last look, also while the engine was lost. Empty only when it was, and nothing did.
    Changes(Vec<Change>),
    /// The engine is lost, and tried again until it is back. Said once each time.
    Lost(SwarmError),
}

/// A Swarm that is watched. It holds one snapshot and no queue: whoever asks late is told the sum of what happened.
#[derive(Debug)]
pub struct Watch {
    swarm: Swarm,
    options: WatchOptions,
    snapshot: Snapshot,
    /// The event stream; `None` while the engine is lost.
    stream: Option<Incoming>,
    /// Whether it was said that the engine is lost, and not yet what happened since.
    is_lost: bool,
    /// When the Swarm is looked at next.
    look_at: Instant,
    /// The pause after the next failure.
    backoff: Duration,
}

impl Swarm {
    /// Watches the Swarm from now on.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes), for the first look.
    pub async fn watch(&self, options: WatchOptions) -> Result<Watch, SwarmError> {
        let stream = self.listen().await?;
        let snapshot = self.snapshot().await?;
        Ok(Watch {
            swarm: self.clone(),
            options,
            snapshot,
            stream: Some(stream),
            is_lost: false,
            look_at: Instant::now() + options.refresh,
            backoff: options.backoff_min,
        })
    }

    /// What the Swarm looks like now.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn snapshot(&self) -> Result<Snapshot, SwarmError> {
        let (nodes, services, tasks, networks) =
            tokio::try_join!(self.nodes(), self.services(), self.tasks(None), self.swarm_networks())?;
        Ok(Snapshot {
            nodes: nodes.into_iter().map(|it| (it.id.clone(), it)).collect(),
            services: services.into_iter().map(|it| (it.id.clone(), it)).collect(),
            tasks: tasks.into_iter().map(|it| (it.id.clone(), it)).collect(),
            networks: networks.into_iter().map(|it| (it.id.clone(), it)).collect(),
        })
    }

    /// The networks that reach over the nodes.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn swarm_networks(&self) -> Result<Vec<crate::cluster::Network>, SwarmError> {
        list(&self.ask("/networks").await?).filter_map(convert::network).collect()
    }

    async fn listen(&self) -> Result<Incoming, SwarmError> {
        let types = json!({"type": ["node", "service", "network"], "scope": ["swarm"]});
        match self.http.stream(&filtered("/events", &types)).await {
            Ok(stream) => Ok(stream),
            Err(error) => Err(self.explain(error).await),
        }
    }
}

impl Watch {
    /// What the Swarm looked like last.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Waits for the next thing to say. Can be dropped at any time: what it had not said is said the next time.
    pub async fn next(&mut self) -> Update {
        loop {
            match self.stream {
                Some(_) => self.wait().await,
                None => sleep_until(self.look_at).await,
            }
            match self.look().await {
                Ok(after) => {
                    let changes = self.snapshot.changes_to(&after);
                    self.snapshot = after;
                    self.look_at = Instant::now() + self.options.refresh;
                    self.backoff = self.options.backoff_min;
                    if std::mem::take(&mut self.is_lost) || !changes.is_empty() {
                        return Update::Changes(changes);
                    }
                }
                Err(error) => {
                    self.stream = None;
                    self.look_at = Instant::now() + self.backoff;
                    self.backoff = (self.backoff * 2).min(self.options.backoff_max);
                    if !std::mem::replace(&mut self.is_lost, true) {
                        return Update::Lost(error);
                    }
                }
            }
        }
    }

    /// Until something was said, or it is time. What was said is not read: it would not be enough.
    async fn wait(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        match timeout_at(self.look_at, stream.frame()).await {
            Err(_) => {}
            Ok(Some(Ok(_))) => {
                // To be here again at once if this is dropped.
                self.look_at = Instant::now();
                let together = Instant::now() + TOGETHER;
                while let Ok(Some(Ok(_))) = timeout_at(together, stream.frame()).await {}
            }
            Ok(None | Some(Err(_))) => {
                // The engine stops. A moment later it is known whether it comes back.
                self.stream = None;
                self.look_at = Instant::now();
                sleep(TOGETHER).await;
            }
        }
    }

    async fn look(&mut self) -> Result<Snapshot, SwarmError> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.swarm.listen().await?,
        };
        // Put back before the look, which can be dropped.
        self.stream = Some(stream);
        self.swarm.snapshot().await
    }
}
