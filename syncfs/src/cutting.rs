//! How state is cut that is more than one file: the rules of a folder, which paths are one *group*, and what a replica knows
//! of the consistency of what it has.
//!
//! A SQLite database needs no rule: each of its versions is a cut of its own. Any other file is replicated continuously, by
//! itself, and is *loose* from its change on: an application that was killed in the middle of a few writes, somewhere
//! else, might not cope with what it finds. Loose files are settled when the writer says that nothing has them open any more
//! (`Folder::seal`, after the last unmount), or by a rule, which makes a group of some paths: they are read in one window
//! in which none of them changed, by themselves or between two commands that see to it, told to peers together, and become
//! visible there together.

use std::collections::BTreeSet;
use std::time::Duration;

use thiserror::Error;

use crate::path::RelPath;
use crate::record::{Causality, VECTOR_DEVICES_MAX, VersionVector};

/// Most groups of one folder.
pub const GROUPS_MAX: usize = 64;
/// Most paths that all groups of a folder name together.
pub const GROUP_PATHS_MAX: usize = 256;
/// Most loose paths that are remembered by name.
pub const LOOSE_MAX: usize = 16;

/// How some paths of a folder are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutRule {
    /// Files, and directories with all that is in them.
    pub paths: Vec<RelPath>,
    /// How.
    pub by: CutBy,
}

impl CutRule {
    /// A rule.
    #[must_use]
    pub const fn new(paths: Vec<RelPath>, by: CutBy) -> Self {
        Self { paths, by }
    }
}

/// What makes a cut of some paths.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CutBy {
    /// A group that is read while it is used: what changed of it, until nothing does for as long as it takes to read the last of
    /// that. Until then, its last cut stays.
    Live,
    /// A group that is read between two commands, and only there.
    Hook(Hook),
    /// No cut: consistent once nothing has it open any more. So is all that no rule names, except databases.
    Stopped,
}

/// Commands around a cut: to make a dump and to remove it, or to make an application pause and go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Program and arguments, without a shell, run in the folder's root. There is no cut if it fails, or if what was to be
    /// cut changes while it is read.
    pub before: Vec<String>,
    /// Run after the cut, and also if there was none; may be empty.
    pub after: Vec<String>,
    /// How long each of them may take.
    pub timeout: Duration,
    /// How often this is done, besides at each flush.
    pub every: Duration,
}

/// Why a rule makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CutRuleError {
    /// It is about nothing.
    #[error("a cut rule names no path")]
    Empty,
    /// Two rules are about the same.
    #[error("two cut rules are about {0}: name it in one of them only")]
    Twice(RelPath),
    /// There are too many.
    #[error(
        "the cut rules name too much: {GROUPS_MAX} groups of {GROUP_PATHS_MAX} paths together are the limit"
    )]
    TooMany,
    /// A hook that does nothing.
    #[error("the hook for {0} names no command to run before the cut")]
    NoCommand(RelPath),
}

/// Checks the rules of a folder.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_rules(rules: &[CutRule]) -> Result<(), CutRuleError> {
    let mut seen: Vec<&RelPath> = Vec::new();
    for rule in rules {
        let first = rule.paths.first().ok_or(CutRuleError::Empty)?;
        if matches!(&rule.by, CutBy::Hook(hook) if hook.before.is_empty()) {
            return Err(CutRuleError::NoCommand(first.clone()));
        }
        for path in &rule.paths {
            if seen.iter().any(|other| covers(other, path) || covers(path, other)) {
                return Err(CutRuleError::Twice(path.clone()));
            }
            seen.push(path);
        }
    }
    if rules.len() > GROUPS_MAX || seen.len() > GROUP_PATHS_MAX {
        return Err(CutRuleError::TooMany);
    }
    Ok(())
}

fn covers(top: &RelPath, path: &RelPath) -> bool {
    path == top || path.is_below(top)
}

/// Paths that belong together, named by the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(Vec<RelPath>);

impl Group {
    /// A group of these paths; `None` of none.
    #[must_use]
    pub fn new(paths: Vec<RelPath>) -> Option<Self> {
        (!paths.is_empty()).then_some(Self(paths))
    }

