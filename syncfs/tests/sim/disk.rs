//! A disk that loses, at a crash, what was not made durable, and that can stop at any step.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use syncfs::chunk::content_of;
use syncfs::disk::{Disk, DiskError, FileKind, Keep, Listing, Reading, Run, Stat};
use syncfs::record::{Attributes, CAPABILITY, Chunk, Owner, Xattrs};
use syncfs::{Blob, ContentHash, RelPath};

use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Space {
    Tree,
    Stage,
    Aside,
}

type Name = (Space, Vec<u8>);

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) kind: FileKind,
    pub(crate) data: Vec<u8>,
    durable: Option<Vec<u8>>,
    attributes: Attributes,
    mtime_ns: i64,
    ctime_ns: i64,
    published: bool,
}

/// One replica's platter and page cache.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) inodes: BTreeMap<u64, Inode>,
    /// Names as programs see them.
    pub(crate) names: BTreeMap<Name, u64>,
    durable_names: BTreeMap<Name, u64>,
    /// Changes of names since the last sync, oldest first; each is atomic.
    log: Vec<Vec<(Name, Option<u64>)>>,
    read: BTreeSet<u64>,
    /// Chunks that were read, by which patches are made.
    archive: BTreeMap<ContentHash, Vec<u8>>,
    next_ino: u64,
    clock: i64,
    pub(crate) steps: u64,
    /// Power fails at this step.
    pub(crate) fails_at: Option<u64>,
    pub(crate) dead: bool,
    /// Whether it can give owners and capabilities, and whether its filesystem has extended attributes.
    pub(crate) is_root: bool,
    pub(crate) has_xattrs: bool,
}

pub(crate) type Shared = Rc<RefCell<Store>>;

impl Store {
    pub(crate) fn step(&mut self) -> Result<(), DiskError> {
        self.steps += 1;
        if self.fails_at.is_some_and(|at| self.steps >= at) {
            self.dead = true;
        }
        self.alive()
    }

    fn alive(&self) -> Result<(), DiskError> {
        if self.dead { Err(DiskError::Dead("power cut".to_owned())) } else { Ok(()) }
    }

    fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    fn change(&mut self, changes: Vec<(Name, Option<u64>)>) {
        apply(&mut self.names, &changes);
        self.log.push(changes);
    }

    fn sync_names(&mut self) {
        for changes in std::mem::take(&mut self.log) {
            apply(&mut self.durable_names, &changes);
        }
    }

