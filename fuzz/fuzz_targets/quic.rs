//! Any datagrams at the endpoint of a core.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_dataplane::quic::fuzz_logic(data));
