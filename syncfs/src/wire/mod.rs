//! What replicas say to each other: the message set and its limits. [`encode`] and [`decode`] are total: any bytes
//! give a message or a [`DecodeError`], never a panic, and never more memory than the frame itself justifies.
//!
//! A frame is a `u32` length (little-endian, of what follows) and a message: one type byte and its fields. The top bit of the
//! length says that what follows is compressed (`frame`).
//! `tests/vectors` pins every message's bytes; a change of them needs a new [`VERSION`].

mod codec;
#[cfg(feature = "zstd")]
pub mod frame;

pub use codec::{DecodeError, decode, encode};
#[cfg(feature = "driver")]
pub(crate) use codec::{
    decode_cuts, decode_frame, decode_kind, decode_vector, encode_cuts, encode_kind, encode_parts,
    encode_vector,
};

use crate::cutting::{Groups, Mark};
use crate::device::{DeviceId, FolderId, IndexId};
use crate::disk::Run;
use crate::fence::{Fence, Tenure};
use crate::hash::{Blob, ContentHash};
use crate::path::RelPath;
use crate::record::{Record, VersionVector};

/// The version of this message set.
pub const VERSION: u16 = 5;
/// The largest message, in bytes, without the length before it.
pub const FRAME_BYTES_MAX: usize = (4 << 20) + (512 << 10);
/// Most records in one [`Message::Records`].
pub const RECORDS_MAX: usize = 512;
/// Most paths in one [`Message::Moved`].
pub const MOVED_MAX: usize = 1 << 16;
/// Most hashes in one [`Message::Want`].
pub const WANT_MAX: usize = 512;
/// Most chunks in one [`Message::Chunks`].
pub const CHUNKS_MAX: usize = 512;
/// Most runs in one [`Message::Patch`]: every other block of the largest chunk.
pub const RUNS_MAX: usize = 512;
/// Longest text in [`Message::Bye`] and [`Message::Paused`], in bytes.
pub const BYE_BYTES_MAX: usize = 512;

/// A record with the sender's sequence of its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The sender's sequence.
    pub sequence: u64,
    /// The record.
    pub record: Record,
}

/// A rename of a file or of a whole tree: of every path at and below `from` that lives. It stands for the records that it
/// makes: one per path with the same kind at the new place, in path order and under the sequences from `first` on, then one
/// deletion per old path in the opposite order. Each has seen what was at its path before, and is written by the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Where it stood.
    pub from: RelPath,
    /// Where it stands.
    pub to: RelPath,
    /// How many paths moved, from 1 to [`MOVED_MAX`].
    pub count: u32,
    /// The sender's first sequence for it.
    pub first: u64,
    /// The fence epoch of all its records.
    pub epoch: u64,
    /// Names the paths and versions that it is about: a receiver that has others cannot follow it.
    pub digest: ContentHash,
}

impl Moved {
    /// The sender's last sequence for it.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.first + 2 * self.count as u64 - 1
    }
}

/// A version of a file whose chunks are mostly those of a version that the receiver has: told are only those between the
/// ones that both begin with and the ones that both end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The sender's sequence.
    pub sequence: u64,
    /// The version, of a file, with the chunks in between.
    pub record: Record,
    /// Names the chunks of the version that the receiver has at this path ([`crate::record::Content::root`]).
    pub basis: ContentHash,
    /// How many of those it begins with.
    pub first: u32,
    /// How many of those it ends with.
    pub last: u32,
}

/// A request for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its name.
    pub hash: ContentHash,
    /// The chunk that stands in its place in the version that the asker has: what differs from it is enough.
    pub basis: Option<ContentHash>,
}

impl Want {
    /// The whole chunk.
    #[must_use]
    pub const fn whole(hash: ContentHash) -> Self {
        Self { hash, basis: None }
    }
}

/// One message. Both sides of a stream are equal; each may send any of these at any time after its `Hello`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// First on the stream: who I am, and under which fences.
    Hello {
        /// [`VERSION`] of the sender.
        version: u16,
        /// The folder; `None` from an empty replica that takes the other's.
        folder: Option<FolderId>,
        /// The sender.
        device: DeviceId,
        /// Its index.
        index: IndexId,
        /// All takeovers it knows of.
        fences: Vec<Fence>,
        /// What it knows of the holder of the newest of these.
        tenure: Tenure,
    },
    /// My index began a new life, I learned of these takeovers, of the folder, or that a holder began or
    /// ceased to hold. What I said of an older index is void.
    State {
        /// The folder, as in `Hello`.
        folder: Option<FolderId>,
        /// The sender's index from here on.
        index: IndexId,
        /// Takeovers that the receiver may not know.
        fences: Vec<Fence>,
        /// As in `Hello`.
        tenure: Tenure,
    },
    /// Send me your records after `since` of your index. What was sent for an earlier round does not count any more.
    Have {
        /// Numbers the requests of one stream; `Records` and `Ack` name the one that they belong to.
        round: u64,
        /// The receiver's index.
        index: IndexId,
        /// The receiver's sequence up to which the sender has everything.
        since: u64,
        /// No [`Message::Moved`] and [`Message::Edited`], please: one could not be followed.
        full: bool,
    },
    /// Some of my records in sequence order.
    Records {
        /// Of the receiver's `Have`.
        round: u64,
        /// The records.
        records: Vec<Numbered>,
        /// With these you have been told everything up to here.
        through: u64,
        /// What the sender knew at `through`; only with `complete`.
        knowledge: VersionVector,
        /// What is loose in that state; only with `complete`.
        mark: Mark,
        /// Nothing above `through` exists right now.
        complete: bool,
    },
    /// Some of my records, too, in short.
    Moved {
        /// Of the receiver's `Have`.
        round: u64,
        /// What moved.
        moved: Moved,
    },
    /// One of my records, too, in short.
    Edited {
        /// Of the receiver's `Have`.
        round: u64,
        /// What is new.
        edited: Edited,
    },
    /// How far I am with your records.
    Ack {
        /// Of the sender's `Have`.
        round: u64,
        /// Up to here all are durable.
        durable: u64,
        /// Up to here all are in memory: send more.
        taken: u64,
    },
    /// Send me these chunks.
    Want(Vec<Want>),
    /// Chunks that were wanted. Their names are not sent: whoever decodes them hashes them.
    Chunks(Vec<Blob>),
    /// A chunk that was wanted, as what differs from the basis that the sender of the `Want` has.
    Patch {
        /// The chunk.
        hash: ContentHash,
        /// What to change in the bytes of the basis, brought to the length of the chunk: in order, none overlapping.
        runs: Vec<Run>,
    },
    /// I do not have this chunk any more; a newer record will follow.
    Gone(ContentHash),
    /// Your record is of a stale epoch; I will not take it.
    Refused {
        /// Its path.
        path: RelPath,
        /// The highest epoch seen here.
        epoch: u64,
    },
    /// What of the folder is cut together. Of the versions of a group, the receiver shows all that a complete `Records`
    /// ends, or none.
    Groups(Groups),
    /// Why I fetch nothing for now; `None`: I fetch again.
    Paused(Option<String>),
    /// Still here.
    Ping,
    /// I end the session, and why.
    Bye(String),
}
