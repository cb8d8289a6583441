//! Runs [`hybrid_fuzz::mesh::frame`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::mesh::frame(data));
