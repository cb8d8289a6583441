//! A replica's state directory: marker, lock, index, staging. It is made by `init` and never by anything else, so that
//! a missing one (the disk is not mounted) is an error and not an empty folder.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FlockOperation, flock, fstat, unlinkat};

use super::sqlite_index::{SqliteIndex, Witness};
use super::tree::failed;
use crate::config::{Config, Direction};
use crate::cutting::CutState;
use crate::device::{DeviceId, FolderId, IndexId};
use crate::disk::DiskError;
use crate::error::{OpenError, StoreError};
use crate::hash::ContentHash;
use crate::index::{Index, IndexError, Meta};
use crate::path::RelPath;
use crate::record::{first_life, next_life};
use crate::status::Role;

/// First line of the marker; the second is the device.
const MARKER: &str = "syncfs 1";
/// What the state directory holds besides files.
const DIRS: [&str; 5] = ["staging", "cuts", "deltas", "aside", "history"];

/// The name of a path's stage and cut.
pub(super) fn stage_name(path: &RelPath) -> String {
    ContentHash::of(path.as_bytes()).to_string()
}

/// A replica's directories, locked for this process as long as the value lives.
#[derive(Debug)]
pub(super) struct State {
    pub(super) root: PathBuf,
    pub(super) dir: PathBuf,
    _lock: File,
}

impl State {
    /// Makes what is missing. An initialised directory keeps its device.
    pub(super) fn init(config: &Config) -> Result<DeviceId, OpenError> {
        let root = existing_root(config)?;
        let dir = state_dir(config, &root);
        let marker = root.join(".syncfs/marker");
        if marker.exists() {
            let device = its_device(config, &marker)?;
            // The folder that it is to be is a matter of its index.
            return config.folder.map_or(Ok(device), |_| Self::open(config, false).map(|_| device));
        }
        let empty = fs::read_dir(&root)
            .map_err(io(&root, "list the directory"))?
            .all(|entry| entry.is_ok_and(|entry| entry.file_name() == ".syncfs"));
        for made in DIRS.map(|name| dir.join(name)).into_iter().chain([root.join(".syncfs")]) {
            fs::create_dir_all(&made).map_err(io(&made, "create the state directory"))?;
        }
        tells_case(&root)?;
        let device = config.device.map_or_else(|| identity(&dir).map(DeviceId::from_bytes), Ok)?;
        let joins = empty || config.direction == Direction::Receive;
        let folder = config.folder.or(if joins { None } else { Some(FolderId::from_bytes(identity(&dir)?)) });
        let base = first_life(u64::from_le_bytes(identity(&dir)?));
        let index = IndexId(u64::from_le_bytes(identity(&dir)?));
        let meta = Meta { sequence: base, base, ..Meta::new(device, folder, index) };
        // The marker comes last: without it nothing of this counts, and another init begins afresh.
        let file = dir.join("index.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(with_suffix(&file, suffix));
        }
        SqliteIndex::create(&file, &meta).map_err(|error| index_failed(&dir, error))?;
        let text = format!("{MARKER}\n{device}\n");
        let draft = root.join(".syncfs/marker.new");
        fs::write(&draft, text).map_err(io(&draft, "write the marker"))?;
        File::open(&draft).and_then(|file| file.sync_all()).map_err(io(&draft, "sync the marker"))?;
        fs::rename(&draft, &marker).map_err(io(&marker, "write the marker"))?;
        Ok(device)
    }

