//! [`Disk`]: what the engine asks of a folder's directory, one step at a time. The driver does the steps on a real
//! filesystem; the simulation does them on one that loses, at a crash, all that was not made durable.

mod error;
mod memory;

use std::collections::BTreeSet;

use crate::branch::What;
use crate::cutting::Group;
use crate::device::DeviceId;
use crate::hash::{Blob, ContentHash};
use crate::path::RelPath;
use crate::record::{Attributes, Chunk, Content, Owner, Xattrs};
use crate::status::Problem;

pub use error::DiskError;
pub use memory::{Abilities, Act, Change, Fault, MemoryDisk, Node, Torn};

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A socket, device or pipe: reported, never replicated.
    Special,
}

/// The fingerprint of an entry. While it is equal, the content is taken as unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Status change time, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// How many names the inode has, outside of the folder too.
    pub nlink: u32,
    /// Whose it is.
    pub owner: Owner,
    /// For a SQLite database: a fingerprint of its `-wal` and `-journal`; else 0.
    pub side: u64,
}

impl Stat {
    /// What a rename, or another name, leaves as it was, as long as nothing is written. An inode number alone is soon given to
    /// another file.
    pub(crate) fn identity(&self) -> (FileKind, u64, u64, u64, i64) {
        (self.kind, self.dev, self.ino, self.size, self.mtime_ns)
    }
}

/// The entries of one directory.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Entries in any order.
    pub entries: Vec<(RelPath, Stat)>,
    /// Entries that cannot be replicated.
    pub problems: Vec<Problem>,
}

/// A content that held still while it was read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Its chunks.
    pub content: Content,
    /// The fingerprint it was read under.
    pub stat: Stat,
    /// The modification time to publish.
    pub mtime_ns: i64,
    /// A cut of a database: its times say nothing, only its content does.
    pub cut: bool,
}

/// Bytes at a place of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they begin in the chunk.
    pub offset: u32,
    /// The bytes, never none.
    pub bytes: Vec<u8>,
}

impl Run {
    /// The offset behind its last byte.
    #[must_use]
    pub fn end(&self) -> usize {
        self.offset as usize + self.bytes.len()
    }
}

/// Where an entry is kept when it must leave its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// At another path of the folder.
    Beside(RelPath),
    /// In the state directory's `aside/`, in this folder, under its own path.
    Aside(String),
}

/// A file that is about to lose its place to another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Where it stands.
    pub path: RelPath,
    /// As what it is known.
    pub seen: Stat,
    /// Its content.
    pub root: ContentHash,
    /// Whose version takes its place.
    pub by: DeviceId,
    /// Whether that is a deletion.
    pub deleted: bool,
}

/// The steps. Nothing is durable before the step that says so; no step leaves a half-written entry at a live path.
///
/// A *stage* is a file in the state directory, named by the path it is for; it survives restarts, so that a transfer
/// resumes.
///
/// *Attributes.* Where the process is not root ([`Disk::is_root`]) owners, set-uid and set-gid bits and capabilities are
/// not applied; where a filesystem has no owners, permissions or extended attributes, neither are these. The steps
/// succeed all the same, and the fingerprint that they give says what stands there instead: as long as that does not
/// change, the record's word holds.
pub trait Disk {
    /// Is the folder there, and still the same one?
    ///
    /// # Errors
    /// [`DiskError::Root`].
    fn check_root(&mut self) -> Result<(), DiskError>;

    /// The entry itself, symlinks not followed; `None` if there is nothing.
    ///
    /// # Errors
    /// Anything but absence.
    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, DiskError>;

    /// The entries of a directory; of the folder itself for `None`.
    ///
    /// # Errors
    /// If it cannot be read completely.
    fn list(&mut self, dir: Option<&RelPath>) -> Result<Listing, DiskError>;

    /// Whether owners, set-uid bits and capabilities can be applied here.
    fn is_root(&self) -> bool;

