//! Volumes that follow their container through a Docker Swarm.
//!
//! Swarm moves containers between nodes and leaves their data behind. This crate decides, for each volume,
//! which node may write to it and when: a numbered **lease** per volume, a **barrier** that names everything
//! its last writer wrote, and a **mount** that is answered only once the node holds the barrier and the
//! lease. How the data travels is not its business: a [`VolumeBackend`] does that. It also lists nodes,
//! services and tasks of a real engine as typed values. Swarm itself schedules and keeps consensus.
//!
//! # Example
//!
//! The lease's rules are pure functions from one record to the next:
//!
//! ```
//! use swarmctl::lease::{self, Refused, Release};
//! use swarmctl::{LeaseState, NodeName};
//!
//! let (home, vm): (NodeName, NodeName) = ("home-1".parse()?, "vm".parse()?);
//! let vacant = LeaseState::vacant("git-data".parse()?);
//! let (held, grant) = lease::acquire(&vacant, &home, 0)?;
//! assert_eq!(lease::acquire(&held, &vm, 0), Err(Refused::Held { by: home, epoch: 1 }));
//!
//! let flushed = Release::Flushed { barrier: "flush-812".parse()?, replicas: Default::default() };
//! let free = lease::release(&held, &grant, &flushed)?;
//! let (_, next) = lease::acquire(&free, &vm, 0)?;
//! assert_eq!((next.epoch, next.barrier), (2, Some("flush-812".parse()?)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With the `driver` feature a `VolumeManager` does all of it on tokio:
//!
//! ```text
//! let volumes = VolumeManager::new("home-1".parse()?, lease, VolumeOptions::default());
//! volumes.add("git-data".parse()?, backend, Takeover::Wait).await?;
//! let path = volumes.mount("git-data", mount_id).await?;       // lease, catch up, open
//! volumes.unmount("git-data", mount_id).await?;                // flush, replicate, close, release
//! ```
//!
//! # Map
//!
//! | to change | open | what it owns |
//! |---|---|---|
//! | what a lease means | [`lease`] | the record and its three transitions; the semantics, written down |
//! | how the record is stored | [`lease_labels`] | its text form, version 1, in a Swarm object's labels |
//! | where it is stored | [`store`] | compare-and-swap, and the [`Lease`] made from it |
//! | what a replica must do | [`volume`] | the [`VolumeBackend`] trait |
//! | how a mount proceeds | [`engine`] | requests in, calls and replies out; `engine/mount.rs` is one volume's way |
//! | time limits | [`config`] | every one, with its reason |
//! | what is said when it fails | [`error`] | one enum per operation |
//! | what a Swarm looks like | [`cluster`] | nodes, services, tasks as complete values |
//! | what an engine asks of a volume driver | [`plugin`] | the protocol; the trait [`VolumeKeeper`](plugin::VolumeKeeper); `driver/plugin.rs` serves it |
//! | what changes in it | [`events`] | snapshots, and the difference between two |
//! | what is looked after | [`warnings`] | what will go wrong, with the command that helps |
//! | which nodes are meant | [`selector`] | names, patterns, labels |
//! | how a log is read | [`logs`] | the engine's frames |
//! | how large packets are | [`overlay`] | networks through a tunnel |
//! | where a task may run | [`placement`] | constraints, evaluated as Swarm's scheduler does |
//! | what a stack's file means | `compose` | Compose files, read into a [`stack`] or into diagnostics |
//! | what is changed, and in which order | [`plan`] | a stack and what is there, compared |
//! | how a plan is carried out | [`rollout`] | steps, waiting, the reasons of failures, the way back |
//! | how services move | [`maintenance`] | `drain`, `move`, `rebalance`: who moves, who cannot, and how it is done one by one |
//! | what touches the world | `driver` | the engine's loop, the in-memory store, the engine's client |
//!
//! Everything outside `driver` is pure: no I/O, no clock, no threads. `--no-default-features` builds just
//! that, with one dependency (thiserror).
//!
//! # Invariants
//!
//! Held by the exhaustive search in `tests/lease_model.rs` and the simulation in `tests/sim`:
//!
//! - No epoch is granted twice, and epochs only grow, also across a store that was lost.
//! - With [`Takeover::Wait`] at most one node writes at any time, and whoever mounts finds every write.
//! - With a takeover at most one node writes under each epoch, and what the new holder may lack has been
//!   announced, also when it crashed before it could say so.
//! - A lease is released with a barrier only after the replicas hold it and the writer has closed; a node
//!   whose replicas lag keeps the lease.
//! - Every request is answered once and within its deadline, whatever the lease or the backend does.
//! - Once faults stop and nobody mounts, every lease is free.
//!
//! # Threats
//!
//! - Whoever reaches a manager's Docker socket controls the Swarm; this crate takes the socket as the
//!   trust boundary and adds none. It opens Unix sockets only.
//! - A lease binds nodes that follow it. It cannot stop a node that writes under a stale epoch (a process
//!   that was cut off, or a hostile one): the replicas must refuse the epoch, which is why every
//!   [`open`](VolumeBackend::open) carries it.
//! - Records read back from the store are text that others can write: decoding is total, bounded and strict.
//!   A record with a forged high epoch cannot be undone, only continued above.
//! - Names and barriers cannot hold control characters, reasons of backends are cut, queues and sets have
//!   named limits. Nothing here handles a secret.

pub mod barrier;
pub mod cluster;
#[cfg(feature = "compose")]
pub mod compose;
pub mod config;
#[cfg(feature = "driver")]
pub mod driver;
pub mod engine;
pub mod error;
pub mod events;
pub mod lease;
pub mod lease_labels;
pub mod logs;
pub mod maintenance;
pub mod name;
pub mod overlay;
pub mod placement;
pub mod plan;
#[cfg(feature = "plugin")]
pub mod plugin;
pub mod rollout;
pub mod selector;
pub mod spec;
pub mod stack;
pub mod store;
pub mod volume;
pub mod warnings;

pub use barrier::Barrier;
pub use config::VolumeOptions;
#[cfg(feature = "driver")]
pub use driver::{Endpoint, MemoryLease, Swarm, VolumeManager, VolumePlugin};
pub use lease::{Grant, Lease, LeaseError, LeaseState, Takeover};
pub use name::{MountId, NodeName, VolumeName};
pub use volume::{BackendError, VolumeBackend};
