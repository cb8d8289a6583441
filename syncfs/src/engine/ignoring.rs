//! What this replica leaves alone (see [`crate::ignore`]). An ignored entry is not looked at, and so neither becomes a version
//! nor a deletion, also not one that was replicated before; what stands there is never touched.
//!
//! A peer's version of an ignored path is *noted*, without its content: the index takes its record, so that this
//! replica can truthfully say that it knows it, barriers hold, digests agree, and others hear of it. When the path is
//! no longer ignored, the version is fetched, and what stands there by then is kept beside it as a conflict.
//!
//! A directory that a peer deleted stays while it holds ignored entries, and is not taken for a new one.

use crate::disk::{Disk, DiskError, FileKind, Keep, Stat};
use crate::error::StoreError;
use crate::ignore::{IGNORE_BYTES_MAX, IGNORE_FILE, Ignore};
use crate::index::{Entry, Index};
use crate::path::RelPath;
use crate::reconcile::{Decision, conflict_path, reconcile};
use crate::record::{Kind, Record};
use crate::status::{Event, Problem};

use super::apply::Outcome;
use super::intake::Observed;
use super::{Engine, OWN};

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// This replica's own.
    own: Ignore,
    /// Those of the folder, then those.
    all: Ignore,
    /// The file that they were read from; `None` before it was looked for.
    read: Option<Option<Stat>>,
    /// Lines that are no rules.
    own_misfits: Vec<String>,
    misfits: Vec<String>,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// This replica's own ignore rules, a line each, in the syntax of the ignore file and stronger than it. To be called
    /// before the first [`Engine::scan`].
    pub fn ignore(&mut self, lines: &[String]) {
        let (own, misfits) = Ignore::parse(lines.join("\n").as_bytes());
        let said = |misfit| format!("the configured ignore rules, {misfit}");
        self.rules = Rules {
            all: own.clone(),
            own,
            own_misfits: misfits.into_iter().map(said).collect(),
            ..Rules::default()
        };
    }

    /// Reads the ignore file if it changed. Returns whether other rules hold now. One that cannot be read leaves the rules
    /// as they are.
    pub(super) fn load_rules(&mut self) -> Result<bool, StoreError> {
        let path = ignore_file();
        let stat = self.stat(&path)?.filter(|stat| stat.kind == FileKind::File);
        if self.rules.read == Some(stat) {
            return Ok(false);
        }
        let read = match stat {
            Some(stat) if stat.size > IGNORE_BYTES_MAX => {
                let limit = IGNORE_BYTES_MAX >> 10;
                self.problem(Some(&path), format!("larger than {limit} KiB: its rules are not taken up"));
                return Ok(false);
            }
            Some(stat) => self.read_rules(&path, &stat),
            None => Ok((Vec::new(), None)),
        };
        let (text, seen) = match read {
            Ok(read) => read,
            Err(error) if error.is_final() => return Err(error.into()),
            // Without any rules, what must not be replicated would be.
            Err(error) if self.rules.read.is_none() => return Err(error.into()),
            Err(error) => return self.unclear(&path, error).map(|_| false),
        };
        let (folder, misfits) = Ignore::parse(&text);
        let all = folder.then(&self.rules.own);
        let changed = all != self.rules.all;
        self.rules.all = all;
        self.rules.read = Some(seen);
        self.rules.misfits = misfits.iter().map(|misfit| format!("{IGNORE_FILE}, {misfit}")).collect();
        self.misfits().into_iter().for_each(|problem| self.event(Event::Problem(problem)));
        Ok(changed)
    }

    fn read_rules(&mut self, path: &RelPath, stat: &Stat) -> Result<(Vec<u8>, Option<Stat>), DiskError> {
        let reading = self.disk.read(path, stat, None)?;
        let mut text = Vec::new();
        for (offset, chunk) in reading.content.placed() {
            text.extend(self.disk.read_chunk(path, offset, &chunk)?.ok_or(DiskError::Changed)?.bytes());
        }
        Ok((text, Some(reading.stat)))
    }

    /// The lines that are no rules, as a problem as long as they stand there.
    pub(super) fn misfits(&self) -> Option<Problem> {
        let said: Vec<_> = self.rules.own_misfits.iter().chain(&self.rules.misfits).cloned().collect();
        let what = format!("not an ignore rule: {}", said.join("; "));
        (!said.is_empty()).then(|| Problem { path: Some(ignore_file()), what })
    }

    /// Whether an entry of a directory that is not ignored is.
    pub(super) fn is_ignored_entry(&self, path: &RelPath, is_dir: bool) -> bool {
        self.rules.all.covers_entry(path, is_dir)
    }

    /// Whether what stands at a path, or stood there last, is ignored.
    pub(super) fn is_ignored_path(&self, path: &RelPath, stat: Option<&Stat>, entry: Option<&Entry>) -> bool {
        let is_dir = match stat {
            Some(stat) => stat.kind == FileKind::Dir,
            None => entry.is_some_and(|entry| entry.record.kind.is_dir()),
        };
        self.rules.all.covers(path, is_dir)
    }

    /// Whether a version is of an ignored path. A deletion is of what it deletes.
    pub(super) fn is_ignored(&self, record: &Record, ours: Option<&Entry>) -> bool {
        let of = ours.map(|entry| &entry.record).filter(|_| !record.kind.is_live()).unwrap_or(record);
        self.rules.all.covers(&record.path, of.kind.is_dir())
    }

    /// Notes a peer's version of an ignored path. Of two that were written at once the winner is noted where the other
    /// one is: its own side keeps the loser, as far as it does not ignore it, too.
    pub(super) fn note(&mut self, ours: Option<Entry>, theirs: Record) -> Result<Outcome, StoreError> {
        match reconcile(ours.as_ref().map(|entry| &entry.record), &theirs) {
            Decision::Keep => {}
            Decision::Take => self.put(theirs, None)?,
            Decision::Merge { theirs: named, version } => {
                let ours = ours.expect("merging is with something");
                self.merge(ours, theirs, named, version)?;
            }
            Decision::Conflict { theirs_wins, version, .. } => {
                if theirs_wins {
                    let both = Record { version, ..theirs };
                    let resolved = self.own_version(Some(&both), &both.path, both.kind.clone());
                    self.put(resolved, None)?;
                }
            }
        }
        Ok(Outcome::Done)
    }

    /// What went away while it was ignored was not deleted from the folder: without the rule it is brought back.
    pub(super) fn lose_sight(&mut self, entry: Entry) -> Result<Observed, StoreError> {
        if entry.seen.is_some() {
            self.put_entry(&Entry { seen: None, ..entry })?;
        }
        Ok(Observed::Same)
    }

    /// A version was noted while the path was ignored, or is not visible yet, and something else stands there, which has not seen
    /// it: that is kept beside, and the version is brought. What is in a directory is looked at by itself.
    pub(super) fn part(
        &mut self,
        path: &RelPath,
        noted: Entry,
        kind: Kind,
        stat: &Stat,
    ) -> Result<Observed, StoreError> {
        if stat.kind == FileKind::Dir {
            self.restore(noted.record, Some(*stat));
            return Ok(Observed::Changed);
        }
        let here = self.own_version(None, path, kind);
        let copy = conflict_path(&here);
        match self.disk.keep(path, &Keep::Beside(copy.clone())) {
            Ok(_) | Err(DiskError::Taken) => {}
            Err(error) => return self.unclear(path, error),
        }
        let Some(now) = self.still_stands(path, stat)? else {
            return Ok(Observed::Unclear);
        };
        if self.observe_now(&copy)? == Observed::Unclear {
            return Ok(Observed::Unclear);
        }
        self.restore(noted.record, Some(now));
        Ok(Observed::Changed)
    }

    /// Whether an entry that was noted is here for the first time: no restore of it is under way.
    pub(super) fn is_noted(&self, entry: &Entry, stat: &Stat) -> bool {
        let key = (entry.record.path.clone(), OWN);
        entry.seen.is_none()
            && entry.record.kind.is_live()
            && !entry.stale
            && stat.kind != FileKind::Dir
            && self.pending.get(&key).is_none()
    }

    /// Whether a directory has entries, and nothing in it but what is ignored.
    pub(super) fn holds_only_ignored(&mut self, dir: &RelPath) -> Result<bool, StoreError> {
        let (mut todo, mut any) = (vec![dir.clone()], false);
        while let Some(dir) = todo.pop() {
            let listing = match self.disk.list(Some(&dir)) {
                Ok(listing) => listing,
                Err(error) if error.is_final() => return Err(error.into()),
                Err(_) => return Ok(false),
            };
            for (path, stat) in listing.entries {
                if self.is_ignored_entry(&path, stat.kind == FileKind::Dir) {
                    any = true;
                } else if stat.kind == FileKind::Dir {
                    todo.push(path);
                } else {
                    return Ok(false);
                }
            }
        }
        Ok(any)
    }
}

pub(super) fn ignore_file() -> RelPath {
    RelPath::new(IGNORE_FILE).expect("the name is a valid path")
}
