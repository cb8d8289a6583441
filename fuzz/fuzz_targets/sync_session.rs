//! Runs [`hybrid_fuzz::sync::session`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::sync::session(data));
