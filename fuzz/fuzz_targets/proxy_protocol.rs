//! Any bytes as a PROXY protocol v2 header.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::proxy_protocol::fuzz_logic(data));
