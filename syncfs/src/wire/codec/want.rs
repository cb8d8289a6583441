//! Requests for chunks, and patches of them.

use super::{DecodeError, Reader, Writer};
use crate::chunk::CHUNK_BYTES_MAX;
use crate::disk::Run;
use crate::hash::ContentHash;
use crate::wire::{RUNS_MAX, Want};

impl Writer {
    pub(super) fn wants(&mut self, wants: &[Want]) {
        self.byte(6);
        self.count(wants.len());
        for want in wants {
            self.0.extend_from_slice(want.hash.as_bytes());
            self.byte(u8::from(want.basis.is_some()));
            want.basis.iter().for_each(|basis| self.0.extend_from_slice(basis.as_bytes()));
        }
    }

    pub(super) fn patch(&mut self, hash: &ContentHash, runs: &[Run]) {
        self.byte(13);
        self.0.extend_from_slice(hash.as_bytes());
        self.count(runs.len());
        for run in runs {
            self.half(run.offset);
            self.bytes(&run.bytes);
        }
    }
}

impl Reader<'_> {
    pub(super) fn want(&mut self) -> Result<Want, DecodeError> {
        Ok(Want { hash: self.hash()?, basis: if self.flag()? { Some(self.hash()?) } else { None } })
    }

    pub(super) fn runs(&mut self) -> Result<Vec<Run>, DecodeError> {
        let count = self.count(RUNS_MAX, 9, "run list")?;
        let (mut runs, mut end) = (Vec::with_capacity(count), 0);
        for _ in 0..count {
            let run = Run { offset: self.half()?, bytes: self.bytes(CHUNK_BYTES_MAX, "run")?.to_vec() };
            let start = run.offset as usize;
            if run.bytes.is_empty() || start < end || run.end() > CHUNK_BYTES_MAX {
                return Err(DecodeError::Invalid("run"));
            }
            end = run.end();
            runs.push(run);
        }
        Ok(runs)
    }
}
