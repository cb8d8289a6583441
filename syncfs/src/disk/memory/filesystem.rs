//! A file system in memory with two faces: what programs see, and what of it is on the platter and survives a power cut.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{DiskError, FileKind, Stat};
use crate::path::RelPath;
use crate::record::{Attributes, CAPABILITY, Owner};

use super::watch::Watch;
use super::{Abilities, Space};

/// Names an inode.
pub(super) type Ino = u64;

/// A change of names: in this directory, this name, is now this. Several of them together are one atomic step.
type Names = Vec<(Ino, Vec<u8>, Option<Ino>)>;

/// Every change of anything gets a time of its own, a millisecond and a bit after the one before.
const TICK_NS: i64 = 1_000_003;

/// As with inotify.
const NOTICES_MAX: usize = 1 << 14;

/// What an inode holds, apart from names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// The bytes of a file, the target of a symlink.
    pub(super) data: Vec<u8>,
    pub(super) attributes: Attributes,
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) kind: FileKind,
    pub(super) body: Body,
    /// What a power cut leaves of it for sure.
    pub(super) durable: Option<Body>,
    pub(super) entries: BTreeMap<Vec<u8>, Ino>,
    durable_entries: BTreeMap<Vec<u8>, Ino>,
    /// How many names it has.
    nlink: u32,
    /// A step made it visible, and no program has written to it since.
    pub(super) published: bool,
    /// A sync failed: the system calls its pages clean, and no later sync writes them.
    lost: bool,
}

impl Inode {
    /// What a power cut leaves of it if only its name is durable.
    pub(super) fn never_synced(&self) -> Body {
        let data = if self.kind == FileKind::File { Vec::new() } else { self.body.data.clone() };
        Body { data, ..self.body.clone() }
    }
}

#[derive(Clone, Debug)]
pub(super) struct FileSystem {
    pub(super) inodes: BTreeMap<Ino, Inode>,
    /// Changes of names since they were made durable, oldest first.
    log: Vec<Names>,
    /// Inodes whose bytes or attributes may not be durable.
    dirty: BTreeSet<Ino>,
    next_ino: Ino,
    clock_ns: i64,
    pub(super) able: Abilities,
    /// What readers see, if that is recorded.
    pub(super) changes: Option<Vec<super::Change>>,
    pub(super) watch: Watch,
    /// See [`super::MemoryDisk::set_notices`].
    pub(super) notices: usize,
}

impl FileSystem {
    pub(super) fn new(able: Abilities) -> Self {
        let (inodes, log, dirty) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        let (watch, notices) = (Watch::default(), NOTICES_MAX);
        let mut all =
            Self { inodes, log, dirty, next_ino: 0, clock_ns: 0, able, changes: None, watch, notices };
        for space in Space::ALL {
            assert_eq!(all.new_inode(FileKind::Dir, Vec::new(), Attributes::of_mode(0o755)), space.root());
        }
        all
    }

    pub(super) fn tick(&mut self) -> i64 {
        self.clock_ns += TICK_NS;
        self.clock_ns
    }

    pub(super) fn now_ns(&self) -> i64 {
        self.clock_ns
    }

    pub(super) fn jump(&mut self, by_ns: i64) {
        self.clock_ns += by_ns;
    }