    /// The replicated extended attributes of a file or directory (see [`crate::record::is_replicated_xattr`]; without
    /// root only those of `user.`), and the fingerprint to remember: `stat`, or one that is unlike any where a later
    /// change could bear the same times. `None` on a filesystem that has none.
    ///
    /// # Errors
    /// [`DiskError::Changed`] if it is gone; if they cannot be read.
    fn xattrs(&mut self, path: &RelPath, stat: &Stat) -> Result<(Option<Xattrs>, Stat), DiskError>;

    /// A symlink's target.
    ///
    /// # Errors
    /// If it is not a symlink any more.
    fn link_target(&mut self, path: &RelPath) -> Result<Vec<u8>, DiskError>;

    /// Reads a file in one consistent piece; for a SQLite database that is a cut. Of what is like the content `before` it is
    /// known sooner how it is cut.
    ///
    /// # Errors
    /// [`DiskError::Busy`] if it did not hold still.
    fn read(&mut self, path: &RelPath, stat: &Stat, before: Option<&Content>) -> Result<Reading, DiskError>;

    /// Whether any change of what stands at the path, from now on, would show in its fingerprint: its times are older than
    /// the clock by which the filesystem takes them.
    ///
    /// # Errors
    /// [`DiskError::Changed`] if it is gone.
    fn shows_changes(&mut self, _path: &RelPath, _stat: &Stat) -> Result<bool, DiskError> {
        Ok(true)
    }

    /// Where something changed in a group since this was last asked, as far as all that changes in the folder is notified of;
    /// `None` if it is not, or if notifications were lost since the whole folder was last listed. A change is among
    /// the answer from before the call returns that makes it.
    fn noticed(&mut self, _group: &Group) -> Option<BTreeSet<RelPath>> {
        None
    }

    /// Reads a chunk back from where it was when the content of `path` was read. `None` if those bytes are not there
    /// any more.
    ///
    /// # Errors
    /// Anything but absence.
    fn read_chunk(&mut self, path: &RelPath, offset: u64, chunk: &Chunk) -> Result<Option<Blob>, DiskError>;

    /// What is read of `path` from now on comes from the disk, and not from a copy of it in memory, as far as the system lets
    /// go of that. Does nothing by default.
    fn uncache(&mut self, _path: &RelPath) {}

    /// What changed in a chunk of `path` since it had the hash `basis`, if that is still known. Whoever applies the runs,
    /// in order, to the bytes of the basis, at the chunk's length, has the chunk. Nothing is known by default.
    ///
    /// # Errors
    /// Anything but absence.
    fn patch(
        &mut self,
        _path: &RelPath,
        _offset: u64,
        _chunk: &Chunk,
        _basis: &ContentHash,
    ) -> Result<Option<Vec<Run>>, DiskError> {
        Ok(None)
    }

