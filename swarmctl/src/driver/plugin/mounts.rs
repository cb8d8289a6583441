//! Which mounts there are, in memory and in a file, so that the next process knows them too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::name::{MountId, VolumeName};
use crate::plugin::PluginError;

/// One use of a volume by one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mount {
    pub(super) volume: VolumeName,
    pub(super) id: MountId,
}

/// The mounts of this node.
#[derive(Debug)]
pub(super) struct Mounts {
    file: PathBuf,
    known: BTreeSet<Mount>,
    /// Those of `known` whose containers may be gone without an unmount.
    doubtful: BTreeSet<Mount>,
    paths: BTreeMap<VolumeName, PathBuf>,
}

impl Mounts {
    /// Those that the file has, all doubtful; none if there is no file.
    pub(super) fn read(file: &Path) -> Result<Self, PluginError> {
        let broken = |source| PluginError::Mounts { path: file.to_owned(), source };
        let known = match std::fs::read(file) {
            Ok(bytes) => {
                parse(&bytes).map_err(|error| broken(io::Error::new(ErrorKind::InvalidData, error)))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(broken(error)),
        };
        Ok(Self { file: file.to_owned(), doubtful: known.clone(), known, paths: BTreeMap::new() })
    }

    pub(super) fn list(&self) -> Vec<Mount> {
        self.known.iter().cloned().collect()
    }

    /// Where a volume is, while it is mounted.
    pub(super) fn path(&self, volume: &VolumeName) -> Option<PathBuf> {
        self.paths.get(volume).filter(|_| self.uses(volume)).cloned()
    }

    /// Whether a volume has mounts here.
    pub(super) fn uses(&self, volume: &VolumeName) -> bool {
        self.known.iter().any(|mount| mount.volume == *volume)
    }

    /// A mount of before was taken up again.
    pub(super) fn mounted(&mut self, volume: &VolumeName, path: PathBuf) {
        self.paths.insert(volume.clone(), path);
    }

    pub(super) fn add(&mut self, mount: Mount, path: PathBuf) -> Result<(), PluginError> {
        self.paths.insert(mount.volume.clone(), path);
        self.doubtful.remove(&mount);
        if self.known.insert(mount) { self.write() } else { Ok(()) }
    }

    pub(super) fn remove(&mut self, mount: &Mount) -> Result<(), PluginError> {
        self.doubtful.remove(mount);
        if self.known.remove(mount) { self.write() } else { Ok(()) }
    }

    /// An engine that has just started knows none of the mounts that there are.
    pub(super) fn engine_is_new(&mut self) {
        self.doubtful = self.known.clone();
    }

    /// The doubtful ones whose containers are gone, given the volumes that running containers use. What is left is not doubted
    /// any more.
    ///
    /// A container that survived its driver has no other mount than the doubtful one. Where there is a newer one beside it, the
    /// engine has started anew since, and nothing of before survived that.
    pub(super) fn gone(&mut self, in_use: &BTreeSet<String>) -> Vec<Mount> {
        let doubtful = std::mem::take(&mut self.doubtful);
        let newer: BTreeSet<VolumeName> =
            self.known.difference(&doubtful).map(|mount| mount.volume.clone()).collect();
        let is_gone =
            |mount: &Mount| !in_use.contains(mount.volume.as_str()) || newer.contains(&mount.volume);
        doubtful.into_iter().filter(is_gone).collect()
    }

    /// A crash of the machine ends the containers, too: the file need not survive it.
    fn write(&self) -> Result<(), PluginError> {
        let mut volumes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for Mount { volume, id } in &self.known {
            volumes.entry(volume.as_str()).or_default().push(id.as_str());
        }
        let new = self.file.with_extension("new");
        let written =
            std::fs::write(&new, json!(volumes).to_string()).and_then(|()| std::fs::rename(&new, &self.file));
        written.map_err(|source| PluginError::Mounts { path: self.file.clone(), source })
    }
}

/// Volumes, each with the ids of its mounts.
fn parse(bytes: &[u8]) -> Result<BTreeSet<Mount>, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let volumes = value.as_object().ok_or("it is no JSON object")?;
    let mut mounts = BTreeSet::new();
    for (volume, ids) in volumes {
        let volume: VolumeName = volume.parse().map_err(|error| format!("{error}"))?;
        for id in ids.as_array().ok_or("a volume has no list of mounts")? {
            let id = id.as_str().ok_or("a mount id is no text")?;
            let id = id.parse().map_err(|error| format!("{error}"))?;
            mounts.insert(Mount { volume: volume.clone(), id });
        }
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(volume: &str, id: &str) -> Mount {
        Mount { volume: volume.parse().unwrap(), id: id.parse().unwrap() }
    }

    fn used(volumes: &[&str]) -> BTreeSet<String> {
        volumes.iter().map(|volume| (*volume).to_owned()).collect()
    }

    struct Place(PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn place(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("swarmctl-mounts-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    #[test]
    fn the_next_process_knows_them_and_doubts_those_whose_container_does_not_run() {
        let place = place("next");
        let file = place.0.join("mounts.json");
        let mut mounts = Mounts::read(&file).unwrap();
        for it in [mount("a", "1"), mount("a", "2"), mount("b", "3")] {
            mounts.add(it, "/somewhere".into()).unwrap();
        }
        mounts.remove(&mount("a", "2")).unwrap();
        assert_eq!(mounts.gone(&used(&[])), [], "an engine that was not restarted is not doubted");

        let mut next = Mounts::read(&file).unwrap();
        assert_eq!(next.list(), [mount("a", "1"), mount("b", "3")]);
        assert_eq!(next.gone(&used(&["a"])), [mount("b", "3")]);
        assert_eq!(next.gone(&used(&[])), []);
    }

    #[test]
    fn a_new_engine_has_none_of_the_old_mounts_but_those_it_made() {
        let place = place("engine");
        let mut mounts = Mounts::read(&place.0.join("mounts.json")).unwrap();
        mounts.add(mount("a", "1"), "/a".into()).unwrap();
        mounts.add(mount("b", "2"), "/b".into()).unwrap();
        mounts.engine_is_new();
        mounts.add(mount("a", "3"), "/a".into()).unwrap();
        assert_eq!(mounts.gone(&used(&["a"])), [mount("a", "1"), mount("b", "2")]);
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_named() {
        let place = place("broken");
        let file = place.0.join("mounts.json");
        for text in ["", "[]", r#"{"a":1}"#, r#"{"../a":[]}"#, r#"{"a":["/"]}"#] {
            std::fs::write(&file, text).unwrap();
            let error = Mounts::read(&file).unwrap_err().to_string();
            assert!(error.contains("mounts.json"), "{error}");
        }
    }
}
