//! Any bytes as a configuration file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::config::fuzz_logic(data));
