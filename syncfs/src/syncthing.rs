//! Reads Syncthing's `config.xml` for somebody who moves in. Every element and attribute is either taken over, or named in
//! [`Imported::notes`] as obsolete or not taken over, with the reason: nothing is dropped silently.
//!
//! Reads text and gives values; folders and keys are made by whoever asked.

mod keys;

use std::collections::BTreeMap;
use std::time::Duration;

use roxmltree::{Document, Node, ParsingOptions};
use thiserror::Error;

use crate::config::{Direction, MinFree};
use crate::device::FolderId;
use crate::greeting::Label;
use crate::history::History;
use keys::{GROUPS, KEYS};

/// The longest text that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// The most XML nodes.
pub const NODES_MAX: u32 = 100_000;
/// The most distinct keys that are named one by one.
pub const NOTES_MAX: usize = 1000;

/// How many days stand for Syncthing's "for ever".
const FOREVER_DAYS: u64 = 36_500;

/// Why a text is no configuration of Syncthing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Too much to be one.
    #[error("the file is larger than {TEXT_BYTES_MAX} bytes: no configuration of Syncthing is")]
    TooLarge,
    /// Not XML, with line and column.
    #[error("not readable as XML: {0}")]
    Xml(#[from] roxmltree::Error),
    /// Some other XML.
    #[error("the outermost element is <{0}>, not <configuration>: this is not Syncthing's config.xml")]
    Foreign(String),
}

/// What becomes of a key of Syncthing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Taken over, or already so here.
    Mapped,
    /// Has no meaning any more.
    Obsolete,
    /// Meant something that is not taken over.
    NotMapped,
}

/// What becomes of one key, for all its occurrences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it stands: elements joined by `/`, an attribute after `@`.
    pub key: String,
    /// What becomes of it.
    pub fate: Fate,
    /// How, or why not.
    pub reason: String,
}

/// A folder to adopt in place.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedFolder {
    /// A label made of Syncthing's folder ID.
    pub label: Label,
    /// The folder's identity, made of it, too: the same on every device that imports, so that each adopts what it has.
    pub folder: FolderId,
    /// What a person called it.
    pub title: String,
    /// Where it is; `~` as Syncthing writes it.
    pub path: String,
    /// Which way it goes.
    pub direction: Direction,
    /// What it keeps of replaced versions.
    pub history: History,
    /// What of the disk stays free; none if it does not say.
    pub min_free: Option<MinFree>,
    /// How often it is looked through, in seconds; `None` for never.
    pub rescan_s: Option<u64>,
    /// Syncthing's IDs of the devices that share it.
    pub devices: Vec<String>,
    /// It was paused.
    pub paused: bool,
}

/// A device; its ID here is still to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedDevice {
    /// Syncthing's ID.
    pub id: String,
    /// What a person called it.
    pub name: String,
    /// `HOST:PORT`, without those that Syncthing finds by itself.
    pub addresses: Vec<String>,
    /// KiB a second to it, and from it.
    pub send_kib_s: Option<u64>,
    /// KiB a second from it.
    pub receive_kib_s: Option<u64>,
    /// It was paused.
    pub paused: bool,
}

/// A configuration as far as it can be taken over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// `HOST:PORT` to listen on, if one is named.
    pub listen: Option<String>,
    /// KiB a second to all peers together.
    pub send_kib_s: Option<u64>,
    /// KiB a second from all peers together.
    pub receive_kib_s: Option<u64>,
    /// The folders.
    pub folders: Vec<ImportedFolder>,
    /// The devices, this one among them.
    pub devices: Vec<ImportedDevice>,
    /// Syncthing's ID of this device, if an address gives it away.
    pub this: Option<String>,
    /// What becomes of every key that occurs, in order of the keys.
    pub notes: Vec<Note>,
}

