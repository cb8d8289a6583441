//! The model: every text that a user wrote (the bytes of a file, the target of a symlink; each is written once) and what became of
//! it by acts of users.

use std::collections::{BTreeMap, BTreeSet};

use syncfs::disk::{FileKind, MemoryDisk};
use syncfs::record::Kind;
use syncfs::{ContentHash, RelPath};

pub(crate) type Text = Vec<u8>;

#[derive(Default)]
pub(crate) struct Ledger {
    next: u64,
    /// Every text, by the name that an index gives it.
    pub(crate) written: BTreeMap<ContentHash, Text>,
    /// Where users last put each text: a rename that comes in two halves leaves it in its old place for a while, too.
    given: BTreeMap<Text, BTreeSet<RelPath>>,
    /// Texts that a replica has taken up.
    pub(crate) observed: BTreeSet<Text>,
    /// Texts that a user overwrote or deleted, having them before their eyes.
    pub(crate) superseded: BTreeSet<Text>,
    /// Texts that a crash took before anybody had looked at them.
    pub(crate) excused: BTreeSet<Text>,
    /// Texts that were renamed, or whose file got other attributes: a write that may be concurrent with a deletion.
    pub(crate) touched: BTreeSet<Text>,
    /// Texts whose deletion by a user was taken up.
    pub(crate) deleted: BTreeSet<Text>,
    /// Texts that a replica had as what is visible and a delta, when a user changed what is visible.
    pub(crate) undermined: BTreeSet<Text>,
    /// Texts of a stale tail.
    pub(crate) stale: BTreeSet<Text>,
}

/// What one replica's users took away from under it.
#[derive(Default)]
pub(crate) struct Taken {
    /// Paths that stood, and do not stand any more by an act of a user, until the index has something there again.
    pub(crate) gone: BTreeSet<RelPath>,
    /// Paths where a user put something else: with the power, that may go, and not what was there before.
    pub(crate) replaced: BTreeSet<RelPath>,
    /// What was deleted there, until the deletion is taken up.
    pub(crate) deleted: BTreeMap<RelPath, Text>,
}

impl Ledger {
    /// A text that nobody wrote before. Big ones have several chunks.
    pub(crate) fn fresh(&mut self, replica: usize, bulk: bool) -> Text {
        self.next += 1;
        let mut text = format!("{replica}:{}:", self.next).into_bytes();
        if bulk {
            text.resize(text.len() + 150_000, self.next as u8);
        }
        text
    }

    pub(crate) fn wrote(&mut self, text: Text) {
        self.written.insert(syncfs::chunk::content_of(&text).root(), text.clone());
        self.written.insert(ContentHash::of(&text), text);
    }

    pub(crate) fn is_text(&self, text: &Text) -> bool {
        self.written.contains_key(&ContentHash::of(text))
    }

    pub(crate) fn texts(&self) -> BTreeSet<&Text> {
        self.written.values().collect()
    }

    /// Takes note of what a user did: the tree before and after it.
    pub(crate) fn acted(&mut self, before: &Tree, after: &Tree, taken: &mut Taken) {
        let stand: BTreeSet<_> = after.texts.values().collect();
        let moved: BTreeSet<_> =
            after.texts.iter().filter(|(path, text)| before.texts.get(*path) != Some(text)).collect();
        for (path, text) in &moved {
            self.given.entry((*text).clone()).or_default().insert((*path).clone());
        }
        for (path, text) in &before.texts {
            if after.texts.get(path) == Some(text) {
                continue;
            }
            let given = self.given.entry(text.clone()).or_default();
            given.remove(path);
            if stand.contains(text) {
                self.touched.insert(text.clone());
            }
            let is_moved = moved.iter().any(|(_, other)| *other == text);
            // That a copy is one of what stands here tells a user nothing: here the resolution may still be to come.
            if !is_moved && (given.is_empty() || !stand.contains(text) || is_copy(path)) {
                self.superseded.insert(text.clone());
                if !after.paths.contains(path) {
                    taken.deleted.insert(path.clone(), text.clone());
                }
            }
        }
        let other = |path: &&RelPath| before.texts.get(*path) != after.texts.get(*path);
        taken.replaced.extend(before.paths.iter().filter(other).cloned());
        // A file or symlink that became a directory is gone, too.
        let gone = |path: &&RelPath| !after.texts.contains_key(*path);
        taken.gone.extend(before.texts.keys().filter(gone).cloned());
        taken.gone.extend(before.paths.difference(&after.paths).cloned());
        taken.deleted.retain(|path, _| !after.paths.contains(path));
    }
}

/// Whether a conflict kept it, by its name.
pub(crate) fn is_copy(path: &RelPath) -> bool {
    path.as_bytes().windows(10).any(|part| part == b".conflict-")
}

/// What stands in a folder.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) paths: BTreeSet<RelPath>,
    pub(crate) texts: BTreeMap<RelPath, Text>,
}

pub(crate) fn tree(disk: &MemoryDisk) -> Tree {
    let nodes = disk.tree();
    let paths = nodes.keys().cloned().collect();
    let texts = nodes.into_iter().filter(|(_, node)| matches!(node.kind, FileKind::File | FileKind::Symlink));
    Tree { paths, texts: texts.map(|(path, node)| (path, node.data)).collect() }
}

/// What a replica has put away.
pub(crate) fn kept(disk: &MemoryDisk) -> BTreeSet<Text> {
    disk.kept().into_iter().map(|node| node.data).collect()
}

/// Every text that a replica has anywhere.
pub(crate) fn present(disk: &MemoryDisk) -> BTreeSet<Text> {
    tree(disk).texts.into_values().chain(kept(disk)).collect()
}

/// How an index names a text.
pub(crate) fn name_of(kind: &Kind) -> Option<ContentHash> {
    match kind {
        Kind::File { content, .. } => Some(content.root()),
        Kind::Symlink { target, .. } => Some(ContentHash::of(target)),
        _ => None,
    }
}
