//! Decoding: token ids in, token ids and statistics out. Every strategy is lossless: in fp32 its output equals
//! that of [`Strategy::Autoregressive`] token for token, both greedy and sampled with the same seed. This crate
//! sees no text.
//!
//! A pass verifies a [`Draft`], rows proposed by a drafter, in one forward pass of the model; the tokens that
//! the model itself would have given are accepted. A model with a draft adapter has further rows in the same pass, which draft
//! for the next one. Reading order: `draft.rs` (rows and acceptance),
//! `sequence.rs` (one response), `multi_block.rs` (the drafter of Jacobi and multi-block decoding), `lane.rs`
//! and `batch.rs` (many requests per pass).

mod batch;
mod blocks;
mod config;
mod decoding;
mod draft;
mod drafter;
mod error;
mod filler;
mod jacobi;
mod lane;
mod multi_block;
mod ngram_pool;
mod outputs;
mod pass;
mod recorder;
mod request;
mod sampling;
#[cfg(test)]
mod scripted;
mod sequence;
mod settings;
mod stats;
#[cfg(test)]
mod tests;
mod token_tree;

pub use batch::{Batch, BatchEvent, OnEvent, Room, generate_batch};
pub use blocks::{States, Trajectories};
pub use config::{DecoderConfig, WindowName};
pub use decoding::{Decoding, generate};
pub use draft::{Draft, Limit, Source};
pub use error::DecoderError;
pub use filler::Filler;
pub use jacobi::JacobiConfig;
pub use multi_block::{Growth, MultiBlockConfig, Passes};
pub use pass::{Pass, RANKED};
pub use recorder::Recorder;
pub use request::{Answer, Disagreement, Generation, Request, Response};
pub use sampling::{RandomSampling, Sampling};
pub use settings::{DecoderName, Settings, StopRules, Strategy};
pub use stats::{DecodeStats, WidthStats};
