//! What `meshd up` is told: by flags, by a TOML file, or both.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use meshnet::{Config, PeerConfig, PeerId};
use serde::Deserialize;

use crate::daemon::{self, Context, Failure};
use crate::host_port::PeerAddress;
use crate::settings;

/// What a node is told: each flag is also a key of the config file.
#[derive(Args, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MeshSettings {
    /// This node's address in the mesh, with the mesh's prefix length; a ticket or membership brings its own
    #[arg(long, value_name = "IP/LEN", required_unless_present_any = ["config", "key", "ticket", "ticket_file"])]
    #[serde(deserialize_with = "settings::from_text")]
    pub address: Option<IpNet>,
    /// The UDP address to listen on; port 0 takes a free one (who joins or joined may leave it out: any address, a free port)
    #[arg(long, value_name = "ADDR", required_unless_present_any = ["config", "key", "ticket", "ticket_file"])]
    #[serde(deserialize_with = "settings::from_text")]
    pub listen: Option<SocketAddr>,
    /// The file that holds the network's secret; a ticket or membership brings its own
    #[arg(long, value_name = "FILE", required_unless_present_any = ["config", "key", "ticket", "ticket_file"])]
    pub network_secret_file: Option<PathBuf>,
    /// The file that holds this node's secret key [default: a new identity at every start]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Found the network: this node's key is its authority, only it invites; needs --key
    #[arg(long)]
    pub authority: bool,
    /// Join with this ticket (others on this host can see it: better --ticket-file); needs --key
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["ticket_file", "authority", "address", "network_secret_file", "subnet"])]
    #[serde(skip)]
    pub ticket: Option<TicketText>,
    /// Join with the ticket in this file; needs --key. It is ignored once this node has joined
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authority", "address", "network_secret_file", "subnet"])]
    #[serde(skip)]
    pub ticket_file: Option<PathBuf>,
    /// Where an authority keeps the used tickets and a member its membership
    /// [default: /var/lib/meshd/NAME as root, else $XDG_STATE_HOME/meshd/NAME or ~/.local/state/meshd/NAME]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// A peer to dial, with its ID if only that one may answer; repeatable
    #[arg(long, value_name = "[ID@]HOST:PORT")]
    #[serde(deserialize_with = "settings::from_texts")]
    pub peer: Vec<PeerAddress<PeerId>>,
    /// A network behind this node that the mesh may reach through it; repeatable
    #[arg(long, value_name = "CIDR")]
    #[serde(deserialize_with = "settings::from_texts")]
    pub subnet: Vec<IpNet>,
    /// Where packets come from and go to [default: tun]
    #[arg(long, value_enum)]
    pub device: Option<Device>,
    /// The TUN interface's name [default: chosen by the kernel]
    #[arg(long, value_name = "NAME")]
    pub device_name: Option<String>,
    /// The largest packet, in bytes [default: 1280]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<usize>,
    /// This node's name, shown to its peers (a ticket brings the shown one) [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The control socket [default: NAME.sock in /run/meshd or $XDG_RUNTIME_DIR/meshd]
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
}

/// Where a node's packets come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// A TUN interface: IP packets of this host
    Tun,
    /// A TAP interface: Ethernet frames (not supported yet)
    Tap,
    /// No interface: the node only tells its peers of each other
    None,
}

/// A ticket as it was typed. It is a secret: it does not show itself.
#[derive(Clone)]
pub struct TicketText(pub String);

impl From<&str> for TicketText {
    fn from(text: &str) -> TicketText {
        TicketText(text.to_owned())
    }
}

impl fmt::Debug for TicketText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketText(..)")
    }
}

impl MeshSettings {
    /// Completes the flags with a config file.
    pub fn over(self, config: Option<&Path>) -> Result<MeshSettings, Failure> {
        let Some(config) = config else { return Ok(self) };
        let file: MeshSettings = settings::load(config)?;
        let folder = config.parent().unwrap_or(Path::new("")).to_owned();
        let beside = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        Ok(MeshSettings {
            address: self.address.or(file.address),
            listen: self.listen.or(file.listen),
            network_secret_file: self.network_secret_file.or(beside(file.network_secret_file)),
            key: self.key.or(beside(file.key)),
            authority: self.authority || file.authority,
            ticket: self.ticket,
            ticket_file: self.ticket_file,
            state: self.state.or(beside(file.state)),
            peer: if self.peer.is_empty() { file.peer } else { self.peer },
            subnet: if self.subnet.is_empty() { file.subnet } else { self.subnet },
            device: self.device.or(file.device),
            device_name: self.device_name.or(file.device_name),
            mtu: self.mtu.or(file.mtu),
            name: self.name.or(file.name),
            control: self.control.or(beside(file.control)),
        })
    }

    /// What only the command line can have wrong, once a config file was read too.
    pub fn usage_error(&self) -> Option<&'static str> {
        let joins = self.ticket.is_some() || self.ticket_file.is_some();
        match (joins || self.authority, &self.key) {
            (true, None) if joins => Some(
                "joining needs --key FILE: a membership is for one key, and a key that is drawn at every start \
                 would lose it (`meshd keygen --out FILE` makes one)",
            ),
            (true, None) => Some(
                "--authority needs --key FILE: the key is the network's authority (`meshd keygen --out FILE` \
                 makes one)",
            ),
            _ => None,
        }
    }

    /// What this node is called on this host.
    pub fn local_name(&self) -> String {
        self.name.clone().unwrap_or_else(daemon::host_name)
    }

    /// Puts into `config` what is set here however the node comes to its network, with names resolved.
    pub(crate) async fn complete(&self, config: &mut Config) -> Result<(), Failure> {
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(mtu) = self.mtu {
            config.mtu = mtu;
        }
        config.name = self.local_name();
        for PeerAddress { id, at } in &self.peer {
            let Some(at) = at else {
                return Err(Failure::new(
                    "a peer needs an address to be dialled: write ID@HOST:PORT or HOST:PORT",
                ));
            };
            let found = at.resolve().await.context(format!("cannot find the peer {at}"))?;
            config.peers.extend(found.into_iter().map(|endpoint| PeerConfig { endpoint, id: *id }));
        }
        // A socket of one family cannot send to the other; [::] sends to both.
        let both = config.listen.is_ipv6();
        config.peers.retain(|peer| both || peer.endpoint.is_ipv4());
        Ok(())
    }
}

pub(crate) fn missing(key: &str) -> Failure {
    Failure::new(format!("the settings have no `{key}`: give it in the file or as --{key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_not_shown() {
        let settings = MeshSettings { ticket: Some("mnt1abc".into()), ..MeshSettings::default() };
        assert!(!format!("{settings:?}").contains("mnt1"));
    }

    #[test]
    fn the_sample_is_read_whole_and_a_flag_wins_over_it() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/meshd.toml");
        let flags = MeshSettings { mtu: Some(1280), ..MeshSettings::default() };
        let settings = flags.over(Some(&sample)).unwrap();
        assert_eq!((settings.mtu, settings.device), (Some(1280), Some(Device::Tun)));
        assert_eq!(settings.peer[0].at, Some("vm.example.org:3210".parse().unwrap()));
        assert_eq!(settings.key, Some(sample.with_file_name("node.key")));
        assert_eq!(
            (settings.authority, settings.state),
            (false, Some(PathBuf::from("/var/lib/meshd/home-1")))
        );
        assert_eq!(settings.control, Some(PathBuf::from("/run/meshd/home-1.sock")));
    }
}
