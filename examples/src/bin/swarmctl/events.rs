//! What happens in the Swarm.

use hybrid_examples::daemon::{self, Failure, StopSignal};
use serde_json::json;
use swarmctl::driver::{Update, WatchOptions};

use crate::{Session, tell};

pub async fn run(session: &Session) -> Result<(), Failure> {
    let mut stop = StopSignal::install()?;
    let mut watch = session.swarm.watch(WatchOptions::default()).await?;
    loop {
        let update = tokio::select! {
            update = watch.next() => update,
            () = stop.wait() => return Ok(()),
        };
        match update {
            Update::Lost(error) => tell(format_args!("{error}; trying again")),
            Update::Changes(changes) => {
                for change in changes {
                    let text = watch.snapshot().tell(&change);
                    let (kind, id) = change.subject();
                    let json = json!({"kind": kind, "id": id, "what": change.verb(), "text": text});
                    daemon::print(&if session.json { format!("{json}\n") } else { format!("{text}\n") })?;
                }
            }
        }
    }
}
