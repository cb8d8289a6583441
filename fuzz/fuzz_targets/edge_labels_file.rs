//! Runs [`hybrid_fuzz::edge::labels_file`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::edge::labels_file(data));
