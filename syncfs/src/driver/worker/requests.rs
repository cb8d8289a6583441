//! What a handle asks, and the answers. An error that is the folder's own goes to whoever asked and ends the thread.

use std::time::Duration;

use super::super::hooks::Step;
use super::branches::answer_restore;
use super::{Command, Reply, Worker};
use crate::engine::{Input, PROBLEMS_MAX};
use crate::error::{FenceError, FlushError, QueryError, RestoreError, StoreError};
use crate::history::{At, Version};
use crate::index::Index;
use crate::path::RelPath;
use crate::status::Summary;
use crate::token::Token;

/// How often a flush looks again at paths that did not hold still.
pub(super) const FLUSH_ATTEMPTS: u32 = 40;
/// Pause between two of those looks.
pub(super) const FLUSH_PAUSE: Duration = Duration::from_millis(25);
/// How many paths one answer about differences lists.
const DIFFERING_LISTED_MAX: usize = 10_000;

impl Worker {
    pub(super) async fn handle(&mut self, command: Command) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        match command {
            Command::Scan(reply) => answer(reply, self.engine.scan())?,
            Command::Check(repair, reply) => self.check(repair, reply)?,
            Command::ConfirmDeletions(reply) => answer(reply, self.engine.confirm_deletions())?,
            Command::RejoinAlone(reply) => {
                answer(reply, self.engine.rejoin_alone())?;
                self.show_status()?;
            }
            Command::Override(reply) => answer(reply, self.engine.override_peers())?,
            Command::Differing(reply) => {
                drop(reply.send(Ok(self.engine.differing_paths(DIFFERING_LISTED_MAX))))
            }
            Command::Flush { seal: false, reply } if self.hooks.is_empty() || self.engine.is_undoing() => {
                self.answer_flush(reply, false).await?;
            }
            Command::Flush { seal: false, reply } => {
                self.flushes.push(reply);
                self.hooks.start_all();
            }
            Command::Flush { seal: true, reply } => self.answer_flush(reply, true).await?,
            Command::Materialise(at, reply) => answer(reply, self.engine.materialise(at.as_ref()))?,
            Command::Status(reply) => {
                self.show_status()?;
                let _ = reply.send(self.outlet.status.borrow().clone());
            }
            Command::Digest(reply) => answer(reply, self.engine.digest().map_err(StoreError::from))?,
            Command::Conflicts(reply) => {
                answer(reply, self.engine.index().conflicts().map_err(StoreError::from))?
            }
            Command::Hold(epoch, reply) => {
                let result = self.engine.hold(epoch);
                self.answer_lease(reply, result)?;
            }
            Command::Follow(reply) => {
                let result = self.engine.follow();
                self.answer_lease(reply, result)?;
            }
            Command::History(path, reply) => drop(reply.send(self.versions(&path))),
            Command::Contents(after, reply) => drop(reply.send(self.contents(after.as_ref()))),
            Command::Restore(path, at, to, reply) => {
                let result = self.restore(&path, at, to.as_ref()).await;
                answer_restore(reply, result)?;
            }
            Command::Branch(command) => self.branch(command).await?,
            Command::Resolve(copy, resolution, reply) => {
                let result = self.patiently(|engine| engine.resolve_conflict(&copy, &resolution)).await;
                answer_restore(reply, result)?;
            }
            Command::Lagging(token, peers, reply) => drop(reply.send(self.engine.lagging(&token, &peers))),
            Command::Behind(token, reply) => drop(reply.send(self.engine.behind(&token))),
            Command::Open(session, expect, stream) => {
                self.streams.insert(session, stream);
                self.engine.handle(now_ms, Input::Opened { session, expect })?;
            }
            Command::Received(session, message) => {
                self.engine.handle(now_ms, Input::Received { session, message })?
            }
            Command::Heard(session) => self.engine.handle(now_ms, Input::Heard { session })?,
            Command::Nudge | Command::Stop => {}
            Command::Closed(session, reply) => {
                let _ = reply.send((self.engine.summary(session), self.engine.ended(session).cloned()));
                self.close(session)?;
            }
        }
        Ok(())
    }

    fn versions(&mut self, path: &RelPath) -> Result<Vec<Version>, QueryError> {
        let kept = self.engine.disk_mut().history.as_ref();
        Ok(kept.map_or(Ok(Vec::new()), |kept| kept.versions(path)).map_err(StoreError::from)?)
    }

    /// A restore is an ordinary local write: what stands there is kept, and peers get the version as a new one.
    async fn restore(
        &mut self,
        path: &RelPath,
        at: At,
        to: Option<&RelPath>,
    ) -> Result<Vec<RelPath>, RestoreError> {
        let kept = self.engine.disk_mut().history.as_ref().ok_or(RestoreError::Off)?;
        let versions = match at {
            At::Version(id) => {
                kept.version(id)?.filter(|version| version.path == *path).into_iter().collect()
            }
            At::Time(at_ns) => kept.at(path, at_ns)?,
        };
        if versions.is_empty() {
            return Err(RestoreError::Unknown);
        }
        let mut restored = Vec::new();
        for version in versions {
            let rest = &version.path.as_bytes()[path.as_bytes().len()..];
            let target = [to.unwrap_or(path).as_bytes(), rest].concat();
            let target = RelPath::new(target).map_err(|_| RestoreError::Unknown)?;
            self.patiently(|engine| engine.make_room(&target)).await?;
            self.engine.disk_mut().bring_back(&version, &target)?;
            let now_ms = self.now_ms();
            self.engine.handle(now_ms, Input::Touched(vec![target.clone()]))?;
            restored.push(target);
        }
        Ok(restored)
    }

    async fn answer_flush(&mut self, reply: Reply<Token, FlushError>, seal: bool) -> Result<(), StoreError> {
        match self.flush(seal).await {
            Err(FlushError::Store(error)) => answer(reply, Err(error)),
            result => {
                let _ = reply.send(result);
                Ok(())
            }
        }
    }

    /// Takes the cut for which a hook's first command was run; or answers flushes when the last hook is done.
    pub(super) async fn take_step(&mut self, step: Step) -> Result<(), StoreError> {
        match step {
            Step::Cut(name, reply) => {
                let cut = match self.cut_now(&name).await? {
                    true => Ok(()),
                    false => {
                        Err("not cut: it changes although the command before its cut was run".to_owned())
                    }
                };
                let _ = reply.send(cut);
            }
            Step::Done(name, result) => {
                self.engine.report_cut(&name, result);
                self.show_status()?;
                if self.hooks.done(&name) {
                    for reply in std::mem::take(&mut self.flushes) {
                        self.answer_flush(reply, false).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn cut_now(&mut self, name: &RelPath) -> Result<bool, StoreError> {
        for _ in 0..FLUSH_ATTEMPTS {
            if self.engine.cut_now(name)? {
                return Ok(true);
            }
            tokio::time::sleep(FLUSH_PAUSE).await;
        }
        Ok(false)
    }

    /// Everything that stands in the directory now, committed; or what could not be taken up.
    async fn flush(&mut self, seal: bool) -> Result<Token, FlushError> {
        // A walk finds what changed; that something was renamed, only notifications tell.
        let paths = self.noticed()?;
        if !paths.is_empty() {
            let now_ms = self.now_ms();
            self.engine.handle(now_ms, Input::Touched(paths.into_iter().collect()))?;
        }
        self.engine.scan()?;
        for attempt in 0.. {
            let unsettled = self.engine.unsettled();
            if unsettled.is_empty() {
                break;
            }
            if attempt == FLUSH_ATTEMPTS {
                return Err(FlushError::Unstable(self.engine.problems()));
            }
            // Waiting for somebody else's writes to pause; the runtime of this thread is its own.
            tokio::time::sleep(FLUSH_PAUSE).await;
            if unsettled.len() < PROBLEMS_MAX {
                let now_ms = self.now_ms();
                self.engine.handle(now_ms, Input::Awaited(unsettled))?;
            } else {
                // These may not be all.
                self.engine.scan()?;
            }
        }
        // Where nothing has the folder open, no command is needed.
        for name in if seal { self.engine.hooked_groups() } else { Vec::new() } {
            if self.cut_now(&name).await? {
                self.engine.report_cut(&name, Ok(()));
            } else {
                return Err(FlushError::Unstable(self.engine.problems()));
            }
        }
        let failed = self.engine.failed_cuts();
        if !failed.is_empty() {
            return Err(FlushError::Unstable(failed));
        }
        self.engine.settle()?;
        if self.engine.held_deletions() > 0 {
            return Err(FlushError::Held(self.engine.held_deletions()));
        }
        if seal {
            self.engine.seal_folder()?;
            self.show_status()?;
        }
        self.engine.token().ok_or(FlushError::NoFolder)
    }

    /// Whoever took or left the lease finds it so in the status: epoch and role decide what is done next.
    fn answer_lease(
        &mut self,
        reply: Reply<(), FenceError>,
        result: Result<(), FenceError>,
    ) -> Result<(), StoreError> {
        if let Err(FenceError::Store(error)) = &result {
            let fatal = error.clone();
            let _ = reply.send(result);
            return Err(fatal);
        }
        self.show_status()?;
        let _ = reply.send(result);
        Ok(())
    }
}

impl Command {
    /// Answers on behalf of a folder that is paused. A stream that is let go of here ends.
    pub(in crate::driver) fn refuse(self, why: &StoreError) {
        match self {
            Self::Scan(reply) | Self::ConfirmDeletions(reply) => refuse(reply, why),
            Self::Check(_, reply) => refuse(reply, why),
            Self::Flush { reply, .. } => refuse(reply, why),
            Self::Differing(reply) => refuse(reply, why),
            Self::Override(reply) => refuse(reply, why),
            Self::RejoinAlone(reply) => refuse(reply, why),
            Self::Materialise(_, reply) => refuse(reply, why),
            Self::Digest(reply) => refuse(reply, why),
            Self::Conflicts(reply) => refuse(reply, why),
            Self::Hold(_, reply) | Self::Follow(reply) => refuse(reply, why),
            Self::History(_, reply) => refuse(reply, why),
            Self::Contents(_, reply) => refuse(reply, why),
            Self::Restore(_, _, _, reply) => refuse(reply, why),
            Self::Branch(command) => command.refuse(why),
            Self::Resolve(_, _, reply) => refuse(reply, why),
            Self::Lagging(_, _, reply) => refuse(reply, why),
            Self::Behind(_, reply) => refuse(reply, why),
            Self::Closed(_, reply) => drop(reply.send((Summary::default(), None))),
            Self::Status(_)
            | Self::Open(..)
            | Self::Received(..)
            | Self::Heard(_)
            | Self::Nudge
            | Self::Stop => {}
        }
    }
}

pub(super) fn refuse<T, E: From<StoreError>>(reply: Reply<T, E>, why: &StoreError) {
    let _ = reply.send(Err(why.clone().into()));
}

fn answer<T, E: From<StoreError>>(
    reply: Reply<T, E>,
    result: Result<T, StoreError>,
) -> Result<(), StoreError> {
    let fatal = result.as_ref().err().cloned();
    let _ = reply.send(result.map_err(E::from));
    fatal.map_or(Ok(()), Err)
}
