//! The self-check: the index is verified, the folder scanned, and then every file whose fingerprint is as it was is read
//! again, chunk by chunk, a bounded amount at a time; see [`crate::check`] for what damage is.
//!
//! Damage is written down, durably, before anything is done about it: the second name that keeps the damaged bytes gives their
//! file another fingerprint, and whoever reads it then must not take them for an edit. What was written down holds until the
//! path has another version, or its own again.

use std::collections::BTreeMap;

use crate::branch::{Branch, Cause, Kept, What};
use crate::check::{CheckReport, Finding, Repair};
use crate::disk::{Disk, DiskError, FileKind, Stat};
use crate::error::StoreError;
use crate::hash::ContentHash;
use crate::index::{Damage, Entry, Index};
use crate::path::RelPath;
use crate::record::{Kind, Record};
use crate::status::{Event, Problem};

use super::transfer::WORK_BYTES;
use super::{Engine, OWN, PROBLEMS_MAX};

/// What looking at one file costs besides its bytes, as bytes.
const FILE_COST: u64 = 16 << 10;
/// A file that was written within this time may be written on through a memory map, which shows in its times only when the
/// system writes its pages back. It is not judged.
const SETTLED_NS: i64 = 120_000_000_000;

/// The check under way, and the damage that is known.
#[derive(Debug, Default)]
pub(super) struct Checking {
    damaged: BTreeMap<RelPath, Damage>,
    unreadable: BTreeMap<RelPath, String>,
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    repair: Repair,
    report: CheckReport,
    /// The last path that is done with, and how many chunks of the next are.
    after: Option<RelPath>,
    chunks: usize,
    files_done: bool,
    /// Branches that are yet to be looked at, and the last path that was in the first of them.
    branches: Vec<Branch>,
    after_kept: Option<RelPath>,
}

/// What became of one file.
enum Verdict {
    Sound,
    Skipped,
    /// So many of its chunks are sound; the rest is for the next call.
    Partly(usize),
    Wrong(Finding),
}

impl Checking {
    pub(super) fn new(index: &impl Index) -> Result<Self, StoreError> {
        Ok(Self { damaged: index.damaged()?.into_iter().collect(), ..Self::default() })
    }

    pub(super) fn is_damaged(&self, path: &RelPath) -> bool {
        self.damaged.contains_key(path)
    }

