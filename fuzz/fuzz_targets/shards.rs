//! See `jacobi_fuzz::shards`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jacobi_fuzz::shards(bytes));
