//! syncfs: a SQLite log as it stands beside a database, written by an application that may have died at any moment.

use std::collections::BTreeMap;
use std::convert::Infallible;

use syncfs::sqlite::wal::{FRAME_HEADER_BYTES, HEADER_BYTES, Header, Log};
use syncfs::sqlite::{self, is_hot_journal};

use crate::Seed;
use crate::input::Input;

/// Most bytes of a log that operations write.
const LOG_BYTES_MAX: usize = 1 << 20;

/// The input's first byte says how it is read. 0: the bytes of a log, and of a database's header. Else: what a writer does, with
/// readers that follow it. What a reader has followed step by step is what one finds that begins anew, and both are
/// exactly the transactions that were committed, up to the first byte that is damaged.
pub fn log(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() {
        0 => bytes(input.rest()),
        _ => operations(&mut input),
    }
}

fn bytes(data: &[u8]) {
    let mut head = [0; sqlite::HEADER_BYTES];
    let length = data.len().min(head.len());
    head[..length].copy_from_slice(&data[..length]);
    if let Some(header) = sqlite::Header::parse(&head) {
        assert!(header.page_bytes.is_power_of_two() && (512..=65_536).contains(&header.page_bytes));
        let whole = |size: u64| size.is_multiple_of(u64::from(header.page_bytes));
        assert!(header.size.is_none_or(whole));
    }
    assert_eq!(is_hot_journal(data), data.first().is_some_and(|&byte| byte != 0));
    let Some(header) = data.first_chunk().and_then(Header::parse) else { return };
    let mut log = Log::new(header);
    follow(&mut log, data);
    check_places(&log, data.len());
}

/// What was followed lies within the log, one page after a frame's header each.
fn check_places(log: &Log, length: usize) {
    let page_bytes = u64::from(log.header().page_bytes);
    let frame_bytes = page_bytes + FRAME_HEADER_BYTES as u64;
    assert!(HEADER_BYTES as u64 + log.frames() * frame_bytes <= length.max(HEADER_BYTES) as u64);
    assert!(log.size().is_none_or(|size| size.is_multiple_of(page_bytes) && size > 0));
    assert_eq!(log.size().is_some(), log.frames() > 0);
    for page in log.pages() {
        let offset = log.page_offset(page).expect("it was named");
        assert!(page > 0 && offset + page_bytes <= length as u64);
        assert_eq!((offset - HEADER_BYTES as u64) % frame_bytes, FRAME_HEADER_BYTES as u64);
    }
}

fn follow(log: &mut Log, bytes: &[u8]) {
    let Ok(followed) = log.follow(|offset, buffer| {
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok::<_, Infallible>(length)
    });
    assert!(followed.frames >= log.frames());
    assert!(followed.changed.iter().all(|&page| log.page_offset(page).is_some()));
}

/// A log as SQLite writes it, and what it must be taken for.
struct Writer {
    bytes: Vec<u8>,
    page_bytes: usize,
    is_big_endian: bool,
    generation: u32,
    sum: (u32, u32),
    /// Where the next frame goes.
    end: usize,
    /// The frames of this generation: their page, and the database's size in pages where they end a transaction.
    frames: Vec<(u32, u32)>,
    /// From here on nothing of the log can be trusted.
    damaged_at: usize,
}

impl Writer {
    fn new(page_bytes: usize, is_big_endian: bool) -> Self {
        let mut writer = Self {
            bytes: Vec::new(),
            page_bytes,
            is_big_endian,
            generation: 0,
            sum: (0, 0),
            end: 0,
            frames: Vec::new(),
            damaged_at: usize::MAX,
        };
        writer.restart();
        writer
    }

    /// Begins the log anew, over what stands there.
    fn restart(&mut self) {
        self.generation += 1;
        let magic = 0x377f_0682 + u32::from(self.is_big_endian);
        let page_bytes = u32::try_from(self.page_bytes).expect("a page is small");
        let salts = [self.generation, !self.generation];
        let words = [magic, 3_007_000, page_bytes, self.generation, salts[0], salts[1]];
        let mut header = words.map(u32::to_be_bytes).concat();
        self.sum = checksum((0, 0), &header, self.is_big_endian);
        header.extend([self.sum.0.to_be_bytes(), self.sum.1.to_be_bytes()].concat());
        self.put(0, &header);
        self.end = HEADER_BYTES;
        self.frames.clear();
        self.damaged_at = usize::MAX;
    }

    fn frame(&mut self, page: u32, fill: u8, size_pages: u32) {
        let head = [page.to_be_bytes(), size_pages.to_be_bytes()].concat();
        let body = vec![fill; self.page_bytes];
        self.sum = checksum(checksum(self.sum, &head, self.is_big_endian), &body, self.is_big_endian);
        let words = [self.generation, !self.generation, self.sum.0, self.sum.1];
        let frame = [head, words.map(u32::to_be_bytes).concat(), body].concat();
        self.put(self.end, &frame);
        self.end += frame.len();
        self.frames.push((page, size_pages));
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.resize(self.bytes.len().max(at + bytes.len()), 0);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.page_bytes
    }

