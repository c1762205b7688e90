//! See `jacobi_fuzz::config_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jacobi_fuzz::config_json(bytes));