    /// By what it is called.
    #[must_use]
    pub fn name(&self) -> &RelPath {
        &self.0[0]
    }

    /// Its files, and the directories that are in it with all that is in them.
    #[must_use]
    pub fn paths(&self) -> &[RelPath] {
        &self.0
    }

    /// Whether a path belongs to it.
    #[must_use]
    pub fn holds(&self, path: &RelPath) -> bool {
        self.0.iter().any(|top| covers(top, path))
    }
}

/// The groups of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(Vec<Group>);

impl Groups {
    /// Those that the rules make.
    #[must_use]
    pub fn of_rules(rules: &[CutRule]) -> Self {
        let together = rules.iter().filter(|rule| !matches!(rule.by, CutBy::Stopped));
        Self(together.filter_map(|rule| Group::new(rule.paths.clone())).collect())
    }

    /// Adds a group, as far as there is room for it. Returns whether there was.
    pub fn add(&mut self, group: Group) -> bool {
        let paths: usize = self.0.iter().map(|group| group.0.len()).sum();
        let fits = self.0.len() < GROUPS_MAX && paths + group.0.len() <= GROUP_PATHS_MAX;
        if fits && !self.0.contains(&group) {
            self.0.push(group);
        }
        fits
    }

    /// The group that a path belongs to.
    #[must_use]
    pub fn of(&self, path: &RelPath) -> Option<&Group> {
        self.0.iter().find(|group| group.holds(path))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.0.iter()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Paths that changed since they were last known to be consistent, by name as far as there are few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loose {
    paths: BTreeSet<RelPath>,
    more: bool,
}

impl Loose {
    /// Adds a path.
    pub fn insert(&mut self, path: RelPath) {
        if self.paths.len() < LOOSE_MAX || self.paths.contains(&path) {
            self.paths.insert(path);
        } else {
            self.more = true;
        }
    }

    /// A path is known to be consistent again.
    pub fn remove(&mut self, path: &RelPath) {
        self.paths.remove(path);
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: Self) {
        self.more |= other.more;
        other.paths.into_iter().for_each(|path| self.insert(path));
    }

    /// Says that there are paths besides those that are named.
    pub fn set_more(&mut self) {
        self.more = true;
    }

    /// Those that are named, in order.
    pub fn iter(&self) -> impl Iterator<Item = &RelPath> {
        self.paths.iter()
    }

    /// Whether there are others.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Whether there are none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.more
    }
}

/// A state of a folder, and what is loose in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// All writes that the state has seen.
    pub seen: VersionVector,
    /// What is loose.
    pub loose: Loose,
}

impl Mark {
    /// A version comes to the state.
    pub fn see(&mut self, version: &VersionVector) {
        for (device, counter) in version.iter() {
            if self.seen.len_with(device, *counter) <= VECTOR_DEVICES_MAX {
                self.seen.raise(*device, *counter);
            } else {
                self.loose.set_more();
            }
        }
    }

    /// This state was completed by all of another one.
    pub fn complete(&mut self, other: &Self) {
        let fewer = |a: &Loose, b: &Loose| (a.more, a.paths.len()) < (b.more, b.paths.len());
        match other.seen.compare(&self.seen) {
            Causality::Newer => self.loose = other.loose.clone(),
            Causality::Equal if fewer(&other.loose, &self.loose) => self.loose = other.loose.clone(),
            Causality::Equal | Causality::Older => {}
            Causality::Concurrent => self.loose.extend(other.loose.clone()),
        }
        self.see(&other.seen);
    }
}

/// What a replica knows of groups and of the consistency of what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutState {
    /// The groups of the folder.
    pub groups: Groups,
    /// What stands here.
    pub mark: Mark,
}

impl CutState {
    /// Of what stands here nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        let mut state = Self::default();
        state.mark.loose.set_more();
        state
    }
}

