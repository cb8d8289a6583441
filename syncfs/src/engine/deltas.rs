//! A new version of a large database costs what it changed: it is kept as a delta, in a log beside the older version that is
//! visible, and that is durable and acknowledged like any other. The entry is then *behind*. The visible file becomes the
//! current version (it is *materialised*: put together in a stage, checked, renamed into place; then the log goes)
//!
//! * before [`Engine::hold`] returns, and whenever [`Engine::materialise`] is called;
//! * when the holder has let go of the lease, as it says itself or a replica that heard of it;
//! * when the log is two thirds as long as the file: the copy then costs one and a half times the pages that changed, so that all
//!   that is written is two and a half times those;
//! * in a folder without a lease, where programs may open it at any time, within [`QUIET_MAX_MS`] after it was last written, and
//!   every now and then while it is written ([`COPIES_BYTES_PER_S`]);
//! * when the replica takes the lease's number but does not follow, or the database becomes part of a group that is cut together.
//!
//! Other versions are visible at once: those of a small database, whose copy is not worth a log, of one that is open for writing
//! here or has several names, and of one in a group, which becomes visible as a whole.
//!
//! What the index says of such an entry is its current version; `seen` is the fingerprint of the visible file. An edit of that
//! has seen only what is visible. It is kept beside, or set aside on a follower, and the current version is brought; so it is
//! when the visible file was removed.

use std::collections::BTreeMap;

use crate::chunk::database_chunk_bytes;
use crate::disk::{Disk, DiskError, Stat};
use crate::error::StoreError;
use crate::fence::{Fence, Tenure};
use crate::index::{Behind, Entry, Index};
use crate::path::RelPath;
use crate::reconcile::{Decision, reconcile};
use crate::record::{Content, Kind, Record, VersionVector};
use crate::status::{Event, Role, Unmaterialised};

use super::apply::Outcome;
use super::intake::Observed;
use super::pending::{Key, Stage};
use super::{Engine, OWN, SessionId};

/// Databases up to this size, in bytes, have no deltas.
pub const DELTA_BYTES_MIN: u64 = 1 << 20;
/// How fast a database is rewritten, in bytes a second, while it is written all the time in a folder without a lease: one of 1 GiB
/// every 256 s.
pub const COPIES_BYTES_PER_S: u64 = 4 << 20;
/// How long one that is not written any more is left behind there at most, in milliseconds, unless it was rewritten lately.
pub const QUIET_MAX_MS: u64 = 2000;

/// The databases whose visible file is behind.
#[derive(Debug)]
pub(super) struct Deltas {
    behind: BTreeMap<RelPath, Waiting>,
    /// Logs that are not needed once the index says so.
    over: Vec<RelPath>,
    bytes_min: u64,
    copies_bytes_per_s: u64,
    /// Of the latest takeover, as peers say.
    tenure: Tenure,
    /// Until when one that was materialised is not rewritten again where there is no lease, in milliseconds.
    rests_ms: BTreeMap<RelPath, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    size: u64,
    mark: u64,
    /// It is to be materialised now.
    wanted: bool,
    /// Since when it is behind, and of when its current version is, in milliseconds.
    since_ms: u64,
    last_ms: u64,
}

/// How long a database is left behind in a folder without a lease: the larger it is, the longer, as each time it is
/// rewritten.
struct Pause {
    /// Without a new version: some of the time that a copy stands for, so that a database of a few MiB is shown as soon as others
    /// would be.
    quiet_ms: u64,
    /// At most, while there are always new ones; and at least, from one copy to the next.
    copies_ms: u64,
}

impl Deltas {
    fn pause(&self, size: u64) -> Pause {
        let copies_ms = size.saturating_mul(1000) / self.copies_bytes_per_s;
        Pause { quiet_ms: (copies_ms / 16).min(QUIET_MAX_MS), copies_ms }
    }
}

