//! [`MemoryDisk`]: a folder in memory, for tests and simulations of an engine, beside
//! [`MemoryIndex`](crate::index::MemoryIndex). It fails and loses power when it is told to, and then keeps only what the
//! engine has made durable.

mod deltas;
mod filesystem;
mod keeping;
mod steps;
mod watch;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::disk::{DiskError, FileKind};
use crate::hash::ContentHash;
use crate::path::RelPath;
use crate::record::Attributes;

use filesystem::{FileSystem, Ino};

/// What the file system and the process on it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Owners, set-uid bits and capabilities can be given.
    pub is_root: bool,
    /// The file system has extended attributes.
    pub has_xattrs: bool,
    /// What peers replace is kept.
    pub keeps_history: bool,
    /// Largest file, in bytes; a write beyond it finds the disk full.
    pub file_bytes_max: usize,
}

impl Default for Abilities {
    fn default() -> Self {
        Self { is_root: true, has_xattrs: true, keeps_history: false, file_bytes_max: 64 << 20 }
    }
}

/// What happens at a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power is cut: this step and every later one fails, until [`MemoryDisk::crash`].
    Power,
    /// The step, or the first after it that is no sync, fails with an I/O error.
    Io,
    /// The same, with a full disk.
    Full,
    /// The first sync from this step on fails, and with it every later step: see [`MemoryDisk::reopen`].
    Sync,
    /// Just before the step a program does something.
    Program(Act),
}

/// What a program does while an engine works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// It gives what stands at a path another name, where nothing stands, and makes a symlink in its place.
    Swap {
        /// Where.
        path: RelPath,
        /// The other name.
        to: RelPath,
        /// Of the symlink.
        target: Vec<u8>,
    },
    /// It writes a file, as with [`MemoryDisk::user_write`].
    Edit {
        /// Where.
        path: RelPath,
        /// What.
        data: Vec<u8>,
        /// Whether in place.
        in_place: bool,
    },
    /// It writes a file in place, through a name that it has outside of the folder: see [`MemoryDisk::user_link_elsewhere`].
    Elsewhere {
        /// Where it stands in the folder.
        path: RelPath,
        /// What.
        data: Vec<u8>,
    },
    /// It makes a directory where nothing stands.
    Make {
        /// Where.
        path: RelPath,
    },
    /// It removes an entry, as with [`MemoryDisk::user_remove`].
    Remove {
        /// Where.
        path: RelPath,
    },
}

/// A name of the folder that became another entry's, or nobody's, or somebody's, as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The inode of the directory, and the name in it.
    pub place: (u64, Vec<u8>),
    /// What it named, with the bytes of a file.
    pub before: Option<(FileKind, Vec<u8>)>,
    /// What it names now.
    pub after: Option<(FileKind, Vec<u8>)>,
}

/// An entry as a program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: FileKind,
    /// The bytes of a file, the target of a symlink; else nothing.
    pub data: Vec<u8>,
    /// Permissions, owner, extended attributes.
    pub attributes: Attributes,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// A file whose content is another one after a power cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Where it stands.
    pub path: RelPath,
    /// What it holds now.
    pub data: Vec<u8>,
    /// The engine put it there. That must never be: its bytes were not durable before it became visible.
    pub published: bool,
}

const SYNC_FAILED: &str = "a sync failed";

/// Where an entry is: in the folder, or in a part of the state directory that knows no directories of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    Tree,
    Stage,
    Aside,
    History,
    /// Outside of the folder.
    Elsewhere,
}

impl Space {
    const ALL: [Self; 5] = [Self::Tree, Self::Stage, Self::Aside, Self::History, Self::Elsewhere];

    /// The inode of its directory.
    fn root(self) -> Ino {
        1 + self as Ino
    }

    /// Whether this is no directory of the folder.
    fn is_flat(dir: Ino) -> bool {
        (Self::Stage.root()..=Self::Elsewhere.root()).contains(&dir)
    }
}

