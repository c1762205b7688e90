//! The `[generate]` section.

use serde::{Deserialize, Serialize};

use crate::GenerateError;

/// How trajectories are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// Tokens refined together, n.
    pub block_size: usize,
    /// Longest response.
    pub max_new_tokens: usize,
    /// Longer prompts are skipped, and counted.
    pub max_prompt_tokens: usize,
    /// Prompts per shard: what a killed run loses at most.
    pub rows_per_shard: usize,
    /// Prompts decoded side by side. In fp32 the rows do not depend on it.
    pub batch_size: usize,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self {
            block_size: 16,
            max_new_tokens: 512,
            max_prompt_tokens: 2048,
            rows_per_shard: 64,
            batch_size: 8,
        }
    }
}

impl GenerateConfig {
    /// Refuses zeros.
    ///
    /// # Errors
    /// [`GenerateError::Setting`] naming the key.
    pub fn validate(&self) -> Result<(), GenerateError> {
        let counts = [
            ("block_size", self.block_size),
            ("max_new_tokens", self.max_new_tokens),
            ("max_prompt_tokens", self.max_prompt_tokens),
            ("rows_per_shard", self.rows_per_shard),
            ("batch_size", self.batch_size),
        ];
        match counts.into_iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(GenerateError::Setting { field }),
            None => Ok(()),
        }
    }
}