    /// Locks an initialised replica and opens its index; one that is lost, or not to be trusted, is built anew.
    pub(super) fn open(config: &Config, distrust: bool) -> Result<(Self, SqliteIndex, Meta), OpenError> {
        let root = existing_root(config)?;
        let dir = state_dir(config, &root);
        let marker = root.join(".syncfs/marker");
        if !marker.exists() {
            return Err(OpenError::NotInitialised(root));
        }
        tells_case(&root)?;
        let device = its_device(config, &marker)?;
        for made in DIRS.map(|name| dir.join(name)) {
            fs::create_dir_all(&made).map_err(io(&made, "create the state directory"))?;
        }
        let lock_path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .append(true)
            .open(&lock_path)
            .map_err(io(&lock_path, "open the lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(OpenError::Locked(root));
        }
        let (mut index, mut meta) = open_index(&dir, device, config, distrust)?;
        if meta.device != device {
            return Err(state(&dir, "its marker and its index name different devices"));
        }
        match (config.folder, meta.folder) {
            (Some(wanted), Some(found))
                if wanted != found && (meta.rejoining || !is_alone(&index, &dir)?) =>
            {
                return Err(OpenError::WrongFolder { wanted, found });
            }
            (Some(wanted), found) if found != Some(wanted) => {
                meta.folder = Some(wanted);
                index
                    .put_meta(&meta)
                    .and_then(|()| index.commit())
                    .map_err(|error| index_failed(&dir, error))?;
            }
            _ => {}
        }
        Ok((Self { root, dir, _lock: lock }, index, meta))
    }

    /// The state directory of a replica, if it is there now.
    pub(super) fn existing_dir(config: &Config) -> Result<PathBuf, OpenError> {
        let root = existing_root(config)?;
        if !root.join(".syncfs/marker").exists() {
            return Err(OpenError::NotInitialised(root));
        }
        Ok(state_dir(config, &root))
    }

    /// The directory that holds the marker.
    pub(super) fn marker_dir(&self) -> PathBuf {
        self.root.join(".syncfs")
    }
}

/// Whether a replica never exchanged anything with a peer: then its folder's identity is nobody else's.
fn is_alone(index: &SqliteIndex, dir: &Path) -> Result<bool, OpenError> {
    Ok(index.peers().map_err(|error| index_failed(dir, error))?.is_empty())
}

fn open_index(
    dir: &Path,
    device: DeviceId,
    config: &Config,
    distrust: bool,
) -> Result<(SqliteIndex, Meta), OpenError> {
    let path = dir.join("index.db");
    let opened = match path.exists() {
        _ if distrust => Err(IndexError::Damaged("it contradicts itself".to_owned())),
        false => Err(IndexError::Damaged("it is missing".to_owned())),
        true => SqliteIndex::open(&path).and_then(|index| Ok((index.meta()?, index))),
    };
    match opened {
        Ok((meta, index)) => Ok((index, meta)),
        Err(IndexError::Damaged(why)) => rebuild(&path, device, config, &why),
        Err(error) => Err(StoreError::from(error).into()),
    }
}

/// Begins an index anew, for a replica that rejoins (see [`crate::engine`]). The damaged one stays beside it.
fn rebuild(
    path: &Path,
    device: DeviceId,
    config: &Config,
    why: &str,
) -> Result<(SqliteIndex, Meta), OpenError> {
    let dir = path.parent().expect("the index is in the state directory");
    let Some(witness) = Witness::beside(path) else {
        let reason =
            format!("its index is lost ({why}), and so is the file `witness` that says what was in it");
        return Err(state(dir, reason));
    };
    let kept = (1_u32..)
        .map(|number| path.with_added_extension(format!("damaged-{number}")))
        .find(|kept| !kept.exists())
        .expect("fewer than four billion were kept");
    for suffix in ["", "-wal", "-shm"] {
        match fs::rename(with_suffix(path, suffix), with_suffix(&kept, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(path, "set the damaged index aside")(error));
            }
            _ => {}
        }
    }
    let role = if witness.fences.epoch() > 0 { Role::Follower } else { Role::Shared };
    let index = IndexId(u64::from_le_bytes(identity(dir)?));
    let base = next_life(witness.reserved, u64::from_le_bytes(identity(dir)?));
    let meta = Meta {
        sequence: base,
        base,
        fences: witness.fences,
        role,
        cuts: CutState::unknown(),
        rejoining: true,
        ..Meta::new(device, witness.folder.or(config.folder), index)
    };
    tracing::warn!(why, kept = %kept.display(), "the index is lost: it is built anew, and the replica rejoins its folder");
    SqliteIndex::create(path, &meta)
        .and_then(|()| SqliteIndex::open(path))
        .map(|index| (index, meta))
        .map_err(|error| StoreError::from(error).into())
}

