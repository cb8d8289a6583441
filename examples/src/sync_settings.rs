//! What `syncd serve` is told: by flags for one folder, by a TOML file for any number, or by both.
//!
//! The file may name peers and folders in tables; the flags are the short form for one folder. Everything is checked
//! here, so that what comes out can be served.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use syncfs::greeting::Label;
use syncfs::{Config, CutRule, DeviceId, Direction, FolderId, History, MinFree, SqliteLock};

use crate::daemon::{self, Failure};
use crate::host_port::{HostPort, PeerAddress};
use crate::settings;
use crate::sync_cuts;

/// The most folders and the most peers of one daemon.
pub const TABLES_MAX: usize = 256;

/// How long kept versions are kept if nothing is said: for `trash` and for `staggered`.
const TRASH_AGE: Duration = Duration::from_secs(30 * 86_400);
const STAGGERED_AGE: Duration = Duration::from_secs(365 * 86_400);

/// The flags of `syncd serve`; each is also a key of the file.
#[derive(Args, Debug, Default)]
pub struct ServeFlags {
    /// The TCP address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", required_unless_present = "config")]
    pub listen: Option<SocketAddr>,
    /// A device to sync with; without an address it may only dial us; repeatable
    #[arg(long, value_name = "ID[@HOST:PORT]")]
    pub peer: Vec<PeerAddress<DeviceId>>,
    /// The device's secret key [default: DIR/.syncfs/key]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// How often the whole folder is looked through, besides being watched
    #[arg(long, value_parser = settings::duration, value_name = "TIME")]
    pub rescan: Option<Duration>,
    /// This replica's name in messages [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Send at most so much to each peer, for instance 5MiB/s
    #[arg(long, value_parser = rate, value_name = "RATE")]
    pub send_limit: Option<u64>,
    /// Receive at most so much from each peer
    #[arg(long, value_parser = rate, value_name = "RATE")]
    pub receive_limit: Option<u64>,
    /// Serve Prometheus metrics over HTTP on this address
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct File {
    #[serde(deserialize_with = "settings::from_text")]
    listen: Option<SocketAddr>,
    key: Option<PathBuf>,
    #[serde(deserialize_with = "settings::from_duration")]
    rescan: Option<Duration>,
    name: Option<String>,
    #[serde(deserialize_with = "from_rate")]
    send_limit: Option<u64>,
    #[serde(deserialize_with = "from_rate")]
    receive_limit: Option<u64>,
    #[serde(deserialize_with = "settings::from_text")]
    metrics: Option<SocketAddr>,
    folder: Vec<FolderTable>,
    peer: Vec<PeerTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct FolderTable {
    path: PathBuf,
    #[serde(deserialize_with = "settings::from_text")]
    label: Option<Label>,
    #[serde(deserialize_with = "settings::from_text")]
    id: Option<FolderId>,
    peers: Option<Vec<String>>,
    #[serde(deserialize_with = "settings::from_duration")]
    rescan: Option<Duration>,
    #[serde(deserialize_with = "settings::from_duration")]
    debounce: Option<Duration>,
    direction: Way,
    ignore: Vec<String>,
    history: Policy,
    #[serde(deserialize_with = "settings::from_duration")]
    history_age: Option<Duration>,
    #[serde(deserialize_with = "from_size")]
    history_size: Option<u64>,
    #[serde(deserialize_with = "settings::from_duration")]
    branch_age: Option<Duration>,
    #[serde(deserialize_with = "from_size")]
    branch_size: Option<u64>,
    mass_deletion: Option<u64>,
    #[serde(deserialize_with = "from_share")]
    min_free: Option<MinFree>,
    state: Option<PathBuf>,
    #[serde(alias = "sqlite_lock")]
    sqlite_lock: Lock,
    #[serde(deserialize_with = "sync_cuts::from_tables")]
    cut: Vec<CutRule>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    #[default]
    Both,
    Send,
    Receive,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    #[default]
    Off,
    Trash,
    Staggered,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Lock {
    #[default]
    Never,
    Brief,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct PeerTable {
    #[serde(deserialize_with = "settings::from_text")]
    id: Option<DeviceId>,
    name: Option<String>,
    #[serde(deserialize_with = "settings::from_texts")]
    addresses: Vec<HostPort>,
    #[serde(deserialize_with = "from_rate")]
    send_limit: Option<u64>,
    #[serde(deserialize_with = "from_rate")]
    receive_limit: Option<u64>,
}

/// A device to sync with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub id: DeviceId,
    /// What a person calls it; its ID if nothing.
    pub name: String,
    /// Where it is dialled, one after the other; nowhere if it only dials us.
    pub addresses: Vec<HostPort>,
    /// Bytes a second to it, at most.
    pub send_limit: Option<u64>,
    /// Bytes a second from it, at most.
    pub receive_limit: Option<u64>,
}

/// A folder to serve.
#[derive(Clone, Debug)]
pub struct Served {
    /// How it is opened; `device` is for the caller to set.
    pub config: Config,
    /// What the devices call it.
    pub label: Option<Label>,
    /// Whom it is shared with.
    pub peers: BTreeSet<DeviceId>,
}

/// All that a daemon needs, checked.
#[derive(Clone, Debug)]
pub struct SyncSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The file with its key.
    pub key: PathBuf,
    /// Its folders, at least one.
    pub folders: Vec<Served>,
    /// Its peers.
    pub peers: Vec<Peer>,
    /// The file that this comes from, if any.
    pub file: Option<PathBuf>,
    /// Where it serves metrics.
    pub metrics: Option<SocketAddr>,
}

impl SyncSettings {
    /// Takes flags, a directory and a config file together. A flag wins over the file's key of the same name.
    pub fn new(dir: Option<PathBuf>, flags: ServeFlags, config: Option<&Path>) -> Result<Self, Failure> {
        let file = config.map(settings::load::<File>).transpose()?.unwrap_or_default();
        let missing = "the settings have no `listen`: give it in the file or as --listen";
        let listen = flags.listen.or(file.listen).ok_or_else(|| Failure::new(missing))?;
        let limits = (flags.send_limit.or(file.send_limit), flags.receive_limit.or(file.receive_limit));
        let peers = peers(&flags.peer, &file.peer, limits)?;
        let name = flags.name.or(file.name).unwrap_or_else(daemon::host_name);
        let rescan = flags.rescan.or(file.rescan);
        let tables = match (dir, file.folder) {
            (Some(path), tables) if tables.is_empty() => vec![FolderTable { path, ..FolderTable::default() }],
            (Some(dir), _) => {
                let dir = dir.display();
                return Err(Failure::new(format!(
                    "{dir}: give a directory, or [[folder]] tables in the file"
                )));
            }
            (None, tables) => tables,
        };
        let folders = folders(tables, &peers, &name, rescan)?;
        let key = match (flags.key.or(file.key), &folders[..]) {
            (Some(key), _) => key,
            (None, [only]) => key_path(&only.config.root),
            (None, _) => {
                return Err(Failure::new("several folders are one device with one `key`: name its file"));
            }
        };
        let from = config.map(std::path::absolute).transpose()?;
        Ok(Self { listen, key, folders, peers, metrics: flags.metrics.or(file.metrics), file: from })
    }
}

/// Where the key of a device with one folder is.
pub fn key_path(dir: &Path) -> PathBuf {
    dir.join(".syncfs").join("key")
}

/// Reads `500KiB/s`, `5MiB/s`, `1GiB/s` or `64000B/s`.
pub fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a rate: write 500KiB/s, 5MiB/s or 1GiB/s");
    let bytes = text.strip_suffix("/s").and_then(bytes).ok_or_else(wrong)?;
    let least = syncfs::limit::BYTES_PER_SECOND_MIN;
    if bytes < least {
        return Err(format!("`{text}` is too slow for the protocol: at least {}KiB/s", least >> 10));
    }
    Ok(bytes)
}

/// Reads `500MiB` or `10GiB`.
pub fn size(text: &str) -> Result<u64, String> {
    bytes(text).ok_or_else(|| format!("`{text}` is not a size: write 500MiB, 10GiB or 1TiB"))
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Reads `5GiB`, or `1%` of a disk.
fn share(text: &str) -> Result<MinFree, String> {
    let wrong = || format!("`{text}` is no part of a disk: write 1% or 5GiB");
    match text.strip_suffix('%') {
        None => bytes(text).map(MinFree::Bytes).ok_or_else(wrong),
        Some(percent) => {
            let percent = percent.trim().parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
            percent.map(MinFree::Percent).ok_or_else(wrong)
        }
    }
}

fn from_share<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<MinFree>, D::Error> {
    share(&String::deserialize(source)?).map(Some).map_err(serde::de::Error::custom)
}

fn from_size<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    size(&String::deserialize(source)?).map(Some).map_err(serde::de::Error::custom)
}

fn from_rate<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    rate(&String::deserialize(source)?).map(Some).map_err(serde::de::Error::custom)
}

