//! Stages: files in the state directory in which a version comes together before it becomes visible.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, Mode, OFlags, chmodat, fstatvfs, fsync, ftruncate, futimens, openat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::attributes;
use super::disk::{GROUP_SYNC, RealDisk};
use super::sparse;
use super::state::stage_name;
use super::tree::{dead, failed, stat_in, times};
use crate::config::MinFree;
use crate::disk::{DiskError, FileKind};
use crate::path::RelPath;
use crate::record::{Attributes, Owner};

impl RealDisk {
    fn open_stage(&mut self, path: &RelPath) -> Result<&File, DiskError> {
        if self.stage.as_ref().is_none_or(|(open, _)| open != path) {
            let name = stage_name(path);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let open = || openat(&self.staging, &name, flags, Mode::from_raw_mode(0o600));
            let file = match open() {
                // It was sealed with a mode that keeps its owner out.
                Err(Errno::ACCESS) => {
                    let _ = chmodat(&self.staging, &name, Mode::from_raw_mode(0o600), AtFlags::empty());
                    open()
                }
                // It was a symlink for an earlier version.
                Err(Errno::LOOP) => {
                    let _ = unlinkat(&self.staging, &name, AtFlags::empty());
                    open()
                }
                other => other,
            };
            self.stage =
                Some((path.clone(), File::from(file.map_err(|error| failed("create a stage", error))?)));
        }
        Ok(self.stage.as_ref().map(|(_, file)| file).expect("it was just put there"))
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
        if stat_in(&self.staging, stage_name(path).as_bytes())?.is_none_or(|stat| stat.kind != FileKind::File)
        {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        Ok(self.open_stage(path)?.read_exact_at(&mut bytes, offset).is_ok().then_some(bytes))
    }

    pub(super) fn write_stage(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        sparse::write(self.open_stage(path)?, offset, bytes).map_err(|error| failed("write a stage", error))
    }

    pub(super) fn clear_stage(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<(), DiskError> {
        let cleared = sparse::clear(self.open_stage(path)?, offset, u64::from(length));
        cleared.map_err(|error| failed("write a stage", error))
    }

    pub(super) fn seal_stage(
        &mut self,
        path: &RelPath,
        size: u64,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<(), DiskError> {
        let file = self.open_stage(path)?;
        ftruncate(file, size).map_err(|error| failed("cut a stage to size", error))?;
        attributes::apply(file, attributes)?;
        futimens(file, &times(mtime_ns)).map_err(|error| failed("set the modification time", error))?;
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
        match unlinkat(&self.staging, stage_name(path), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove a stage", error)),
        }
    }
}
