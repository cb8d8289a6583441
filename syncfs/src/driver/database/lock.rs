//! SQLite's shared lock on a database with a rollback journal. While anybody holds it, nobody writes the main file: a
//! transaction that is committed meanwhile waits, or fails with `SQLITE_BUSY` if its application does not wait.
//!
//! It is a lock of the *open file description* (`F_OFD_SETLK`), not of the process: one of this process would be lost with
//! the closing of any descriptor of the file, and would not keep out an application in the same process.
//! The bytes are those of <https://sqlite.org/src/file/src/os.h>.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::disk::DiskError;
use crate::driver::tree::failed;

/// The byte that a writer locks when it is about to write; no new reader comes in from then on.
const PENDING: (i64, i64) = (0x4000_0000, 1);
/// The byte that a writer locks when it begins a transaction, beside readers.
const RESERVED: (i64, i64) = (PENDING.0 + 1, 1);
/// The bytes that readers share.
const SHARED: (i64, i64) = (PENDING.0 + 2, 510);
/// How often it is tried, and how long apart: longer than most commits take.
const TRIES: (u32, Duration) = (40, Duration::from_micros(500));

/// Two folders may share a descriptor, and with it its locks.
static ALONE: Mutex<()> = Mutex::new(());

/// The shared lock, until it is dropped.
pub(super) struct SharedLock<'a> {
    file: &'a File,
    _alone: MutexGuard<'static, ()>,
}

impl<'a> SharedLock<'a> {
    /// Takes it as SQLite does, without waiting for long; `None` if a writer holds the file all the time.
    pub(super) fn take(file: &'a File) -> Result<Option<Self>, DiskError> {
        let lock = Self { file, _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) };
        for _ in 0..TRIES.0 {
            if set(file, libc::F_RDLCK, PENDING)? {
                let taken = set(file, libc::F_RDLCK, SHARED);
                set(file, libc::F_UNLCK, PENDING)?;
                if taken? {
                    return Ok(Some(lock));
                }
            }
            std::thread::sleep(TRIES.1);
        }
        Ok(None)
    }

    /// Whether somebody is in a transaction that did not begin to write the main file.
    pub(super) fn is_reserved(&self) -> Result<bool, DiskError> {
        let mut found = range(libc::F_WRLCK, RESERVED);
        fcntl(self.file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(refused)?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }
}

impl Drop for SharedLock<'_> {
    fn drop(&mut self) {
        let _ = set(self.file, libc::F_UNLCK, (PENDING.0, SHARED.0 + SHARED.1 - PENDING.0));
    }
}

/// `false` if another lock stands against it.
fn set(file: &File, kind: i32, bytes: (i64, i64)) -> Result<bool, DiskError> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, bytes))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(refused(error)),
    }
}

fn range(kind: i32, (start, length): (i64, i64)) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).expect("kinds of locks are small numbers"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("it is 0"),
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

fn refused(error: Errno) -> DiskError {
    failed("lock a database", std::io::Error::from(error))
}