    /// What a person must know of damaged files.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let damaged = self.damaged.iter().map(|(path, damage)| {
            let what = match damage.repair {
                true => {
                    "damaged: its bytes changed although nothing wrote it. They are kept in a branch; its version \
                     comes back from the first peer that has it"
                }
                false => {
                    "damaged: its bytes changed although nothing wrote it. It is told to nobody, and repaired by a check that \
                     may (of a database: with its application stopped)"
                }
            };
            Problem { path: Some(path.clone()), what: what.to_owned() }
        });
        let unreadable = self.unreadable.iter().map(|(path, why)| Problem {
            path: Some(path.clone()),
            what: format!("cannot be read any more: {why}"),
        });
        damaged.chain(unreadable)
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Begins a check, in the place of one that is under way; [`Engine::check`] goes on with it. Scans the folder.
    ///
    /// # Errors
    /// If the index is damaged, or the directory or the index cannot be used.
    pub fn begin_check(&mut self, repair: Repair) -> Result<(), StoreError> {
        self.commit()?;
        self.index.verify()?;
        let found = self.scan()?;
        self.checking.unreadable.clear();
        self.checking.run = Some(Run {
            repair,
            report: CheckReport { missed: found.changed + found.deleted, ..CheckReport::default() },
            after: None,
            chunks: 0,
            files_done: false,
            branches: self.index.branches()?,
            after_kept: None,
        });
        Ok(())
    }

    /// Goes on with a check, by a bounded amount. Gives the report at its end.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn check(&mut self) -> Result<Option<CheckReport>, StoreError> {
        let Some(mut run) = self.checking.run.take() else { return Ok(None) };
        if !run.files_done {
            self.check_files(&mut run)?;
        } else if !run.branches.is_empty() {
            self.check_branch(&mut run)?;
        } else {
            return Ok(Some(run.report));
        }
        self.checking.run = Some(run);
        Ok(None)
    }

    fn check_files(&mut self, run: &mut Run) -> Result<(), StoreError> {
        let mut budget = WORK_BYTES;
        let page = self.index.page(run.after.as_ref(), (WORK_BYTES / FILE_COST) as usize)?;
        run.files_done = page.is_empty();
        for entry in page {
            if budget == 0 {
                break;
            }
            budget = budget.saturating_sub(FILE_COST);
            let (path, size) = (entry.record.path.clone(), entry.record.kind.size());
            if matches!(entry.record.kind, Kind::File { .. } | Kind::Symlink { .. }) {
                let verdict = self.check_file(&entry, run, &mut budget)?;
                match verdict {
                    Verdict::Partly(chunks) => {
                        run.chunks = chunks;
                        break;
                    }
                    Verdict::Skipped => run.report.skipped += 1,
                    Verdict::Sound | Verdict::Wrong(_) => {
                        run.report.files += 1;
                        run.report.bytes += size;
                    }
                }
                if let Verdict::Wrong(finding) = verdict {
                    run.report.add(finding);
                }
            }
            (run.after, run.chunks) = (Some(path), 0);
        }
        Ok(())
    }

    fn check_file(&mut self, entry: &Entry, run: &mut Run, budget: &mut u64) -> Result<Verdict, StoreError> {
        let path = &entry.record.path;
        let stat = match self.stat(path) {
            Ok(Some(stat)) if self.can_be_judged(entry, &stat) => stat,
            Err(error) if error.is_final() => return Err(error.into()),
            _ => return Ok(Verdict::Skipped),
        };
        if run.chunks == 0 {
            self.disk.uncache(path);
        }
        match &entry.record.kind {
            Kind::File { content, .. } => {
                for (number, (offset, chunk)) in content.placed().enumerate().skip(run.chunks) {
                    if *budget == 0 {
                        return Ok(Verdict::Partly(number));
                    }
                    *budget = budget.saturating_sub(u64::from(chunk.length));
                    match self.disk.read_chunk(path, offset, &chunk) {
                        Ok(Some(_)) => {}
                        Err(error) if error.is_final() => return Err(error.into()),
                        _ => return self.judge(entry, &stat, run.repair),
                    }
                }
                Ok(Verdict::Sound)
            }
            Kind::Symlink { target, .. } if self.disk.link_target(path).as_ref() != Ok(target) => {
                self.judge(entry, &stat, run.repair)
            }
            _ => Ok(Verdict::Sound),
        }
    }

    /// Whether what stands there must be what the index says.
    fn can_be_judged(&self, entry: &Entry, stat: &Stat) -> bool {
        let age_ns = self.disk.now_ns().saturating_sub(stat.mtime_ns);
        entry.is_seen(stat)
            && !entry.stale
            && entry.behind.is_none()
            && !self.meta.rejoining
            && !(0..SETTLED_NS).contains(&age_ns)
            && !self.is_ignored_path(&entry.record.path, Some(stat), Some(entry))
    }

    /// A file is not what it should be: what it is instead is read as a whole, which also tells a change meanwhile from
    /// damage.
    fn judge(&mut self, entry: &Entry, stat: &Stat, repair: Repair) -> Result<Verdict, StoreError> {
        let path = entry.record.path.clone();
        let (read, cut) = match stat.kind {
            FileKind::Symlink => {
                (self.disk.link_target(&path).map(|target| What::Symlink(ContentHash::of(&target))), false)
            }
            _ => match self.disk.read(&path, stat, entry.record.kind.content()) {
                Ok(read) => (Ok(What::File(read.content.root(), read.content.size())), read.cut),
                Err(error) => (Err(error), false),
            },
        };
        let now = self.stat(&path);
        match read {
            Err(error) if error.is_final() => Err(error.into()),
            Err(DiskError::Changed | DiskError::NoParent | DiskError::Busy(_)) => Ok(Verdict::Skipped),
            Ok(_) | Err(_) if now.as_ref() != Ok(&Some(*stat)) => Ok(Verdict::Skipped),
            Err(error) => {
                let why = error.to_string();
                if self.checking.unreadable.len() < PROBLEMS_MAX {
                    self.checking.unreadable.insert(path.clone(), why.clone());
                }
                Ok(Verdict::Wrong(Finding::Unreadable { path, why }))
            }
            Ok(what) if Some(what) == What::of(&entry.record.kind) => Ok(Verdict::Sound),
            Ok(what) => {
                let repair = match repair {
                    Repair::Nothing => false,
                    Repair::Files => !cut || self.is_undoing(),
                    Repair::All => true,
                };
                let repair = self.found_damage(entry.clone(), stat, what, repair)?;
                Ok(Verdict::Wrong(Finding::Damaged { path, repair }))
            }
        }
    }

    /// Writes damage down, keeps what stands there, and asks for its version. Returns whether it did the latter.
    fn found_damage(
        &mut self,
        mut entry: Entry,
        stat: &Stat,
        what: What,
        repair: bool,
    ) -> Result<bool, StoreError> {
        let path = entry.record.path.clone();
        let Some(root) = hash_of(what) else { return Ok(false) };
        if self.checking.damaged.get(&path).is_some_and(|known| known.root == root && known.repair) {
            return Ok(true);
        }
        if self.checking.damaged.len() >= PROBLEMS_MAX {
            return Ok(false);
        }
        // The other names of the file are damaged with it.
        for other in self.other_names(&path, stat)? {
            let name = &other.record.path;
            if other.record.kind.holds_same(&entry.record.kind) && !self.checking.is_damaged(name) {
                self.write_down(name, Damage { root, repair: false })?;
            }
        }
        self.write_down(&path, Damage { root, repair })?;
        self.commit()?;
        if !repair {
            return Ok(false);
        }
        let (by, base) = (entry.record.by, entry.record.version.clone());
        let kept = Kept { path: path.clone(), what, by, base };
        let epoch = self.meta.fences.epoch();
        let Some(now) = self.set_aside(Cause::Damaged, epoch, Some(kept), stat)? else {
            return Ok(false);
        };
        entry.seen = Some(now);
        self.put_entry(&entry)?;
        self.restore(entry.record, Some(now));
        Ok(true)
    }

    fn write_down(&mut self, path: &RelPath, damage: Damage) -> Result<(), StoreError> {
        self.uncommitted = true;
        self.index.put_damaged(path, Some(&damage))?;
        self.checking.damaged.insert(path.clone(), damage);
        Ok(())
    }

    /// A path gets another version: what stands there is damaged no more, or is the same as before and still to be repaired.
    pub(super) fn look_at_damage(&mut self, record: &Record, seen: Option<Stat>) -> Result<(), StoreError> {
        let path = &record.path;
        let Some(damage) = self.checking.damaged.get(path).copied() else {
            self.checking.unreadable.remove(path);
            return Ok(());
        };
        if seen.is_none() || self.index.entry(path)?.is_none_or(|entry| entry.seen != seen) {
            return self.is_sound_again(path);
        }
        if damage.repair {
            self.restore(record.clone(), seen);
        }
        Ok(())
    }

    /// A path has another version, or its own again.
    pub(super) fn is_sound_again(&mut self, path: &RelPath) -> Result<(), StoreError> {
        self.checking.unreadable.remove(path);
        if self.checking.damaged.remove(path).is_some() {
            self.uncommitted = true;
            self.index.put_damaged(path, None)?;
        }
        Ok(())
    }

    /// Whether what was read at a path is the damage that is known there. It keeps its version, and waits for it.
    pub(super) fn is_known_damage(
        &mut self,
        path: &RelPath,
        entry: Option<&Entry>,
        kind: &Kind,
        stat: &Stat,
    ) -> Result<bool, StoreError> {
        let Some(damage) = self.checking.damaged.get(path).copied() else { return Ok(false) };
        let live = entry.filter(|entry| entry.record.kind.is_live() && !entry.stale);
        match (live, What::of(kind).and_then(hash_of)) {
            (Some(entry), Some(root)) if root == damage.root && entry.record.kind != *kind => {
                let entry = Entry { seen: Some(*stat), ..entry.clone() };
                self.put_entry(&entry)?;
                if damage.repair {
                    self.restore(entry.record, Some(*stat));
                }
                Ok(true)
            }
            _ => self.is_sound_again(path).map(|()| false),
        }
    }

    /// Asks for the versions of damaged files that nobody asks for any more.
    pub(super) fn go_on_repairing(&mut self) -> Result<(), StoreError> {
        let waiting = self.checking.damaged.iter().filter(|(_, damage)| damage.repair);
        let waiting: Vec<_> = waiting.map(|(path, _)| path.clone()).collect();
        for path in waiting {
            if self.pending.get(&(path.clone(), OWN)).is_none()
                && let Some(entry) = self.index.entry(&path)?
                && entry.record.kind.is_live()
                && entry.behind.is_none()
                && entry.seen.is_some()
            {
                self.restore(entry.record, entry.seen);
            }
        }
        Ok(())
    }

    /// The version of a damaged file is back.
    pub(super) fn repaired(&mut self, path: &RelPath) -> Result<(), StoreError> {
        self.event(Event::Repaired(path.clone()));
        self.is_sound_again(path)
    }

    /// One page of a branch.
    fn check_branch(&mut self, run: &mut Run) -> Result<(), StoreError> {
        let Some(branch) = run.branches.last() else { return Ok(()) };
        let page = self.index.kept(branch.number, run.after_kept.as_ref(), 1)?;
        let Some(kept) = page.into_iter().next() else {
            run.branches.pop();
            run.after_kept = None;
            return Ok(());
        };
        let is_there = match self.disk.read_aside(&branch.name(), &kept.path) {
            _ if kept.what == What::Deleted => true,
            Err(error) if error.is_final() => return Err(error.into()),
            found => found.is_ok_and(|found| found.is_some()),
        };
        if !is_there {
            run.report.add(Finding::Branch { branch: branch.name(), path: kept.path.clone() });
        }
        run.after_kept = Some(kept.path);
        Ok(())
    }
}

fn hash_of(what: What) -> Option<ContentHash> {
    match what {
        What::File(root, _) | What::Symlink(root) => Some(root),
        What::Deleted => None,
    }
}
