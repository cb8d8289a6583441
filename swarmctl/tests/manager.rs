//! The manager on tokio, with in-memory leases and replicas that share their writes when they are told to.
#![cfg(feature = "driver")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use swarmctl::engine::{Event, Unmounted};
use swarmctl::error::{AddError, MountError, UnmountError};
use swarmctl::lease::Grant;
use swarmctl::{
    BackendError, Barrier, Lease as _, LeaseError, MemoryLease, NodeName, Takeover, VolumeBackend,
    VolumeManager, VolumeOptions,
};
use tokio::sync::watch;

/// Far above what anything here takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// What all replicas hold: the number of the last flush that has reached them.
#[derive(Clone)]
struct Replicas(watch::Sender<u64>);

#[derive(Clone)]
struct Replica {
    node: NodeName,
    all: Replicas,
    state: Arc<Mutex<State>>,
    /// How the replica misbehaves.
    trouble: Trouble,
}

#[derive(Default)]
struct State {
    seen_epoch: u64,
    flushes: u64,
    open: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    NeverReplicates,
    OpenPanics,
    SeenHangs,
}

impl VolumeBackend for Replica {
    async fn seen_epoch(&self) -> Result<u64, BackendError> {
        if self.trouble == Trouble::SeenHangs {
            std::future::pending::<()>().await;
        }
        Ok(self.state.lock().unwrap().seen_epoch)
    }

    async fn catch_up(&self, barrier: &Barrier, timeout: Duration) -> Result<(), BackendError> {
        let needed: u64 = barrier.as_str().parse().map_err(BackendError::failed)?;
        let mut reached = self.all.0.subscribe();
        let wait = tokio::time::timeout(timeout, reached.wait_for(|flush| *flush >= needed)).await;
        match wait {
            Ok(_) => Ok(()),
            Err(_) => Err(BackendError::behind("12 changes from home-1")),
        }
    }

    async fn open(&self, grant: &Grant) -> Result<PathBuf, BackendError> {
        assert!(self.trouble != Trouble::OpenPanics, "a bug in the backend");
        let mut state = self.state.lock().unwrap();
        (state.seen_epoch, state.open) = (grant.epoch, true);
        Ok(format!("/volumes/{}", self.node).into())
    }

    async fn flush(&self) -> Result<Barrier, BackendError> {
        let mut state = self.state.lock().unwrap();
        state.flushes += 1;
        Barrier::new(state.flushes.to_string()).map_err(BackendError::failed)
    }

    async fn replicated(
        &self,
        barrier: &Barrier,
        timeout: Duration,
    ) -> Result<BTreeSet<NodeName>, BackendError> {
        if self.trouble == Trouble::NeverReplicates {
            tokio::time::sleep(timeout).await;
            return Err(BackendError::behind("home-2, which lacks 3 changes"));
        }
        let flush = barrier.as_str().parse().map_err(BackendError::failed)?;
        self.all.0.send_replace(flush);
        Ok(BTreeSet::from([self.node.clone()]))
    }

    async fn close(&self) -> Result<(), BackendError> {
        self.state.lock().unwrap().open = false;
        Ok(())
    }
}

type Manager = VolumeManager<MemoryLease, Replica>;

fn quick() -> VolumeOptions {
    let mut options = VolumeOptions::default();
    options.lease_poll = Duration::from_millis(5);
    options.progress_interval = Duration::from_millis(20);
    options
}

async fn node(
    name: &str,
    lease: &MemoryLease,
    all: &Replicas,
    trouble: Trouble,
    options: VolumeOptions,
) -> (Manager, Replica) {
    let name: NodeName = name.parse().unwrap();
    let manager = VolumeManager::new(name.clone(), lease.clone(), options);
    let replica = Replica { node: name, all: all.clone(), state: Arc::default(), trouble };
    manager.add("data".parse().unwrap(), replica.clone(), Takeover::Wait).await.unwrap();
    (manager, replica)
}

fn replicas() -> Replicas {
    Replicas(watch::Sender::new(0))
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("nothing here takes this long")
}

