#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stella_protocol::fuzzing::trace_headers(data));
