//! Glue that the binaries share. The four crates meet here and nowhere else.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod control;
pub mod daemon;
pub mod host_port;
pub mod mesh_dial;
pub mod notes;
pub mod settings;
pub mod sync_link;
pub mod synced_volume;
pub mod table;
pub mod web;
