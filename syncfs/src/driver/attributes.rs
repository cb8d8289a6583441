//! Owners, permissions and extended attributes of one inode, through a descriptor that was opened beneath the folder.
//! Such a descriptor need not be open for reading: a database is never opened and closed again for this (see
//! [`super::database`] for why).
//!
//! Extended attributes of a descriptor like that can only be reached through `/proc/self/fd`; where there is no `/proc`,
//! it is as on a filesystem that has none.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Uid, XattrFlags, chmodat, chownat, fchmod, fstat, fsync, futimens, getxattr,
    listxattr, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

use super::disk::RealDisk;
use super::reading::Unsynced;
use super::tree::{convert, dead, failed, times};
use crate::disk::{DiskError, Stat};
use crate::path::RelPath;
use crate::record::{
    Attributes, CAPABILITY, Owner, XATTRS_BYTES_MAX, XATTRS_MAX, Xattrs, is_replicated_xattr,
};

/// All names of one inode's extended attributes, in bytes: what Linux allows.
const LIST_BYTES_MAX: usize = 64 << 10;
/// Set-uid and set-gid: applied by root only.
const SET_ID: u32 = 0o6000;

/// Whether this process may give files away, and programs their capabilities.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The extended attributes that this process replicates; `None` where there can be none.
pub(super) fn read_xattrs(fd: impl AsFd) -> Result<Option<Xattrs>, DiskError> {
    let path = link_to(&fd);
    let Some(names) = xattr_names(&path)? else { return Ok(None) };
    let (mut xattrs, mut room) = (Xattrs::new(), XATTRS_BYTES_MAX);
    for name in names {
        let mut value = vec![0; room + 1];
        let length = match getxattr(&path, &name[..], &mut value[..]) {
            Ok(length) => length,
            // Removed meanwhile: that changed the fingerprint.
            Err(Errno::NODATA) => continue,
            Err(Errno::RANGE) => room + 1,
            Err(error) => return Err(failed("read an extended attribute", error)),
        };
        value.truncate(length);
        room = match room.checked_sub(name.len() + length) {
            Some(room) if xattrs.len() < XATTRS_MAX => room,
            _ => {
                let reason = format!("more than {XATTRS_MAX}, or than {XATTRS_BYTES_MAX} bytes: remove some");
                return Err(DiskError::Io { what: "read extended attributes", reason });
            }
        };
        xattrs.insert(name, value);
    }
    Ok(Some(xattrs))
}

/// Gives a fresh copy of a file what else that one has (`like` is it, and `stat` its fingerprint), and makes it durable.
pub(super) fn finish_copy(copy: &File, like: impl AsFd, stat: &Stat) -> Result<(), DiskError> {
    let xattrs = read_xattrs(like)?.unwrap_or_default();
    apply(copy, &Attributes { mode: stat.mode, owner: Some(stat.owner), xattrs }, true)?;
    futimens(copy, &times(stat.mtime_ns)).map_err(|error| failed("set the modification time", error))?;
    fsync(copy).map_err(dead)
}

/// Gives an inode its attributes, as far as this process and the filesystem can: see [`crate::disk::Disk`]. A `fresh` one
/// has no extended attributes yet.
pub(super) fn apply(fd: impl AsFd, attributes: &Attributes, fresh: bool) -> Result<(), DiskError> {
    let root = is_root();
    let path = link_to(&fd);
    // First what may not fit, the largest before the others: then nothing else was changed.
    let mut given: Vec<_> =
        attributes.xattrs.iter().filter(|(name, _)| name.as_slice() != CAPABILITY).collect();
    given.sort_unstable_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    let names = if fresh && attributes.xattrs.is_empty() { None } else { xattr_names(&path)? };
    given.retain(|_| names.is_some());
    let mut later = Vec::new();
    for (name, value) in given {
        match setxattr(&path, &name[..], value, XattrFlags::empty()) {
            Ok(()) => {}
            // Not with the permissions that it has now.
            Err(Errno::ACCESS) => later.push((name, value)),
            Err(error) => return Err(not_taken(name, value, error)),
        }
    }
    let stands = convert(&fstat(&fd).map_err(|error| failed("stat", error))?);
    if let Some(owner) = attributes.owner.filter(|owner| root && *owner != stands.owner) {
        let (uid, gid) = ids(owner);
        tolerated(chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH))?;
    }
    // After the owner: a change of it takes set-uid bits and capabilities away.
    let mode = if root { attributes.mode } else { attributes.mode & !SET_ID };
    if mode != stands.mode || attributes.owner != Some(stands.owner) {
        let mode = Mode::from_raw_mode(mode);
        let set = match fchmod(&fd, mode) {
            // It is not open, only pinned.
            Err(Errno::BADF) => chmodat(CWD, link_to(&fd), mode, AtFlags::empty()),
            other => other,
        };
        set.map_err(|error| failed("set permissions", error))?;
    }
    let Some(names) = names else { return Ok(()) };
    for name in names.iter().filter(|name| !attributes.xattrs.contains_key(*name)) {
        match removexattr(&path, &name[..]) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(failed("remove an extended attribute", error)),
        }
    }
    let capability = attributes.xattrs.get_key_value(CAPABILITY).filter(|_| root);
    for (name, value) in later.into_iter().chain(capability) {
        setxattr(&path, &name[..], value, XattrFlags::empty())
            .map_err(|error| not_taken(name, value, error))?;
    }
    Ok(())
}

