//! Glue that the binaries share. The four crates meet here and nowhere else.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod control;
pub mod daemon;
pub mod durable_file;
pub mod edge_settings;
pub mod host_port;
pub mod lease_hop;
pub mod local_tls;
pub mod mesh_dial;
pub mod mesh_entry;
pub mod mesh_ledger;
pub mod mesh_report;
pub mod mesh_settings;
pub mod mesh_state;
pub mod notes;
pub mod settings;
pub mod sync_branches;
pub mod sync_check;
pub mod sync_control;
pub mod sync_cuts;
pub mod sync_door;
pub mod sync_import;
pub mod sync_journal;
pub mod sync_link;
pub mod sync_metrics;
pub mod sync_node;
pub mod sync_report;
pub mod sync_sessions;
pub mod sync_settings;
pub mod sync_time;
pub mod synced_volume;
pub mod table;
pub mod volume_keeper;
pub mod volume_lag;
pub mod volume_node;
pub mod volume_notice;
pub mod volume_options;
pub mod volume_settings;
pub mod volume_takeover;
pub mod web;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
