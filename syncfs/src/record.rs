//! [`Record`]: what one replica says about one path. [`VersionVector`]: which writes it has seen.
//!
//! A version is written by one device under a *dot* `(device, counter)`. The counter is the device's folder-wide
//! sequence, so it is never used twice, on whatever path. A vector maps every device to the highest counter seen;
//! the same type, kept for a whole replica, is its *knowledge*.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::device::DeviceId;
use crate::hash::ContentHash;
use crate::path::RelPath;

/// Most lives of devices in one version vector.
pub const VECTOR_DEVICES_MAX: usize = 64;
/// Most chunks in one file; with the largest average chunk that is about 60 GiB.
pub const FILE_CHUNKS_MAX: usize = 60_000;
/// Longest symlink target, in bytes.
pub const TARGET_BYTES_MAX: usize = 4095;
/// Most extended attributes of one entry.
pub const XATTRS_MAX: usize = 64;
/// Longest name of an extended attribute, in bytes (what Linux allows).
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Names and values of one entry's extended attributes, in bytes, together.
pub const XATTRS_BYTES_MAX: usize = 64 << 10;

/// How many counters one life of a device has.
const LIFE_COUNTERS: u64 = 1 << 40;

/// How many lives further on a device goes at most that has forgotten what it wrote.
const LEAP_LIVES: u64 = 1 << 10;

/// The counter before the first one of a life that follows, by chance one of a thousand. A device that has forgotten what it wrote
/// goes on there: it may have forgotten, too, that it did so before, and into which life.
#[must_use]
pub fn next_life(counter: u64, chance: u64) -> u64 {
    (counter / LIFE_COUNTERS + 1 + chance % LEAP_LIVES).saturating_mul(LIFE_COUNTERS)
}

/// Where the counters of a new replica begin, from chance: anywhere in any of a million lives. One that is made anew under an old key
/// thus repeats nothing, and is a writer of its own.
#[must_use]
pub fn first_life(chance: u64) -> u64 {
    (chance >> 44) * LIFE_COUNTERS + (chance & 0xffff_ffff)
}

/// The highest counter seen of every device, in each of its lives. Counters only grow; but whoever has seen what a device wrote
/// since it forgot something (its index was lost, or it was restored from a backup) need not have seen what it wrote before,
/// so each life is a writer of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionVector(BTreeMap<(DeviceId, u64), u64>);

/// How two vectors relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causality {
    /// The same writes were seen.
    Equal,
    /// The left one has seen all of the right one, and more.
    Newer,
    /// The right one has seen all of the left one, and more.
    Older,
    /// Each has seen something that the other has not.
    Concurrent,
}

impl VersionVector {
    /// The highest counter of `device` in each of its lives that was seen.
    pub fn counters(&self, device: &DeviceId) -> impl DoubleEndedIterator<Item = u64> {
        self.0.range((*device, 0)..=(*device, u64::MAX)).map(|(_, counter)| *counter)
    }

    /// The highest counter of `device`, in the last of its lives that was seen; 0 if nothing of it was.
    #[must_use]
    pub fn counter(&self, device: &DeviceId) -> u64 {
        self.counters(device).next_back().unwrap_or(0)
    }

    /// Whether the write of `device` under this counter was seen.
    #[must_use]
    pub fn has_seen(&self, device: &DeviceId, counter: u64) -> bool {
        counter == 0 || self.seen_in_life(device, counter).is_some_and(|seen| seen >= counter)
    }

    /// How long the vector is once it is [raised](Self::raise).
    #[must_use]
    pub fn len_with(&self, device: &DeviceId, counter: u64) -> usize {
        let is_there = counter == 0 || self.seen_in_life(device, counter).is_some();
        self.len() + usize::from(!is_there)
    }

    fn seen_in_life(&self, device: &DeviceId, counter: u64) -> Option<u64> {
        self.0.get(&(*device, counter / LIFE_COUNTERS)).copied()
    }

