//! The file formats of SQLite, as far as a consistent state can be read from them without asking SQLite: the database
//! header, the write-ahead log ([`wal`]), and which blocks of an image changed ([`blocks`]). Pure: bytes come from the
//! caller. The source is <https://sqlite.org/fileformat2.html>.

pub mod blocks;
pub mod wal;

use crate::chunk::SQLITE_MAGIC;

/// How many bytes of a database's first page [`Header::parse`] needs.
pub const HEADER_BYTES: usize = 100;

/// What the header of a database file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size of a page in bytes: a power of two from 512 to 65,536.
    pub page_bytes: u32,
    /// Size of the database in bytes, if the header knows it.
    pub size: Option<u64>,
    /// Whether it is written with a rollback journal; with a write-ahead log otherwise.
    pub has_journal: bool,
}

impl Header {
    /// Reads a header; `None` if these are not the first bytes of a database.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        if !bytes.starts_with(SQLITE_MAGIC) {
            return None;
        }
        // 1 stands for 65,536, which does not fit the field.
        let page_bytes = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65_536,
            size => u32::from(size),
        };
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        // The size counts only if it was written together with the change counter; old versions did not.
        let size = (word(24) == word(92)).then(|| u64::from(word(28)) * u64::from(page_bytes));
        let has_journal = bytes[18] == 1;
        is_page_size(page_bytes).then_some(Self { page_bytes, size, has_journal })
    }
}

fn is_page_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65_536).contains(&bytes)
}

/// Whether these are the first bytes of a rollback journal that would be played back: with its magic number, which the
/// end of a transaction wipes out.
#[must_use]
pub fn is_hot_journal(head: &[u8]) -> bool {
    head.first().is_some_and(|&byte| byte != 0)
}
