//! Glue that the binaries share. The four crates meet here and nowhere else.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod control;
pub mod daemon;
