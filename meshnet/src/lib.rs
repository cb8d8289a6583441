//! meshnet
