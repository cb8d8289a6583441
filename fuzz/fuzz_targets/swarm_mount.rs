//! Runs [`hybrid_fuzz::swarm::mount`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::swarm::mount(data));
