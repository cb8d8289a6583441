//! A write-ahead log, followed frame by frame. A frame counts only if it continues the chain of checksums that the
//! log's header begins, and only once a frame that marks a commit came after it: this is the rule by which SQLite
//! recovers a log after a crash, so what is found here is what every reader would find.
//!
//! A *generation* is what was written since the log was last begun anew from its start, which changes its salts.
//! Within one, committed frames are never overwritten; the log is begun anew only after all of them were copied
//! into the database.

use std::collections::{BTreeMap, BTreeSet};

use super::is_page_size;

/// Size of the log's header, in bytes.
pub const HEADER_BYTES: usize = 32;
/// Size of the header of a frame, in bytes; a page follows it.
pub const FRAME_HEADER_BYTES: usize = 24;
/// How much of the log is read at once, in bytes, at least one frame.
const READ_BYTES: usize = 1 << 20;

type Sum = (u32, u32);

/// The header of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size of a page in bytes.
    pub page_bytes: u32,
    /// Counts the generations.
    pub sequence: u32,
    salts: [u8; 8],
    sum: Sum,
    is_big_endian: bool,
}

impl Header {
    /// Reads a header; `None` if its format or checksum is wrong: SQLite takes such a log as empty.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let is_big_endian = match word(bytes, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let sum = checksum((0, 0), &bytes[..24], is_big_endian);
        let page_bytes = word(bytes, 8);
        let valid = word(bytes, 4) == 3_007_000
            && is_page_size(page_bytes)
            && sum == (word(bytes, 24), word(bytes, 28));
        let salts = bytes[16..24].try_into().expect("eight bytes were taken");
        valid.then_some(Self { page_bytes, sequence: word(bytes, 12), salts, sum, is_big_endian })
    }

    fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.page_bytes)
    }

    fn frame_offset(&self, frame: u64) -> u64 {
        HEADER_BYTES as u64 + frame * self.frame_bytes()
    }
}

/// How the frames that could be followed ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the file: there is no whole frame behind them.
    File,
    /// With a whole frame that does not continue them.
    Foreign,
}

/// What [`Log::follow`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The pages, counted from 1, that transactions changed which were committed since the last time.
    pub changed: BTreeSet<u32>,
    /// How the frames ended, those without a commit included.
    pub end: End,
    /// How many frames stand, those without a commit included.
    pub frames: u64,
}

/// One generation of a log, as far as it was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    header: Header,
    /// Committed frames.
    frames: u64,
    /// The checksum up to the last of them.
    sum: Sum,
    /// The header of the last of them.
    last: Option<[u8; FRAME_HEADER_BYTES]>,
    /// Where the newest committed version of each page stands.
    pages: BTreeMap<u32, u64>,
    /// The size of the database in pages as of the last commit.
    size_pages: Option<u32>,
}

impl Log {
    /// Begins a generation.
    #[must_use]
    pub fn new(header: Header) -> Self {
        Self { header, frames: 0, sum: header.sum, last: None, pages: BTreeMap::new(), size_pages: None }
    }