    fn sync_data(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.durable = Some(inode.data.clone());
        }
    }

    /// Power is back: names as far as some point after the last sync, data only where it was synced.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let log = std::mem::take(&mut self.log);
        let survive = rng.below(log.len() as u64 + 1) as usize;
        log[..survive].iter().for_each(|changes| apply(&mut self.durable_names, changes));
        self.names = self.durable_names.clone();
        for (name, ino) in &self.names {
            let inode = self.inodes.get_mut(ino).unwrap();
            if inode.kind == FileKind::File && inode.durable.as_ref() != Some(&inode.data) {
                assert!(
                    !(inode.published && name.0 == Space::Tree),
                    "{:?} became visible before its bytes were durable",
                    String::from_utf8_lossy(&name.1)
                );
                inode.data = inode.durable.clone().unwrap_or_default();
                self.clock += 1;
                (inode.mtime_ns, inode.ctime_ns) = (self.clock, self.clock);
            }
        }
        self.read.clear();
        (self.dead, self.fails_at) = (false, None);
    }

    fn stat_name(&self, name: &Name) -> Option<Stat> {
        let ino = *self.names.get(name)?;
        let inode = &self.inodes[&ino];
        Some(Stat {
            kind: inode.kind,
            size: inode.data.len() as u64,
            mode: inode.attributes.mode,
            mtime_ns: inode.mtime_ns,
            ctime_ns: inode.ctime_ns,
            dev: 1,
            ino,
            nlink: self.names.values().filter(|other| **other == ino).count() as u32,
            owner: inode.attributes.owner.unwrap(),
            side: 0,
        })
    }

    fn tree(path: &RelPath) -> Name {
        (Space::Tree, path.as_bytes().to_vec())
    }

    fn has_parent(&self, path: &RelPath) -> bool {
        path.parent().is_none_or(|parent| {
            self.stat_name(&Self::tree(&parent)).is_some_and(|stat| stat.kind == FileKind::Dir)
        })
    }

    fn has_children(&self, path: &RelPath) -> bool {
        let below = |name: &Name| RelPath::new(&name.1).is_ok_and(|other| other.is_below(path));
        self.names.keys().any(|name| name.0 == Space::Tree && below(name))
    }

    fn new_inode(&mut self, kind: FileKind, data: Vec<u8>, mode: u32) -> u64 {
        self.next_ino += 1;
        let now = self.tick();
        let owner = Some(Owner { uid: if self.is_root { 0 } else { 1000 }, gid: 0 });
        let attributes = Attributes { owner, ..Attributes::of_mode(mode) };
        let (durable, published) = (None, false);
        let inode = Inode { kind, data, durable, attributes, mtime_ns: now, ctime_ns: now, published };
        self.inodes.insert(self.next_ino, inode);
        self.next_ino
    }

    /// Attributes, as far as this replica can apply them.
    fn give(&mut self, ino: u64, attributes: &Attributes) {
        let (is_root, has_xattrs, now) = (self.is_root, self.has_xattrs, self.tick());
        let inode = self.inodes.get_mut(&ino).unwrap();
        inode.ctime_ns = now;
        let given = &mut inode.attributes;
        given.mode = if is_root { attributes.mode } else { attributes.mode & 0o1777 };
        if is_root {
            given.owner = attributes.owner.or(given.owner);
        }
        if has_xattrs {
            given.xattrs = attributes.xattrs.clone();
            given.xattrs.retain(|name, _| is_root || name.as_slice() != CAPABILITY);
        }
    }

    // What a user does; never a step of ours, never synced.

    pub(crate) fn user_write(&mut self, path: &RelPath, data: &[u8], in_place: bool) -> bool {
        let name = Self::tree(path);
        if !self.has_parent(path) || self.stat_name(&name).is_some_and(|stat| stat.kind == FileKind::Dir) {
            return false;
        }
        match self.names.get(&name).copied().filter(|ino| in_place && self.inodes[ino].kind == FileKind::File)
        {
            Some(ino) => {
                let now = self.tick();
                let inode = self.inodes.get_mut(&ino).unwrap();
                (inode.data, inode.published) = (data.to_vec(), false);
                (inode.mtime_ns, inode.ctime_ns) = (now, now);
            }
            None => {
                let ino = self.new_inode(FileKind::File, data.to_vec(), 0o644);
                self.change(vec![(name, Some(ino))]);
            }
        }
        true
    }

    pub(crate) fn user_mkdir(&mut self, path: &RelPath) {
        if self.has_parent(path) && self.stat_name(&Self::tree(path)).is_none() {
            let ino = self.new_inode(FileKind::Dir, Vec::new(), 0o755);
            self.change(vec![(Self::tree(path), Some(ino))]);
        }
    }

    pub(crate) fn user_remove(&mut self, path: &RelPath) {
        let gone = |name: &&Name| {
            name.0 == Space::Tree
                && RelPath::new(&name.1).is_ok_and(|other| other == *path || other.is_below(path))
        };
        let names: Vec<_> = self.names.keys().filter(gone).cloned().collect();
        names.into_iter().rev().for_each(|name| self.change(vec![(name, None)]));
    }

    pub(crate) fn user_rename(&mut self, from: &RelPath, to: &RelPath) -> bool {
        let (old, new) = (Self::tree(from), Self::tree(to));
        let Some(ino) = self.names.get(&old).copied() else { return false };
        let is_file = |name: &Name| self.stat_name(name).is_none_or(|stat| stat.kind == FileKind::File);
        if from == to || !is_file(&old) || !is_file(&new) || !self.has_parent(to) {
            return false;
        }
        self.change(vec![(old, None), (new, Some(ino))]);
        true
    }

    /// A directory with all that is in it, to where nothing stands.
    pub(crate) fn user_rename_tree(&mut self, from: &RelPath, to: &RelPath) -> bool {
        let stands = self.stat_name(&Self::tree(from)).is_some();
        let free = self.stat_name(&Self::tree(to)).is_none() && self.has_parent(to);
        if !stands || !free || to.is_below(from) {
            return false;
        }
        self.rename_tree(from, to);
        true
    }

    fn rename_tree(&mut self, from: &RelPath, to: &RelPath) {
        let now = self.tick();
        let mut changes = Vec::new();
        for (name, ino) in &self.names {
            if let (Space::Tree, Some(suffix)) = (name.0, name.1.strip_prefix(from.as_bytes()))
                && (suffix.is_empty() || suffix[0] == b'/')
            {
                changes.push((name.clone(), None));
                changes.push(((Space::Tree, [to.as_bytes(), suffix].concat()), Some(*ino)));
            }
        }
        let top = self.names[&Self::tree(from)];
        self.inodes.get_mut(&top).unwrap().ctime_ns = now;
        self.change(changes);
    }

    pub(crate) fn user_chmod(&mut self, path: &RelPath, mode: u32) {
        let now = self.tick();
        if let Some(ino) = self.names.get(&Self::tree(path)) {
            let inode = self.inodes.get_mut(ino).unwrap();
            (inode.attributes.mode, inode.ctime_ns) = (mode, now);
        }
    }

    /// Contents of the files in one space.
    pub(crate) fn contents(&self, space: Space) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let files = self
            .names
            .iter()
            .filter(|(name, ino)| name.0 == space && self.inodes[ino].kind == FileKind::File);
        files.map(|(name, ino)| (name.1.clone(), self.inodes[ino].data.clone())).collect()
    }

    /// Contents that a crash right now would leave for sure.
    pub(crate) fn durable_contents(&self) -> BTreeSet<Vec<u8>> {
        let inodes = self.durable_names.iter().filter(|(name, _)| name.0 != Space::Stage);
        inodes.filter_map(|(_, ino)| self.inodes[ino].durable.clone()).collect()
    }
}

