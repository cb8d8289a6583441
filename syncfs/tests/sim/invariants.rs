//! The invariants, one function for each. The first ones hold at every step, the others once everything has calmed down.

use std::collections::{BTreeMap, BTreeSet};

use syncfs::device::{DeviceId, IndexId};
use syncfs::disk::{Change, Disk, FileKind, MemoryDisk, Node};
use syncfs::index::{Entry, Index};
use syncfs::record::{CAPABILITY, Kind, VersionVector};
use syncfs::{Lag, RelPath, Role};

use crate::ledger::{Ledger, Text, is_copy, kept, name_of, present, tree};
use crate::world::{Replica, World};

/// What was ever told of versions, by anybody.
#[derive(Default)]
pub(crate) struct Versions {
    by_vector: BTreeMap<(RelPath, Vec<(DeviceId, u64)>), Kind>,
    by_dot: BTreeMap<(DeviceId, u64), (RelPath, Kind)>,
    knowledge: BTreeMap<(DeviceId, IndexId), VersionVector>,
    holders: BTreeMap<u64, DeviceId>,
    epochs: BTreeMap<DeviceId, u64>,
}

/// 4. No destruction from absence: a replica writes a deletion only of what its user took away.
pub(crate) fn no_destruction_from_absence(replica: &Replica, path: &RelPath) {
    assert!(
        replica.taken.gone.contains(path),
        "4: {path} is deleted by {:?}, and no user took it away",
        replica.device
    );
}

/// 5. Atomic visibility: within whatever a replica does at one go, a reader finds every file that is replaced, old or new.
///
/// What a program writes in the middle of it (`edits`) is its own business: where an entry gave way to another kind, it may find
/// nothing. An edit of a follower, where the folder has nothing, goes, and then something new may come (`came`).
pub(crate) fn atomic_visibility(
    ledger: &Ledger,
    changes: &[Change],
    edits: &BTreeMap<Text, RelPath>,
    came: &BTreeSet<RelPath>,
) {
    let mut first = BTreeMap::new();
    for Change { place, before, after } in changes {
        let kind = |seen: &Option<(FileKind, Text)>| seen.as_ref().map(|(kind, _)| *kind);
        let began = *first.entry(place.clone()).or_insert(kind(before));
        let name = String::from_utf8_lossy(&place.1);
        let edited = after.as_ref().is_some_and(|(_, text)| edits.contains_key(text));
        let is_new = came.iter().any(|path| path.name() == place.1);
        let replaced =
            began.is_some() && kind(after) == began && kind(before).is_none() && !edited && !is_new;
        assert!(!replaced, "5: {name} was absent while it was replaced");
        if let Some((FileKind::File, data)) = after {
            verified_bytes(ledger, data, &name);
        }
    }
}

/// 8. Verified bytes: what becomes visible is, whole, what somebody wrote.
fn verified_bytes(ledger: &Ledger, data: &Text, name: &str) {
    assert!(ledger.is_text(data), "8: {name} shows {} bytes that nobody wrote", data.len());
}

/// 6. No clobber: what loses its place was looked at before, or stands elsewhere.
///
/// A program that writes in the middle of something (`edits`) has seen what it overwrites.
pub(crate) fn no_clobber(
    replica: &Replica,
    index: &crate::index::SimIndex,
    changes: &[Change],
    ledger: &Ledger,
    edits: &BTreeMap<Text, RelPath>,
) {
    let mut kept = None;
    for Change { place, before, after } in changes {
        let Some((FileKind::File | FileKind::Symlink, data)) = before else { continue };
        if after.as_ref().is_some_and(|(_, text)| edits.contains_key(text)) {
            continue;
        }
        let names: Vec<_> =
            ledger.written.iter().filter(|(_, text)| *text == data).map(|(name, _)| name).collect();
        if names.iter().any(|name| index.known.contains(name)) {
            continue;
        }
        let kept = kept.get_or_insert_with(|| present(&replica.disk));
        let (name, text) =
            (String::from_utf8_lossy(&place.1), String::from_utf8_lossy(&data[..data.len().min(12)]));
        assert!(kept.contains(data), "6: {text:?} at {name} was replaced, and nobody had looked at it");
    }
}

/// 7. Durability order: what the index is about to claim is on the platter, if it still stands as it was seen.
pub(crate) fn durability_order(disk: &MemoryDisk, entry: &Entry) {
    let path = &entry.record.path;
    let (stands, durable) = (disk.node(path), disk.durable_node(path));
    let Some(name) = name_of(&entry.record.kind) else { return };
    if entry.seen.is_none() || entry.stale {
        return;
    }
    let seen = entry.seen.filter(|_| stands.is_some());
    if let (Some(behind), Some(content), Some(seen)) = (&entry.behind, entry.record.kind.content(), seen)
        && behind.mark > 0
        && disk.clone().stat(path) == Ok(Some(seen))
    {
        let data = disk.durable_delta(path, behind.mark, content.size());
        let is_it = data.is_some_and(|data| syncfs::chunk::content_of(&data).root() == name);
        assert!(is_it, "7: the index claims {path} as a delta, a power cut would take it");
    }
    let is_it = |node: &Node| name_of_node(node).contains(&name);
    if stands.as_ref().is_some_and(is_it) {
        assert!(durable.as_ref().is_some_and(is_it), "7: the index claims {path}, a power cut would take it");
    }
}

