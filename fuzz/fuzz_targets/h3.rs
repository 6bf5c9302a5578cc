//! Any bytes as the streams of HTTP/3, and as a section of QPACK.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::http::h3::fuzz_logic(data));
