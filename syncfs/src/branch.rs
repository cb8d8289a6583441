//! [`Branch`]: versions that left the folder without being lost.
//!
//! Two kinds of writes lose their right to be in a leased folder: those of a holder that was cut off and wrote on under an
//! older epoch (see [`crate::fence`]), and edits on a replica that follows. Each replica keeps what it has of them, in
//! `aside/` of its state directory, as branches: named, listed, compared with the folder, brought back by the holder as
//! ordinary writes, or dropped.
//!
//! A branch goes when somebody drops it, or when it is older than a replica keeps branches: a year, unless it is told otherwise.
//! Its age must show at two looks, an hour apart, so that a clock that is wrong for a moment ends nothing. Too many bytes
//! alone end only a branch of which the folder has everything, the oldest first; what exists nowhere else waits for its age, and the
//! status says that branches take more than they should.
//!
//! A deletion on a replica that follows is undone like an edit; the branch holds nothing but its word then.
//!
//! A path stands in a branch once. An edit of a path that its branch has already begins the next one.

use crate::device::DeviceId;
use crate::hash::ContentHash;
use crate::path::RelPath;
use crate::record::{Kind, Record, VersionVector};

/// Most branches, and most paths of one branch, that one question is answered with.
pub const LISTED_MAX: usize = 10_000;

/// Why versions left the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// They were written, here or by another, under an epoch that a newer holder had never heard of.
    StaleEpoch,
    /// They were edits on a replica that followed the holder, or that only receives.
    FollowerEdit,
    /// They stood in `aside/`, and the index that knew why is lost.
    Found,
    /// They stood in a replica that rejoined as unknown, and its peers had something else there, or nothing any more.
    Rejoined,
    /// Nobody wrote them: a check found these bytes where others belong (see [`crate::check`]).
    Damaged,
}

/// A set of versions that left the folder together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its number on this replica; never given twice.
    pub number: u64,
    /// The replica that keeps it.
    pub device: DeviceId,
    /// The epoch under which it was written.
    pub epoch: u64,
    /// The epoch that was in force when it was set aside.
    pub over: u64,
    /// Why.
    pub cause: Cause,
    /// When it began, nanoseconds since 1970.
    pub began_ns: i64,
    /// How many paths it has.
    pub paths: u64,
    /// The size of their files, in bytes.
    pub bytes: u64,
}

impl Branch {
    /// Its name, which is also that of its directory in `aside/`: `<device>-<epoch>-<number>`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.device.short(), self.epoch, self.number)
    }

    /// Epoch and number out of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<(u64, u64)> {
        let mut fields = name.rsplitn(3, '-');
        let number = fields.next()?.parse().ok()?;
        let epoch = fields.next()?.parse().ok()?;
        fields.next().filter(|device| !device.is_empty()).map(|_| (epoch, number))
    }
}

/// What a branch holds for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A file with this content and size.
    File(ContentHash, u64),
    /// A symbolic link with a target of this hash.
    Symlink(ContentHash),
    /// The path was deleted.
    Deleted,
}

impl What {
    /// The size of a file in bytes; else 0.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::File(_, size) => *size,
            Self::Symlink(_) | Self::Deleted => 0,
        }
    }

    /// Of what stood there; directories are not kept.
    #[must_use]
    pub fn of(kind: &Kind) -> Option<Self> {
        match kind {
            Kind::File { content, .. } => Some(Self::File(content.root(), content.size())),
            Kind::Symlink { target, .. } => Some(Self::Symlink(ContentHash::of(target))),
            Kind::Deleted => Some(Self::Deleted),
            Kind::Dir { .. } => None,
        }
    }
}

/// One path of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where it stood; its content is under the same path in the branch's directory.
    pub path: RelPath,
    /// What stood there.
    pub what: What,
    /// Who wrote it.
    pub by: DeviceId,
    /// Which writes of this path it had seen: for an edit on a follower the version that it changed.
    pub base: VersionVector,
}

impl Kept {
    /// What a branch keeps of a version; `None` of a directory.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let (path, by, base) = (record.path.clone(), record.by, record.version.clone());
        What::of(&record.kind).map(|what| Self { path, what, by, base })
    }
}

/// What taking a branch's version would do to a path of the folder as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Nothing: the folder says the same.
    Same,
    /// Another content.
    Changed,
    /// Something where the folder has nothing.
    New,
    /// Nothing where the folder has something.
    Deleted,
}

/// A branch's version of a path, compared with the folder's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: RelPath,
    /// What taking the branch's version would change.
    pub change: Change,
    /// Who wrote the branch's version.
    pub by: DeviceId,
    /// Size of the branch's version in bytes; `None` for a deletion.
    pub size: Option<u64>,
    /// Size of the folder's version in bytes; `None` where it has nothing, or nothing has come yet.
    pub current: Option<u64>,
    /// Where the branch's version is, relative to the state directory; `None` for a deletion.
    pub kept_as: Option<RelPath>,
}

impl Difference {
    /// Compares; `current` is what the folder says of the path.
    #[must_use]
    pub fn of(branch: &Branch, kept: &Kept, current: Option<&Kind>) -> Self {
        let current = current.filter(|kind| kind.is_live());
        let change = match (kept.what, current) {
            (What::Deleted, None) => Change::Same,
            (What::Deleted, Some(_)) => Change::Deleted,
            (_, None) => Change::New,
            (what, Some(kind)) if What::of(kind) == Some(what) => Change::Same,
            _ => Change::Changed,
        };
        let size = match kept.what {
            What::File(_, size) => Some(size),
            What::Symlink(_) => Some(0),
            What::Deleted => None,
        };
        let place = [b"aside/", branch.name().as_bytes(), b"/", kept.path.as_bytes()].concat();
        Self {
            path: kept.path.clone(),
            change,
            by: kept.by,
            size,
            current: current.map(Kind::size),
            kept_as: size.and_then(|_| RelPath::new(place).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_epoch_and_number() {
        let device = DeviceId::from_bytes([7; 32]);
        let branch = Branch {
            number: 12,
            device,
            epoch: 3,
            over: 4,
            cause: Cause::StaleEpoch,
            began_ns: 0,
            paths: 0,
            bytes: 0,
        };
        assert_eq!(Branch::parse(&branch.name()), Some((3, 12)));
        for name in ["", "-1-2", "x-1", "x-a-1", "x-1-", "x-1-99999999999999999999"] {
            assert_eq!(Branch::parse(name), None, "{name}");
        }
    }
}
