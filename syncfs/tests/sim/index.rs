//! An index in memory that goes back to its last commit at a crash, and that can stop there.

use syncfs::branch::{Branch, Kept};
use syncfs::device::DeviceId;
use syncfs::index::{
    BranchIndex, Damage, DamageIndex, Entry, Index, IndexError, Location, MemoryIndex, Meta, PeerState,
    Totals,
};
use syncfs::record::Record;
use syncfs::{Conflict, ContentHash, RelPath};

use syncfs::disk::MemoryDisk;

/// A memory index whose commit is a step, too.
pub(crate) struct SimIndex(pub MemoryIndex, pub MemoryDisk);

impl Index for SimIndex {
    fn meta(&self) -> Result<Meta, IndexError> {
        self.0.meta()
    }
    fn put_meta(&mut self, meta: &Meta) -> Result<(), IndexError> {
        self.0.put_meta(meta)
    }
    fn entry(&self, path: &RelPath) -> Result<Option<Entry>, IndexError> {
        self.0.entry(path)
    }
    fn put(&mut self, entry: &Entry) -> Result<(), IndexError> {
        self.0.put(entry)
    }
    fn forget(&mut self, path: &RelPath) -> Result<(), IndexError> {
        self.0.forget(path)
    }
    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Vec<Entry>, IndexError> {
        self.0.page(after, limit)
    }
    fn below(&self, dir: &RelPath) -> Result<Vec<Entry>, IndexError> {
        self.0.below(dir)
    }
    fn since(&self, sequence: u64, limit: usize) -> Result<Vec<Entry>, IndexError> {
        self.0.since(sequence, limit)
    }
    fn locate(&self, hash: &ContentHash) -> Result<Vec<Location>, IndexError> {
        self.0.locate(hash)
    }
    fn names_of(&self, ino: u64, limit: usize) -> Result<Vec<RelPath>, IndexError> {
        self.0.names_of(ino, limit)
    }
    fn labelled(&self, label: &RelPath, limit: usize) -> Result<Vec<RelPath>, IndexError> {
        self.0.labelled(label, limit)
    }
    fn plan(&mut self, record: &Record) -> Result<(), IndexError> {
        self.0.plan(record)
    }
    fn plans(&self) -> Result<Vec<Record>, IndexError> {
        self.0.plans()
    }
    fn clear_plans(&mut self) -> Result<(), IndexError> {
        self.0.clear_plans()
    }
    fn behind(&self) -> Result<Vec<Entry>, IndexError> {
        self.0.behind()
    }
    fn peer(&self, device: &DeviceId) -> Result<PeerState, IndexError> {
        self.0.peer(device)
    }
    fn put_peer(&mut self, device: &DeviceId, state: &PeerState) -> Result<(), IndexError> {
        self.0.put_peer(device, state)
    }
    fn peers(&self) -> Result<Vec<(DeviceId, PeerState)>, IndexError> {
        self.0.peers()
    }
    fn conflicts(&self) -> Result<Vec<Conflict>, IndexError> {
        self.0.conflicts()
    }
    fn totals(&self) -> Result<Totals, IndexError> {
        self.0.totals()
    }
    fn commit(&mut self) -> Result<(), IndexError> {
        self.1.step().map_err(|error| IndexError::Unusable(error.to_string()))?;
        self.0.commit()
    }
}

impl DamageIndex for SimIndex {
    fn damaged(&self) -> Result<Vec<(RelPath, Damage)>, IndexError> {
        self.0.damaged()
    }
    fn put_damaged(&mut self, path: &RelPath, damage: Option<&Damage>) -> Result<(), IndexError> {
        self.0.put_damaged(path, damage)
    }
}

impl BranchIndex for SimIndex {
    fn branches(&self) -> Result<Vec<Branch>, IndexError> {
        self.0.branches()
    }
    fn branch_count(&self) -> Result<u64, IndexError> {
        self.0.branch_count()
    }
    fn put_branch(&mut self, branch: &Branch) -> Result<(), IndexError> {
        self.0.put_branch(branch)
    }
    fn drop_branch(&mut self, number: u64) -> Result<(), IndexError> {
        self.0.drop_branch(number)
    }
    fn kept(&self, number: u64, after: Option<&RelPath>, limit: usize) -> Result<Vec<Kept>, IndexError> {
        self.0.kept(number, after, limit)
    }
    fn kept_at(&self, number: u64, path: &RelPath) -> Result<Option<Kept>, IndexError> {
        self.0.kept_at(number, path)
    }
    fn put_kept(&mut self, number: u64, kept: &Kept) -> Result<(), IndexError> {
        self.0.put_kept(number, kept)
    }
}
