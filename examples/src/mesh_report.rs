//! What `meshd` says about a node, to a person and to a script.

use std::fmt;

use meshnet::{Mesh, PeerState, PeerStatus};
use serde::{Deserialize, Serialize};

use crate::table::Table;

/// A node's state. All IDs and addresses are in text form.
#[derive(Debug, Serialize, Deserialize)]
pub struct MeshReport {
    /// This node.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its address in the mesh.
    pub address: String,
    /// Its interface, or `none`.
    pub device: String,
    /// Where it listens.
    pub udp: String,
    /// Every peer that it knows.
    pub peers: Vec<PeerReport>,
}

/// A peer as this node knows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its ID; none until one has answered at a configured endpoint.
    pub id: String,
    /// The name that it gave itself.
    pub name: String,
    /// `connecting`, `up` or `down`.
    pub state: String,
    /// The addresses and networks that are reached through it.
    pub prefixes: Vec<String>,
    /// Where its datagrams come from.
    pub endpoint: Option<String>,
    /// How long ago something was last heard from it.
    pub last_heard_ms: Option<u64>,
    /// The last measured round trip.
    pub rtt_us: Option<u64>,
    /// Bytes of packets received from it.
    pub received_bytes: u64,
    /// Bytes of packets sent to it.
    pub sent_bytes: u64,
}

impl MeshReport {
    /// Asks a node for its state; `name` and `device` are what it was started with.
    pub fn of(mesh: &Mesh, name: &str, device: &str) -> MeshReport {
        MeshReport {
            id: mesh.id().to_string(),
            name: name.to_owned(),
            address: mesh.address().to_string(),
            device: device.to_owned(),
            udp: mesh.local_addr().to_string(),
            peers: mesh.peers().iter().map(PeerReport::of).collect(),
        }
    }
}

impl fmt::Display for MeshReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MeshReport { id, name, address, device, udp, peers } = self;
        writeln!(f, "{name} ({id})\naddress {address}, device {device}, listening on {udp}")?;
        if peers.is_empty() {
            return writeln!(f, "no peers");
        }
        let mut table = Table::new(&["PEER", "STATE", "REACHES", "ENDPOINT", "HEARD", "RTT", "RECEIVED", "SENT", "ID"]);
        for peer in peers {
            table.row([
                peer.name.clone(),
                peer.state.clone(),
                peer.prefixes.join(", "),
                peer.endpoint.clone().unwrap_or_default(),
                peer.last_heard_ms.map(|ms| format!("{:.1} s ago", ms as f64 / 1e3)).unwrap_or_default(),
                peer.rtt_us.map(|us| format!("{:.1} ms", us as f64 / 1e3)).unwrap_or_default(),
                peer.received_bytes.to_string(),
                peer.sent_bytes.to_string(),
                peer.id.clone(),
            ]);
        }
        write!(f, "\n{table}")
    }
}
