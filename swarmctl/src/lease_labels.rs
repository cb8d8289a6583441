//! The lease record as labels, the form in which it lives in Swarm's Raft store (a config's labels are
//! the part of it that can be updated).
//!
//! Version 1, all keys below [`LABEL_PREFIX`]; labels outside the prefix are somebody else's:
//!
//! | key | value | present |
//! |---|---|---|
//! | `version` | `1` | always |
//! | `volume` | volume name | always |
//! | `epoch` | decimal, no sign, no leading zero | always |
//! | `holder` | node name | while held |
//! | `barrier` | the backend's text | after the first flushed release |
//! | `replicas` | node names in order, joined by `,` | when not empty |
//! | `unreleased` | `node:epoch`, oldest first, joined by `,` | when not empty |
//!
//! Decoding is total and strict: whatever the encoder would not have written is refused, so that a record
//! is never half understood.

use std::collections::{BTreeMap, BTreeSet};

use crate::barrier::{Barrier, BarrierError};
use crate::lease::{LeaseState, REPLICAS_MAX, Tenure, UNRELEASED_MAX};
use crate::name::{NameError, NodeName};

/// What the keys of the record begin with.
pub const LABEL_PREFIX: &str = "swarmctl.lease.";
/// The version of the form that is written and understood.
pub const LABELS_VERSION: &str = "1";

const KEYS: [&str; 7] = ["version", "volume", "epoch", "holder", "barrier", "replicas", "unreleased"];

/// Why labels are not a lease record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// A label that every record has is not there.
    #[error("the label {LABEL_PREFIX}{0} is missing: this object holds no lease")]
    Missing(&'static str),
    /// The record was written by a newer release.
    #[error("the lease record has version {0:?}, this release reads {LABELS_VERSION}: update this node")]
    Version(String),
    /// A label below the prefix that this version does not have.
    #[error("the label {LABEL_PREFIX}{0} is not part of a version {LABELS_VERSION} lease record")]
    Unknown(String),
    /// The epoch is not a number in canonical form.
    #[error("the epoch {0:?} is not a number")]
    Epoch(String),
    /// A name is not valid.
    #[error("the lease record: {0}")]
    Name(#[from] NameError),
    /// The barrier is not valid.
    #[error("the lease record: {0}")]
    Barrier(#[from] BarrierError),
    /// The list of replicas is empty, too long, or not in order.
    #[error("the replicas of the lease record must be 1 to {REPLICAS_MAX} names in order, each once")]
    Replicas,
    /// The list of unreleased tenures is empty, too long, or malformed.
    #[error(
        "the unreleased tenures of the lease record must be 1 to {UNRELEASED_MAX} of the form node:epoch"
    )]
    Unreleased,
}

impl LeaseState {
    /// The record as labels.
    pub fn to_labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let mut put = |key: &str, value: String| labels.insert(format!("{LABEL_PREFIX}{key}"), value);
        put("version", LABELS_VERSION.to_owned());
        put("volume", self.volume.to_string());
        put("epoch", self.epoch.to_string());
        if let Some(holder) = &self.holder {
            put("holder", holder.to_string());
        }
        if let Some(barrier) = &self.barrier {
            put("barrier", barrier.to_string());
        }
        if !self.replicas.is_empty() {
            let names: Vec<&str> = self.replicas.iter().map(NodeName::as_str).collect();
            put("replicas", names.join(","));
        }
        if !self.unreleased.is_empty() {
            let tenures: Vec<String> =
                self.unreleased.iter().map(|it| format!("{}:{}", it.holder, it.epoch)).collect();
            put("unreleased", tenures.join(","));
        }
        labels
    }

    /// The record that `labels` hold; labels outside [`LABEL_PREFIX`] are ignored.
    ///
    /// # Errors
    /// When they hold none, one of another version, or one that [`Self::to_labels`] would not have written.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Result<Self, LabelsError> {
        let field = |key: &str| labels.get(&format!("{LABEL_PREFIX}{key}")).map(String::as_str);
        let required = |key: &'static str| field(key).ok_or(LabelsError::Missing(key));

        let version = required("version")?;
        if version != LABELS_VERSION {
            return Err(LabelsError::Version(version.chars().take(16).collect()));
        }
        for key in labels.keys().filter_map(|key| key.strip_prefix(LABEL_PREFIX)) {
            if !KEYS.contains(&key) {
                return Err(LabelsError::Unknown(key.chars().take(64).collect()));
            }
        }
        Ok(Self {
            volume: required("volume")?.parse()?,
            epoch: epoch(required("epoch")?)?,
            holder: field("holder").map(str::parse).transpose()?,
            barrier: field("barrier").map(Barrier::new).transpose()?,
            replicas: field("replicas").map_or(Ok(BTreeSet::new()), replicas)?,
            unreleased: field("unreleased").map_or(Ok(Vec::new()), unreleased)?,
        })
    }
}

fn epoch(text: &str) -> Result<u64, LabelsError> {
    let epoch = text.parse::<u64>().ok().filter(|epoch| epoch.to_string() == text);
    epoch.ok_or_else(|| LabelsError::Epoch(text.chars().take(24).collect()))
}

