//! One forward pass over one sequence, as observers see it: how trajectories are recorded, by the decoder that ships.

use crate::{Draft, Source};

/// What was drafted, what the model gave, what of it was right.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Index in the response of row 0's token: response tokens cached before this pass.
    pub offset: usize,
    /// What was fed.
    pub draft: Draft,
    /// The model's token after each row.
    pub chosen: Vec<u32>,
    /// The rows proved right, from row 0 on. Empty when a near-tie is decided anew by a pass of its own.
    pub path: Vec<usize>,
    /// The tokens this adds to the response: the model's after each row of the path, cut where the response ends.
    pub tokens: Vec<u32>,
    /// Under [`crate::Decoding::rank_rejections`], when the run held a wrong token: the rank of the right one among what
    /// the pass before thought possible there, [`RANKED`] for all from that rank on. The run itself holds rank 0. None
    /// where a filler was wrong: no pass had thought about that position.
    pub rejected_rank: Option<usize>,
}

impl Pass {
    /// Where the draft of the token at `at` of `tokens` came from; none if the model gave it without a draft.
    pub fn source(&self, at: usize) -> Option<Source> {
        self.path.get(at + 1).map(|&row| self.draft.source(row))
    }
}

/// Ranks that [`Pass::rejected_rank`] tells apart.
pub const RANKED: usize = 32;
