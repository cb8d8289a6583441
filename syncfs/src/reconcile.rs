//! [`reconcile`]: the one decision about one path, pure and the same on every replica.
//!
//! The three trees of a synchroniser are here two records: the synced base is what both version vectors have seen,
//! so "theirs changed and ours did not" is exactly "their vector is newer".

use crate::path::{NAME_BYTES_MAX, RelPath};
use crate::record::{Causality, Kind, Record, VersionVector};
use crate::status::Conflict;

/// What tells the name of a conflict copy from others.
const CONFLICT_MARK: &[u8] = b".conflict-";

/// What to do with a peer's version of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Ours is equal or newer: nothing.
    Keep,
    /// Both say the same: only remember that both histories were seen, under the name of one of the two.
    Merge {
        /// Whether the peer's record stands for both.
        theirs: bool,
        /// What both have seen.
        version: VersionVector,
    },
    /// Theirs replaces ours, which it has seen.
    Take,
    /// Written concurrently. The winner stays at the path; the loser is kept beside it under `copy`, unless there is
    /// nothing to keep (a deletion, a directory against a directory, or the same bytes with other times or attributes). The resolution must be a write of its own, that
    /// has seen both: two replicas that resolve different pairs of three versions could otherwise come to different
    /// contents under one vector.
    Conflict {
        /// Whether the peer's version wins.
        theirs_wins: bool,
        /// What both have seen; the resolution's own counter is to be added.
        version: VersionVector,
        /// Where the loser is kept.
        copy: Option<RelPath>,
    },
}

/// Decides between our version of a path, if any, and a peer's; both belong to the folder ([`Fences::admit`](crate::fence::Fences::admit)).
#[must_use]
pub fn reconcile(ours: Option<&Record>, theirs: &Record) -> Decision {
    let Some(ours) = ours else { return Decision::Take };
    match ours.version.compare(&theirs.version) {
        Causality::Equal | Causality::Newer => Decision::Keep,
        Causality::Older => Decision::Take,
        // The later lease began with the other version, whatever else that has seen: a write that its holder never knew, and that
        // said the same.
        Causality::Concurrent if ours.epoch < theirs.epoch => Decision::Take,
        Causality::Concurrent if ours.epoch > theirs.epoch => Decision::Keep,
        Causality::Concurrent => {
            let version = ours.version.merged(&theirs.version);
            let theirs_wins = theirs.rank(ours).is_gt();
            // A record tells who wrote it, under which counter: with what both have seen, that must still be this write.
            let stands = |record: &Record| version.counter(&record.by) == record.counter();
            match (stands(ours), stands(theirs)) {
                _ if ours.kind != theirs.kind => {}
                (true, true) => return Decision::Merge { theirs: theirs_wins, version },
                (true, false) => return Decision::Merge { theirs: false, version },
                (false, true) => return Decision::Merge { theirs: true, version },
                (false, false) => {}
            }
            let loser = if theirs_wins { ours } else { theirs };
            let worth_keeping =
                loser.kind.is_live() && !loser.kind.is_dir() && !ours.kind.holds_same(&theirs.kind);
            Decision::Conflict { theirs_wins, version, copy: worth_keeping.then(|| conflict_path(loser)) }
        }
    }
}

/// The name beside its path under which a version that lost is kept:
/// `name.conflict-<YYYYMMDD-HHMMSS>-<device>-<counter>.ext`, of its modification time (UTC) and its writer, so that every replica
/// picks the same one. The writer's counter (hexadecimal) at the end of
/// the label makes the name that of exactly one version.
#[must_use]
pub fn conflict_path(loser: &Record) -> RelPath {
    let mtime_ns = match &loser.kind {
        Kind::File { mtime_ns, .. } => *mtime_ns,
        _ => 0,
    };
    let label = format!("{}-{}-{:x}", utc_stamp(mtime_ns), loser.by.short(), loser.counter());
    let label = [CONFLICT_MARK, label.as_bytes()].concat();
    let name = loser.path.name();
    let dot = name.iter().rposition(|&byte| byte == b'.').filter(|&at| at > 0 && name.len() - at <= 16);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let room = NAME_BYTES_MAX - label.len() - extension.len();
    let stem = &stem[..stem.len().min(room)];
    let name = [stem, &label, extension].concat();
    // Only a path at the very limit of length has no room: then the copy stands at the top of the folder.
    loser
        .path
        .with_name(&name)
        .or_else(|_| RelPath::new(&name))
        .expect("a conflict name is not empty, not reserved, has no slash and fits NAME_BYTES_MAX")
}

