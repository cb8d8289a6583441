//! The Swarm as a whole, and its nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::convert::{self, missing};
use super::super::json::{map, nanos, part, put, text};
use super::{Swarm, refusal};
use crate::cluster::{Availability, Node, NodeStatus, Role, Task, TaskState};
use crate::error::{Kind, SwarmError};
use crate::selector::NodeSelector;

/// How long a node may take to become a manager or a worker.
const ROLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(200);

/// How a new Swarm is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InitOptions {
    /// Where this manager listens, as `address:port`.
    pub listen: String,
    /// The address at which the others find it.
    pub advertise: String,
    /// Where networks get their addresses from, as prefixes such as `10.0.0.0/8`; the engine's own choice if empty.
    pub address_pool: Vec<String>,
    /// How large a network's part of the pool is, as a prefix length.
    pub subnet_prefix: Option<u32>,
    /// How often a node says that it lives. It is taken for dead after three times as long. 5 s if `None`.
    pub heartbeat: Option<Duration>,
    /// The UDP port of overlay networks' packets; 4789 if `None`.
    pub data_path_port: Option<u16>,
    /// Whether managers that start wait for the unlock key, so that what they keep cannot be read by whoever has their disk.
    pub autolock: bool,
    /// Begin anew from what this manager knows, after a majority of the managers was lost for good.
    pub force_new_cluster: bool,
}

impl InitOptions {
    /// Listens, and is found, at one address; port 2377.
    pub fn new(address: impl Into<String>) -> Self {
        let advertise = address.into();
        Self {
            listen: format!("{advertise}:2377"),
            advertise,
            address_pool: Vec::new(),
            subnet_prefix: None,
            heartbeat: None,
            data_path_port: None,
            autolock: false,
            force_new_cluster: false,
        }
    }
}

/// How an engine joins a Swarm.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinOptions {
    /// Where it listens if it becomes a manager, as `address:port`.
    pub listen: String,
    /// The address at which the others find it.
    pub advertise: String,
    /// Which role it may have: [`JoinTokens::worker`] or [`JoinTokens::manager`].
    pub token: String,
    /// Managers, as `address:port`.
    pub managers: Vec<String>,
}

impl JoinOptions {
    /// Listens, and is found, at one address; port 2377.
    pub fn new(address: impl Into<String>, token: impl Into<String>, manager: impl Into<String>) -> Self {
        let advertise = address.into();
        Self {
            listen: format!("{advertise}:2377"),
            advertise,
            token: token.into(),
            managers: vec![manager.into()],
        }
    }
}

impl fmt::Debug for JoinOptions {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, advertise, token: _, managers } = self;
        f.debug_struct("JoinOptions")
            .field("listen", listen)
            .field("advertise", advertise)
            .field("managers", managers)
            .finish_non_exhaustive()
    }
}

/// Whoever has one of them can join the Swarm.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokens {
    /// For workers.
    pub worker: String,
    /// For managers.
    pub manager: String,
}

impl fmt::Debug for JoinTokens {
    /// Without the tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokens").finish_non_exhaustive()
    }
}

/// What changes for the Swarm as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwarmChange {
    /// How often a node says that it lives. It is taken for dead after three times as long.
    pub heartbeat: Option<Duration>,
    /// How many tasks that have ended are kept for each slot of a service.
    pub task_history: Option<u64>,
    /// Whether managers that start wait for the unlock key.
    pub autolock: Option<bool>,
}

/// What changes at a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeChange {
    /// Whether it is given tasks.
    pub availability: Option<Availability>,
    /// Its role.
    pub role: Option<Role>,
    /// Labels that it gets, or whose value changes.
    pub set_labels: BTreeMap<String, String>,
    /// Labels that it loses.
    pub remove_labels: BTreeSet<String>,
}

