//! From Syncthing's `config.xml` to a `syncd.toml`: what [`syncfs::syncthing`] read, as a file that a person completes.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use syncfs::limit::BYTES_PER_SECOND_MIN;
use syncfs::syncthing::{self, Fate, Imported, ImportedDevice, ImportedFolder};
use syncfs::{Config, DeviceId, Direction, Folder, History, Identity, MinFree};

use crate::daemon::{Context, Failure};
use crate::settings;

/// What an import gave.
#[derive(Debug)]
pub struct Import {
    imported: Imported,
    this: Option<String>,
    home: PathBuf,
}

impl Import {
    /// Reads a configuration. `this` is what a person says which device this one is: its name or its Syncthing ID;
    /// `home` is what `~` means.
    pub fn read(file: &Path, this: Option<String>, home: PathBuf) -> Result<Self, Failure> {
        let imported = syncthing::parse(&settings::read_text(file)?).context(file.display())?;
        let this = match this {
            None => imported.this.clone(),
            Some(said) => {
                let device = imported.devices.iter().find(|device| device.id == said || device.name == said);
                let missing = || Failure::new(format!("{}: `{said}` is none of its devices", file.display()));
                Some(device.ok_or_else(missing)?.id.clone())
            }
        };
        Ok(Self { imported, this, home })
    }

    /// The settings with a key file at `key`, and below them what became of every key of Syncthing.
    pub fn toml(&self, key: &Path) -> String {
        let mut text = String::from("# Made by `syncd import` from Syncthing's config.xml.\n");
        for line in self.steps() {
            let _ = writeln!(text, "# * {line}");
        }
        let listen = self.imported.listen.as_deref().unwrap_or("0.0.0.0:22000");
        let _ = writeln!(text, "\nlisten = {}\nkey = {}", quoted(listen), quoted(&key.display().to_string()));
        let mut limit = |name: &str, kib: Option<u64>| {
            if let Some(kib) = kib {
                let _ = writeln!(text, "{name} = \"{}KiB/s\"", slowest(kib));
            }
        };
        limit("send-limit", self.imported.send_kib_s);
        limit("receive-limit", self.imported.receive_kib_s);
        for device in self.peers() {
            text.push_str(&peer_table(device));
        }
        for folder in &self.imported.folders {
            text.push_str(&self.folder_table(folder));
        }
        text.push_str("\n# What became of every key of Syncthing:\n");
        for line in self.report() {
            let _ = writeln!(text, "# {line}");
        }
        text
    }

