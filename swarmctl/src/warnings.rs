//! What is not wrong yet in a Swarm, and will be: told before it matters, with what helps.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::cluster::{Availability, Network, Node, NodeStatus, Role};
use crate::overlay;
use crate::selector::NodeSelector;

/// How far the clocks of two engines may differ, in milliseconds: certificates and leases live with more, logs become hard to read
/// with less.
pub const CLOCK_SKEW_MAX_MS: u64 = 2_000;

/// The oldest engine that every call of this crate works with: Docker 20.10.
const ENGINE_MIN: (u32, u32) = (20, 10);

/// What a Swarm is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expectations {
    /// The addresses at which nodes are to reach each other: those of the mesh.
    pub mesh: Option<Prefix>,
    /// The MTU of the tunnel between the nodes, in bytes.
    pub tunnel_mtu: Option<u32>,
    /// The nodes of which one has to take tasks at any time, such as `location=home`.
    pub home: Option<NodeSelector>,
}

/// The clock of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// The engine's name.
    pub engine: String,
    /// By how many milliseconds it is ahead of the clock that all are compared with.
    pub ahead_ms: i64,
}

/// The addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Something to look after.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Warning {
    /// When either of two managers stops, the Swarm cannot be changed any more.
    TwoManagers,
    /// One manager more that no failure more is tolerated with.
    EvenManagers { managers: usize },
    /// A manager that the others do not reach.
    ManagerUnreachable { node: String },
    /// A node that does not answer.
    NodeDown { node: String },
    /// No node of those that matter takes tasks.
    NoneAtHome { home: String, nodes: Vec<String> },
    /// The clocks of two engines differ.
    ClockSkew { behind: String, ahead: String, ms: u64 },
    /// An engine is older than what is supported.
    EngineTooOld { node: String, version: String },
    /// A node is reached past the mesh.
    OutsideMesh { node: String, address: String, mesh: Prefix },
    /// The packets of a network do not fit through the tunnel.
    MtuTooLarge { network: String, mtu: Option<u32>, max: u32 },
}

/// Everything to look after.
#[must_use]
pub fn warnings<'a>(
    nodes: &[Node],
    networks: impl IntoIterator<Item = &'a Network>,
    clocks: &[Clock],
    expected: &Expectations,
) -> Vec<Warning> {
    let mut warnings = of_managers(nodes);
    for node in nodes {
        of_node(node, expected, &mut warnings);
    }
    warnings.extend(expected.home.as_ref().and_then(|home| of_home(nodes, home)));
    warnings.extend(of_clocks(clocks));
    let max = expected.tunnel_mtu.map(|mtu| overlay::mtu_within(mtu).unwrap_or(0));
    for network in networks {
        warnings.extend(max.and_then(|max| of_network(network, max)));
    }
    warnings
}

fn of_managers(nodes: &[Node]) -> Vec<Warning> {
    match nodes.iter().filter(|node| node.role == Role::Manager).count() {
        2 => vec![Warning::TwoManagers],
        managers if managers > 0 && managers.is_multiple_of(2) => vec![Warning::EvenManagers { managers }],
        _ => Vec::new(),
    }
}

fn of_node(node: &Node, expected: &Expectations, warnings: &mut Vec<Warning>) {
    let name = || node.name.clone();
    if matches!(node.status, NodeStatus::Down | NodeStatus::Disconnected) {
        warnings.push(Warning::NodeDown { node: name() });
    } else if node.reachable == Some(false) {
        warnings.push(Warning::ManagerUnreachable { node: name() });
    }
    // A version that cannot be read is a build of somebody's own.
    if release(&node.engine_version).is_some_and(|release| release < ENGINE_MIN) {
        warnings.push(Warning::EngineTooOld { node: name(), version: node.engine_version.clone() });
    }
    let address = node.address.parse::<IpAddr>().ok();
    if let Some((mesh, address)) =
        expected.mesh.zip(address).filter(|(mesh, address)| !mesh.contains(*address))
    {
        let address = match address {
            IpAddr::V4(address) if address.is_unspecified() => "an unknown address".to_owned(),
            address => address.to_string(),
        };
        warnings.push(Warning::OutsideMesh { node: name(), address, mesh });
    }
}

fn of_home(nodes: &[Node], home: &NodeSelector) -> Option<Warning> {
    let at_home: Vec<&Node> = nodes.iter().filter(|node| home.matches(node)).collect();
    let takes = |node: &&Node| node.availability == Availability::Active && node.status == NodeStatus::Ready;
    if at_home.iter().any(takes) {
        return None;
    }
    let nodes = at_home.iter().map(|node| node.name.clone()).collect();
    Some(Warning::NoneAtHome { home: home.to_string(), nodes })
}

