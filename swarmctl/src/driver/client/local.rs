//! What an engine does by itself, not as a part of a Swarm.

use std::collections::BTreeSet;

use hyper::body::Incoming;
use serde_json::{Value, json};

use super::super::json::{list, text};
use super::{Swarm, filtered};
use crate::error::SwarmError;

impl Swarm {
    /// A stream that says nothing and ends with the engine.
    pub(in crate::driver) async fn lifeline(&self) -> Result<Incoming, SwarmError> {
        match self.http.stream(&filtered("/events", &json!({"type": ["daemon"]}))).await {
            Ok(stream) => Ok(stream),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Makes the engine meet a volume plugin now, which it does otherwise only when somebody wants a volume of it.
    pub(in crate::driver) async fn meet_volume_driver(&self, name: &str) -> Result<(), SwarmError> {
        self.ask(&filtered("/volumes", &json!({"driver": [name]}))).await.map(drop)
    }

    /// Ends the engine's containers that use one of these volumes, at once.
    ///
    /// # Errors
    /// When the engine does not answer. Containers that it does not end are left to it: it says so in its log.
    pub async fn kill_users_of(&self, volumes: &BTreeSet<String>) -> Result<(), SwarmError> {
        let containers = self.ask("/containers/json").await?;
        let uses = |it: &&Value| {
            list(&it["Mounts"]).any(|it| text(&it["Name"]).is_some_and(|it| volumes.contains(&it)))
        };
        let ids = list(&containers).filter(uses).filter_map(|it| text(&it["Id"]));
        let kills = ids.map(|id| async move {
            // The answer comes only after the volumes are unmounted. One that has ended meanwhile is what was wanted.
            let _ = self.http.post(&format!("/containers/{id}/kill"), &Value::Null).await;
        });
        futures_util::future::join_all(kills).await;
        Ok(())
    }

    /// The volumes of the engine's containers that run.
    pub(in crate::driver) async fn volumes_in_use(&self) -> Result<BTreeSet<String>, SwarmError> {
        let containers = self.ask("/containers/json").await?;
        Ok(list(&containers).flat_map(|it| list(&it["Mounts"])).filter_map(|it| text(&it["Name"])).collect())
    }
}
