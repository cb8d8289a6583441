//! Real sockets on the loopback interface, in-process stacks, tokio.

mod line;
mod mesh;
mod stack;