fn of_clocks(clocks: &[Clock]) -> Option<Warning> {
    let behind = clocks.iter().min_by_key(|clock| clock.ahead_ms)?;
    let ahead = clocks.iter().max_by_key(|clock| clock.ahead_ms)?;
    let ms = ahead.ahead_ms.abs_diff(behind.ahead_ms);
    (ms > CLOCK_SKEW_MAX_MS).then(|| Warning::ClockSkew {
        behind: behind.engine.clone(),
        ahead: ahead.engine.clone(),
        ms,
    })
}

fn of_network(network: &Network, max: u32) -> Option<Warning> {
    if network.driver != "overlay" {
        return None;
    }
    let mtu = network.options.get(overlay::MTU_OPTION).and_then(|mtu| mtu.parse().ok());
    // Docker's own choice fits an Ethernet without a tunnel.
    (mtu.unwrap_or(u32::MAX) > max).then(|| Warning::MtuTooLarge { network: network.name.clone(), mtu, max })
}

/// The first two numbers of a release such as `20.10.24+dfsg1`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '+', '-', '~']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl Prefix {
    /// Whether an address begins so.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = |bits: u128, width: u32| {
            let rest = width - u32::from(self.length);
            rest < 128 && bits >> rest != 0
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => !differ((own.to_bits() ^ other.to_bits()).into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => !differ(own.to_bits() ^ other.to_bits(), 128),
            _ => false,
        }
    }
}

/// What is written is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a prefix such as 192.168.254.0/24 or fd00:1::/64")]
pub struct PrefixError(String);

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let read = || {
            let (address, length) = text.split_once('/')?;
            let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
            let width = if address.is_ipv4() { 32 } else { 128 };
            (length <= width).then_some(Self { address, length })
        };
        read().ok_or_else(|| PrefixError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Warning {
    /// A word for it that stays the same, for scripts.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TwoManagers => "two-managers",
            Self::EvenManagers { .. } => "even-managers",
            Self::ManagerUnreachable { .. } => "manager-unreachable",
            Self::NodeDown { .. } => "node-down",
            Self::NoneAtHome { .. } => "none-at-home",
            Self::ClockSkew { .. } => "clock-skew",
            Self::EngineTooOld { .. } => "engine-too-old",
            Self::OutsideMesh { .. } => "outside-mesh",
            Self::MtuTooLarge { .. } => "mtu-too-large",
        }
    }
}

impl fmt::Display for Warning {
    /// What it is, and what helps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoManagers => f.write_str(
                "two managers tolerate no failure: when either stops, nothing can be changed or moved. Have one or three \
                 (swarmctl node promote NODE, or demote NODE)",
            ),
            Self::EvenManagers { managers } => write!(
                f,
                "{managers} managers tolerate no more failures than {}: promote or demote one (swarmctl node demote NODE)",
                managers - 1
            ),
            Self::ManagerUnreachable { node } => write!(
                f,
                "the other managers do not reach manager {node}: start its engine, or, if it is lost, \
                 swarmctl node rm --force {node}"
            ),
            Self::NodeDown { node } => write!(
                f,
                "node {node} does not answer: start its engine, or, if it is gone for good, swarmctl node rm {node}"
            ),
            Self::NoneAtHome { home, nodes } if nodes.is_empty() => write!(
                f,
                "no node is {home}: services that have to run there wait (swarmctl node label NODE {home})"
            ),
            Self::NoneAtHome { home, nodes } => write!(
                f,
                "none of the nodes that are {home} ({}) takes tasks: services that have to run there wait \
                 (swarmctl node activate NODE)",
                nodes.join(", ")
            ),
            Self::ClockSkew { behind, ahead, ms } => write!(
                f,
                "the clocks of {behind} and {ahead} are {}.{:03} s apart: run a time service on both \
                 (timedatectl set-ntp true)",
                ms / 1000,
                ms % 1000
            ),
            Self::EngineTooOld { node, version } => write!(
                f,
                "node {node} has Docker {version}, {}.{} is the oldest that is supported: upgrade it",
                ENGINE_MIN.0, ENGINE_MIN.1
            ),
            Self::OutsideMesh { node, address, mesh } => write!(
                f,
                "node {node} is reached at {address}, outside of the mesh ({mesh}): it has to leave and join again with \
                 --advertise and its address there"
            ),
            Self::MtuTooLarge { network, mtu, max } => {
                let mtu = mtu.map_or_else(|| "Docker's own choice".to_owned(), |mtu| mtu.to_string());
                write!(
                    f,
                    "network {network} has an MTU of {mtu}, and the tunnel takes {max}: larger packets are lost without a \
                     word. Make it anew with swarmctl network create {network} --tunnel-mtu {}",
                    max + overlay::VXLAN_BYTES
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