/// Reads a configuration.
///
/// # Errors
/// If the text is not one.
pub fn parse(text: &str) -> Result<Imported, ImportError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ImportError::TooLarge);
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)?;
    let root = document.root_element();
    if root.tag_name().name() != "configuration" {
        return Err(ImportError::Foreign(root.tag_name().name().to_owned()));
    }
    let mut notes = Notes::default();
    for attribute in root.attributes() {
        notes.judge(&format!("@{}", attribute.name()), attribute.value());
    }
    for child in root.children().filter(Node::is_element) {
        notes.visit(child);
    }
    let mut imported = Imported::default();
    for child in root.children() {
        match child.tag_name().name() {
            "folder" => imported.folders.extend(folder(child, &mut notes)),
            "device" => imported.devices.push(device(child, &mut notes)),
            "options" => {
                let addresses = texts(child, "listenAddress");
                imported.listen = addresses.iter().find_map(|address| listen(address));
                imported.send_kib_s = rate(child, "maxSendKbps");
                imported.receive_kib_s = rate(child, "maxRecvKbps");
            }
            _ => {}
        }
    }
    let here = |device: &&ImportedDevice| imported.listen.iter().any(|at| device.addresses.contains(at));
    imported.this = imported.devices.iter().find(here).map(|device| device.id.clone());
    imported.notes = notes.list();
    Ok(imported)
}

fn folder(node: Node<'_, '_>, notes: &mut Notes) -> Option<ImportedFolder> {
    let attribute = |name| node.attribute(name).unwrap_or_default().trim();
    let id = attribute("id");
    let path = attribute("path");
    if path.is_empty() {
        notes.add(&format!("folder {id}"), Fate::NotMapped, "it has no path");
        return None;
    }
    let direction = match attribute("type") {
        "" | "sendreceive" | "readwrite" => Direction::Both,
        "sendonly" | "readonly" => Direction::Send,
        "receiveonly" => Direction::Receive,
        other => {
            let reason = format!("its type `{other}` is not known here, so it is left out");
            notes.add(&format!("folder {id}"), Fate::NotMapped, &reason);
            return None;
        }
    };
    let label = label(id);
    if label.as_str() != id {
        let reason = format!("it is called {label} here: a label has only a-z A-Z 0-9 . _ -");
        notes.add(&format!("folder {id}"), Fate::Mapped, &reason);
    }
    let rescan = attribute("rescanIntervalS").parse().ok();
    let devices = node.children().filter(|child| child.has_tag_name("device"));
    Some(ImportedFolder {
        label,
        folder: folder_id(id),
        title: attribute("label").to_owned(),
        path: path.to_owned(),
        direction,
        history: history(node, id, notes),
        min_free: min_free(node),
        rescan_s: rescan.filter(|&seconds| seconds > 0),
        devices: devices.filter_map(|device| device.attribute("id")).map(str::to_owned).collect(),
        paused: texts(node, "paused").iter().any(|text| text == "true"),
    })
}

/// Syncthing's trash can and staggered versions; the other two kinds have no counterpart.
fn history(node: Node<'_, '_>, id: &str, notes: &mut Notes) -> History {
    const DAY_S: u64 = 86_400;
    let Some(versioning) = node.children().find(|child| child.has_tag_name("versioning")) else {
        return History::Off;
    };
    let param = |key: &str| {
        let mut params = versioning.children().filter(|child| child.has_tag_name("param"));
        let value = params.find(|param| param.attribute("key") == Some(key))?.attribute("val")?;
        value.trim().parse::<u64>().ok()
    };
    // There 0 is for ever, as is a missing number of days.
    let age = |seconds: Option<u64>| match seconds {
        None | Some(0) => Duration::from_secs(FOREVER_DAYS * DAY_S),
        Some(seconds) => Duration::from_secs(seconds.min(FOREVER_DAYS * DAY_S)),
    };
    match versioning.attribute("type").unwrap_or_default() {
        "" => History::Off,
        "trashcan" => {
            History::Trash { keep: age(param("cleanoutDays").map(|days| days.saturating_mul(DAY_S))) }
        }
        "staggered" => History::Staggered { max_age: age(param("maxAge").or(Some(365 * DAY_S))) },
        other => {
            let reason =
                format!("`{other}` has no counterpart: choose `history` trash or staggered, or none is kept");
            notes.add(&format!("folder {id} versioning"), Fate::NotMapped, &reason);
            History::Off
        }
    }
}