fn peers(
    flags: &[PeerAddress<DeviceId>],
    tables: &[PeerTable],
    (send_limit, receive_limit): (Option<u64>, Option<u64>),
) -> Result<Vec<Peer>, Failure> {
    let mut peers: Vec<Peer> = Vec::new();
    for table in tables {
        let id =
            table.id.ok_or_else(|| Failure::new("a [[peer]] has no `id`: `syncd id` prints it there"))?;
        let name = table.name.clone().unwrap_or_else(|| id.to_string());
        if peers.iter().any(|peer| peer.id == id || peer.name == name) {
            return Err(Failure::new(format!("two [[peer]] tables are about {name}")));
        }
        peers.push(Peer {
            id,
            name,
            addresses: table.addresses.clone(),
            send_limit: table.send_limit.or(send_limit),
            receive_limit: table.receive_limit.or(receive_limit),
        });
    }
    for flag in flags {
        let missing = "a peer needs its device ID: write ID or ID@HOST:PORT";
        let id = flag.id.ok_or_else(|| Failure::new(missing))?;
        match peers.iter_mut().find(|peer| peer.id == id) {
            Some(peer) => peer.addresses.extend(flag.at.clone()),
            None => {
                let addresses = flag.at.iter().cloned().collect();
                peers.push(Peer { id, name: id.to_string(), addresses, send_limit, receive_limit });
            }
        }
    }
    match peers.len() <= TABLES_MAX {
        true => Ok(peers),
        false => Err(Failure::new(format!("more than {TABLES_MAX} peers"))),
    }
}

