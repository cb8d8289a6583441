//! The lease: which node may write to a volume, under which numbered epoch.
//!
//! # Semantics
//!
//! Each volume has one record, a [`LeaseState`], in a store that can do one thing atomically: replace
//! the record if it is still the one that was read (compare-and-swap). Three operations change it, and
//! nothing else does: there is no heartbeat and no expiry. Whether a holder is alive is not the lease's
//! business; Swarm's node state says that.
//!
//! - **Epochs only grow.** A volume that was never held has epoch 0; the first grant has epoch 1. Every
//!   grant (acquire or takeover, by whomever) raises the epoch, so that no epoch is ever granted twice.
//!   A grant's epoch is also above `at_least_epoch`, the highest epoch that the acquirer's replica has
//!   seen: a store that was lost and created anew continues above the old one, not from 1.
//! - **[`acquire`]** succeeds when no node holds the lease, or when the same node does. It is refused
//!   with [`Refused::Held`] while another node holds it, for however long.
//! - **[`release`]** is for the grant of the current epoch only. An older one is refused with
//!   [`Refused::Stale`]. Repeating a release whose answer was lost is accepted and changes nothing.
//! - **[`takeover`]** passes over a holder that is gone. The caller vouches that its policy
//!   ([`Takeover`]) allows it, and names the epoch that it saw: had the record moved since, the takeover
//!   is refused with [`Refused::Moved`].
//!
//! # The barrier
//!
//! `barrier` is what the last holder flushed before it released: the next one must hold at least that
//! before it writes. While the lease is held, the record still has the barrier on which the present
//! tenure began. A barrier always names a state in which no container had the volume mounted, so a free
//! lease with a barrier means: the volume at that barrier is consistent. A held one promises nothing
//! about what its holder has written since.
//!
//! # A node that comes back
//!
//! A node that acquires a lease which it holds already (its process or the machine crashed) gets a *new*
//! epoch. Its own disk has the newest data, so nothing is lost by letting it go on; but a writer that
//! survived the crash may still be at work under the old epoch, and the new epoch fences it off.
//! Returning the old epoch instead would make the two indistinguishable.
//!
//! # A tenure without release
//!
//! Such a grant, and that of a takeover, follow a tenure that ended without release: what was written in
//! it after the barrier exists on that node only, or is lost. The record keeps these tenures in
//! [`LeaseState::unreleased`] until one is released with a new barrier, so that not even a node that
//! crashes right after a takeover makes the loss go unannounced.
//!
//! Were such a grant given up unused (its mount failed) and the lease set free, a third node could acquire
//! it with the old barrier and never learn that newer data exists. Hence [`Release::Unused`] gives the
//! lease back to the node of the last unreleased tenure instead of freeing it.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use crate::barrier::Barrier;
use crate::name::{NodeName, VolumeName};

/// Most replicas that a record names.
pub const REPLICAS_MAX: usize = 64;
/// Most unreleased tenures that a record names; the oldest are forgotten first.
pub const UNRELEASED_MAX: usize = 16;

/// A volume's record in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// The volume.
    pub volume: VolumeName,
    /// The highest epoch granted so far; 0 when there was none.
    pub epoch: u64,
    /// The node that holds the lease, under `epoch`.
    pub holder: Option<NodeName>,
    /// What the last holder that released had flushed.
    pub barrier: Option<Barrier>,
    /// The nodes that were known to hold everything up to `barrier` when it was released; empty when the
    /// backend names none. At most [`REPLICAS_MAX`].
    pub replicas: BTreeSet<NodeName>,
    /// The tenures since `barrier` that ended without release, oldest first; of several in a row by one
    /// node, the last. At most [`UNRELEASED_MAX`].
    pub unreleased: Vec<Tenure>,
}

/// The right to write to a volume under one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The volume.
    pub volume: VolumeName,
    /// The node that may write.
    pub holder: NodeName,
    /// The epoch, never granted before.
    pub epoch: u64,
    /// What the holder's replica must have before it writes.
    pub barrier: Option<Barrier>,
    /// The tenures since `barrier` that ended without release, oldest first: what other nodes wrote in
    /// theirs may be missing here.
    pub unreleased: Vec<Tenure>,
    /// The store knew lower epochs only than the replica has seen: it was lost or restored from a
    /// backup, and `barrier` may be missing or too old.
    pub store_behind: bool,
}

/// A time during which one node held a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    /// The node.
    pub holder: NodeName,
    /// Its epoch.
    pub epoch: u64,
}