fn name_of_node(node: &Node) -> [syncfs::ContentHash; 2] {
    [syncfs::chunk::content_of(&node.data).root(), syncfs::ContentHash::of(&node.data)]
}

impl Versions {
    /// 9. Causality: one vector, one content; one counter, one write; knowledge only grows.
    pub(crate) fn causality(&mut self, entry: &Entry) {
        let record = &entry.record;
        if record.version.is_empty() {
            // What a replica found that lost its memory is no version.
            return;
        }
        let vector: Vec<_> = record.version.iter().map(|(device, counter)| (*device, *counter)).collect();
        let same = self.by_vector.entry((record.path.clone(), vector)).or_insert_with(|| record.kind.clone());
        assert_eq!(*same, record.kind, "9: two contents of {} under one vector", record.path);
        let dot = (record.by, record.counter());
        let write = (record.path.clone(), record.kind.clone());
        let same = self.by_dot.entry(dot).or_insert_with(|| write.clone());
        assert_eq!(*same, write, "9: one counter for two writes");
    }

    /// A replica was restored from a backup, or lost its index.
    pub(crate) fn forgets(&mut self, device: DeviceId) {
        self.knowledge.retain(|(of, _), _| *of != device);
    }

    /// 9, of a replica as a whole.
    pub(crate) fn knowledge_grows(&mut self, meta: &syncfs::index::Meta) {
        let known = self.knowledge.entry((meta.device, meta.index)).or_default();
        assert!(meta.knowledge.covers(known), "9: a replica knows less than before");
        known.clone_from(&meta.knowledge);
    }

    /// 12. Single writer: one holder for each epoch, and no replica forgets an epoch.
    pub(crate) fn single_writer(&mut self, meta: &syncfs::index::Meta) {
        for fence in meta.fences.iter() {
            let holder = *self.holders.entry(fence.epoch).or_insert(fence.holder);
            assert_eq!(holder, fence.holder, "12: epoch {} has two holders", fence.epoch);
        }
        let epoch = self.epochs.entry(meta.device).or_default();
        assert!(meta.fences.epoch() >= *epoch, "12: a replica forgot an epoch");
        *epoch = meta.fences.epoch();
        let is_holder = meta.fences.current().is_some_and(|fence| fence.holder == meta.device);
        assert!(meta.role != Role::Holder || is_holder, "12: a replica takes itself for the holder");
    }
}

/// 10. Containment: everything that a replica has stands in real directories of its folder.
pub(crate) fn containment(replica: &Replica) {
    let nodes = replica.disk.tree();
    for path in nodes.keys() {
        let parent = path.parent().is_none_or(|parent| nodes[&parent].kind == FileKind::Dir);
        assert!(parent, "10: {path} stands in something that is no directory");
    }
}

/// 13. Barrier truth: a barrier that holds means that the peer would still have it all after a power cut right now.
pub(crate) fn barrier_truth(world: &World, peer: usize, texts: &BTreeSet<Text>) {
    let durable = world.replicas[peer].disk.durable();
    for text in texts.iter().filter(|text| world.ledger.is_text(text) && !durable.contains(*text)) {
        // What lost a conflict elsewhere, or its epoch, reaches the peer as a copy, later, or not at all.
        let gone = world.ledger.superseded.contains(text)
            || world.ledger.touched.contains(text)
            || world.ledger.undermined.contains(text)
            || world
                .replicas
                .iter()
                .any(|replica| has_copy(replica, text) || kept(&replica.disk).contains(text));
        let name = String::from_utf8_lossy(&text[..text.len().min(12)]);
        assert!(gone, "13: replica {peer} acknowledged {name:?} but does not have it durably");
    }
}

/// 13, of the answer: whoever lags is named, with a number.
pub(crate) fn lags_are_named(lags: &[Lag]) {
    assert!(lags.iter().all(|lag| lag.behind > 0), "13: a replica lags by nothing");
}

fn has_copy(replica: &Replica, text: &Text) -> bool {
    tree(&replica.disk).texts.iter().any(|(path, kept)| kept == text && is_copy(path))
}

/// Everything that must hold once all has calmed down.
pub(crate) fn at_rest(world: &mut World) {
    convergence(world);
    no_silent_loss(world);
    no_resurrection(world);
    stale_writes_are_aside(world);
    for replica in &world.replicas {
        containment(replica);
    }
    a_further_round_changes_nothing(world);
}

