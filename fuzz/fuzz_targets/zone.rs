//! Any bytes as the document of a zone that is deployed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::zones::fuzz_logic(data));
