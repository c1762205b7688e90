//! Decoding: token ids in, token ids and statistics out. Every strategy here is lossless: in fp32 its output equals that
//! of [`Strategy::Autoregressive`] token for token, greedy or sampled with the same seed. Knows no text.

mod batch;
mod blocks;
mod decoding;
mod draft;
mod drafter;
mod filler;
mod jacobi;
mod lane;
mod multi_block;
mod ngram_pool;
mod outputs;
mod pass;
mod recorder;
mod sampling;
#[cfg(test)]
mod scripted;
mod sequence;
mod stats;
#[cfg(test)]
mod tests;
mod token_tree;

use jacobi_datasets::FinishReason;
use jacobi_model::LanguageModel;

pub use batch::{Answer, Batch, BatchEvent, Disagreement, OnEvent, Request, Response, Room, generate_batch};
pub use blocks::{States, Trajectories};
pub use decoding::{Decoding, generate};
pub use draft::{Draft, Source};
pub use filler::Filler;
pub use jacobi::JacobiConfig;
pub use multi_block::{Growth, MultiBlockConfig};
pub use pass::{Pass, RANKED};
pub use recorder::Recorder;
pub use sampling::{RandomSampling, Sampling};
pub use stats::{DecodeStats, WidthStats};

use drafter::{Autoregressive, Drafter};
use multi_block::Window;

/// How to decode.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// One token per forward pass; the oracle for the rest.
    Autoregressive,
    /// One block after the other to its fixed point.
    Jacobi(JacobiConfig),
    /// Several blocks in flight, rejected drafts recycled, token trees.
    MultiBlock(MultiBlockConfig),
}

impl Strategy {
    fn drafter(&self) -> Box<dyn Drafter> {
        match self {
            Self::Autoregressive => Box::new(Autoregressive),
            Self::Jacobi(config) => Box::new(Window::new(config.into())),
            Self::MultiBlock(config) => Box::new(Window::new(config.clone())),
        }
    }

    /// The most rows of a pass.
    pub fn max_rows(&self) -> usize {
        match self {
            Self::Autoregressive => 1,
            Self::Jacobi(config) => MultiBlockConfig::from(config).max_rows(),
            Self::MultiBlock(config) => config.max_rows(),
        }
    }
}

/// When decoding ends.
#[derive(Clone, Debug, PartialEq)]
pub struct StopRules {
    /// Longest response, EOS included.
    pub max_new_tokens: usize,
    /// Any of these ends the response and belongs to it.
    pub eos_token_ids: Vec<u32>,
}

/// Everything a response depends on besides model and prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How to decode: changes the speed alone.
    pub strategy: Strategy,
    /// How tokens are taken from the model's distribution.
    pub sampling: Sampling,
    /// When it ends.
    pub stop: StopRules,
    /// In greedy decoding, decide a token by a pass over one row when a wider pass gives its two best tokens
    /// log-probabilities closer than this. For bf16, where the width of a pass can turn near-ties.
    pub strict_gap: Option<f32>,
}

impl Settings {
    /// Greedy, nothing strict.
    pub fn greedy(strategy: Strategy, stop: StopRules) -> Self {
        Self { strategy, sampling: Sampling::Greedy, stop, strict_gap: None }
    }

    /// Tokens a session must have room for: prompt, response, and the rows of a pass.
    pub fn capacity(&self, model: &dyn LanguageModel, prompt: usize) -> usize {
        model.context_length().min(prompt + self.stop.max_new_tokens) + self.strategy.max_rows()
    }
}

/// A decoded response.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The response, EOS included when it ended so.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Forward passes, acceptance and time.
    pub stats: DecodeStats,
}