fn min_free(node: Node<'_, '_>) -> Option<MinFree> {
    let least = node.children().find(|child| child.has_tag_name("minDiskFree"))?;
    let amount: f64 = least.text()?.trim().parse().ok()?;
    let unit = match least.attribute("unit").unwrap_or_default() {
        "%" => return (0.0..=100.0).contains(&amount).then_some(MinFree::Percent(amount)),
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => 1.0,
    };
    let bytes = amount * unit;
    (0.0..1e18).contains(&bytes).then_some(MinFree::Bytes(bytes as u64))
}

/// The identity of a folder that all devices had in Syncthing.
fn folder_id(id: &str) -> FolderId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"syncthing folder ").update(id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    FolderId::from_bytes(bytes)
}

fn device(node: Node<'_, '_>, notes: &mut Notes) -> ImportedDevice {
    let mut addresses = Vec::new();
    for address in texts(node, "address") {
        match address.as_str() {
            "dynamic" => {
                let reason = "there is no discovery: write down where the device is, or let it dial";
                notes.add("device/address dynamic", Fate::NotMapped, reason);
            }
            address => match host_port(address) {
                Some(at) => addresses.push(at),
                None => {
                    let reason = "only TCP is spoken here; relays and QUIC are not";
                    notes.add(&format!("device/address {address}"), Fate::NotMapped, reason);
                }
            },
        }
    }
    ImportedDevice {
        id: node.attribute("id").unwrap_or_default().to_owned(),
        name: node.attribute("name").unwrap_or_default().to_owned(),
        addresses,
        send_kib_s: rate(node, "maxSendKbps"),
        receive_kib_s: rate(node, "maxRecvKbps"),
        paused: texts(node, "paused").iter().any(|text| text == "true"),
    }
}

/// The texts of a node's children of this name.
fn texts(node: Node<'_, '_>, name: &str) -> Vec<String> {
    let children = node.children().filter(|child| child.has_tag_name(name));
    children.map(|child| child.text().unwrap_or_default().trim().to_owned()).collect()
}

/// KiB a second; 0 is no limit.
fn rate(node: Node<'_, '_>, name: &str) -> Option<u64> {
    texts(node, name).first()?.parse().ok().filter(|&rate| rate > 0)
}

/// `tcp://HOST:PORT` as `HOST:PORT`; the port may be missing.
fn host_port(address: &str) -> Option<String> {
    let rest = ["tcp://", "tcp4://", "tcp6://"].iter().find_map(|scheme| address.strip_prefix(scheme))?;
    let (rest, _) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if rest.is_empty() || rest.len() > 270 || !rest.chars().all(plain) {
        return None;
    }
    let port = rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    Some(if port.is_some() { rest.to_owned() } else { format!("{rest}:22000") })
}

/// Where to listen: Syncthing's `default` and an address without a host mean everywhere.
fn listen(address: &str) -> Option<String> {
    match address {
        "default" => Some("0.0.0.0:22000".to_owned()),
        address => host_port(address).map(|at| match at.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}"),
            None => at,
        }),
    }
}

/// A folder ID with only the characters that a label has.
fn label(id: &str) -> Label {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let text: String = id.chars().map(plain).take(crate::greeting::LABEL_BYTES_MAX).collect();
    text.parse().unwrap_or_else(|_| "folder".parse().expect("a word is a label"))
}

/// What becomes of every key that was met.
#[derive(Default)]
struct Notes {
    met: BTreeMap<String, (Fate, String)>,
}

