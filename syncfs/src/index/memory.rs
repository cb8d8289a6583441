//! [`MemoryIndex`]: the index of a replica that remembers nothing once it ends, for tests, the simulation and fuzzing.

use std::collections::{BTreeMap, BTreeSet};

use crate::branch::{Branch, Kept, LISTED_MAX};
use crate::device::DeviceId;
use crate::hash::ContentHash;
use crate::path::RelPath;
use crate::reconcile::conflict_of;
use crate::record::Record;
use crate::status::Conflict;

use super::{BranchIndex, Damage, DamageIndex, Entry, Index, IndexError, Location, Meta, PeerState, Totals};

/// An index in memory. [`MemoryIndex::crash`] forgets what was not committed.
#[derive(Clone, Debug)]
pub struct MemoryIndex {
    now: Tables,
    committed: Tables,
}

#[derive(Clone, Debug)]
struct Tables {
    meta: Meta,
    entries: BTreeMap<RelPath, Entry>,
    by_sequence: BTreeMap<u64, RelPath>,
    chunks: BTreeSet<(ContentHash, RelPath, u64, u32)>,
    inodes: BTreeSet<(u64, RelPath)>,
    labels: BTreeSet<(RelPath, RelPath)>,
    peers: BTreeMap<DeviceId, PeerState>,
    plans: Vec<Record>,
    branches: BTreeMap<u64, Branch>,
    kept: BTreeMap<(u64, RelPath), Kept>,
    damaged: BTreeMap<RelPath, Damage>,
}

impl MemoryIndex {
    /// An empty index of a new replica.
    #[must_use]
    pub fn new(meta: Meta) -> Self {
        let tables = Tables {
            meta,
            entries: BTreeMap::new(),
            by_sequence: BTreeMap::new(),
            chunks: BTreeSet::new(),
            inodes: BTreeSet::new(),
            labels: BTreeSet::new(),
            peers: BTreeMap::new(),
            plans: Vec::new(),
            branches: BTreeMap::new(),
            kept: BTreeMap::new(),
            damaged: BTreeMap::new(),
        };
        Self { now: tables.clone(), committed: tables }
    }

    /// Back to the last commit.
    pub fn crash(&mut self) {
        self.now = self.committed.clone();
    }

    fn latest<'a>(&self, names: impl Iterator<Item = &'a RelPath>, limit: usize) -> Vec<RelPath> {
        let mut names: Vec<_> = names.cloned().collect();
        names.sort_by_key(|path| std::cmp::Reverse(self.now.entries[path].sequence));
        names.truncate(limit);
        names
    }

    fn remove(&mut self, path: &RelPath) {
        if let Some(old) = self.now.entries.remove(path) {
            self.now.by_sequence.remove(&old.sequence);
            if let Some(ino) = old.inode() {
                self.now.inodes.remove(&(ino, path.clone()));
            }
            if let Some(label) = old.record.kind.label() {
                self.now.labels.remove(&(label.clone(), path.clone()));
            }
            for (offset, chunk) in old.record.kind.content().into_iter().flat_map(|content| content.placed())
            {
                self.now.chunks.remove(&(chunk.hash, path.clone(), offset, chunk.length));
            }
        }
    }
}

impl BranchIndex for MemoryIndex {
    fn branches(&self) -> Result<Vec<Branch>, IndexError> {
        let counted = |branch: &Branch| {
            let kept = self.now.kept.iter().filter(|((number, _), _)| *number == branch.number);
            let (paths, bytes) = (kept.clone().count() as u64, kept.map(|(_, kept)| kept.what.size()).sum());
            Branch { paths, bytes, ..branch.clone() }
        };
        Ok(self.now.branches.values().rev().take(LISTED_MAX).map(counted).collect())
    }

    fn branch_count(&self) -> Result<u64, IndexError> {
        Ok(self.now.branches.len() as u64)
    }

    fn put_branch(&mut self, branch: &Branch) -> Result<(), IndexError> {
        self.now.branches.insert(branch.number, branch.clone());
        Ok(())
    }

    fn drop_branch(&mut self, number: u64) -> Result<(), IndexError> {
        self.now.branches.remove(&number);
        self.now.kept.retain(|(other, _), _| *other != number);
        Ok(())
    }

    fn kept(&self, number: u64, after: Option<&RelPath>, limit: usize) -> Result<Vec<Kept>, IndexError> {
        let kept = self
            .now
            .kept
            .iter()
            .filter(|((other, path), _)| *other == number && after.is_none_or(|after| path > after));
        Ok(kept.map(|(_, kept)| kept.clone()).take(limit).collect())
    }

    fn kept_at(&self, number: u64, path: &RelPath) -> Result<Option<Kept>, IndexError> {
        Ok(self.now.kept.get(&(number, path.clone())).cloned())
    }

    fn put_kept(&mut self, number: u64, kept: &Kept) -> Result<(), IndexError> {
        self.now.kept.insert((number, kept.path.clone()), kept.clone());
        Ok(())
    }
}

impl DamageIndex for MemoryIndex {
    fn damaged(&self) -> Result<Vec<(RelPath, Damage)>, IndexError> {
        Ok(self.now.damaged.iter().map(|(path, damage)| (path.clone(), *damage)).collect())
    }

