//! Bytes <-> [`Message`]. Integers are little-endian; lists and texts have a `u32` count before them, which is checked
//! against its limit and against the bytes that are left before anything is allocated.

mod chunks;
mod cuts;
mod edited;
mod kind;
mod want;

#[cfg(feature = "driver")]
pub(crate) use chunks::encode_parts;
#[cfg(feature = "driver")]
pub(crate) use cuts::{decode_cuts, encode_cuts};

use std::sync::Arc;

use thiserror::Error;

use super::{BYE_BYTES_MAX, FRAME_BYTES_MAX, MOVED_MAX, Message, Moved, Numbered, RECORDS_MAX, WANT_MAX};
use crate::device::{DeviceId, FolderId, IndexId};
use crate::fence::{FENCES_MAX, Fence, Tenure};
use crate::hash::ContentHash;
use crate::path::{PATH_BYTES_MAX, PathError, RelPath};
use crate::record::{Record, VECTOR_DEVICES_MAX, VersionVector};

/// The version of a record's encoding, its first byte on the wire and in the index.
const RECORD_VERSION: u8 = 1;
/// Largest offset and time that a filesystem can hold.
const SIZE_MAX: u64 = i64::MAX as u64;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They end too early.
    #[error("truncated")]
    Truncated,
    /// There are more than the message needs.
    #[error("bytes left over at the end")]
    Trailing,
    /// A type, kind or version byte that this version does not know.
    #[error("unknown {0}")]
    Unknown(&'static str),
    /// A count, length or size above its limit.
    #[error("{0} above its limit")]
    Limit(&'static str),
    /// A path that would be dangerous.
    #[error("bad path: {0}")]
    Path(#[from] PathError),
    /// A value that cannot be.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// Encodes a message, without the frame's length.
#[must_use]
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    match message {
        Message::Hello { version, folder, device, index, fences, tenure } => {
            out.byte(1);
            out.0.extend_from_slice(&version.to_le_bytes());
            out.folder(*folder);
            out.0.extend_from_slice(device.as_bytes());
            out.word(index.0);
            out.fences(fences);
            out.tenure(*tenure);
        }
        Message::State { folder, index, fences, tenure } => {
            out.byte(2);
            out.folder(*folder);
            out.word(index.0);
            out.fences(fences);
            out.tenure(*tenure);
        }
        Message::Have { round, index, since, full } => {
            out.byte(3);
            out.word(*round);
            out.word(index.0);
            out.word(*since);
            out.byte(u8::from(*full));
        }
        Message::Records { round, records, through, knowledge, mark, complete } => {
            out.byte(4);
            out.word(*round);
            out.word(*through);
            out.byte(u8::from(*complete));
            out.vector(knowledge);
            out.mark(mark);
            out.records(records);
        }
        Message::Ack { round, durable, taken } => {
            out.byte(5);
            out.word(*round);
            out.word(*durable);
            out.word(*taken);
        }
        Message::Want(wants) => out.wants(wants),
        Message::Chunks(blobs) => out.0 = chunks::parts(blobs).concat(),
        Message::Gone(hash) => {
            out.byte(8);
            out.0.extend_from_slice(hash.as_bytes());
        }
        Message::Refused { path, epoch } => {
            out.byte(9);
            out.bytes(path.as_bytes());
            out.word(*epoch);
        }
        Message::Moved { round, moved } => {
            out.byte(12);
            out.word(*round);
            out.moved(moved);
        }
        Message::Edited { round, edited } => out.edited(*round, edited),
        Message::Groups(groups) => out.groups_message(groups),
        Message::Paused(why) => out.paused(why.as_deref()),
        Message::Ping => out.byte(10),
        Message::Patch { hash, runs } => out.patch(hash, runs),
        Message::Bye(reason) => {
            out.byte(11);
            out.bytes(reason.as_bytes());
        }
    }
    out.0
}

/// Decodes one message that fills `bytes` exactly.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(DecodeError::Limit("frame"));
    }
    decode_frame(bytes.to_vec())
}

