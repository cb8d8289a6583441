//! What a life of the folder that ended in a failure leaves to the next one in the same process.
//!
//! After a failed sync the kernel takes the pages for written: reading them back shows what is not on the platter, and
//! another sync succeeds without writing anything. So nothing of it is trusted: stages are fetched anew, and a user's file
//! whose sync failed is copied, from what can still be read of it, into a fresh one that takes its place, before its
//! version is told to anyone. A file with several names cannot be replaced so; it stays untold, and a person is told,
//! until it is written again. A database is its application's: that gets the error from its own sync.

use std::collections::BTreeSet;
use std::fs::File;

use rustix::fs::{Advice, AtFlags, Dir, Mode, OFlags, fadvise, openat, renameat, unlinkat};

use super::attributes;
use super::disk::RealDisk;
use super::sparse::copy;
use super::state::stage_name;
use super::tree::{create, failed};
use crate::disk::{DiskError, Stat};
use crate::path::RelPath;

/// What the next life must not trust.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    /// Stages are not what they look like.
    sync_failed: bool,
    /// Contents of users' files that a failed sync may have dropped.
    pub(super) suspects: BTreeSet<RelPath>,
    /// The index contradicts itself, even if it looks well when it is opened.
    pub(super) index_is_damaged: bool,
}

impl RealDisk {
    pub(super) fn aftermath(self, sync_failed: bool) -> Aftermath {
        Aftermath { sync_failed, suspects: self.suspects, index_is_damaged: false }
    }

    /// Makes sure that what a stage of an earlier life says is what the disk has.
    pub(super) fn distrust_stages(&self, aftermath: &Aftermath) -> Result<(), DiskError> {
        let stages = Dir::read_from(&self.staging).map_err(|error| failed("list the stages", error))?;
        for stage in stages.flatten().filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")) {
            if aftermath.sync_failed {
                unlinkat(&self.staging, stage.file_name(), AtFlags::empty())
                    .map_err(|error| failed("remove a stage", error))?;
                continue;
            }
            // Pages that a failed sync of an earlier process left are forgotten, as far as the kernel does that.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(stage) = openat(&self.staging, stage.file_name(), flags, Mode::empty()) {
                let _ = fadvise(stage, 0, None, Advice::DontNeed);
            }
        }
        Ok(())
    }

    /// Puts a fresh copy in the place of a file whose sync failed. Returns what stands there then.
    pub(super) fn write_again(
        &mut self,
        path: &RelPath,
        file: &File,
        stat: &Stat,
    ) -> Result<Stat, DiskError> {
        if stat.nlink > 1 {
            return Err(DiskError::Io {
                what: "make its content durable",
                reason: "a sync of it failed, and it has other names too: write it again".to_owned(),
            });
        }
        let name = stage_name(path) + "-again";
        let fresh = create(&self.staging, &name)?;
        copy(file, &fresh).map_err(|error| failed("copy a file", error))?;
        attributes::finish_copy(&fresh, file, stat)?;
        let place = self.place_of(path, Some(stat))?;
        renameat(&self.staging, &name, &place.dir, place.name)
            .map_err(|error| failed("rename into place", error))?;
        self.touch(path);
        self.suspects.remove(path);
        self.full_stat(&place.dir, place.name)?.ok_or(DiskError::Changed)
    }
}