    /// Raises `device` to at least `counter`, in the life that this belongs to. 0 is "nothing seen" and leaves no trace.
    pub fn raise(&mut self, device: DeviceId, counter: u64) {
        if !self.has_seen(&device, counter) {
            self.0.insert((device, counter / LIFE_COUNTERS), counter);
        }
    }

    /// Everything that either has seen.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (device, counter) in other.iter() {
            all.raise(*device, *counter);
        }
        all
    }

    /// Compares causally.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Causality {
        match (self.covers(other), other.covers(self)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::Newer,
            (false, true) => Causality::Older,
            (false, false) => Causality::Concurrent,
        }
    }

    /// Whether every write that `other` has seen was seen here.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(device, counter)| self.has_seen(device, *counter))
    }

    /// Devices and counters in order; a device comes once for each of its lives.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &u64)> {
        self.0.iter().map(|((device, _), counter)| (device, counter))
    }

    /// How many lives of devices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(DeviceId, u64)> for VersionVector {
    fn from_iter<T: IntoIterator<Item = (DeviceId, u64)>>(pairs: T) -> Self {
        let mut vector = Self::default();
        pairs.into_iter().for_each(|(device, counter)| vector.raise(device, counter));
        vector
    }
}

/// One piece of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// BLAKE3 of its bytes.
    pub hash: ContentHash,
    /// Its length in bytes, never 0.
    pub length: u32,
}

/// A file's content: its chunks in order. An empty file has none. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    chunks: Arc<[Chunk]>,
    size: u64,
}

impl Content {
    /// Takes a list of chunks.
    #[must_use]
    pub fn new(chunks: Vec<Chunk>) -> Self {
        let size = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        Self { chunks: chunks.into(), size }
    }

    /// The chunks in order.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Total length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Names the content: BLAKE3 over hash and length of every chunk.
    #[must_use]
    pub fn root(&self) -> ContentHash {
        let mut hasher = blake3::Hasher::new();
        for chunk in &*self.chunks {
            hasher.update(chunk.hash.as_bytes()).update(&chunk.length.to_le_bytes());
        }
        ContentHash::from_bytes(*hasher.finalize().as_bytes())
    }

    /// Every chunk with its offset in the file.
    pub fn placed(&self) -> impl Iterator<Item = (u64, Chunk)> {
        self.chunks.iter().scan(0, |offset, chunk| {
            let at = *offset;
            *offset += u64::from(chunk.length);
            Some((at, *chunk))
        })
    }
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// User, as a number: names are not replicated.
    pub uid: u32,
    /// Group, as a number.
    pub gid: u32,
}

/// Extended attributes: values by name. Replicated are those that [`is_replicated_xattr`] names.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Whether an extended attribute of this name is replicated: all of `user.`, and the capabilities of a program. Access
/// control lists and labels belong to one machine and are left alone.
#[must_use]
pub fn is_replicated_xattr(name: &[u8]) -> bool {
    name == CAPABILITY || name.len() <= XATTR_NAME_BYTES_MAX && name.starts_with(b"user.") && name.len() > 5
}

/// The extended attribute that holds a program's capabilities: like an owner and set-uid bits a matter of root.
pub const CAPABILITY: &[u8] = b"security.capability";

/// Whether these extended attributes are within the bounds that a record has.
#[must_use]
pub fn are_fit_xattrs(xattrs: &Xattrs) -> bool {
    let bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    xattrs.len() <= XATTRS_MAX && bytes <= XATTRS_BYTES_MAX
}

