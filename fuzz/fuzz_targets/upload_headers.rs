#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| keyferry_tests::fuzz::upload_headers(data));