/// 1. No silent loss: every text is current, in a copy, aside, in the history, or was overwritten by a user who saw it.
fn no_silent_loss(world: &World) {
    let all: BTreeSet<_> = world.replicas.iter().flat_map(|replica| present(&replica.disk)).collect();
    let ledger = &world.ledger;
    for text in ledger.texts() {
        let known = all.contains(text) || ledger.superseded.contains(text) || ledger.excused.contains(text);
        assert!(known, "1: lost: {:?}", String::from_utf8_lossy(&text[..text.len().min(16)]));
    }
}

/// 2. Convergence: all replicas rest, with the same records, and each stands as far as its replica can apply it.
fn convergence(world: &World) {
    let engines: Vec<_> = world.replicas.iter().map(Replica::engine).collect();
    for (number, (engine, replica)) in engines.iter().zip(&world.replicas).enumerate() {
        let mut problems = engine.problems();
        // A filesystem without extended attributes is said, and stays so.
        problems.retain(|problem| problem.path.is_some() || replica.able.has_xattrs);
        assert!(problems.is_empty(), "2: replica {number}: {problems:?}");
        assert!(engine.is_idle(), "2: replica {number} is not at rest");
        assert_eq!(engine.digest().unwrap(), engines[0].digest().unwrap(), "2: replica {number} differs");
        let mut nodes = replica.disk.tree();
        for entry in engine.index().page(None, usize::MAX).unwrap() {
            let path = &entry.record.path;
            let node = nodes.remove(path);
            assert_eq!(node.is_some(), entry.record.kind.is_live(), "2: replica {number}: {path}");
            if let Some(node) = node {
                assert!(
                    is_applied(replica, &entry.record.kind, &node),
                    "2: replica {number}: {path}: {node:?} is not {:?}",
                    entry.record.kind
                );
            }
        }
        assert!(nodes.is_empty(), "2: replica {number} does not know of {:?}", nodes.keys());
    }
}

fn is_applied(replica: &Replica, kind: &Kind, node: &Node) -> bool {
    let able = replica.able;
    let attributes = |given: &syncfs::record::Attributes| {
        let bits = if able.is_root { 0o7777 } else { 0o1777 };
        let mut xattrs = given.xattrs.clone();
        xattrs.retain(|name, _| able.is_root || name != CAPABILITY);
        given.mode & bits == node.attributes.mode & bits
            && (!able.has_xattrs || xattrs == node.attributes.xattrs)
            && (!able.is_root || given.owner.is_none() || given.owner == node.attributes.owner)
    };
    match kind {
        Kind::File { attributes: given, mtime_ns, .. } => {
            node.kind == FileKind::File
                && name_of(kind) == Some(name_of_node(node)[0])
                && *mtime_ns == node.mtime_ns
                && attributes(given)
        }
        Kind::Symlink { target, .. } => node.kind == FileKind::Symlink && *target == node.data,
        Kind::Dir { attributes: given } => node.kind == FileKind::Dir && attributes(given),
        _ => false,
    }
}

/// 2, of a further round: no versions, no changes. Once bounded (14), rest is rest.
fn a_further_round_changes_nothing(world: &mut World) {
    let state = |world: &World| -> Vec<_> {
        world.replicas.iter().map(|replica| (tree(&replica.disk), replica.engine().meta().sequence)).collect()
    };
    let before = state(world);
    (0..world.replicas.len()).for_each(|replica| world.scan(replica));
    world.run_dry();
    assert!(state(world) == before, "2: a further round changes something");
}

/// 3. No resurrection: what a user deleted, and nobody did anything to at the same time, is gone.
fn no_resurrection(world: &World) {
    if world.epoch > 0 {
        return;
    }
    let ledger = &world.ledger;
    for (path, text) in tree(&world.replicas[0].disk).texts {
        let back = ledger.deleted.contains(&text) && !ledger.touched.contains(&text) && !is_copy(&path);
        assert!(!back, "3: {path} was deleted, and is back");
    }
}

/// 12. Single writer, of contents: what a holder never saw is not merged, and not lost.
fn stale_writes_are_aside(world: &World) {
    let live: BTreeSet<_> = tree(&world.replicas[0].disk).texts.into_values().collect();
    let kept: BTreeSet<_> = world.replicas.iter().flat_map(|replica| kept(&replica.disk)).collect();
    for text in world.ledger.stale.difference(&world.ledger.superseded) {
        let name = String::from_utf8_lossy(&text[..text.len().min(16)]);
        assert!(!live.contains(text), "12: of a stale epoch, but merged: {name:?}");
        let kept = kept.contains(text) || world.ledger.excused.contains(text);
        assert!(kept, "12: of a stale epoch, but not kept: {name:?}");
    }
}