/// What a file or directory has besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// `None` where it was never known.
    pub owner: Option<Owner>,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Attributes {
    /// Only permission bits.
    #[must_use]
    pub fn of_mode(mode: u32) -> Self {
        Self { mode, ..Self::default() }
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File {
        /// Permissions, owner, extended attributes.
        attributes: Attributes,
        /// Modification time, nanoseconds since 1970.
        mtime_ns: i64,
        /// Its chunks.
        content: Content,
        /// What the names of one file (hard links) have in common: the path of one of them when they were first seen to be
        /// one. Only a label, which outlives that path. Names with equal labels and all else equal are one file, where
        /// the filesystem can have it so; the content is here all the same, for where it cannot.
        link: Option<RelPath>,
    },
    /// A directory, also an empty one. Its times say only when its entries changed, and are not replicated.
    Dir {
        /// Permissions, owner, extended attributes.
        attributes: Attributes,
    },
    /// A symbolic link, never followed.
    Symlink {
        /// Whose it is.
        owner: Option<Owner>,
        /// Its target, as it stands there.
        target: Vec<u8>,
    },
    /// Nothing: it was deleted (a tombstone).
    Deleted,
}

impl Kind {
    /// Whether something is there.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::Deleted)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self, Self::Dir { .. })
    }

    /// The content, of a file.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::File { content, .. } => Some(content),
            _ => None,
        }
    }

    /// Permissions, owner and extended attributes, of a file or directory.
    #[must_use]
    pub fn attributes(&self) -> Option<&Attributes> {
        match self {
            Self::File { attributes, .. } | Self::Dir { attributes } => Some(attributes),
            _ => None,
        }
    }

    /// Whose it is, as far as that is known.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        match self {
            Self::Symlink { owner, .. } => *owner,
            other => other.attributes().and_then(|attributes| attributes.owner),
        }
    }

    /// The same, as a name of the file with this label, or of a file that has no other.
    #[must_use]
    pub fn linked(mut self, label: Option<RelPath>) -> Self {
        if let Self::File { link, .. } = &mut self {
            *link = label;
        }
        self
    }

    /// The label that it shares with other names of the same file.
    #[must_use]
    pub fn label(&self) -> Option<&RelPath> {
        match self {
            Self::File { link, .. } => link.as_ref(),
            _ => None,
        }
    }

    /// Whether both hold the same: the bytes of a file, the target of a symlink. Times, permissions and the like may
    /// differ; losing one of the two loses nothing that a person wrote.
    #[must_use]
    pub fn holds_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { content, .. }, Self::File { content: other, .. }) => content == other,
            (Self::Symlink { target, .. }, Self::Symlink { target: other, .. }) => target == other,
            (Self::Dir { .. }, Self::Dir { .. }) | (Self::Deleted, Self::Deleted) => true,
            _ => false,
        }
    }

    /// Its size in bytes; 0 for all but files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.content().map_or(0, Content::size)
    }
}

/// One version of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: Kind,
    /// Which writes of this path it has seen, its own included.
    pub version: VersionVector,
    /// The device that wrote it.
    pub by: DeviceId,
    /// The fence epoch under which it was written (see [`crate::fence`]).
    pub epoch: u64,
}

