//! Lease records in Swarm's own Raft store: the labels of one config a volume, the only part of it that can be changed.
//! Changing them names the version that was read, and is refused when it is not the present one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::http::HttpError;
use super::super::json::{map, put, text};
use super::{Swarm, is_out_of_sequence};
use crate::error::{Kind, SwarmError};
use crate::lease::{LeaseError, LeaseState};
use crate::lease_labels::LABEL_PREFIX;
use crate::name::VolumeName;
use crate::store::{LeaseStore, Stored, StoredLease, Swap};

/// What the name of a record begins with.
const NAME_PREFIX: &str = "lease.";
/// A config has to hold something, which cannot be changed: `lease`, in base64.
const CONTENT: &str = "bGVhc2U=";
/// The longest name of a config, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Leases in the Raft store of a Swarm: there is no other server, and whoever can be told of a decision has it for good.
///
/// Nothing is written but when a lease is acquired, released or taken over.
pub type SwarmLease = StoredLease<SwarmStore>;

/// The records of a [`SwarmLease`].
#[derive(Debug, Clone)]
pub struct SwarmStore {
    swarm: Swarm,
}

/// A config as the engine has it.
struct Found {
    id: String,
    version: u64,
    labels: BTreeMap<String, String>,
}

impl SwarmStore {
    /// Records in the Swarm of this manager.
    #[must_use]
    pub fn new(swarm: Swarm) -> Self {
        Self { swarm }
    }

    async fn find(&self, name: &str) -> Result<Option<Found>, LeaseError> {
        match self.swarm.ask_about(Kind::Config, name).await {
            Ok(config) => {
                let (id, version) = (text(&config["ID"]), config["Version"]["Index"].as_u64());
                let (id, version) =
                    id.zip(version).ok_or_else(|| unavailable("the engine names no version"))?;
                Ok(Some(Found { id, version, labels: map(&config["Spec"]["Labels"]) }))
            }
            Err(SwarmError::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn told(&self, name: &str, answer: Result<Value, HttpError>) -> Result<Swap, LeaseError> {
        let Err(error) = answer else { return Ok(Swap::Done) };
        if is_out_of_sequence(&error) {
            return Ok(Swap::OutOfSequence);
        }
        match self.swarm.explain_about(error, Kind::Config, name).await {
            SwarmError::Exists { .. } | SwarmError::NotFound { .. } => Ok(Swap::OutOfSequence),
            error => Err(unavailable(error)),
        }
    }
}

impl LeaseStore for SwarmStore {
    async fn read(&self, volume: &VolumeName) -> Result<Option<Stored>, LeaseError> {
        let name = name_of(volume)?;
        let Some(Found { version, labels, .. }) = self.find(&name).await? else { return Ok(None) };
        let state = LeaseState::from_labels(&labels).map_err(|error| {
            unavailable(format!("the config {name} holds no lease that can be read: {error}"))
        })?;
        if state.volume != *volume {
            return Err(unavailable(format!("the config {name} holds the lease of {}", state.volume)));
        }
        Ok(Some(Stored { version, state }))
    }

    async fn compare_and_swap(&self, version: Option<u64>, state: &LeaseState) -> Result<Swap, LeaseError> {
        let name = name_of(&state.volume)?;
        let mut spec = json!({"Name": name, "Data": CONTENT, "Labels": state.to_labels()});
        let http = &self.swarm.http;
        let Some(version) = version else {
            return self.told(&name, http.post("/configs/create", &spec).await).await;
        };
        let Some(found) = self.find(&name).await?.filter(|found| found.version == version) else {
            return Ok(Swap::OutOfSequence);
        };
        // Somebody else's labels stay.
        let mut labels = found.labels;
        labels.retain(|key, _| !key.starts_with(LABEL_PREFIX));
        labels.extend(state.to_labels());
        put(&mut spec, "Labels", Some(json!(labels)));
        let path = format!("/configs/{}/update?version={version}", found.id);
        self.told(&name, http.post(&path, &spec).await).await
    }
}

fn name_of(volume: &VolumeName) -> Result<String, LeaseError> {
    let name = format!("{NAME_PREFIX}{volume}");
    if name.len() > NAME_BYTES_MAX {
        let most = NAME_BYTES_MAX - NAME_PREFIX.len();
        return Err(unavailable(format!(
            "the volume's name is longer than {most} bytes, choose a shorter one"
        )));
    }
    Ok(name)
}

fn unavailable(reason: impl ToString) -> LeaseError {
    LeaseError::Unavailable { reason: reason.to_string() }
}
