//! The part that touches the world: the engine's loop on tokio, the in-memory lease store, the client of
//! the Docker Engine. Everything decided here is decided by the pure half.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod client;
mod convert;
mod engine_spec;
mod http;
mod json;
mod manager;
mod memory_lease;
mod plugin;

pub use client::{
    DriverGate, Endpoint, Gate, InitOptions, JoinOptions, JoinTokens, LogOptions, Logs, MaintenanceProgress,
    NoGate, NodeChange, Swarm, SwarmChange, SwarmLease, SwarmStore, Update, Watch, WatchOptions,
};
pub use manager::{VolumeEvents, VolumeManager};
pub use memory_lease::{MemoryLease, MemoryStore};
pub use plugin::{PluginSocket, VolumePlugin};

/// Where engines look for the sockets of plugins.
pub const PLUGIN_DIRECTORY: &str = "/run/docker/plugins";
