//! An index in memory that goes back to its last commit at a crash, that can stop there, and whose every commit is held against
//! what is on the platter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use syncfs::branch::{Branch, Kept};
use syncfs::device::DeviceId;
use syncfs::disk::MemoryDisk;
use syncfs::index::{
    BranchIndex, Damage, DamageIndex, Entry, Index, IndexError, Location, MemoryIndex, Meta, PeerState,
    Totals,
};
use syncfs::record::Record;
use syncfs::{Conflict, ContentHash, RelPath};

use crate::invariants;
use crate::ledger::name_of;

/// Whether this replica itself deletes here what was live: a new holder also stamps anew what others deleted.
type Deletes = bool;

type Committed = (Vec<(Entry, Deletes)>, Vec<Meta>);

/// A memory index whose commit is a step, too.
#[derive(Clone)]
pub(crate) struct SimIndex {
    pub(crate) memory: MemoryIndex,
    pub(crate) disk: MemoryDisk,
    /// What was committed, until the checks take it.
    pub(crate) committed: Rc<RefCell<Committed>>,
    /// Every content that ever was in it.
    pub(crate) known: BTreeSet<ContentHash>,
    /// Paths where nothing was, and something is since the checks looked.
    pub(crate) came: Rc<RefCell<BTreeSet<RelPath>>>,
    /// Paths whose version met another one, and stays.
    pub(crate) met: Rc<RefCell<BTreeSet<RelPath>>>,
    uncommitted: BTreeMap<RelPath, (Entry, Deletes)>,
}

impl SimIndex {
    pub(crate) fn new(memory: MemoryIndex, disk: MemoryDisk) -> Self {
        let (known, uncommitted) = (BTreeSet::new(), BTreeMap::new());
        Self {
            memory,
            disk,
            committed: Rc::default(),
            known,
            came: Rc::default(),
            met: Rc::default(),
            uncommitted,
        }
    }

    pub(crate) fn crash(&mut self) {
        self.memory.crash();
        self.uncommitted.clear();
    }
}

impl Index for SimIndex {
    fn meta(&self) -> Result<Meta, IndexError> {
        self.memory.meta()
    }
    fn put_meta(&mut self, meta: &Meta) -> Result<(), IndexError> {
        self.memory.put_meta(meta)
    }
    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, IndexError> {
        self.memory.entry(path)
    }
    fn put(&mut self, entry: &Entry) -> Result<(), IndexError> {
        self.known.extend(name_of(&entry.record.kind));
        let path = &entry.record.path;
        let entry_before = self.memory.entry(path)?.map(|before| before.record);
        let before = entry_before.as_ref().map(|before| before.kind.is_live());
        let mut merged = false;
        if before != Some(true) {
            self.came.borrow_mut().insert(path.clone());
        } else if let Some(before) = entry_before {
            // It stands against a write, or a deletion, that had not seen it.
            let mut others = entry.record.version.iter().filter(|(device, _)| **device != entry.record.by);
            merged = others.any(|(device, counter)| before.version.counter(device) < *counter);
            if merged && name_of(&before.kind) == name_of(&entry.record.kind) {
                self.met.borrow_mut().insert(path.clone());
            }
        }
        let was_live = before != Some(false);
        let deleted = was_live || self.uncommitted.get(path).is_some_and(|(_, deletes)| *deletes);
        let own = entry.record.by == self.memory.meta()?.device && entry.record.counter() == entry.sequence;
        // A version that nobody has any more gives way to the deletion that it met, which is a user's.
        let deletes = own && deleted && !merged && !entry.record.kind.is_live();
        self.uncommitted.insert(path.clone(), (entry.clone(), deletes));
        self.memory.put(entry)
    }
    fn forget(&mut self, path: &RelPath) -> Result<(), IndexError> {
        self.uncommitted.remove(path);
        self.memory.forget(path)
    }
    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Vec<Entry>, IndexError> {
        self.memory.page(after, limit)
    }
    fn below(&self, dir: &RelPath) -> Result<Vec<Entry>, IndexError> {
        self.memory.below(dir)
    }
    fn since(&self, sequence: u64, limit: usize) -> Result<Vec<Entry>, IndexError> {
        self.memory.since(sequence, limit)
    }
    fn locate(&self, hash: &ContentHash) -> Result<Vec<Location>, IndexError> {
        self.memory.locate(hash)
    }
    fn names_of(&self, ino: u64, limit: usize) -> Result<Vec<RelPath>, IndexError> {
        self.memory.names_of(ino, limit)
    }
    fn labelled(&self, label: &RelPath, limit: usize) -> Result<Vec<RelPath>, IndexError> {
        self.memory.labelled(label, limit)
    }
    fn plan(&mut self, record: &Record) -> Result<(), IndexError> {
        self.memory.plan(record)
    }
    fn plans(&self) -> Result<Vec<Record>, IndexError> {
        self.memory.plans()
    }
    fn clear_plans(&mut self) -> Result<(), IndexError> {
        self.memory.clear_plans()
    }
    fn behind(&self) -> Result<Vec<Entry>, IndexError> {
        self.memory.behind()
    }
    fn peer(&self, device: &DeviceId) -> Result<PeerState, IndexError> {
        self.memory.peer(device)
    }
    fn put_peer(&mut self, device: &DeviceId, state: &PeerState) -> Result<(), IndexError> {
        self.memory.put_peer(device, state)
    }
    fn peers(&self) -> Result<Vec<(DeviceId, PeerState)>, IndexError> {
        self.memory.peers()
    }
    fn conflicts(&self) -> Result<Vec<Conflict>, IndexError> {
        self.memory.conflicts()
    }
    fn totals(&self) -> Result<Totals, IndexError> {
        self.memory.totals()
    }
    fn commit(&mut self) -> Result<(), IndexError> {
        self.disk.step().map_err(|error| IndexError::Unusable(error.to_string()))?;
        let mut committed = self.committed.borrow_mut();
        for (_, (entry, deletes)) in std::mem::take(&mut self.uncommitted) {
            invariants::durability_order(&self.disk, &entry);
            committed.0.push((entry, deletes));
        }
        committed.1.push(self.memory.meta()?);
        self.memory.commit()
    }
}

impl DamageIndex for SimIndex {
    fn damaged(&self) -> Result<Vec<(RelPath, Damage)>, IndexError> {
        self.memory.damaged()
    }
    fn put_damaged(&mut self, path: &RelPath, damage: Option<&Damage>) -> Result<(), IndexError> {
        self.memory.put_damaged(path, damage)
    }
}

impl BranchIndex for SimIndex {
    fn branches(&self) -> Result<Vec<Branch>, IndexError> {
        self.memory.branches()
    }
    fn branch_count(&self) -> Result<u64, IndexError> {
        self.memory.branch_count()
    }
    fn put_branch(&mut self, branch: &Branch) -> Result<(), IndexError> {
        self.memory.put_branch(branch)
    }
    fn drop_branch(&mut self, number: u64) -> Result<(), IndexError> {
        self.memory.drop_branch(number)
    }
    fn kept(&self, number: u64, after: Option<&RelPath>, limit: usize) -> Result<Vec<Kept>, IndexError> {
        self.memory.kept(number, after, limit)
    }
    fn kept_at(&self, number: u64, path: &RelPath) -> Result<Option<Kept>, IndexError> {
        self.memory.kept_at(number, path)
    }
    fn put_kept(&mut self, number: u64, kept: &Kept) -> Result<(), IndexError> {
        self.memory.put_kept(number, kept)
    }
}
