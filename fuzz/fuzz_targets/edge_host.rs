//! Runs [`hybrid_fuzz::edge::host`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::edge::host(data));
