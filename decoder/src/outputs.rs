//! The model's outputs after the rows of one sequence, and the tokens taken from them.

use jacobi_model::{Predictions, Rows};

use crate::Sampling;

/// The predictions of a pass after the two kinds of rows of a draft.
pub(crate) struct DraftOutputs<'a> {
    /// After [`crate::Draft::rows`].
    pub(crate) rows: Outputs<'a>,
    /// After [`crate::Draft::adapted`].
    pub(crate) adapted: Outputs<'a>,
}

/// The part of a pass's predictions that belongs to one sequence.
#[derive(Clone, Copy)]
pub(crate) struct Outputs<'a> {
    predictions: &'a dyn Predictions,
    /// The most probable token at each output of the whole pass; empty if no sequence is greedy.
    greedy: &'a [u32],
    /// Index of the output of row 0.
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

    /// Moves on by `count` outputs, so that row 0 is the row after them.
    pub(crate) fn skip(&mut self, count: usize) {
        self.first += count;
    }

    /// The token the model gives after each of `rows`, which follow the text `before`.
    pub(crate) fn choose_all(&self, sampling: &Sampling, rows: &Rows, before: &[u32]) -> Vec<u32> {
        (0..rows.len()).map(|row| self.choose(sampling, (rows, row), before)).collect()
    }

    /// The token the model gives after one of `rows`, which follow the text `before`.
    pub(crate) fn choose(&self, sampling: &Sampling, (rows, row): (&Rows, usize), before: &[u32]) -> u32 {
        match sampling {
            Sampling::Greedy => self.greedy[self.first + row],
            Sampling::Random(random) => {
                let drafted = rows.path(row).into_iter().map(|at| rows.tokens()[at]);
                let context: Vec<u32> = before.iter().copied().chain(drafted).collect();
                random.draw(self.predictions.logits(self.first + row), &context)
            }
        }
    }
}
