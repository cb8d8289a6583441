//! The part that touches the world: the engine's loop on tokio, the in-memory lease store, the client of
//! the Docker Engine. Everything decided here is decided by the pure half.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod client;
mod convert;
mod manager;
mod memory_lease;

pub use client::{Endpoint, Swarm};
pub use manager::{VolumeEvents, VolumeManager};
pub use memory_lease::{MemoryLease, MemoryStore};
