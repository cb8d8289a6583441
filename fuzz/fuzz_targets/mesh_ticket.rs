//! Runs [`hybrid_fuzz::mesh::ticket`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::mesh::ticket(data));
