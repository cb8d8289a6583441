//! The self-check of a replica: what `syncd check` asks of a daemon, or of the folder itself, and how its findings are told to a
//! person and to a script.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use syncfs::{CheckReport, Finding};

use crate::control::{self, ControlError};
use crate::daemon::Failure;
use crate::sync_control::{self, CHECK_LIMIT, Request, path};
use crate::sync_report::{counted, size};

/// What a check may put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Nothing
    Nothing,
    /// All but databases, which an application may have open
    Files,
    /// Databases, too: stop their applications before
    All,
}

impl From<Repair> for syncfs::Repair {
    fn from(repair: Repair) -> Self {
        match repair {
            Repair::Nothing => Self::Nothing,
            Repair::Files => Self::Files,
            Repair::All => Self::All,
        }
    }
}

/// What a check found.
#[derive(Debug, Serialize, Deserialize)]
pub struct CheckedReport {
    /// Files and symlinks that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Kept versions, each content once, that were read.
    pub kept: u64,
    /// Files that were not judged: changed meanwhile or a moment ago.
    pub skipped: u64,
    /// Changes that had not been taken up yet.
    pub missed: u64,
    /// What is wrong.
    pub findings: Vec<FindingReport>,
    /// How many more findings there are.
    pub more: u64,
}

/// Something that is wrong.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindingReport {
    /// `damaged`, `unreadable`, `version` or `branch`.
    pub finding: String,
    /// Where; for `branch` inside of it.
    pub path: String,
    /// Of `damaged`: whether its version is being put back.
    pub repair: bool,
    /// Of `unreadable` and `version`: what is wrong; of `branch`: its name.
    pub detail: Option<String>,
    /// Of `version`: its number in the history.
    pub version: Option<u64>,
}

impl From<CheckReport> for CheckedReport {
    fn from(report: CheckReport) -> Self {
        let CheckReport { files, bytes, kept, skipped, missed, ref findings, more, .. } = report;
        let findings = findings.iter().map(FindingReport::from).collect();
        Self { files, bytes, kept, skipped, missed, findings, more }
    }
}

impl From<&Finding> for FindingReport {
    fn from(finding: &Finding) -> Self {
        let (name, path, repair, detail, version) = match finding {
            Finding::Damaged { path, repair } => ("damaged", path, *repair, None, None),
            Finding::Unreadable { path, why } => ("unreadable", path, false, Some(why), None),
            Finding::Version { path, id, why } => ("version", path, false, Some(why), Some(*id)),
            Finding::Branch { branch, path } => ("branch", path, false, Some(branch), None),
            other => unreachable!("a finding without a word for it: {other:?}"),
        };
        Self { finding: name.to_owned(), path: path.to_string(), repair, detail: detail.cloned(), version }
    }
}

impl fmt::Display for CheckedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        if self.more > 0 {
            writeln!(f, "and {} more", self.more)?;
        }
        let (files, kept) = (counted(self.files, "file"), counted(self.kept, "kept version"));
        write!(f, "{files}, {} and {kept} read: ", size(self.bytes))?;
        match self.findings.len() as u64 + self.more {
            0 => f.write_str("sound")?,
            count => f.write_str(&counted(count, "finding"))?,
        }
        if self.skipped > 0 {
            write!(f, "; {} not judged (being written, or still to come)", self.skipped)?;
        }
        if self.missed > 0 {
            write!(f, "; {} taken up that nothing had told of", counted(self.missed, "change"))?;
        }
        writeln!(f)
    }
}

impl fmt::Display for FindingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, repair, .. } = self;
        match (self.finding.as_str(), self.detail.as_deref().unwrap_or_default()) {
            ("damaged", _) if *repair => {
                write!(f, "damaged: {path} (kept in a branch; its version is being put back)")
            }
            ("damaged", _) => write!(f, "damaged: {path} (left as it is; see --repair)"),
            ("unreadable", why) => write!(f, "unreadable: {path}: {why}"),
            ("version", why) => {
                write!(f, "version {} of {path} is lost: {why}", self.version.unwrap_or_default())
            }
            (_, branch) => write!(f, "branch {branch}: {path} is not there any more"),
        }
    }
}

/// Asks the daemon of a folder, or, if nobody serves it, the folder itself.
pub async fn ask(dir: &Path, repair: Repair) -> Result<CheckedReport, Failure> {
    match control::ask(&path(dir), &Request::Check { repair }, CHECK_LIMIT).await {
        Err(ControlError::NotRunning(_)) => {
            let folder = sync_control::open(dir).await?;
            let report = folder.check(repair.into()).await;
            folder.close().await;
            Ok(report?.into())
        }
        asked => Ok(asked?),
    }
}
