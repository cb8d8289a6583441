//! How a folder's directory reads its databases: as cuts, never as files.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Mode, fchmod, fsync};
use rustix::time::{ClockId, clock_gettime};

use super::database::{self, Cuts, Opened, Source};
use super::disk::RealDisk;
use super::reading::Unsynced;
use super::state::stage_name;
use super::tree::{create, dead, failed};
use crate::disk::{DiskError, FileKind, Reading, Stat};
use crate::path::RelPath;

impl RealDisk {
    /// Looks at a database with what reads its bytes as of the last cut.
    pub(super) fn with_database<T>(
        &mut self,
        path: &RelPath,
        file: &File,
        look: impl FnOnce(&mut Cuts, &Source<'_>) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let place = self.tree.place(path)?;
        let copy = self.state.join("cuts").join(stage_name(path));
        look(&mut self.cuts, &Source { dir: place.dir.as_fd(), name: place.name, file, copy: &copy })
    }

    /// Takes a cut of a database.
    pub(super) fn read_database(&mut self, path: &RelPath, file: &Arc<File>) -> Result<Reading, DiskError> {
        let place = self.tree.place(path)?;
        let mut before = self.full_stat(&place.dir, place.name)?.ok_or(DiskError::Changed)?;
        let (content, log, quiet) = self.with_database(path, file, |cuts, source| {
            let quiet = source.is_quiet()?;
            Ok((cuts.cut(path, source)?, source.log()?.map(|(log, _)| log), quiet))
        })?;
        if !quiet {
            // As in `as_seen`: a later commit could bear the same times.
            before.ctime_ns = 0;
        }
        self.read.insert(path.clone(), Unsynced::Database(Arc::clone(file), log));
        // Whatever was committed after `before` was taken has changed the fingerprint, and is seen next time.
        Ok(Reading { content, mtime_ns: before.mtime_ns, stat: before, cut: true })
    }

    /// See [`crate::disk::Disk::shows_changes`].
    pub(super) fn is_settled(&mut self, path: &RelPath, stat: &Stat) -> Result<bool, DiskError> {
        let coarse = clock_gettime(ClockId::RealtimeCoarse);
        let now_ns = coarse.tv_sec.saturating_mul(1_000_000_000).saturating_add(coarse.tv_nsec);
        if stat.side == 0 {
            return Ok(stat.mtime_ns.max(stat.ctime_ns) < now_ns);
        }
        let place = self.tree.place(path)?;
        Ok(stat.mtime_ns.max(database::side_mtime_ns(&place.dir, place.name)?) < now_ns)
    }

    /// A database with a kept descriptor, if one stands there.
    pub(super) fn database(&mut self, path: &RelPath) -> Result<Option<Arc<File>>, DiskError> {
        let stat = match self.tree.stat(path) {
            Ok(Some(stat)) if stat.kind == FileKind::File && stat.size > 0 => stat,
            Ok(_) | Err(DiskError::NoParent) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.databases.open(&self.tree, path, &stat) {
            Ok(Opened::Database(file)) => Ok(Some(file)),
            Ok(Opened::Plain(_)) | Err(DiskError::Changed) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a database as of its last cut into a file of its own in the staging directory, durably.
    pub(super) fn write_whole(&mut self, path: &RelPath, name: &str, mode: u32) -> Result<(), DiskError> {
        let stat = self.tree.stat(path)?.ok_or(DiskError::Changed)?;
        let Opened::Database(file) = self.databases.open(&self.tree, path, &stat)? else {
            return Err(DiskError::Changed);
        };
        let mut target = create(&self.staging, name)?;
        self.with_database(path, &file, |cuts, source| {
            if !cuts.has(path) {
                cuts.cut(path, source)?;
            }
            cuts.write(path, source, &mut target)
        })?;
        fchmod(&target, Mode::from_raw_mode(mode)).map_err(|error| failed("set permissions", error))?;
        fsync(&target).map_err(dead)
    }
}
