//! Runs [`hybrid_fuzz::sync_index::index`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::sync_index::index(data));
