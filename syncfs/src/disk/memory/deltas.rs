//! Delta logs in memory: changed blocks and where they belong, the first of which survive a power cut.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::SQLITE_MAGIC;
use crate::disk::{DiskError, FileKind, Stat};
use crate::hash::Blob;
use crate::path::RelPath;
use crate::record::Chunk;
use crate::sqlite::blocks::BLOCK_BYTES;

use super::State;

/// One log.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    blocks: Vec<(u64, Vec<u8>)>,
    durable: usize,
}

/// All logs, and those whose removal is not durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Logs {
    named: BTreeMap<RelPath, Log>,
    removed: BTreeMap<RelPath, Log>,
    /// Those that somebody has asked for since the start.
    known: BTreeSet<RelPath>,
}

impl Log {
    /// What is visible, with the first so many blocks over it.
    fn over(&self, visible: &[u8], blocks: usize, length: usize) -> Vec<u8> {
        let mut data = visible.to_vec();
        data.resize(length, 0);
        for (offset, bytes) in &self.blocks[..blocks] {
            let from = usize::try_from(*offset).unwrap_or(length).min(length);
            let to = (from + bytes.len()).min(length);
            data[from..to].copy_from_slice(&bytes[..to - from]);
        }
        data
    }
}

impl Logs {
    /// See [`super::MemoryDisk::crash`].
    pub(super) fn crash(&mut self, choose: &mut dyn FnMut(u64) -> u64) {
        let removed = std::mem::take(&mut self.removed);
        self.named.extend(removed.into_iter().filter(|_| choose(2) == 0));
        self.known.clear();
        for log in self.named.values_mut() {
            let loose = log.blocks.len() - log.durable;
            let lost = usize::try_from(choose(loose as u64 + 1)).expect("not more than there are");
            log.blocks.truncate(log.blocks.len() - lost);
            log.durable = log.blocks.len();
        }
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.named.values().map(|log| log.blocks.len()).sum()
    }
}

impl State {
    /// A chunk of the newest version in the log that has it there.
    pub(super) fn logged(&self, path: &RelPath, offset: u64, chunk: &Chunk) -> Option<Blob> {
        let log = self.logs.named.get(path)?;
        let visible = self.visible(path);
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(chunk.length as usize)?;
        (1..=log.blocks.len()).rev().find_map(|blocks| {
            let all = log.over(&visible, blocks, visible.len().max(end));
            Blob::named(all[start..end].to_vec(), &chunk.hash)
        })
    }

    /// Contents that durable blocks make of what is visible durably.
    pub(super) fn durably_logged(&self) -> BTreeSet<Vec<u8>> {
        let mut contents = BTreeSet::new();
        for (path, log) in &self.logs.named {
            let found = self.files.find(path).ok().flatten();
            let Some(visible) = found.and_then(|ino| self.files.inode(ino).durable.as_ref()) else {
                continue;
            };
            // The blocks of a version come in any order, so any of them may be the one that it ends with.
            let mut lengths = BTreeSet::from([visible.data.len()]);
            for (number, (offset, bytes)) in log.blocks[..log.durable].iter().enumerate() {
                lengths.insert(usize::try_from(*offset).unwrap_or(0) + bytes.len());
                contents.extend(lengths.iter().map(|length| log.over(&visible.data, number + 1, *length)));
            }
        }
        contents
    }

    /// What a version that ended at this mark is after a power cut right now; `None` if blocks of it may be lost.
    fn durable_delta(&self, path: &RelPath, mark: u64, length: usize) -> Option<Vec<u8>> {
        let log = self.logs.named.get(path)?;
        let blocks = usize::try_from(mark.checked_sub(1)?).ok().filter(|blocks| *blocks <= log.durable)?;
        let visible = self.files.inode(self.files.find_durable(path)?).durable.as_ref()?;
        Some(log.over(&visible.data, blocks, length))
    }

    pub(super) fn takes_delta(&self, path: &RelPath, seen: &Stat) -> bool {
        seen.kind == FileKind::File && seen.nlink == 1 && self.visible(path).starts_with(SQLITE_MAGIC)
    }

    pub(super) fn reset_log(&mut self, path: &RelPath, mark: u64) -> Result<bool, DiskError> {
        self.step("reset a delta log")?;
        let Some(count) = usize::try_from(mark).ok().and_then(|mark| mark.checked_sub(1)) else {
            if let Some(log) = self.logs.named.remove(path) {
                self.logs.removed.insert(path.clone(), log);
            }
            return Ok(true);
        };
        let log = self.logs.named.get_mut(path).filter(|log| log.blocks.len() >= count);
        let Some(log) = log else { return Ok(false) };
        self.logs.known.insert(path.clone());
        log.blocks.truncate(count);
        log.durable = log.durable.min(count);
        Ok(true)
    }

    pub(super) fn sweep_logs(&mut self) -> Result<(), DiskError> {
        if self.logs.named.keys().all(|path| self.logs.known.contains(path)) {
            return Ok(());
        }
        self.step("remove a delta log")?;
        let Logs { named, removed, known } = &mut self.logs;
        removed.extend(named.extract_if(.., |path, _| !known.contains(path)));
        Ok(())
    }

    pub(super) fn write_log(&mut self, path: &RelPath, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.step("write a delta log")?;
        let visible = self.visible(path);
        self.logs.removed.remove(path);
        self.logs.known.insert(path.clone());
        let log = self.logs.named.entry(path.clone()).or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        if end > self.files.able.file_bytes_max {
            return Err(DiskError::Io {
                what: "write a delta log",
                reason: "no space left on device".to_owned(),
            });
        }
        let before = log.over(&visible, log.blocks.len(), visible.len().max(end));
        let blocks = bytes.chunks(BLOCK_BYTES).zip(before[start..end].chunks(BLOCK_BYTES));
        let changed = (offset..).step_by(BLOCK_BYTES).zip(blocks).filter(|(_, (new, old))| new != old);
        log.blocks.extend(changed.map(|(at, (new, _))| (at, new.to_vec())));
        Ok(())
    }

    pub(super) fn seal_log(&mut self, path: &RelPath) -> Result<u64, DiskError> {
        self.step("seal a delta log")?;
        Ok(self.logs.named.entry(path.clone()).or_default().blocks.len() as u64 + 1)
    }

    pub(super) fn sync_logs(&mut self, paths: &[RelPath]) -> Result<(), DiskError> {
        for path in paths {
            let synced = self.sync()?;
            if let Some(log) = self.logs.named.get_mut(path).filter(|_| synced) {
                log.durable = log.blocks.len();
            }
            self.alive()?;
        }
        Ok(())
    }

    fn visible(&self, path: &RelPath) -> Vec<u8> {
        let found = self.files.find(path).ok().flatten();
        found.map(|ino| self.files.inode(ino).body.data.clone()).unwrap_or_default()
    }
}

impl super::MemoryDisk {
    /// How many blocks all delta logs hold.
    #[must_use]
    pub fn logged_blocks(&self) -> usize {
        self.0.borrow().logs.blocks()
    }

    /// What a version of this length that ended at this mark of its delta log would be after a power cut right now; `None` if
    /// blocks of it may be lost.
    #[must_use]
    pub fn durable_delta(&self, path: &RelPath, mark: u64, length: u64) -> Option<Vec<u8>> {
        self.0.borrow().durable_delta(path, mark, usize::try_from(length).ok()?)
    }

    /// Contents that a power cut right now would leave as what is visible and a delta log.
    #[must_use]
    pub fn durably_logged(&self) -> BTreeSet<Vec<u8>> {
        self.0.borrow().durably_logged()
    }
}
