//! Bodies and seeds of the fuzz targets. A body takes bytes that a stranger might send and asserts what must hold for
//! all of them: not only that nothing panics, but that what was accepted comes out again as it went in, and stays
//! within its limits. Only the public API of the four crates is used: a property that needs a private door is tested
//! in the wrong place.
//!
//! | module | what it throws at the crate |
//! |---|---|
//! | [`mesh`] | frames, control messages, tickets, routes; lists of operations against two engines |
//! | [`sync`] | messages, paths, decisions; lists of operations against sessions |
//! | [`sync_wal`], [`sync_index`] | what SQLite, or a crash, left in a log; an index that was damaged |
//! | [`edge`] | labels, rules, hosts, label files |
//! | [`edge_http`] | the bytes that a client sends, the head of a request |
//! | [`swarm`] | stored leases, requests of a container engine; lists of operations against the mount engine |
//! | [`swarm_compose`] | Compose files, up to the plan that is made of them |
//! | [`input`] | how bytes are read as a list of operations |
//!
//! `fuzz/fuzz_targets/` holds a three-line target for each body, `fuzz/corpus/` its inputs, and `fuzz/tests/replay.rs`
//! replays them on stable.

pub mod edge;
pub mod edge_http;
pub mod input;
pub mod mesh;
mod mesh_world;
mod mount_world;
pub mod swarm;
pub mod swarm_compose;
pub mod sync;
pub mod sync_entry;
pub mod sync_index;
pub mod sync_wal;
mod sync_world;

/// One fuzz target: what `fuzz/fuzz_targets/NAME.rs` runs and `fuzz/corpus/NAME/` holds.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// `CRATE_WHAT`.
    pub name: &'static str,
    /// Panics when a property does not hold for the input.
    pub body: fn(&[u8]),
    /// The inputs that the corpus starts from, valid and hostile: the same bytes on every call.
    pub seeds: fn() -> Vec<Seed>,
}

/// A generated corpus file: its name and its bytes.
pub type Seed = (&'static str, Vec<u8>);

/// Every target.
pub const TARGETS: [Target; 24] = [
    Target { name: "edge_framing", body: edge_http::framing, seeds: edge_http::framing_seeds },
    Target { name: "edge_headers", body: edge_http::headers, seeds: edge_http::headers_seeds },
    Target { name: "edge_host", body: edge::host, seeds: edge::host_seeds },
    Target { name: "edge_labels", body: edge::labels, seeds: edge::labels_seeds },
    Target { name: "edge_labels_file", body: edge::labels_file, seeds: edge::labels_file_seeds },
    Target { name: "edge_rule", body: edge::rule, seeds: edge::rule_seeds },
    Target { name: "mesh_control", body: mesh::control, seeds: mesh::control_seeds },
    Target { name: "mesh_engine", body: mesh::engine, seeds: mesh::engine_seeds },
    Target { name: "mesh_frame", body: mesh::frame, seeds: mesh::frame_seeds },
    Target { name: "mesh_routes", body: mesh::routes, seeds: mesh::routes_seeds },
    Target { name: "mesh_ticket", body: mesh::ticket, seeds: mesh::ticket_seeds },
    Target { name: "swarm_compose", body: swarm_compose::compose, seeds: swarm_compose::compose_seeds },
    Target { name: "swarm_lease", body: swarm::lease, seeds: swarm::lease_seeds },
    Target { name: "swarm_mount", body: swarm::mount, seeds: swarm::mount_seeds },
    Target { name: "swarm_plugin", body: swarm::plugin, seeds: swarm::plugin_seeds },
    Target { name: "sync_greeting", body: sync_entry::greeting, seeds: sync_entry::greeting_seeds },
    Target { name: "sync_import", body: sync_entry::import, seeds: sync_entry::import_seeds },
    Target { name: "sync_index", body: sync_index::index, seeds: sync_index::index_seeds },
    Target { name: "sync_message", body: sync::message, seeds: sync::message_seeds },
    Target { name: "sync_ignore", body: sync::ignore, seeds: sync::ignore_seeds },
    Target { name: "sync_path", body: sync::path, seeds: sync::path_seeds },
    Target { name: "sync_reconcile", body: sync::reconcile_records, seeds: sync::reconcile_seeds },
    Target { name: "sync_session", body: sync::session, seeds: sync::session_seeds },
    Target { name: "sync_wal", body: sync_wal::log, seeds: sync_wal::log_seeds },
];