/// One that is larger than a filesystem takes is about its file alone, although ext4 says of it that no space is left.
fn not_taken(name: &[u8], value: &[u8], error: Errno) -> DiskError {
    match error {
        Errno::NOSPC | Errno::TOOBIG | Errno::RANGE => DiskError::Io {
            what: "set an extended attribute",
            reason: format!(
                "{} has {} bytes, and that is more than the filesystem takes ({error})",
                String::from_utf8_lossy(name),
                value.len()
            ),
        },
        error => failed("set an extended attribute", error),
    }
}

impl RealDisk {
    /// See [`crate::disk::Disk::adjust`].
    pub(super) fn adjust_in_place(
        &mut self,
        path: &RelPath,
        expect: &Stat,
        attributes: &Attributes,
        mtime_ns: i64,
    ) -> Result<Stat, DiskError> {
        let pinned = self.tree.pin(path)?;
        self.place_of(path, Some(expect))?;
        let stands = || fstat(&pinned).map(|stat| convert(&stat)).map_err(|error| failed("stat", error));
        let is_content = |stat: Stat| {
            (stat.dev, stat.ino, stat.size, stat.mtime_ns)
                == (expect.dev, expect.ino, expect.size, expect.mtime_ns)
        };
        if !is_content(stands()?) {
            return Err(DiskError::Changed);
        }
        apply(&pinned, attributes, false)?;
        self.read.entry(path.clone()).or_insert(Unsynced::Plain);
        if mtime_ns == expect.mtime_ns {
            return Ok(Stat { side: expect.side, ..stands()? });
        }
        if !is_content(stands()?) {
            return Err(DiskError::Changed);
        }
        utimensat(CWD, link_to(&pinned), &times(mtime_ns), AtFlags::empty())
            .map_err(|error| failed("set the modification time", error))?;
        // A write of this very moment would have lost its time: it is looked at once more.
        Ok(Stat { side: expect.side, ctime_ns: 0, ..stands()? })
    }
}

/// Gives a symlink in an open directory to its owner, if this process can.
pub(super) fn give_link(dir: impl AsFd, name: &str, owner: Option<Owner>) -> Result<(), DiskError> {
    let Some(owner) = owner.filter(|_| is_root()) else { return Ok(()) };
    let (uid, gid) = ids(owner);
    tolerated(chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
}

/// The inode behind a descriptor, as a path that leads nowhere else.
pub(super) fn link_to(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn ids(owner: Owner) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
}

/// Names of the attributes that this process replicates; `None` where there can be none.
fn xattr_names(path: &str) -> Result<Option<Vec<Vec<u8>>>, DiskError> {
    let mut list = vec![0; 256];
    let length = loop {
        match listxattr(path, &mut list[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < LIST_BYTES_MAX => list.resize(LIST_BYTES_MAX, 0),
            Err(Errno::NOTSUP | Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("list extended attributes", error)),
        }
    };
    let names = list[..length].split(|&byte| byte == 0).filter(|name| is_replicated_xattr(name));
    let names = names.filter(|name| is_root() || *name != CAPABILITY);
    Ok(Some(names.map(<[u8]>::to_vec).collect()))
}

/// A filesystem without owners, or one whose owners this root does not rule.
fn tolerated(result: Result<(), Errno>) -> Result<(), DiskError> {
    match result {
        Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::NOTSUP | Errno::OVERFLOW) => Ok(()),
        Err(error) => Err(failed("set the owner", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_through_a_descriptor_that_is_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        setxattr(&path, "user.note", b"n", XattrFlags::empty()).unwrap();
        let pinned = rustix::fs::open(&path, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        let wanted = Xattrs::from([(b"user.note".to_vec(), b"n".to_vec())]);
        assert_eq!(read_xattrs(&pinned).unwrap(), Some(wanted));
    }
}
