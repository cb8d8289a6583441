//! swarmctl

pub mod barrier;
pub mod cluster;
pub mod config;
#[cfg(feature = "driver")]
pub mod driver;
pub mod engine;
pub mod error;
pub mod lease;
pub mod lease_labels;
pub mod name;
pub mod store;
pub mod volume;

pub use barrier::Barrier;
pub use config::VolumeOptions;
#[cfg(feature = "driver")]
pub use driver::{Endpoint, MemoryLease, Swarm, VolumeManager};
pub use lease::{Grant, Lease, LeaseError, LeaseState, Takeover};
pub use name::{MountId, NodeName, VolumeName};
pub use volume::{BackendError, VolumeBackend};
