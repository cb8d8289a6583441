//! Runs [`hybrid_fuzz::mesh::engine`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::mesh::engine(data));
