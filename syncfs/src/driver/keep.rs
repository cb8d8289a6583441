//! Second names: how an entry is kept, aside or beside, before its place is given to another version; and how a
//! database is parted from its side files, so that no crash ever pairs an old log with a new database.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, RenameFlags, fsync, linkat, mkdirat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::aside::place_of;
use super::disk::RealDisk;
use super::state::stage_name;
use super::tree::{create, dead, failed, stat_in, times};
use super::{attributes, database, sparse};
use crate::disk::{DiskError, FileKind, Stat};
use crate::path::RelPath;

/// How names in the staging directory end that are about to be given their place in one step: a hard link, a copy.
pub(super) const LINK: &[u8] = b"-link";
pub(super) const COPY: &[u8] = b"-copy";

impl RealDisk {
    /// See [`crate::disk::Disk::link`].
    pub(super) fn link_as(
        &mut self,
        from: &RelPath,
        seen: &Stat,
        to: &RelPath,
        expect: Option<&Stat>,
    ) -> Result<Stat, DiskError> {
        let source = self.place_of(from, Some(seen))?;
        let place = self.place_of(to, expect)?;
        self.detach_sides(to)?;
        let draft = [stage_name(to).as_bytes(), LINK].concat();
        self.drop_draft(&draft)?;
        linkat(&source.dir, source.name, &self.staging, &draft[..], AtFlags::empty())
            .map_err(|error| failed("link", error))?;
        // The name may have led elsewhere by then.
        let print = |stat: Stat| (stat.kind, stat.dev, stat.ino, stat.size, stat.mtime_ns, stat.mode);
        let same = stat_in(&self.staging, &draft)?.is_some_and(|stat| print(stat) == print(*seen));
        if !same {
            self.drop_draft(&draft)?;
            return Err(DiskError::Changed);
        }
        match renameat(&self.staging, &draft[..], &place.dir, place.name) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::NOTEMPTY) => return Err(DiskError::NotEmpty),
            Err(error) => return Err(failed("rename into place", error)),
        }
        // Between two names of one file a rename does nothing.
        self.drop_draft(&draft)?;
        self.touch(to);
        self.cuts.forget(to);
        stat_in(&place.dir, place.name)?.ok_or(DiskError::Changed)
    }

    fn drop_draft(&self, draft: &[u8]) -> Result<(), DiskError> {
        match unlinkat(&self.staging, draft, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove a stage", error)),
        }
    }

    /// Gives an entry a second name, durably. A file that has other names already is copied: it could be edited through
    /// them.
    fn give_name(
        &mut self,
        path: &RelPath,
        from: (&OwnedFd, &[u8]),
        to: (&OwnedFd, &[u8]),
    ) -> Result<(), DiskError> {
        let stat = stat_in(from.0, from.1)?.ok_or(DiskError::Changed)?;
        if stat.kind == FileKind::File && stat.nlink > 1 {
            return self.give_copy(path, &stat, to);
        }
        match linkat(from.0, from.1, to.0, to.1, AtFlags::empty()) {
            Ok(()) => self.sync_content(path),
            Err(Errno::EXIST) => Err(DiskError::Taken),
            Err(Errno::NOENT) => Err(DiskError::Changed),
            // A directory stands there by now, and cannot be linked.
            Err(Errno::PERM) if stat_in(from.0, from.1)? != Some(stat) => Err(DiskError::Changed),
            Err(error) => Err(failed("keep a file", error)),
        }
    }

    fn give_copy(&mut self, path: &RelPath, stat: &Stat, to: (&OwnedFd, &[u8])) -> Result<(), DiskError> {
        let draft = stage_name(path) + "-copy";
        let target = create(&self.staging, &draft)?;
        if stat.size > 0 {
            let opened = self.databases.open(&self.tree, path, stat)?;
            sparse::copy(opened.file(), &target).map_err(|error| failed("copy a file", error))?;
        }
        if self.tree.stat(path)? != Some(*stat) {
            return Err(DiskError::Changed);
        }
        let pinned = self.tree.pin(path)?;
        attributes::finish_copy(&target, &pinned, stat)?;
        match renameat_with(&self.staging, &draft, to.0, to.1, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(DiskError::Taken),
            Err(error) => Err(failed("keep a file", error)),
        }
    }

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
        let kept = place_of(folder, path)?;
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
            self.give_name(path, (&place.dir, place.name), (&at.dir, at.name))?;
            self.sync_aside()?;
            return Ok(kept.to_string());
        }
        for (number, (from, to)) in names.iter().enumerate() {
            match linkat(&place.dir, &from[..], &at.dir, &to[..], AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOENT) if number == 0 => return Err(DiskError::Changed),
                // The step was done before a crash, or the same file was edited further: it is kept already.
                Err(Errno::EXIST) if is_same(&place.dir, from, &at.dir, to)? => {}
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
            self.give_name(path, (&from.dir, from.name), (&at.dir, at.name))?;
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
            match self.aside.dir(dir.as_ref()) {
                Ok(dir) => fsync(dir).map_err(dead)?,
                // It was made for an entry that could not be kept, and is gone again.
                Err(DiskError::NoParent) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether two names are of one inode.
fn is_same(dir: &OwnedFd, name: &[u8], other_dir: &OwnedFd, other: &[u8]) -> Result<bool, DiskError> {
    let inode = |stat: crate::disk::Stat| (stat.dev, stat.ino);
    let (one, two) = (stat_in(dir, name)?, stat_in(other_dir, other)?);
    Ok(one.is_some() && one.map(inode) == two.map(inode))
}

fn set_mtime(dir: &OwnedFd, name: &str, mtime_ns: i64) -> Result<(), DiskError> {
    rustix::fs::utimensat(dir, name, &times(mtime_ns), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("set the modification time", error))
}