impl Default for Deltas {
    fn default() -> Self {
        Self {
            behind: BTreeMap::new(),
            over: Vec::new(),
            bytes_min: DELTA_BYTES_MIN,
            copies_bytes_per_s: COPIES_BYTES_PER_S,
            tenure: Tenure::default(),
            rests_ms: BTreeMap::new(),
        }
    }
}

impl Deltas {
    /// There is a new holder.
    pub(super) fn forget_tenure(&mut self) {
        self.tenure = Tenure::default();
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Sets from which size on, in bytes, databases have deltas ([`DELTA_BYTES_MIN`] by default), and how fast they are rewritten
    /// without a lease ([`COPIES_BYTES_PER_S`]).
    pub fn keep_deltas_from(&mut self, bytes_min: u64, copies_bytes_per_s: u64) {
        self.deltas.bytes_min = bytes_min;
        self.deltas.copies_bytes_per_s = copies_bytes_per_s;
    }

    /// The databases whose visible file is behind.
    #[must_use]
    pub fn unmaterialised(&self) -> Vec<Unmaterialised> {
        let shown = |(path, waiting): (&RelPath, &Waiting)| Unmaterialised {
            path: path.clone(),
            bytes: waiting.mark,
        };
        self.deltas.behind.iter().map(shown).collect()
    }

    /// Whether the latest takeover is over, as far as this replica knows.
    pub(super) fn tenure(&self) -> Tenure {
        match self.meta.fences.current() {
            Some(fence) if fence.holder == self.meta.device => {
                Tenure { at: self.meta.sequence, released: self.meta.role != Role::Holder }
            }
            _ => self.deltas.tenure,
        }
    }

    /// A peer says whether the holder of the newest of these takeovers still writes. The holder itself knows best, of others the one
    /// that heard of it later. What is new is passed on: not every replica is connected to the holder.
    pub(super) fn learn_tenure(
        &mut self,
        id: SessionId,
        fences: &[Fence],
        theirs: Tenure,
    ) -> Result<(), StoreError> {
        let peer = self.sessions.get(&id).and_then(|session| session.peer);
        let Some(current) = self.meta.fences.current() else { return Ok(()) };
        let same = |told: &Fence| (told.epoch, told.holder) == (current.epoch, current.holder);
        if !fences.last().is_some_and(same) || current.holder == self.meta.device {
            return Ok(());
        }
        let before = self.deltas.tenure;
        if theirs.at > before.at || theirs.at > 0 && peer == Some(current.holder) {
            self.deltas.tenure = theirs;
            if theirs.released != before.released {
                self.restate(false)?;
            }
        }
        Ok(())
    }

    /// Takes up the logs of the life before. One that is damaged is given up: its version is brought from a peer.
    pub(super) fn open_deltas(&mut self) -> Result<(), StoreError> {
        for mut entry in self.index.behind()? {
            let Some(behind) = &mut entry.behind else { continue };
            let path = entry.record.path.clone();
            let lost = behind.mark == 0 || !self.disk.delta_reset(&path, behind.mark)?;
            if lost {
                behind.mark = 0;
            }
            self.put_entry(&entry)?;
            self.deltas.behind.entry(path).and_modify(|waiting| waiting.wanted = lost);
        }
        Ok(self.disk.delta_sweep()?)
    }

    /// Follows every change of an entry.
    pub(super) fn note_behind(&mut self, entry: &Entry) {
        let path = &entry.record.path;
        match &entry.behind {
            Some(behind) => {
                let before = self.deltas.behind.get(path);
                let is_new = before.is_none_or(|before| before.mark != behind.mark);
                let waiting = Waiting {
                    size: entry.record.kind.size(),
                    mark: behind.mark,
                    wanted: before.is_some_and(|before| before.wanted),
                    since_ms: before.map_or(self.now_ms, |before| before.since_ms),
                    last_ms: before.filter(|_| !is_new).map_or(self.now_ms, |before| before.last_ms),
                };
                self.deltas.behind.insert(path.clone(), waiting);
            }
            None => self.note_gone(path),
        }
    }

    /// The path is not behind any more, whatever became of it.
    pub(super) fn note_gone(&mut self, path: &RelPath) {
        if !self.deltas.behind.is_empty()
            && let Some(waiting) = self.deltas.behind.remove(path)
        {
            let now_ms = self.now_ms;
            self.deltas.over.push(path.clone());
            self.deltas.rests_ms.retain(|_, rests_ms| *rests_ms > now_ms);
            self.deltas.rests_ms.insert(path.clone(), now_ms + self.deltas.pause(waiting.size).copies_ms);
            // What was written to the log goes with it.
            self.pending.update_path(path, |_, pending| {
                if pending.delta.is_some() {
                    pending.restart();
                }
            });
        }
    }

    /// After a commit: removes the logs that no entry needs any more.
    pub(super) fn drop_logs(&mut self) -> Result<(), StoreError> {
        for path in std::mem::take(&mut self.deltas.over) {
            self.disk.delta_reset(&path, 0)?;
        }
        Ok(())
    }

    /// Whether a version that is about to be brought together is kept as a delta; prepares the log for it.
    pub(super) fn begin_delta(&mut self, key: &Key, record: &Record) -> Result<bool, StoreError> {
        let Some(entry) = self.index.entry(&key.0)?.filter(|entry| !entry.stale) else { return Ok(false) };
        let (Some(seen), Some(ours), Some(theirs)) =
            (entry.seen, entry.record.kind.content(), record.kind.content())
        else {
            return Ok(false);
        };
        let lost = entry.behind.as_ref().is_some_and(|behind| behind.mark == 0);
        let fits = theirs.size() > self.deltas.bytes_min
            && is_like_database(theirs)
            && is_like_database(ours)
            && database_chunk_bytes(ours.size()) == database_chunk_bytes(theirs.size());
        if key.1 == OWN
            || !self.keeps_deltas(&key.0)
            || lost
            || !fits
            || reconcile(Some(&entry.record), record) != Decision::Take
            || !self.disk.takes_delta(&key.0, &seen)?
        {
            return Ok(false);
        }
        if self.deltas.over.contains(&key.0) {
            self.commit()?;
        }
        Ok(self.disk.delta_reset(&key.0, entry.behind.map_or(0, |behind| behind.mark))?)
    }

    /// Where the log ends with this version, if it is one that becomes current without becoming visible: its delta is in the
    /// log, or nothing but times and attributes differ from one that is not visible either.
    pub(super) fn as_delta(
        &self,
        key: &Key,
        ours: Option<&Entry>,
        record: &Record,
        staged: bool,
    ) -> Option<u64> {
        let ours = ours.filter(|entry| entry.seen.is_some() && !entry.stale)?;
        let mark = self.delta(key).filter(|_| staged);
        let content = record.kind.content()?;
        let same = ours.behind.as_ref().filter(|_| ours.record.kind.content() == Some(content));
        mark.or(same.map(|behind| behind.mark))
    }

    /// A version that only the log has becomes the current one.
    pub(super) fn take_delta(&mut self, entry: Entry, record: Record, mark: u64) -> Result<(), StoreError> {
        let shown = entry.behind.map_or(entry.record.kind, |behind| behind.shown);
        self.event(Event::Applied(record.path.clone()));
        self.put_behind(record, entry.seen, Some(Behind { shown, mark }))
    }

    /// What stands in the place of a version that is not visible yet is not what it was.
    pub(super) fn observe_behind(
        &mut self,
        path: &RelPath,
        mut entry: Entry,
        kind: Kind,
        stat: Stat,
    ) -> Result<Observed, StoreError> {
        let Some(behind) = entry.behind.take() else { return Ok(Observed::Same) };
        if kind == behind.shown {
            self.put_entry(&Entry { seen: Some(stat), behind: Some(behind), ..entry })?;
            return Ok(Observed::Same);
        }
        if kind.content() == entry.record.kind.content() {
            // It was materialised, but for the commit.
            self.put_entry(&entry)?;
            return self.observe_now(path);
        }
        if self.must_undo(Some(&entry))? {
            entry.behind = Some(behind);
            return self.undo(path, Some(entry), &kind, &stat).map(|()| Observed::Changed);
        }
        if let (Kind::File { attributes, .. }, Kind::File { mtime_ns, content, link, .. }) =
            (&kind, &entry.record.kind)
            && kind.content() == behind.shown.content()
        {
            let (attributes, content, link) = (attributes.clone(), content.clone(), link.clone());
            let adjusted = Kind::File { attributes, mtime_ns: *mtime_ns, content, link };
            let record = self.own_version(Some(&entry.record), path, adjusted);
            self.put_behind(record, Some(stat), Some(Behind { shown: kind, mark: behind.mark }))?;
            self.event(Event::Changed(path.clone()));
            return Ok(Observed::Changed);
        }
        let entry = Entry { seen: None, behind: Some(behind), ..entry };
        self.put_entry(&entry)?;
        self.part(path, entry, kind, &stat)
    }

    /// Makes the visible file of every database its current version; `at` limits that to this path and what is below it. Returns how
    /// many are still behind, because a part of their content has to come from a peer first.
    ///
    /// # Errors
    /// If the directory or the index fails.
    pub fn materialise(&mut self, at: Option<&RelPath>) -> Result<u64, StoreError> {
        let meant = |path: &&RelPath| at.is_none_or(|at| *path == at || path.is_below(at));
        let paths: Vec<_> = self.deltas.behind.keys().filter(meant).cloned().collect();
        let mut left = 0;
        for path in paths {
            if !self.materialise_now(&path)? {
                let entry = self.index.entry(&path)?;
                left += u64::from(entry.is_some_and(|entry| !self.is_ignored(&entry.record, Some(&entry))));
            }
        }
        Ok(left)
    }

    /// The same for one path, if it is behind. Returns whether it is not any more.
    pub(super) fn materialise_now(&mut self, path: &RelPath) -> Result<bool, StoreError> {
        if !self.deltas.behind.contains_key(path) {
            return Ok(true);
        }
        // What was brought together in the stage begins anew.
        self.pending.update_path(path, |session, pending| {
            if session != OWN && pending.delta.is_none() {
                pending.restart();
            }
        });
        if self.observe_now(path)? == Observed::Unclear || !self.want_current(path)? {
            return Ok(false);
        }
        let key = (path.clone(), OWN);
        loop {
            match self.pending.get(&key).map(|pending| &pending.stage) {
                Some(Stage::Looking { .. }) => {
                    let mut all = u64::MAX;
                    self.gather(&key, &mut all)?;
                }
                Some(Stage::Ready { .. }) => break,
                Some(_) => return Ok(false),
                None => break,
            }
        }
        self.settle_group(vec![key])?;
        Ok(!self.deltas.behind.contains_key(path))
    }

    /// The entry with what is visible as its version, before that is set aside or taken for something else. It is made visible for
    /// that. As long as the version can be had at all, nothing goes on without it: not while there is no room, for instance.
    pub(super) fn shown(&mut self, entry: Entry) -> Result<Entry, StoreError> {
        let path = entry.record.path.clone();
        if entry.behind.is_none() {
            return Ok(entry);
        }
        let shown = self.materialise_now(&path)?;
        if !shown && !self.is_ignored(&entry.record, None) && self.is_here(&entry.record)? {
            let reason = format!("the newest version of {path} cannot be put together right now");
            return Err(DiskError::Unusable { what: "show a database", reason }.into());
        }
        Ok(self.index.entry(&path)?.unwrap_or(entry).standing())
    }

    /// Begins to put the current version together. `false` if there is nothing to be done for it now.
    pub(super) fn want_current(&mut self, path: &RelPath) -> Result<bool, StoreError> {
        let Some(entry) = self.index.entry(path)?.filter(|entry| entry.behind.is_some()) else {
            return Ok(false);
        };
        let key = (path.clone(), OWN);
        if self.is_ignored(&entry.record, Some(&entry)) {
            return Ok(false);
        }
        match self.pending.get(&key) {
            // Nobody has what is missing.
            Some(pending) if matches!(pending.stage, Stage::Gone) => Ok(false),
            Some(_) => Ok(true),
            None => {
                self.restore(entry.record, entry.seen);
                Ok(true)
            }
        }
    }

    /// Before a peer's version meets one that is not visible yet, which was written at the same time: that is made visible first, unless
    /// nobody has it any more.
    pub(super) fn current_first(
        &mut self,
        entry: Option<Entry>,
        theirs: Record,
        version: VersionVector,
        last: bool,
    ) -> Result<Outcome, StoreError> {
        let path = theirs.path.clone();
        if self.is_lost(&path)? {
            let seen_both = Record { version, ..theirs.clone() };
            let resolved = self.own_version(Some(&seen_both), &path, theirs.kind);
            return self.replace(entry, resolved, last);
        }
        Ok(match self.want_current(&path)? {
            true => Outcome::Again,
            false => Outcome::Stuck("waits for the rest of the version that it replaces".to_owned()),
        })
    }

    /// Whether nobody has the current version any more: what its delta builds on was overwritten here, and every replica that this one
    /// ever met was asked for it, twice, in vain. Whoever had that content before has gone on from it, so nothing is lost with it.
    fn is_lost(&self, path: &RelPath) -> Result<bool, StoreError> {
        let key = (path.clone(), OWN);
        let Some(pending) = self.pending.get(&key).filter(|pending| matches!(pending.stage, Stage::Gone))
        else {
            return Ok(false);
        };
        let asked = |device| {
            let mut asked = pending.asked.iter().filter_map(|id| self.sessions.get(id));
            asked.any(|session| session.ended.is_none() && session.peer == Some(device))
        };
        let everybody = self.index.peers()?.into_iter().all(|(device, _)| asked(device));
        Ok(everybody && self.was_tried(&key))
    }

    /// Whether new versions of a path may be invisible for a while.
    fn keeps_deltas(&self, path: &RelPath) -> bool {
        let follows = self.meta.role == Role::Follower && !self.deltas.tenure.released;
        (self.is_unleased() || follows) && self.group_of(path).is_none()
    }

    fn is_unleased(&self) -> bool {
        self.meta.fences.epoch() == 0
    }

    /// Begins with those that are due.
    pub(super) fn materialise_due(&mut self) -> Result<(), StoreError> {
        let (now_ms, behind) = (self.now_ms, &self.deltas.behind);
        if behind.is_empty() {
            return Ok(());
        }
        let due: Vec<_> =
            behind.iter().filter(|it| self.due_ms(it) <= now_ms).map(|it| it.0.clone()).collect();
        for path in due {
            if !self.pending.has_path(&path) {
                self.want_current(&path)?;
            }
        }
        Ok(())
    }

    /// When one of those becomes due that are not yet.
    pub(super) fn materialise_at(&self) -> Option<u64> {
        let due_ms = self.deltas.behind.iter().map(|it| self.due_ms(&it));
        due_ms.filter(|due_ms| (self.now_ms + 1..u64::MAX).contains(due_ms)).min()
    }

    fn due_ms(&self, (path, waiting): &(&RelPath, &Waiting)) -> u64 {
        if waiting.wanted || waiting.mark / 2 >= waiting.size / 3 || !self.keeps_deltas(path) {
            return 0;
        }
        if !self.is_unleased() {
            return u64::MAX;
        }
        let Pause { quiet_ms, copies_ms } = self.deltas.pause(waiting.size);
        let due_ms = (waiting.last_ms + quiet_ms).min(waiting.since_ms + copies_ms);
        due_ms.max(self.deltas.rests_ms.get(*path).copied().unwrap_or(0))
    }
}

/// Whether a content is cut as databases are.
fn is_like_database(content: &Content) -> bool {
    let even = database_chunk_bytes(content.size());
    let Some((last, chunks)) = content.chunks().split_last() else { return false };
    u64::from(last.length) <= even && chunks.iter().all(|chunk| u64::from(chunk.length) == even)
}
