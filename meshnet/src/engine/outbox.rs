//! Owns what waits to leave the engine, and the pool of buffers that packets and frames live in.

use std::collections::VecDeque;

use crate::engine::Output;

/// Buffers kept for reuse.
const POOL_MAX: usize = 256;

/// Outputs in order, and spare buffers.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(Output, Vec<u8>)>,
    pool: Vec<Vec<u8>>,
}

impl Outbox {
    /// A buffer to write an output's bytes into.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.pool.pop().unwrap_or_default()
    }

    /// Takes back a buffer whose bytes are not needed.
    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.pool.len() < POOL_MAX {
            buffer.clear();
            self.pool.push(buffer);
        }
    }

    pub(super) fn push(&mut self, output: Output, bytes: Vec<u8>) {
        self.waiting.push_back((output, bytes));
    }

    /// The next output; its bytes are swapped into `bytes`, the buffer there is reused.
    pub(super) fn pop(&mut self, bytes: &mut Vec<u8>) -> Option<Output> {
        let (output, mut buffer) = self.waiting.pop_front()?;
        std::mem::swap(bytes, &mut buffer);
        self.recycle(buffer);
        Some(output)
    }
}