    /// Whether there is room for more. There always is by default.
    ///
    /// # Errors
    /// [`DiskError::Full`] if more would take what is to stay free.
    fn room(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    /// Reads from the stage of `path`, if it has that many bytes there.
    ///
    /// # Errors
    /// Anything but absence.
    fn stage_read(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<Option<Vec<u8>>, DiskError>;

    /// Writes into the stage of `path`, creating it.
    ///
    /// # Errors
    /// As the system says; a full disk among them.
    fn stage_write(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes a part of the stage of `path` zeros: a hole, where the filesystem can have one.
    ///
    /// # Errors
    /// As [`Disk::stage_write`].
    fn stage_zeros(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<(), DiskError> {
        self.stage_write(path, offset, &vec![0; length as usize])
    }

    /// Cuts the stage to `size` and gives it its metadata.
    ///
    /// # Errors
    /// As the system says; extended attributes that are too large for the filesystem among them.
    fn stage_seal(
        &mut self,
        path: &RelPath,
        size: u64,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<(), DiskError>;

    /// Makes the stage of `path` a symlink.
    ///
    /// # Errors
    /// As the system says.
    fn stage_symlink(&mut self, path: &RelPath, target: &[u8], owner: Option<Owner>)
    -> Result<(), DiskError>;

    /// Makes sealed stages durable.
    ///
    /// # Errors
    /// A failed sync is never retried: [`DiskError::Dead`].
    fn stage_sync(&mut self, paths: &[RelPath]) -> Result<(), DiskError>;

    /// Removes a stage, if there is one.
    ///
    /// # Errors
    /// As the system says.
    fn stage_discard(&mut self, path: &RelPath) -> Result<(), DiskError>;

    /// Whether the next versions of what stands at the path can be kept as deltas: it is a database that nobody has open
    /// for writing here. Without an implementation of the `delta_` steps never.
    ///
    /// # Errors
    /// Anything but absence.
    fn takes_delta(&mut self, _path: &RelPath, _seen: &Stat) -> Result<bool, DiskError> {
        Ok(false)
    }

    /// Brings the delta log of a path to where it was when [`Disk::delta_seal`] gave `mark`; what was written since is
    /// gone. At 0 there is no log. Returns whether it is there as it was.
    ///
    /// What [`Disk::read_chunk`] gives of the path from here on is what stands there with the log over it.
    ///
    /// # Errors
    /// As the system says.
    fn delta_reset(&mut self, _path: &RelPath, mark: u64) -> Result<bool, DiskError> {
        Ok(mark == 0)
    }

    /// Removes the logs of paths that were not reset since the start: a crash left them.
    ///
    /// # Errors
    /// As the system says.
    fn delta_sweep(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    /// Adds to the log what these bytes change in the place where they belong.
    ///
    /// # Errors
    /// As the system says; a full disk among them.
    fn delta_write(&mut self, _path: &RelPath, _offset: u64, _bytes: &[u8]) -> Result<(), DiskError> {
        Err(DiskError::Changed)
    }

    /// Ends a version in the log. Returns how long the log is, by which the version is found again; never 0.
    ///
    /// # Errors
    /// As the system says; a full disk among them.
    fn delta_seal(&mut self, _path: &RelPath) -> Result<u64, DiskError> {
        Err(DiskError::Changed)
    }

    /// Makes sealed logs durable.
    ///
    /// # Errors
    /// A failed sync is never retried: [`DiskError::Dead`].
    fn delta_sync(&mut self, _paths: &[RelPath]) -> Result<(), DiskError> {
        Ok(())
    }

    /// Renames the stage of `stage` over `to`, if `to` is exactly as expected.
    ///
    /// # Errors
    /// [`DiskError::Changed`], [`DiskError::NoParent`], or [`DiskError::NotEmpty`] if a directory stands there.
    fn publish(&mut self, stage: &RelPath, to: &RelPath, expect: Option<&Stat>) -> Result<Stat, DiskError>;

    /// Gives the file at `from` another name (a hard link): `to`, in the place of what stands there. Both must be exactly as
    /// expected.
    ///
    /// # Errors
    /// As [`Disk::publish`]; [`DiskError::Io`] where the filesystem does not take it.
    fn link(
        &mut self,
        _from: &RelPath,
        _seen: &Stat,
        _to: &RelPath,
        _expect: Option<&Stat>,
    ) -> Result<Stat, DiskError> {
        Err(DiskError::Io { what: "link", reason: "there are no hard links here".to_owned() })
    }

    /// Gives the entry at `from`, with all that is in it, another name, where nothing stands.
    ///
    /// # Errors
    /// [`DiskError::Changed`] if `from` is not as expected, [`DiskError::Taken`] if something stands at `to`, or
    /// [`DiskError::NoParent`].
    fn rename(&mut self, from: &RelPath, to: &RelPath, expect: &Stat) -> Result<(), DiskError>;

    /// Gives the file or symlink at `from` the name `to`, in the place of what stands there, if both are exactly as
    /// expected. No reader of `to` finds nothing.
    ///
    /// # Errors
    /// [`DiskError::Changed`], [`DiskError::NoParent`], or [`DiskError::NotEmpty`] if a directory stands there.
    fn replace(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        expect_from: &Stat,
        expect_to: Option<&Stat>,
    ) -> Result<(), DiskError>;

    /// Makes a directory, or gives an existing one these attributes.
    ///
    /// # Errors
    /// [`DiskError::NoParent`]; [`DiskError::Changed`] if something else stands there.
    fn make_dir(&mut self, path: &RelPath, attributes: &Attributes) -> Result<Stat, DiskError>;

    /// Gives the file that is exactly as expected other attributes and another modification time, in place: its content
    /// is not touched. Durable with [`Disk::sync_tree`]. Each attribute changes at once, but not all together.
    ///
    /// # Errors
    /// [`DiskError::Changed`] or [`DiskError::NoParent`].
    fn adjust(
        &mut self,
        path: &RelPath,
        expect: &Stat,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<Stat, DiskError>;

    /// Removes a file, symlink or empty directory that is exactly as expected.
    ///
    /// # Errors
    /// [`DiskError::Changed`] or [`DiskError::NotEmpty`].
    fn remove(&mut self, path: &RelPath, expect: &Stat) -> Result<(), DiskError>;

    /// Gives the entry a second, durable name. Returns the name, for people.
    ///
    /// # Errors
    /// [`DiskError::Changed`] if there is nothing at `path` any more; [`DiskError::Taken`] if something else stands there.
    fn keep(&mut self, path: &RelPath, to: &Keep) -> Result<String, DiskError>;

    /// Everything that is in `aside/`, as the folders and paths of [`Keep::Aside`].
    ///
    /// # Errors
    /// If it cannot be listed.
    fn kept_aside(&mut self) -> Result<Vec<(String, RelPath)>, DiskError>;

    /// What is kept aside there; `None` if it is nothing that a branch can hold.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read_aside(&mut self, folder: &str, path: &RelPath) -> Result<Option<What>, DiskError>;

    /// Puts a copy of what is kept aside at a path, complete and in one step, if `to` is exactly as expected. Durable with
    /// [`Disk::sync_tree`].
    ///
    /// # Errors
    /// [`DiskError::Changed`], also if nothing is kept there; [`DiskError::NoParent`]; [`DiskError::NotEmpty`] if a
    /// directory stands there; [`DiskError::Busy`] if somebody still writes to what is kept.
    fn copy_back(
        &mut self,
        folder: &str,
        path: &RelPath,
        to: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<(), DiskError>;

    /// Removes a folder of `aside/` with all that is in it: at a crash, all of it is listed or nothing.
    ///
    /// # Errors
    /// As the system says.
    fn drop_aside(&mut self, folder: &str) -> Result<(), DiskError>;

    /// The clock on the wall, nanoseconds since 1970, for people: nothing is decided by it.
    fn now_ns(&self) -> i64;

    /// Fresh chance of the system: what another replica with the same state, a backup of this one say, does not draw.
    ///
    /// # Errors
    /// If the system gives none.
    fn chance(&mut self) -> Result<u64, DiskError>;

    /// Whether [`Disk::retain`] does anything.
    fn keeps_history(&self) -> bool {
        false
    }

    /// Keeps files in the history, durably, as far as its policy wants them, or `always`. Returns the new fingerprints of
    /// those that got another one.
    ///
    /// # Errors
    /// As the system says; a full disk among them.
    fn retain(&mut self, replaced: &[Replaced], always: bool) -> Result<Vec<Option<Stat>>, DiskError> {
        let _ = always;
        Ok(vec![None; replaced.len()])
    }

    /// Makes durable: all renames, removals and new directories, and every content that was [`Disk::read`] since the
    /// last time, so that a version which peers are told of does not vanish here.
    ///
    /// # Errors
    /// A failed sync is never retried: [`DiskError::Dead`].
    fn sync_tree(&mut self) -> Result<(), DiskError>;
}

/// Whether `bytes` are what `hash` names.
#[must_use]
pub fn is_intact(bytes: &[u8], hash: &ContentHash) -> bool {
    ContentHash::of(bytes) == *hash
}
