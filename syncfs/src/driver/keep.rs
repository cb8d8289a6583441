//! Second names: how an entry is kept, aside or beside, before its place is given to another version; and how a
//! database is parted from its side files, so that no crash ever pairs an old log with a new database.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, RenameFlags, fsync, linkat, mkdirat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::database;
use super::disk::RealDisk;
use super::state::stage_name;
use super::tree::{dead, failed, stat_in, times};
use crate::disk::{DiskError, FileKind};
use crate::path::RelPath;

impl RealDisk {
    /// Replaces a live-looking database by its own standalone cut and removes its side files. The log belongs to this
    /// very content, so a crash between the two steps pairs it with nothing foreign: replaying it changes nothing.
    pub(super) fn detach_sides(&mut self, path: &RelPath) -> Result<(), DiskError> {
        let place = self.tree.place(path)?;
        let sides = database::side_names(place.name);
        let stand = |name: &Vec<u8>| stat_in(&place.dir, name).map(|stat| stat.is_some());
        if !sides.iter().map(stand).collect::<Result<Vec<_>, _>>()?.contains(&true) {
            return Ok(());
        }
        let Some(stat) = stat_in(&place.dir, place.name)? else { return Ok(()) };
        if !self.databases.is_database(&self.tree, path, &stat) {
            return Ok(());
        }
        if stat.size > 0 && database::side_print(&place.dir, place.name)? != 0 {
            let whole = stage_name(path) + "-whole";
            self.write_whole(path, &whole, stat.mode)?;
            renameat(&self.staging, &whole, &place.dir, place.name)
                .map_err(|error| failed("rename", error))?;
            fsync(&place.dir).map_err(dead)?;
        }
        for side in &sides {
            match unlinkat(&place.dir, &side[..], AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("remove a side file", error)),
            }
        }
        fsync(&place.dir).map_err(dead)
    }

    pub(super) fn keep_aside(&mut self, path: &RelPath, folder: &str) -> Result<String, DiskError> {
        let place = self.tree.place(path)?;
        let kept = RelPath::new([folder.as_bytes(), b"/", path.as_bytes()].concat())
            .map_err(|error| failed("name a place in aside/", std::io::Error::other(error)))?;
        let mut parents = Vec::new();
        let mut next = kept.parent();
        while let Some(dir) = next {
            next = dir.parent();
            parents.push(dir);
        }
        self.touched_aside.insert(None);
        for dir in parents.into_iter().rev() {
            let at = self.aside.place(&dir)?;
            match mkdirat(&at.dir, at.name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => self.touched_aside.insert(Some(dir)),
                Err(error) => return Err(failed("create a directory in aside/", error)),
            };
        }
        let at = self.aside.place(&kept)?;
        let mut names = vec![(place.name.to_vec(), at.name.to_vec())];
        for (from, to) in
            database::side_names(place.name)[..2].iter().zip(&database::side_names(at.name)[..2])
        {
            names.push((from.clone(), to.clone()));
        }
        let is_database = stat_in(&place.dir, place.name)?
            .is_some_and(|stat| stat.size > 0 && self.databases.is_database(&self.tree, path, &stat));
        if !is_database {
            names.truncate(1);
        }
        for (number, (from, to)) in names.iter().enumerate() {
            match linkat(&place.dir, &from[..], &at.dir, &to[..], AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOENT) if number == 0 => return Err(DiskError::Changed),
                Err(Errno::EXIST) => return Err(DiskError::Taken),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("keep a file in aside/", error)),
            }
        }
        self.sync_content(path)?;
        self.sync_aside()?;
        Ok(kept.to_string())
    }

    pub(super) fn keep_beside(&mut self, path: &RelPath, to: &RelPath) -> Result<String, DiskError> {
        let (from, at) = (self.tree.place(path)?, self.tree.place(to)?);
        let stat = stat_in(&from.dir, from.name)?.ok_or(DiskError::Changed)?;
        if stat.size > 0 && self.databases.is_database(&self.tree, path, &stat) {
            let whole = stage_name(path) + "-whole";
            self.write_whole(path, &whole, stat.mode)?;
            set_mtime(&self.staging, &whole, stat.mtime_ns)?;
            match renameat_with(&self.staging, &whole, &at.dir, at.name, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(DiskError::Taken),
                Err(error) => return Err(failed("keep a database beside", error)),
            }
        } else {
            match linkat(&from.dir, from.name, &at.dir, at.name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(DiskError::Taken),
                Err(Errno::NOENT) => return Err(DiskError::Changed),
                Err(error) => return Err(failed("keep a file beside", error)),
            }
            self.sync_content(path)?;
        }
        fsync(&at.dir).map_err(dead)?;
        Ok(to.to_string())
    }

    /// Makes the bytes of a file durable, whoever wrote them.
    pub(super) fn sync_content(&mut self, path: &RelPath) -> Result<(), DiskError> {
        let Some(stat) = self.tree.stat(path)?.filter(|stat| stat.kind == FileKind::File && stat.size > 0)
        else {
            return Ok(());
        };
        match self.databases.open(&self.tree, path, &stat) {
            Ok(opened) => fsync(opened.file()).map_err(dead),
            Err(error) if error.is_final() => Err(error),
            // Not there any more, or not readable, so it was not read from here either.
            Err(_) => Ok(()),
        }
    }

    pub(super) fn sync_aside(&mut self) -> Result<(), DiskError> {
        for dir in std::mem::take(&mut self.touched_aside).into_iter().rev() {
            fsync(self.aside.dir(dir.as_ref())?).map_err(dead)?;
        }
        Ok(())
    }
}

fn set_mtime(dir: &OwnedFd, name: &str, mtime_ns: i64) -> Result<(), DiskError> {
    rustix::fs::utimensat(dir, name, &times(mtime_ns), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("set the modification time", error))
}
