//! The client of a Docker Engine: what it is, and what its Swarm looks like.

mod cluster;
pub(super) mod connect;
mod leases;
mod local;
mod logs;
mod maintenance;
mod objects;
mod rollout;
mod services;
mod watch;

use serde_json::{Value, json};

pub use cluster::{InitOptions, JoinOptions, JoinTokens, NodeChange, SwarmChange};
pub use connect::Endpoint;
pub use leases::{SwarmLease, SwarmStore};
pub use logs::{LogOptions, Logs};
pub use maintenance::{DriverGate, Gate, MaintenanceProgress, NoGate};
pub use watch::{Update, Watch, WatchOptions};

use super::convert::{self, missing};
use super::http::{Http, HttpError};
use super::json::{list, text};
use crate::cluster::{ApiVersion, EngineInfo, Node, Service, SwarmState, Task};
use crate::error::{ConnectError, Kind, SwarmError};

/// How often a change is tried that somebody else was faster with.
const TRIES: u32 = 20;

/// A Docker Engine, and through it the Swarm that it is part of. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Swarm {
    http: Http,
    api_version: ApiVersion,
}

impl Swarm {
    /// Connects to an engine and agrees on an API version with it, from 1.41 (Docker 20.10) on.
    ///
    /// # Errors
    /// When nobody listens, it may not be used, or it is too old; each says what helps.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, ConnectError> {
        let (http, api_version) = Http::connect(&endpoint).await?;
        Ok(Self { http, api_version })
    }

    /// What the engine says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn info(&self) -> Result<EngineInfo, SwarmError> {
        let info = self.http.get("/info").await.map_err(refusal)?;
        Ok(EngineInfo {
            name: text(&info["Name"]).ok_or(missing("name"))?,
            version: text(&info["ServerVersion"]).unwrap_or_default(),
            api_version: self.api_version,
            swarm: convert::swarm_state(&info["Swarm"]),
            time: text(&info["SystemTime"]).unwrap_or_default(),
        })
    }

    /// The nodes of the Swarm, by name.
    ///
    /// # Errors
    /// When the engine is not a manager that works; each says what helps.
    pub async fn nodes(&self) -> Result<Vec<Node>, SwarmError> {
        let nodes = self.ask("/nodes").await?;
        let mut nodes = list(&nodes).map(convert::node).collect::<Result<Vec<_>, _>>()?;
        nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(nodes)
    }

    /// The services of the Swarm, by name.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn services(&self) -> Result<Vec<Service>, SwarmError> {
        let services = self.ask("/services?status=true").await?;
        let mut services = list(&services).map(convert::service).collect::<Result<Vec<_>, _>>()?;
        services.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(services)
    }

    /// The tasks of one service, given by name or ID, or of all; by service, slot and age, newest first.
    /// Swarm keeps a few of those that have ended.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::NotFound`].
    pub async fn tasks(&self, service: Option<&str>) -> Result<Vec<Task>, SwarmError> {
        let tasks = match service {
            None => self.ask("/tasks").await?,
            Some(name) => {
                let service = self.ask_about(Kind::Service, name).await?;
                let id = text(&service["ID"]).ok_or(missing("service ID"))?;
                self.ask(&filtered("/tasks", &json!({"service": [id]}))).await?
            }
        };
        let mut tasks = list(&tasks).map(convert::task).collect::<Result<Vec<_>, _>>()?;
        tasks.sort_by(|a, b| {
            (&a.service, a.slot, &a.node).cmp(&(&b.service, b.slot, &b.node)).then(b.since.cmp(&a.since))
        });
        Ok(tasks)
    }

    /// Everything that the engine says about one thing, by name or ID, in its own words.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::NotFound`].
    pub async fn inspect(&self, kind: Kind, name: &str) -> Result<Value, SwarmError> {
        self.ask_about(kind, name).await
    }

    /// What the engine says about many things.
    async fn ask(&self, path: &str) -> Result<Value, SwarmError> {
        match self.http.get(path).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// What the engine says about one thing, by name or ID.
    async fn ask_about(&self, kind: Kind, name: &str) -> Result<Value, SwarmError> {
        match self.http.get(&path(kind, name)?).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain_about(error, kind, name).await),
        }
    }

    /// Makes a thing.
    async fn create(&self, kind: Kind, name: &str, body: &Value) -> Result<Value, SwarmError> {
        match self.http.post(&format!("/{kind}s/create"), body).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain_about(error, kind, name).await),
        }
    }

    /// Reads what is said about a thing, changes it and writes it back, until nobody else did at the same time. What would
    /// stay the same is not written.
    async fn change(
        &self,
        kind: Kind,
        name: &str,
        options: &str,
        mut change: impl FnMut(Value) -> Result<Value, SwarmError>,
    ) -> Result<(), SwarmError> {
        for _ in 0..TRIES {
            let before = self.ask_about(kind, name).await?;
            let after = change(before["Spec"].clone())?;
            if after == before["Spec"] && options.is_empty() {
                return Ok(());
            }
            let version = before["Version"]["Index"].as_u64().ok_or(missing("version"))?;
            let place = match kind {
                Kind::Swarm => "/swarm".to_owned(),
                _ => path(kind, &text(&before["ID"]).ok_or(missing("ID"))?)?,
            };
            match self.http.post(&format!("{place}/update?version={version}{options}"), &after).await {
                Ok(_) => return Ok(()),
                Err(error) if is_out_of_sequence(&error) => {}
                Err(error) => return Err(self.explain_about(error, kind, name).await),
            }
        }
        Err(SwarmError::Contended { kind, name: name.to_owned(), tries: TRIES })
    }

    /// Removes a thing.
    async fn remove(&self, kind: Kind, name: &str, options: &str) -> Result<(), SwarmError> {
        match self.http.delete(&format!("{}{options}", path(kind, name)?)).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain_about(error, kind, name).await),
        }
    }

    /// What an error about one thing means.
    async fn explain_about(&self, error: HttpError, kind: Kind, name: &str) -> SwarmError {
        let HttpError::Refused { status, message } = &error else {
            return self.explain(error).await;
        };
        let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
        let (name, said) = (name.to_owned(), message.clone());
        match status {
            404 => SwarmError::NotFound { kind, name },
            _ if says(&["already in use by service"]) => SwarmError::PortTaken { message: said },
            _ if kind == Kind::Node && says(&["is not down"]) => SwarmError::NodeUp { node: name },
            409 if says(&["already exists", "name conflicts"]) => SwarmError::Exists { kind, name },
            400 | 403 | 409 | 500 if says(&["in use", "active endpoints", "is a cluster manager"]) => {
                SwarmError::InUse { kind, name, message: said }
            }
            _ => self.explain(error).await,
        }
    }

    /// What an error about the Swarm means.
    async fn explain(&self, error: HttpError) -> SwarmError {
        self.in_its_place(refusal(error)).await
    }

    /// An engine refuses in the same way whatever its place in the Swarm is, so it is asked for that.
    async fn in_its_place(&self, error: SwarmError) -> SwarmError {
        if let SwarmError::Engine { status: 406 | 503, .. } | SwarmError::Unavailable { .. } = error
            && let Ok(info) = self.info().await
        {
            match info.swarm {
                SwarmState::Inactive | SwarmState::Pending => return SwarmError::Inactive,
                SwarmState::Worker { .. } => return SwarmError::NotManager,
                SwarmState::Locked => return SwarmError::Locked,
                SwarmState::Manager { .. } | SwarmState::Failed { .. } => {}
            }
        }
        error
    }
}

