//! What `syncd serve` is told: by flags, by a TOML file, or both; and where its streams may go.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use syncfs::DeviceId;

use crate::daemon::Failure;
use crate::host_port::{self, PeerAddress};
use crate::settings;

/// Why an address is refused.
pub const OPEN_NETWORK: &str = "streams are not encrypted and a device ID is only claimed, so everybody who can reach it could read \
    and change the folder: use a loopback, private or mesh address, or say --unauthenticated if something else protects it";

/// What a replica is told: each flag is also a key of the config file.
#[derive(Args, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct SyncSettings {
    /// The TCP address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", required_unless_present = "config")]
    #[serde(deserialize_with = "settings::from_text")]
    pub listen: Option<SocketAddr>,
    /// A replica to sync with; without an address it may only dial us; repeatable
    #[arg(long, value_name = "ID[@HOST:PORT]")]
    #[serde(deserialize_with = "settings::from_texts")]
    pub peer: Vec<PeerAddress<DeviceId>>,
    /// Listen and dial anywhere although streams are not encrypted and a device ID is only claimed
    #[arg(long)]
    pub unauthenticated: bool,
    /// How often the whole folder is looked through, besides being watched [default: 60s]
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    #[serde(deserialize_with = "settings::from_duration")]
    pub rescan: Option<Duration>,
    /// This replica's name in messages [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

impl SyncSettings {
    /// Completes the flags with a config file.
    pub fn over(self, config: Option<&Path>) -> Result<SyncSettings, Failure> {
        let Some(config) = config else { return Ok(self) };
        let file: SyncSettings = settings::load(config)?;
        Ok(SyncSettings {
            listen: self.listen.or(file.listen),
            peer: if self.peer.is_empty() { file.peer } else { self.peer },
            unauthenticated: self.unauthenticated || file.unauthenticated,
            rescan: self.rescan.or(file.rescan),
            name: self.name.or(file.name),
        })
    }

    /// The peers that are let in: all that were named.
    pub fn known(&self) -> Result<Vec<DeviceId>, Failure> {
        let id = |peer: &PeerAddress<DeviceId>| {
            peer.id.ok_or_else(|| Failure::new("a peer needs its device ID: write ID or ID@HOST:PORT"))
        };
        self.peer.iter().map(id).collect()
    }

    /// Whether a stream may go to or come in at this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.unauthenticated || host_port::is_private(address)
    }

    /// Refuses what can be seen to be open to everybody before anything is opened.
    pub fn listen(&self) -> Result<SocketAddr, Failure> {
        let missing = "the settings have no `listen`: give it in the file or as --listen";
        let listen = self.listen.ok_or_else(|| Failure::new(missing))?;
        if !self.allows(listen.ip()) {
            return Err(Failure::new(format!("will not listen on {listen}: {OPEN_NETWORK}")));
        }
        let dialled = self.peer.iter().filter_map(|peer| peer.at.as_ref()?.literal());
        match dialled.into_iter().find(|at| !self.allows(at.ip())) {
            Some(at) => Err(Failure::new(format!("will not dial {at}: {OPEN_NETWORK}"))),
            None => Ok(listen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_read_whole_and_a_flag_wins_over_it() {
        let id = DeviceId::from_bytes([7; 32]);
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/syncd.toml");
        let flags = SyncSettings { rescan: Some(Duration::from_secs(5)), ..SyncSettings::default() };
        let settings = flags.over(Some(&sample)).unwrap();
        assert_eq!(settings.rescan, Some(Duration::from_secs(5)));
        assert_eq!(settings.known().unwrap(), [id]);
        assert_eq!(settings.listen().unwrap(), "10.77.0.1:22000".parse().unwrap());
    }

    #[test]
    fn what_everybody_could_reach_is_refused_unless_allowed() {
        let id = DeviceId::from_bytes([7; 32]);
        let settings = |listen: &str, peer: &str, unauthenticated| SyncSettings {
            listen: Some(listen.parse().unwrap()),
            peer: vec![format!("{id}@{peer}").parse().unwrap()],
            unauthenticated,
            ..SyncSettings::default()
        };
        assert!(settings("10.0.0.1:1", "home:1", false).listen().is_ok());
        assert!(settings("0.0.0.0:1", "home:1", false).listen().is_err());
        assert!(settings("10.0.0.1:1", "8.8.8.8:1", false).listen().is_err());
        assert!(settings("0.0.0.0:1", "8.8.8.8:1", true).listen().is_ok());
    }

    #[test]
    fn a_peer_without_an_id_is_refused() {
        let peer = vec!["home:1".parse().unwrap()];
        assert!(SyncSettings { peer, ..SyncSettings::default() }.known().is_err());
    }
}
