//! Jacobi decoding, one block after the other (arXiv 2305.10427; arXiv 2512.14681 section 2). A block starts as
//! its known first token and filler; each forward pass replaces every unconverged token by the model's; the
//! block is at its fixed point when a pass changes nothing. This is the draft window of [`crate::multi_block`]
//! with one block and no branches.
//!
//! Departure from the reference: converged tokens are cached and not fed again, so passes shrink while a block
//! converges.

use crate::{Filler, Growth, MultiBlockConfig, Passes};

/// Settings of plain Jacobi decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct JacobiConfig {
    /// Tokens refined together, n.
    pub block_size: usize,
    /// Seed of the fillers.
    pub seed: u64,
}

impl From<&JacobiConfig> for MultiBlockConfig {
    fn from(config: &JacobiConfig) -> Self {
        Self {
            block_size: config.block_size,
            growth: Growth::Blocks { max_blocks: 1, spawn_ratio: 1.0 },
            filler: Filler::Random,
            pool_size: 0,
            tree_budget: 0,
            passes: Passes::One,
            seed: config.seed,
        }
    }
}
