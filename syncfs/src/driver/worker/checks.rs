//! Checks that somebody asked for: a step between two rounds of other work, one check after the other.

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::{Command, Reply, Worker};
use crate::check::{CheckReport, Finding, Repair};
use crate::driver::folder::Folder;
use crate::driver::history::{Opening, fault};
use crate::engine::Input;
use crate::error::{ScanError, StoreError};
use crate::hash::ContentHash;

impl Folder {
    /// Checks the replica against itself: the index is verified, the folder scanned, and every file read anew and compared with
    /// what it was taken up as; see [`crate::check`]. Meanwhile all else goes on, between one part of some MiB and the
    /// next, but for the time in which the index is verified (about a second for a million files). What the history keeps is
    /// read last.
    ///
    /// Nothing is deleted, whatever is found. `repair` says what may be put back; that needs a connected peer, unless the
    /// content is in another file of the folder, and goes on after the report is given, in later runs too.
    ///
    /// # Errors
    /// As [`Folder::scan`]. If the index is damaged, the folder then builds it anew, as when it is opened.
    pub async fn check(&self, repair: Repair) -> Result<CheckReport, ScanError> {
        let mut report = self.ask(|reply| Command::Check(repair, reply)).await.ok_or(ScanError::Closed)??;
        let mut after = None;
        loop {
            let ask = |reply| Command::Contents(after, reply);
            let contents = self.ask(ask).await.ok_or(ScanError::Closed)??;
            let Some((_, last)) = contents.last() else { return Ok(report) };
            after = Some(last.root);
            // They are not written any more, and need not stop the folder.
            let check =
                move || -> Vec<_> { contents.into_iter().map(|kept| (fault(&kept), kept.1)).collect() };
            for (fault, version) in spawn_blocking(check).await.map_err(|_| ScanError::Closed)? {
                report.kept += 1;
                if let Some(why) = fault {
                    report.add(Finding::Version { path: version.path, id: version.id, why });
                }
            }
        }
    }
}

impl Worker {
    pub(super) fn contents(&mut self, after: Option<&ContentHash>) -> Result<Vec<Opening>, StoreError> {
        let kept = self.engine.disk_mut().history.as_ref();
        Ok(kept.map_or(Ok(Vec::new()), |kept| kept.contents(after))?)
    }

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
