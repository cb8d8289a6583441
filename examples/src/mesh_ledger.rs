//! The ledger of an authority's node: which tickets were used, on disk, so that each stays used after a restart.
//!
//! Owns the file [`LEDGER_FILE`] of a state directory. It is text: a first line that names its form, then one line a
//! ticket, appended and synced: `TICKET EXPIRES MEMBERSHIP`. A last line without its end is what a power cut left and
//! is dropped; any other damage is an error, because a ticket that is forgotten could be used again. Tickets that have
//! expired are forgotten at the start and when [`LEDGER_ENTRIES_MAX`] is reached.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshnet::{Event, PeerId, Redeemed};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::daemon::{Context, Failure};
use crate::durable_file;
use crate::mesh_state::StateDirectory;

/// The file that names the used tickets.
pub const LEDGER_FILE: &str = "used-tickets";
/// Most tickets that are remembered: as many as the node itself remembers.
pub const LEDGER_ENTRIES_MAX: usize = 16_384;
/// The longest line: a ticket's name, a time, and the largest membership.
const LINE_BYTES_MAX: usize = 1024;
const FIRST_LINE: &str = "meshd used tickets 1\n";
/// How long to wait before a failed write is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An open ledger. No other process has it open.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// The bytes that hold whole lines; what a failed write left behind them is overwritten.
    length_bytes: u64,
    entries: Vec<Redeemed>,
    /// Held for as long as this process uses the directory.
    _lock: File,
}

impl Ledger {
    /// Opens the ledger of `authority`, empty if there is none yet; `unix` is the time since 1970.
    ///
    /// # Errors
    /// The file is damaged, belongs to another authority, or is in use; the system refuses.
    pub fn open(state: &StateDirectory, authority: PeerId, unix: Duration) -> Result<Ledger, Failure> {
        state.make()?;
        let lock = lock(state.path())?;
        let path = state.path().join(LEDGER_FILE);
        let mut entries = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            opened => read(opened.context(format!("cannot read {}", path.display()))?, &path)?,
        };
        if let Some(other) = entries.iter().find(|entry| entry.membership.network() != authority) {
            let (path, other) = (path.display(), other.membership.network());
            return Err(Failure::new(format!(
                "{path} is the ledger of the authority {other}, not of this key: use that key or another --state"
            )));
        }
        entries.retain(|entry| entry.ticket_expires_unix > unix.as_secs());
        let (file, length_bytes) = rewrite(&path, &entries)?;
        Ok(Ledger { path, file, length_bytes, entries, _lock: lock })
    }

    /// The used tickets that have not expired, the latest last.
    pub fn entries(&self) -> &[Redeemed] {
        &self.entries
    }

    /// Writes one more ticket down, durably; `unix` is the time since 1970.
    ///
    /// # Errors
    /// The ledger is full, or the system refuses; the ledger is then as it was.
    pub fn append(&mut self, entry: &Redeemed, unix: Duration) -> Result<(), Failure> {
        if self.entries.len() >= LEDGER_ENTRIES_MAX {
            self.entries.retain(|entry| entry.ticket_expires_unix > unix.as_secs());
            (self.file, self.length_bytes) = rewrite(&self.path, &self.entries)?;
        }
        let place = self.path.display();
        if self.entries.len() >= LEDGER_ENTRIES_MAX {
            return Err(Failure::new(format!("{place} is full: {LEDGER_ENTRIES_MAX} tickets are in use")));
        }
        let line = line(entry);
        let file = &mut self.file;
        let written = file
            .set_len(self.length_bytes)
            .and_then(|()| file.seek(SeekFrom::Start(self.length_bytes)))
            .and_then(|_| file.write_all(line.as_bytes()))
            .and_then(|()| file.sync_data());
        written.context(format!("cannot write {place}"))?;
        self.length_bytes += line.len() as u64;
        self.entries.push(entry.clone());
        Ok(())
    }

    /// Writes down every ticket that is used, until the node ends. What cannot be written now is tried again: the
    /// node itself refuses a used ticket for as long as it runs.
    pub async fn follow(mut self, mut events: Receiver<Event>) {
        let mut waiting: Vec<Redeemed> = Vec::new();
        loop {
            let event = if waiting.is_empty() {
                Some(events.recv().await)
            } else {
                tokio::time::timeout(RETRY_AFTER, events.recv()).await.ok()
            };
            let ended = matches!(event, Some(Err(RecvError::Closed)));
            match event {
                Some(Ok(Event::Redeemed(entry))) => waiting.push(*entry),
                Some(Err(RecvError::Lagged(missed))) => {
                    tracing::error!(missed, "tickets may have been used that the ledger does not hold");
                }
                _ => {}
            }
            if !waiting.is_empty() {
                let writing = tokio::task::spawn_blocking(move || {
                    self.append_all(&mut waiting);
                    (self, waiting)
                });
                // A blocking task ends early only with the runtime, and then so does this one.
                let Ok(unwritten) = writing.await else { return };
                (self, waiting) = unwritten;
            }
            if ended {
                return;
            }
        }
    }

    /// Writes what it can, in order; what is left in `waiting` could not be written.
    fn append_all(&mut self, waiting: &mut Vec<Redeemed>) {
        let unix = unix_time();
        let mut written = 0;
        for entry in waiting.iter() {
            if let Err(failure) = self.append(entry, unix) {
                tracing::error!(%failure, "a used ticket is not on disk yet");
                break;
            }
            written += 1;
        }
        waiting.drain(..written);
    }
}

