//! The only part of this crate that touches the world: directories, SQLite, clocks, threads, streams. [`Folder`] is the
//! handle; behind it one thread (`worker`) drives the engine over a real disk and index.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod database;
mod disk;
mod folder;
mod keep;
mod sqlite_index;
mod state;
mod stream;
mod tree;
mod watch;
mod worker;

pub use folder::Folder;
