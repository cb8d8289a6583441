//! A folder in memory: the directory of the replica that the session target attacks. Nothing in it ever fails by
//! itself, so whatever the engine reports comes from what a peer sent.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use syncfs::chunk::content_of;
use syncfs::disk::{Disk, DiskError, FileKind, Keep, Listing, Reading, Stat};
use syncfs::record::{Attributes, Chunk, Owner, Xattrs};
use syncfs::{Blob, RelPath};

/// Whose everything is that says nothing else.
const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// The disk that an engine works on; a clone is the same disk, for the person who edits files on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Rc<RefCell<Folder>>);

/// The folder, its stages, and what was set aside.
#[derive(Debug, Default)]
struct Folder {
    tree: BTreeMap<RelPath, Node>,
    stages: BTreeMap<RelPath, Node>,
    aside: Vec<Node>,
    /// Gives every change a status change time of its own.
    clock_ns: i64,
}

#[derive(Clone, Debug)]
struct Node {
    body: Body,
    attributes: Attributes,
    mtime_ns: i64,
    ctime_ns: i64,
    ino: u64,
}

#[derive(Clone, Debug)]
enum Body {
    File(Vec<u8>),
    Dir,
    Symlink(Vec<u8>),
}

impl Node {
    fn stat(&self) -> Stat {
        let (kind, size) = match &self.body {
            Body::File(bytes) => (FileKind::File, bytes.len() as u64),
            Body::Dir => (FileKind::Dir, 0),
            Body::Symlink(target) => (FileKind::Symlink, target.len() as u64),
        };
        let Self { mtime_ns, ctime_ns, ino, .. } = *self;
        let mode = self.attributes.mode;
        let owner = self.attributes.owner.unwrap_or(ROOT);
        Stat { kind, size, mode, mtime_ns, ctime_ns, dev: 1, ino, nlink: 1, owner, side: 0 }
    }
}

impl MemoryDisk {
    /// A person writes a file, unless its folder is missing or a directory stands there.
    pub(crate) fn write(&self, path: &RelPath, bytes: &[u8]) -> bool {
        let folder = &mut *self.0.borrow_mut();
        let taken = folder.tree.get(path).is_some_and(|node| matches!(node.body, Body::Dir));
        if taken || folder.parent_exists(path).is_err() {
            return false;
        }
        let attributes = Attributes::of_mode(0o644);
        let node = folder.node(Body::File(bytes.to_vec()), attributes, folder.clock_ns);
        folder.tree.insert(path.clone(), node);
        true
    }

    /// Every file that stands anywhere: at a path or set aside.
    pub(crate) fn contents(&self) -> BTreeSet<Vec<u8>> {
        let folder = self.0.borrow();
        let nodes = folder.tree.values().chain(&folder.aside);
        let files = nodes.filter_map(|node| match &node.body {
            Body::File(bytes) => Some(bytes.clone()),
            _ => None,
        });
        files.collect()
    }
}

impl Folder {
    fn node(&mut self, body: Body, attributes: Attributes, mtime_ns: i64) -> Node {
        self.clock_ns += 1;
        Node { body, attributes, mtime_ns, ctime_ns: self.clock_ns, ino: self.clock_ns.unsigned_abs() }
    }

    fn parent_exists(&self, path: &RelPath) -> Result<(), DiskError> {
        let Some(parent) = path.parent() else { return Ok(()) };
        let is_dir = self.tree.get(&parent).is_some_and(|node| matches!(node.body, Body::Dir));
        if is_dir { Ok(()) } else { Err(DiskError::NoParent) }
    }

    fn expect(&self, path: &RelPath, expect: Option<&Stat>) -> Result<(), DiskError> {
        if self.tree.get(path).map(Node::stat).as_ref() == expect { Ok(()) } else { Err(DiskError::Changed) }
    }

    fn has_children(&self, dir: &RelPath) -> bool {
        self.tree.keys().any(|path| path.is_below(dir))
    }

    fn stage(&mut self, path: &RelPath) -> &mut Vec<u8> {
        if !matches!(self.stages.get(path), Some(Node { body: Body::File(_), .. })) {
            let node = self.node(Body::File(Vec::new()), Attributes::of_mode(0o600), 0);
            self.stages.insert(path.clone(), node);
        }
        match self.stages.get_mut(path) {
            Some(Node { body: Body::File(bytes), .. }) => bytes,
            _ => unreachable!("the stage was made a file above"),
        }
    }
}

fn slice(bytes: &[u8], offset: u64, length: u32) -> Option<Vec<u8>> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(length as usize)?).map(<[u8]>::to_vec)
}

impl Disk for MemoryDisk {
    fn check_root(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        Ok(folder.tree.get(path).map(Node::stat))
    }

