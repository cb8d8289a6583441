//! Cuts that are read from a private copy of the database: where SQLite has to play back a journal, and where the copy was
//! made under a brief lock.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::cut::Live;
use super::image::{Image, Journal, Source, Standing, read_up_to};
use super::lock::SharedLock;
use super::{UNWITNESSED, side_names};
use crate::disk::DiskError;
use crate::driver::sparse;
use crate::driver::state::with_suffix;
use crate::driver::tree::failed;
use crate::sqlite::blocks::blocks_in;

/// How long a database must not have held still before it is locked: long enough that most do, and shorter than a
/// flush waits.
const LOCK_AFTER: Duration = Duration::from_millis(500);
/// How long a lock is held at most, about: what was not read by then is not.
const LOCK_HELD_MAX: Duration = Duration::from_millis(5);
/// The largest database that is read under a lock, in bytes: no machine copies more in that time.
const LOCKED_BYTES_MAX: u64 = 64 << 20;
/// How much is read between two looks at the clock, in bytes.
const STEP_BYTES: usize = 1 << 20;
/// How long a database is not locked again that could not be read in that time.
const LOCK_PAUSE: Duration = Duration::from_secs(10);

impl Live {
    /// The application died in a transaction, or is in a long one: SQLite plays the journal back, in a copy.
    pub(super) fn cut_recovered(
        &mut self,
        source: &Source<'_>,
        before: &Standing,
    ) -> Result<bool, DiskError> {
        if before.age() < UNWITNESSED {
            return Err(DiskError::Busy("the database is in the middle of a commit".to_owned()));
        }
        let fresh = with_suffix(source.copy, ".new");
        let [_, journal, _] = side_names(source.name);
        let Some(journal) = source.side(&journal)? else { return Ok(false) };
        let clear = || {
            ["", "-wal", "-journal", "-shm"].map(|side| drop(std::fs::remove_file(with_suffix(&fresh, side))))
        };
        clear();
        copy_file(source.file, &fresh)?;
        copy_file(&journal, &with_suffix(&fresh, "-journal"))?;
        if Standing::of(source)? != *before {
            clear();
            return Ok(false);
        }
        let recover = || -> Result<(), rusqlite::Error> {
            let connection = Connection::open(&fresh)?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        };
        recover().map_err(|error| {
            DiskError::Busy(format!("the database's journal cannot be played back: {error}"))
        })?;
        self.take_copy(source, &fresh)?;
        clear();
        Ok(true)
    }

    /// The database holds no pause that is long enough to read it: it is copied under a lock, once that has gone on for a
    /// while. `why` is why it could not be read without.
    pub(super) fn cut_locked(&mut self, source: &Source<'_>, why: String) -> Result<(), DiskError> {
        let too_early = self.restless.is_none_or(|since| since.elapsed() < LOCK_AFTER);
        let in_vain = self.locked_in_vain.is_some_and(|at| at.elapsed() < LOCK_PAUSE);
        if too_early || in_vain {
            return Err(DiskError::Busy(why));
        }
        let but = |what: &str| DiskError::Busy(format!("{why}; {what}"));
        let size = source.file.metadata().map_err(|error| failed("stat", error))?.len();
        if size > LOCKED_BYTES_MAX {
            return Err(but("it is too large to be read under a lock of a few milliseconds"));
        }
        // Memory that was touched: no page of it has to be found while the lock is held.
        let mut bytes = vec![1; usize::try_from(size).expect("it is at most LOCKED_BYTES_MAX")];
        let Some(lock) = SharedLock::take(source.file)? else {
            return Err(but(
                "its application holds an exclusive lock (locking_mode EXCLUSIVE?): consistent only at unmount, \
                 or when it is left alone",
            ));
        };
        let read = read_locked(source, &lock, &mut bytes);
        drop(lock);
        if let Some(what) = read? {
            self.locked_in_vain = Some(Instant::now());
            return Err(but(what));
        }
        let fresh = with_suffix(source.copy, ".new");
        let copied = std::fs::write(&fresh, bytes).map_err(|error| failed("copy a database", error));
        let taken = copied.and_then(|()| self.take_copy(source, &fresh));
        if taken.is_err() {
            let _ = std::fs::remove_file(&fresh);
        }
        taken
    }

    /// Makes a complete copy the state.
    fn take_copy(&mut self, source: &Source<'_>, fresh: &Path) -> Result<(), DiskError> {
        let kept = with_suffix(source.copy, ".db");
        std::fs::rename(fresh, &kept).map_err(|error| failed("keep a copy of a database", error))?;
        let file = File::open(&kept).map_err(|error| failed("open a copy of a database", error))?;
        let size = file.metadata().map_err(|error| failed("stat", error))?.len();
        let mut making = self.making(size);
        let image = Image { main: &file, log: None, size };
        self.read_blocks(&image, &mut (0..blocks_in(size)).collect(), &mut making)?;
        // It goes with the cut before, which had the same name.
        self.copied = None;
        self.take(making);
        self.copied = Some((kept, file));
        Ok(())
    }
}

/// Reads the main file under the lock, with which nobody may write it. Returns what stood against it.
fn read_locked(
    source: &Source<'_>,
    lock: &SharedLock<'_>,
    bytes: &mut [u8],
) -> Result<Option<&'static str>, DiskError> {
    let since = Instant::now();
    let before = Standing::of(source)?;
    if source.log()?.is_some() || !source.header()?.has_journal {
        return Ok(Some("it went over to a write-ahead log meanwhile"));
    }
    // Whoever is in a transaction that did not begin to write holds the reserved lock, and its journal is not played back.
    let is_hot = || Ok::<_, DiskError>(matches!(source.journal()?, Journal::Hot));
    if is_hot()? && !lock.is_reserved()? && is_hot()? {
        return Ok(Some(
            "its application died in a transaction, or locks it in another way than SQLite does",
        ));
    }
    for (number, step) in bytes.chunks_mut(STEP_BYTES).enumerate() {
        if read_up_to(source.file, (number * STEP_BYTES) as u64, step)? < step.len() {
            return Ok(Some("it became shorter under a lock"));
        }
        if since.elapsed() > LOCK_HELD_MAX {
            return Ok(Some("it cannot be read under a lock of a few milliseconds, as large as it is"));
        }
    }
    let is_same = Standing::of(source)?.main()? == before.main()?;
    Ok((!is_same).then_some("its application does not respect SQLite's locks"))
}

fn copy_file(from: &File, to: &Path) -> Result<(), DiskError> {
    let target = File::create(to).map_err(|error| failed("create a copy of a database", error))?;
    sparse::copy(from, &target).map_err(|error| failed("copy a database", error))
}