    /// The header of the generation.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many frames are committed.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The size of the database in bytes, if this generation has a commit.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.size_pages.map(|pages| u64::from(pages) * u64::from(self.header.page_bytes))
    }

    /// The offset, in the log, of the newest committed bytes of a page that is counted from 1.
    #[must_use]
    pub fn page_offset(&self, page: u32) -> Option<u64> {
        self.pages.get(&page).map(|&frame| self.header.frame_offset(frame) + FRAME_HEADER_BYTES as u64)
    }

    /// The pages that this generation changed.
    pub fn pages(&self) -> impl Iterator<Item = u32> {
        self.pages.keys().copied()
    }

    /// Where the last committed frame begins, and its header: as long as it stands there, what was followed
    /// is still what a reader finds.
    #[must_use]
    pub fn last(&self) -> Option<(u64, [u8; FRAME_HEADER_BYTES])> {
        self.last.map(|last| (self.header.frame_offset(self.frames - 1), last))
    }

    /// Follows the frames that came since. `read` fills a buffer from an offset of the log and says how far, less than
    /// all only at its end.
    ///
    /// # Errors
    /// That of `read`.
    pub fn follow<E>(
        &mut self,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, E>,
    ) -> Result<Followed, E> {
        let frame_bytes = FRAME_HEADER_BYTES + self.header.page_bytes as usize;
        let mut buffer = vec![0; (READ_BYTES / frame_bytes).max(1) * frame_bytes];
        let (mut frame, mut sum) = (self.frames, self.sum);
        let mut open: BTreeMap<u32, u64> = BTreeMap::new();
        let mut changed = BTreeSet::new();
        loop {
            let length = read(self.header.frame_offset(frame), &mut buffer)?;
            for bytes in buffer[..length].chunks_exact(frame_bytes) {
                let Some(next) = self.continues(sum, bytes) else {
                    return Ok(Followed { changed, end: End::Foreign, frames: frame });
                };
                sum = next;
                open.insert(word(bytes, 0), frame);
                frame += 1;
                let size_pages = word(bytes, 4);
                if size_pages > 0 {
                    changed.extend(open.keys());
                    self.pages.append(&mut open);
                    (self.frames, self.sum, self.size_pages) = (frame, sum, Some(size_pages));
                    self.last = Some(bytes[..FRAME_HEADER_BYTES].try_into().expect("a frame has a header"));
                }
            }
            if length < buffer.len() {
                return Ok(Followed { changed, end: End::File, frames: frame });
            }
        }
    }

    /// The checksum after this frame, if it is the one that comes next.
    fn continues(&self, sum: Sum, frame: &[u8]) -> Option<Sum> {
        if word(frame, 0) == 0 || frame[8..16] != self.header.salts {
            return None;
        }
        let sum = checksum(sum, &frame[..8], self.header.is_big_endian);
        let sum = checksum(sum, &frame[FRAME_HEADER_BYTES..], self.header.is_big_endian);
        (sum == (word(frame, 16), word(frame, 20))).then_some(sum)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn checksum((mut a, mut b): Sum, bytes: &[u8], is_big_endian: bool) -> Sum {
    let (pairs, []) = bytes.as_chunks::<8>() else {
        unreachable!("headers and pages are multiples of eight")
    };
    for pair in pairs {
        let half = |at: usize| {
            let half = pair[at..at + 4].try_into().expect("four bytes were taken");
            if is_big_endian { u32::from_be_bytes(half) } else { u32::from_le_bytes(half) }
        };
        a = a.wrapping_add(half(0)).wrapping_add(b);
        b = b.wrapping_add(half(4)).wrapping_add(a);
    }
    (a, b)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::convert::Infallible;

    /// Writes logs as SQLite does.
    pub(crate) struct Writer {
        pub(crate) bytes: Vec<u8>,
        sum: Sum,
        next: usize,
        page_bytes: u32,
        is_big_endian: bool,
        salt: u32,
        sequence: u32,
    }

    impl Writer {
        pub(crate) fn new(page_bytes: u32, is_big_endian: bool) -> Self {
            let mut writer = Self {
                bytes: Vec::new(),
                sum: (0, 0),
                next: 0,
                page_bytes,
                is_big_endian,
                salt: 7,
                sequence: 0,
            };
            writer.restart();
            writer
        }

        /// Begins a generation over what stands there.
        pub(crate) fn restart(&mut self) {
            self.salt += 1;
            let magic = 0x377f_0682 + u32::from(self.is_big_endian);
            let mut header = Vec::new();
            for word in [magic, 3_007_000, self.page_bytes, self.sequence, self.salt, !self.salt] {
                header.extend_from_slice(&word.to_be_bytes());
            }
            self.sequence += 1;
            self.sum = checksum((0, 0), &header, self.is_big_endian);
            header.extend_from_slice(&self.sum.0.to_be_bytes());
            header.extend_from_slice(&self.sum.1.to_be_bytes());
            self.bytes.resize(self.bytes.len().max(HEADER_BYTES), 0);
            self.bytes[..HEADER_BYTES].copy_from_slice(&header);
            self.next = HEADER_BYTES;
        }

        pub(crate) fn frame(&mut self, page: u32, fill: u8, size_pages: u32) {
            let mut frame = [page.to_be_bytes(), size_pages.to_be_bytes()].concat();
            let body = vec![fill; self.page_bytes as usize];
            self.sum = checksum(self.sum, &frame, self.is_big_endian);
            self.sum = checksum(self.sum, &body, self.is_big_endian);
            for word in [self.salt, !self.salt, self.sum.0, self.sum.1] {
                frame.extend_from_slice(&word.to_be_bytes());
            }
            frame.extend_from_slice(&body);
            let end = self.next + frame.len();
            self.bytes.resize(self.bytes.len().max(end), 0);
            self.bytes[self.next..end].copy_from_slice(&frame);
            self.next = end;
        }

        pub(crate) fn header(&self) -> Header {
            Header::parse(self.bytes[..HEADER_BYTES].try_into().unwrap()).unwrap()
        }
    }

    pub(crate) fn from(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<usize, Infallible> {
        move |offset, buffer| {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        }
    }

    #[test]
    fn only_committed_frames_count_and_the_newest_of_a_page_wins() {
        for (page_bytes, is_big_endian) in [(512, false), (4096, true), (65_536, false)] {
            let mut writer = Writer::new(page_bytes, is_big_endian);
            let mut log = Log::new(writer.header());
            writer.frame(1, 1, 0);
            writer.frame(2, 2, 2);
            writer.frame(2, 3, 0);
            let Ok(followed) = log.follow(from(&writer.bytes));
            assert_eq!(followed.changed, BTreeSet::from([1, 2]));
            assert_eq!((log.frames(), followed.frames, followed.end), (2, 3, End::File));
            assert_eq!(log.size(), Some(2 * u64::from(page_bytes)));
            writer.frame(3, 4, 3);
            let Ok(followed) = log.follow(from(&writer.bytes));
            assert_eq!(followed.changed, BTreeSet::from([2, 3]));
            let at = log.page_offset(2).unwrap() as usize;
            assert_eq!(writer.bytes[at], 3);
            assert_eq!(log.page_offset(4), None);
        }
    }

    #[test]
    fn a_generation_ends_where_an_older_one_stands_behind_it() {
        let mut writer = Writer::new(512, false);
        for page in 1..=5 {
            writer.frame(page, 1, 5);
        }
        let mut old = Log::new(writer.header());
        let Ok(_) = old.follow(from(&writer.bytes[..HEADER_BYTES + 2 * 536]));
        assert_eq!(old.frames(), 2);
        writer.restart();
        writer.frame(9, 2, 9);
        let mut new = Log::new(writer.header());
        let Ok(followed) = new.follow(from(&writer.bytes));
        assert_eq!((new.frames(), followed.end), (1, End::Foreign));
        // The tail of the old generation can still be followed behind the new one.
        let Ok(followed) = old.follow(from(&writer.bytes));
        assert_eq!(followed.changed, BTreeSet::from([3, 4, 5]));
        assert_eq!(followed.end, End::File);
    }

    #[test]
    fn a_torn_or_damaged_frame_ends_the_log() {
        let mut writer = Writer::new(512, false);
        writer.frame(1, 1, 1);
        writer.frame(2, 2, 2);
        for at in [HEADER_BYTES + 536, HEADER_BYTES + 536 + 30] {
            let mut damaged = writer.bytes.clone();
            damaged[at] ^= 1;
            let mut log = Log::new(writer.header());
            let Ok(_) = log.follow(from(&damaged));
            assert_eq!(log.frames(), 1);
        }
        let mut log = Log::new(writer.header());
        let Ok(followed) = log.follow(from(&writer.bytes[..writer.bytes.len() - 1]));
        assert_eq!((log.frames(), followed.end), (1, End::File));
        let mut header: [u8; HEADER_BYTES] = writer.bytes[..HEADER_BYTES].try_into().unwrap();
        header[13] ^= 1;
        assert_eq!(Header::parse(&header), None);
    }
}
