//! Runs [`hybrid_fuzz::sync::path`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::sync::path(data));
