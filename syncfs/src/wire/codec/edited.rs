//! A version in short, as bytes.

use super::{DecodeError, Reader, Writer};
use crate::record::FILE_CHUNKS_MAX;
use crate::wire::Edited;

impl Writer {
    pub(super) fn edited(&mut self, round: u64, edited: &Edited) {
        self.byte(14);
        self.word(round);
        self.word(edited.sequence);
        self.0.extend_from_slice(edited.basis.as_bytes());
        self.half(edited.first);
        self.half(edited.last);
        self.record(&edited.record);
    }
}

impl Reader<'_> {
    pub(super) fn edited(&mut self) -> Result<Edited, DecodeError> {
        let (sequence, basis) = (self.counter("sequence")?, self.hash()?);
        let (first, last, record) = (self.half()?, self.half()?, self.record()?);
        let content = record.kind.content().ok_or(DecodeError::Invalid("edit"))?;
        let counts = [first as usize, last as usize, content.chunks().len()];
        if counts.into_iter().fold(0, usize::saturating_add) > FILE_CHUNKS_MAX {
            return Err(DecodeError::Limit("chunk list"));
        }
        Ok(Edited { sequence, record, basis, first, last })
    }
}
