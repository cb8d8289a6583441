//! Stages: files in the state directory in which a version comes together before it becomes visible.

use std::collections::BTreeSet;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{
    Advice, AtFlags, Dir, Mode, OFlags, chmodat, fadvise, fstat, fstatvfs, fsync, ftruncate, futimens,
    openat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::attributes;
use super::disk::{GROUP_SYNC, RealDisk};
use super::sparse;
use super::state::stage_name;
use super::tree::{convert, dead, failed, stat_in, times};
use crate::config::MinFree;
use crate::disk::{DiskError, FileKind, Stat};
use crate::path::RelPath;
use crate::record::{Attributes, Owner};

/// From so many bytes on, what was written to a stage is sent on its way to the disk.
const WRITE_BACK_BYTES: u64 = 8 << 20;

/// The stage that was last used.
#[derive(Debug)]
pub(super) struct OpenStage {
    path: RelPath,
    file: File,
    /// It was made just now and given nothing yet.
    fresh: bool,
    /// What was written last, in one piece, and not yet sent on its way to the disk.
    dirty: Range<u64>,
}

/// The stages that there are: most paths have none, and asking the system each time would cost more than the list.
#[derive(Debug)]
pub(super) struct Stages(BTreeSet<String>);

impl Stages {
    /// Those that an earlier run left.
    pub(super) fn left_in(staging: impl AsFd) -> Result<Self, DiskError> {
        let list = Dir::read_from(staging).map_err(|error| failed("list the stages", error))?;
        let names = list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(Self(names.collect()))
    }

    /// It was renamed into place.
    pub(super) fn published(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl RealDisk {
    fn open_stage(&mut self, path: &RelPath) -> Result<&mut OpenStage, DiskError> {
        if self.stage.as_ref().is_none_or(|stage| stage.path != *path) {
            let name = stage_name(path);
            let mut fresh = self.stages.0.insert(name.clone());
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let open = |more| openat(&self.staging, &name, flags | more, Mode::from_raw_mode(0o600));
            let file = match open(if fresh { OFlags::EXCL } else { OFlags::empty() }) {
                Err(Errno::EXIST) => {
                    fresh = false;
                    open(OFlags::empty())
                }
                // It was sealed with a mode that keeps its owner out.
                Err(Errno::ACCESS) => {
                    let _ = chmodat(&self.staging, &name, Mode::from_raw_mode(0o600), AtFlags::empty());
                    open(OFlags::empty())
                }
                // It was a symlink for an earlier version.
                Err(Errno::LOOP) => {
                    let _ = unlinkat(&self.staging, &name, AtFlags::empty());
                    open(OFlags::empty())
                }
                other => other,
            };
            let file = File::from(file.map_err(|error| failed("create a stage", error))?);
            self.stage = Some(OpenStage { path: path.clone(), file, fresh, dirty: 0..0 });
        }
        Ok(self.stage.as_mut().expect("it was just put there"))
    }

    pub(super) fn look_for_room(&self) -> Result<(), DiskError> {
        let disk = fstatvfs(&self.staging).map_err(|error| failed("look for room", error))?;
        let (free, size) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        let reserve = match self.min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => (size as f64 * percent / 100.0) as u64,
        };
        if free >= reserve {
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        let reason =
            format!("{} MiB of {} are free, and {} are to stay free", mib(free), mib(size), mib(reserve));
        Err(DiskError::Full { what: "fetch from peers", reason })
    }

    pub(super) fn read_stage(
        &mut self,
        path: &RelPath,
        offset: u64,
        length: u32,
    ) -> Result<Option<Vec<u8>>, DiskError> {
        let open = self.stage.as_ref().is_some_and(|stage| stage.path == *path);
        if !open {
            let name = stage_name(path);
            let is_file = |stat: Stat| stat.kind == FileKind::File;
            if !self.stages.0.contains(&name)
                || !stat_in(&self.staging, name.as_bytes())?.is_some_and(is_file)
            {
                return Ok(None);
            }
        }
        let mut bytes = vec![0; length as usize];
        Ok(self.open_stage(path)?.file.read_exact_at(&mut bytes, offset).is_ok().then_some(bytes))
    }

    pub(super) fn write_stage(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let OpenStage { file, dirty, .. } = self.open_stage(path)?;
        sparse::write(file, offset, bytes).map_err(|error| failed("write a stage", error))?;
        if dirty.end != offset {
            *dirty = offset..offset;
        }
        dirty.end = offset + bytes.len() as u64;
        let length = NonZeroU64::new(dirty.end - dirty.start);
        if length.is_some_and(|length| length.get() >= WRITE_BACK_BYTES) {
            // Linux begins to write dirty pages then, and does not wait: the sync at the end finds little left.
            let _ = fadvise(&*file, dirty.start, length, Advice::DontNeed);
            dirty.start = dirty.end;
        }
        Ok(())
    }

    pub(super) fn clear_stage(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<(), DiskError> {
        let cleared = sparse::clear(&self.open_stage(path)?.file, offset, u64::from(length));
        cleared.map_err(|error| failed("write a stage", error))
    }

    pub(super) fn seal_stage(
        &mut self,
        path: &RelPath,
        size: u64,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<(), DiskError> {
        let OpenStage { file, fresh, .. } = self.open_stage(path)?;
        let stands = fstat(&*file).map_err(|error| failed("stat", error))?;
        if convert(&stands).size != size {
            ftruncate(&*file, size).map_err(|error| failed("cut a stage to size", error))?;
        }
        attributes::apply(&*file, attributes, *fresh)?;
        futimens(&*file, &times(mtime_ns)).map_err(|error| failed("set the modification time", error))?;
        self.stage = None;
        Ok(())
    }

    pub(super) fn symlink_stage(
        &mut self,
        path: &RelPath,
        target: &[u8],
        owner: Option<Owner>,
    ) -> Result<(), DiskError> {
        self.discard_stage(path)?;
        let name = stage_name(path);
        symlinkat(target, &self.staging, &name).map_err(|error| failed("create a symlink", error))?;
        self.stages.0.insert(name.clone());
        attributes::give_link(&self.staging, &name, owner)
    }

    pub(super) fn sync_stage(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        if paths.len() >= GROUP_SYNC {
            return syncfs(&self.staging).map_err(dead);
        }
        for path in paths {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(&self.staging, stage_name(path), flags, Mode::empty()) {
                Ok(file) => fsync(file).map_err(dead)?,
                // A symlink is part of its directory, which is synced with the tree.
                Err(Errno::LOOP | Errno::NOENT) => {}
                // Sealed with a mode that keeps even its owner from reading: all at once, then.
                Err(_) => syncfs(&self.staging).map_err(dead)?,
            }
        }
        Ok(())
    }

    pub(super) fn discard_stage(&mut self, path: &RelPath) -> Result<(), DiskError> {
        self.stage = None;
        let name = stage_name(path);
        if !self.stages.0.remove(&name) {
            return Ok(());
        }
        match unlinkat(&self.staging, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove a stage", error)),
        }
    }
}
