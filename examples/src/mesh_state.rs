//! The state directory of `meshd`: what a node must still know after a restart.
//!
//! Owns the directory's place and mode (0700) and the file [`MEMBERSHIP_FILE`] (0600), which is there whole or not
//! at all. The tickets that were used are next to it: see [`mesh_ledger`](crate::mesh_ledger).

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use meshnet::{Membership, NetworkSecret, PeerConfig, PeerId};
use serde::Deserialize;
use tempfile::NamedTempFile;

use crate::daemon::{Context, Failure};
use crate::durable_file;
use crate::host_port::PeerAddress;
use crate::settings;

/// The file that holds a node's membership and its network's secret.
pub const MEMBERSHIP_FILE: &str = "membership.toml";

/// The form of [`MEMBERSHIP_FILE`] that this release writes and reads.
const FORM: u32 = 1;

/// What a node keeps when it has joined: it replaces the ticket.
#[derive(Debug)]
pub struct Joined {
    /// The authority's word for this node.
    pub membership: Membership,
    /// The network's secret.
    pub network_secret: NetworkSecret,
    /// Where the node found its network: the ticket's endpoints.
    pub peers: Vec<PeerConfig>,
}

/// A state directory, which need not exist yet.
#[derive(Debug)]
pub struct StateDirectory(PathBuf);

/// A state directory in which a membership can be written. Dropped without [`Reservation::store`], it leaves nothing.
#[derive(Debug)]
pub struct Reservation {
    draft: Option<NamedTempFile>,
    directory: PathBuf,
    /// Directories that were made for it, the outermost first.
    made: Vec<PathBuf>,
}

/// The file's content, as TOML names it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Content {
    form: u32,
    #[serde(deserialize_with = "settings::from_text")]
    membership: Option<Membership>,
    #[serde(deserialize_with = "settings::from_text")]
    network_secret: Option<NetworkSecret>,
    #[serde(deserialize_with = "settings::from_texts")]
    peer: Vec<PeerAddress<PeerId>>,
}

impl StateDirectory {
    /// The directory at this path.
    pub fn at(path: PathBuf) -> StateDirectory {
        StateDirectory(path)
    }

    /// Where a node of this name keeps its state by default: `/var/lib/meshd/NAME` as root, else
    /// `$XDG_STATE_HOME/meshd/NAME` or `~/.local/state/meshd/NAME`.
    ///
    /// # Errors
    /// The environment names no place, or the name is no file name.
    pub fn default_of(name: &str) -> Result<StateDirectory, Failure> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(Failure::new(format!("the name `{name}` cannot name a directory: choose another")));
        }
        let folder = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
        let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let place = match (folder("XDG_STATE_HOME"), folder("HOME")) {
            _ if root => PathBuf::from("/var/lib"),
            (Some(state), _) => state,
            (None, Some(home)) => home.join(".local/state"),
            (None, None) => {
                return Err(Failure::new(
                    "neither XDG_STATE_HOME nor HOME is set: say with --state where the state belongs",
                ));
            }
        };
        Ok(StateDirectory(place.join("meshd").join(name)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file that holds the membership, if there is one.
    pub fn membership_file(&self) -> PathBuf {
        self.0.join(MEMBERSHIP_FILE)
    }

    /// What was kept when this node joined; `None` if it never did.
    ///
    /// # Errors
    /// The file is there, but it is damaged, of another form, or others can read it.
    pub fn joined(&self) -> Result<Option<Joined>, Failure> {
        let path = self.membership_file();
        let name = path.display();
        match std::fs::symlink_metadata(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            found => found.context(format!("cannot read {name}"))?,
        };
        let content: Content = settings::parse(&name, &settings::read_secret::<String>(&path)?)?;
        if content.form != FORM {
            let form = content.form;
            return Err(Failure::new(format!(
                "{name} has form {form}, which this release does not know: update meshd"
            )));
        }
        let (Some(membership), Some(network_secret)) = (content.membership, content.network_secret) else {
            return Err(Failure::new(format!("{name} is not whole: remove it and join with a new ticket")));
        };
        let literal = |peer: PeerAddress<PeerId>| {
            Some(PeerConfig { endpoint: peer.at?.literal()?, id: Some(peer.id?) })
        };
        let peers = content.peer.into_iter().filter_map(literal).collect();
        Ok(Some(Joined { membership, network_secret, peers }))
    }

    /// Makes the directory, private, if it is not there; gives every directory that it made.
    ///
    /// # Errors
    /// The system refuses.
    pub fn make(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut missing: Vec<PathBuf> =
            self.0.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
        missing.retain(|path| !path.as_os_str().is_empty());
        missing.reverse();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.context(format!("cannot make the state directory {}", self.0.display()))?;
        Ok(missing)
    }

    /// Makes sure, before a ticket is used, that what it gives can be kept.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn reserve(&self) -> Result<Reservation, Failure> {
        let made = self.make()?;
        let mut reservation = Reservation { draft: None, directory: self.0.clone(), made };
        let draft = durable_file::draft(&self.0.join(MEMBERSHIP_FILE));
        reservation.draft = Some(draft.context(format!("cannot write in {}", self.0.display()))?);
        Ok(reservation)
    }
}