/// Whether what a replica has is a state that an application can start from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// It is: every database and group stands as of a cut, and everything else as of when nothing had it open.
    Known,
    /// Nothing complete ever came here.
    #[default]
    Incomplete,
    /// These changed since. An application that can start again after it was killed copes with most of that.
    Unknown {
        /// The first of them.
        paths: Vec<RelPath>,
        /// Whether there are more.
        more: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn live(paths: &[&str]) -> CutRule {
        CutRule::new(paths.iter().map(|text| path(text)).collect(), CutBy::Live)
    }

    #[test]
    fn rules_that_contradict_each_other_or_say_nothing_are_refused() {
        assert_eq!(check_rules(&[live(&["repo", "app.db"]), live(&["other"])]), Ok(()));
        assert_eq!(check_rules(&[live(&[])]), Err(CutRuleError::Empty));
        let twice = check_rules(&[live(&["repo"]), live(&["repo/objects"])]);
        assert_eq!(twice, Err(CutRuleError::Twice(path("repo/objects"))));
        let hook = Hook {
            before: Vec::new(),
            after: Vec::new(),
            timeout: Duration::from_secs(1),
            every: Duration::from_secs(1),
        };
        let idle = CutRule::new(vec![path("dump")], CutBy::Hook(hook));
        assert_eq!(check_rules(&[idle]), Err(CutRuleError::NoCommand(path("dump"))));
        let many: Vec<_> = (0..=GROUPS_MAX).map(|number| live(&[&format!("g{number}")])).collect();
        assert_eq!(check_rules(&many), Err(CutRuleError::TooMany));
        assert_eq!(check_rules(&many[1..]), Ok(()));
    }

    #[test]
    fn a_group_holds_its_files_and_what_is_in_its_directories() {
        let groups =
            Groups::of_rules(&[live(&["repo", "app.db"]), CutRule::new(vec![path("x")], CutBy::Stopped)]);
        assert_eq!(groups.of(&path("repo/objects/aa")).map(Group::name), Some(&path("repo")));
        assert_eq!(groups.of(&path("app.db")).map(Group::name), Some(&path("repo")));
        assert_eq!(groups.of(&path("repo2")), None);
        assert_eq!(groups.of(&path("x")), None, "what is stopped is no group");
    }

    #[test]
    fn what_is_loose_is_told_by_whoever_has_seen_more() {
        let device = |id| crate::device::DeviceId::from_bytes([id; 32]);
        let mark = |seen: &[(u8, u64)], names: &[&str]| {
            let mut mark =
                Mark { seen: seen.iter().map(|(id, n)| (device(*id), *n)).collect(), ..Mark::default() };
            names.iter().for_each(|name| mark.loose.insert(path(name)));
            mark
        };
        let mut ours = mark(&[(1, 5)], &["a"]);
        ours.complete(&mark(&[(1, 4)], &[]));
        assert_eq!(ours, mark(&[(1, 5)], &["a"]), "it has not seen the last write");
        ours.complete(&mark(&[(1, 6)], &["b"]));
        assert_eq!(ours, mark(&[(1, 6)], &["b"]));
        ours.complete(&mark(&[(1, 5), (2, 1)], &["c"]));
        assert_eq!(ours, mark(&[(1, 6), (2, 1)], &["b", "c"]), "two writers at once");
        ours.complete(&mark(&[(1, 6), (2, 1)], &[]));
        assert!(ours.loose.is_empty(), "the rest of what was here in part came");
        ours.complete(&mark(&[(1, 6), (2, 1)], &["c"]));
        assert!(ours.loose.is_empty(), "a replica that has the same only in part");
    }

    #[test]
    fn loose_paths_are_named_as_long_as_they_are_few() {
        let mut loose = Loose::default();
        (0..LOOSE_MAX).for_each(|number| loose.insert(path(&format!("f{number:02}"))));
        assert!(!loose.has_more());
        loose.insert(path("f00"));
        assert!(!loose.has_more(), "it was named already");
        loose.insert(path("last"));
        assert!(loose.has_more());
        (0..LOOSE_MAX).for_each(|number| loose.remove(&path(&format!("f{number:02}"))));
        assert!(!loose.is_empty(), "the one without a name is still loose");
    }
}