/// The conflict that a path is the kept version of, by its name alone: so every replica lists the same ones, and a
/// conflict is over when its copy is gone. Of a name that had to be shortened the original is not told whole.
#[must_use]
pub fn conflict_of(copy: &RelPath) -> Option<Conflict> {
    let name = copy.name();
    let at = name.windows(CONFLICT_MARK.len()).rposition(|part| part == CONFLICT_MARK)?;
    let (stem, rest) = (&name[..at], &name[at + CONFLICT_MARK.len()..]);
    let end = rest.iter().position(|&byte| byte == b'.').unwrap_or(rest.len());
    let (label, extension) = rest.split_at(end);
    let fields: Vec<&[u8]> = label.split(|&byte| byte == b'-').collect();
    let [date, time, writer, counter] = fields[..] else { return None };
    let digits = |field: &[u8], len: usize| field.len() == len && field.iter().all(u8::is_ascii_digit);
    let is_label = digits(date, 8)
        && digits(time, 6)
        && writer.len() == 8
        && writer.iter().all(u8::is_ascii_alphanumeric)
        && (1..=16).contains(&counter.len())
        && counter.iter().all(u8::is_ascii_hexdigit);
    let path = copy.with_name(&[stem, extension].concat()).ok().filter(|_| is_label)?;
    Some(Conflict { path, kept_as: copy.clone(), writer: String::from_utf8_lossy(writer).into_owned() })
}