impl Reservation {
    /// Keeps a membership, durably: it is there after a power cut, or this failed.
    ///
    /// # Errors
    /// The system refuses; nothing is kept then.
    pub fn store(mut self, joined: &Joined) -> Result<(), Failure> {
        let path = self.directory.join(MEMBERSHIP_FILE);
        let place = format!("cannot write {}", path.display());
        let draft = self.draft.take().expect("a reservation has its draft until it is used");
        durable_file::keep(draft, &path, render(joined).as_bytes()).context(place)?;
        self.made.clear();
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        drop(self.draft.take());
        for directory in self.made.iter().rev() {
            // One that somebody else uses by now is not empty and stays.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

fn render(joined: &Joined) -> String {
    let peer = |endpoint: SocketAddr, id: PeerId| format!("\"{id}@{endpoint}\"");
    let peers = joined.peers.iter().filter_map(|known| Some(peer(known.endpoint, known.id?)));
    format!(
        "# Written by meshd when it joined. It holds the network's secret: keep it private.\n\
         form = {FORM}\nmembership = \"{}\"\nnetwork-secret = \"{}\"\npeer = [{}]\n",
        joined.membership,
        *joined.network_secret.to_text(),
        peers.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshnet::{Claims, SecretKey};

    use super::*;

    fn sample() -> Joined {
        let authority = SecretKey::from_bytes([1; 32]);
        let claims = Claims::new("home", "10.7.0.2/24".parse().unwrap(), &[]).unwrap();
        let peer = SecretKey::from_bytes([2; 32]).id();
        let membership = Membership::issue(&authority, peer, claims, Duration::ZERO, None, 1);
        let endpoint = "[2001:db8::1]:3210".parse().unwrap();
        let peers = vec![PeerConfig { endpoint, id: Some(authority.id()) }];
        Joined { membership, network_secret: NetworkSecret::from_bytes([3; 32]), peers }
    }

    #[test]
    fn a_membership_comes_back_as_it_was_kept_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDirectory::at(dir.path().join("a/b"));
        assert!(state.joined().unwrap().is_none());
        state.reserve().unwrap().store(&sample()).unwrap();
        let found = state.joined().unwrap().unwrap();
        assert_eq!(found.membership, sample().membership);
        assert_eq!(found.network_secret.to_text(), sample().network_secret.to_text());
        assert_eq!(found.peers, sample().peers);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&state.membership_file()), mode(state.path())), (0o600, 0o700));
    }

    #[test]
    fn a_reservation_that_is_not_used_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(StateDirectory::at(dir.path().join("a/b")).reserve().unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(StateDirectory::at(dir.path().to_owned()).reserve().unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "and keeps what was there before");
    }

    #[test]
    fn a_damaged_or_newer_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDirectory::at(dir.path().to_owned());
        let refusal = |text: &str| {
            state.reserve().unwrap().store(&sample()).unwrap();
            std::fs::write(state.membership_file(), text).unwrap();
            let said = state.joined().unwrap_err().to_string();
            assert!(said.contains(MEMBERSHIP_FILE), "{said}");
            said
        };
        assert!(refusal("").contains("form"));
        assert!(refusal(&render(&sample()).replace("form = 1", "form = 2")).contains("update meshd"));
        assert!(refusal(&render(&sample()).replace("mnm1", "mnx1")).contains(":3:"));
    }
}