/// The time since 1970 by this host's clock.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn lock(directory: &Path) -> Result<File, Failure> {
    let path = directory.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = lock.context(format!("cannot open {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
            "{} is in use by a process that is running: stop it first, or choose another --state",
            directory.display()
        ))),
        Err(TryLockError::Error(error)) => Err(error).context(format!("cannot lock {}", path.display())),
    }
}

/// Writes a ledger anew, whole or not at all, and gives the file to append to and its length.
fn rewrite(path: &Path, entries: &[Redeemed]) -> Result<(File, u64), Failure> {
    let text: String = std::iter::once(FIRST_LINE.to_owned()).chain(entries.iter().map(line)).collect();
    let file = durable_file::draft(path).and_then(|draft| durable_file::keep(draft, path, text.as_bytes()));
    let file = file.context(format!("cannot write {}", path.display()))?;
    Ok((file, text.len() as u64))
}

fn line(entry: &Redeemed) -> String {
    let ticket = u128::from_be_bytes(entry.ticket);
    format!("{ticket:032x} {} {}\n", entry.ticket_expires_unix, entry.membership)
}

fn read(file: File, path: &Path) -> Result<Vec<Redeemed>, Failure> {
    let place = path.display();
    let limit = (FIRST_LINE.len() + LEDGER_ENTRIES_MAX * LINE_BYTES_MAX) as u64;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).context(format!("cannot read {place}"))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::new(format!("cannot read {place}: it is larger than {limit} bytes")));
    }
    // What follows the last line's end was never whole.
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let text = String::from_utf8_lossy(&bytes[..whole]);
    let Some(lines) = text.strip_prefix(FIRST_LINE) else {
        return Err(Failure::new(format!("{place} is not a ledger of used tickets of this release")));
    };
    let damaged = |index: usize| {
        let line = index + 2;
        Failure::new(format!(
            "{place}:{line}: the line is damaged: restore the file from a backup, or remove the line (its ticket \
             could then be used once more until it expires)"
        ))
    };
    lines.lines().enumerate().map(|(index, line)| parse(line).ok_or_else(|| damaged(index))).collect()
}