/// Where a thing is, by name or ID.
fn path(kind: Kind, name: &str) -> Result<String, SwarmError> {
    if kind == Kind::Swarm {
        return Ok("/swarm".to_owned());
    }
    // The name becomes part of a request's path.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        return Err(SwarmError::NotFound { kind, name: name.chars().take(256).collect() });
    }
    Ok(format!("/{kind}s/{name}"))
}

/// Whether somebody else changed it since it was read.
fn is_out_of_sequence(error: &HttpError) -> bool {
    matches!(error, HttpError::Refused { message, .. } if message.contains("update out of sequence"))
}

/// A path with a filter.
fn filtered(path: &str, filters: &Value) -> String {
    let mut filtered = format!("{path}?filters=");
    for byte in filters.to_string().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => filtered.push(byte.into()),
            _ => filtered.push_str(&format!("%{byte:02X}")),
        }
    }
    filtered
}

fn refusal(error: HttpError) -> SwarmError {
    let (status, message) = match error {
        HttpError::Refused { status, message } => (status, message),
        HttpError::Broken(source) => return SwarmError::Unreachable { source },
    };
    let says = |words: &str| message.contains(words);
    match status {
        _ if says("does not have a leader") => SwarmError::NoLeader,
        _ if says("is already part of a swarm") => SwarmError::Active,
        _ if says("invalid key provided") => SwarmError::WrongKey,
        _ if says("join token is necessary")
            || says("invalid join token")
            || says("invalid checksum digest")
            || says("remote CA does not match fingerprint") =>
        {
            SwarmError::TokenRefused
        }
        _ if says("Timeout was reached before node joined") => SwarmError::NoManager { message },
        _ if says("code = Unavailable") => SwarmError::Unavailable { message },
        _ if says("last manager")
            || says("loss of its quorum")
            || says("lose quorum")
            || says("loss of quorum") =>
        {
            SwarmError::LastManager { message }
        }
        400 => SwarmError::Invalid { message },
        status => SwarmError::Engine { status, message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_means_is_recognised_by_its_words() {
        let meant =
            |status, message: &str| refusal(HttpError::Refused { status, message: message.to_owned() });
        let lost = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few \
                    managers are online.";
        assert!(matches!(meant(500, lost), SwarmError::NoLeader));
        let slow = "Timeout was reached before node joined. The attempt to join the swarm will continue in the background.";
        assert!(matches!(meant(503, slow), SwarmError::NoManager { .. }));
        let between = "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing dial \
                       unix /run/docker/swarm/control.sock: connect: no such file or directory\"";
        assert!(matches!(meant(503, between), SwarmError::Unavailable { .. }));
        assert!(matches!(
            meant(500, "remote CA does not match fingerprint. Expected: 1"),
            SwarmError::TokenRefused
        ));
        assert!(matches!(meant(503, "This node is not a swarm manager."), SwarmError::Engine { .. }));
    }
}