/// How a tenure ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Nothing that was written in it counts (the volume was never opened, or the replicas refused the
    /// epoch). The barrier stays as it is, and the node of the last unreleased tenure gets the lease back.
    Unused,
    /// Everything written in it is part of `barrier`, and is where it has to be.
    Flushed {
        /// What the next holder must have.
        barrier: Barrier,
        /// The nodes known to have it durably. The first [`REPLICAS_MAX`] are kept.
        replicas: BTreeSet<NodeName>,
    },
}

/// What to do about a lease whose holder is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Takeover {
    /// Wait for it to come back: a node that is merely cut off keeps its leases and goes on serving.
    #[default]
    Wait,
    /// Once the node is reported down, and for this long has not learnt from any manager that it is up, go on from the
    /// replica here. What the holder wrote and did not replicate is then missing, and is reported.
    NewestReplica {
        /// How long. Must be longer than a holder that reaches no manager goes on writing. Where it is not known what the
        /// node learnt when, it counts from the report.
        after: Duration,
    },
}

/// Why the record does not allow an operation. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another node holds the lease.
    #[error("the lease is held by {by} (epoch {epoch})")]
    Held {
        /// The holder.
        by: NodeName,
        /// Its epoch.
        epoch: u64,
    },
    /// The grant is not, or no longer, the current one.
    #[error("the grant of epoch {epoch} is stale: the lease is at epoch {current}{}", held_by(.holder))]
    Stale {
        /// The epoch of the grant.
        epoch: u64,
        /// The epoch of the record.
        current: u64,
        /// Who holds it now.
        holder: Option<NodeName>,
    },
    /// The record is not at the epoch that the takeover was decided on.
    #[error("the lease has moved from epoch {seen} to {current}: look again before taking it over")]
    Moved {
        /// The epoch that the caller saw.
        seen: u64,
        /// The epoch of the record.
        current: u64,
    },
    /// There is no higher epoch. Only a forged record or replica can lead here.
    #[error("epoch {epoch} is the last one: the record or the replica is corrupt")]
    Exhausted {
        /// The highest epoch known.
        epoch: u64,
    },
}

/// Why an operation on a lease failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The record does not allow it. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store gave no usable answer. Whether the record was changed is not known.
    #[error("the lease store is not available: {reason}")]
    Unavailable {
        /// What was wrong, in words.
        reason: String,
    },
    /// A takeover that the record allows, and that this node does not want. Nothing was changed.
    #[error("its lease is not taken over: {reason}")]
    Declined {
        /// Why not, and what to do about it, in words.
        reason: String,
    },
}

/// Leases on volumes, wherever their records are kept. The module describes what each operation means.
///
/// After [`LeaseError::Unavailable`] an operation may or may not have happened. `release` can simply be
/// repeated. A lost `acquire` or `takeover` may have left the lease with `holder`, who has to acquire it
/// again (which gives a new epoch) before it can be released.
pub trait Lease: Send + Sync + 'static {
    /// Takes the lease of `volume` for `holder`, under an epoch above `at_least_epoch`.
    fn acquire(
        &self,
        volume: &VolumeName,
        holder: &NodeName,
        at_least_epoch: u64,
    ) -> impl Future<Output = Result<Grant, LeaseError>> + Send;

    /// Ends the tenure of `grant`.
    fn release(
        &self,
        grant: &Grant,
        release: &Release,
    ) -> impl Future<Output = Result<(), LeaseError>> + Send;

    /// Takes the lease from the holder of `seen_epoch`, who is gone: the caller's policy allows it.
    fn takeover(
        &self,
        volume: &VolumeName,
        holder: &NodeName,
        seen_epoch: u64,
        at_least_epoch: u64,
    ) -> impl Future<Output = Result<Grant, LeaseError>> + Send;

    /// The record as it is now; [`LeaseState::vacant`] when there is none.
    fn observe(&self, volume: &VolumeName) -> impl Future<Output = Result<LeaseState, LeaseError>> + Send;
}

impl LeaseState {
    /// The record of a volume that was never held.
    pub fn vacant(volume: VolumeName) -> Self {
        Self {
            volume,
            epoch: 0,
            holder: None,
            barrier: None,
            replicas: BTreeSet::new(),
            unreleased: Vec::new(),
        }
    }
}

/// The record after `holder` acquired the lease, and its grant.
///
/// # Errors
/// [`Refused::Held`] while another node holds it; [`Refused::Exhausted`].
pub fn acquire(
    state: &LeaseState,
    holder: &NodeName,
    at_least_epoch: u64,
) -> Result<(LeaseState, Grant), Refused> {
    match &state.holder {
        Some(by) if by != holder => Err(Refused::Held { by: by.clone(), epoch: state.epoch }),
        _ => grant(state, holder, at_least_epoch),
    }
}