#[derive(Clone, Debug)]
struct State {
    files: FileSystem,
    logs: deltas::Logs,
    /// Files that were read since the last sync of the tree.
    read: BTreeSet<Ino>,
    /// Chunks that were read, by which patches are made.
    archive: BTreeMap<ContentHash, Vec<u8>>,
    steps: u64,
    faults: BTreeMap<u64, Fault>,
    /// What programs do while the engine looks, each so many looks after the one before.
    meanwhile: VecDeque<(u64, Act)>,
    /// The power is cut at the next step of this name.
    cut_at: Option<&'static str>,
    /// Why every step fails, and since which.
    dead: Option<(&'static str, &'static str)>,
    missing: bool,
    unreadable: BTreeSet<RelPath>,
    /// What was drawn last.
    chance: u64,
}

impl State {
    fn chance(&mut self) -> u64 {
        let hash = blake3::hash(&self.chance.to_le_bytes());
        self.chance = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
        self.chance
    }
}

/// A folder in memory. A clone is the same folder, for whoever edits files in it while an engine works on it.
///
/// What programs do (`user_...`) is never durable by itself.
#[derive(Clone, Debug)]
pub struct MemoryDisk(Rc<RefCell<State>>);

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new(Abilities::default())
    }
}

impl MemoryDisk {
    /// An empty folder.
    #[must_use]
    pub fn new(able: Abilities) -> Self {
        Self(Rc::new(RefCell::new(State {
            files: FileSystem::new(able),
            logs: deltas::Logs::default(),
            read: BTreeSet::new(),
            archive: BTreeMap::new(),
            steps: 0,
            faults: BTreeMap::new(),
            meanwhile: VecDeque::new(),
            cut_at: None,
            dead: None,
            missing: false,
            unreadable: BTreeSet::new(),
            chance: 0,
        })))
    }

    /// A program writes a file, in place or as a new one under the same name; not where a directory stands, or none to
    /// put it in. Returns whether it did.
    pub fn user_write(&self, path: &RelPath, data: &[u8], in_place: bool) -> bool {
        self.0.borrow_mut().files.write(path, data, in_place)
    }

    /// A program makes something new that is not a regular file (a directory, a symlink to `data`, a pipe), where nothing
    /// stands. Returns whether it did.
    pub fn user_make(&self, path: &RelPath, kind: FileKind, data: &[u8]) -> bool {
        self.0.borrow_mut().files.make(path, kind, data)
    }

    /// A program removes an entry, with all that is in it, name by name. Returns whether there was any.
    pub fn user_remove(&self, path: &RelPath) -> bool {
        self.0.borrow_mut().files.remove(path)
    }

    /// A program gives a file another name, outside of the folder. No notification tells of that. Returns whether there is one.
    pub fn user_link_elsewhere(&self, path: &RelPath) -> bool {
        self.0.borrow_mut().files.link_elsewhere(path)
    }

    /// Programs do this while the engine looks, after all that they do already: `looks` later, or else with
    /// [`MemoryDisk::end_programs`]. It is not among the [`MemoryDisk::take_changes`].
    pub fn meanwhile(&self, looks: u64, act: Act) {
        self.0.borrow_mut().meanwhile.push_back((looks, act));
    }

    /// What programs have still to do, they do now.
    pub fn end_programs(&self) {
        let state = &mut *self.0.borrow_mut();
        std::mem::take(&mut state.meanwhile).into_iter().for_each(|(_, act)| state.act(act));
    }

    /// All that was notified of since that was last asked; `None` if there are no notifications, or some were lost.
    pub fn take_noticed(&self) -> Option<BTreeSet<RelPath>> {
        self.0.borrow_mut().take_noticed()
    }

    /// How many notifications of changes wait at most until they are asked for: with more, all are lost. With 0 there are none.
    pub fn set_notices(&self, most: usize) {
        self.0.borrow_mut().files.notices = most;
    }

    /// Nothing is watched any more, as when a process ends.
    pub fn unwatch(&self) {
        self.0.borrow_mut().files.watch = watch::Watch::default();
    }

    /// A program renames an entry, with all that is in it: over a file or symlink, or to where nothing stands. Returns
    /// whether it did.
    pub fn user_rename(&self, from: &RelPath, to: &RelPath) -> bool {
        self.0.borrow_mut().files.rename(from, to)
    }

