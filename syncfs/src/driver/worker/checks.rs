//! Checks that somebody asked for: a step between two rounds of other work, one check after the other.

use tokio::time::Instant;

use super::{Command, Reply, Worker};
use crate::check::{CheckReport, Repair};
use crate::driver::folder::Folder;
use crate::engine::Input;
use crate::error::{ScanError, StoreError};

impl Folder {
    /// Checks the replica against itself: the index is verified, the folder scanned, and every file read anew and compared with
    /// what it was taken up as; see [`crate::check`]. Meanwhile all else goes on, between one part of some MiB and the
    /// next, but for the time in which the index is verified (about a second for a million files). Contents of the history are not
    /// looked at.
    ///
    /// Nothing is deleted, whatever is found. `repair` says what may be put back; that needs a connected peer, unless the
    /// content is in another file of the folder, and goes on after the report is given, in later runs too.
    ///
    /// # Errors
    /// As [`Folder::scan`]. If the index is damaged, the folder then builds it anew, as when it is opened.
    pub async fn check(&self, repair: Repair) -> Result<CheckReport, ScanError> {
        Ok(self.ask(|reply| Command::Check(repair, reply)).await.ok_or(ScanError::Closed)??)
    }
}

impl Worker {
    pub(super) fn check(
        &mut self,
        repair: Repair,
        reply: Reply<CheckReport, StoreError>,
    ) -> Result<(), StoreError> {
        self.checks.push((repair, reply));
        if self.checks.len() == 1 { self.begin_check() } else { Ok(()) }
    }

    fn begin_check(&mut self) -> Result<(), StoreError> {
        let Some(&(repair, _)) = self.checks.first() else { return Ok(()) };
        // What was told of is not missed.
        let paths = self.noticed()?;
        if !paths.is_empty() {
            let now_ms = self.now_ms();
            self.engine.handle(now_ms, Input::Touched(paths.into_iter().collect()))?;
        }
        self.engine.begin_check(repair)
    }

    /// A part of the check under way. Returns whether there was one.
    pub(super) fn check_more(&mut self) -> Result<bool, StoreError> {
        if self.checks.is_empty() {
            return Ok(false);
        }
        if let Some(report) = self.engine.check()? {
            // What the report says is in the status by then.
            self.show_status()?;
            let (_, reply) = self.checks.remove(0);
            let _ = reply.send(Ok(report));
            self.begin_check()?;
        }
        // Nobody waits for notifications meanwhile, which must not pile up.
        self.changed_at.get_or_insert_with(Instant::now);
        Ok(true)
    }
}