impl Notes {
    fn add(&mut self, key: &str, fate: Fate, reason: &str) {
        if self.met.len() < NOTES_MAX {
            self.met.entry(key.to_owned()).or_insert((fate, reason.to_owned()));
        }
    }

    /// Judges an element of the first or second level below the root, its attributes and its children.
    fn visit(&mut self, node: Node<'_, '_>) {
        let name = node.tag_name().name();
        for attribute in node.attributes() {
            self.judge(&format!("{name}/@{}", attribute.name()), attribute.value());
        }
        let children: Vec<_> = node.children().filter(Node::is_element).collect();
        if children.is_empty() && !matches!(name, "folder" | "device") {
            self.judge(name, node.text().unwrap_or_default().trim());
        }
        for child in children {
            let key = format!("{name}/{}", child.tag_name().name());
            self.judge(&key, child.text().unwrap_or_default().trim());
            for attribute in child.attributes() {
                self.judge(&format!("{key}/@{}", attribute.name()), attribute.value());
            }
            for deeper in child.children().filter(Node::is_element) {
                let text = deeper.text().unwrap_or_default().trim();
                self.judge(&format!("{key}/{}", deeper.tag_name().name()), text);
            }
        }
    }

    fn judge(&mut self, key: &str, value: &str) {
        let known = KEYS.iter().find(|(known, ..)| *known == key).map(|&(_, fate, reason)| (fate, reason));
        let group = || {
            let (group, _) = key.split_once('/').unwrap_or((key, ""));
            GROUPS.iter().find(|(known, _)| *known == group).map(|&(_, reason)| (Fate::Obsolete, reason))
        };
        let unknown = (Fate::NotMapped, "not known here: of another version of Syncthing, or mistyped");
        let (fate, reason) = known.or_else(group).unwrap_or(unknown);
        // A setting that is off loses nothing when it is not taken over.
        let is_off = matches!(value, "" | "false" | "0");
        match fate {
            Fate::NotMapped if known.is_some() && is_off => {
                self.add(key, Fate::Obsolete, &format!("not set; {reason}"));
            }
            fate => self.add(key, fate, reason),
        }
    }