    /// A program gives an entry other permissions or extended attributes. Returns whether there is one.
    pub fn user_attributes(&self, path: &RelPath, change: impl FnOnce(&mut Attributes)) -> bool {
        let files = &mut self.0.borrow_mut().files;
        let Ok(Some(ino)) = files.find(path) else { return false };
        let now = files.tick();
        files.tell(vec![path.clone()]);
        let body = &mut files.inode_mut(ino).body;
        change(&mut body.attributes);
        body.ctime_ns = now;
        true
    }

    /// A program sets a modification time. Returns whether there is such an entry.
    pub fn user_touch(&self, path: &RelPath, mtime_ns: i64) -> bool {
        let files = &mut self.0.borrow_mut().files;
        let Ok(Some(ino)) = files.find(path) else { return false };
        let now = files.tick();
        files.tell(vec![path.clone()]);
        let body = &mut files.inode_mut(ino).body;
        (body.mtime_ns, body.ctime_ns) = (mtime_ns, now);
        true
    }

    /// Everything in the folder.
    #[must_use]
    pub fn tree(&self) -> BTreeMap<RelPath, Node> {
        let mut nodes = BTreeMap::new();
        let state = self.0.borrow();
        state.files.visit(Space::Tree.root(), b"", &mut |path, ino| {
            let path = RelPath::new(path).expect("entries are only made at valid paths");
            let inode = state.files.inode(ino);
            nodes.insert(path, node(inode.kind, inode.body.clone()));
        });
        nodes
    }

    /// What stands at a path.
    #[must_use]
    pub fn node(&self, path: &RelPath) -> Option<Node> {
        let files = &self.0.borrow().files;
        let inode = files.inode(files.find(path).ok()??);
        Some(node(inode.kind, inode.body.clone()))
    }

    /// The regular files of the folder.
    #[must_use]
    pub fn files(&self) -> BTreeMap<RelPath, Vec<u8>> {
        let nodes = self.tree().into_iter().filter(|(_, node)| node.kind == FileKind::File);
        nodes.map(|(path, node)| (path, node.data)).collect()
    }

    /// What was set aside, and what the history keeps: bytes of files, targets of symlinks.
    #[must_use]
    pub fn kept(&self) -> Vec<Node> {
        let state = self.0.borrow();
        let names = [Space::Aside, Space::History].map(|space| &state.files.inode(space.root()).entries);
        let inodes = names.into_iter().flat_map(|names| names.values());
        let inodes = inodes.map(|ino| state.files.inode(*ino));
        inodes.map(|inode| node(inode.kind, inode.body.clone())).collect()
    }

    /// Contents that a power cut right now would leave for sure: in the folder, set aside, in the history.
    #[must_use]
    pub fn durable(&self) -> BTreeSet<Vec<u8>> {
        let state = self.0.borrow();
        let mut inodes = BTreeSet::new();
        [Space::Tree, Space::Aside, Space::History]
            .iter()
            .for_each(|space| state.files.visit_durable(space.root(), &mut inodes));
        let inodes = inodes.iter().map(|ino| state.files.inode(*ino));
        let bodies = inodes.map(|inode| inode.durable.clone().unwrap_or_else(|| inode.never_synced()));
        bodies.map(|body| body.data).chain(state.durably_logged()).collect()
    }

    /// What a power cut right now would leave for sure at a path.
    #[must_use]
    pub fn durable_node(&self, path: &RelPath) -> Option<Node> {
        let files = &self.0.borrow().files;
        let inode = files.inode(files.find_durable(path)?);
        Some(node(inode.kind, inode.durable.clone().unwrap_or_else(|| inode.never_synced())))
    }

    /// The changes of names in the folder since the last call, oldest first; recorded from the first call on.
    pub fn take_changes(&self) -> Vec<Change> {
        self.0.borrow_mut().files.changes.replace(Vec::new()).unwrap_or_default()
    }

