//! Real sockets on the loopback interface, in-process stacks, tokio.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod line;
mod mesh;
mod stack;
