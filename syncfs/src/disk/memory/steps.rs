//! The steps of an engine on a folder in memory.

use std::collections::BTreeSet;

use crate::branch::What;
use crate::chunk::content_of;
use crate::cutting::Group;
use crate::disk::{Disk, DiskError, FileKind, Keep, Listing, Reading, Replaced, Run, Stat};
use crate::hash::{Blob, ContentHash};
use crate::path::RelPath;
use crate::record::{Attributes, CAPABILITY, Chunk, Content, Owner, Xattrs};

use super::filesystem::Ino;
use super::{Fault, MemoryDisk, Space, State};

const SYNC: &str = "sync";
const NO_SPACE: &str = "no space left on device";

impl State {
    pub(super) fn alive(&self) -> Result<(), DiskError> {
        match self.dead {
            Some((why, _)) => Err(DiskError::Dead(why.to_owned())),
            None if self.missing => Err(DiskError::Root("the directory is not there".to_owned())),
            None => Ok(()),
        }
    }

    /// Whether the step may be done.
    pub(super) fn step(&mut self, what: &'static str) -> Result<(), DiskError> {
        self.alive()?;
        self.steps += 1;
        if self.cut_at == Some(what) {
            self.faults.insert(self.steps, Fault::Power);
        }
        match self.faults.remove(&self.steps) {
            None => Ok(()),
            Some(Fault::Power) => {
                self.dead = Some(("power cut", what));
                self.alive()
            }
            Some(Fault::Sync) if what == SYNC => {
                self.dead = Some((super::SYNC_FAILED, what));
                Ok(())
            }
            Some(fault @ Fault::Sync) => self.postpone(fault),
            Some(fault @ (Fault::Io | Fault::Full)) if what == SYNC => self.postpone(fault),
            Some(Fault::Io) => Err(DiskError::Io { what, reason: "input/output error".to_owned() }),
            Some(Fault::Full) => Err(DiskError::Full { what, reason: NO_SPACE.to_owned() }),
            Some(Fault::Program(act)) => {
                self.act(act);
                Ok(())
            }
        }
    }

    fn postpone(&mut self, fault: Fault) -> Result<(), DiskError> {
        self.faults.entry(self.steps + 1).or_insert(fault);
        Ok(())
    }

    /// A sync, which no engine survives if it fails. Whether it did not.
    pub(super) fn sync(&mut self) -> Result<bool, DiskError> {
        self.step(SYNC).map(|()| self.dead.is_none())
    }

    fn readable(&self, path: &RelPath) -> Result<(), DiskError> {
        self.alive()?;
        let hit = |bad: &RelPath| bad == path || path.is_below(bad);
        match self.unreadable.iter().any(hit) {
            true => Err(DiskError::Io { what: "read", reason: "input/output error".to_owned() }),
            false => Ok(()),
        }
    }

    pub(super) fn expected(&self, path: &RelPath, expect: &Stat) -> Result<Ino, DiskError> {
        let stands = self.files.stat(path)?;
        stands.filter(|stat| stat == expect).map(|stat| stat.ino).ok_or(DiskError::Changed)
    }

    fn stage(&self, path: &RelPath) -> Result<Ino, DiskError> {
        let lost = DiskError::Io { what: "open a stage", reason: "there is none".to_owned() };
        self.files.named(Space::Stage, path.as_bytes()).ok_or(lost)
    }

    fn chunk(&self, path: &RelPath, offset: u64, chunk: &Chunk) -> Result<Option<Blob>, DiskError> {
        self.readable(path)?;
        if let Some(blob) = self.logged(path, offset, chunk) {
            return Ok(Some(blob));
        }
        let Ok(Some(ino)) = self.files.find(path) else { return Ok(None) };
        let bytes = part(&self.files.inode(ino).body.data, offset, chunk.length);
        Ok(bytes.and_then(|bytes| Blob::named(bytes, &chunk.hash)))
    }
}

fn part(data: &[u8], offset: u64, length: u32) -> Option<Vec<u8>> {
    let from = usize::try_from(offset).ok()?;
    data.get(from..from.checked_add(length as usize)?).map(<[u8]>::to_vec)
}

