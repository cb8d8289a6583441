//! The fence: which versions a newer holder of the folder's lease never saw, and which therefore are never merged.
//!
//! A lease gives its holder a number, the *epoch*. When a replica takes epoch `e` it fixes its *base*: what it knew
//! at that moment, as one counter per device. From then on, a version written under an epoch below `e` belongs to
//! the folder only if it is in that base. Everything else is a *stale tail*: the writes of a holder that was cut
//! off, whoever carries them. A replica refuses it from peers, and sets it aside where it has it itself.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::device::DeviceId;
use crate::record::{Record, VersionVector};

/// How many fences are remembered. A stale tail that is older than this many takeovers is treated as a concurrent
/// edit: both versions are kept, as conflicts.
pub const FENCES_MAX: usize = 256;

/// One takeover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The number of the lease, never 0.
    pub epoch: u64,
    /// Who took it.
    pub holder: DeviceId,
    /// What the holder knew when it took it.
    pub base: VersionVector,
}

/// The latest takeover that a replica knows of, and those that its holder built on. The highest epoch only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fences(BTreeMap<u64, Fence>);

/// Whether the holder of the latest takeover still writes. Replicas pass it on; of two, the one with the higher sequence is the
/// later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    /// The holder's sequence when it said so; 0 if nothing is known.
    pub at: u64,
    /// It has let go of the lease: what it wrote last may be opened anywhere.
    pub released: bool,
}

/// Two replicas claim the same epoch: whoever hands out leases gave one number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "epoch {epoch} is held by {ours} here and by {theirs} at the peer: one lease number was given out twice; take a higher one on the replica that is right"
)]
pub struct SplitEpoch {
    /// The epoch.
    pub epoch: u64,
    /// Its holder as known here.
    pub ours: DeviceId,
    /// Its holder as the peer says.
    pub theirs: DeviceId,
}

impl Fences {
    /// The highest epoch ever seen; 0 if the folder was never leased.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// The latest takeover.
    #[must_use]
    pub fn current(&self) -> Option<&Fence> {
        self.0.last_key_value().map(|(_, fence)| fence)
    }

    /// Whether this version belongs to the folder, as far as the known takeovers tell.
    #[must_use]
    pub fn admit(&self, record: &Record) -> bool {
        let Some(after) = record.epoch.checked_add(1) else { return true };
        self.0.range(after..).all(|(_, fence)| record.is_known_to(&fence.base))
    }

    /// Adds one takeover, and forgets the oldest beyond [`FENCES_MAX`].
    pub fn insert(&mut self, fence: Fence) {
        self.0.insert(fence.epoch, fence);
        while self.0.len() > FENCES_MAX {
            self.0.pop_first();
        }
    }

    /// Takes over what a peer knows, if it knows a higher epoch: then its takeovers replace the known ones, as they are
    /// those that its latest holder built on. A takeover that this holder did not know of, and that is lower than its own,
    /// is itself part of a stale tail.
    ///
    /// Returns whether anything changed.
    ///
    /// # Errors
    /// [`SplitEpoch`] if both know the same highest epoch but not the same holder.
    pub fn merge(&mut self, theirs: &[Fence]) -> Result<bool, SplitEpoch> {
        let (Some(latest), ours) = (theirs.iter().max_by_key(|fence| fence.epoch), self.current()) else {
            return Ok(false);
        };
        match ours {
            Some(ours) if ours.epoch > latest.epoch => return Ok(false),
            Some(ours) if ours.epoch == latest.epoch && ours.holder == latest.holder => return Ok(false),
            Some(ours) if ours.epoch == latest.epoch => {
                return Err(SplitEpoch { epoch: ours.epoch, ours: ours.holder, theirs: latest.holder });
            }
            _ => {}
        }
        self.0.clear();
        theirs.iter().for_each(|fence| self.insert(fence.clone()));
        Ok(true)
    }

    /// All takeovers, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Fence> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPath;
    use crate::record::Kind;

    fn device(id: u8) -> DeviceId {
        DeviceId::from_bytes([id; 32])
    }

    fn write(by: u8, counter: u64, epoch: u64) -> Record {
        Record {
            path: RelPath::new("a").unwrap(),
            kind: Kind::Deleted,
            version: [(device(by), counter)].into_iter().collect(),
            by: device(by),
            epoch,
        }
    }

    fn fence(epoch: u64, holder: u8, base: &[(u8, u64)]) -> Fence {
        Fence { epoch, holder: device(holder), base: base.iter().map(|(id, n)| (device(*id), *n)).collect() }
    }

    #[test]
    fn a_stale_tail_stays_stale_after_its_writer_came_back() {
        let mut fences = Fences::default();
        fences.insert(fence(1, 1, &[]));
        fences.insert(fence(2, 2, &[(1, 10)]));
        assert!(fences.admit(&write(1, 10, 1)), "the second holder had it");
        assert!(!fences.admit(&write(1, 11, 1)), "the second holder never saw it");
        fences.insert(fence(3, 2, &[(1, 20), (2, 5)]));
        assert!(!fences.admit(&write(1, 11, 1)), "a later base does not whiten it");
        assert!(fences.admit(&write(1, 15, 2)), "written after its writer knew of epoch 2");
        assert!(fences.admit(&write(2, 6, 3)));
    }

    #[test]
    fn one_epoch_given_out_twice_is_named() {
        let mut ours = Fences::default();
        ours.insert(fence(4, 1, &[]));
        assert!(ours.merge(&[fence(4, 2, &[])]).is_err());
        assert_eq!(ours.merge(&[fence(4, 2, &[]), fence(5, 2, &[])]), Ok(true), "a higher one settles it");
        assert_eq!(ours.current().unwrap().holder, device(2));
        assert_eq!(ours.merge(&[fence(4, 2, &[])]), Ok(false));
    }

    #[test]
    fn a_takeover_that_the_latest_holder_never_knew_counts_for_nothing() {
        let mut fences = Fences::default();
        fences.insert(fence(8, 1, &[]));
        fences.insert(fence(9, 2, &[(2, 3)]));
        assert!(!fences.admit(&write(1, 1, 8)));
        assert_eq!(fences.merge(&[fence(8, 1, &[]), fence(10, 1, &[(1, 1)])]), Ok(true));
        assert!(fences.admit(&write(1, 1, 8)), "the holder of 10 had it");
        assert!(!fences.admit(&write(2, 4, 9)), "and did not have this");
    }

    #[test]
    fn only_the_newest_takeovers_are_remembered() {
        let mut fences = Fences::default();
        (1..=FENCES_MAX as u64 + 1).for_each(|epoch| fences.insert(fence(epoch, 1, &[])));
        assert_eq!(fences.iter().count(), FENCES_MAX);
        assert_eq!(fences.epoch(), FENCES_MAX as u64 + 1);
    }
}