fn apply(names: &mut BTreeMap<Name, u64>, changes: &[(Name, Option<u64>)]) {
    for (name, ino) in changes {
        match ino {
            Some(ino) => names.insert(name.clone(), *ino),
            None => names.remove(name),
        };
    }
}

pub(crate) struct SimDisk(pub Shared);

impl Disk for SimDisk {
    fn check_root(&mut self) -> Result<(), DiskError> {
        self.0.borrow().alive()
    }

    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        let store = self.0.borrow();
        store.alive()?;
        if store.has_parent(path) {
            Ok(store.stat_name(&Store::tree(path)))
        } else {
            Err(DiskError::NoParent)
        }
    }

    fn list(&mut self, dir: Option<&RelPath>) -> Result<Listing, DiskError> {
        let store = self.0.borrow();
        store.alive()?;
        let paths = store
            .names
            .keys()
            .filter(|name| name.0 == Space::Tree)
            .map(|name| RelPath::new(&name.1).unwrap());
        let inside = paths.filter(|path| path.parent().as_ref() == dir);
        let entries = inside.map(|path| {
            let stat = store.stat_name(&Store::tree(&path)).unwrap();
            (path, stat)
        });
        Ok(Listing { entries: entries.collect(), problems: Vec::new() })
    }

    fn is_root(&self) -> bool {
        self.0.borrow().is_root
    }

    fn xattrs(&mut self, path: &RelPath, stat: &Stat) -> Result<(Option<Xattrs>, Stat), DiskError> {
        let store = self.0.borrow();
        store.alive()?;
        let Some(ino) = store.names.get(&Store::tree(path)) else { return Err(DiskError::Changed) };
        let mut xattrs = store.inodes[ino].attributes.xattrs.clone();
        xattrs.retain(|name, _| store.is_root || name.as_slice() != CAPABILITY);
        Ok((store.has_xattrs.then_some(xattrs), *stat))
    }

    fn link_target(&mut self, _path: &RelPath) -> Result<Vec<u8>, DiskError> {
        Err(DiskError::Changed)
    }

    fn read(&mut self, path: &RelPath, stat: &Stat) -> Result<Reading, DiskError> {
        let mut store = self.0.borrow_mut();
        store.alive()?;
        if store.stat_name(&Store::tree(path)) != Some(*stat) {
            return Err(DiskError::Changed);
        }
        store.read.insert(stat.ino);
        let data = store.inodes[&stat.ino].data.clone();
        let content = content_of(&data);
        for (offset, chunk) in content.placed() {
            let bytes = data[offset as usize..][..chunk.length as usize].to_vec();
            store.archive.insert(chunk.hash, bytes);
        }
        Ok(Reading { content, stat: *stat, mtime_ns: stat.mtime_ns, cut: false })
    }

    fn read_chunk(&mut self, path: &RelPath, offset: u64, chunk: &Chunk) -> Result<Option<Blob>, DiskError> {
        let store = self.0.borrow();
        store.alive()?;
        let Some(ino) = store.names.get(&Store::tree(path)) else { return Ok(None) };
        let from = offset as usize;
        let bytes = store.inodes[ino].data.get(from..from + chunk.length as usize);
        Ok(bytes.and_then(|bytes| Blob::named(bytes.to_vec(), &chunk.hash)))
    }

    fn patch(
        &mut self,
        path: &RelPath,
        offset: u64,
        chunk: &Chunk,
        basis: &ContentHash,
    ) -> Result<Option<Vec<Run>>, DiskError> {
        let Some(now) = self.read_chunk(path, offset, chunk)? else { return Ok(None) };
        let store = self.0.borrow();
        let Some(before) = store.archive.get(basis) else { return Ok(None) };
        let differs = |at: &usize| before.get(*at) != now.bytes().get(*at);
        let changed = (0..now.bytes().len()).filter(differs);
        Ok(Some(changed.map(|at| Run { offset: at as u32, bytes: vec![now.bytes()[at]] }).collect()))
    }

    fn stage_read(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<Option<Vec<u8>>, DiskError> {
        let store = self.0.borrow();
        store.alive()?;
        let Some(ino) = store.names.get(&(Space::Stage, path.as_bytes().to_vec())) else { return Ok(None) };
        Ok(store.inodes[ino].data.get(offset as usize..offset as usize + length as usize).map(<[u8]>::to_vec))
    }

    fn stage_write(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        let name = (Space::Stage, path.as_bytes().to_vec());
        let ino = match store.names.get(&name) {
            Some(ino) => *ino,
            None => {
                let ino = store.new_inode(FileKind::File, Vec::new(), 0o600);
                store.change(vec![(name, Some(ino))]);
                ino
            }
        };
        let data = &mut store.inodes.get_mut(&ino).unwrap().data;
        let end = offset as usize + bytes.len();
        data.resize(data.len().max(end), 0);
        data[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn stage_seal(
        &mut self,
        path: &RelPath,
        size: u64,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<(), DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        let ino = store.names[&(Space::Stage, path.as_bytes().to_vec())];
        store.give(ino, attributes);
        let inode = store.inodes.get_mut(&ino).unwrap();
        inode.data.truncate(size as usize);
        inode.mtime_ns = mtime_ns;
        Ok(())
    }

    fn stage_symlink(&mut self, _: &RelPath, _: &[u8], _: Option<Owner>) -> Result<(), DiskError> {
        Err(DiskError::Changed)
    }

    fn stage_sync(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        for path in paths {
            let mut store = self.0.borrow_mut();
            store.step()?;
            let ino = store.names[&(Space::Stage, path.as_bytes().to_vec())];
            store.sync_data(ino);
        }
        Ok(())
    }

    fn stage_discard(&mut self, path: &RelPath) -> Result<(), DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        let name = (Space::Stage, path.as_bytes().to_vec());
        if store.names.contains_key(&name) {
            store.change(vec![(name, None)]);
        }
        Ok(())
    }

    fn publish(&mut self, stage: &RelPath, to: &RelPath, expect: Option<&Stat>) -> Result<Stat, DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        let (from, name) = ((Space::Stage, stage.as_bytes().to_vec()), Store::tree(to));
        if !store.has_parent(to) {
            return Err(DiskError::NoParent);
        }
        let stands = store.stat_name(&name);
        if stands.is_some_and(|stat| stat.kind == FileKind::Dir) {
            return Err(DiskError::NotEmpty);
        }
        if stands.as_ref() != expect {
            return Err(DiskError::Changed);
        }
        let ino = store.names[&from];
        let now = store.tick();
        let inode = store.inodes.get_mut(&ino).unwrap();
        (inode.ctime_ns, inode.published) = (now, true);
        store.change(vec![(from, None), (name.clone(), Some(ino))]);
        Ok(store.stat_name(&name).unwrap())
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        if !store.has_parent(to) {
            return Err(DiskError::NoParent);
        }
        match store.stat_name(&Store::tree(from)) {
            Some(stat) if stat == *expect => {}
            _ => return Err(DiskError::Changed),
        }
        if store.stat_name(&Store::tree(to)).is_some() {
            return Err(DiskError::Taken);
        }
        store.rename_tree(from, to);
        Ok(())
    }

    fn adjust(
        &mut self,
        path: &RelPath,
        expect: &Stat,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<Stat, DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        let name = Store::tree(path);
        if store.stat_name(&name).as_ref() != Some(expect) {
            return Err(DiskError::Changed);
        }
        store.give(expect.ino, attributes);
        store.inodes.get_mut(&expect.ino).unwrap().mtime_ns = mtime_ns;
        Ok(store.stat_name(&name).unwrap())
    }

    fn make_dir(&mut self, path: &RelPath, attributes: &Attributes) -> Result<Stat, DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        let name = Store::tree(path);
        if !store.has_parent(path) {
            return Err(DiskError::NoParent);
        }
        match store.stat_name(&name) {
            Some(stat) if stat.kind != FileKind::Dir => return Err(DiskError::Changed),
            Some(stat) => store.give(stat.ino, attributes),
            None => {
                let ino = store.new_inode(FileKind::Dir, Vec::new(), 0o700);
                store.give(ino, attributes);
                store.change(vec![(name.clone(), Some(ino))]);
            }
        }
        Ok(store.stat_name(&name).unwrap())
    }

    fn remove(&mut self, path: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        let name = Store::tree(path);
        match store.stat_name(&name) {
            Some(stat) if stat.kind == FileKind::Dir && expect.kind == FileKind::Dir => {
                if store.has_children(path) {
                    return Err(DiskError::NotEmpty);
                }
            }
            Some(stat) if stat == *expect => {}
            _ => return Err(DiskError::Changed),
        }
        store.change(vec![(name, None)]);
        Ok(())
    }

    fn keep(&mut self, path: &RelPath, to: &Keep) -> Result<String, DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        let Some(ino) = store.names.get(&Store::tree(path)).copied() else { return Err(DiskError::Changed) };
        let target = match to {
            Keep::Beside(to) => Store::tree(to),
            Keep::Aside(folder) => (Space::Aside, [folder.as_bytes(), b"/", path.as_bytes()].concat()),
        };
        let now = store.tick();
        store.inodes.get_mut(&ino).unwrap().ctime_ns = now;
        if store.names.contains_key(&target) {
            return Err(DiskError::Taken);
        }
        store.change(vec![(target.clone(), Some(ino))]);
        store.sync_names();
        store.sync_data(ino);
        Ok(String::from_utf8_lossy(&target.1).into_owned())
    }

    fn sync_tree(&mut self) -> Result<(), DiskError> {
        let mut store = self.0.borrow_mut();
        store.step()?;
        for ino in std::mem::take(&mut store.read) {
            store.sync_data(ino);
        }
        store.sync_names();
        Ok(())
    }
}
