//! Lease records in memory, shared by all clones: for tests and for nodes that live in one process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::lease::{LeaseError, LeaseState};
use crate::name::VolumeName;
use crate::store::{LeaseStore, Stored, StoredLease, Swap};

/// Leases whose records are in memory. Clones share them.
pub type MemoryLease = StoredLease<MemoryStore>;

/// The records of a [`MemoryLease`], with a version each that a swap raises by one. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    records: Arc<Mutex<BTreeMap<VolumeName, Stored>>>,
}

impl LeaseStore for MemoryStore {
    async fn read(&self, volume: &VolumeName) -> Result<Option<Stored>, LeaseError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(records.get(volume).cloned())
    }

    async fn compare_and_swap(&self, version: Option<u64>, state: &LeaseState) -> Result<Swap, LeaseError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let current = records.get(&state.volume).map(|stored| stored.version);
        if current != version {
            return Ok(Swap::OutOfSequence);
        }
        let stored = Stored { version: current.map_or(1, |version| version + 1), state: state.clone() };
        records.insert(state.volume.clone(), stored);
        Ok(Swap::Done)
    }
}
