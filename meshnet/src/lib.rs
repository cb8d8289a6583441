//! A peer-to-peer mesh VPN as a library: a node has one key, joins with one ticket, finds the other
//! members, and carries IP packets between them, through a TUN device or through a TCP/IP stack in this
//! process that needs neither root nor a device.
//!
//! # Example
//!
//! Two nodes meet, in memory; a network, a clock and an operating system are not needed for that:
//!
//! ```
//! use meshnet::{Config, Engine, Entropy, NetworkSecret, Now, PeerConfig, SecretKey, engine::{Input, Output}};
//!
//! struct Counting(u8); // For the example only: real nodes draw from the operating system.
//! impl Entropy for Counting {
//!     fn fill(&mut self, bytes: &mut [u8]) { bytes.fill_with(|| { self.0 = self.0.wrapping_add(1); self.0 }) }
//! }
//! let at = ["192.0.2.1:1".parse()?, "192.0.2.2:1".parse()?];
//! let config = |n: u8, address: &str| -> Result<Config, Box<dyn std::error::Error>> {
//!     Ok(Config::new(SecretKey::from_bytes([n; 32]), NetworkSecret::from_bytes([9; 32]), address.parse()?))
//! };
//! let (mut first, second) = (config(1, "10.7.0.1/24")?, config(2, "10.7.0.2/24")?);
//! first.peers.push(PeerConfig { endpoint: at[1], id: Some(second.secret_key.id()) });
//! let now = Now { monotonic: std::time::Duration::from_secs(1), unix: std::time::Duration::from_secs(1_800_000_000) };
//! let mut nodes = [Engine::new(&first, Counting(0), now)?, Engine::new(&second, Counting(99), now)?];
//! let mut bytes = Vec::new();
//! nodes[0].handle(now, Input::Tick);
//! for turn in 0..8 {
//!     let (here, there) = (turn % 2, (turn + 1) % 2);
//!     while let Some(output) = nodes[here].poll(&mut bytes) {
//!         if let Output::Transmit { .. } = output {
//!             nodes[there].handle(now, Input::Datagram { from: at[here], bytes: &bytes });
//!         }
//!     }
//! }
//! assert!(nodes[0].is_up(&second.secret_key.id(), now));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With the `driver` feature [`Mesh::start`] runs such an engine on a UDP socket; the README shows it.
//!
//! # Map
//!
//! To change something, open the module that owns it:
//!
//! | module | owns |
//! |---|---|
//! | `key`, `network` | [`SecretKey`], [`PeerId`], [`NetworkSecret`]; why one key both signs and agrees |
//! | `claims`, `membership`, `ticket` | what a node stands for, and an authority's signed word for it |
//! | `text` | the text form of all of these: prefix, base32, checksum |
//! | `config` | [`Config`] and what makes one impossible |
//! | [`wire`] | bytes and values: frame, handshake payloads, control messages |
//! | [`engine`] | the protocol. [`engine::Input`] and [`engine::Output`] are its specification |
//! | `engine/gate` | the defence in front of the handshake: rates, replays, clocks |
//! | `engine/handshake` | Noise; why this pattern |
//! | `engine/establish` | the three messages, from a dial to a peer that is up |
//! | `engine/session`, `engine/replay` | AES-256-GCM, nonces, renewal, the replay window |
//! | `engine/admission` | who is let in; the ledger of used tickets |
//! | `engine/routes`, `engine/forward` | longest prefix, source check, the way of a packet |
//! | `engine/contacts`, `engine/peer`, `engine/upkeep` | where to dial and when; liveness; the deadline |
//! | `driver/` | sockets, devices, clock, entropy, tokio; nothing else touches the world |
//! | `driver/stack/` | TCP in this process, on smoltcp |
//!
//! # Invariants
//!
//! - A node sends nothing to whoever does not know the network secret. The first handshake message is
//!   checked with symmetric cryptography alone; only then is a scalar multiplied or a byte answered.
//! - A node sends data only on a session of which the other side has proven that it holds the keys.
//! - A nonce is used once: counters only grow, a session ends long before its counter could.
//! - A packet is delivered only if it authenticates, was not seen before, comes from an address that the
//!   routing table gives to its sender, and goes to an address of this node.
//! - Only an authenticated frame that is the newest of its session moves a peer to another endpoint.
//! - What another member says of third parties is a hint where to dial and nothing else.
//! - Everything that grows has a named limit (`*_MAX`) and a test at that limit.
//! - The pure half (everything but `driver/`) does no I/O and reads no clock and no entropy; the same inputs
//!   give the same outputs, byte for byte.
//!
//! # Threats
//!
//! *Without the network secret* nobody gets an answer: not to garbage, not to a forged or damaged message,
//! not to a recorded one. Two exceptions: a first message that was recorded and comes again within
//! ten minutes of a restart of the receiver, and one that was recorded or held back before any member
//! saw it, made by a node that did not know whom it dialled (an endpoint without an identity); each
//! can draw one second handshake message, which the recorder cannot read. Whoever sees the wire sees
//! addresses, times and sizes, and that it is this protocol.
//!
//! *With the secret but without a membership*, where an authority rules, a node can make members do
//! handshakes (limited for each source) and learns the membership of whoever answers it: name, addresses,
//! identity. It is never connected and receives no packet.
//!
//! *A member* can send from its own addresses only, and receives only what is for them. It can tell others to
//! dial endpoints of its choice (limited). Without an authority every member can claim any free prefix.
//!
//! *A ticket* contains the network secret and makes its first user a member. It is used once and
//! expires; after that it still is as good as the secret. A joining node shows it to the issuer alone, once that
//! has proven itself, and answers nobody meanwhile.
//! The ledger of used tickets is as durable as the program that stores [`Event::Redeemed`] makes it: one that
//! crashes between the event and its write forgets that ticket, which another key can then use until it expires.
//!
//! *A stolen node key* reads no recorded traffic: sessions have forward secrecy, and the secret is mixed in
//! besides. It is the node until its membership expires; there is no list of revoked memberships yet.
//!
//! *Clocks* matter: a node whose clock is off by more than ten minutes is not answered.

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

/// The README's example compiles.
#[cfg(all(doctest, feature = "stack"))]
#[doc = include_str!("../README.md")]
struct Readme;
