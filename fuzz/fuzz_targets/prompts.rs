//! See `jacobi_fuzz::prompts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jacobi_fuzz::prompts(bytes));
