//! Any bytes as a request target and its normal form.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::http::target::fuzz_logic(data));