fn folders(
    tables: Vec<FolderTable>,
    peers: &[Peer],
    name: &str,
    rescan: Option<Duration>,
) -> Result<Vec<Served>, Failure> {
    if tables.is_empty() || tables.len() > TABLES_MAX {
        return Err(Failure::new(format!("give a directory, or 1 to {TABLES_MAX} [[folder]] tables")));
    }
    let mut folders: Vec<Served> = Vec::new();
    for table in tables {
        let path = table.path.display().to_string();
        if path.is_empty() {
            return Err(Failure::new("a [[folder]] has no `path`"));
        }
        let twice = |other: &Served| {
            other.config.root == table.path || table.label.is_some() && other.label == table.label
        };
        if folders.iter().any(twice) {
            return Err(Failure::new(format!("{path}: two [[folder]] tables have this path or label")));
        }
        let shared = match &table.peers {
            None => peers.iter().map(|peer| peer.id).collect(),
            Some(names) => names.iter().map(|name| named(peers, name, &path)).collect::<Result<_, _>>()?,
        };
        let label = table.label.clone();
        folders.push(Served { config: table.config(name, rescan)?, label, peers: shared });
    }
    Ok(folders)
}

impl FolderTable {
    fn config(self, name: &str, rescan: Option<Duration>) -> Result<Config, Failure> {
        let mut config = Config::new(self.path);
        if matches!(self.history, Policy::Off) && (self.history_age.is_some() || self.history_size.is_some())
        {
            let path = config.root.display();
            let what = "history-age and history-size say how much is kept, and nothing is";
            return Err(Failure::new(format!("{path}: {what}: set `history` to trash or staggered")));
        }
        config.name = name.to_owned();
        config.folder = self.id;
        config.rescan = self.rescan.or(rescan).unwrap_or(config.rescan);
        config.debounce = self.debounce.unwrap_or(config.debounce);
        config.direction = match self.direction {
            Way::Both => Direction::Both,
            Way::Send => Direction::Send,
            Way::Receive => Direction::Receive,
        };
        config.ignore = self.ignore;
        config.history = match self.history {
            Policy::Off => History::Off,
            Policy::Trash => History::Trash { keep: self.history_age.unwrap_or(TRASH_AGE) },
            Policy::Staggered => History::Staggered { max_age: self.history_age.unwrap_or(STAGGERED_AGE) },
        };
        config.history_bytes_max = self.history_size.unwrap_or(config.history_bytes_max);
        config.branch_age = self.branch_age.unwrap_or(config.branch_age);
        config.branch_bytes_max = self.branch_size.unwrap_or(config.branch_bytes_max);
        config.mass_deletion = match self.mass_deletion {
            None => config.mass_deletion,
            Some(0) => None,
            files => files,
        };
        config.min_free = self.min_free.unwrap_or(config.min_free);
        config.state = self.state;
        config.cuts = self.cut;
        config.sqlite_lock = match self.sqlite_lock {
            Lock::Never => SqliteLock::Never,
            Lock::Brief => SqliteLock::Brief,
        };
        Ok(config)
    }
}

