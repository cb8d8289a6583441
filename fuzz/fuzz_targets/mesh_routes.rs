//! Runs [`hybrid_fuzz::mesh::routes`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::mesh::routes(data));
