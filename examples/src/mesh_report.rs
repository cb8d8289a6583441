//! What `meshd` says about a node, to a person and to a script.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
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
    /// `authority`: it founded the network and invites; `member`: it joined by a ticket; `secret`: the
    /// network's secret alone decides who belongs to the network.
    pub role: String,
    /// Its address in the mesh.
    pub address: String,
    /// Its interface, or `none`.
    pub device: String,
    /// Where it listens.
    pub udp: String,
    /// Every peer that it knows.
    pub peers: Vec<PeerReport>,
    /// What was counted since the start, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A peer as this node knows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its ID.
    pub id: String,
    /// The name that it gave itself.
    pub name: String,
    /// `connecting`, `up` or `down`.
    pub state: String,
    /// The addresses and networks that are reached through it.
    pub prefixes: Vec<String>,
    /// Where its datagrams come from.
    pub endpoint: String,
    /// How long ago it was last heard.
    pub last_heard_ms: u64,
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
        let role = match mesh.membership() {
            Some(membership) if membership.network() == mesh.id() => "authority",
            Some(_) => "member",
            None => "secret",
        };
        MeshReport {
            id: mesh.id().to_string(),
            name: name.to_owned(),
            role: role.to_owned(),
            address: mesh.address().to_string(),
            device: device.to_owned(),
            udp: mesh.local_addr().to_string(),
            peers: mesh.peers().iter().map(PeerReport::of).collect(),
            counters: mesh.counters().iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        }
    }
}

impl PeerReport {
    fn of(peer: &PeerStatus) -> PeerReport {
        let state = match peer.state {
            PeerState::Up => "up",
            PeerState::Down => "down",
            _ => "connecting",
        };
        let address = IpNet::from(peer.claims.address.addr());
        let prefixes = [address].into_iter().chain(peer.claims.subnets.iter().copied());
        PeerReport {
            id: peer.id.to_string(),
            name: peer.claims.name.clone(),
            state: state.to_owned(),
            prefixes: prefixes.map(|prefix| prefix.to_string()).collect(),
            endpoint: peer.endpoint.to_string(),
            last_heard_ms: peer.last_heard.as_millis().try_into().unwrap_or(u64::MAX),
            rtt_us: peer.rtt.map(|rtt| rtt.as_micros().try_into().unwrap_or(u64::MAX)),
            received_bytes: peer.bytes_in,
            sent_bytes: peer.bytes_out,
        }
    }
}

impl fmt::Display for MeshReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MeshReport { id, name, role, address, device, udp, peers, .. } = self;
        writeln!(f, "{name} ({id})\nrole {role}, address {address}, device {device}, listening on {udp}")?;
        if peers.is_empty() {
            return writeln!(f, "no peers");
        }
        let mut table =
            Table::new(&["PEER", "STATE", "REACHES", "ENDPOINT", "HEARD", "RTT", "RECEIVED", "SENT", "ID"]);
        for peer in peers {
            table.row([
                peer.name.clone(),
                peer.state.clone(),
                peer.prefixes.join(", "),
                peer.endpoint.clone(),
                format!("{:.1} s ago", peer.last_heard_ms as f64 / 1e3),
                peer.rtt_us.map(|us| format!("{:.1} ms", us as f64 / 1e3)).unwrap_or_default(),
                peer.received_bytes.to_string(),
                peer.sent_bytes.to_string(),
                peer.id.clone(),
            ]);
        }
        write!(f, "\n{table}")
    }
}
