//! Integration tests: what holds across crates. One binary, one module per promise;
//! cli.rs beside it is a test of the `jacobi-cli` package, which alone gets its binary from cargo.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod adapter_files;
mod adapter_training;
mod adapters;
mod bad_models;
mod curve;
mod engine;
mod generation;
mod golden_numbers;
mod importing;
mod loading;
mod lossless;
mod oracle;
mod overfit;
mod parity;
mod pipeline;
mod support;
mod tidy;
mod training;