    pub(super) fn inode(&self, ino: Ino) -> &Inode {
        &self.inodes[&ino]
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> &mut Inode {
        self.dirty.insert(ino);
        self.inodes.get_mut(&ino).expect("an inode that has a name exists")
    }

    pub(super) fn new_inode(&mut self, kind: FileKind, data: Vec<u8>, attributes: Attributes) -> Ino {
        self.next_ino += 1;
        let now = self.tick();
        let own = Owner { uid: if self.able.is_root { 0 } else { 1000 }, gid: 0 };
        let attributes = Attributes { owner: attributes.owner.or(Some(own)), ..attributes };
        let body = Body { data, attributes, mtime_ns: now, ctime_ns: now };
        let (entries, durable_entries) = (BTreeMap::new(), BTreeMap::new());
        let inode = Inode {
            kind,
            body,
            durable: None,
            entries,
            durable_entries,
            nlink: 0,
            published: false,
            lost: false,
        };
        self.dirty.insert(self.next_ino);
        self.inodes.insert(self.next_ino, inode);
        self.next_ino
    }

    /// The directory and the name of a path of the folder; no symlink is followed.
    pub(super) fn place(&self, path: &RelPath) -> Result<(Ino, Vec<u8>), DiskError> {
        let mut dir = Space::Tree.root();
        if let Some(parent) = path.parent() {
            for name in parent.as_bytes().split(|byte| *byte == b'/') {
                let next = self.inode(dir).entries.get(name).copied();
                dir = next.filter(|ino| self.is_dir(*ino)).ok_or(DiskError::NoParent)?;
            }
        }
        Ok((dir, path.name().to_vec()))
    }

    pub(super) fn find(&self, path: &RelPath) -> Result<Option<Ino>, DiskError> {
        let (dir, name) = self.place(path)?;
        Ok(self.inode(dir).entries.get(&name).copied())
    }

    /// What has this name in one of the flat spaces.
    pub(super) fn named(&self, space: Space, name: &[u8]) -> Option<Ino> {
        self.inode(space.root()).entries.get(name).copied()
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        self.inode(ino).kind == FileKind::Dir
    }

    pub(super) fn stat(&self, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        Ok(self.find(path)?.map(|ino| self.stat_of(ino)))
    }

    pub(super) fn stat_of(&self, ino: Ino) -> Stat {
        let Inode { kind, body, nlink, .. } = self.inode(ino);
        Stat {
            kind: *kind,
            size: body.data.len() as u64,
            mode: body.attributes.mode,
            mtime_ns: body.mtime_ns,
            ctime_ns: body.ctime_ns,
            dev: 1,
            ino,
            nlink: *nlink,
            owner: body.attributes.owner.expect("an inode is made with an owner"),
            side: 0,
        }
    }

    /// Changes names, in one step.
    pub(super) fn change(&mut self, change: Names) {
        for (dir, name, ino) in &change {
            let before = self.inode(*dir).entries.get(name).copied();
            if let Some(mut changes) = self.changes.take() {
                if !Space::is_flat(*dir) {
                    let seen = |ino: Ino| (self.inode(ino).kind, self.inode(ino).body.data.clone());
                    let place = (*dir, name.clone());
                    changes.push(super::Change { place, before: before.map(seen), after: ino.map(seen) });
                }
                self.changes = Some(changes);
            }
            let gone = set(&mut self.inode_mut(*dir).entries, name, *ino);
            gone.into_iter().for_each(|ino| self.inode_mut(ino).nlink -= 1);
            ino.iter().for_each(|ino| self.inode_mut(*ino).nlink += 1);
        }
        self.log.push(change);
    }

    /// See [`super::MemoryDisk::user_write`].
    pub(super) fn write(&mut self, path: &RelPath, data: &[u8], in_place: bool) -> bool {
        let Ok((dir, name)) = self.place(path) else { return false };
        let stands = self.inode(dir).entries.get(&name).copied();
        if stands.is_some_and(|ino| self.is_dir(ino)) {
            return false;
        }
        self.tell(vec![path.clone()]);
        match stands.filter(|ino| in_place && self.inode(*ino).kind == FileKind::File) {
            Some(ino) => self.write_to(ino, data),
            None => {
                let ino = self.new_inode(FileKind::File, data.to_vec(), Attributes::of_mode(0o644));
                self.change(vec![(dir, name, Some(ino))]);
            }
        }
        true
    }

    fn write_to(&mut self, ino: Ino, data: &[u8]) {
        let now = self.tick();
        let inode = self.dirty(ino);
        inode.published = false;
        (inode.body.mtime_ns, inode.body.ctime_ns) = (now, now);
        inode.body.data = data.to_vec();
    }

    /// See [`super::MemoryDisk::user_link_elsewhere`].
    pub(super) fn link_elsewhere(&mut self, path: &RelPath) -> bool {
        let file = self.find(path).ok().flatten().filter(|ino| self.inode(*ino).kind == FileKind::File);
        let Some(ino) = file else { return false };
        let now = self.tick();
        self.inode_mut(ino).body.ctime_ns = now;
        self.change(vec![(Space::Elsewhere.root(), path.as_bytes().to_vec(), Some(ino))]);
        true
    }

    /// See [`super::Act::Elsewhere`].
    pub(super) fn write_elsewhere(&mut self, path: &RelPath, data: &[u8]) -> bool {
        let named = self.named(Space::Elsewhere, path.as_bytes());
        let Some(ino) = named.filter(|ino| self.find(path) == Ok(Some(*ino))) else { return false };
        self.write_to(ino, data);
        true
    }

    /// See [`super::MemoryDisk::user_remove`].
    pub(super) fn remove(&mut self, path: &RelPath) -> bool {
        let Ok((dir, name)) = self.place(path) else { return false };
        let Some(ino) = self.inode(dir).entries.get(&name).copied() else { return false };
        let mut paths = vec![path.clone()];
        self.visit(ino, path.as_bytes(), &mut |below, _| paths.extend(RelPath::new(below).ok()));
        self.tell(paths);
        self.remove_below(ino);
        self.change(vec![(dir, name, None)]);
        true
    }

    fn remove_below(&mut self, dir: Ino) {
        for (name, ino) in self.inode(dir).entries.clone() {
            self.remove_below(ino);
            self.change(vec![(dir, name, None)]);
        }
    }

    /// See [`super::MemoryDisk::user_make`].
    pub(super) fn make(&mut self, path: &RelPath, kind: FileKind, data: &[u8]) -> bool {
        let Ok((dir, name)) = self.place(path) else { return false };
        if self.inode(dir).entries.contains_key(&name) {
            return false;
        }
        self.tell(vec![path.clone()]);
        let mode = if kind == FileKind::Symlink { 0o777 } else { 0o755 };
        let ino = self.new_inode(kind, data.to_vec(), Attributes::of_mode(mode));
        self.change(vec![(dir, name, Some(ino))]);
        true
    }

    /// See [`super::MemoryDisk::user_rename`].
    pub(super) fn rename(&mut self, from: &RelPath, to: &RelPath) -> bool {
        let (Ok(old), Ok(new)) = (self.place(from), self.place(to)) else { return false };
        let Some(ino) = self.inode(old.0).entries.get(&old.1).copied() else { return false };
        let over = self.inode(new.0).entries.get(&new.1).copied();
        if from == to || to.is_below(from) || over.is_some_and(|over| self.is_dir(over) || self.is_dir(ino)) {
            return false;
        }
        self.tell(vec![from.clone(), to.clone()]);
        let now = self.tick();
        self.inode_mut(ino).body.ctime_ns = now;
        self.change(vec![(old.0, old.1, None), (new.0, new.1, Some(ino))]);
        true
    }

    /// Gives attributes, as far as this file system and this process can.
    pub(super) fn give(&mut self, ino: Ino, attributes: &Attributes) {
        let (able, now) = (self.able, self.tick());
        let body = &mut self.inode_mut(ino).body;
        body.ctime_ns = now;
        let given = &mut body.attributes;
        given.mode = if able.is_root { attributes.mode } else { attributes.mode & 0o1777 };
        if able.is_root {
            given.owner = attributes.owner.or(given.owner);
        }
        if able.has_xattrs {
            given.xattrs = attributes.xattrs.clone();
            given.xattrs.retain(|name, _| able.is_root || name.as_slice() != CAPABILITY);
        }
    }

    /// What is at and below a directory, by its path.
    pub(super) fn visit(&self, dir: Ino, above: &[u8], visit: &mut impl FnMut(Vec<u8>, Ino)) {
        for (name, ino) in &self.inode(dir).entries {
            let path = if above.is_empty() { name.clone() } else { [above, b"/", &name[..]].concat() };
            visit(path.clone(), *ino);
            self.visit(*ino, &path, visit);
        }
    }

    pub(super) fn find_durable(&self, path: &RelPath) -> Option<Ino> {
        let mut names = path.as_bytes().split(|byte| *byte == b'/');
        names.try_fold(Space::Tree.root(), |dir, name| self.inode(dir).durable_entries.get(name).copied())
    }

    /// What is in a directory and below, as far as its names are durable.
    pub(super) fn visit_durable(&self, dir: Ino, inodes: &mut BTreeSet<Ino>) {
        for ino in self.inode(dir).durable_entries.values() {
            if inodes.insert(*ino) {
                self.visit_durable(*ino, inodes);
            }
        }
    }

    /// Makes an inode's bytes and attributes durable, or, if the sync `fails`, never again.
    pub(super) fn sync_inode(&mut self, ino: Ino, fails: bool) {
        let inode = self.inode_mut(ino);
        inode.lost |= fails && inode.durable.as_ref().is_none_or(|durable| durable.data != inode.body.data);
        if !inode.lost {
            inode.durable = Some(inode.body.clone());
        }
    }

    /// A file whose sync failed is copied, and the copy takes its place: see `Disk::read` of the driver.
    pub(super) fn write_again(&mut self, path: &RelPath, ino: Ino) -> Result<Ino, DiskError> {
        let Inode { kind, body, nlink, lost, .. } = self.inode(ino).clone();
        if !lost {
            return Ok(ino);
        }
        if nlink > 1 {
            return Err(DiskError::Io {
                what: "make its content durable",
                reason: "a sync of it failed".to_owned(),
            });
        }
        let (dir, name) = self.place(path)?;
        let fresh = self.new_inode(kind, body.data, body.attributes);
        self.inode_mut(fresh).body.mtime_ns = body.mtime_ns;
        self.change(vec![(dir, name, Some(fresh))]);
        Ok(fresh)
    }

    /// All that a failed sync lost is new bytes again.
    pub(super) fn write_lost_again(&mut self) {
        self.inodes.values_mut().for_each(|inode| inode.lost = false);
    }

    /// New bytes: the system will write them with the next sync, whatever became of the old ones.
    pub(super) fn dirty(&mut self, ino: Ino) -> &mut Inode {
        let inode = self.inode_mut(ino);
        inode.lost = false;
        inode
    }

    /// Makes all names durable, and the attributes of what has its bytes on the platter.
    pub(super) fn sync_names(&mut self) {
        for change in std::mem::take(&mut self.log) {
            self.persist(&change);
        }
        for ino in std::mem::take(&mut self.dirty) {
            let Inode { body, durable, .. } = self.inodes.get_mut(&ino).expect("inodes stay");
            match durable.as_mut().filter(|durable| durable.data == body.data) {
                Some(durable) => durable.clone_from(body),
                None => drop(self.dirty.insert(ino)),
            }
        }
    }

    /// Makes the names in one of the flat spaces durable, with what had to happen before.
    pub(super) fn sync_space(&mut self, space: Space) {
        let mut dirs = BTreeSet::from([space.root()]);
        let mut wanted = vec![false; self.log.len()];
        for (change, wanted) in self.log.iter().zip(&mut wanted).rev() {
            if touched(change).any(|ino| dirs.contains(&ino)) {
                dirs.extend(touched(change));
                *wanted = true;
            }
        }
        for (change, wanted) in std::mem::take(&mut self.log).into_iter().zip(wanted) {
            if wanted {
                self.persist(&change);
            } else {
                self.log.push(change);
            }
        }
    }

    fn persist(&mut self, change: &Names) {
        for (dir, name, ino) in change {
            set(&mut self.inode_mut(*dir).durable_entries, name, *ino);
        }
    }

    /// The power was cut and is back. Of the changes since the last syncs some survive, as `choose` picks: names in one
    /// directory in their order, but not those of different directories; bytes as they were, as they became, or torn.
    /// Returns the inodes whose content is another one now.
    pub(super) fn crash(&mut self, choose: &mut dyn FnMut(u64) -> u64) -> BTreeSet<Ino> {
        let mut blocked = BTreeSet::new();
        let eager = choose(3) == 0;
        for change in std::mem::take(&mut self.log) {
            let survives = eager || choose(3) < 2;
            if survives && !touched(&change).any(|ino| blocked.contains(&ino)) {
                self.persist(&change);
            } else {
                blocked.extend(touched(&change));
            }
        }
        self.count_names();
        let mut other = BTreeSet::new();
        for ino in std::mem::take(&mut self.dirty) {
            let inode = self.inodes.get_mut(&ino).expect("inodes stay");
            inode.lost = false;
            if inode.durable.as_ref() == Some(&inode.body) {
                continue;
            }
            let before = inode.durable.take().unwrap_or_else(|| inode.never_synced());
            let after = inode.body.clone();
            match choose(4) {
                0 => {}
                1 if before.data != after.data && inode.kind == FileKind::File => {
                    let kept = usize::try_from(choose(after.data.len() as u64 + 1)).unwrap_or(0);
                    inode.body.data[kept..].fill(0);
                }
                _ => inode.body = before,
            }
            if inode.body.data != after.data {
                other.insert(ino);
            }
            inode.durable = Some(inode.body.clone());
        }
        other
    }

    /// Names are what of them is durable.
    fn count_names(&mut self) {
        let mut counts = BTreeMap::new();
        for inode in self.inodes.values_mut() {
            inode.entries.clone_from(&inode.durable_entries);
            inode.entries.values().for_each(|ino| *counts.entry(*ino).or_insert(0) += 1);
        }
        for (ino, inode) in &mut self.inodes {
            inode.nlink = counts.get(ino).copied().unwrap_or(0);
        }
    }
}

/// The directories of a change and what it names in them: whatever comes after it on one of these comes after it on the
/// platter, too.
fn touched(change: &Names) -> impl Iterator<Item = Ino> + '_ {
    change.iter().flat_map(|(dir, _, ino)| [Some(*dir), *ino]).flatten()
}

fn set(entries: &mut BTreeMap<Vec<u8>, Ino>, name: &[u8], ino: Option<Ino>) -> Option<Ino> {
    match ino {
        Some(ino) => entries.insert(name.to_vec(), ino),
        None => entries.remove(name),
    }
}