    fn put_damaged(&mut self, path: &RelPath, damage: Option<&Damage>) -> Result<(), IndexError> {
        match damage {
            Some(damage) => drop(self.now.damaged.insert(path.clone(), *damage)),
            None => drop(self.now.damaged.remove(path)),
        }
        Ok(())
    }
}

impl Index for MemoryIndex {
    fn meta(&self) -> Result<Meta, IndexError> {
        Ok(self.now.meta.clone())
    }

    fn put_meta(&mut self, meta: &Meta) -> Result<(), IndexError> {
        self.now.meta = meta.clone();
        Ok(())
    }

    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, IndexError> {
        Ok(self.now.entries.get(path).cloned())
    }

    fn put(&mut self, entry: &Entry) -> Result<(), IndexError> {
        let path = &entry.record.path;
        self.remove(path);
        for (offset, chunk) in entry.record.kind.content().into_iter().flat_map(|content| content.placed()) {
            self.now.chunks.insert((chunk.hash, path.clone(), offset, chunk.length));
        }
        self.now.inodes.extend(entry.inode().map(|ino| (ino, path.clone())));
        self.now.labels.extend(entry.record.kind.label().map(|label| (label.clone(), path.clone())));
        let earlier = self.now.by_sequence.insert(entry.sequence, path.clone());
        assert!(earlier.is_none(), "a sequence is given out once");
        self.now.entries.insert(path.clone(), entry.clone());
        Ok(())
    }

    fn forget(&mut self, path: &RelPath) -> Result<(), IndexError> {
        self.remove(path);
        Ok(())
    }

    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Vec<Entry>, IndexError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        Ok(self.now.entries.range((from, Unbounded)).take(limit).map(|(_, entry)| entry.clone()).collect())
    }

    fn below(&self, dir: &RelPath) -> Result<Vec<Entry>, IndexError> {
        let all = self.now.entries.range(dir..).map(|(_, entry)| entry);
        let near = all.take_while(|entry| entry.record.path.as_bytes().starts_with(dir.as_bytes()));
        Ok(near.filter(|entry| entry.record.path.is_below(dir)).cloned().collect())
    }

    fn since(&self, sequence: u64, limit: usize) -> Result<Vec<Entry>, IndexError> {
        let Some(first) = sequence.checked_add(1) else { return Ok(Vec::new()) };
        let paths = self.now.by_sequence.range(first..).take(limit);
        Ok(paths.map(|(_, path)| self.now.entries[path].clone()).collect())
    }

    fn locate(&self, hash: &ContentHash) -> Result<Vec<Location>, IndexError> {
        let first = (*hash, first_path(), 0, 0);
        let same = self.now.chunks.range(first..);
        let same = same.take_while(|(found, ..)| found == hash).take(4);
        Ok(same
            .map(|(_, path, offset, length)| Location {
                path: path.clone(),
                offset: *offset,
                length: *length,
            })
            .collect())
    }

    fn names_of(&self, ino: u64, limit: usize) -> Result<Vec<RelPath>, IndexError> {
        let names = self.now.inodes.range((ino, first_path())..).take_while(|(other, _)| *other == ino);
        Ok(self.latest(names.map(|(_, path)| path), limit))
    }

    fn labelled(&self, label: &RelPath, limit: usize) -> Result<Vec<RelPath>, IndexError> {
        let names = self.now.labels.range((label.clone(), first_path())..);
        Ok(self.latest(names.take_while(|(other, _)| other == label).map(|(_, path)| path), limit))
    }

    fn behind(&self) -> Result<Vec<Entry>, IndexError> {
        Ok(self.now.entries.values().filter(|entry| entry.behind.is_some()).cloned().collect())
    }

    fn peer(&self, device: &DeviceId) -> Result<PeerState, IndexError> {
        Ok(self.now.peers.get(device).copied().unwrap_or_default())
    }

    fn put_peer(&mut self, device: &DeviceId, state: &PeerState) -> Result<(), IndexError> {
        self.now.peers.insert(*device, *state);
        Ok(())
    }

    fn peers(&self) -> Result<Vec<(DeviceId, PeerState)>, IndexError> {
        Ok(self.now.peers.iter().map(|(device, state)| (*device, *state)).collect())
    }

    fn conflicts(&self) -> Result<Vec<Conflict>, IndexError> {
        let live = self.now.entries.values().filter(|entry| entry.record.kind.is_live());
        Ok(live.filter_map(|entry| conflict_of(&entry.record.path)).collect())
    }

    fn plan(&mut self, record: &Record) -> Result<(), IndexError> {
        self.now.plans.push(record.clone());
        Ok(())
    }

    fn plans(&self) -> Result<Vec<Record>, IndexError> {
        Ok(self.now.plans.clone())
    }

    fn clear_plans(&mut self) -> Result<(), IndexError> {
        self.now.plans.clear();
        Ok(())
    }

    fn totals(&self) -> Result<Totals, IndexError> {
        let files = self.now.entries.values().filter_map(|entry| entry.record.kind.content());
        Ok(files.fold(Totals::default(), |totals, content| Totals {
            files: totals.files + 1,
            bytes: totals.bytes + content.size(),
        }))
    }

    fn commit(&mut self) -> Result<(), IndexError> {
        self.committed = self.now.clone();
        Ok(())
    }
}

/// No path comes before it.
fn first_path() -> RelPath {
    RelPath::new("\x01").expect("a valid name")
}