/// [`decode`] of bytes that the message may keep: chunks are parts of them.
pub(crate) fn decode_frame(frame: Vec<u8>) -> Result<Message, DecodeError> {
    let frame = Arc::new(frame);
    let mut input = Reader(&frame);
    let message = match input.byte()? {
        1 => Message::Hello {
            version: u16::from_le_bytes(input.array()?),
            folder: input.folder()?,
            device: DeviceId::from_bytes(input.array()?),
            index: IndexId(input.word()?),
            fences: input.fences()?,
            tenure: input.tenure()?,
        },
        2 => Message::State {
            folder: input.folder()?,
            index: IndexId(input.word()?),
            fences: input.fences()?,
            tenure: input.tenure()?,
        },
        3 => Message::Have {
            round: input.word()?,
            index: IndexId(input.word()?),
            since: input.word()?,
            full: input.flag()?,
        },
        4 => input.records()?,
        5 => Message::Ack { round: input.word()?, durable: input.word()?, taken: input.word()? },
        6 => {
            let count = input.count(WANT_MAX, 33, "want list")?;
            Message::Want((0..count).map(|_| input.want()).collect::<Result<_, _>>()?)
        }
        7 => Message::Chunks(input.chunks(&frame)?),
        8 => Message::Gone(input.hash()?),
        9 => Message::Refused { path: input.path()?, epoch: input.word()? },
        10 => Message::Ping,
        12 => Message::Moved { round: input.word()?, moved: input.moved()? },
        11 => Message::Bye(input.reason()?),
        13 => Message::Patch { hash: input.hash()?, runs: input.runs()? },
        14 => Message::Edited { round: input.word()?, edited: input.edited()? },
        15 => Message::Groups(input.groups()?),
        16 => Message::Paused(if input.flag()? { Some(input.reason()?) } else { None }),
        _ => return Err(DecodeError::Unknown("message type")),
    };
    input.end()?;
    Ok(message)
}

/// Encodes what stands at a path: how the index stores it.
#[cfg(feature = "driver")]
#[must_use]
pub(crate) fn encode_kind(kind: &crate::record::Kind) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(64));
    out.kind(kind);
    out.0
}

/// The inverse of [`encode_kind`].
#[cfg(feature = "driver")]
pub(crate) fn decode_kind(bytes: &[u8]) -> Result<crate::record::Kind, DecodeError> {
    let mut input = Reader(bytes);
    let kind = input.kind()?;
    input.end()?;
    Ok(kind)
}

/// Encodes a vector: how the index stores it.
#[cfg(feature = "driver")]
#[must_use]
pub(crate) fn encode_vector(vector: &VersionVector) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    out.vector(vector);
    out.0
}

/// The inverse of [`encode_vector`].
#[cfg(feature = "driver")]
pub(crate) fn decode_vector(bytes: &[u8]) -> Result<VersionVector, DecodeError> {
    let mut input = Reader(bytes);
    let vector = input.vector()?;
    input.end()?;
    Ok(vector)
}

struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn word(&mut self, word: u64) {
        self.0.extend_from_slice(&word.to_le_bytes());
    }

    fn half(&mut self, half: u32) {
        self.0.extend_from_slice(&half.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.half(u32::try_from(count).expect("every list has a limit far below 2^32"));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn paused(&mut self, why: Option<&str>) {
        self.byte(16);
        self.byte(u8::from(why.is_some()));
        why.iter().for_each(|why| self.bytes(why.as_bytes()));
    }

    fn folder(&mut self, folder: Option<FolderId>) {
        self.byte(u8::from(folder.is_some()));
        folder.iter().for_each(|folder| self.0.extend_from_slice(folder.as_bytes()));
    }

    fn vector(&mut self, vector: &VersionVector) {
        self.count(vector.len());
        for (device, counter) in vector.iter() {
            self.0.extend_from_slice(device.as_bytes());
            self.word(*counter);
        }
    }

    fn fences(&mut self, fences: &[Fence]) {
        self.count(fences.len());
        for fence in fences {
            self.word(fence.epoch);
            self.0.extend_from_slice(fence.holder.as_bytes());
            self.vector(&fence.base);
        }
    }

    fn tenure(&mut self, tenure: Tenure) {
        self.word(tenure.at);
        self.byte(u8::from(tenure.released));
    }

    fn records(&mut self, records: &[Numbered]) {
        self.count(records.len());
        for numbered in records {
            self.word(numbered.sequence);
            self.record(&numbered.record);
        }
    }

    fn moved(&mut self, moved: &Moved) {
        self.bytes(moved.from.as_bytes());
        self.bytes(moved.to.as_bytes());
        self.half(moved.count);
        self.word(moved.first);
        self.word(moved.epoch);
        self.0.extend_from_slice(moved.digest.as_bytes());
    }

    fn record(&mut self, record: &Record) {
        self.byte(RECORD_VERSION);
        self.bytes(record.path.as_bytes());
        self.0.extend_from_slice(record.by.as_bytes());
        self.word(record.epoch);
        self.vector(&record.version);
        self.kind(&record.kind);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("take gives exactly N bytes"))
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid("flag")),
        }
    }

    fn half(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn word(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number that an index can hold.
    fn counter(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.word().and_then(|word| if word > SIZE_MAX { Err(DecodeError::Invalid(what)) } else { Ok(word) })
    }

    fn hash(&mut self) -> Result<ContentHash, DecodeError> {
        Ok(ContentHash::from_bytes(self.array()?))
    }

    /// A count of items of at least `least` bytes each.
    fn count(&mut self, most: usize, least: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = self.half()? as usize;
        if count > most {
            return Err(DecodeError::Limit(what));
        }
        if count * least > self.0.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    fn bytes(&mut self, most: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.count(most, 1, what)?;
        self.take(length)
    }

    fn folder(&mut self) -> Result<Option<FolderId>, DecodeError> {
        Ok(if self.flag()? { Some(FolderId::from_bytes(self.array()?)) } else { None })
    }

    fn reason(&mut self) -> Result<String, DecodeError> {
        let text = self.bytes(BYE_BYTES_MAX, "reason")?;
        String::from_utf8(text.to_vec()).map_err(|_| DecodeError::Invalid("text"))
    }

    fn path(&mut self) -> Result<RelPath, DecodeError> {
        Ok(RelPath::new(self.bytes(PATH_BYTES_MAX, "path")?)?)
    }

    fn vector(&mut self) -> Result<VersionVector, DecodeError> {
        let count = self.count(VECTOR_DEVICES_MAX, 40, "version vector")?;
        let mut vector = VersionVector::default();
        let mut last = None;
        for _ in 0..count {
            let device = DeviceId::from_bytes(self.array()?);
            let counter = self.word()?;
            // Of one life of a device there is one counter; each begins above the one before.
            let is_new = vector.len_with(&device, counter) > vector.len();
            if last >= Some((device, counter)) || !is_new || counter > SIZE_MAX {
                return Err(DecodeError::Invalid("version vector"));
            }
            last = Some((device, counter));
            vector.raise(device, counter);
        }
        Ok(vector)
    }

    fn tenure(&mut self) -> Result<Tenure, DecodeError> {
        Ok(Tenure { at: self.word()?, released: self.flag()? })
    }

    fn fences(&mut self) -> Result<Vec<Fence>, DecodeError> {
        let count = self.count(FENCES_MAX, 44, "fence list")?;
        let mut fences: Vec<Fence> = Vec::with_capacity(count);
        for _ in 0..count {
            let fence = Fence {
                epoch: self.word()?,
                holder: DeviceId::from_bytes(self.array()?),
                base: self.vector()?,
            };
            if fence.epoch <= fences.last().map_or(0, |fence| fence.epoch) || fence.epoch > SIZE_MAX {
                return Err(DecodeError::Invalid("fence list"));
            }
            fences.push(fence);
        }
        Ok(fences)
    }

    fn records(&mut self) -> Result<Message, DecodeError> {
        let round = self.word()?;
        let through = self.counter("sequence")?;
        let complete = self.flag()?;
        let knowledge = self.vector()?;
        let mark = self.mark()?;
        let count = self.count(RECORDS_MAX, 60, "record list")?;
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            records.push(Numbered { sequence: self.counter("sequence")?, record: self.record()? });
        }
        Ok(Message::Records { round, records, through, knowledge, mark, complete })
    }

    fn moved(&mut self) -> Result<Moved, DecodeError> {
        let (from, to, count) = (self.path()?, self.path()?, self.half()?);
        let moved = Moved { from, to, count, first: self.word()?, epoch: self.word()?, digest: self.hash()? };
        if moved.count as usize > MOVED_MAX {
            return Err(DecodeError::Limit("move"));
        }
        if moved.count == 0 || moved.first == 0 || moved.first > SIZE_MAX || moved.epoch > SIZE_MAX {
            return Err(DecodeError::Invalid("move"));
        }
        Ok(moved)
    }

    fn record(&mut self) -> Result<Record, DecodeError> {
        if self.byte()? != RECORD_VERSION {
            return Err(DecodeError::Unknown("record version"));
        }
        let path = self.path()?;
        let by = DeviceId::from_bytes(self.array()?);
        let epoch = self.counter("epoch")?;
        let version = self.vector()?;
        if version.counter(&by) == 0 {
            return Err(DecodeError::Invalid("writer of a record"));
        }
        let kind = self.kind()?;
        Ok(Record { path, kind, version, by, epoch })
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}