fn parse(line: &str) -> Option<Redeemed> {
    let mut words = line.split(' ');
    let (ticket, expires, membership) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || ticket.len() != 32 {
        return None;
    }
    let ticket = u128::from_str_radix(ticket, 16).ok()?.to_be_bytes();
    Some(Redeemed::new(ticket, expires.parse().ok()?, membership.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use meshnet::{Claims, Membership, SecretKey};

    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn authority() -> SecretKey {
        SecretKey::from_bytes([1; 32])
    }

    fn entry(number: u8, expires: u64) -> Redeemed {
        let claims = Claims::new("home", "10.7.0.2/24".parse().unwrap(), &[]).unwrap();
        let peer = SecretKey::from_bytes([2; 32]).id();
        let membership = Membership::issue(&authority(), peer, claims, NOW, None, 1);
        Redeemed::new([number; 16], expires, membership)
    }

    fn open(dir: &Path, unix: Duration) -> Result<Ledger, Failure> {
        Ledger::open(&StateDirectory::at(dir.to_owned()), authority().id(), unix)
    }

    #[test]
    fn a_used_ticket_is_remembered_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), NOW).unwrap();
        for entry in [entry(1, 2000), entry(2, 3000)] {
            ledger.append(&entry, NOW).unwrap();
        }
        drop(ledger);
        assert_eq!(open(dir.path(), NOW).unwrap().entries(), [entry(1, 2000), entry(2, 3000)]);
        assert_eq!(open(dir.path(), Duration::from_secs(2000)).unwrap().entries(), [entry(2, 3000)]);
        assert_eq!(open(dir.path(), NOW).unwrap().entries(), [entry(2, 3000)]);
    }

    #[test]
    fn a_line_that_a_power_cut_left_is_dropped_and_other_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LEDGER_FILE);
        let whole = format!("{FIRST_LINE}{}{}", line(&entry(1, 2000)), line(&entry(2, 2000)));
        for cut in [1, 40, line(&entry(2, 2000)).len()] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut ledger = open(dir.path(), NOW).unwrap();
            assert_eq!(ledger.entries(), [entry(1, 2000)]);
            ledger.append(&entry(3, 2000), NOW).unwrap();
            drop(ledger);
            assert_eq!(open(dir.path(), NOW).unwrap().entries(), [entry(1, 2000), entry(3, 2000)]);
        }
        std::fs::write(&path, whole.replacen("0101", "01x1", 1)).unwrap();
        let said = open(dir.path(), NOW).unwrap_err().to_string();
        assert!(said.contains("used-tickets:2: "), "{said}");
        std::fs::write(&path, "something else\n").unwrap();
        assert!(open(dir.path(), NOW).is_err());
    }

    #[test]
    fn a_failed_writes_rest_does_not_spoil_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), NOW).unwrap();
        let mut behind = OpenOptions::new().append(true).open(dir.path().join(LEDGER_FILE)).unwrap();
        behind.write_all(b"half a li").unwrap();
        ledger.append(&entry(1, 2000), NOW).unwrap();
        drop(ledger);
        assert_eq!(open(dir.path(), NOW).unwrap().entries(), [entry(1, 2000)]);
    }

    #[test]
    fn one_process_and_one_authority_have_a_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), NOW).unwrap();
        assert!(open(dir.path(), NOW).unwrap_err().to_string().contains("in use"));
        ledger.append(&entry(1, 2000), NOW).unwrap();
        drop(ledger);
        let state = StateDirectory::at(dir.path().to_owned());
        let other = SecretKey::from_bytes([9; 32]).id();
        let said = Ledger::open(&state, other, NOW).unwrap_err().to_string();
        assert!(said.contains(&authority().id().to_string()), "{said}");
    }

    #[test]
    fn a_full_ledger_takes_no_more_until_a_ticket_expires() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), NOW).unwrap();
        ledger.entries = vec![entry(1, 2000); LEDGER_ENTRIES_MAX - 1];
        ledger.append(&entry(2, 3000), NOW).unwrap();
        assert!(ledger.append(&entry(3, 3000), NOW).unwrap_err().to_string().contains("full"));
        ledger.append(&entry(3, 3000), Duration::from_secs(2000)).unwrap();
        drop(ledger);
        assert_eq!(open(dir.path(), NOW).unwrap().entries(), [entry(2, 3000), entry(3, 3000)]);
    }

    #[test]
    fn the_largest_entry_fits_a_line() {
        let subnets: Vec<_> = (0..16).map(|n| format!("2001:db8:{n}::/48").parse().unwrap()).collect();
        let address = "2001:db8:ff::1/64".parse().unwrap();
        let claims = Claims::new(&"n".repeat(63), address, &subnets).unwrap();
        let membership = Membership::issue(&authority(), authority().id(), claims, NOW, Some(NOW), u64::MAX);
        let largest = Redeemed::new([255; 16], u64::MAX, membership);
        assert!(line(&largest).len() <= LINE_BYTES_MAX, "{}", line(&largest).len());
    }
}
