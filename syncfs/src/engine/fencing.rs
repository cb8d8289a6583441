//! Taking, leaving and losing the lease. The fence is durable before anything is done because of it.

use crate::branch::{Cause, Kept, What};
use crate::cutting::CutState;
use crate::device::{DeviceId, IndexId};
use crate::disk::{Disk, Stat};
use crate::error::{FenceError, StoreError};
use crate::fence::{Fence, SplitEpoch};
use crate::index::{Entry, Index, IndexError, PeerState};
use crate::record::{Kind, VersionVector};
use crate::status::{Event, Role};

use super::Engine;

/// The version in whose place an edit stands, what it says, and its fingerprint.
type Edit = (Entry, Kind, Option<Stat>);

impl<D: Disk, I: Index> Engine<D, I> {
    /// Becomes the one writer under `epoch`. What this replica has now is the base that this epoch builds on.
    ///
    /// # Errors
    /// [`FenceError::Stale`] if a higher epoch was seen, or this one with another holder; [`FenceError::Resyncing`]
    /// if this replica has not yet taken the current versions back, after it lost a lease or after edits while it followed.
    pub fn hold(&mut self, epoch: u64) -> Result<(), FenceError> {
        if epoch == 0 {
            return Err(FenceError::Zero);
        }
        if self.receives_only() {
            return Err(FenceError::ReceiveOnly);
        }
        self.check_hold(epoch)?;
        let behind = self.materialise(None)?;
        if behind > 0 {
            return Err(FenceError::Resyncing(behind));
        }
        self.scan()?;
        let (edits, unclear) = self.edits()?;
        let missing = self.missing()? + unclear;
        if missing > 0 {
            return Err(FenceError::Resyncing(missing));
        }
        if self.meta.fences.epoch() < epoch {
            self.restamp(epoch)?;
            let base = self.known_now();
            // What it wrote and lost belongs to nothing any more.
            self.knows_own = true;
            self.meta.fences.insert(Fence { epoch, holder: self.meta.device, base });
        }
        self.change_role(Role::Holder);
        self.end_revived()?;
        self.take_over_groups();
        self.adopt_edits(edits)?;
        self.uncommitted = true;
        self.commit()?;
        self.restate(false)?;
        Ok(())
    }

