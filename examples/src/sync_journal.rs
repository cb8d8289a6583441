//! What happened in a folder lately: its events, numbered, as JSON, for whoever asks later than they happened.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syncfs::{Event, Folder};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

/// The events that are kept; older ones are forgotten, and whoever missed them is told how many.
pub const EVENTS_MAX: usize = 4096;
/// The most events in one answer.
pub const ANSWER_MAX: usize = 512;

/// An event with its number and time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// Grows by one with each event; begins at 1 when the daemon starts.
    pub number: u64,
    /// Unix time in milliseconds at which the daemon learned of it.
    pub at_ms: u64,
    /// Its kind and what belongs to it.
    #[serde(flatten)]
    pub what: Value,
}

/// Some events in order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Extract {
    /// How many of those that were asked for are forgotten.
    pub missed: u64,
    /// The events, oldest first.
    pub events: Vec<Noted>,
}

/// The latest events of one folder.
#[derive(Debug, Default)]
pub struct Journal {
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// [`Noted`] as JSON text, which takes a fraction of the memory: there are thousands, and hardly ever is one asked for.
    events: VecDeque<Box<str>>,
    last: u64,
}

impl Journal {
    /// Writes down what a folder says, until it is closed.
    pub async fn follow(&self, folder: &Folder) {
        let mut events = folder.subscribe();
        loop {
            match events.recv().await {
                Ok(event) => self.note(described(&event)),
                Err(RecvError::Lagged(count)) => self.note(json!({ "event": "missed", "count": count })),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// The events after number `after`, as soon as there is one; none if that takes longer than `wait`.
    pub async fn since(&self, after: u64, wait: Duration) -> Extract {
        let waiting = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                let extract = self.extract(after);
                if !extract.events.is_empty() {
                    return extract;
                }
                news.await;
            }
        };
        tokio::time::timeout(wait, waiting).await.unwrap_or_default()
    }

    /// The number of the latest event.
    pub fn last(&self) -> u64 {
        self.kept().last
    }

    /// Writes down one more event.
    pub fn note(&self, what: Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut kept = self.kept();
        kept.last += 1;
        let number = kept.last;
        if kept.events.len() == EVENTS_MAX {
            kept.events.pop_front();
        }
        let noted = json!(Noted { number, at_ms, what });
        kept.events.push_back(noted.to_string().into_boxed_str());
        drop(kept);
        self.news.notify_waiters();
    }

    fn extract(&self, after: u64) -> Extract {
        let kept = self.kept();
        let first = kept.last + 1 - kept.events.len() as u64;
        let skipped = usize::try_from(after.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        let events = kept.events.iter().skip(skipped).take(ANSWER_MAX);
        let events = events.map(|text| serde_json::from_str(text).expect("it was written here"));
        Extract { missed: (first - 1).saturating_sub(after), events: events.collect() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event as JSON: `event` names its kind.
fn described(event: &Event) -> Value {
    match event {
        Event::Changed(path) => json!({ "event": "changed", "path": path.to_string() }),
        Event::Applied(path) => json!({ "event": "applied", "path": path.to_string() }),
        Event::Conflict(conflict) => json!({
            "event": "conflict",
            "path": conflict.path.to_string(),
            "kept_as": conflict.kept_as.to_string(),
            "writer": conflict.writer,
        }),
        Event::SetAside { path, branch } => {
            json!({ "event": "set-aside", "path": path.to_string(), "branch": branch })
        }
        Event::BranchExpired(branch) => json!({ "event": "branch-expired", "branch": branch }),
        Event::Repaired(path) => json!({ "event": "repaired", "path": path.to_string() }),
        Event::Refused(path) => json!({ "event": "refused", "path": path.to_string() }),
        Event::Fenced { epoch, holder } => {
            json!({ "event": "fenced", "epoch": epoch, "holder": holder.to_string() })
        }
        Event::Acked { device, sequence } => {
            json!({ "event": "acked", "peer": device.to_string(), "sequence": sequence })
        }
        Event::Connected(device) => json!({ "event": "connected", "peer": device.to_string() }),
        Event::Disconnected(device) => json!({ "event": "disconnected", "peer": device.to_string() }),
        Event::Differs(path) => json!({ "event": "differs", "path": path.to_string() }),
        Event::DeletionsHeld { files, of } => json!({ "event": "deletions-held", "files": files, "of": of }),
        Event::Paused(why) => json!({ "event": "paused", "why": why }),
        Event::Resumed => json!({ "event": "resumed" }),
        Event::PeerPaused { device, why } => {
            json!({ "event": "peer-paused", "peer": device.to_string(), "why": why })
        }
        Event::Problem(problem) => json!({
            "event": "problem",
            "path": problem.path.as_ref().map(ToString::to_string),
            "what": problem.what,
        }),
        // A newer library may tell of more.
        other => json!({ "event": "other", "what": format!("{other:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_events_are_kept_and_what_was_missed_is_counted() {
        let journal = Journal::default();
        assert!(journal.since(0, Duration::ZERO).await.events.is_empty());
        for number in 0..EVENTS_MAX + 10 {
            journal.note(json!({ "event": "acked", "sequence": number }));
        }
        let extract = journal.since(0, Duration::ZERO).await;
        assert_eq!((extract.missed, extract.events.len()), (10, ANSWER_MAX));
        assert_eq!(extract.events[0].number, 11);
        let last = journal.last();
        let extract = journal.since(last - 1, Duration::ZERO).await;
        assert_eq!((extract.missed, extract.events.len()), (0, 1));
        let line = serde_json::to_value(&extract.events[0]).unwrap();
        assert_eq!((&line["event"], &line["number"]), (&json!("acked"), &json!(last)));
    }

    #[tokio::test]
    async fn who_waits_is_told_at_once() {
        let journal = Journal::default();
        let waiting = journal.since(0, Duration::from_secs(60));
        let noting = async { journal.note(json!({ "event": "connected" })) };
        let (extract, ()) = tokio::join!(waiting, noting);
        assert_eq!(extract.events.len(), 1);
    }
}
