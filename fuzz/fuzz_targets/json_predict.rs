#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| servable_fuzz::json_predict(data));