    /// Stops being the writer: local edits from now on are undone, if the folder was ever leased.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn follow(&mut self) -> Result<(), FenceError> {
        self.scan()?;
        let held = self.change_role(Role::Follower);
        self.uncommitted = true;
        self.commit()?;
        if held {
            self.restate(false)?;
        }
        Ok(())
    }

    /// Returns whether a tenure begins or ends by that.
    fn change_role(&mut self, role: Role) -> bool {
        let before = std::mem::replace(&mut self.meta.role, role);
        let changes = (before == Role::Holder) != (role == Role::Holder);
        if changes {
            // What peers are told of the tenure now is later than all that they were told before.
            self.next_sequence();
        }
        changes
    }

    fn check_hold(&self, epoch: u64) -> Result<(), FenceError> {
        if let Some(current) = self.meta.fences.current() {
            let (seen, holder) = (current.epoch, current.holder);
            if seen > epoch || seen == epoch && holder != self.meta.device {
                return Err(FenceError::Stale { asked: epoch, seen, holder });
            }
        }
        let waiting = self.stale + self.restoring()? + u64::from(self.meta.rejoining);
        if waiting > 0 { Err(FenceError::Resyncing(waiting)) } else { Ok(()) }
    }

    /// How many versions are not here while nobody puts them back: what stands in their places could not be looked at since a
    /// crash. A holder would vouch for contents that it does not have.
    fn missing(&self) -> Result<u64, StoreError> {
        let mut count = 0;
        self.each_entry(|entry| {
            let is_here = entry.seen.is_some() || entry.behind.is_some() || !entry.record.kind.is_live();
            let awaited = self.pending.get(&(entry.record.path.clone(), super::OWN)).is_some();
            count += u64::from(!is_here && !awaited && !self.is_ignored(&entry.record, None));
        })?;
        Ok(count)
    }

    /// Edits of the follower that this replica was until now, each where nobody has the version that belongs there; and how many of
    /// these places cannot be read, or stand empty although nobody has deleted what stood there: it was giving way to a
    /// version that did not come.
    fn edits(&mut self) -> Result<(Vec<Edit>, u64), StoreError> {
        let (mut edits, mut unclear) = (Vec::new(), 0);
        for (path, _) in self.pending.of_session(super::OWN) {
            // What is damaged or only behind still is of its version.
            let Some(entry) = self.index.entry(&path)?.filter(|entry| entry.seen.is_none()) else { continue };
            match self.stat(&path) {
                Ok(None) if entry.record.kind.is_dir() => {}
                Ok(None) if self.was_deleted(&entry)? => edits.push((entry, Kind::Deleted, None)),
                Ok(Some(stat)) => {
                    let names = self.other_names(&path, &stat)?;
                    match self.read_kind(&path, &stat, Some(&entry), &names) {
                        Ok(Some((kind, seen))) => edits.push((entry, kind, Some(seen))),
                        Err(error) if error.is_final() => return Err(error.into()),
                        Ok(None) | Err(_) => unclear += 1,
                    }
                }
                Err(error) if error.is_final() => return Err(error.into()),
                Ok(None) | Err(_) => unclear += 1,
            }
        }
        Ok((edits, unclear))
    }

    /// Whether somebody deleted this very version here, and that was undone.
    fn was_deleted(&self, entry: &Entry) -> Result<bool, IndexError> {
        let path = &entry.record.path;
        for branch in self.index.branches()? {
            let kept = self.index.kept_at(branch.number, path)?;
            if kept.is_some_and(|kept| kept.what == What::Deleted && kept.base == entry.record.version) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// They had seen the versions in whose places they stand, and become the next ones.
    fn adopt_edits(&mut self, edits: Vec<Edit>) -> Result<(), StoreError> {
        for (entry, kind, seen) in edits {
            let path = entry.record.path.clone();
            self.publish_own(&path, Some(entry), kind, seen)?;
        }
        Ok(())
    }

    /// What this replica knows everything of, to its last write.
    fn known_now(&self) -> VersionVector {
        let mut known = self.meta.knowledge.clone();
        if self.knows_own {
            known.raise(self.meta.device, self.meta.sequence);
        }
        known
    }

    /// Versions that came in a delta that was cut off are not covered by this replica's knowledge: they are written
    /// anew under the coming epoch, so that the base says exactly what belongs to it.
    fn restamp(&mut self, epoch: u64) -> Result<(), StoreError> {
        let mut outside = Vec::new();
        let known = self.known_now();
        self.each_entry(|entry| {
            if !entry.record.is_known_to(&known) {
                outside.push(entry.clone());
            }
        })?;
        for mut entry in outside {
            entry.sequence = self.next_sequence();
            entry.record.version.raise(self.meta.device, entry.sequence);
            (entry.record.by, entry.record.epoch) = (self.meta.device, epoch);
            self.note_change(&entry.record)?;
            self.put_entry(&entry)?;
        }
        Ok(())
    }

    /// Learns of takeovers. What this replica wrote or carries against them is set aside.
    pub(super) fn adopt(&mut self, fences: &[Fence]) -> Result<Result<(), SplitEpoch>, StoreError> {
        let mut merged = self.meta.fences.clone();
        match merged.merge(fences) {
            Err(split) => return Ok(Err(split)),
            Ok(false) => return Ok(Ok(())),
            Ok(true) => {}
        }
        // Edits that were not looked at yet were made under the old epoch: they get their versions first.
        self.scan()?;
        let before = self.meta.fences.epoch();
        self.meta.fences = merged;
        let current = self.meta.fences.current().cloned().expect("something was merged");
        if current.epoch > before {
            if current.holder != self.meta.device {
                self.meta.role = Role::Follower;
            }
            self.deltas.forget_tenure();
            self.event(Event::Fenced { epoch: current.epoch, holder: current.holder });
        }
        self.uncommitted = true;
        self.commit()?;
        let afresh = self.retire()?;
        self.restate(afresh)?;
        self.forget_differing()?;
        Ok(Ok(()))
    }

    /// Sets every inadmissible version aside and begins a new life of the index. It stays visible until a peer has
    /// given what belongs there.
    pub(super) fn retire(&mut self) -> Result<bool, StoreError> {
        let mut tail = Vec::new();
        self.each_entry(|entry| {
            if !entry.stale && !self.meta.fences.admit(&entry.record) {
                tail.push(entry.clone());
            }
        })?;
        if tail.is_empty() {
            return Ok(false);
        }
        let epoch = tail.iter().map(|entry| entry.record.epoch).max().unwrap_or_default();
        for entry in tail {
            let path = entry.record.path.clone();
            // What is set aside is what is visible.
            let mut entry = self.shown(entry)?;
            // An edit that was set aside stands there, and its place was to be this version's.
            let edit = self.over(&(path.clone(), super::OWN)).filter(|_| entry.seen.is_none());
            self.pending.remove(&(path.clone(), super::OWN));
            if let Some(kept) = Kept::of(&entry.record).filter(|kept| kept.what == What::Deleted) {
                self.keep_deletion(Cause::StaleEpoch, epoch, &kept)?;
            }
            let ignored = self.is_ignored(&entry.record, None);
            let stands = entry.seen.is_some() || edit.is_some();
            if !stands || !entry.record.kind.is_live() || ignored {
                // Perhaps an edit still stands there that was to be replaced by this version.
                self.unsettle(&path);
                self.lose_stale(entry)?;
                continue;
            }
            entry.seen = match entry.seen {
                Some(seen) if !entry.record.kind.is_dir() => {
                    self.set_aside(Cause::StaleEpoch, epoch, Kept::of(&entry.record), &seen)?
                }
                seen => seen.or(edit),
            };
            if entry.seen.is_none() {
                self.lose_stale(entry)?;
                continue;
            }
            entry.stale = true;
            self.put_entry(&entry)?;
        }
        self.knows_own = false;
        self.begin_index()?;
        Ok(true)
    }

    /// Nothing of a stale version stands here any more. What belongs in its place, perhaps an older version of this replica's own, is
    /// not known before a peer has told everything; until then the entry stays, and no peer is told what this replica has seen: it
    /// would not tell that version again.
    pub(super) fn lose_stale(&mut self, entry: Entry) -> Result<(), StoreError> {
        if entry.record.version.is_empty() {
            return self.forget(&entry.record.path);
        }
        if entry.stale && entry.seen.is_none() {
            return Ok(());
        }
        self.is_sound_again(&entry.record.path)?;
        self.put_entry(&Entry { seen: None, stale: true, behind: None, ..entry })
    }

    /// Sequences stay unique, but what peers were told before is void, and they are asked for everything again.
    pub(super) fn begin_index(&mut self) -> Result<(), StoreError> {
        self.meta.index = IndexId(self.disk.chance()?);
        self.meta.knowledge = VersionVector::default();
        self.uncommitted = true;
        // What stands here is no state of the folder any more, until a peer has told all of one.
        self.meta.cuts.mark = CutState::unknown().mark;
        for (device, _) in self.index.peers()? {
            self.index.put_peer(&device, &PeerState::default())?;
        }
        self.commit()
    }

    /// A peer that is itself current has told everything since this life of the index began: what still stands in a stale
    /// version has no other.
    pub(super) fn drop_stale(&mut self, peer: DeviceId) -> Result<(), StoreError> {
        self.rejoined(peer)?;
        if self.stale == 0 {
            return Ok(());
        }
        for entry in self.stale_entries()?.into_iter().rev() {
            self.drop_stale_entry(&entry)?;
        }
        Ok(())
    }

    /// The same for one that has no other version, or whose directory has to go.
    pub(super) fn drop_stale_entry(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let path = &entry.record.path;
        let stands = match self.stat(path)? {
            Some(stat)
                if entry.seen.is_some()
                    && (self.receives_only() || entry.record.version.is_empty())
                    && !self.is_ignored(&entry.record, None)
                    && stat.kind != crate::disk::FileKind::Dir =>
            {
                let cause = if self.meta.rejoining { Cause::Rejoined } else { Cause::FollowerEdit };
                self.set_aside(cause, self.meta.fences.epoch(), Kept::of(&entry.record), &stat)?
            }
            stands => stands,
        };
        let removed = match (stands, entry.seen) {
            // What stands where nothing of it did is looked at by itself.
            (_, None) => Ok(()),
            _ if self.is_ignored(&entry.record, None) => Ok(()),
            (Some(stat), _) if stat.kind == crate::disk::FileKind::Dir => self.disk.remove(path, &stat),
            // Another name of the inode may have come or gone since: that is no change of what was set aside.
            (Some(stat), Some(seen)) if stat.identity() == seen.identity() => self.disk.remove(path, &stat),
            (Some(_), Some(seen)) => self.disk.remove(path, &seen),
            _ => Ok(()),
        };
        match removed {
            Ok(()) => self.forget(path),
            Err(error) => self.unclear(path, error).map(drop),
        }
    }

    pub(super) fn stale_entries(&self) -> Result<Vec<Entry>, IndexError> {
        let mut stale = Vec::new();
        self.each_entry(|entry| {
            if entry.stale {
                stale.push(entry.clone());
            }
        })?;
        Ok(stale)
    }
}
