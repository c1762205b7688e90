//! Several packed samples as one row of the forward pass, without padding and without what would be computed twice; and
//! which samples share a row.
//!
//! The samples follow each other and do not see each other. Within a window of noisy blocks, the tokens before the first
//! one that differs from the clean stream have the clean stream's hidden states: same tokens, same positions, same things
//! seen. They are left out, and the rest of the window sees the clean tokens in their place. Consistency starts at a
//! divergence, so no loss is taken there.

use std::ops::Range;

use crate::{layout::CausalRun, pack::PackedSample};

/// A row of the clean stream whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossRow {
    /// Row of the forward pass, on a prompt or a clean stream.
    pub row: usize,
    /// The token that follows, if there is one to learn: the target of the autoregressive loss.
    pub token: Option<u32>,
    /// The noisy row that has to predict the same distribution.
    pub student: Option<StudentRow>,
}

/// A row of a noisy block that learns from its clean row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StudentRow {
    /// Row of the forward pass.
    pub row: usize,
    /// The block, counted over the blocks of all samples of the row.
    pub block: usize,
    /// Offset behind the first divergence of the block.
    pub distance: usize,
    /// Blocks of its sample.
    pub blocks_of_sample: usize,
}

/// Samples ready for one forward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedRow {
    /// The tokens, sample by sample.
    pub tokens: Vec<u32>,
    /// Their position ids.
    pub positions: Vec<usize>,
    /// Who sees whom; the runs cover the tokens one after the other.
    pub runs: Vec<CausalRun>,
    /// Where losses are taken, ascending by row.
    pub losses: Vec<LossRow>,
    /// The prompt and clean stream of each sample.
    pub clean: Vec<Range<usize>>,
    /// Blocks so far, of all samples.
    blocks: usize,
}

impl PackedRow {
    /// The samples one after the other.
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a PackedSample>) -> Self {
        let mut row = Self::default();
        samples.into_iter().for_each(|sample| row.push(sample));
        row
    }

    /// A row that teaches nothing: one token, for who has none while others have some.
    pub fn idle() -> Self {
        let runs = vec![CausalRun { prefix: 0..0, own: 0..1 }];
        let clean = std::iter::once(0..1).collect();
        Self { tokens: vec![0], positions: vec![0], runs, clean, ..Self::default() }
    }

    fn push(&mut self, sample: &PackedSample) {
        let (layout, start) = (&sample.layout, self.tokens.len());
        // The row of each of the sample's tokens; of a token left out, nothing.
        let mut place = vec![None; sample.tokens.len()];
        for run in runs_of(sample) {
            let begin = self.tokens.len();
            for t in run.own.clone() {
                place[t] = Some(self.tokens.len());
                self.tokens.push(sample.tokens[t]);
                self.positions.push(layout.position(t));
            }
            let prefix = start + run.prefix.start..start + run.prefix.end;
            self.runs.push(CausalRun { prefix, own: begin..self.tokens.len() });
        }
        self.clean.push(start..start + layout.prompt_len + layout.response_len);
        self.push_losses(sample, &|t| place[t].expect("rows with a loss are computed"));
        self.blocks += layout.num_blocks();
    }

    fn push_losses(&mut self, sample: &PackedSample, row_of: &dyn Fn(usize) -> usize) {
        let mut losses: Vec<LossRow> = sample
            .ar
            .iter()
            .map(|target| LossRow { row: row_of(target.row), token: Some(target.token), student: None })
            .collect();
        let first = losses.len();
        for pair in &sample.pc {
            let row = row_of(pair.teacher);
            let student = StudentRow {
                row: row_of(pair.student),
                block: self.blocks + pair.block,
                distance: pair.distance,
                blocks_of_sample: sample.layout.num_blocks(),
            };
            match losses[..first].binary_search_by_key(&row, |loss| loss.row) {
                Ok(at) => losses[at].student = Some(student),
                Err(_) => losses.push(LossRow { row, token: None, student: Some(student) }),
            }
        }
        losses.sort_by_key(|loss| loss.row);
        self.losses.extend(losses);
    }

    /// The prompts and clean streams alone, without losses, and the row there of each loss row here.
    pub fn clean_part(&self) -> (Self, Vec<usize>) {
        let mut part = Self::default();
        let mut rows = Vec::with_capacity(self.losses.len());
        let mut losses = self.losses.iter().map(|loss| loss.row).peekable();
        for clean in &self.clean {
            let begin = part.tokens.len();
            part.tokens.extend(&self.tokens[clean.clone()]);
            part.positions.extend(&self.positions[clean.clone()]);
            part.runs.push(CausalRun { prefix: begin..begin, own: begin..part.tokens.len() });
            while let Some(row) = losses.next_if(|&row| row < clean.end) {
                rows.push(begin + row - clean.start);
            }
        }
        (part, rows)
    }

    /// Pairs of tokens that see each other.
    pub fn seen_pairs(&self) -> usize {
        let pairs = |run: &CausalRun| {
            let own = run.own.len();
            own * run.prefix.len() + own * (own + 1) / 2
        };
        self.runs.iter().map(pairs).sum()
    }
}

