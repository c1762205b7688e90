//! Everything that a response depends on besides the model and the prompt.

use jacobi_model::LanguageModel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JacobiConfig, MultiBlockConfig, Sampling};

/// How to decode.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// One token per forward pass; every other strategy is tested against it.
    Autoregressive,
    /// One block after the other to its fixed point.
    Jacobi(JacobiConfig),
    /// Several blocks in flight, rejected drafts recycled, token trees.
    MultiBlock(MultiBlockConfig),
}

impl Strategy {
    /// The name in recipes and results.
    pub fn name(&self) -> DecoderName {
        match self {
            Self::Autoregressive => DecoderName::Ar,
            Self::Jacobi(_) => DecoderName::Jacobi,
            Self::MultiBlock(_) => DecoderName::MultiBlock,
        }
    }

    /// The most rows that a pass verifies. With an adapter a pass has more.
    pub fn max_rows(&self) -> usize {
        match self {
            Self::Autoregressive => 1,
            Self::Jacobi(config) => MultiBlockConfig::from(config).max_rows(),
            Self::MultiBlock(config) => config.max_rows(),
        }
    }
}

/// A [`Strategy`] by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecoderName {
    /// One token per forward pass.
    #[default]
    Ar,
    /// Jacobi decoding, block by block.
    Jacobi,
    /// Several blocks in flight, rejected drafts recycled, token trees.
    MultiBlock,
}

impl DecoderName {
    /// The name in recipes and results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ar => "ar",
            Self::Jacobi => "jacobi",
            Self::MultiBlock => "multi_block",
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

/// How to answer a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How to decode: changes the speed alone.
    pub strategy: Strategy,
    /// How a token is taken from the model's distribution.
    pub sampling: Sampling,
    /// When decoding ends.
    pub stop: StopRules,
    /// In greedy decoding, decide a token by a pass over one row when a wider pass gives its two best tokens
    /// log-probabilities closer than this. For bf16, where the width of a pass can turn near-ties.
    pub strict_gap: Option<f32>,
}

impl Settings {
    /// Greedy decoding without a `strict_gap`.
    pub fn greedy(strategy: Strategy, stop: StopRules) -> Self {
        Self { strategy, sampling: Sampling::Greedy, stop, strict_gap: None }
    }

    /// Tokens that a session needs room for: the prompt, the response, and the rows of a pass.
    pub fn capacity(&self, model: &dyn LanguageModel, prompt: usize) -> usize {
        model.context_length().min(prompt + self.stop.max_new_tokens) + self.strategy.max_rows()
    }
}
