//! The store of lease records: one atomic primitive, and the [`Lease`] made from it.
//!
//! What a lease means is decided in [`crate::lease`] alone, by pure functions; a store only has to
//! replace a record if nobody else did.

use std::future::Future;

use crate::lease::{self, Grant, Lease, LeaseError, LeaseState, Refused, Release};
use crate::name::{NodeName, VolumeName};

/// How often an operation is tried again because another node changed the record in between.
pub const SWAP_ATTEMPTS_MAX: usize = 32;

/// A record as it was read, with the version that a later swap names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The store's version of the record. It changes with every swap.
    pub version: u64,
    /// The record.
    pub state: LeaseState,
}

/// The outcome of a compare-and-swap that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The record was replaced.
    Done,
    /// The record was not at the version any more (or did exist already); nothing was changed.
    OutOfSequence,
}

/// Where lease records are kept. Reads and swaps of one record are linearizable.
pub trait LeaseStore: Send + Sync + 'static {
    /// The record of `volume`.
    ///
    /// # Errors
    /// [`LeaseError::Unavailable`].
    fn read(&self, volume: &VolumeName) -> impl Future<Output = Result<Option<Stored>, LeaseError>> + Send;

    /// Replaces the record of `state.volume` by `state` if it is still at `version`; `None` creates it if
    /// there is none.
    ///
    /// # Errors
    /// [`LeaseError::Unavailable`]: the record may or may not have been replaced.
    fn compare_and_swap(
        &self,
        version: Option<u64>,
        state: &LeaseState,
    ) -> impl Future<Output = Result<Swap, LeaseError>> + Send;
}

/// [`Lease`] on any [`LeaseStore`].
#[derive(Debug, Clone, Default)]
pub struct StoredLease<S> {
    store: S,
}

impl<S: LeaseStore> StoredLease<S> {
    /// Leases on the records in `store`.
    pub fn new(store: S) -> Self {
        Self { store }
    }

    /// Reads, decides, swaps; again when another node was quicker.
    async fn update<T>(
        &self,
        volume: &VolumeName,
        decide: impl Fn(&LeaseState) -> Result<(LeaseState, T), Refused> + Send,
    ) -> Result<T, LeaseError> {
        for _ in 0..SWAP_ATTEMPTS_MAX {
            let stored = self.store.read(volume).await?;
            let (version, before) = match stored {
                Some(stored) => (Some(stored.version), stored.state),
                None => (None, LeaseState::vacant(volume.clone())),
            };
            let (after, value) = decide(&before)?;
            if after == before || self.store.compare_and_swap(version, &after).await? == Swap::Done {
                return Ok(value);
            }
        }
        let reason = format!("the record of {volume} changed {SWAP_ATTEMPTS_MAX} times while it was updated");
        Err(LeaseError::Unavailable { reason })
    }
}

impl<S: LeaseStore> Lease for StoredLease<S> {
    async fn acquire(
        &self,
        volume: &VolumeName,
        holder: &NodeName,
        at_least_epoch: u64,
    ) -> Result<Grant, LeaseError> {
        self.update(volume, |state| lease::acquire(state, holder, at_least_epoch)).await
    }

    async fn release(&self, grant: &Grant, release: &Release) -> Result<(), LeaseError> {
        self.update(&grant.volume, |state| Ok((lease::release(state, grant, release)?, ()))).await
    }

    async fn takeover(
        &self,
        volume: &VolumeName,
        holder: &NodeName,
        seen_epoch: u64,
        at_least_epoch: u64,
    ) -> Result<Grant, LeaseError> {
        self.update(volume, |state| lease::takeover(state, holder, seen_epoch, at_least_epoch)).await
    }

    async fn observe(&self, volume: &VolumeName) -> Result<LeaseState, LeaseError> {
        let stored = self.store.read(volume).await?;
        Ok(stored.map_or_else(|| LeaseState::vacant(volume.clone()), |stored| stored.state))
    }
}
