//! What the model expects after the rows of one sequence's draft, and the tokens taken from it.

use jacobi_model::Predictions;

use crate::{Draft, Sampling};

/// One sequence's share of a pass's predictions.
pub(crate) struct Outputs<'a> {
    predictions: &'a dyn Predictions,
    /// The most probable tokens of the whole pass; there when sampling is greedy.
    greedy: &'a [u32],
    /// The output of row 0.
    first: usize,
}

impl<'a> Outputs<'a> {
    pub(crate) fn new(predictions: &'a dyn Predictions, greedy: &'a [u32], first: usize) -> Self {
        Self { predictions, greedy, first }
    }

    /// The `k` most probable tokens after each of `rows` with their log-probabilities, best first.
    pub(crate) fn top(&self, rows: &[usize], k: usize) -> Vec<Vec<(u32, f32)>> {
        let rows: Vec<usize> = rows.iter().map(|row| self.first + row).collect();
        self.predictions.top(&rows, k)
    }

    /// The token the model gives after each row of `draft`, whose row 0 ends `text`.
    pub(crate) fn choose(&self, sampling: &Sampling, draft: &Draft, text: &[u32]) -> Vec<u32> {
        let rows = draft.rows();
        match sampling {
            Sampling::Greedy => self.greedy[self.first..self.first + rows.len()].to_vec(),
            Sampling::Random(random) => (0..rows.len())
                .map(|row| {
                    let drafted = rows.path(row).into_iter().skip(1).map(|at| rows.tokens()[at]);
                    let context: Vec<u32> = text.iter().copied().chain(drafted).collect();
                    random.draw(self.predictions.logits(self.first + row), &context)
                })
                .collect(),
        }
    }
}
