//! A stack: services, networks, secrets and configs that belong together and are looked after together.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::{BlobSpec, NetworkSpec, ServiceSpec};

/// The label that says which stack something belongs to; the `docker` client's.
pub const STACK_LABEL: &str = "com.docker.stack.namespace";
/// The label of a service with the image as it was written, before a digest was pinned; the `docker` client's.
pub const IMAGE_LABEL: &str = "com.docker.stack.image";

/// What belongs together, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stack {
    /// Its name, which begins the name of everything in it.
    pub name: String,
    /// Its services, by their names in the Swarm.
    pub services: BTreeMap<String, ServiceSpec>,
    /// Which services a service is to come after; names in the Swarm.
    pub after: BTreeMap<String, BTreeSet<String>>,
    /// The networks that it makes, by name.
    pub networks: BTreeMap<String, NetworkSpec>,
    /// The secrets that it makes, by name.
    pub secrets: BTreeMap<String, BlobSpec>,
    /// The configs that it makes, by name.
    pub configs: BTreeMap<String, BlobSpec>,
    /// What must be there already.
    pub external: External,
}

/// What a stack uses and does not make, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct External {
    /// Networks.
    pub networks: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// Configs.
    pub configs: BTreeSet<String>,
}

impl Stack {
    /// One in which nothing is yet.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            services: BTreeMap::new(),
            after: BTreeMap::new(),
            networks: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
            external: External::default(),
        }
    }
}
