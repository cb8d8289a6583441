//! Stages: files in the state directory in which a version comes together before it becomes visible.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    Advice, AtFlags, Dir, Mode, OFlags, chmodat, fadvise, fstat, fstatvfs, fsync, ftruncate, futimens,
    openat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::attributes;
use super::direct::Writer;
use super::disk::{GROUP_SYNC, RealDisk};
use super::sparse;
use super::state::stage_name;
use super::tree::{convert, dead, failed, stat_in, times};
use crate::config::MinFree;
use crate::disk::{DiskError, FileKind, Stat};
use crate::path::RelPath;
use crate::record::{Attributes, Owner};

/// After so many bytes that follow each other, what comes behind them is written past the cache; in bytes.
const CACHED_BYTES: u64 = 8 << 20;

/// The stage that was last used.
#[derive(Debug)]
pub(super) struct OpenStage {
    pub(super) path: RelPath,
    file: File,
    /// It was made just now and given nothing yet.
    fresh: bool,
    /// It is not longer than this.
    end: u64,
    /// What was written last, in one piece.
    run: Range<u64>,
    /// Writes what follows on it.
    writer: Option<Writer>,
}

impl OpenStage {
    /// Everything that was written is in the file.
    fn rest(&mut self) -> io::Result<()> {
        self.writer.take().map_or(Ok(()), Writer::finish)
    }

    fn write(&mut self, staging: &OwnedFd, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.end = self.end.max(offset + bytes.len() as u64);
        if let Some(writer) = self.writer.as_mut().filter(|writer| writer.end() == offset) {
            writer.push(bytes);
            return Ok(());
        }
        self.rest()?;
        sparse::write(&self.file, offset, bytes)?;
        if self.run.end != offset {
            self.run = offset..offset;
        }
        self.run.end = offset + bytes.len() as u64;
        let length = NonZeroU64::new(self.run.end - self.run.start);
        if length.is_some_and(|length| length.get() >= CACHED_BYTES) {
            // Linux begins to write dirty pages then, and does not wait: the sync at the end finds little left.
            let _ = fadvise(&self.file, self.run.start, length, Advice::DontNeed);
            self.run.start = self.run.end;
            self.writer = self.pass_cache(staging)?;
        }
        Ok(())
    }

