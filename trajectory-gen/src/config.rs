//! The `[generate]` section.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::GenerateError;

mod engine;

pub use engine::{BatchSize, OnDisagreement, StatesKept};

/// How trajectories are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// Tokens refined together, n.
    pub block_size: usize,
    /// Longest response.
    pub max_new_tokens: usize,
    /// Responses that another engine made, in a file: they are taken instead of made, and every prompt needs one.
    pub responses: Option<PathBuf>,
    /// Shorter prompts are out of range.
    pub min_prompt_tokens: usize,
    /// Longer prompts are out of range.
    pub max_prompt_tokens: usize,
    /// What happens to prompts out of range.
    pub prompts_out_of_range: OutOfRange,
    /// Shorter responses are out of range, and so are given ones longer than `max_new_tokens`.
    pub min_response_tokens: usize,
    /// What happens to them.
    pub responses_out_of_range: OutOfRange,
    /// What happens to responses that the limit cut.
    pub cut_responses: Choice,
    /// What happens to a prompt that came before.
    pub duplicate_prompts: Choice,
    /// A response in which up to 64 tokens in a row are repeated more often than this is left out; 0 allows it.
    pub max_token_repeats: usize,
    /// The same for up to 8 lines in a row.
    pub max_line_repeats: usize,
    /// Rows written at a time: what a killed run loses at most.
    pub rows_per_group: usize,
    /// A shard is closed when it has at least this size.
    pub shard_bytes: u64,
    /// Which states are recorded.
    pub states: StatesKept,
    /// Logits are divided by this before a response is drawn; 0 takes the most probable tokens.
    pub temperature: f32,
    /// Drawn only from so many of the most probable tokens; 0 is off.
    pub top_k: usize,
    /// Drawn only from the most probable tokens that together reach this probability; 1 is off.
    pub top_p: f32,
    /// What a given response that is not the model's leads to.
    pub on_disagreement: OnDisagreement,
    /// Samples worked on side by side. What comes out does not depend on it in fp32, nor in any dtype on a CPU.
    pub batch_size: BatchSize,
    /// What their caches may take, in GB, under `batch_size = "auto"`.
    pub memory_budget_gb: f64,
    /// Rows of a forward pass to aim at.
    pub pass_tokens: usize,
    /// So many failed prompts in a row end the run.
    pub max_consecutive_errors: usize,
}

/// What happens to a text that is too long or too short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutOfRange {
    /// It is skipped, and counted.
    #[default]
    Drop,
    /// Too long, it is cut to the limit; too short, it is skipped.
    Truncate,
    /// It ends the run.
    Fail,
}

/// Whether rows of a kind are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// They are written.
    Keep,
    /// They are skipped, and counted.
    Drop,
}

/// Keys that decide how the work is done, not what comes out. What given responses say does, not where they lie.
pub(crate) const NEUTRAL_KEYS: &[&str] = &[
    "responses",
    "rows_per_group",
    "shard_bytes",
    "batch_size",
    "memory_budget_gb",
    "pass_tokens",
    "max_consecutive_errors",
];

impl Default for GenerateConfig {
    fn default() -> Self {
        Self {
            block_size: 16,
            max_new_tokens: 512,
            responses: None,
            min_prompt_tokens: 1,
            max_prompt_tokens: 2048,
            prompts_out_of_range: OutOfRange::Drop,
            min_response_tokens: 1,
            responses_out_of_range: OutOfRange::Drop,
            cut_responses: Choice::Keep,
            duplicate_prompts: Choice::Drop,
            max_token_repeats: 16,
            max_line_repeats: 8,
            rows_per_group: 64,
            shard_bytes: 128 << 20,
            states: StatesKept::All,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            on_disagreement: OnDisagreement::KeepOurs,
            batch_size: BatchSize::Auto,
            memory_budget_gb: 4.0,
            pass_tokens: 512,
            max_consecutive_errors: 100,
        }
    }
}

impl GenerateConfig {
    /// Refuses zeros and empty ranges.
    ///
    /// # Errors
    /// [`GenerateError::Setting`] or [`GenerateError::Range`] naming the keys.
    pub fn validate(&self) -> Result<(), GenerateError> {
        let counts = [
            ("block_size", self.block_size),
            ("max_new_tokens", self.max_new_tokens),
            ("max_prompt_tokens", self.max_prompt_tokens),
            ("rows_per_group", self.rows_per_group),
            ("batch_size", self.batch_size.samples().unwrap_or(1)),
            ("pass_tokens", self.pass_tokens),
            ("max_consecutive_errors", self.max_consecutive_errors),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return Err(GenerateError::Setting { field });
        }
        let ranges = [
            ("min_prompt_tokens", self.min_prompt_tokens, "max_prompt_tokens", self.max_prompt_tokens),
            ("min_response_tokens", self.min_response_tokens, "max_new_tokens", self.max_new_tokens),
        ];
        match ranges.into_iter().find(|(_, min, _, max)| min > max) {
            Some((min_key, min, max_key, max)) => Err(GenerateError::Range { min_key, min, max_key, max }),
            None => self.validate_engine(),
        }
    }
}
