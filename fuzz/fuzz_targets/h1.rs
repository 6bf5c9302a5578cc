//! Any bytes as the head and body framing of HTTP/1.1.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::http::h1::fuzz_logic(data));
