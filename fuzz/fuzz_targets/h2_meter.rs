//! Any bytes as the frames that pass the HTTP/2 meter.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::http::h2_meter::fuzz_logic(data));