/// The record after `holder` took the lease from the holder of `seen_epoch`, and its grant.
///
/// A lease that was released under `seen_epoch` meanwhile is simply acquired.
///
/// # Errors
/// [`Refused::Moved`] when the record is at another epoch; [`Refused::Exhausted`].
pub fn takeover(
    state: &LeaseState,
    holder: &NodeName,
    seen_epoch: u64,
    at_least_epoch: u64,
) -> Result<(LeaseState, Grant), Refused> {
    if state.epoch != seen_epoch {
        return Err(Refused::Moved { seen: seen_epoch, current: state.epoch });
    }
    grant(state, holder, at_least_epoch)
}

/// The record after the tenure of `grant` ended.
///
/// # Errors
/// [`Refused::Stale`] when the record is not at the grant's epoch, or was released differently.
pub fn release(state: &LeaseState, grant: &Grant, release: &Release) -> Result<LeaseState, Refused> {
    let stale = || Refused::Stale { epoch: grant.epoch, current: state.epoch, holder: state.holder.clone() };
    if state.epoch != grant.epoch {
        return Err(stale());
    }
    let mut after = state.clone();
    match release {
        Release::Unused => {
            after.unreleased = grant.unreleased.clone();
            after.holder = after.unreleased.pop().map(|tenure| tenure.holder);
        }
        Release::Flushed { barrier, replicas } => {
            after.holder = None;
            after.barrier = Some(barrier.clone());
            after.replicas = replicas.iter().take(REPLICAS_MAX).cloned().collect();
            after.unreleased.clear();
        }
    }
    let repeated = after == *state;
    if repeated || state.holder.as_ref() == Some(&grant.holder) { Ok(after) } else { Err(stale()) }
}

fn grant(state: &LeaseState, holder: &NodeName, at_least_epoch: u64) -> Result<(LeaseState, Grant), Refused> {
    let highest = state.epoch.max(at_least_epoch);
    let epoch = highest.checked_add(1).ok_or(Refused::Exhausted { epoch: highest })?;
    let mut after = LeaseState { epoch, holder: Some(holder.clone()), ..state.clone() };
    if let Some(by) = &state.holder {
        after.unreleased.pop_if(|last| last.holder == *by);
        after.unreleased.push(Tenure { holder: by.clone(), epoch: state.epoch });
        let surplus = after.unreleased.len().saturating_sub(UNRELEASED_MAX);
        after.unreleased.drain(..surplus);
    }
    let grant = Grant {
        volume: after.volume.clone(),
        holder: holder.clone(),
        epoch,
        barrier: after.barrier.clone(),
        unreleased: after.unreleased.clone(),
        store_behind: state.epoch < at_least_epoch,
    };
    Ok((after, grant))
}

