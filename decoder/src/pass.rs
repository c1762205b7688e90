//! One forward pass over one sequence, as observers see it. Trajectories are recorded from it.

use crate::{Draft, Source};

/// A draft, the model's tokens, and which rows were accepted.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Index in the response of row 0's token: response tokens cached before this pass.
    pub offset: usize,
    /// The rows that were fed.
    pub draft: Draft,
    /// The model's token after each row.
    pub chosen: Vec<u32>,
    /// The accepted rows, from row 0 on. Empty when a near-tie is left to a pass over one row.
    pub path: Vec<usize>,
    /// The tokens added to the response: the model's after each row of the path, cut where the response ends.
    pub tokens: Vec<u32>,
    /// Under [`crate::Decoding::rank_rejections`], if the run held a wrong token: the rank that the pass before
    /// gave the right token at that position, at most [`RANKED`]. The run itself holds rank 0. `None` where the
    /// wrong token was filler: the pass before predicted nothing at that position.
    pub rejected_rank: Option<usize>,
}

impl Pass {
    /// Where the draft of `tokens[index]` came from; `None` if the model gave it without a draft.
    pub fn source(&self, index: usize) -> Option<Source> {
        self.path.get(index + 1).map(|&row| self.draft.source(row))
    }
}

/// Number of ranks that [`Pass::rejected_rank`] distinguishes.
pub const RANKED: usize = 32;
