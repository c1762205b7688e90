//! See `jacobi_fuzz::recipe`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jacobi_fuzz::recipe(bytes));
