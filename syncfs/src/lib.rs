//! syncfs
