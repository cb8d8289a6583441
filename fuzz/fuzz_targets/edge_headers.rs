//! Runs [`hybrid_fuzz::edge_http::headers`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::edge_http::headers(data));
