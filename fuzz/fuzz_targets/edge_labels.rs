//! Runs [`hybrid_fuzz::edge::labels`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::edge::labels(data));