/// Whether a path still leads to the directory that is open as `fd`.
pub(super) fn is_same_root(root: &Path, fd: impl AsFd) -> bool {
    let (Ok(path), Ok(open)) = (fs::metadata(root), fstat(fd)) else { return false };
    #[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between architectures")]
    let same = (path.dev(), path.ino()) == (open.st_dev as u64, open.st_ino as u64);
    same
}

/// Names that differ in capital letters only must be two names, as they are on the peers.
fn tells_case(root: &Path) -> Result<(), OpenError> {
    let inode = |name: &str| fs::metadata(root.join(name)).ok().map(|found| (found.dev(), found.ino()));
    match inode(".SYNCFS") {
        Some(other) if inode(".syncfs") == Some(other) => Err(OpenError::FoldsCase(root.to_owned())),
        _ => Ok(()),
    }
}

fn existing_root(config: &Config) -> Result<PathBuf, OpenError> {
    let root = &config.root;
    match fs::metadata(root) {
        Ok(found) if found.is_dir() => root.canonicalize().map_err(io(root, "resolve the path")),
        Ok(_) => Err(OpenError::NotADirectory(root.clone())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(OpenError::NotFound(root.clone())),
        Err(error) => Err(io(root, "look at the directory")(error)),
    }
}

pub(super) fn state_dir(config: &Config, root: &Path) -> PathBuf {
    config.state.clone().unwrap_or_else(|| root.join(".syncfs"))
}

/// The device in the marker, which must be the one that the configuration asks for.
fn its_device(config: &Config, marker: &Path) -> Result<DeviceId, OpenError> {
    let found = read_marker(marker)?;
    match config.device.filter(|wanted| *wanted != found) {
        None => Ok(found),
        Some(wanted) => Err(OpenError::WrongDevice { path: config.root.clone(), wanted, found }),
    }
}

fn read_marker(marker: &Path) -> Result<DeviceId, OpenError> {
    let text = fs::read_to_string(marker).map_err(io(marker, "read the marker"))?;
    let broken = || state(marker.parent().unwrap_or(marker), "its marker is damaged or of a newer version");
    let mut lines = text.lines();
    if lines.next() != Some(MARKER) {
        return Err(broken());
    }
    lines.next().and_then(|line| line.parse().ok()).ok_or_else(broken)
}

/// Fresh entropy from the system.
pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    filled.map(|()| bytes)
}

fn identity<const N: usize>(dir: &Path) -> Result<[u8; N], OpenError> {
    random().map_err(io(dir, "draw a random identity"))
}

fn io(path: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path, what, source }
}

fn index_failed(dir: &Path, error: IndexError) -> OpenError {
    match error {
        IndexError::Unusable(_) | IndexError::Newer { .. } => StoreError::from(error).into(),
        error => state(dir, error),
    }
}

fn state(dir: &Path, reason: impl ToString) -> OpenError {
    OpenError::State { path: dir.to_owned(), reason: reason.to_string() }
}

/// Removes files from a directory of the state directory.
pub(super) fn sweep(dir: &OwnedFd, goes: impl Fn(&[u8]) -> bool) -> Result<(), DiskError> {
    for entry in Dir::read_from(dir).map_err(|error| failed("list a directory", error))?.flatten() {
        if goes(entry.file_name().to_bytes()) {
            let _ = unlinkat(dir, entry.file_name(), AtFlags::empty());
        }
    }
    Ok(())
}

/// The path of a file that belongs to another, as SQLite names them.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
