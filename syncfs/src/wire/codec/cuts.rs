//! Groups and loose paths as bytes: on the wire and in the index.

use super::{DecodeError, Reader, Writer};
#[cfg(feature = "driver")]
use crate::cutting::CutState;
use crate::cutting::{GROUP_PATHS_MAX, GROUPS_MAX, Group, Groups, LOOSE_MAX, Loose, Mark};

impl Writer {
    pub(super) fn groups_message(&mut self, groups: &Groups) {
        self.byte(15);
        self.groups(groups);
    }

    fn groups(&mut self, groups: &Groups) {
        self.count(groups.len());
        for group in groups.iter() {
            self.count(group.paths().len());
            group.paths().iter().for_each(|path| self.bytes(path.as_bytes()));
        }
    }

    pub(super) fn mark(&mut self, Mark { seen, loose }: &Mark) {
        self.vector(seen);
        self.byte(u8::from(loose.has_more()));
        self.count(loose.iter().count());
        loose.iter().for_each(|path| self.bytes(path.as_bytes()));
    }
}

impl Reader<'_> {
    pub(super) fn groups(&mut self) -> Result<Groups, DecodeError> {
        let mut groups = Groups::default();
        for _ in 0..self.count(GROUPS_MAX, 9, "groups")? {
            let count = self.count(GROUP_PATHS_MAX, 5, "paths of a group")?;
            let paths = (0..count).map(|_| self.path()).collect::<Result<_, _>>()?;
            let group = Group::new(paths).ok_or(DecodeError::Invalid("group"))?;
            if groups.iter().any(|other| *other == group) {
                return Err(DecodeError::Invalid("group"));
            }
            if !groups.add(group) {
                return Err(DecodeError::Limit("paths of a group"));
            }
        }
        Ok(groups)
    }

    pub(super) fn mark(&mut self) -> Result<Mark, DecodeError> {
        let seen = self.vector()?;
        let mut loose = Loose::default();
        if self.flag()? {
            loose.set_more();
        }
        for _ in 0..self.count(LOOSE_MAX, 5, "loose paths")? {
            let path = self.path()?;
            if loose.iter().last().is_some_and(|last| *last >= path) {
                return Err(DecodeError::Invalid("loose paths"));
            }
            loose.insert(path);
        }
        Ok(Mark { seen, loose })
    }
}

/// Encodes what a replica knows of its cuts: how the index stores it.
#[cfg(feature = "driver")]
#[must_use]
pub(crate) fn encode_cuts(cuts: &CutState) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    out.groups(&cuts.groups);
    out.mark(&cuts.mark);
    out.0
}

/// The inverse of [`encode_cuts`].
#[cfg(feature = "driver")]
pub(crate) fn decode_cuts(bytes: &[u8]) -> Result<CutState, DecodeError> {
    let mut input = Reader(bytes);
    let cuts = CutState { groups: input.groups()?, mark: input.mark()? };
    input.end()?;
    Ok(cuts)
}
