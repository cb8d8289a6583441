//! What stands at a path, and where a step is to be done that expects something there.

use std::os::fd::AsFd;

use rustix::fs::readlinkat;

use super::database;
use super::disk::RealDisk;
use super::state::is_same_root;
use super::tree::{Place, stat_in};
use crate::disk::{DiskError, FileKind, Stat};
use crate::path::RelPath;

impl RealDisk {
    /// See [`crate::disk::Disk::check_root`].
    pub(super) fn root_stands(&self) -> Result<(), DiskError> {
        if !is_same_root(&self.root, self.tree.fd()) {
            return Err(DiskError::Root(format!(
                "{} is not there any more, or another directory is mounted over it",
                self.root.display()
            )));
        }
        match stat_in(&self.marker, b"marker")? {
            Some(_) => Ok(()),
            None => Err(DiskError::Root(format!("the marker in {}/.syncfs is gone", self.root.display()))),
        }
    }

    /// See [`crate::disk::Disk::link_target`].
    pub(super) fn target_of(&self, path: &RelPath) -> Result<Vec<u8>, DiskError> {
        let place = self.tree.place(path)?;
        let target = readlinkat(&place.dir, place.name, Vec::new()).map_err(|_| DiskError::Changed)?;
        Ok(target.into_bytes())
    }

    /// The fingerprint of an entry, side files included; `None` for a side file itself.
    pub(super) fn full_stat(&mut self, dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>, DiskError> {
        let Some(mut stat) = stat_in(&dir, name)? else { return Ok(None) };
        if stat.kind == FileKind::File {
            stat.side = database::side_print(&dir, name)?;
        }
        Ok(Some(stat))
    }

    /// Side files count only where the main file is a database.
    pub(super) fn settle_side(&mut self, path: &RelPath, stat: &mut Stat) {
        if stat.side != 0 && !self.databases.is_database(&self.tree, path, stat) {
            stat.side = 0;
        }
    }

    /// What stands at the place of a path.
    pub(super) fn stat_at(&mut self, place: &Place<'_>, path: &RelPath) -> Result<Option<Stat>, DiskError> {
        if self.databases.is_side(&self.tree, &place.dir, path) {
            return Ok(None);
        }
        let mut stat = self.full_stat(&place.dir, place.name)?;
        if let Some(stat) = &mut stat {
            self.settle_side(path, stat);
        }
        Ok(stat)
    }

    /// Where a replacement or removal is to be done, if that finds there what it must.
    pub(super) fn place_of<'a>(
        &mut self,
        path: &'a RelPath,
        expect: Option<&Stat>,
    ) -> Result<Place<'a>, DiskError> {
        let place = match self.tree.place(path) {
            Err(DiskError::NoParent) if expect.is_some() => return Err(DiskError::Changed),
            other => other?,
        };
        let now = self.stat_at(&place, path)?;
        let same = match (&now, expect) {
            (Some(now), Some(expect)) if now.kind == FileKind::Dir => expect.kind == FileKind::Dir,
            (now, expect) => now.as_ref() == expect,
        };
        if same { Ok(place) } else { Err(DiskError::Changed) }
    }
}
