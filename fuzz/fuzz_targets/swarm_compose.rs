//! Runs [`hybrid_fuzz::swarm_compose::compose`].
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hybrid_fuzz::swarm_compose::compose(data));
