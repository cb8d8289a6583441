//! Services: made, changed, put back, removed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::convert::missing;
use super::super::engine_spec::{Ids, from_engine, to_engine};
use super::super::json::{count, list, put, text};
use super::Swarm;
use crate::error::{Kind, SwarmError};
use crate::spec::{FileReference, ServiceMode, ServiceSpec};

impl Swarm {
    /// The specification of a service, given by name or ID.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::NotFound`].
    pub async fn service_spec(&self, service: &str) -> Result<ServiceSpec, SwarmError> {
        let found = self.ask_about(Kind::Service, service).await?;
        from_engine(&found["Spec"], &self.ids().await?)
    }

    /// The specifications of all services, by name.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes).
    pub async fn service_specs(&self) -> Result<BTreeMap<String, ServiceSpec>, SwarmError> {
        let (services, ids) = tokio::try_join!(self.ask("/services"), self.ids())?;
        service_specs(&services, &ids)
    }

    /// Makes a service. Returns its ID. Its tasks start later: nothing here waits for them.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::Exists`], [`SwarmError::NotFound`] for a network, secret or config that it uses,
    /// [`SwarmError::Invalid`].
    pub async fn create_service(&self, service: &ServiceSpec) -> Result<String, SwarmError> {
        let ids = self.ids().await?;
        all_there(service, &ids)?;
        let made = self.create(Kind::Service, &service.name, &to_engine(service, Value::Null, &ids)).await?;
        text(&made["ID"]).ok_or(missing("service ID"))
    }

    /// Changes a service. `change` may be called again, with what somebody else made of it meanwhile. What this crate has no
    /// word for stays as it is.
    ///
    /// # Errors
    /// As [`create_service`](Self::create_service); [`SwarmError::Contended`].
    pub async fn update_service(
        &self,
        service: &str,
        mut change: impl FnMut(&mut ServiceSpec),
    ) -> Result<(), SwarmError> {
        let ids = self.ids().await?;
        self.change(Kind::Service, service, "", |engine| {
            let mut spec = from_engine(&engine, &ids)?;
            change(&mut spec);
            all_there(&spec, &ids)?;
            Ok(to_engine(&spec, engine, &ids))
        })
        .await
    }

    /// Makes something else of a service that is still as it was looked at.
    pub(super) async fn replace_service(
        &self,
        before: &ServiceSpec,
        after: &ServiceSpec,
    ) -> Result<(), SwarmError> {
        let ids = self.ids().await?;
        all_there(after, &ids)?;
        self.change(Kind::Service, &after.name, "", |engine| {
            let there = from_engine(&engine, &ids)?;
            if there != *before && there != *after {
                return Err(SwarmError::Changed { kind: Kind::Service, name: after.name.clone() });
            }
            Ok(to_engine(after, engine, &ids))
        })
        .await
    }

    /// Starts all tasks of a service anew, by its own rules, and lets Swarm place them where it would today.
    ///
    /// # Errors
    /// As [`update_service`](Self::update_service).
    pub async fn force_update(&self, service: &str) -> Result<(), SwarmError> {
        self.change(Kind::Service, service, "", |mut engine| {
            let times = count(&engine["TaskTemplate"]["ForceUpdate"]);
            put(&mut engine["TaskTemplate"], "ForceUpdate", Some(json!(times + 1)));
            Ok(engine)
        })
        .await
    }

    /// Puts the version of a service back that it had before the last change.
    ///
    /// # Errors
    /// As [`update_service`](Self::update_service); [`SwarmError::Invalid`] if there is none.
    pub async fn roll_back(&self, service: &str) -> Result<(), SwarmError> {
        self.change(Kind::Service, service, "&rollback=previous", Ok).await
    }

    /// Sets how many tasks a service has.
    ///
    /// # Errors
    /// As [`update_service`](Self::update_service); [`SwarmError::Invalid`] for a service that has one task on each node.
    pub async fn scale(&self, service: &str, replicas: u64) -> Result<(), SwarmError> {
        let mut is_global = false;
        self.update_service(service, |spec| match &mut spec.mode {
            ServiceMode::Replicated(count) => *count = replicas,
            ServiceMode::ReplicatedJob { completions, .. } => *completions = replicas,
            ServiceMode::Global | ServiceMode::GlobalJob => is_global = true,
        })
        .await?;
        if is_global {
            let message =
                format!("service {service} has one task on each node that fits, and no number of them");
            return Err(SwarmError::Invalid { message });
        }
        Ok(())
    }

    /// Removes a service. Its tasks end a moment later.
    ///
    /// # Errors
    /// As [`nodes`](Self::nodes); [`SwarmError::NotFound`].
    pub async fn remove_service(&self, service: &str) -> Result<(), SwarmError> {
        self.remove(Kind::Service, service, "").await
    }

    /// What the engine knows by ID.
    pub(super) async fn ids(&self) -> Result<Ids, SwarmError> {
        let (networks, secrets, configs) =
            tokio::try_join!(self.ask("/networks"), self.ask("/secrets"), self.ask("/configs"))?;
        Ok(ids(&networks, &secrets, &configs))
    }
}

/// Names and IDs of what services refer to.
pub(super) fn ids(networks: &Value, secrets: &Value, configs: &Value) -> Ids {
    let by_name = |it: &Value| Some((text(&it["Spec"]["Name"])?, text(&it["ID"])?));
    Ids {
        networks: list(networks).filter_map(|it| Some((text(&it["Id"])?, text(&it["Name"])?))).collect(),
        secrets: list(secrets).filter_map(by_name).collect(),
        configs: list(configs).filter_map(by_name).collect(),
    }
}

/// The specifications of services, by name.
pub(super) fn service_specs(
    services: &Value,
    ids: &Ids,
) -> Result<BTreeMap<String, ServiceSpec>, SwarmError> {
    let read = |service: &Value| {
        let spec = from_engine(&service["Spec"], ids)?;
        Ok((spec.name.clone(), spec))
    };
    list(services).map(read).collect()
}

/// The engine says of some things only later, and in its log, that they are not there.
fn all_there(service: &ServiceSpec, ids: &Ids) -> Result<(), SwarmError> {
    let lacks = |kind, name: &String| Err(SwarmError::NotFound { kind, name: name.clone() });
    if let Some(name) = service.networks.keys().find(|name| !ids.networks.values().any(|it| it == *name)) {
        return lacks(Kind::Network, name);
    }
    let sources = |files: &BTreeMap<String, _>| -> Vec<String> {
        files.values().map(|file: &FileReference| file.source.clone()).collect()
    };
    if let Some(name) = sources(&service.container.secrets).iter().find(|it| !ids.secrets.contains_key(*it)) {
        return lacks(Kind::Secret, name);
    }
    if let Some(name) = sources(&service.container.configs).iter().find(|it| !ids.configs.contains_key(*it)) {
        return lacks(Kind::Config, name);
    }
    Ok(())
}
