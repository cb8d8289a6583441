//! Runs [`hybrid_fuzz::sync::message`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::sync::message(data));
