//! Runs [`hybrid_fuzz::swarm::lease`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::swarm::lease(data));
