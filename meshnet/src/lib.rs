//! placeholder docs
mod claims;
mod config;
#[cfg(feature = "driver")]
mod driver;
pub mod engine;
mod entropy;
mod key;
mod membership;
mod network;
mod packet;
mod text;
mod ticket;
mod time;
pub mod wire;

pub use claims::{Claims, ClaimsError, NAME_MAX, SUBNETS_MAX};
pub use config::{Config, ConfigError, MTU_DEFAULT, PEERS_MAX, PeerConfig, Trust};
#[cfg(feature = "stack")]
pub use driver::stack;
#[cfg(feature = "tun")]
pub use driver::tun;
#[cfg(feature = "driver")]
pub use driver::{ConnectError, Device, JoinError, Mesh, NoDevice, StartError, Underlay};
pub use engine::{Counters, DownReason, Engine, Event, PeerState, PeerStatus, Redeemed, Rejection};
pub use entropy::Entropy;
pub use key::{KeyError, PeerId, SecretKey};
pub use membership::{Membership, MembershipError};
pub use network::NetworkSecret;
pub use ticket::{ENDPOINTS_MAX, InviteError, Ticket, TicketError, TicketId, TicketOptions};
pub use time::Now;
pub use wire::control::Refusal;
pub use wire::hello::Credential;
