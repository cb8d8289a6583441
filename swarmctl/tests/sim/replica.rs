//! The model of a replica: which writes it holds, which epoch it has seen, whether it is the writer. It
//! replicates as the real one must: what was written under an epoch that has been passed over is set aside.

use std::collections::BTreeSet;

#[derive(Debug, Clone, Default)]
pub(crate) struct Replica {
    pub(crate) writes: BTreeSet<u64>,
    pub(crate) seen_epoch: u64,
    pub(crate) open: Option<u64>,
    pub(crate) set_aside: BTreeSet<u64>,
}

impl Replica {
    pub(crate) fn open(&mut self, epoch: u64) -> Result<(), u64> {
        if epoch < self.seen_epoch {
            return Err(self.seen_epoch);
        }
        self.seen_epoch = epoch;
        self.open = Some(epoch);
        Ok(())
    }

    /// The writer's epoch, unless a higher one was seen.
    pub(crate) fn fenced(&self) -> Option<u64> {
        self.open.filter(|epoch| *epoch < self.seen_epoch).map(|_| self.seen_epoch)
    }

    /// Takes what `other` has.
    pub(crate) fn pull(&mut self, other: &Self) {
        match other.seen_epoch.cmp(&self.seen_epoch) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => self.writes.extend(&other.writes),
            std::cmp::Ordering::Greater => {
                let tail: Vec<u64> = self.writes.difference(&other.writes).copied().collect();
                self.set_aside.extend(tail);
                self.writes = other.writes.clone();
                self.seen_epoch = other.seen_epoch;
            }
        }
    }
}
