//! Owns the provider that reads containers from a JSON file, and reads it again when it changes.

use super::provider::{Provider, SnapshotSink};
use crate::{
    error::ProviderError,
    snapshot::{Container, Snapshot},
    upstream::Address,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Largest labels file that is read, in bytes.
pub const LABELS_FILE_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// How often the file is looked at.
const POLL_PERIOD: Duration = Duration::from_millis(500);

/// A file with a JSON list of `{"name", "address", "labels": {…}}`, optionally with `"ports": […]` and `"up": false`, each taken as a
/// container. The address is an IP address or a host name; with a port (`127.0.0.1:8080`) it is dialled there whatever the labels say.
#[derive(Debug)]
pub struct LabelsFile {
    path: PathBuf,
    seen: Stamp,
    snapshot: Snapshot,
}

/// What changes when a file is written or replaced.
type Stamp = Option<(SystemTime, u64)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    address: String,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default = "yes")]
    up: bool,
}

fn yes() -> bool {
    true
}

impl LabelsFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// If it cannot be read or does not parse: says where in it and why.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ProviderError> {
        let path = path.into();
        let (seen, snapshot) = (stamp(&path), read(&path)?);
        Ok(Self { path, seen, snapshot })
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// As [`LabelsFile::open`].
    pub fn read(&self) -> Result<Snapshot, ProviderError> {
        read(&self.path)
    }
}

impl Provider for LabelsFile {
    fn name(&self) -> &str {
        "file"
    }

    /// A file that no longer reads or parses is reported in the log, and what it said before stays.
    async fn run(self, sink: SnapshotSink) -> Result<(), ProviderError> {
        let Self { path, mut seen, snapshot } = self;
        sink.publish(snapshot).await?;
        loop {
            tokio::time::sleep(POLL_PERIOD).await;
            let now = stamp(&path);
            if now == seen {
                continue;
            }
            seen = now;
            match read(&path) {
                Ok(snapshot) => sink.publish(snapshot).await?,
                Err(error) => tracing::warn!(%error, "keeping the routes of the last good labels file"),
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path) -> Result<Snapshot, ProviderError> {
    let failed = |source| ProviderError::Read { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = Vec::new();
    file.take(LABELS_FILE_MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LABELS_FILE_MAX_BYTES {
        return Err(ProviderError::TooLarge { path: path.into(), max: LABELS_FILE_MAX_BYTES });
    }
    parse_labels_file(&text).map_err(|message| ProviderError::Parse { path: path.into(), message })
}

/// Parses the text of a labels file.
///
/// # Errors
/// What is wrong, with line and column or the entry's name.
pub fn parse_labels_file(text: &[u8]) -> Result<Snapshot, String> {
    let entries: Vec<Entry> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    entries.into_iter().map(container).collect()
}

fn container(entry: Entry) -> Result<Container, String> {
    let Entry { name, address, labels, ports, up } = entry;
    let (address, mapped_port) =
        parse_address(&address).map_err(|what| format!("container `{name}`: {what}"))?;
    let mut container = Container::new(name).with_address(address).with_up(up);
    (container.mapped_port, container.ports, container.labels) = (mapped_port, ports, labels);
    Ok(container)
}

fn parse_address(text: &str) -> Result<(Address, Option<u16>), String> {
    let plain = match text.parse::<Address>() {
        Ok(address) => return Ok((address, None)),
        Err(error) => error.to_string(),
    };
    let (host, port) = text.rsplit_once(':').ok_or(plain)?;
    let address = host.parse::<Address>().map_err(|error| error.to_string())?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok((address, Some(port))),
        _ => Err(format!("`{port}` is not a port: write a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests;
