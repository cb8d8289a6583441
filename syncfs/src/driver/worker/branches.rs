//! What a [`Folder`] can be asked about branches and conflicts.

use tokio::sync::oneshot;

use super::requests::{FLUSH_ATTEMPTS, FLUSH_PAUSE, refuse};
use super::{Command, Reply, Worker};
use crate::branch::{Branch, Difference};
use crate::driver::disk::RealDisk;
use crate::driver::folder::Folder;
use crate::driver::sqlite_index::SqliteIndex;
use crate::engine::Engine;
use crate::error::{QueryError, RestoreError, StoreError};
use crate::path::RelPath;
use crate::status::Resolution;

/// A question about branches.
pub(in crate::driver) enum BranchCommand {
    List(Reply<Vec<Branch>, QueryError>),
    Diff(String, Reply<Vec<Difference>, RestoreError>),
    Restore(String, Vec<RelPath>, Option<RelPath>, Reply<Vec<RelPath>, RestoreError>),
    Drop(String, Reply<(), RestoreError>),
}

impl BranchCommand {
    /// Answers on behalf of a folder that is paused.
    pub(super) fn refuse(self, why: &StoreError) {
        match self {
            Self::List(reply) => refuse(reply, why),
            Self::Diff(_, reply) => refuse(reply, why),
            Self::Restore(_, _, _, reply) => refuse(reply, why),
            Self::Drop(_, reply) => refuse(reply, why),
        }
    }
}

impl Folder {
    /// The [branches](crate::branch) that this replica keeps, the newest first. At most 10,000.
    ///
    /// # Errors
    /// If the index fails.
    pub async fn branches(&self) -> Result<Vec<Branch>, QueryError> {
        self.ask(|reply| Command::Branch(BranchCommand::List(reply))).await.ok_or(QueryError::Closed)?
    }

    /// A branch, by its name, compared with the folder as it is now, in path order. At most 10,000 paths.
    ///
    /// # Errors
    /// [`RestoreError::NoBranch`]; if the index fails.
    pub async fn diff(&self, branch: &str) -> Result<Vec<Difference>, RestoreError> {
        let ask = |reply| Command::Branch(BranchCommand::Diff(branch.to_owned(), reply));
        self.ask(ask).await.ok_or(RestoreError::Closed)?
    }

    /// Brings versions of a branch back: those at and below `paths`, or all if there are none; to where they stood, or to the
    /// directory `to`. These are ordinary local writes: what stands there is kept, in the history or else beside it as the
    /// copy of a conflict, and peers get the new version. What the folder has already is left alone; the branch stays.
    /// Returns the paths that were written or deleted.
    ///
    /// # Errors
    /// [`RestoreError::NoBranch`]; [`RestoreError::Unknown`] if nothing of `paths` is in the branch;
    /// [`RestoreError::Follower`] where the write would be undone. What was restored before the error stays.
    pub async fn restore_branch(
        &self,
        branch: &str,
        paths: &[RelPath],
        to: Option<&RelPath>,
    ) -> Result<Vec<RelPath>, RestoreError> {
        let (branch, paths, to) = (branch.to_owned(), paths.to_vec(), to.cloned());
        let ask = |reply| Command::Branch(BranchCommand::Restore(branch, paths, to, reply));
        self.ask(ask).await.ok_or(RestoreError::Closed)?
    }

    /// Removes a branch and all that it keeps, for good.
    ///
    /// # Errors
    /// [`RestoreError::NoBranch`]; as the system says.
    pub async fn drop_branch(&self, branch: &str) -> Result<(), RestoreError> {
        let ask = |reply| Command::Branch(BranchCommand::Drop(branch.to_owned(), reply));
        self.ask(ask).await.ok_or(RestoreError::Closed)?
    }

    /// Ends the conflict whose kept copy is at `copy` (see [`Folder::conflicts`]), by ordinary local writes. The version that
    /// does not stay goes into the history, if this replica keeps one. No reader finds nothing at the conflict's path.
    ///
    /// # Errors
    /// [`RestoreError::NoConflict`]; [`RestoreError::Follower`] where the write would be undone; [`RestoreError::Busy`] if one
    /// of the two is being written; [`RestoreError::Taken`] or [`RestoreError::Directory`] if something is in the way.
    pub async fn resolve(&self, copy: &RelPath, resolution: Resolution) -> Result<(), RestoreError> {
        let ask = |reply| Command::Resolve(copy.clone(), resolution, reply);
        self.ask(ask).await.ok_or(RestoreError::Closed)?
    }
}

impl Worker {
    pub(super) async fn branch(&mut self, command: BranchCommand) -> Result<(), StoreError> {
        match command {
            BranchCommand::List(reply) => {
                let branches = self.engine.branches().map_err(StoreError::from);
                let fatal = branches.as_ref().err().cloned();
                let _ = reply.send(branches.map_err(QueryError::from));
                fatal.map_or(Ok(()), Err)
            }
            BranchCommand::Diff(name, reply) => answer_restore(reply, self.engine.differences(&name)),
            BranchCommand::Restore(name, paths, to, reply) => {
                let mut restored = Vec::new();
                let result = self
                    .patiently(|engine| engine.restore_branch(&name, &paths, to.as_ref(), &mut restored))
                    .await;
                answer_restore(reply, result.map(|()| restored))
            }
            BranchCommand::Drop(name, reply) => answer_restore(reply, self.engine.drop_branch(&name)),
        }
    }

    /// Tries for about a second what needs files to hold still; the runtime of this thread is its own.
    pub(super) async fn patiently<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Engine<RealDisk, SqliteIndex>) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        for _ in 1..FLUSH_ATTEMPTS {
            match attempt(&mut self.engine) {
                Err(RestoreError::Busy(_)) => tokio::time::sleep(FLUSH_PAUSE).await,
                other => return other,
            }
        }
        attempt(&mut self.engine)
    }
}

/// Answers; what makes the folder as a whole fail goes further.
pub(super) fn answer_restore<T>(
    reply: oneshot::Sender<Result<T, RestoreError>>,
    result: Result<T, RestoreError>,
) -> Result<(), StoreError> {
    let fatal = match &result {
        Err(RestoreError::Store(error)) if error.is_final() => Some(error.clone()),
        Err(RestoreError::Disk(error)) if error.is_final() => Some(error.clone().into()),
        _ => None,
    };
    let _ = reply.send(result);
    fatal.map_or(Ok(()), Err)
}