    /// For what follows; `None` where the filesystem has only the way through the cache.
    fn pass_cache(&self, staging: &OwnedFd) -> io::Result<Option<Writer>> {
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(staging, stage_name(&self.path), flags, Mode::empty()) {
            Ok(direct) => Writer::start(self.file.try_clone()?, direct.into(), self.run.end).map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// The stages that there are: most paths have none, and asking the system each time would cost more than the list.
#[derive(Debug)]
pub(super) struct Stages {
    names: BTreeSet<String>,
    /// Those that lack something that they were given, and why.
    broken: BTreeMap<String, DiskError>,
}

impl Stages {
    /// Those that an earlier run left.
    pub(super) fn left_in(staging: impl AsFd) -> Result<Self, DiskError> {
        let list = Dir::read_from(staging).map_err(|error| failed("list the stages", error))?;
        let names = list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(Self { names: names.collect(), broken: BTreeMap::new() })
    }

    /// It was renamed into place.
    pub(super) fn published(&mut self, name: &str) {
        self.names.remove(name);
    }
}

impl RealDisk {
    /// Lets go of the stage that was last used.
    pub(super) fn close_stage(&mut self) {
        if let Some(mut stage) = self.stage.take()
            && let Err(error) = stage.rest()
        {
            // Nobody asked: it is told before the stage is taken for complete.
            self.stages.broken.insert(stage_name(&stage.path), failed("write a stage", error));
        }
    }

    fn open_stage(&mut self, path: &RelPath) -> Result<&mut OpenStage, DiskError> {
        if self.stage.as_ref().is_none_or(|stage| stage.path != *path) {
            self.close_stage();
            let name = stage_name(path);
            let mut fresh = self.stages.names.insert(name.clone());
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
            let end = if fresh { 0 } else { u64::MAX };
            self.stage = Some(OpenStage { path: path.clone(), file, fresh, end, run: 0..0, writer: None });
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
            if !self.stages.names.contains(&name)
                || !stat_in(&self.staging, name.as_bytes())?.is_some_and(is_file)
            {
                return Ok(None);
            }
        }
        let stage = self.open_stage(path)?;
        if offset + u64::from(length) > stage.end {
            return Ok(None);
        }
        if stage.writer.as_ref().is_some_and(|writer| offset < writer.end()) {
            stage.rest().map_err(|error| failed("write a stage", error))?;
        }
        let mut bytes = vec![0; length as usize];
        Ok(stage.file.read_exact_at(&mut bytes, offset).is_ok().then_some(bytes))
    }

    pub(super) fn write_stage(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.open_stage(path)?;
        let stage = self.stage.as_mut().expect("it was just opened");
        stage.write(&self.staging, offset, bytes).map_err(|error| failed("write a stage", error))
    }

    pub(super) fn clear_stage(&mut self, path: &RelPath, offset: u64, length: u32) -> Result<(), DiskError> {
        let stage = self.open_stage(path)?;
        let cleared = stage.rest().and_then(|()| sparse::clear(&stage.file, offset, u64::from(length)));
        cleared.map_err(|error| failed("write a stage", error))
    }

    pub(super) fn seal_stage(
        &mut self,
        path: &RelPath,
        size: u64,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<(), DiskError> {
        self.open_stage(path)?.rest().map_err(|error| failed("write a stage", error))?;
        if let Some(error) = self.stages.broken.remove(&stage_name(path)) {
            return Err(error);
        }
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
        self.stages.names.insert(name.clone());
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
        self.stage.take_if(|stage| stage.path == *path);
        let name = stage_name(path);
        self.stages.broken.remove(&name);
        if !self.stages.names.remove(&name) {
            return Ok(());
        }
        match unlinkat(&self.staging, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove a stage", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::aftermath::Aftermath;
    use super::super::state::State;
    use super::*;
    use crate::config::Config;
    use crate::hash::noise;

    fn disk(dir: &tempfile::TempDir) -> RealDisk {
        let config = Config::new(dir.path());
        State::init(&config).unwrap();
        let (state, _, _) = State::open(&config, false).unwrap();
        RealDisk::new(&state, config.min_free, &Aftermath::default()).unwrap()
    }

    #[test]
    fn what_is_on_its_way_to_the_disk_is_read_and_not_lost_when_another_stage_has_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = disk(&dir);
        let (large, other) = (RelPath::new("large").unwrap(), RelPath::new("other").unwrap());
        let (bytes, piece) = (noise(14 << 20), 200_000);
        for (number, part) in bytes.chunks(piece).enumerate() {
            disk.write_stage(&large, (number * piece) as u64, part).unwrap();
            if number == 50 {
                let begin = 48 * piece + 7;
                let read = disk.read_stage(&large, begin as u64, 300_000).unwrap();
                assert!(read.as_deref() == Some(&bytes[begin..begin + 300_000]));
                assert_eq!(disk.read_stage(&large, (51 * piece) as u64, 1).unwrap(), None);
            }
        }
        disk.write_stage(&other, 0, b"small").unwrap();
        let read = disk.read_stage(&large, 0, bytes.len() as u32).unwrap();
        assert!(read.as_deref() == Some(&bytes[..]));
    }

    #[test]
    fn a_stage_that_lacks_what_could_not_be_written_is_not_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = disk(&dir);
        let (large, other) = (RelPath::new("large").unwrap(), RelPath::new("other").unwrap());
        disk.write_stage(&large, 0, b"x").unwrap();
        let read_only = || File::open(dir.path().join(".syncfs/staging").join(stage_name(&large))).unwrap();
        let writer = Writer::start(read_only(), read_only(), 1).unwrap();
        disk.open_stage(&large).unwrap().writer = Some(writer);
        disk.write_stage(&large, 1, b"y").unwrap();
        disk.write_stage(&other, 0, b"small").unwrap();
        let attributes = Attributes { mode: 0o644, ..Attributes::default() };
        assert!(disk.seal_stage(&large, 2, &attributes, 0).is_err());
        // It was told: what is written again is complete.
        disk.write_stage(&large, 1, b"y").unwrap();
        disk.seal_stage(&large, 2, &attributes, 0).unwrap();
    }
}