/// Tokens that the sample takes in a row.
pub fn row_len(sample: &PackedSample) -> usize {
    runs_of(sample).iter().map(|run| run.own.len()).sum()
}

/// The sample's runs, each window without its leading tokens that equal the clean ones.
fn runs_of(sample: &PackedSample) -> Vec<CausalRun> {
    let layout = &sample.layout;
    let shortened = |run: CausalRun| {
        let clean = layout.clean_twin(run.own.start);
        let shared = clean.map_or(0, |clean| {
            let (noisy, clean) = (&sample.tokens[run.own.clone()], &sample.tokens[clean..]);
            noisy.iter().zip(clean).take_while(|(noisy, clean)| noisy == clean).count()
        });
        let prefix = run.prefix.start..run.prefix.end + shared;
        CausalRun { prefix, own: run.own.start + shared..run.own.end }
    };
    layout.runs().into_iter().map(shortened).filter(|run| !run.own.is_empty()).collect()
}

/// Which of `lengths` share a row of at most `budget` tokens: best fit, the longest first. What is longer than the
/// budget gets a row of its own.
pub fn fill_rows(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(lengths[at]));
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    for at in order {
        let fits = rows.iter_mut().filter(|(used, _)| used + lengths[at] <= budget);
        match fits.max_by_key(|(used, _)| *used) {
            Some((used, row)) => {
                *used += lengths[at];
                row.push(at);
            }
            None => rows.push((lengths[at], vec![at])),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        layout::NoiseContext,
        pack::{PackConfig, pack},
        schema::trajectory::{FinishReason, State, Trajectory},
    };

    /// Blocks of 3 whose states converge as far as told.
    fn sample(
        prompt: u32,
        response: u32,
        converged: &[u32],
        window: usize,
        context: NoiseContext,
    ) -> PackedSample {
        let response_tokens: Vec<u32> = (10..10 + response).collect();
        let states = response_tokens
            .chunks(3)
            .zip(converged)
            .enumerate()
            .map(|(block, (clean, &converged))| {
                let converged = converged.min(clean.len() as u32);
                let tail = vec![7; clean.len() - converged as usize];
                State { block: block as u32, iteration: 0, converged, tail }
            })
            .collect();
        let row = Trajectory {
            sample_id: "s".into(),
            prompt_tokens: (0..prompt).collect(),
            response_tokens,
            finish_reason: FinishReason::Length,
            states,
        };
        let config = PackConfig { window_size: window, noise_context: context, ..PackConfig::default() };
        pack(&row, 3, &config, 0).unwrap()
    }

    #[test]
    fn leading_tokens_of_a_window_that_equal_the_clean_ones_are_left_out() {
        // Window 1: block 0 converged, block 1 up to its second token. Window 2: block 2 from its second token.
        let packed = sample(2, 8, &[3, 1, 1], 2, NoiseContext::Window);
        let row = PackedRow::new([&packed, &packed]);
        // p p c c c c c c c c | k1 k1 | k2, of 2 + 8 + 8 tokens.
        assert_eq!(row_len(&packed), 10 + 2 + 1);
        assert_eq!(row.tokens[..13], [0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 7, 7, 7]);
        assert_eq!(row.positions[10..13], [6, 7, 9]);
        let run = |prefix, own| CausalRun { prefix, own };
        assert_eq!(row.runs[..3], [run(0..0, 0..10), run(0..6, 10..12), run(0..9, 12..13)]);
        assert_eq!(row.runs[3..], [run(13..13, 13..23), run(13..19, 23..25), run(13..22, 25..26)]);
        assert_eq!(row.losses.len(), 18);
        let student = |row, block, distance| StudentRow { row, block, distance, blocks_of_sample: 3 };
        assert_eq!(row.losses[5], LossRow { row: 6, token: Some(15), student: Some(student(10, 1, 0)) });
        assert_eq!(row.losses[8], LossRow { row: 9, token: None, student: Some(student(12, 2, 0)) });
        assert_eq!(row.losses[17].student, Some(student(25, 5, 0)));
        assert_eq!(row.seen_pairs(), 2 * (55 + 15 + 10));
        let (part, rows) = row.clean_part();
        assert_eq!(part.tokens, [&row.tokens[..10], &row.tokens[..10]].concat());
        assert_eq!(part.runs, [run(0..0, 0..10), run(10..10, 10..20)]);
        assert_eq!(rows[..], [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn best_fit_fills_the_fullest_row_that_has_room() {
        assert_eq!(fill_rows(&[3, 9, 5, 2, 12, 1], 10), [vec![4], vec![1, 5], vec![2, 0, 3]]);
        assert!(fill_rows(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_sample_has_one_row_and_no_row_is_overfull(lengths in proptest::collection::vec(1_usize..40, 0..30), budget in 1_usize..60) {
            let rows = fill_rows(&lengths, budget);
            let mut seen: Vec<usize> = rows.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for row in &rows {
                prop_assert!(row.len() == 1 || row.iter().map(|&at| lengths[at]).sum::<usize>() <= budget);
            }
        }

        /// What a kept token sees, as positions and tokens, is what the definition lets it see.
        #[test]
        fn a_row_sees_what_the_definition_says(
            prompt in 1_u32..4,
            response in 1_u32..14,
            converged in proptest::collection::vec(0_u32..4, 5),
            window in 1_usize..5,
            clean in any::<bool>(),
        ) {
            let context = if clean { NoiseContext::Clean } else { NoiseContext::Window };
            let packed = sample(prompt, response, &converged, window, context);
            let other = sample(2, 5, &[0, 2], 1, context);
            let row = PackedRow::new([&other, &packed]);
            let (base, layout) = (row_len(&other), packed.layout);
            let mut kept = Vec::new();
            for run in &row.runs {
                for q in run.own.clone().filter(|&q| q >= base) {
                    let seen = run.prefix.clone().chain(run.own.start..=q);
                    let found: Vec<(usize, u32)> = seen.map(|k| (row.positions[k], row.tokens[k])).collect();
                    let matching = (0..layout.len()).filter(|&t| {
                        layout.position(t) == row.positions[q] && packed.tokens[t] == row.tokens[q]
                    });
                    let expected = matching.map(|t| {
                        let mut seen: Vec<(usize, u32)> =
                            (0..layout.len()).filter(|&k| layout.sees(t, k)).map(|k| (layout.position(k), packed.tokens[k])).collect();
                        seen.sort_unstable();
                        seen
                    });
                    let mut sorted = found.clone();
                    sorted.sort_unstable();
                    prop_assert!(expected.into_iter().any(|expected| expected == sorted), "{found:?}");
                    kept.push(q);
                }
            }
            prop_assert_eq!(kept, (base..row.tokens.len()).collect::<Vec<_>>());
        }
    }
}