impl Disk for MemoryDisk {
    fn check_root(&mut self) -> Result<(), DiskError> {
        self.0.borrow().alive()
    }

    fn stat(&mut self, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.look();
        state.readable(path)?;
        state.files.stat(path)
    }

    fn list(&mut self, dir: Option<&RelPath>) -> Result<Listing, DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.look();
        state.alive()?;
        let (ino, above) = match dir {
            None => (Space::Tree.root(), Vec::new()),
            Some(dir) => {
                state.readable(dir)?;
                let found = state.files.find(dir)?.filter(|ino| state.files.is_dir(*ino));
                (found.ok_or(DiskError::Changed)?, [dir.as_bytes(), b"/"].concat())
            }
        };
        state.files.watch.add(ino, dir.is_none());
        let mut entries = Vec::new();
        for (name, ino) in &state.files.inode(ino).entries {
            let path =
                RelPath::new([&above[..], name].concat()).expect("entries are only made at valid paths");
            state.readable(&path)?;
            entries.push((path, state.files.stat_of(*ino)));
        }
        Ok(Listing { entries, problems: Vec::new() })
    }

    fn is_root(&self) -> bool {
        self.0.borrow().files.able.is_root
    }

    fn xattrs(&mut self, path: &RelPath, stat: &Stat) -> Result<(Option<Xattrs>, Stat), DiskError> {
        let state = self.0.borrow();
        state.readable(path)?;
        let ino = state.files.find(path)?.ok_or(DiskError::Changed)?;
        let able = state.files.able;
        let mut xattrs = state.files.inode(ino).body.attributes.xattrs.clone();
        xattrs.retain(|name, _| able.is_root || name.as_slice() != CAPABILITY);
        Ok((able.has_xattrs.then_some(xattrs), *stat))
    }

    fn link_target(&mut self, path: &RelPath) -> Result<Vec<u8>, DiskError> {
        let state = self.0.borrow();
        state.readable(path)?;
        let inode = state.files.find(path)?.map(|ino| state.files.inode(ino));
        let link = inode.filter(|inode| inode.kind == FileKind::Symlink).ok_or(DiskError::Changed)?;
        Ok(link.body.data.clone())
    }

    fn read(&mut self, path: &RelPath, stat: &Stat, _: Option<&Content>) -> Result<Reading, DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.look();
        state.readable(path)?;
        let expected = state.expected(path, stat)?;
        let ino = state.files.write_again(path, expected)?;
        let stat = if ino == expected { *stat } else { state.files.stat_of(ino) };
        let inode = state.files.inode(ino);
        if inode.kind != FileKind::File {
            return Err(DiskError::Changed);
        }
        let content = content_of(&inode.body.data);
        for (offset, chunk) in content.placed() {
            let bytes = part(&inode.body.data, offset, chunk.length).expect("the chunks are of these bytes");
            state.archive.insert(chunk.hash, bytes);
        }
        state.read.insert(ino);
        Ok(Reading { content, stat, mtime_ns: stat.mtime_ns, cut: false })
    }

    fn noticed(&mut self, group: &Group) -> Option<BTreeSet<RelPath>> {
        let state = &mut *self.0.borrow_mut();
        state.look();
        state.noticed(group)
    }

    fn read_chunk(&mut self, path: &RelPath, offset: u64, chunk: &Chunk) -> Result<Option<Blob>, DiskError> {
        self.0.borrow().chunk(path, offset, chunk)
    }

    fn patch(
        &mut self,
        path: &RelPath,
        offset: u64,
        chunk: &Chunk,
        basis: &ContentHash,
    ) -> Result<Option<Vec<Run>>, DiskError> {
        let state = self.0.borrow();
        let (Some(now), Some(before)) = (state.chunk(path, offset, chunk)?, state.archive.get(basis)) else {
            return Ok(None);
        };
        let (offsets, bytes) = (0_u32.., now.bytes());
        let changed = offsets.zip(bytes).filter(|(at, byte)| before.get(*at as usize) != Some(byte));
        Ok(Some(changed.map(|(offset, byte)| Run { offset, bytes: vec![*byte] }).collect()))
    }

    fn stage_read(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<Option<Vec<u8>>, DiskError> {
        let state = self.0.borrow();
        state.alive()?;
        let stage = state.files.named(Space::Stage, path.as_bytes());
        Ok(stage.and_then(|ino| part(&state.files.inode(ino).body.data, offset, length)))
    }

    fn stage_write(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("write a stage")?;
        let max = state.files.able.file_bytes_max;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        if end > max {
            return Err(DiskError::Io {
                what: "write a stage",
                reason: "no space left on device".to_owned(),
            });
        }
        let named = state.files.named(Space::Stage, path.as_bytes());
        let ino = match named.filter(|ino| state.files.inode(*ino).kind == FileKind::File) {
            Some(ino) => ino,
            None => {
                let ino = state.files.new_inode(FileKind::File, Vec::new(), Attributes::of_mode(0o600));
                state.files.change(vec![(Space::Stage.root(), path.as_bytes().to_vec(), Some(ino))]);
                ino
            }
        };
        let data = &mut state.files.dirty(ino).body.data;
        data.resize(data.len().max(end), 0);
        data[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn stage_seal(
        &mut self,
        path: &RelPath,
        size: u64,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("seal a stage")?;
        let ino = state.stage(path)?;
        state.files.give(ino, attributes);
        let body = &mut state.files.inode_mut(ino).body;
        body.data.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        body.mtime_ns = mtime_ns;
        Ok(())
    }

    fn stage_symlink(
        &mut self,
        path: &RelPath,
        target: &[u8],
        owner: Option<Owner>,
    ) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("stage a symlink")?;
        let is_root = state.files.able.is_root;
        let attributes = Attributes { owner: owner.filter(|_| is_root), ..Attributes::of_mode(0o777) };
        let ino = state.files.new_inode(FileKind::Symlink, target.to_vec(), attributes);
        state.files.change(vec![(Space::Stage.root(), path.as_bytes().to_vec(), Some(ino))]);
        Ok(())
    }

    fn stage_sync(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        for path in paths {
            let synced = state.sync()?;
            let ino = state.stage(path)?;
            state.files.sync_inode(ino, !synced);
            state.alive()?;
        }
        Ok(())
    }

    fn stage_discard(&mut self, path: &RelPath) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("remove a stage")?;
        if state.stage(path).is_ok() {
            state.files.change(vec![(Space::Stage.root(), path.as_bytes().to_vec(), None)]);
        }
        Ok(())
    }

    fn takes_delta(&mut self, path: &RelPath, seen: &Stat) -> Result<bool, DiskError> {
        Ok(self.0.borrow().takes_delta(path, seen))
    }

    fn delta_reset(&mut self, path: &RelPath, mark: u64) -> Result<bool, DiskError> {
        self.0.borrow_mut().reset_log(path, mark)
    }

    fn delta_sweep(&mut self) -> Result<(), DiskError> {
        self.0.borrow_mut().sweep_logs()
    }

    fn delta_write(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.borrow_mut().write_log(path, offset, bytes)
    }

    fn delta_seal(&mut self, path: &RelPath) -> Result<u64, DiskError> {
        self.0.borrow_mut().seal_log(path)
    }

    fn delta_sync(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        self.0.borrow_mut().sync_logs(paths)
    }

    fn publish(&mut self, stage: &RelPath, to: &RelPath, expect: Option<&Stat>) -> Result<Stat, DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("rename a stage")?;
        let (dir, name) = state.files.place(to)?;
        let stands = state.files.stat(to)?;
        if stands.is_some_and(|stat| stat.kind == FileKind::Dir) {
            return Err(DiskError::NotEmpty);
        }
        if stands.as_ref() != expect {
            return Err(DiskError::Changed);
        }
        let ino = state.stage(stage)?;
        let now = state.files.tick();
        let inode = state.files.inode_mut(ino);
        (inode.body.ctime_ns, inode.published) = (now, true);
        let from = (Space::Stage.root(), stage.as_bytes().to_vec(), None);
        state.files.change(vec![from, (dir, name, Some(ino))]);
        Ok(state.files.stat_of(ino))
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("rename")?;
        let (old, new) = (state.files.place(from)?, state.files.place(to)?);
        let ino = state.expected(from, expect)?;
        if state.files.stat(to)?.is_some() {
            return Err(DiskError::Taken);
        }
        let now = state.files.tick();
        state.files.inode_mut(ino).body.ctime_ns = now;
        state.files.change(vec![(old.0, old.1, None), (new.0, new.1, Some(ino))]);
        Ok(())
    }

    fn replace(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        expect_from: &Stat,
        expect_to: Option<&Stat>,
    ) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("rename over")?;
        let (old, new) = (state.files.place(from)?, state.files.place(to)?);
        let ino = state.expected(from, expect_from)?;
        let stands = state.files.stat(to)?;
        if stands.is_some_and(|stat| stat.kind == FileKind::Dir) {
            return Err(DiskError::NotEmpty);
        }
        if stands.as_ref() != expect_to {
            return Err(DiskError::Changed);
        }
        let now = state.files.tick();
        state.files.inode_mut(ino).body.ctime_ns = now;
        state.files.change(vec![(old.0, old.1, None), (new.0, new.1, Some(ino))]);
        Ok(())
    }

    fn make_dir(&mut self, path: &RelPath, attributes: &Attributes) -> Result<Stat, DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("make a directory")?;
        let (dir, name) = state.files.place(path)?;
        let ino = match state.files.stat(path)? {
            Some(stat) if stat.kind != FileKind::Dir => return Err(DiskError::Changed),
            Some(stat) => stat.ino,
            None => {
                let ino = state.files.new_inode(FileKind::Dir, Vec::new(), Attributes::of_mode(0o700));
                state.files.change(vec![(dir, name, Some(ino))]);
                ino
            }
        };
        state.files.give(ino, attributes);
        Ok(state.files.stat_of(ino))
    }

    fn adjust(
        &mut self,
        path: &RelPath,
        expect: &Stat,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<Stat, DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("change attributes")?;
        let ino = state.expected(path, expect)?;
        state.files.give(ino, attributes);
        state.files.inode_mut(ino).body.mtime_ns = mtime_ns;
        Ok(state.files.stat_of(ino))
    }

    fn remove(&mut self, path: &RelPath, expect: &Stat) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        state.step("remove")?;
        let (dir, name) = state.files.place(path)?;
        match state.files.stat(path)? {
            Some(stat) if stat.kind == FileKind::Dir && expect.kind == FileKind::Dir => {
                if !state.files.inode(stat.ino).entries.is_empty() {
                    return Err(DiskError::NotEmpty);
                }
            }
            Some(stat) if stat == *expect => {}
            _ => return Err(DiskError::Changed),
        }
        state.files.change(vec![(dir, name, None)]);
        Ok(())
    }

    fn keep(&mut self, path: &RelPath, to: &Keep) -> Result<String, DiskError> {
        self.0.borrow_mut().keep(path, to)
    }

    fn kept_aside(&mut self) -> Result<Vec<(String, RelPath)>, DiskError> {
        self.0.borrow().kept_aside()
    }

    fn read_aside(&mut self, folder: &str, path: &RelPath) -> Result<Option<What>, DiskError> {
        self.0.borrow().read_aside(folder, path)
    }

    fn copy_back(
        &mut self,
        folder: &str,
        path: &RelPath,
        to: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<(), DiskError> {
        self.0.borrow_mut().copy_back(folder, path, to, expect)
    }

    fn drop_aside(&mut self, folder: &str) -> Result<(), DiskError> {
        self.0.borrow_mut().drop_aside(folder)
    }

    fn now_ns(&self) -> i64 {
        self.0.borrow().files.now_ns()
    }

    fn chance(&mut self) -> Result<u64, DiskError> {
        Ok(self.0.borrow_mut().chance())
    }

    fn keeps_history(&self) -> bool {
        self.0.borrow().files.able.keeps_history
    }

    fn retain(&mut self, replaced: &[Replaced], always: bool) -> Result<Vec<Option<Stat>>, DiskError> {
        self.0.borrow_mut().retain(replaced, always)
    }

    fn sync_tree(&mut self) -> Result<(), DiskError> {
        let state = &mut *self.0.borrow_mut();
        let synced = state.sync()?;
        for ino in std::mem::take(&mut state.read) {
            state.files.sync_inode(ino, !synced);
        }
        if synced {
            state.files.sync_names();
        }
        state.alive()
    }
}