    fn list(self) -> Vec<Note> {
        self.met.into_iter().map(|(key, (fate, reason))| Note { key, fate, reason }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(inner: &str) -> Imported {
        parse(&format!("<configuration version=\"37\">{inner}</configuration>")).unwrap()
    }

    #[test]
    fn every_key_is_listed_once() {
        let mut keys: Vec<_> = KEYS.iter().map(|(key, ..)| key).collect();
        keys.sort_unstable();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn folders_and_devices_are_taken_over() {
        let imported = wrapped(
            r#"<folder id="my notes" label="Notes" path="/n" type="receiveonly" rescanIntervalS="0">
                <device id="A"/><device id="B"/><paused>true</paused></folder>
               <device id="A" name="vm"><address>tcp://vm.example.org</address><address>dynamic</address>
                <address>quic://1.2.3.4:1</address><maxSendKbps>100</maxSendKbps></device>
               <options><listenAddress>tcp://:22001</listenAddress><maxRecvKbps>0</maxRecvKbps></options>"#,
        );
        let [folder] = &imported.folders[..] else { panic!() };
        assert_eq!(
            (folder.label.as_str(), folder.path.as_str(), folder.direction),
            ("my-notes", "/n", Direction::Receive)
        );
        assert_eq!((folder.rescan_s, folder.devices.len(), folder.paused), (None, 2, true));
        let [device] = &imported.devices[..] else { panic!() };
        assert_eq!(device.addresses, ["vm.example.org:22000"]);
        assert_eq!(device.send_kib_s, Some(100));
        assert_eq!((imported.listen.as_deref(), imported.receive_kib_s), (Some("0.0.0.0:22001"), None));
        let not_mapped =
            |key: &str| imported.notes.iter().any(|note| note.key == key && note.fate == Fate::NotMapped);
        assert!(not_mapped("device/address dynamic") && not_mapped("device/address quic://1.2.3.4:1"));
    }

    #[test]
    fn versions_are_kept_as_before_and_devices_agree_on_the_folder() {
        let folder = |versioning: &str| {
            let text = format!("<folder id='a' path='/a'><versioning{versioning}</versioning></folder>");
            let imported = wrapped(&text);
            let lost = imported.notes.iter().any(|note| note.fate == Fate::NotMapped);
            (imported.folders[0].history, lost)
        };
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let param = |key: &str, val: &str| format!("<param key='{key}' val='{val}'/>");
        assert_eq!(folder(">"), (History::Off, false));
        let trash = folder(&format!(" type='trashcan'>{}", param("cleanoutDays", "7")));
        assert_eq!(trash, (History::Trash { keep: days(7) }, false));
        let trash = folder(&format!(" type='trashcan'>{}", param("cleanoutDays", "0")));
        assert_eq!(trash.0, History::Trash { keep: days(FOREVER_DAYS) });
        let staggered = folder(&format!(" type='staggered'>{}", param("maxAge", "86400")));
        assert_eq!(staggered, (History::Staggered { max_age: days(1) }, false));
        assert_eq!(folder(" type='external'>"), (History::Off, true));
        let free = |unit: &str, amount: &str| {
            let least = format!("<minDiskFree unit='{unit}'>{amount}</minDiskFree>");
            wrapped(&format!("<folder id='a' path='/a'>{least}</folder>")).folders[0].min_free
        };
        assert_eq!(free("%", "1.5"), Some(MinFree::Percent(1.5)));
        assert_eq!(free("GB", "2"), Some(MinFree::Bytes(2_000_000_000)));
        for (unit, wrong) in [("%", "101"), ("%", "NaN"), ("TB", "1e99"), ("MB", "-1"), ("MB", "")] {
            assert_eq!(free(unit, wrong), None, "{wrong}{unit}");
        }
        let id = |id: &str| wrapped(&format!("<folder id='{id}' path='/a'/>")).folders[0].folder;
        assert_eq!(id("abcd-1234"), id("abcd-1234"));
        assert_ne!(id("a b"), id("a-b"), "not of the label, which may be shortened");
    }

    #[test]
    fn what_was_set_and_is_lost_is_not_called_obsolete() {
        let fate =
            |text: &str| wrapped(text).notes.iter().find(|n| n.key == "folder/ignoreDelete").unwrap().fate;
        let folder =
            |value: &str| format!("<folder id='a' path='/a'><ignoreDelete>{value}</ignoreDelete></folder>");
        assert_eq!(fate(&folder("true")), Fate::NotMapped);
        assert_eq!(fate(&folder("false")), Fate::Obsolete);
        let unknown = wrapped("<options><brandNew>0</brandNew></options>");
        assert!(unknown.notes.iter().any(|n| n.key == "options/brandNew" && n.fate == Fate::NotMapped));
        let encrypted = wrapped("<folder id='a' path='/a' type='receiveencrypted'/>");
        assert!(encrypted.folders.is_empty() && encrypted.notes.iter().any(|n| n.key == "folder a"));
    }

    #[test]
    fn what_is_not_a_configuration_is_refused() {
        assert!(matches!(parse("<a/>"), Err(ImportError::Foreign(_))));
        assert!(matches!(parse("configuration"), Err(ImportError::Xml(_))));
        assert!(matches!(parse(&" ".repeat(TEXT_BYTES_MAX + 1)), Err(ImportError::TooLarge)));
        let bomb = "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><configuration>&a;</configuration>";
        assert!(matches!(parse(bomb), Err(ImportError::Xml(_))));
        let many = format!("<configuration>{}</configuration>", "<a/>".repeat(NODES_MAX as usize));
        assert!(matches!(parse(&many), Err(ImportError::Xml(_))));
        let deep = format!("<configuration>{}", "<a>".repeat(50_000));
        assert!(matches!(parse(&deep), Err(ImportError::Xml(_))));
    }
}
