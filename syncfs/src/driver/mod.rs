//! The only part of this crate that touches the world: directories, SQLite, clocks, threads, streams. [`Folder`] is the
//! handle; behind it one thread (`worker`) drives the engine over a real disk and index.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod aftermath;
mod aside;
mod attributes;
mod changes;
mod cuts;
mod database;
mod deltas;
mod direct;
mod disk;
mod folder;
mod history;
mod hooks;
#[cfg(feature = "tls")]
mod identity;
mod keep;
pub mod limit;
mod pause;
mod reading;
mod sparse;
mod sqlite_index;
mod stage;
mod standing;
mod state;
mod stored;
mod stream;
#[cfg(feature = "tls")]
pub mod tls;
mod tree;
mod watch;
mod worker;

pub use folder::Folder;
#[cfg(feature = "tls")]
pub use identity::{Identity, KeyError};