    /// The committed frames that stand undamaged, and where the newest of each page begins.
    fn committed(&self) -> (u64, Option<u64>, BTreeMap<u32, u64>) {
        let frame_bytes = self.frame_bytes();
        let whole = self.damaged_at.min(self.bytes.len()).saturating_sub(HEADER_BYTES) / frame_bytes;
        let frames = &self.frames[..self.frames.len().min(whole)];
        let count = frames.iter().rposition(|(_, size)| *size > 0).map_or(0, |last| last + 1);
        let place = |number: usize| (HEADER_BYTES + number * frame_bytes + FRAME_HEADER_BYTES) as u64;
        let pages = frames[..count].iter().enumerate().map(|(number, (page, _))| (*page, place(number)));
        let size = count.checked_sub(1).map(|last| u64::from(frames[last].1) * self.page_bytes as u64);
        (count as u64, size, pages.collect())
    }

    fn header(&self) -> Option<Header> {
        self.bytes.first_chunk().and_then(Header::parse)
    }
}

fn operations(input: &mut Input<'_>) {
    let page_bytes = *input.pick(&[512, 1024, 4096]);
    let mut writer = Writer::new(page_bytes, input.byte() % 2 == 1);
    let mut reader = Log::new(writer.header().expect("it was just written"));
    while !input.is_empty() && writer.bytes.len() < LOG_BYTES_MAX {
        match input.byte() % 8 {
            0..=2 => {
                let (page, fill) = (u32::from(input.byte() % 16) + 1, input.byte());
                writer.frame(page, fill, u32::from(input.byte() % 4) * 8);
            }
            3 => {
                follow(&mut reader, &writer.bytes);
                compare(&reader, &writer);
            }
            4 => {
                writer.restart();
                reader = Log::new(writer.header().expect("it was just written"));
            }
            // A byte is another one; what was followed before, and may stand behind it, is not followed again.
            5 => {
                let at = input.u32() as usize % writer.bytes.len();
                writer.bytes[at] ^= input.byte().max(1);
                writer.damaged_at = writer.damaged_at.min(at);
                break;
            }
            // The writer died, and the end of the file never reached the disk.
            6 => {
                let at = input.u32() as usize % writer.bytes.len();
                writer.bytes.truncate(at);
                writer.damaged_at = writer.damaged_at.min(at);
                break;
            }
            _ => {
                let at = writer.end;
                writer.put(at, input.slice());
            }
        }
    }
    let Some(header) = writer.header() else {
        assert!(writer.damaged_at < HEADER_BYTES);
        return;
    };
    let mut anew = Log::new(header);
    follow(&mut anew, &writer.bytes);
    check_places(&anew, writer.bytes.len());
    // A damaged header that still has a right checksum is another generation's.
    if writer.damaged_at >= HEADER_BYTES {
        compare(&anew, &writer);
    }
}

fn compare(log: &Log, writer: &Writer) {
    let (frames, size, pages) = writer.committed();
    assert_eq!((log.frames(), log.size()), (frames, size));
    let found: BTreeMap<_, _> = log.pages().map(|page| (page, log.page_offset(page))).collect();
    let expected: BTreeMap<_, _> = pages.into_iter().map(|(page, offset)| (page, Some(offset))).collect();
    assert_eq!(found, expected);
}

/// The checksum of <https://sqlite.org/fileformat2.html#checksum_algorithm>.
fn checksum((mut a, mut b): (u32, u32), bytes: &[u8], is_big_endian: bool) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
            if is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    (a, b)
}

/// Seeds of [`log`].
pub fn log_seeds() -> Vec<Seed> {
    let frame = |page: u8, fill: u8, size: u8| [0, page, fill, size];
    let (follow, restart) = ([3], [4]);
    let commits = [
        &[1, 0, 0][..],
        &frame(0, 1, 0),
        &frame(1, 2, 1),
        &follow,
        &frame(1, 3, 0),
        &follow,
        &frame(2, 4, 1),
        &follow,
    ]
    .concat();
    let with = |more: &[u8]| [&commits, more].concat();
    let mut writer = Writer::new(512, true);
    writer.frame(1, 7, 1);
    writer.frame(2, 8, 0);
    let raw = |bytes: &[u8]| [&[0], bytes].concat();
    let mut endless = Writer::new(65_536, false);
    endless.frame(u32::MAX, 0, u32::MAX);
    let mut database = vec![0; sqlite::HEADER_BYTES];
    database[..16].copy_from_slice(b"SQLite format 3\0");
    database[16..20].copy_from_slice(&[0x10, 0, 2, 2]);
    database[24..32].copy_from_slice(&[0, 0, 0, 3, 0, 0, 0, 9]);
    database[92..96].copy_from_slice(&[0, 0, 0, 3]);
    vec![
        ("commits", commits.clone()),
        ("begun_anew", with(&[&restart[..], &frame(3, 9, 2), &follow].concat())),
        ("leftovers_behind", with(&[7, 4, 1, 2, 3, 4])),
        ("hostile_bit", with(&[5, 0x60, 2, 0, 0, 1])),
        ("hostile_torn", with(&[6, 0x60, 2, 0, 0])),
        ("raw_log", raw(&writer.bytes)),
        ("raw_database", raw(&database)),
        ("hostile_endless", raw(&endless.bytes)),
    ]
}