fn held_by(holder: &Option<NodeName>) -> String {
    holder.as_ref().map_or_else(String::new, |by| format!(", held by {by}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn vacant() -> LeaseState {
        LeaseState::vacant("data".parse().unwrap())
    }

    fn tenure(holder: &str, epoch: u64) -> Tenure {
        Tenure { holder: node(holder), epoch }
    }

    fn flushed(barrier: &str) -> Release {
        Release::Flushed { barrier: barrier.parse().unwrap(), replicas: BTreeSet::from([node("home-2")]) }
    }

    #[test]
    fn the_first_grant_has_epoch_one_and_no_barrier() {
        let (state, grant) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        assert_eq!((grant.epoch, &grant.barrier, &grant.unreleased), (1, &None, &vec![]));
        assert_eq!(state.holder, Some(node("home-1")));
    }

    #[test]
    fn another_node_is_refused_until_release_and_then_gets_the_barrier() {
        let (held, grant) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        let refused = acquire(&held, &node("home-2"), 0).unwrap_err();
        assert_eq!(refused, Refused::Held { by: node("home-1"), epoch: 1 });

        let free = release(&held, &grant, &flushed("b1")).unwrap();
        let (_, second) = acquire(&free, &node("home-2"), 0).unwrap();
        assert_eq!((second.epoch, second.barrier.unwrap().as_str()), (2, "b1"));
        assert_eq!(second.unreleased, []);
    }

    #[test]
    fn the_same_node_gets_a_new_epoch_that_fences_its_old_one() {
        let (held, old) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        let (again, new) = acquire(&held, &node("home-1"), 1).unwrap();
        assert_eq!(new.epoch, 2);
        assert_eq!(new.unreleased, [tenure("home-1", 1)]);
        let stale = release(&again, &old, &flushed("zombie")).unwrap_err();
        assert_eq!(stale, Refused::Stale { epoch: 1, current: 2, holder: Some(node("home-1")) });
    }

    #[test]
    fn a_takeover_needs_the_epoch_that_was_seen_and_names_what_it_passed_over() {
        let (held, old) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        let moved = takeover(&held, &node("home-2"), 0, 0).unwrap_err();
        assert_eq!(moved, Refused::Moved { seen: 0, current: 1 });
        let (taken, new) = takeover(&held, &node("home-2"), 1, 0).unwrap();
        assert_eq!(new.epoch, 2);
        assert_eq!(new.unreleased, [tenure("home-1", 1)]);
        assert!(release(&taken, &old, &flushed("late")).is_err());
    }

    #[test]
    fn a_new_store_continues_above_what_the_replica_has_seen_and_says_so() {
        let (_, grant) = acquire(&vacant(), &node("home-1"), 41).unwrap();
        assert_eq!((grant.epoch, grant.store_behind), (42, true));
    }

    #[test]
    fn a_repeated_release_is_accepted_a_different_one_is_not() {
        let (held, grant) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        let free = release(&held, &grant, &flushed("b1")).unwrap();
        assert_eq!(release(&free, &grant, &flushed("b1")).unwrap(), free);
        assert!(release(&free, &grant, &flushed("b2")).is_err());
    }

    #[test]
    fn an_unused_grant_leaves_the_barrier_alone_and_frees_a_clean_lease() {
        let (held, first) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        let free = release(&held, &first, &flushed("b1")).unwrap();
        let (held, second) = acquire(&free, &node("home-2"), 0).unwrap();
        let after = release(&held, &second, &Release::Unused).unwrap();
        assert_eq!((after.holder, after.barrier), (None, free.barrier));
        assert_eq!(after.epoch, 2);
    }

    #[test]
    fn an_unused_takeover_gives_the_lease_back_instead_of_hiding_newer_data() {
        let (held, _) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        let (taken, grant) = takeover(&held, &node("home-2"), 1, 0).unwrap();
        let after = release(&taken, &grant, &Release::Unused).unwrap();
        assert_eq!((after.holder.clone(), after.epoch), (Some(node("home-1")), 2));
        assert_eq!(release(&after, &grant, &Release::Unused).unwrap(), after, "repeated");
        assert!(acquire(&after, &node("home-3"), 0).is_err());
        assert_eq!(acquire(&after, &node("home-1"), 1).unwrap().1.epoch, 3);
    }

    #[test]
    fn tenures_without_release_stay_on_the_record_until_a_flushed_release() {
        let (state, _) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        let (state, _) = acquire(&state, &node("home-1"), 0).unwrap();
        let (state, _) = takeover(&state, &node("home-2"), 2, 0).unwrap();
        let (state, grant) = acquire(&state, &node("home-2"), 0).unwrap();
        assert_eq!(grant.unreleased, [tenure("home-1", 2), tenure("home-2", 3)]);
        let free = release(&state, &grant, &flushed("b")).unwrap();
        assert_eq!(free.unreleased, []);
    }

    #[test]
    fn unreleased_tenures_are_bounded_and_the_oldest_go_first() {
        let mut state = vacant();
        for turn in 0..UNRELEASED_MAX as u64 + 3 {
            let holder = node(if turn % 2 == 0 { "a" } else { "b" });
            state = takeover(&state, &holder, turn, 0).unwrap().0;
        }
        assert_eq!(state.unreleased.len(), UNRELEASED_MAX);
        assert_eq!(state.unreleased[0].epoch, 3);
    }

    #[test]
    fn the_last_epoch_is_refused_not_wrapped() {
        let refused = acquire(&vacant(), &node("home-1"), u64::MAX).unwrap_err();
        assert_eq!(refused, Refused::Exhausted { epoch: u64::MAX });
    }

    #[test]
    fn more_replicas_than_a_record_may_name_are_cut() {
        let (held, grant) = acquire(&vacant(), &node("home-1"), 0).unwrap();
        let replicas = (0..=REPLICAS_MAX).map(|n| node(&format!("n{n:03}"))).collect();
        let release_all = Release::Flushed { barrier: "b".parse().unwrap(), replicas };
        let free = release(&held, &grant, &release_all).unwrap();
        assert_eq!(free.replicas.len(), REPLICAS_MAX);
        assert_eq!(release(&free, &grant, &release_all).unwrap(), free, "repeated");
    }
}
