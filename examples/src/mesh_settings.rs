//! What `meshd up` is told: by flags, by a TOML file, or both.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use meshnet::{Config, NetworkSecret, PeerConfig, PeerId, SecretKey};
use serde::Deserialize;

use crate::daemon::{self, Context, Failure};
use crate::host_port::PeerAddress;
use crate::settings;

/// What a node is told: each flag is also a key of the config file.
#[derive(Args, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MeshSettings {
    /// This node's address in the mesh, with the mesh's prefix length
    #[arg(long, value_name = "IP/LEN", required_unless_present = "config")]
    #[serde(deserialize_with = "settings::from_text")]
    pub address: Option<IpNet>,
    /// The UDP address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", required_unless_present = "config")]
    #[serde(deserialize_with = "settings::from_text")]
    pub listen: Option<SocketAddr>,
    /// The file that holds the network's secret
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub network_secret_file: Option<PathBuf>,
    /// The file that holds this node's secret key [default: a new identity at every start]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
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
    /// This node's name, shown to its peers [default: the host's name]
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
            peer: if self.peer.is_empty() { file.peer } else { self.peer },
            subnet: if self.subnet.is_empty() { file.subnet } else { self.subnet },
            device: self.device.or(file.device),
            device_name: self.device_name.or(file.device_name),
            mtu: self.mtu.or(file.mtu),
            name: self.name.or(file.name),
            control: self.control.or(beside(file.control)),
        })
    }

    /// What the library needs, with names resolved.
    pub async fn config(&self) -> Result<Config, Failure> {
        let address = self.address.ok_or_else(|| missing("address"))?;
        let secret_file =
            self.network_secret_file.as_deref().ok_or_else(|| missing("network-secret-file"))?;
        let key = match &self.key {
            Some(file) => settings::read_secret(file)?,
            None => SecretKey::generate(),
        };
        let mut config = Config::new(key, settings::read_secret::<NetworkSecret>(secret_file)?, address);
        config.listen = self.listen.ok_or_else(|| missing("listen"))?;
        config.subnets = self.subnet.clone();
        if let Some(mtu) = self.mtu {
            config.mtu = mtu;
        }
        config.name = self.name.clone().unwrap_or_else(daemon::host_name);
        for PeerAddress { id, at } in &self.peer {
            let Some(at) = at else {
                return Err(Failure::new(
                    "a peer needs an address to be dialled: write ID@HOST:PORT or HOST:PORT",
                ));
            };
            let found = at.resolve().await.context(format!("cannot find the peer {at}"))?;
            // A socket of one family cannot send to the other; [::] sends to both.
            let usable = found.into_iter().filter(|at| config.listen.is_ipv6() || at.is_ipv4());
            config.peers.extend(usable.map(|endpoint| PeerConfig { endpoint, id: *id }));
        }
        config.validate()?;
        Ok(config)
    }
}

fn missing(key: &str) -> Failure {
    Failure::new(format!("the settings have no `{key}`: give it in the file or as --{key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_read_whole_and_a_flag_wins_over_it() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/meshd.toml");
        let flags = MeshSettings { mtu: Some(1280), ..MeshSettings::default() };
        let settings = flags.over(Some(&sample)).unwrap();
        assert_eq!((settings.mtu, settings.device), (Some(1280), Some(Device::Tun)));
        assert_eq!(settings.peer[0].at, Some("vm.example.org:3210".parse().unwrap()));
        assert_eq!(settings.key, Some(sample.with_file_name("node.key")));
        assert_eq!(settings.control, Some(PathBuf::from("/run/meshd/home-1.sock")));
    }
}
