//! One forward pass over one sequence, as observers see it. Trajectories are recorded from it.

use crate::{Draft, Limit, Source};

/// A draft, the model's tokens, and which rows were accepted.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Index in the response of row 0's token: response tokens cached before this pass.
    pub offset: usize,
    /// The rows that were fed.
    pub draft: Draft,
    /// The model's token after each row; `None` after rows that neither the path nor the next draft needs.
    pub chosen: Vec<Option<u32>>,
    /// The token after each row of the adapter.
    pub drafted: Vec<u32>,
    /// The accepted rows, from row 0 on. Empty when a near-tie is left to a pass over one row.
    pub path: Vec<usize>,
    /// The tokens added to the response: the model's after each row of the path, cut where the response ends.
    pub tokens: Vec<u32>,
    /// Why it added no more.
    pub limit: Limit,
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

    /// The rows whose predictions lie behind the next known-right token: rows of the adapter, numbered from 0, or of
    /// the draft.
    pub(crate) fn refining_rows(&self) -> Vec<usize> {
        self.refined().into_iter().map(|(row, _)| row).collect()
    }

    /// The tokens drafted behind the next known-right token, each with the row that held the old draft at its position.
    pub fn next_draft(&self) -> Vec<(u32, Option<usize>)> {
        self.refined().into_iter().map(|(_, drafted)| drafted).collect()
    }

    /// What is drafted behind the next known-right token, each token behind the row that predicts it.
    fn refined(&self) -> Vec<(usize, (u32, Option<usize>))> {
        let Some(&last) = self.path.last() else { return Vec::new() };
        if self.draft.adapted().is_some() {
            // Row i of the adapter stands for row i + 1 of the run, so it predicts the token of row i + 2.
            let old = |row: usize| Some(row + 2).filter(|&old| old < self.draft.run_len());
            let rows = self.path.len() - 1..self.drafted.len();
            return rows.map(|row| (row, (self.drafted[row], old(row)))).collect();
        }
        let rows = self.draft.continuation(last).split_off(1);
        let old = rows.iter().copied().map(Some).skip(1).chain([None]);
        rows.iter().zip(old).map(|(&row, old)| (row, (self.chosen(row), old))).collect()
    }

    /// The model's token after a row of the path, or one that the next draft comes from.
    pub(crate) fn chosen(&self, row: usize) -> u32 {
        self.chosen[row].expect("a row that was asked")
    }
}

/// Number of ranks that [`Pass::rejected_rank`] distinguishes.
pub const RANKED: usize = 32;
