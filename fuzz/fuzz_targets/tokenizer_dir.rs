//! See `jacobi_fuzz::tokenizer_dir`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jacobi_fuzz::tokenizer_dir(bytes));
