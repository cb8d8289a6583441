//! The only part of this crate that touches the world.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod folder;
pub use folder::Folder;
