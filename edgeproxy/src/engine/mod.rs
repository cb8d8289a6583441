//! Owns the state machines: `handle(now, Input)`, then `poll() -> Option<Output>` until it is empty, then wait until `deadline()` or the
//! next input. No I/O, no clock, no threads.

pub mod merge;
