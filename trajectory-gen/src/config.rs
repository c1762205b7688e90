//! The `[generate]` section.

use std::path::PathBuf;

use jacobi_datasets::Section;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::GenerateError;

mod by_device;
mod engine;

pub use engine::{BatchSize, OnDisagreement, StatesKept};

/// How trajectories are generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// Tokens refined together, n.
    pub block_size: usize,
    /// Maximum tokens of a response.
    pub max_new_tokens: usize,
    /// File of responses from another engine, used instead of generated ones. Every prompt needs one.
    pub responses: Option<PathBuf>,
    /// Prompts with fewer tokens are out of range.
    pub min_prompt_tokens: usize,
    /// Prompts with more tokens are out of range, and so are prompts that leave no room in the model's context.
    pub max_prompt_tokens: usize,
    /// What happens to prompts out of range. A prompt that is too long is cut in its last message.
    pub prompts_out_of_range: OutOfRange,
    /// Responses with fewer tokens are out of range, and so are given responses with more tokens than
    /// `max_new_tokens` or the model's context.
    pub min_response_tokens: usize,
    /// What happens to responses out of range.
    pub responses_out_of_range: OutOfRange,
    /// What happens to responses that reach `max_new_tokens` before their end. `train.cut_responses` decides whether
    /// those that are written are trained on.
    pub cut_responses: Choice,
    /// What happens to a prompt with the same messages as an earlier one.
    pub duplicate_prompts: Choice,
    /// A response in which a sequence of 1 to 64 tokens is repeated in a row more often than this is skipped; 0
    /// allows any number.
    pub max_token_repeats: usize,
    /// The same for sequences of 1 to 8 lines.
    pub max_line_repeats: usize,
    /// Rows of a row group, which are written together. A killed run loses at most this many finished rows.
    pub rows_per_group: usize,
    /// Size of a shard in bytes at which the next shard is started.
    pub shard_bytes: u64,
    /// Which states of a block are recorded.
    pub states: StatesKept,
    /// Sampling temperature: logits are divided by it before a token is drawn; 0 takes the most probable
    /// tokens.
    pub temperature: f32,
    /// Sample from this many of the most probable tokens; 0 is off.
    pub top_k: usize,
    /// Sample from the most probable tokens that together reach this probability; 1 is off.
    pub top_p: f32,
    /// What happens to a given response that differs from the model's own.
    pub on_disagreement: OnDisagreement,
    /// Samples processed in parallel: a number or `"auto"`. Rows do not depend on it in fp32, nor in any dtype
    /// on a CPU.
    pub batch_size: BatchSize,
    /// Memory in GB for KV caches, from which `batch_size = "auto"` computes the number of samples. Assumes the
    /// longest possible samples. At least one sample is processed. Default: 4 on a CPU, three quarters of a GPU's free
    /// memory.
    pub memory_budget_gb: Option<f64>,
    /// Target number of tokens of a forward pass, over all samples. A pass that reads a prompt may exceed it by the length
    /// of the prompt. Default: 512 on a CPU; on a GPU the smallest of 512 to 8192 at which a token costs little more than at
    /// the best one, which is measured at the start.
    pub pass_tokens: Option<usize>,
    /// The run ends after this many failed prompts in a row; finished rows stay.
    pub max_consecutive_errors: usize,
}

/// What happens to a text that is too long or too short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutOfRange {
    /// Skipped and counted.
    #[default]
    Drop,
    /// Cut to the limit when too long, skipped when too short.
    Truncate,
    /// An error that ends the run.
    Fail,
}

/// Whether rows of a kind are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// Written like any other.
    Keep,
    /// Skipped and counted.
    Drop,
}

impl Section for GenerateConfig {
    const NAME: &'static str = "generate";
    const NEUTRAL: &'static [(&'static str, &'static str)] = &[
        ("responses", "the content of the file decides; it is recorded as a digest"),
        ("rows_per_group", "groups rows in files"),
        ("shard_bytes", "groups rows in files"),
        ("batch_size", "decides speed and memory; rows do not depend on which samples share a pass"),
        ("memory_budget_gb", "decides the batch size"),
        ("pass_tokens", "decides speed; rows do not depend on which samples share a pass"),
        ("max_consecutive_errors", "decides when a run gives up; finished rows stay"),
    ];
}

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
            memory_budget_gb: None,
            pass_tokens: None,
            max_consecutive_errors: 100,
        }
    }
}

impl GenerateConfig {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`GenerateError::Setting`], [`GenerateError::Range`] or [`GenerateError::Number`] naming the keys.
    pub fn validate(&self) -> Result<(), GenerateError> {
        let counts = [
            ("block_size", self.block_size),
            ("max_new_tokens", self.max_new_tokens),
            ("max_prompt_tokens", self.max_prompt_tokens),
            ("rows_per_group", self.rows_per_group),
            ("batch_size", self.batch_size.samples().unwrap_or(1)),
            ("pass_tokens", self.pass_tokens.unwrap_or(1)),
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
