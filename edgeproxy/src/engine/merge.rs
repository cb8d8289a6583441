//! Owns the union of all providers' snapshots and decides when it is published: a change after a quiet time at once, a burst of changes
//! once per [`DEBOUNCE`]. Never looks into a container.

use crate::snapshot::Snapshot;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Shortest time between two publications.
pub const DEBOUNCE: Duration = Duration::from_millis(20);

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A provider reports everything that it knows; replaces what it reported before.
    Snapshot {
        /// The provider's name.
        provider: String,
        /// Its containers.
        snapshot: Snapshot,
    },
    /// Time has passed.
    Tick,
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Compile this snapshot and let requests use the table. Each container carries its provider's name.
    Publish(Snapshot),
}

/// The state machine.
#[derive(Debug, Default)]
pub struct Merge {
    latest: BTreeMap<String, Snapshot>,
    ready: bool,
    /// A change waits until then.
    due: Option<Instant>,
    /// No publication before then.
    quiet_until: Option<Instant>,
}

impl Merge {
    /// Takes an input at time `now`.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if let Input::Snapshot { provider, snapshot } = input
            && self.latest.get(&provider) != Some(&snapshot)
        {
            self.latest.insert(provider, snapshot);
            self.due.get_or_insert(self.quiet_until.map_or(now, |quiet| quiet.max(now)));
        }
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.ready = true;
            self.quiet_until = Some(now + DEBOUNCE);
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        std::mem::take(&mut self.ready).then(|| Output::Publish(self.merged()))
    }

    /// When to call [`Merge::handle`] at the latest. `None` means that everything reported so far was published.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    fn merged(&self) -> Snapshot {
        let mut merged = Snapshot::default();
        for (provider, snapshot) in &self.latest {
            merged.containers.extend(snapshot.containers.iter().cloned().map(|mut container| {
                container.provider.clone_from(provider);
                container
            }));
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Container;

    fn input(provider: &str, names: &[&str]) -> Input {
        let snapshot = names.iter().copied().map(Container::new).collect();
        Input::Snapshot { provider: provider.into(), snapshot }
    }

    fn published(merge: &mut Merge) -> Option<Vec<String>> {
        let Output::Publish(snapshot) = merge.poll()?;
        assert_eq!(merge.poll(), None, "one publication at a time");
        Some(snapshot.containers.into_iter().map(|c| format!("{}/{}", c.provider, c.name)).collect())
    }

    fn start() -> Instant {
        // The only way to get an Instant; its value is never looked at.
        #[allow(clippy::disallowed_methods)]
        Instant::now()
    }

    #[test]
    fn the_first_change_is_published_at_once_and_a_burst_once() {
        let (mut merge, t0) = (Merge::default(), start());
        merge.handle(t0, input("a", &["x"]));
        assert_eq!(published(&mut merge), Some(vec!["a/x".into()]));
        for n in 1..=10 {
            merge.handle(t0 + Duration::from_millis(n), input("b", &["y", "z"][..(n % 2) as usize + 1]));
            assert_eq!(published(&mut merge), None);
        }
        assert_eq!(merge.deadline(), Some(t0 + DEBOUNCE));
        merge.handle(t0 + DEBOUNCE, Input::Tick);
        assert_eq!(published(&mut merge), Some(vec!["a/x".into(), "b/y".into()]));
        assert_eq!(merge.deadline(), None);
    }

    #[test]
    fn the_same_snapshot_again_changes_nothing() {
        let (mut merge, t0) = (Merge::default(), start());
        merge.handle(t0, input("a", &["x"]));
        assert!(published(&mut merge).is_some());
        merge.handle(t0 + Duration::from_secs(9), input("a", &["x"]));
        assert_eq!((published(&mut merge), merge.deadline()), (None, None));
    }

    #[test]
    fn an_empty_first_snapshot_is_published_too() {
        let mut merge = Merge::default();
        merge.handle(start(), input("a", &[]));
        assert_eq!(published(&mut merge), Some(vec![]));
    }

    #[test]
    fn a_clock_that_goes_back_delays_but_never_loses() {
        let (mut merge, t0) = (Merge::default(), start() + Duration::from_secs(100));
        merge.handle(t0, input("a", &["x"]));
        assert!(published(&mut merge).is_some());
        merge.handle(t0 - Duration::from_secs(50), input("a", &["y"]));
        assert_eq!(published(&mut merge), None);
        let deadline = merge.deadline().unwrap();
        merge.handle(deadline, Input::Tick);
        assert_eq!(published(&mut merge), Some(vec!["a/y".into()]));
    }
}