impl Swarm {
    /// Makes this engine the first manager of a new Swarm. Returns its node ID.
    ///
    /// # Errors
    /// When it is part of one, or an address is not its own.
    pub async fn init(&self, options: &InitOptions) -> Result<String, SwarmError> {
        let InitOptions { listen, advertise, address_pool, subnet_prefix, .. } = options;
        let mut request = json!({
            "ListenAddr": listen,
            "AdvertiseAddr": advertise,
            "ForceNewCluster": options.force_new_cluster,
            "Spec": {"EncryptionConfig": {"AutoLockManagers": options.autolock}},
        });
        put(&mut request, "DataPathPort", options.data_path_port);
        if let Some(period) = options.heartbeat {
            put(&mut request["Spec"], "Dispatcher", Some(json!({"HeartbeatPeriod": nanos(period)})));
        }
        if !address_pool.is_empty() {
            put(&mut request, "DefaultAddrPool", Some(json!(address_pool)));
        }
        put(&mut request, "SubnetSize", *subnet_prefix);
        match self.http.post("/swarm/init", &request).await {
            Ok(id) => text(&id).ok_or(missing("node ID")),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Makes this engine a node of a Swarm.
    ///
    /// # Errors
    /// When it is part of one, no manager answers, or the token is not one of that Swarm's.
    pub async fn join(&self, options: &JoinOptions) -> Result<(), SwarmError> {
        let JoinOptions { listen, advertise, token, managers } = options;
        let request = json!({
            "ListenAddr": listen,
            "AdvertiseAddr": advertise,
            "RemoteAddrs": managers,
            "JoinToken": token,
        });
        match self.http.post("/swarm/join", &request).await.map_err(refusal) {
            Ok(_) => Ok(()),
            // It is in no Swarm yet: those that it asked do not answer.
            Err(SwarmError::Unavailable { message }) => Err(SwarmError::NoManager { message }),
            Err(error) => Err(self.in_its_place(error).await),
        }
    }

    /// Takes this engine out of its Swarm. Its tasks end. `force` also takes a manager out that the Swarm cannot do without.
    ///
    /// # Errors
    /// When it is part of none; [`SwarmError::LastManager`].
    pub async fn leave(&self, force: bool) -> Result<(), SwarmError> {
        match self.http.post(&format!("/swarm/leave?force={force}"), &json!({})).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// The tokens with which engines join.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn join_tokens(&self) -> Result<JoinTokens, SwarmError> {
        let swarm = self.ask("/swarm").await?;
        let token = |role: &str| text(&swarm["JoinTokens"][role]).ok_or(missing("join token"));
        Ok(JoinTokens { worker: token("Worker")?, manager: token("Manager")? })
    }

    /// Makes the token of a role void. Nodes that joined with it stay.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn rotate_token(&self, role: Role) -> Result<JoinTokens, SwarmError> {
        let which = match role {
            Role::Worker => "&rotateWorkerToken=true",
            Role::Manager => "&rotateManagerToken=true",
        };
        self.change(Kind::Swarm, "itself", which, Ok).await?;
        self.join_tokens().await
    }

    /// Changes a node, given by name or ID. What is not in the change stays.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes), and [`SwarmError::NotFound`]; a demotion that would cost the majority is
    /// [`SwarmError::LastManager`].
    pub async fn change_node(&self, node: &str, change: &NodeChange) -> Result<(), SwarmError> {
        let NodeChange { availability, role, set_labels, remove_labels } = change;
        let apply = |mut spec: Value| {
            let mut labels = map(&spec["Labels"]);
            labels.retain(|key, _| !remove_labels.contains(key));
            labels.extend(set_labels.clone());
            put(&mut spec, "Labels", Some(json!(labels)));
            if let Some(role) = role {
                put(&mut spec, "Role", Some(role.to_string()));
            }
            if let Some(availability) = availability {
                put(&mut spec, "Availability", Some(availability.to_string()));
            }
            Ok(spec)
        };
        self.change(Kind::Node, node, "", apply).await
    }

    /// Changes the Swarm as a whole. What is not in the change stays.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::Invalid`].
    pub async fn change_swarm(&self, change: &SwarmChange) -> Result<(), SwarmError> {
        let SwarmChange { heartbeat, task_history, autolock } = change;
        let apply = |mut spec: Value| {
            if let Some(period) = heartbeat {
                put(part(&mut spec, "Dispatcher"), "HeartbeatPeriod", Some(nanos(*period)));
            }
            if let Some(tasks) = task_history {
                put(part(&mut spec, "Orchestration"), "TaskHistoryRetentionLimit", Some(*tasks));
            }
            if let Some(autolock) = autolock {
                put(part(&mut spec, "EncryptionConfig"), "AutoLockManagers", Some(*autolock));
            }
            Ok(spec)
        };
        self.change(Kind::Swarm, "itself", "", apply).await
    }

    /// The key that a manager which starts is unlocked with; `None` unless the Swarm locks them. Whoever has it and a manager's
    /// disk can read all secrets.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn unlock_key(&self) -> Result<Option<String>, SwarmError> {
        Ok(text(&self.ask("/swarm/unlockkey").await?["UnlockKey"]))
    }