    fn list(&mut self, dir: Option<&RelPath>) -> Result<Listing, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        let inside = |path: &RelPath| path.parent().as_ref() == dir;
        let entries = folder.tree.iter().filter(|(path, _)| inside(path));
        Ok(Listing {
            entries: entries.map(|(path, node)| (path.clone(), node.stat())).collect(),
            problems: Vec::new(),
        })
    }

    fn is_root(&self) -> bool {
        true
    }

    fn xattrs(&mut self, path: &RelPath, stat: &Stat) -> Result<(Option<Xattrs>, Stat), DiskError> {
        let folder = &mut *self.0.borrow_mut();
        let node = folder.tree.get(path).ok_or(DiskError::Changed)?;
        Ok((Some(node.attributes.xattrs.clone()), *stat))
    }

    fn link_target(&mut self, path: &RelPath) -> Result<Vec<u8>, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        match folder.tree.get(path).map(|node| &node.body) {
            Some(Body::Symlink(target)) => Ok(target.clone()),
            _ => Err(DiskError::Changed),
        }
    }

    fn read(&mut self, path: &RelPath, stat: &Stat) -> Result<Reading, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        folder.expect(path, Some(stat))?;
        match folder.tree.get(path).map(|node| &node.body) {
            Some(Body::File(bytes)) => {
                Ok(Reading { content: content_of(bytes), stat: *stat, mtime_ns: stat.mtime_ns, cut: false })
            }
            _ => Err(DiskError::Changed),
        }
    }

    fn read_chunk(&mut self, path: &RelPath, offset: u64, chunk: &Chunk) -> Result<Option<Blob>, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        let Some(Body::File(bytes)) = folder.tree.get(path).map(|node| &node.body) else { return Ok(None) };
        let found = slice(bytes, offset, chunk.length);
        Ok(found.and_then(|bytes| Blob::named(bytes, &chunk.hash)))
    }

    fn stage_read(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<Option<Vec<u8>>, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        let Some(Body::File(bytes)) = folder.stages.get(path).map(|node| &node.body) else { return Ok(None) };
        Ok(slice(bytes, offset, length))
    }

    fn stage_write(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let folder = &mut *self.0.borrow_mut();
        let start = usize::try_from(offset).expect("the session target offers small files");
        let stage = folder.stage(path);
        stage.resize(stage.len().max(start + bytes.len()), 0);
        stage[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn stage_seal(
        &mut self,
        path: &RelPath,
        size: u64,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<(), DiskError> {
        let folder = &mut *self.0.borrow_mut();
        let size = usize::try_from(size).expect("the session target offers small files");
        folder.stage(path).resize(size, 0);
        let node = folder.stages.get_mut(path).expect("the stage was just resized");
        (node.attributes, node.mtime_ns) = (attributes.clone(), mtime_ns);
        Ok(())
    }

    fn stage_symlink(
        &mut self,
        path: &RelPath,
        target: &[u8],
        owner: Option<Owner>,
    ) -> Result<(), DiskError> {
        let folder = &mut *self.0.borrow_mut();
        let attributes = Attributes { owner, ..Attributes::of_mode(0o777) };
        let node = folder.node(Body::Symlink(target.to_vec()), attributes, 0);
        folder.stages.insert(path.clone(), node);
        Ok(())
    }

    fn stage_sync(&mut self, _: &[RelPath]) -> Result<(), DiskError> {
        Ok(())
    }

    fn stage_discard(&mut self, path: &RelPath) -> Result<(), DiskError> {
        let folder = &mut *self.0.borrow_mut();
        folder.stages.remove(path);
        Ok(())
    }

    fn publish(&mut self, stage: &RelPath, to: &RelPath, expect: Option<&Stat>) -> Result<Stat, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        folder.parent_exists(to)?;
        folder.expect(to, expect)?;
        if expect.is_some_and(|stat| stat.kind == FileKind::Dir) {
            return Err(DiskError::NotEmpty);
        }
        let staged = folder.stages.remove(stage).expect("only what was staged is published");
        let node = folder.node(staged.body, staged.attributes, staged.mtime_ns);
        folder.tree.insert(to.clone(), node.clone());
        Ok(node.stat())
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        let folder = &mut *self.0.borrow_mut();
        folder.expect(from, Some(expect))?;
        folder.parent_exists(to)?;
        if folder.tree.contains_key(to) {
            return Err(DiskError::Taken);
        }
        let moving: Vec<_> =
            folder.tree.keys().filter(|path| *path == from || path.is_below(from)).cloned().collect();
        for path in moving {
            let suffix = &path.as_bytes()[from.as_bytes().len()..];
            let target = RelPath::new([to.as_bytes(), suffix].concat()).expect("as deep as an indexed path");
            let node = folder.tree.remove(&path).expect("it was just listed");
            folder.tree.insert(target, node);
        }
        Ok(())
    }

    fn adjust(
        &mut self,
        path: &RelPath,
        expect: &Stat,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<Stat, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        folder.expect(path, Some(expect))?;
        folder.clock_ns += 1;
        let ctime_ns = folder.clock_ns;
        let node = folder.tree.get_mut(path).ok_or(DiskError::Changed)?;
        (node.attributes, node.mtime_ns, node.ctime_ns) = (attributes.clone(), mtime_ns, ctime_ns);
        Ok(node.stat())
    }

    fn make_dir(&mut self, path: &RelPath, attributes: &Attributes) -> Result<Stat, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        folder.parent_exists(path)?;
        if folder.tree.get(path).is_some_and(|node| !matches!(node.body, Body::Dir)) {
            return Err(DiskError::Changed);
        }
        let node = folder.node(Body::Dir, attributes.clone(), 0);
        folder.tree.insert(path.clone(), node.clone());
        Ok(node.stat())
    }

    fn remove(&mut self, path: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        let folder = &mut *self.0.borrow_mut();
        folder.expect(path, Some(expect))?;
        if folder.has_children(path) {
            return Err(DiskError::NotEmpty);
        }
        folder.tree.remove(path);
        Ok(())
    }

    fn keep(&mut self, path: &RelPath, to: &Keep) -> Result<String, DiskError> {
        let folder = &mut *self.0.borrow_mut();
        let kept = folder.tree.get(path).cloned().ok_or(DiskError::Changed)?;
        match to {
            Keep::Beside(beside) => {
                folder.parent_exists(beside)?;
                if folder.tree.get(beside).is_some_and(|node| node.ino != kept.ino) {
                    return Err(DiskError::Io { what: "keep", reason: "the name is taken".to_owned() });
                }
                folder.tree.insert(beside.clone(), kept);
                Ok(beside.to_string())
            }
            Keep::Aside(name) => {
                folder.aside.push(kept);
                Ok(format!("{name}/{path}"))
            }
        }
    }

    fn sync_tree(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}
