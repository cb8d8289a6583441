//! What a replica that follows does with a local edit: it is set aside, and what was replicated is put back. The edit stays
//! visible until its replacement is complete.

use crate::disk::{Disk, DiskError, FileKind, Stat};
use crate::error::StoreError;
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::record::{Kind, Record};
use crate::status::Event;

use super::Engine;
use super::apply::Outcome;
use super::pending::Key;

impl<D: Disk, I: Index> Engine<D, I> {
    /// A follower's edit is undone; except that of a version which exists nowhere else, so that nothing is left to put
    /// back. (It was this replica's own, and its replication had not begun.) That edit becomes a version.
    pub(super) fn must_undo(&mut self, entry: Option<&Entry>) -> Result<bool, StoreError> {
        match entry {
            None if self.awaits_peers() => Ok(false),
            Some(entry) if entry.stale => Ok(!self.awaits_peers()),
            Some(entry) if self.is_undoing() && entry.record.kind.is_live() => {
                // An edit of what is itself of a stale tail, and about to be set aside, never is.
                let is_tail = !self.meta.fences.admit(&entry.record);
                Ok(self.receives_only() || is_tail || self.is_recoverable(entry)?)
            }
            _ => Ok(self.is_undoing()),
        }
    }

    /// A local edit that may not be: kept aside, then what was replicated is put back.
    pub(super) fn undo(
        &mut self,
        path: &RelPath,
        entry: Option<Entry>,
        kind: &Kind,
        stat: &Stat,
    ) -> Result<(), StoreError> {
        if let (Some(entry), FileKind::Dir) = (&entry, stat.kind)
            && let Kind::Dir { attributes } = &entry.record.kind
        {
            let seen = self.disk.make_dir(path, attributes)?;
            return self.put_entry(&Entry { seen: Some(seen), ..entry.clone() });
        }
        if stat.kind == FileKind::Dir {
            return self.undo_dir(path, entry);
        }
        let Some(stat) = self.set_edit_aside(path, entry.as_ref(), kind, stat)? else { return Ok(()) };
        match entry {
            // It is not what waited there any more.
            Some(entry) if entry.stale && self.receives_only() => {
                self.lose_stale(entry)?;
                self.remove_edit(path, &stat)
            }
            Some(mut entry) if entry.stale && entry.record.kind.is_live() => {
                entry.seen = Some(stat);
                self.put_entry(&entry)
            }
            // The edit stays visible until its replacement is complete: no reader ever finds nothing.
            Some(mut entry) if entry.record.kind.is_live() => {
                entry.seen = None;
                self.put_entry(&entry)?;
                self.restore(entry.record, Some(stat));
                Ok(())
            }
            _ => self.remove_edit(path, &stat),
        }
    }

    /// What was edited further since it was set aside stays: it is looked at again.
    fn remove_edit(&mut self, path: &RelPath, stat: &Stat) -> Result<(), StoreError> {
        match self.disk.remove(path, stat) {
            Err(error) if error.is_final() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A directory that may not be: its entries are set aside, then it goes; where something takes its place, it stays until that
    /// is complete, like any edit.
    fn undo_dir(&mut self, path: &RelPath, entry: Option<Entry>) -> Result<(), StoreError> {
        self.empty(path)?;
        let stat = self.stat(path)?.filter(|stat| stat.kind == FileKind::Dir);
        let live = entry.filter(|entry| entry.record.kind.is_live());
        if let Some(entry) = live.as_ref().filter(|entry| !entry.stale) {
            self.put_entry(&Entry { seen: None, ..entry.clone() })?;
            self.restore(entry.record.clone(), stat);
            return Ok(());
        }
        match stat.map(|stat| self.disk.remove(path, &stat)) {
            Some(Err(error)) if error.is_final() => Err(error.into()),
            // A version of a stale tail is kept aside, and never put back.
            Some(Ok(())) => live.map_or(Ok(()), |entry| self.lose_stale(entry)),
            _ => Ok(()),
        }
    }

    /// Sets aside what a directory holds.
    pub(super) fn empty(&mut self, dir: &RelPath) -> Result<(), StoreError> {
        let (mut present, mut unread) = (Vec::new(), Vec::new());
        self.walk(Some(dir), &mut present, &mut unread)?;
        present.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        for (path, stat) in present {
            match stat.kind {
                FileKind::Dir => drop(self.disk.remove(&path, &stat)),
                _ => drop(self.observe(&path, Some(stat))?),
            }
        }
        Ok(())
    }

    /// Puts a replicated version back where an edit of a follower, or nothing, stands.
    pub(super) fn restore_one(&mut self, key: &Key, record: Record) -> Result<Outcome, StoreError> {
        let Some(mut entry) = self.index.entry(&key.0)? else { return Ok(Outcome::Done) };
        let damaged = self.checking.is_damaged(&key.0) && entry.seen == self.over(key);
        let behind = entry.behind.take().is_some();
        if entry.record != record || entry.seen.is_some() && !behind && !damaged {
            return Ok(Outcome::Done);
        }
        let expect = self.stat(&key.0)?;
        if expect != self.over(key) {
            // What stands there now is set aside in its turn, and this restore begins again.
            self.pending.remove(key);
            self.observe_now(&key.0)?;
            return Ok(Outcome::Again);
        }
        let placed = match &record.kind {
            Kind::Deleted => return Ok(Outcome::Done),
            Kind::Dir { attributes } => self.place_dir(&key.0, attributes, expect.as_ref())?,
            Kind::File { .. } | Kind::Symlink { .. } => match self.link(&record, expect.as_ref())? {
                Some(seen) => seen,
                None => match self.place_file(&key.0, expect.as_ref()) {
                    // It holds what the version did not know of.
                    Err(StoreError::Disk(DiskError::NotEmpty)) if behind && !self.is_undoing() => {
                        return self.reassert(None, record);
                    }
                    placed => placed?,
                },
            },
        };
        if damaged {
            self.repaired(&key.0)?;
            self.put_entry(&Entry { seen: Some(placed), ..entry })?;
            return Ok(Outcome::Done);
        }
        if entry.seen.replace(placed).is_some() {
            self.event(Event::Materialised(key.0.clone()));
            self.put_entry(&entry)?;
            return Ok(Outcome::Done);
        }
        // Under a new sequence, so that a peer which was told "gone" hears of it again.
        self.put(entry.record, entry.seen)?;
        Ok(Outcome::Done)
    }
}
