//! Integration tests: what holds across crates. One binary, one module per promise.

mod bad_models;
mod cli;
mod golden_numbers;
mod lossless;
mod parity;
mod pipeline;
mod support;
mod tidy;
