//! Any bytes as a frame that a network card received.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_fixtures::fuzz_logic(data));
