//! What `volumed` is told, by a TOML file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use swarmctl::{Endpoint, NodeName};
use syncfs::DeviceId;

use crate::daemon::{self, Failure};
use crate::host_port::HostPort;
use crate::settings;

/// The most peers.
const PEERS_MAX: usize = 256;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct File {
    root: PathBuf,
    #[serde(deserialize_with = "settings::from_text")]
    listen: Option<SocketAddr>,
    name: Option<String>,
    driver: Option<String>,
    docker: Option<String>,
    plugins: Option<PathBuf>,
    peer: Vec<PeerTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct PeerTable {
    #[serde(deserialize_with = "settings::from_text")]
    id: Option<DeviceId>,
    name: String,
    #[serde(deserialize_with = "settings::from_texts")]
    addresses: Vec<HostPort>,
}

/// Another node that keeps replicas.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub id: DeviceId,
    /// Its name in the Swarm.
    pub name: NodeName,
    /// Where it is dialled, one after the other; nowhere if it only dials us.
    pub addresses: Vec<HostPort>,
}

/// All that the daemon needs, checked.
#[derive(Debug)]
pub struct VolumeSettings {
    /// The directory with the replicas and the key.
    pub root: PathBuf,
    /// Where the other nodes reach it.
    pub listen: SocketAddr,
    /// This node's name in the Swarm.
    pub name: NodeName,
    /// The name of the volume driver.
    pub driver: String,
    /// The node's engine.
    pub docker: Endpoint,
    /// Where that looks for plugins.
    pub plugins: PathBuf,
    /// The other nodes.
    pub peers: Vec<Peer>,
}

impl VolumeSettings {
    /// Reads the file.
    ///
    /// # Errors
    /// With file, line and key, and what is missing.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let file: File = settings::load(path)?;
        let lacks = |what: &str| Failure::new(format!("{}: {what}", path.display()));
        if !file.root.is_absolute() {
            return Err(lacks("`root` must be an absolute path, such as /var/lib/volumed"));
        }
        let listen =
            file.listen.ok_or_else(|| lacks("`listen` is missing: the address for the other nodes"))?;
        let name = file.name.unwrap_or_else(daemon::host_name).parse()?;
        let driver = file.driver.unwrap_or_else(|| "synced".to_owned());
        // It becomes the name of a file, and part of what engines are asked.
        if driver.parse::<swarmctl::VolumeName>().is_err() {
            return Err(lacks("`driver` has letters, digits, '_', '.' and '-' only"));
        }
        if file.peer.len() > PEERS_MAX {
            return Err(lacks(&format!("more than {PEERS_MAX} peers")));
        }
        let peer = |table: PeerTable| {
            let id =
                table.id.ok_or_else(|| lacks("a [[peer]] has no `id` (`volumed id` prints it there)"))?;
            Ok(Peer { id, name: table.name.parse()?, addresses: table.addresses })
        };
        Ok(Self {
            root: file.root,
            listen,
            name,
            driver,
            docker: file.docker.map_or_else(Endpoint::from_env, |host| Endpoint::parse(&host, None))?,
            plugins: file.plugins.unwrap_or_else(|| swarmctl::driver::PLUGIN_DIRECTORY.into()),
            peers: file.peer.into_iter().map(peer).collect::<Result<_, Failure>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_names_every_key_and_is_read() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/volumed.toml");
        let settings = VolumeSettings::load(&sample).unwrap();
        assert_eq!((settings.name.as_str(), settings.driver.as_str()), ("home-1", "synced"));
        assert_eq!(settings.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["vm"]);
        let text = std::fs::read_to_string(sample).unwrap();
        let failure = settings::parse::<File>(&"a", "unknown = 1").unwrap_err().to_string();
        let keys: Vec<&str> = failure.split('`').skip(3).step_by(2).collect();
        assert!(keys.len() >= 7, "{failure}");
        for key in keys {
            let named = text
                .lines()
                .any(|line| line.starts_with(&format!("{key} = ")) || line == format!("[[{key}]]"));
            assert!(named, "the sample lacks {key}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("volumed.toml");
        for (text, remedy) in [
            ("", "absolute path"),
            ("root = \"/a\"", "`listen` is missing"),
            ("root = \"/a\"\nlisten = \"127.0.0.1:1\"\ndriver = \"../x\"", "letters"),
            ("root = \"/a\"\nlisten = \"127.0.0.1:1\"\nname = \"a\"\n[[peer]]\nname = \"b\"", "`volumed id`"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = VolumeSettings::load(&file).unwrap_err().to_string();
            assert!(error.contains(remedy), "{text:?}: {error}");
        }
    }
}
