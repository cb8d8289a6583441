//! Runs [`hybrid_fuzz::sync::ignore`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::sync::ignore(data));