fn named(peers: &[Peer], name: &str, path: &str) -> Result<DeviceId, Failure> {
    let found = peers.iter().find(|peer| peer.name == name || peer.id.to_string() == name);
    let missing = || Failure::new(format!("{path}: `{name}` is no [[peer]]: add one with this name or id"));
    found.map(|peer| peer.id).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<SyncSettings, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("syncd.toml");
        std::fs::write(&file, text).unwrap();
        SyncSettings::new(None, ServeFlags::default(), Some(&file)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_sample_is_read_whole_and_a_flag_wins_over_it() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/syncd.toml");
        let flags = ServeFlags { rescan: Some(Duration::from_secs(5)), ..ServeFlags::default() };
        let read = SyncSettings::new(None, flags, Some(&sample)).unwrap();
        assert_eq!(read.listen, "0.0.0.0:22000".parse().unwrap());
        assert_eq!(read.key, Path::new("/var/lib/syncd/key"));
        let [home, vm] = &read.peers[..] else { panic!("{:?}", read.peers) };
        assert_eq!((home.name.as_str(), home.addresses.len(), home.send_limit), ("home-2", 2, Some(5 << 20)));
        assert_eq!((vm.name.as_str(), vm.addresses.len(), vm.send_limit), ("vm", 0, Some(50 << 20)));
        let [notes, media] = &read.folders[..] else { panic!("{:?}", read.folders) };
        assert_eq!(notes.label.as_ref().map(Label::as_str), Some("notes"));
        assert_eq!((notes.peers.len(), media.peers.len()), (1, 2));
        assert_eq!(notes.config.rescan, Duration::from_secs(600));
        let keep = Duration::from_secs(90 * 86_400);
        assert_eq!(notes.config.history, History::Staggered { max_age: keep });
        assert_eq!((notes.config.history_bytes_max, notes.config.mass_deletion), (5 << 30, Some(500)));
        assert_eq!(
            (notes.config.min_free, media.config.min_free),
            (MinFree::Bytes(2 << 30), MinFree::Percent(1.0))
        );
        assert_eq!((notes.config.ignore.len(), notes.config.direction), (2, Direction::Both));
        assert_eq!((notes.config.cuts.len(), media.config.cuts.len()), (3, 0));
        let locks = (notes.config.sqlite_lock, media.config.sqlite_lock);
        assert_eq!(locks, (SqliteLock::Brief, SqliteLock::Never));
        assert_eq!((media.config.history, media.config.direction), (History::Off, Direction::Receive));
        assert_eq!(media.config.rescan, Duration::from_secs(5));
    }

    #[test]
    fn flags_are_the_short_form_for_one_folder() {
        let id = DeviceId::from_bytes([7; 32]);
        let peer = [format!("{id}"), format!("{id}@a:1"), format!("{id}@b:2")];
        let flags = ServeFlags {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            peer: peer.iter().map(|text| text.parse().unwrap()).collect(),
            ..ServeFlags::default()
        };
        let read = SyncSettings::new(Some("/srv/notes".into()), flags, None).unwrap();
        assert_eq!(read.key, Path::new("/srv/notes/.syncfs/key"));
        assert_eq!((read.peers.len(), read.peers[0].addresses.len()), (1, 2));
        assert_eq!(read.folders[0].peers, BTreeSet::from([id]));
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let id = DeviceId::from_bytes([7; 32]);
        let listen = "listen = \"127.0.0.1:1\"\n";
        for (text, says) in [
            ("[[folder]]\npath = \"/a\"\n".to_owned(), "no `listen`"),
            (listen.to_owned(), "[[folder]]"),
            (format!("{listen}[[folder]]\nlabel = \"a\"\n"), "no `path`"),
            (format!("{listen}[[folder]]\npath = \"/a\"\n[[folder]]\npath = \"/b\"\n"), "one `key`"),
            (format!("{listen}[[folder]]\npath = \"/a\"\n[[folder]]\npath = \"/a\"\n"), "two [[folder]]"),
            (format!("{listen}[[folder]]\npath = \"/a\"\npeers = [\"vm\"]\n"), "`vm` is no [[peer]]"),
            (format!("{listen}[[folder]]\npath = \"/a\"\n[[peer]]\nname = \"vm\"\n"), "no `id`"),
            (format!("{listen}[[folder]]\npath = \"/a\"\nlabel = \"a/b\"\n"), "syncd.toml:4:9: "),
            (
                format!(
                    "{listen}[[peer]]\nid = \"{id}\"\n[[peer]]\nid = \"{id}\"\n[[folder]]\npath = \"/a\"\n"
                ),
                "two [[peer]]",
            ),
            (
                format!("{listen}[[folder]]\npath = \"/a\"\nhistroy = \"trash\"\n"),
                "syncd.toml:4:1: unknown field `histroy`",
            ),
            (format!("{listen}[[folder]]\npath = \"/a\"\nhistory-age = \"1d\"\n"), "set `history`"),
            (format!("{listen}[[folder]]\npath = \"/a\"\ndirection = \"up\"\n"), "syncd.toml:4:13: "),
            (format!("{listen}send-limit = \"1KiB/s\"\n[[folder]]\npath = \"/a\"\n"), "too slow"),
        ] {
            let said = settings(&text).unwrap_err();
            assert!(said.contains(says), "{text} -> {said}");
        }
    }

    #[test]
    fn rates_need_a_unit_and_fit() {
        assert_eq!(rate("5MiB/s"), Ok(5 << 20));
        assert_eq!(rate("100000B/s"), Ok(100_000));
        assert_eq!(share("1.5%"), Ok(MinFree::Percent(1.5)));
        for wrong in ["", "1", "101%", "NaN%", "%", "5GB"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "5", "5MiB", "MiB/s", "5MB/s", "-5MiB/s", "99999999999999999999GiB/s", "7KiB/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
