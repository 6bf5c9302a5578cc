//! Any bytes as a record of a group's log.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_protocol::record::fuzz_logic(data));
