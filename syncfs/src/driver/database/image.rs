//! The files of one database, as they stand: [`Source`] finds them, [`Image`] reads the state that they make together.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::{QUIET, side_names};
use crate::disk::{DiskError, Stat};
use crate::driver::tree::{failed, stat_in};
use crate::sqlite::blocks::{BLOCK_BYTES, block_bytes};
use crate::sqlite::wal::{self, Log};
use crate::sqlite::{HEADER_BYTES, Header, is_hot_journal};

/// Longest wait for the clock to pass the last change of a file: more than one tick of any kernel.
const TICKS_MAX: u32 = 12;

/// What a cut needs to know of its database.
pub(in crate::driver) struct Source<'a> {
    /// The directory of the main file.
    pub(in crate::driver) dir: BorrowedFd<'a>,
    pub(in crate::driver) name: &'a [u8],
    /// The kept descriptor of the main file.
    pub(in crate::driver) file: &'a File,
    /// Where a private copy may be made, without its suffix.
    pub(in crate::driver) copy: &'a Path,
}

/// What beside the main file says whether that is complete.
pub(super) enum Journal {
    /// Not there, or wiped out. When journal or log, or the directory that they were removed from, last changed: if that
    /// is after the main file did, a transaction or a checkpoint ended then.
    Cold(i64),
    /// It would be played back.
    Hot,
}

/// Main file, log and journal, without what says nothing about their contents.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Standing(pub(super) [Option<Stat>; 3]);

impl Standing {
    pub(super) fn of(source: &Source<'_>) -> Result<Self, DiskError> {
        let [wal, journal, _] = side_names(source.name);
        let look = |name: &[u8]| {
            let stat = stat_in(source.dir, name)?;
            Ok::<_, DiskError>(stat.map(|stat| Stat { ctime_ns: 0, mode: 0, ..stat }))
        };
        Ok(Self([look(source.name)?, look(&wal)?, look(&journal)?]))
    }

    pub(super) fn main(&self) -> Result<&Stat, DiskError> {
        self.0[0].as_ref().ok_or(DiskError::Changed)
    }

    /// How long ago anything changed.
    pub(super) fn age(&self) -> Duration {
        let latest = self.0.iter().flatten().map(|stat| stat.mtime_ns).max().unwrap_or(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(u64::try_from(latest).unwrap_or(0)))
    }
}

impl Source<'_> {
    /// Whether all was left alone long enough that a later change shows in the times.
    pub(in crate::driver) fn is_quiet(&self) -> Result<bool, DiskError> {
        Ok(Standing::of(self)?.age() >= QUIET)
    }

    /// What stands, as soon as any later write to the main file would bear another time.
    pub(super) fn settled(&self) -> Result<Standing, DiskError> {
        for _ in 0..TICKS_MAX {
            let standing = Standing::of(self)?;
            let clock = clock_gettime(ClockId::RealtimeCoarse);
            let now_ns = clock.tv_sec.saturating_mul(1_000_000_000).saturating_add(clock.tv_nsec);
            if standing.main()?.mtime_ns < now_ns {
                return Ok(standing);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(DiskError::Busy("the database is written without a pause of one clock tick".to_owned()))
    }

    pub(super) fn header(&self) -> Result<Header, DiskError> {
        let mut bytes = [0; HEADER_BYTES];
        let read = self.file.read_exact_at(&mut bytes, 0).is_ok();
        let header = Header::parse(&bytes).filter(|_| read);
        header.ok_or_else(|| DiskError::Busy("the database has no complete header".to_owned()))
    }

    /// The log, if it has a generation. A log carries no locks: it may be opened and closed.
    pub(in crate::driver) fn log(&self) -> Result<Option<(File, wal::Header)>, DiskError> {
        let [wal, ..] = side_names(self.name);
        let Some(file) = self.side(&wal)? else { return Ok(None) };
        let mut bytes = [0; wal::HEADER_BYTES];
        let header = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => wal::Header::parse(&bytes),
            Err(_) => None,
        };
        Ok(header.map(|header| (file, header)))
    }

    pub(super) fn journal(&self) -> Result<Journal, DiskError> {
        let [wal, journal, _] = side_names(self.name);
        let changed = |name: &[u8]| Ok::<_, DiskError>(stat_in(self.dir, name)?.map(|stat| stat.mtime_ns));
        if let Some(file) = self.side(&journal)? {
            let mut head = [0; 1];
            let length = file.read_at(&mut head, 0).map_err(|error| failed("read a journal", error))?;
            if is_hot_journal(&head[..length]) {
                return Ok(Journal::Hot);
            }
        }
        // Wiped out, emptied, or removed: the last changed the directory.
        let ends = [changed(&journal)?, changed(&wal)?, changed(b".")?];
        Ok(Journal::Cold(ends.into_iter().flatten().max().unwrap_or(0)))
    }

    pub(super) fn side(&self, name: &[u8]) -> Result<Option<File>, DiskError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match openat(self.dir, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("open a database's side file", error)),
        }
    }
}

/// A main file and the frames over it.
pub(super) struct Image<'a> {
    pub(super) main: &'a File,
    pub(super) log: Option<(&'a File, &'a Log)>,
    pub(super) size: u64,
}

impl Image<'_> {
    /// Reads blocks `first..end` into `buffer`. Returns whether any of it came from the main file.
    pub(super) fn read(&self, first: u32, end: u32, buffer: &mut Vec<u8>) -> Result<bool, DiskError> {
        let start = u64::from(first) * BLOCK_BYTES as u64;
        let last = end.saturating_sub(1).max(first);
        let length = u64::from(last - first) * BLOCK_BYTES as u64 + block_bytes(self.size, last) as u64;
        buffer.clear();
        buffer.resize(length as usize, 0);
        let Some((file, log)) = self.log else {
            read_up_to(self.main, start, buffer)?;
            return Ok(true);
        };
        let page_bytes = u64::from(log.header().page_bytes);
        let number = |page: u64| u32::try_from(page + 1).unwrap_or(u32::MAX);
        let pages = start / page_bytes..(start + length).div_ceil(page_bytes);
        let below = pages.clone().any(|page| log.page_offset(number(page)).is_none());
        if below {
            // Behind the end of the main file are pages that nobody wrote yet: zeroes, as a checkpoint would leave them.
            read_up_to(self.main, start, buffer)?;
        }
        for page in pages {
            let Some(offset) = log.page_offset(number(page)) else { continue };
            let from = (page * page_bytes).max(start);
            let to = ((page + 1) * page_bytes).min(start + length);
            let part = &mut buffer[(from - start) as usize..(to - start) as usize];
            let offset = offset + (from - page * page_bytes);
            file.read_exact_at(part, offset).map_err(|error| failed("read a log", error))?;
        }
        Ok(below)
    }
}

/// Reads as much as there is; the rest of the buffer stays as it was.
pub(in crate::driver) fn read_up_to(file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read a database", error)),
        }
    }
    Ok(length)
}
