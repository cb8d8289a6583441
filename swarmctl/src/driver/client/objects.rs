//! Networks, secrets and configs.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::super::convert::missing;
use super::super::json::{list, map, put, text};
use super::Swarm;
use super::services::{ids, service_specs};
use crate::error::{Kind, SwarmError};
use crate::plan::{Kept, Present, Step};
use crate::spec::{BLOB_MAX_BYTES, BlobSpec, NetworkSpec};

impl Swarm {
    /// Everything that a plan has to know about.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn present(&self) -> Result<Present, SwarmError> {
        let (services, networks, secrets, configs) = tokio::try_join!(
            self.ask("/services"),
            self.ask("/networks"),
            self.ask("/secrets"),
            self.ask("/configs")
        )?;
        present(&services, &networks, &secrets, &configs)
    }

    /// Does one step of a plan. Nothing here waits for what a service's tasks become.
    ///
    /// # Errors
    /// As what it does.
    pub async fn apply(&self, step: &Step) -> Result<(), SwarmError> {
        match step {
            Step::CreateNetwork(network) => self.create_network(network).await,
            Step::CreateSecret(secret) => self.create_secret(secret).await,
            Step::CreateConfig(config) => self.create_config(config).await,
            Step::CreateService(service) => self.create_service(service).await.map(drop),
            Step::UpdateService { before, after } => self.replace_service(before, after).await,
            Step::RemoveService(name) => self.remove_service(name).await,
            Step::RemoveNetwork(name) => self.remove_network(name).await,
            Step::RemoveSecret(name) => self.remove_secret(name).await,
            Step::RemoveConfig(name) => self.remove_config(name).await,
        }
    }

    /// The networks of the Swarm and of this engine, by name.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn networks(&self) -> Result<BTreeMap<String, NetworkSpec>, SwarmError> {
        network_specs(&self.ask("/networks").await?)
    }

    /// Makes a network.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::Exists`], [`SwarmError::Invalid`].
    pub async fn create_network(&self, network: &NetworkSpec) -> Result<(), SwarmError> {
        let NetworkSpec { name, driver, options, labels, attachable, internal, subnets } = network;
        // The engine makes a second network of one name without a word.
        if self.networks().await?.contains_key(name) {
            return Err(SwarmError::Exists { kind: Kind::Network, name: name.clone() });
        }
        let mut request = json!({
            "Name": name,
            "Driver": driver,
            "Internal": internal,
            "Attachable": attachable,
            "Options": options,
            "Labels": labels,
            // For engines that would make a second one.
            "CheckDuplicate": true,
        });
        if !subnets.is_empty() {
            let part = |(subnet, gateway): &(String, Option<String>)| {
                let mut part = json!({"Subnet": subnet});
                put(&mut part, "Gateway", gateway.clone());
                part
            };
            put(&mut request, "IPAM", Some(json!({"Config": subnets.iter().map(part).collect::<Value>()})));
        }
        self.create(Kind::Network, name, &request).await.map(drop)
    }

    /// Removes a network.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::NotFound`], [`SwarmError::InUse`].
    pub async fn remove_network(&self, name: &str) -> Result<(), SwarmError> {
        self.remove(Kind::Network, name, "").await
    }

    /// The secrets of the Swarm, by name, without what they hold: no engine tells.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn secrets(&self) -> Result<BTreeMap<String, Kept>, SwarmError> {
        kept(&self.ask("/secrets").await?, Kind::Secret)
    }

    /// Keeps a secret in the Swarm's own, encrypted store.
    ///
    /// # Errors
    /// As [`create_network`](Self::create_network).
    pub async fn create_secret(&self, secret: &BlobSpec) -> Result<(), SwarmError> {
        self.keep(Kind::Secret, secret).await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// As [`remove_network`](Self::remove_network).
    pub async fn remove_secret(&self, name: &str) -> Result<(), SwarmError> {
        self.remove(Kind::Secret, name, "").await
    }

    /// The configs of the Swarm, by name, and what they hold.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn configs(&self) -> Result<BTreeMap<String, Kept>, SwarmError> {
        kept(&self.ask("/configs").await?, Kind::Config)
    }

    /// Keeps a config.
    ///
    /// # Errors
    /// As [`create_network`](Self::create_network).
    pub async fn create_config(&self, config: &BlobSpec) -> Result<(), SwarmError> {
        self.keep(Kind::Config, config).await
    }

    /// Removes a config.
    ///
    /// # Errors
    /// As [`remove_network`](Self::remove_network).
    pub async fn remove_config(&self, name: &str) -> Result<(), SwarmError> {
        self.remove(Kind::Config, name, "").await
    }

    async fn keep(&self, kind: Kind, blob: &BlobSpec) -> Result<(), SwarmError> {
        let BlobSpec { name, data, labels } = blob;
        if !(1..=BLOB_MAX_BYTES).contains(&data.len()) {
            let message =
                format!("{kind} {name} has {} bytes; from 1 to {BLOB_MAX_BYTES} can be kept", data.len());
            return Err(SwarmError::Invalid { message });
        }
        let request = json!({"Name": name, "Labels": labels, "Data": BASE64_STANDARD.encode(data)});
        self.create(kind, name, &request).await.map(drop)
    }
}

/// Everything that a plan has to know about, from what the engine lists.
pub(super) fn present(
    services: &Value,
    networks: &Value,
    secrets: &Value,
    configs: &Value,
) -> Result<Present, SwarmError> {
    Ok(Present {
        services: service_specs(services, &ids(networks, secrets, configs))?,
        networks: network_specs(networks)?,
        secrets: kept(secrets, Kind::Secret)?,
        configs: kept(configs, Kind::Config)?,
    })
}

fn network_specs(networks: &Value) -> Result<BTreeMap<String, NetworkSpec>, SwarmError> {
    let read = |network: &Value| {
        let name = text(&network["Name"]).ok_or(missing("network name"))?;
        let subnet = |it: &Value| Some((text(&it["Subnet"])?, text(&it["Gateway"])));
        let spec = NetworkSpec {
            name: name.clone(),
            driver: text(&network["Driver"]).unwrap_or_default(),
            options: map(&network["Options"]),
            labels: map(&network["Labels"]),
            attachable: network["Attachable"] == true,
            internal: network["Internal"] == true,
            subnets: list(&network["IPAM"]["Config"]).filter_map(subnet).collect(),
        };
        Ok((name, spec))
    };
    list(networks).map(read).collect()
}

fn kept(answer: &Value, kind: Kind) -> Result<BTreeMap<String, Kept>, SwarmError> {
    let read = |it: &Value| {
        let spec = &it["Spec"];
        let what = if kind == Kind::Secret { "secret name" } else { "config name" };
        let data = text(&spec["Data"]).and_then(|data| BASE64_STANDARD.decode(data).ok());
        Ok((text(&spec["Name"]).ok_or(missing(what))?, Kept { labels: map(&spec["Labels"]), data }))
    };
    list(answer).map(read).collect()
}
