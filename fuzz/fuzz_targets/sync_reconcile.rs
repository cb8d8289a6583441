//! Runs [`hybrid_fuzz::sync::reconcile_records`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::sync::reconcile_records(data));
