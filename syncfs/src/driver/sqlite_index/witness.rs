//! What must outlive the index, in a small file beside it: which folder this is, all takeovers, and a bound on the counters
//! that were given out. It is durable before the index says the same, so that an index that is lost can be built anew
//! without counting twice, joining another folder, or forgetting a fence.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::device::{DeviceId, FolderId};
use crate::fence::{Fence, Fences};
use crate::index::{IndexError, Meta};
use crate::wire::{decode_vector, encode_vector};

const MAGIC: &[u8] = b"syncfs witness 1\n";
/// So many counters are promised at once: the file is written once for each so many changes.
const RESERVE: u64 = 1 << 20;
/// More is not read.
const BYTES_MAX: u64 = 1 << 20;
const CHECKSUM_BYTES: usize = 32;

#[derive(Debug, Default)]
pub(in crate::driver) struct Witness {
    path: PathBuf,
    pub(in crate::driver) folder: Option<FolderId>,
    pub(in crate::driver) fences: Fences,
    /// No counter above this one was given out.
    pub(in crate::driver) reserved: u64,
}

impl Witness {
    /// Of an index; `None` if there is none that can be read.
    pub(in crate::driver) fn beside(index: &Path) -> Option<Self> {
        let path = index.with_file_name("witness");
        let small = fs::metadata(&path).is_ok_and(|found| found.len() <= BYTES_MAX);
        let bytes = small.then(|| fs::read(&path).ok()).flatten()?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if blake3::hash(body).as_bytes() != sum {
            return None;
        }
        let mut rest = body.strip_prefix(MAGIC)?;
        let reserved = take_word(&mut rest)?;
        let folder = match take(&mut rest, 1)? {
            [0] => None,
            _ => Some(FolderId::from_bytes(take(&mut rest, 16)?.try_into().ok()?)),
        };
        let mut fences = Fences::default();
        while !rest.is_empty() {
            let epoch = take_word(&mut rest)?;
            let holder = DeviceId::from_bytes(take(&mut rest, 32)?.try_into().ok()?);
            let length = usize::try_from(take_word(&mut rest)?).ok()?;
            let base = decode_vector(take(&mut rest, length)?).ok()?;
            fences.insert(Fence { epoch, holder, base });
        }
        Some(Self { path, folder, fences, reserved })
    }

    pub(super) fn new(index: &Path) -> Self {
        Self { path: index.with_file_name("witness"), ..Self::default() }
    }

    /// Makes sure that it covers what the index is about to say.
    pub(super) fn cover(&mut self, meta: &Meta) -> Result<(), IndexError> {
        if meta.sequence <= self.reserved && meta.folder == self.folder && meta.fences == self.fences {
            return Ok(());
        }
        let next = Self {
            path: self.path.clone(),
            folder: meta.folder,
            fences: meta.fences.clone(),
            reserved: self.reserved.max(meta.sequence.saturating_add(RESERVE)),
        };
        next.write().map_err(|error| IndexError::Unusable(format!("{}: {error}", self.path.display())))?;
        *self = next;
        Ok(())
    }

    fn write(&self) -> std::io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.reserved.to_le_bytes());
        match &self.folder {
            None => bytes.push(0),
            Some(folder) => {
                bytes.push(1);
                bytes.extend_from_slice(folder.as_bytes());
            }
        }
        for fence in self.fences.iter() {
            let base = encode_vector(&fence.base);
            bytes.extend_from_slice(&fence.epoch.to_le_bytes());
            bytes.extend_from_slice(fence.holder.as_bytes());
            bytes.extend_from_slice(&(base.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&base);
        }
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        let draft = self.path.with_added_extension("new");
        let mut file = File::create(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn take_word(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes, 8)?.try_into().ok().map(u64::from_le_bytes)
}