    /// How many steps changed anything or made something durable.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.borrow().steps
    }

    /// Counts a step of something else on the same machine, as the commit of an index.
    ///
    /// # Errors
    /// If the power is cut, or the step is to fail.
    pub fn step(&self) -> Result<(), DiskError> {
        self.0.borrow_mut().step("commit")
    }

    /// Lets a later step fail: 1 is the next.
    pub fn fail(&self, after: u64, fault: Fault) {
        let state = &mut *self.0.borrow_mut();
        state.faults.insert(state.steps + after, fault);
    }

    /// Cuts the power at the next step of this name: see [`MemoryDisk::died_at`].
    pub fn cut_power_at(&self, step: &'static str) {
        self.0.borrow_mut().cut_at = Some(step);
    }

    /// No step fails from here on that has not failed yet, and what a failed sync lost is written again.
    pub fn heal(&self) {
        let state = &mut *self.0.borrow_mut();
        state.faults.clear();
        state.cut_at = None;
        state.files.write_lost_again();
        state.unreadable.clear();
        state.missing = false;
    }

    /// Whether every step fails.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.borrow().dead.is_some()
    }

    /// The step at which every step began to fail.
    #[must_use]
    pub fn died_at(&self) -> Option<&'static str> {
        self.0.borrow().dead.map(|(_, step)| step)
    }

    /// After a failed sync: the folder is opened again, and stages are not trusted any more. What could not be written is still
    /// read as if it had been, and is gone after the next power cut unless it is written again. Returns whether a sync had failed.
    pub fn reopen(&self) -> bool {
        let state = &mut *self.0.borrow_mut();
        if state.dead.is_none_or(|(why, _)| why != SYNC_FAILED) {
            return false;
        }
        state.dead = None;
        state.read.clear();
        state.files.watch = watch::Watch::default();
        let stages = state.files.inode(Space::Stage.root()).entries.keys().cloned();
        let gone: Vec<_> = stages.map(|name| (Space::Stage.root(), name, None)).collect();
        state.files.change(gone);
        true
    }

    /// The power is back. What was not durable survives in part, as `choose(n)`, a number below `n`, picks: names in one
    /// directory in their order, bytes whole or torn; always `n - 1` leaves only what must survive. Returns the files
    /// that hold something else than before.
    pub fn crash(&self, choose: &mut dyn FnMut(u64) -> u64) -> Vec<Torn> {
        let state = &mut *self.0.borrow_mut();
        let other = state.files.crash(choose);
        state.logs.crash(choose);
        state.faults.clear();
        state.cut_at = None;
        state.read.clear();
        state.files.watch = watch::Watch::default();
        state.dead = None;
        let mut torn = Vec::new();
        state.files.visit(Space::Tree.root(), b"", &mut |path, ino| {
            if other.contains(&ino) {
                let inode = state.files.inode(ino);
                let path = RelPath::new(path).expect("entries are only made at valid paths");
                torn.push(Torn { path, data: inode.body.data.clone(), published: inode.published });
            }
        });
        torn
    }

    /// The clock jumps.
    pub fn jump(&self, by_ns: i64) {
        self.0.borrow_mut().files.jump(by_ns);
    }

    /// Whether the folder is not there at all, as with an absent mount.
    pub fn set_missing(&self, missing: bool) {
        self.0.borrow_mut().missing = missing;
    }

    /// Whether this entry and what is in it cannot be read.
    pub fn set_unreadable(&self, path: &RelPath, unreadable: bool) {
        let paths = &mut self.0.borrow_mut().unreadable;
        if unreadable {
            paths.insert(path.clone());
        } else {
            paths.remove(path);
        }
    }

    /// Another folder that holds the same, as a backup. It draws another chance.
    #[must_use]
    pub fn copy(&self) -> Self {
        let chance = self.0.borrow_mut().chance();
        Self(Rc::new(RefCell::new(State { chance: !chance, ..self.0.borrow().clone() })))
    }

    /// Back to what a backup holds.
    pub fn restore(&self, backup: &Self) {
        let (chance, backup) = (self.0.borrow().chance, backup.0.borrow().clone());
        *self.0.borrow_mut() = State { chance, ..backup };
    }
}

fn node(kind: FileKind, body: filesystem::Body) -> Node {
    let filesystem::Body { data, attributes, mtime_ns, .. } = body;
    Node { kind, data, attributes, mtime_ns }
}
