//! Owns what a provider reports: the containers that exist now, with their labels. Never interprets a label.

use crate::upstream::Address;
use std::collections::BTreeMap;

/// Most containers of one snapshot that are looked at; the rest are left out with a diagnostic.
pub const CONTAINERS_MAX: usize = 50_000;

/// One container (or anything that can be described as one: a task, a process, a remote service).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Container {
    /// Its name, unique within its provider. Names routes and diagnostics.
    pub name: String,
    /// Which provider reported it; set by the proxy when snapshots are merged.
    pub provider: String,
    /// Where it is reached. `None` while it has no address: then it is not dialled.
    pub address: Option<Address>,
    /// The ports that it exposes; without a port label the lowest is taken.
    pub ports: Vec<u16>,
    /// If set, it is dialled at this port whatever the labels say: for something reached through a mapped port.
    pub mapped_port: Option<u16>,
    /// Its labels, key to value.
    pub labels: BTreeMap<String, String>,
    /// Whether it can answer now. A container that cannot keeps its routes: they answer 503, not 404.
    pub up: bool,
}

impl Container {
    /// A container that is up, with no address, no ports and no labels.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), up: true, ..Self::default() }
    }

    /// Sets where it is reached.
    pub fn with_address(mut self, address: impl Into<Address>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Adds an exposed port.
    pub fn with_port(mut self, port: u16) -> Self {
        self.ports.push(port);
        self
    }

    /// Adds a label.
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Says whether it can answer now.
    pub fn with_up(mut self, up: bool) -> Self {
        self.up = up;
        self
    }
}

/// Everything that one provider knows at one moment: always complete, never a difference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The containers, in any order: the outcome does not depend on it.
    pub containers: Vec<Container>,
}

impl FromIterator<Container> for Snapshot {
    fn from_iter<I: IntoIterator<Item = Container>>(containers: I) -> Self {
        Self { containers: containers.into_iter().collect() }
    }
}