    /// What a person has to do now.
    pub fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        if self.this.is_none() {
            let what =
                "which of the devices is this one is not in the file: remove its [[peer]], or import again";
            steps.push(format!("{what} with --this NAME"));
        }
        for device in self.peers() {
            let (name, id) = (name(device), device.id.as_str());
            steps.push(format!(
                "run `syncd init` on {name} and write the ID that it prints in place of {} ({name} was {id})",
                placeholder(device)
            ));
        }
        steps.push(
            "write the ID that `syncd init --config` prints here into the settings of the others".to_owned(),
        );
        let lock = "where `syncd status` calls a database restless, it may be locked to be read: sqlite-lock = \"brief\" in \
                    its [[folder]] (nothing is locked by default)";
        steps.push(lock.to_owned());
        steps.push("stop Syncthing before syncd serves the same folders".to_owned());
        steps
    }

    /// One line for each key: what became of it and why.
    pub fn report(&self) -> Vec<String> {
        let line = |note: &syncthing::Note| {
            let fate = match note.fate {
                Fate::Mapped => "taken over",
                Fate::Obsolete => "obsolete",
                Fate::NotMapped => "NOT taken over",
            };
            // A key of a foreign file stays on its line.
            let key: String = note.key.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            format!("{key}: {fate}: {}", note.reason)
        };
        self.imported.notes.iter().map(line).collect()
    }

    /// Makes the key and every folder that is not written as a comment a replica, in place.
    pub async fn apply(&self, key: &Path) -> Result<DeviceId, Failure> {
        let folders = self.imported.folders.iter().filter(|folder| !folder.paused);
        let folders: Vec<_> = folders.map(|folder| (self.path(folder), folder)).collect();
        for (path, _) in &folders {
            std::fs::read_dir(path).context(format!("{}: is the right disk mounted?", path.display()))?;
        }
        let identity = Identity::load_or_create(key)?;
        for (path, folder) in folders {
            let mut config = Config::new(path);
            config.device = Some(identity.device());
            config.folder = Some(folder.folder);
            config.direction = folder.direction;
            Folder::init(config).await?;
        }
        Ok(identity.device())
    }

    /// The devices without this one.
    fn peers(&self) -> impl Iterator<Item = &ImportedDevice> {
        self.imported.devices.iter().filter(|device| Some(&device.id) != self.this.as_ref())
    }

    fn path(&self, folder: &ImportedFolder) -> PathBuf {
        match folder.path.strip_prefix('~') {
            Some(rest) => self.home.join(rest.trim_start_matches('/')),
            None => PathBuf::from(&folder.path),
        }
    }

    fn folder_table(&self, folder: &ImportedFolder) -> String {
        let mut lines = vec!["[[folder]]".to_owned()];
        lines.push(format!("path = {}", quoted(&self.path(folder).display().to_string())));
        lines.push(format!("label = {}", quoted(folder.label.as_str())));
        lines.push(format!("id = {}", quoted(&folder.folder.to_string())));
        let shares = |device: &&ImportedDevice| folder.devices.contains(&device.id) && !device.paused;
        let peers: Vec<String> = self.peers().filter(shares).map(|device| quoted(&name(device))).collect();
        lines.push(format!("peers = [{}]", peers.join(", ")));
        if let Some(seconds) = folder.rescan_s {
            lines.push(format!("rescan = \"{seconds}s\""));
        }
        match folder.direction {
            Direction::Send => lines.push("direction = \"send\"".to_owned()),
            Direction::Receive => lines.push("direction = \"receive\"".to_owned()),
            _ => {}
        }
        let mut keeps = |policy: &str, age: Duration| {
            lines.push(format!("history = \"{policy}\""));
            lines.push(format!("history-age = \"{}d\"", age.as_secs().div_ceil(86_400)));
        };
        match folder.history {
            History::Trash { keep } => keeps("trash", keep),
            History::Staggered { max_age } => keeps("staggered", max_age),
            _ => {}
        }
        match folder.min_free {
            Some(MinFree::Percent(percent)) => lines.push(format!("min-free = \"{percent}%\"")),
            Some(MinFree::Bytes(bytes)) => lines.push(format!("min-free = \"{bytes}B\"")),
            _ => {}
        }
        table(&folder.title, folder.paused.then_some("it was paused"), &lines)
    }
}

/// Writes the settings where nothing is yet.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let exists = format!("cannot create {} (an existing file is left as it is)", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).context(exists)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.context(format!("cannot write {}", path.display()))
}

fn peer_table(device: &ImportedDevice) -> String {
    let mut lines = vec!["[[peer]]".to_owned(), format!("id = {}", quoted(&placeholder(device)))];
    lines.push(format!("name = {}", quoted(&name(device))));
    let addresses: Vec<String> = device.addresses.iter().map(|address| quoted(address)).collect();
    lines.push(format!("addresses = [{}]", addresses.join(", ")));
    for (key, kib) in [("send-limit", device.send_kib_s), ("receive-limit", device.receive_kib_s)] {
        lines.extend(kib.map(|kib| format!("{key} = \"{}KiB/s\"", slowest(kib))));
    }
    table(&device.id, device.paused.then_some("it was paused"), &lines)
}

/// A table below a comment; altogether one if there is a reason to wait for a person.
fn table(comment: &str, waits: Option<&str>, lines: &[String]) -> String {
    let comment: String = comment.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let state = waits.map_or_else(String::new, |why| format!(" ({why}: remove the # to go on)"));
    let mut text = format!("\n# {comment}{state}\n");
    for line in lines {
        let _ = writeln!(text, "{}{line}", if waits.is_some() { "# " } else { "" });
    }
    text
}

/// A limit that the protocol can keep to.
fn slowest(kib: u64) -> u64 {
    kib.max(BYTES_PER_SECOND_MIN >> 10)
}

/// What stands in place of an ID until a person has asked for it. It is no ID, so `syncd` names its line.
fn placeholder(device: &ImportedDevice) -> String {
    format!("the ID of {}", name(device))
}