impl Record {
    /// The counter under which [`Record::by`] wrote it. Where the vectors of two equal contents are merged, the record that does not
    /// change by that stands for both.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.version.counter(&self.by)
    }

    /// Whether a replica with this knowledge has seen the write.
    #[must_use]
    pub fn is_known_to(&self, knowledge: &VersionVector) -> bool {
        knowledge.has_seen(&self.by, self.counter())
    }

    /// About how long its encoding is, in bytes; never less.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let chunks = self.kind.content().map_or(0, |content| content.chunks().len());
        let xattrs = self.kind.attributes().map(|attributes| &attributes.xattrs);
        let xattrs = xattrs.into_iter().flatten().map(|(name, value)| 8 + name.len() + value.len());
        let name = match &self.kind {
            Kind::File { link: Some(link), .. } => link.as_bytes().len(),
            Kind::Symlink { target, .. } => target.len(),
            _ => 0,
        };
        let lists = chunks * 36 + self.version.len() * 40 + xattrs.sum::<usize>();
        128 + self.path.as_bytes().len() + name + lists
    }

    /// A total order on versions, the same on every replica, that picks the winner of a conflict: something over
    /// nothing, a directory over what would hide its children, then the later modification time, then device and
    /// content.
    #[must_use]
    pub fn rank(&self, other: &Self) -> Ordering {
        let key = |record: &Self| {
            let (mtime, detail) = match &record.kind {
                Kind::File { mtime_ns, content, link, .. } => {
                    let link = link.as_ref().map_or(&b""[..], RelPath::as_bytes);
                    (*mtime_ns, [content.root().as_bytes(), link].concat())
                }
                Kind::Symlink { target, .. } => (0, target.clone()),
                Kind::Dir { .. } | Kind::Deleted => (0, Vec::new()),
            };
            let attributes = (record.kind.attributes().cloned(), record.kind.owner());
            let write = (record.by, record.counter());
            (record.kind.is_live(), record.kind.is_dir(), mtime, write, attributes, detail)
        };
        key(self).cmp(&key(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector() -> impl Strategy<Value = VersionVector> {
        proptest::collection::vec((0_u8..4, 0_u64..3, 1_u64..4), 0..6).prop_map(|writes| {
            let counter = |life, counter| life * LIFE_COUNTERS + counter;
            writes
                .into_iter()
                .map(|(id, life, n)| (DeviceId::from_bytes([id; 32]), counter(life, n)))
                .collect()
        })
    }

    #[test]
    fn a_life_says_nothing_of_the_one_before() {
        let device = DeviceId::from_bytes([1; 32]);
        let next = next_life(7, 0);
        assert_eq!(
            (next, next_life(next, 0), next_life(next + 1, LEAP_LIVES), next_life(next, LEAP_LIVES - 1)),
            (LIFE_COUNTERS, 2 * LIFE_COUNTERS, 2 * LIFE_COUNTERS, (1 + LEAP_LIVES) * LIFE_COUNTERS)
        );
        let mut vector = VersionVector::from_iter([(device, 5), (device, next + 1)]);
        assert!(vector.has_seen(&device, 5) && vector.has_seen(&device, next + 1));
        assert!(!vector.has_seen(&device, 7) && !vector.covers(&VersionVector::from_iter([(device, 6)])));
        assert_eq!((vector.counter(&device), vector.len()), (next + 1, 2));
        vector.raise(device, 7);
        assert_eq!(vector.iter().map(|(_, counter)| *counter).collect::<Vec<_>>(), [7, next + 1]);
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_idempotent_and_covers(a in vector(), b in vector(), c in vector()) {
            prop_assert_eq!(a.merged(&b), b.merged(&a));
            prop_assert_eq!(a.merged(&b).merged(&c), a.merged(&b.merged(&c)));
            prop_assert_eq!(a.merged(&a), a.clone());
            prop_assert!(a.merged(&b).covers(&a) && a.merged(&b).covers(&b));
        }

        #[test]
        fn comparing_is_antisymmetric(a in vector(), b in vector()) {
            let mirrored = match b.compare(&a) {
                Causality::Newer => Causality::Older,
                Causality::Older => Causality::Newer,
                same => same,
            };
            prop_assert_eq!(a.compare(&b), mirrored);
            prop_assert_eq!(a.compare(&b) == Causality::Equal, a == b);
        }

        #[test]
        fn a_new_write_is_newer_than_what_it_saw(a in vector(), id in 0_u8..4) {
            let device = DeviceId::from_bytes([id; 32]);
            let mut written = a.clone();
            written.raise(device, a.counter(&device) + 1);
            prop_assert_eq!(written.compare(&a), Causality::Newer);
        }
    }

    #[test]
    fn chunks_are_placed_one_after_the_other() {
        let chunk = |length| Chunk { hash: ContentHash::of(b"x"), length };
        let content = Content::new(vec![chunk(5), chunk(7)]);
        assert_eq!(content.placed().map(|(offset, _)| offset).collect::<Vec<_>>(), [0, 5]);
        assert_eq!(content.size(), 12);
        assert_ne!(content.root(), Content::new(vec![chunk(7), chunk(5)]).root());
    }
}