fn replicas(text: &str) -> Result<BTreeSet<NodeName>, LabelsError> {
    let mut names = BTreeSet::new();
    for name in text.split(',') {
        let name: NodeName = name.parse()?;
        if names.len() == REPLICAS_MAX || names.last().is_some_and(|last| *last >= name) {
            return Err(LabelsError::Replicas);
        }
        names.insert(name);
    }
    Ok(names)
}

fn unreleased(text: &str) -> Result<Vec<Tenure>, LabelsError> {
    let mut tenures = Vec::new();
    for tenure in text.split(',') {
        if tenures.len() == UNRELEASED_MAX {
            return Err(LabelsError::Unreleased);
        }
        let (holder, number) = tenure.split_once(':').ok_or(LabelsError::Unreleased)?;
        tenures.push(Tenure { holder: holder.parse()?, epoch: epoch(number)? });
    }
    Ok(tenures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> LeaseState {
        LeaseState {
            volume: "git_data".parse().unwrap(),
            epoch: 18_446_744_073_709_551_615,
            holder: Some("home-1".parse().unwrap()),
            barrier: Some("f3a9:home-1:812".parse().unwrap()),
            replicas: BTreeSet::from(["home-1".parse().unwrap(), "home-2".parse().unwrap()]),
            unreleased: vec![
                Tenure { holder: "home-2".parse().unwrap(), epoch: 7 },
                Tenure { holder: "home-1".parse().unwrap(), epoch: 8 },
            ],
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("{LABEL_PREFIX}{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn golden_vectors_of_version_1() {
        let golden = labels(&[
            ("version", "1"),
            ("volume", "git_data"),
            ("epoch", "18446744073709551615"),
            ("holder", "home-1"),
            ("barrier", "f3a9:home-1:812"),
            ("replicas", "home-1,home-2"),
            ("unreleased", "home-2:7,home-1:8"),
        ]);
        assert_eq!(full().to_labels(), golden);
        assert_eq!(LeaseState::from_labels(&golden).unwrap(), full());

        let least = labels(&[("version", "1"), ("volume", "v"), ("epoch", "0")]);
        let vacant = LeaseState::vacant("v".parse().unwrap());
        assert_eq!(vacant.to_labels(), least);
        assert_eq!(LeaseState::from_labels(&least).unwrap(), vacant);
    }

    #[test]
    fn labels_of_others_are_ignored() {
        let mut labels = full().to_labels();
        labels.insert("com.docker.stack.namespace".into(), "web".into());
        assert_eq!(LeaseState::from_labels(&labels).unwrap(), full());
    }

    #[test]
    fn what_the_encoder_would_not_have_written_is_refused() {
        for (key, value) in [
            ("version", "2"),
            ("volume", ""),
            ("volume", "../etc"),
            ("epoch", "-1"),
            ("epoch", "+1"),
            ("epoch", "007"),
            ("epoch", "18446744073709551616"),
            ("holder", ""),
            ("barrier", "a\u{0}b"),
            ("replicas", ""),
            ("replicas", "a,,b"),
            ("replicas", "b,a"),
            ("replicas", "a,a"),
            ("unreleased", ""),
            ("unreleased", "home-1"),
            ("unreleased", "home-1:"),
            ("unreleased", "home-1:7:8"),
            ("surplus", "1"),
        ] {
            let mut labels = full().to_labels();
            labels.insert(format!("{LABEL_PREFIX}{key}"), value.to_owned());
            assert!(LeaseState::from_labels(&labels).is_err(), "{key}={value:?}");
        }
        for key in ["version", "volume", "epoch"] {
            let mut labels = full().to_labels();
            labels.remove(&format!("{LABEL_PREFIX}{key}"));
            assert_eq!(LeaseState::from_labels(&labels), Err(LabelsError::Missing(key)));
        }
    }

    #[test]
    fn the_limits_of_both_lists_are_exact() {
        let names = |count: usize| (0..count).map(|n| format!("n{n:03}")).collect::<Vec<_>>().join(",");
        let base = [("version", "1"), ("volume", "v"), ("epoch", "1")];
        let with = |key: &str, list: &str| {
            let mut all = labels(&base);
            all.insert(format!("{LABEL_PREFIX}{key}"), list.to_owned());
            LeaseState::from_labels(&all)
        };
        assert_eq!(with("replicas", &names(REPLICAS_MAX)).unwrap().replicas.len(), REPLICAS_MAX);
        assert_eq!(with("replicas", &names(REPLICAS_MAX + 1)), Err(LabelsError::Replicas));

        let tenures = |count: usize| vec!["home-1:7"; count].join(",");
        assert_eq!(with("unreleased", &tenures(UNRELEASED_MAX)).unwrap().unreleased.len(), UNRELEASED_MAX);
        assert_eq!(with("unreleased", &tenures(UNRELEASED_MAX + 1)), Err(LabelsError::Unreleased));
    }
}