/// `YYYYMMDD-HHMMSS` in UTC; days to civil date after Howard Hinnant's `civil_from_days`.
fn utc_stamp(time_ns: i64) -> String {
    let seconds = time_ns.div_euclid(1_000_000_000);
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceId;
    use crate::hash::ContentHash;
    use crate::record::{Attributes, Chunk, Content};
    use proptest::prelude::*;

    fn device(id: u8) -> DeviceId {
        DeviceId::from_bytes([id; 32])
    }

    fn file(by: u8, counter: u64, mtime_ns: i64, text: &str) -> Record {
        let content =
            Content::new(vec![Chunk { hash: ContentHash::of(text.as_bytes()), length: text.len() as u32 }]);
        Record {
            path: RelPath::new("dir/notes.txt").unwrap(),
            kind: Kind::File { attributes: Attributes::of_mode(0o644), mtime_ns, content, link: None },
            version: [(device(by), counter)].into_iter().collect(),
            by: device(by),
            epoch: 0,
        }
    }

    #[test]
    fn the_newer_one_wins_and_the_loser_keeps_its_extension() {
        let (ours, theirs) = (file(1, 1, 1_000_000_000, "a"), file(2, 1, 2_000_000_000, "b"));
        let Decision::Conflict { theirs_wins: true, copy: Some(copy), .. } = reconcile(Some(&ours), &theirs)
        else {
            panic!("expected a conflict that theirs wins");
        };
        let name = copy.to_string();
        assert!(name.starts_with("dir/notes.conflict-19700101-000001-"), "{name}");
        assert!(name.ends_with("-1.txt"), "{name}");
        let conflict = conflict_of(&copy).expect("the name tells");
        assert_eq!((conflict.path, conflict.writer), (ours.path.clone(), ours.by.short()));
        assert_eq!(conflict.kept_as, copy);
    }

    #[test]
    fn a_name_that_only_resembles_a_copy_is_no_conflict() {
        for name in [
            "a.conflict-.txt",
            "a.conflict-20261124-120000-abcdefgh.txt",
            "a.conflict-2026-1-abcdefgh-1",
            "conflict",
        ] {
            assert_eq!(conflict_of(&RelPath::new(name).unwrap()), None, "{name}");
        }
    }

    #[test]
    fn an_edit_beats_a_deletion_and_nothing_is_kept_beside() {
        let edit = file(1, 1, 5, "a");
        let deletion = Record { kind: Kind::Deleted, ..file(2, 1, 9, "b") };
        for (ours, theirs, wins) in [(&edit, &deletion, false), (&deletion, &edit, true)] {
            let Decision::Conflict { theirs_wins, copy: None, .. } = reconcile(Some(ours), theirs) else {
                panic!("expected a conflict without a copy");
            };
            assert_eq!(theirs_wins, wins);
        }
    }

    #[test]
    fn the_later_lease_builds_on_the_other_version_whatever_that_has_seen() {
        let mut before = file(1, 1, 5, "a");
        before.version.raise(device(3), 7);
        let under_lease = Record { epoch: 4, ..file(2, 1, 1, "b") };
        assert_eq!(reconcile(Some(&before), &under_lease), Decision::Take);
        assert_eq!(reconcile(Some(&under_lease), &before), Decision::Keep);
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(utc_stamp(951_782_400_000_000_000), "20000229-000000");
        assert_eq!(utc_stamp(1_796_041_234_000_000_000), "20261130-122034");
        assert_eq!(utc_stamp(-1), "19691231-235959");
    }

    #[test]
    fn a_conflict_name_fits_even_where_the_path_is_full() {
        let mut loser = file(1, 1, 0, "a");
        loser.path = RelPath::new(vec![b'n'; NAME_BYTES_MAX]).unwrap();
        assert!(conflict_path(&loser).name().len() <= NAME_BYTES_MAX);
        loser.path = RelPath::new(vec!["d".repeat(127); 16].join("/")).unwrap();
        assert_eq!(conflict_path(&loser).depth(), 1, "no room below a path of full length");
    }

    fn any_record() -> impl Strategy<Value = Record> {
        (0_u8..3, 1_u64..3, 0_u8..4, 0_i64..3, proptest::collection::btree_map(0_u8..3, 1_u64..3, 0..3))
            .prop_map(|(by, counter, kind, mtime, seen)| {
                let mut record = file(by, counter, mtime, if mtime == 0 { "x" } else { "y" });
                record.kind = match kind {
                    0 => Kind::Deleted,
                    1 => Kind::Dir { attributes: Attributes::of_mode(0o755) },
                    2 => Kind::Symlink { owner: None, target: b"t".to_vec() },
                    _ => record.kind,
                };
                seen.into_iter().for_each(|(id, seen)| record.version.raise(device(id), seen));
                record
            })
    }

    proptest! {
        #[test]
        fn both_sides_come_to_the_same_version(a in any_record(), b in any_record()) {
            prop_assume!(!(a.by == b.by && a.counter() == b.counter() && a.kind != b.kind));
            let after = |ours: &Record, theirs: &Record| match reconcile(Some(ours), theirs) {
                Decision::Keep => (ours.kind.clone(), ours.version.clone(), None),
                Decision::Take => (theirs.kind.clone(), theirs.version.clone(), None),
                Decision::Merge { theirs: true, version } => (theirs.kind.clone(), version, None),
                Decision::Merge { theirs: false, version } => (ours.kind.clone(), version, None),
                Decision::Conflict { theirs_wins, version, copy } => {
                    ((if theirs_wins { theirs } else { ours }).kind.clone(), version, copy)
                }
            };
            if a.version != b.version {
                prop_assert_eq!(after(&a, &b), after(&b, &a));
            }
            prop_assert_eq!(reconcile(Some(&a), &a), Decision::Keep);
        }
    }
}
