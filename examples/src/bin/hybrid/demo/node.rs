//! A node of the story: its own key, its own UDP socket, its own mesh address, its own IP stack.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use meshnet::stack::{Stack, StackConfig};
use meshnet::{Config, Mesh, NetworkSecret, SecretKey, Ticket};

use super::line::Line;
use super::report::StepError;

const PREFIX_LEN: u8 = 24;
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Unanswered for this long, a connection through the mesh counts as dead: what turns a cut line into an
/// answer within a second. On real lines the default of the stack is right.
const DARK_AFTER: Duration = Duration::from_millis(700);

/// One node.
#[derive(Clone)]
pub struct Node {
    pub name: &'static str,
    pub mesh: Mesh,
    pub stack: Stack,
    pub line: Line,
}

impl Node {
    /// The first node: it founds the network and may invite others.
    pub async fn found(name: &'static str, address: Ipv4Addr) -> Result<Self, StepError> {
        let address = IpNet::new(address.into(), PREFIX_LEN)?;
        let config = Config::founder(SecretKey::generate(), NetworkSecret::generate(), address);
        Self::start(name, config).await
    }

    /// A node that joins with a ticket and nothing else.
    pub async fn join(name: &'static str, ticket: Ticket) -> Result<Self, StepError> {
        let node = Self::start(name, Config::join(SecretKey::generate(), ticket)).await?;
        node.mesh.joined(JOIN_TIMEOUT).await?;
        Ok(node)
    }

    /// Starts a node with any configuration.
    pub async fn start(name: &'static str, mut config: Config) -> Result<Self, StepError> {
        config.name = name.to_owned();
        let line = Line::open(loopback()).await?;
        let mut stack = StackConfig::new(config.address.addr(), PREFIX_LEN);
        stack.user_timeout = DARK_AFTER;
        stack.connect_timeout = DARK_AFTER;
        let (stack, device) = meshnet::stack::new(stack);
        let mesh = Mesh::start_on(config, device, line.clone()).await?;
        Ok(Self { name, mesh, stack, line })
    }

    /// This node's mesh address.
    pub fn address(&self) -> IpAddr {
        self.mesh.address()
    }

    /// A service of this node, as the others reach it.
    pub fn service(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }
}

/// Any free port of the loopback address.
pub fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}