    /// Makes the unlock key void, and another one.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn rotate_unlock_key(&self) -> Result<Option<String>, SwarmError> {
        self.change(Kind::Swarm, "itself", "&rotateManagerUnlockKey=true", Ok).await?;
        self.unlock_key().await
    }

    /// Unlocks this manager, which has started anew.
    ///
    /// # Errors
    /// When it is not locked; [`SwarmError::WrongKey`].
    pub async fn unlock(&self, key: &str) -> Result<(), SwarmError> {
        match self.http.post("/swarm/unlock", &json!({"UnlockKey": key})).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// The nodes that are meant, by name.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::NotFound`] if there are none.
    pub async fn select(&self, selector: &NodeSelector) -> Result<Vec<Node>, SwarmError> {
        let mut nodes = self.nodes().await?;
        nodes.retain(|node| selector.matches(node));
        match nodes.is_empty() {
            true => Err(SwarmError::NotFound { kind: Kind::Node, name: selector.to_string() }),
            false => Ok(nodes),
        }
    }

    /// Makes a node, given by name or ID, a manager or a worker, and waits until it is one.
    ///
    /// # Errors
    /// As [`change_node`](Self::change_node); [`SwarmError::RolePending`].
    pub async fn set_role(&self, node: &str, role: Role) -> Result<(), SwarmError> {
        self.change_node(node, &NodeChange { role: Some(role), ..Default::default() }).await?;
        let is_it = async || match self.ask_about(Kind::Node, node).await {
            Ok(it) => Ok((it["ManagerStatus"]["Reachability"] == "reachable") == (role == Role::Manager)),
            // Who is asked has given its own role up, or the managers choose a leader without it.
            Err(SwarmError::NotManager) => Ok(role == Role::Worker),
            Err(SwarmError::NoLeader | SwarmError::Unavailable { .. } | SwarmError::Engine { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        };
        let deadline = Instant::now() + ROLE_TIMEOUT;
        while !is_it().await? {
            if Instant::now() >= deadline {
                return Err(SwarmError::RolePending { node: node.to_owned(), role, waited: ROLE_TIMEOUT });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Takes a node, given by name or ID, out of the Swarm in the order that loses nothing: its tasks have moved away, then a
    /// manager gives its vote up, then it is forgotten. `force` does so although it still runs tasks, or answers.
    ///
    /// # Errors
    /// As [`remove_node`](Self::remove_node); [`SwarmError::NodeBusy`].
    pub async fn retire_node(&self, node: &str, force: bool) -> Result<(), SwarmError> {
        let found = convert::node(&self.ask_about(Kind::Node, node).await?)?;
        let works = |task: &Task| task.desired == TaskState::Running && task.node.as_ref() == Some(&found.id);
        let tasks = self.tasks(None).await?.into_iter().filter(works).count();
        if !force && found.status == NodeStatus::Ready {
            return Err(match tasks {
                0 => SwarmError::NodeUp { node: found.name },
                tasks => SwarmError::NodeBusy { node: found.name, tasks },
            });
        }
        if found.role == Role::Manager {
            match self.set_role(&found.id, Role::Worker).await {
                // A manager that was lost before the Swarm began anew has no vote, and cannot give it up.
                Ok(()) | Err(SwarmError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.remove_node(&found.id, force).await
    }

    /// Forgets a node that is gone. `force` forgets one that still answers.
    ///
    /// # Errors
    /// As [`change_node`](Self::change_node); [`SwarmError::InUse`] while it is a manager, [`SwarmError::NodeUp`] while it answers.
    pub async fn remove_node(&self, node: &str, force: bool) -> Result<(), SwarmError> {
        self.remove(Kind::Node, node, &format!("?force={force}")).await
    }
}