fn name(device: &ImportedDevice) -> String {
    let name = if device.name.is_empty() { &device.id } else { &device.name };
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// A TOML string: JSON's form is one, except that TOML wants DEL escaped too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync_settings::{ServeFlags, SyncSettings};

    fn sample() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/syncthing-config.xml")
    }

    fn import(text: &str) -> Import {
        let imported = syncthing::parse(text).unwrap();
        Import { imported, this: None, home: "/users/me".into() }
    }

    /// Puts IDs where a person would, and reads the settings.
    fn completed(text: &str) -> Result<SyncSettings, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("syncd.toml");
        let mut count = 0;
        let lines = text.lines().map(|line| match line.starts_with("id = \"the ID") {
            true => {
                count += 1;
                format!("id = \"{}\"\n", DeviceId::from_bytes([count; 32]))
            }
            false => format!("{line}\n"),
        });
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        SyncSettings::new(None, ServeFlags::default(), Some(&file)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_real_configuration_becomes_settings_and_no_key_is_dropped_silently() {
        let import = Import::read(&sample(), None, "/users/me".into()).unwrap();
        let text = import.toml(Path::new("/etc/syncd.key"));
        let read = completed(&text).unwrap();
        assert_eq!(read.listen, "192.168.0.50:22000".parse().unwrap());
        let names: Vec<_> = read.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["centos-2", "centos-3"], "this device is the one that listens there");
        let [folder] = &read.folders[..] else { panic!("{:?}", read.folders) };
        assert_eq!(folder.config.root, Path::new("/sync/"));
        assert_eq!(folder.config.rescan.as_secs(), 5);
        assert_eq!(folder.peers.len(), 2);
        assert_eq!(folder.config.min_free, MinFree::Percent(1.0));
        assert!(text.contains("min-free = \"1%\""), "{text}");
        // Every element and attribute of the file is accounted for.
        let xml = std::fs::read_to_string(sample()).unwrap();
        let keys = xml.split(['<', ' ']).filter(|word| !word.starts_with('/')).filter_map(|word| {
            let end = word.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(word.len());
            (end > 0 && word[end..].starts_with(['>', '='])).then(|| &word[..end])
        });
        let report = import.report();
        for key in keys.filter(|key| !["options", "http"].contains(key)) {
            let listed = |line: &String| {
                let place = line.split(": ").next().unwrap_or_default();
                place.split(['/', '@']).any(|part| part == key) || key == "gui"
            };
            assert!(report.iter().any(listed), "{key} is nowhere in {report:#?}");
        }
        assert!(!text.contains("not known here"), "{text}");
        assert!(import.steps().iter().any(|step| step.contains("syncd init") && step.contains("VM2")));
    }

    #[test]
    fn a_placeholder_is_named_with_its_line_until_it_is_replaced() {
        let text = import(
            "<configuration><device id='A' name='vm'/><folder id='a' path='~/a'><device id='A'/></folder></configuration>",
        )
        .toml(Path::new("k"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("syncd.toml");
        std::fs::write(&file, &text).unwrap();
        let said = SyncSettings::new(None, ServeFlags::default(), Some(&file)).unwrap_err().to_string();
        assert!(said.contains("syncd.toml:") && said.contains("starts with `sd1`"), "{said}");
        assert_eq!(completed(&text).unwrap().folders[0].config.root, Path::new("/users/me/a"));
    }

    #[test]
    fn hostile_names_stay_inside_their_strings() {
        let hostile = "<configuration><device id='A' name='a\"&#10;[[folder]]&#10;path=\"/etc'/>\
            <folder id='x&#10;y' path='/a&#10;key = &quot;/etc/shadow&quot;' label='l&#10;listen = 1'/></configuration>";
        let read = completed(&import(hostile).toml(Path::new("/k"))).unwrap();
        assert_eq!((read.folders.len(), read.key.as_path()), (1, Path::new("/k")));
    }

    #[test]
    fn what_was_paused_is_a_comment_and_what_went_one_way_goes_on_so() {
        let text = import(
            "<configuration><folder id='a' path='/a'/><folder id='b' path='/b'><paused>true</paused></folder>\
             <folder id='c' path='/c' type='receiveonly'><versioning type='trashcan'>\
             <param key='cleanoutDays' val='7'/></versioning></folder></configuration>",
        )
        .toml(Path::new("/k"));
        assert!(text.contains("# path = \"/b\""), "{text}");
        let read = completed(&text).unwrap();
        let [_, receives] = &read.folders[..] else { panic!("{:?}", read.folders) };
        assert_eq!(receives.config.direction, Direction::Receive);
        assert_eq!(receives.config.history, History::Trash { keep: Duration::from_secs(7 * 86_400) });
        assert!(receives.config.folder.is_some());
    }
}
