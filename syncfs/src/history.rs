//! [`History`]: which replaced versions of a path are worth keeping, and for how long. Only arithmetic on times; where the
//! contents are is the driver's.
//!
//! History is of what *peers* replaced or deleted here: that content is in this replica's hands when its place is given
//! away. What a local program overwrites is gone before anybody can look, and is not in any history of this replica (it may be
//! in that of a peer, which had it).

use std::time::Duration;

use crate::device::DeviceId;
use crate::hash::ContentHash;
use crate::path::RelPath;

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
/// Up to this age (seconds), one version is kept in each so many seconds; beyond, one a week.
const STAGGER: [(i64, i64); 3] = [(3600, 30), (86_400, 3600), (30 * 86_400, 86_400)];
/// One a week.
const WEEK: i64 = 7 * 86_400;

/// What is kept of versions that peers replace or delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum History {
    /// Nothing.
    #[default]
    Off,
    /// The last replaced version of each path.
    Trash {
        /// For this long.
        keep: Duration,
    },
    /// Many versions of each path, thinned out as they age: one in 30 s for an hour, one an hour for a day, one a day for 30
    /// days, then one a week.
    Staggered {
        /// None older than this.
        max_age: Duration,
    },
}

/// One kept version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// Its number in this replica's history.
    pub id: u64,
    /// Where it stood.
    pub path: RelPath,
    /// Its content.
    pub root: ContentHash,
    /// Its size in bytes.
    pub size: u64,
    /// Its permission bits (`0o7777`).
    pub mode: u32,
    /// Its modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// When it was replaced here, nanoseconds since 1970.
    pub replaced_ns: i64,
    /// Whose version took its place.
    pub by: DeviceId,
    /// Whether that was a deletion.
    pub deleted: bool,
}

/// Which version is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The one that stood there at this moment, nanoseconds since 1970, as far as it is kept.
    Time(i64),
    /// This one: [`Version::id`].
    Version(u64),
}

impl History {
    /// Whether a version that is replaced now is kept at all, when the newest kept one of its path was replaced at `last`. A
    /// database that changes every second does not fill the history.
    #[must_use]
    pub fn takes(&self, last_ns: Option<i64>, now_ns: i64) -> bool {
        match self {
            Self::Off => false,
            Self::Trash { .. } => true,
            // A clock that went back is no reason to keep nothing.
            Self::Staggered { .. } => last_ns
                .is_none_or(|last| last > now_ns || now_ns.saturating_sub(last) >= STAGGER[0].1 * SECOND),
        }
    }

    /// Which of a path's versions, given by the times of their replacement in ascending order, are kept no longer.
    #[must_use]
    pub fn expired(&self, replaced_ns: &[i64], now_ns: i64) -> Vec<usize> {
        let too_old = |at: i64, age: &Duration| {
            i128::from(now_ns) - i128::from(at) > i128::try_from(age.as_nanos()).unwrap_or(i128::MAX)
        };
        let mut kept = None;
        let drop = |(number, &at): (usize, &i64)| {
            let drop = match self {
                Self::Off => true,
                Self::Trash { keep } => number + 1 < replaced_ns.len() || too_old(at, keep),
                Self::Staggered { max_age } => {
                    let near = kept.is_some_and(|kept: i64| at.saturating_sub(kept) < interval(at, now_ns));
                    near || too_old(at, max_age)
                }
            };
            if !drop {
                kept = Some(at);
            }
            drop.then_some(number)
        };
        replaced_ns.iter().enumerate().filter_map(drop).collect()
    }
}

/// How far two kept versions of this age are apart, in nanoseconds.
fn interval(at_ns: i64, now_ns: i64) -> i64 {
    let age = now_ns.saturating_sub(at_ns);
    let step = STAGGER.iter().find(|(up_to, _)| age <= up_to * SECOND);
    step.map_or(WEEK, |(_, interval)| *interval) * SECOND
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400 * SECOND;
    const YEAR: History = History::Staggered { max_age: Duration::from_secs(365 * 86_400) };

    #[test]
    fn a_trash_keeps_the_last_version_for_its_days() {
        let trash = History::Trash { keep: Duration::from_secs(86_400) };
        assert_eq!(trash.expired(&[1, 2, 3], 4), [0, 1]);
        assert_eq!(trash.expired(&[5], 5 + DAY), Vec::<usize>::new());
        assert_eq!(trash.expired(&[5], 6 + DAY), [0]);
        assert!(trash.takes(Some(4), 4) && !History::Off.takes(None, 4));
    }

    #[test]
    fn staggered_versions_are_thinned_out_as_they_age() {
        let now = 400 * DAY;
        let every = |step: i64, from: i64, to: i64| -> Vec<i64> {
            (0..).map(|number| now - from + number * step).take_while(|at| *at <= now - to).collect()
        };
        let left = |times: &[i64]| times.len() - YEAR.expired(times, now).len();
        assert_eq!(left(&every(30 * SECOND, 3600 * SECOND, 0)), 121, "one in 30 s for an hour");
        assert_eq!(left(&every(60 * SECOND, DAY, 2 * 3600 * SECOND)), 23, "hourly for a day");
        assert_eq!(left(&every(3600 * SECOND, 30 * DAY, 2 * DAY)), 29, "daily for thirty");
        assert_eq!(left(&every(DAY, 364 * DAY, 31 * DAY)), 48, "then weekly");
        assert_eq!(left(&every(DAY, 390 * DAY, 366 * DAY)), 0, "and none beyond the age");
        assert!(!YEAR.takes(Some(now - 29 * SECOND), now) && YEAR.takes(Some(now - 30 * SECOND), now));
        assert!(YEAR.takes(Some(now + DAY), now), "a clock that went back");
    }

    proptest! {
        #[test]
        fn thinning_again_at_once_drops_nothing(mut times in proptest::collection::vec(0..400 * DAY, 0..40)) {
            times.sort_unstable();
            let now = 400 * DAY;
            let expired = YEAR.expired(&times, now);
            let left: Vec<_> = (0..times.len()).filter(|n| !expired.contains(n)).map(|n| times[n]).collect();
            prop_assert_eq!(YEAR.expired(&left, now), Vec::<usize>::new());
        }

        #[test]
        fn no_time_is_too_strange(times in proptest::collection::vec(any::<i64>(), 0..10), now in any::<i64>()) {
            let _ = YEAR.expired(&times, now);
            let _ = History::Trash { keep: Duration::MAX }.expired(&times, now);
        }
    }
}