#[tokio::test]
async fn a_volume_moves_with_its_barrier_and_a_new_epoch() {
    let (lease, all) = (MemoryLease::default(), replicas());
    let (first, _) = node("home-1", &lease, &all, Trouble::None, quick()).await;
    let (second, replica) = node("home-2", &lease, &all, Trouble::None, quick()).await;

    assert_eq!(in_time(first.mount("data", "c1")).await.unwrap(), PathBuf::from("/volumes/home-1"));
    let waiting = tokio::spawn({
        let second = second.clone();
        async move { second.mount("data", "c2").await }
    });
    let mut events = second.events();
    let doing = loop {
        match in_time(events.recv()).await.unwrap() {
            Event::Waiting { doing, .. } => break doing,
            _ => continue,
        }
    };
    assert_eq!(doing, "waiting for the lease held by home-1 (epoch 1)");

    let barrier: Barrier = "1".parse().unwrap();
    let released = in_time(first.unmount("data", "c1")).await.unwrap();
    assert_eq!(released, Unmounted::Released { epoch: 1, barrier });
    assert_eq!(in_time(waiting).await.unwrap().unwrap(), PathBuf::from("/volumes/home-2"));

    let status = &second.status()[0];
    assert_eq!((status.state.as_str(), status.epoch, status.mounts), ("mounted", Some(2), 1));
    assert!(replica.state.lock().unwrap().open);
    let record = lease.observe(&"data".parse().unwrap()).await.unwrap();
    assert_eq!((record.epoch, record.holder), (2, Some("home-2".parse().unwrap())));
}

#[tokio::test]
async fn containers_of_one_node_share_the_mount_and_repeats_change_nothing() {
    let (lease, all) = (MemoryLease::default(), replicas());
    let (manager, _) = node("home-1", &lease, &all, Trouble::None, quick()).await;
    for id in ["c1", "c2", "c1"] {
        in_time(manager.mount("data", id)).await.unwrap();
    }
    assert_eq!(in_time(manager.unmount("data", "c1")).await.unwrap(), Unmounted::StillMounted { mounts: 1 });
    assert_eq!(in_time(manager.unmount("data", "c1")).await.unwrap(), Unmounted::NotMounted);
    assert!(matches!(
        in_time(manager.unmount("data", "c2")).await.unwrap(),
        Unmounted::Released { epoch: 1, .. }
    ));
    assert_eq!(in_time(manager.unmount("data", "c2")).await.unwrap(), Unmounted::NotMounted);
    let counters = manager.counters();
    assert_eq!((counters.mounted, counters.released), (3, 1));
}

