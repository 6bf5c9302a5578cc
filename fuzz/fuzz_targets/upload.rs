//! Any bytes as a component that is uploaded.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| berth_isolate_host::compile::fuzz_logic(data));
