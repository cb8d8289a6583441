//! Runs [`hybrid_fuzz::swarm::plugin`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::swarm::plugin(data));