#[tokio::test]
async fn a_mount_that_times_out_says_what_it_waited_for() {
    let (lease, all) = (MemoryLease::default(), replicas());
    let (first, _) = node("home-1", &lease, &all, Trouble::None, quick()).await;
    let mut options = quick();
    options.mount_deadline = Duration::from_millis(200);
    let (second, _) = node("home-2", &lease, &all, Trouble::None, options).await;

    in_time(first.mount("data", "c1")).await.unwrap();
    let held = in_time(second.mount("data", "c2")).await.unwrap_err().to_string();
    assert!(held.contains("waiting for the lease held by home-1 (epoch 1)"), "{held}");

    in_time(first.unmount("data", "c1")).await.unwrap();
    all.0.send_replace(0);
    let behind = in_time(second.mount("data", "c2")).await.unwrap_err().to_string();
    assert!(behind.contains("catching up: waiting for 12 changes from home-1"), "{behind}");
    // The lease that it got meanwhile is given back with the barrier as it was.
    let volume = "data".parse().unwrap();
    in_time(async {
        while lease.observe(&volume).await.unwrap().holder.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(lease.observe(&volume).await.unwrap().barrier, Some("1".parse().unwrap()));
}

#[tokio::test]
async fn a_node_whose_replicas_lag_keeps_the_lease_and_mounts_again_at_once() {
    let (lease, all) = (MemoryLease::default(), replicas());
    let mut options = quick();
    options.unmount_deadline = Duration::from_millis(200);
    let (manager, _) = node("home-1", &lease, &all, Trouble::NeverReplicates, options).await;
    in_time(manager.mount("data", "c1")).await.unwrap();
    let error = in_time(manager.unmount("data", "c1")).await.unwrap_err();
    let UnmountError::NotReplicated { epoch: 1, lagging, .. } = &error else { panic!("{error}") };
    assert!(lagging.contains("home-2, which lacks 3 changes"), "{lagging}");
    in_time(manager.mount("data", "c2")).await.unwrap();
    assert_eq!(manager.status()[0].epoch, Some(1));
}

#[tokio::test]
async fn a_backend_that_panics_or_hangs_fails_the_mount_and_nothing_else() {
    let (lease, all) = (MemoryLease::default(), replicas());
    let (panics, _) = node("home-1", &lease, &all, Trouble::OpenPanics, quick()).await;
    let error = in_time(panics.mount("data", "c1")).await.unwrap_err().to_string();
    assert!(
        error.contains("opening the replica for writing failed") && error.contains("panicked"),
        "{error}"
    );

    let mut options = quick();
    options.step_timeout = Duration::from_millis(50);
    let (hangs, _) = node("home-2", &lease, &all, Trouble::SeenHangs, options).await;
    let error = in_time(hangs.mount("data", "c2")).await.unwrap_err().to_string();
    assert!(error.contains("no answer within"), "{error}");

    let (works, _) = node("home-3", &lease, &all, Trouble::None, quick()).await;
    in_time(works.mount("data", "c3")).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_calls_its_mount_off() {
    let (lease, all) = (MemoryLease::default(), replicas());
    let (first, _) = node("home-1", &lease, &all, Trouble::None, quick()).await;
    let (second, _) = node("home-2", &lease, &all, Trouble::None, quick()).await;
    in_time(first.mount("data", "c1")).await.unwrap();
    let short = tokio::time::timeout(Duration::from_millis(50), second.mount("data", "c2")).await;
    assert!(short.is_err(), "the lease is held");
    in_time(async {
        while second.counters().mounts_failed == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(second.status()[0].waiting, 0);
}

#[tokio::test]
async fn a_new_process_settles_what_the_last_one_left() {
    let (lease, all) = (MemoryLease::default(), replicas());
    let (crashes, _) = node("home-1", &lease, &all, Trouble::None, quick()).await;
    in_time(crashes.mount("data", "c1")).await.unwrap();
    drop(crashes);
    let (next, _) = node("home-1", &lease, &all, Trouble::None, quick()).await;
    assert!(matches!(in_time(next.settle("data")).await.unwrap(), Unmounted::Released { epoch: 2, .. }));
    assert_eq!(in_time(next.settle("data")).await.unwrap(), Unmounted::NotMounted);
    assert_eq!(lease.observe(&"data".parse().unwrap()).await.unwrap().holder, None);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let (lease, all) = (MemoryLease::default(), replicas());
    let (manager, replica) = node("home-1", &lease, &all, Trouble::None, quick()).await;
    assert_eq!(manager.mount("mail", "c1").await.unwrap_err(), MountError::UnknownVolume("mail".into()));
    assert!(matches!(manager.mount("../etc", "c1").await.unwrap_err(), MountError::Name(_)));
    assert!(matches!(manager.unmount("data", "").await.unwrap_err(), UnmountError::Name(_)));
    let again = manager.add("data".parse().unwrap(), replica, Takeover::Wait).await.unwrap_err();
    assert_eq!(again, AddError::Exists("data".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_contention_every_grant_has_an_epoch_of_its_own() {
    let lease = MemoryLease::default();
    let tasks = (0..8).map(|task| {
        let lease = lease.clone();
        tokio::spawn(async move {
            let (volume, me) = ("data".parse().unwrap(), format!("node-{task}").parse().unwrap());
            let mut epochs = Vec::new();
            while epochs.len() < 50 {
                match lease.acquire(&volume, &me, 0).await {
                    Ok(grant) => {
                        epochs.push(grant.epoch);
                        tokio::task::yield_now().await;
                        let barrier = Barrier::new(grant.epoch.to_string()).unwrap();
                        let release =
                            swarmctl::lease::Release::Flushed { barrier, replicas: BTreeSet::new() };
                        lease.release(&grant, &release).await.unwrap();
                    }
                    Err(LeaseError::Refused(_)) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
            epochs
        })
    });
    let mut all = BTreeSet::new();
    for task in tasks.collect::<Vec<_>>() {
        for epoch in in_time(task).await.unwrap() {
            assert!(all.insert(epoch), "epoch {epoch} was granted twice");
        }
    }
    assert_eq!((all.len(), all.last()), (400, Some(&400)), "every epoch was granted, none was skipped");
}
