//! Any bytes as a host and a target, through the router.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::router::fuzz_logic(data));
