//! Several packed samples as one sequence of the forward pass (a packed row), and the choice of samples that share one.
//!
//! Samples follow each other without padding and do not see each other. In each window of the noisy stream,
//! the leading tokens that equal the clean stream have the clean stream's hidden states: same tokens, same
//! positions, same visible tokens. They are left out, and the rest of the window sees the clean tokens in
//! their place. No loss needs them, because consistency starts at the first divergence. Under [`NoisyRows::FromSecond`]
//! exactly the first token of each window is left out.
//!
//! Example: prompt `a`, response `b c d e`, blocks of n = 2 in one window of w = 2, noisy blocks `b c` and `x e`:
//!
//! ```text
//! index      0  1  2  3  4   5  6
//! token      a  b  c  d  e   x  e      the noisy `b c` is left out
//! position   0  1  2  3  4   3  4
//! runs       0..5 behind no prefix, 5..7 behind 0..3
//! ```

use std::ops::Range;

use crate::layout::CausalRun;
use crate::pack::PackedSample;
use crate::states::{EarlierWindow, NoisyRows};

/// A row of the forward pass with a target: the logits of a prompt or clean token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossRow {
    /// Row of the forward pass, in a prompt or a clean stream.
    pub row: usize,
    /// The next token, if it is a target of the autoregressive loss.
    pub token: Option<u32>,
    /// The noisy row that learns this row's distribution.
    pub student: Option<StudentRow>,
}

/// A row of a noisy block that learns the distribution of its clean row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StudentRow {
    /// Row of the forward pass.
    pub row: usize,
    /// The block, counted over all samples of the packed row.
    pub block: usize,
    /// Offset from the first divergence of the block.
    pub distance: usize,
    /// Number of blocks of its sample.
    pub blocks_of_sample: usize,
}

/// Samples ready for one forward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedRow {
    /// Tokens, sample by sample.
    pub tokens: Vec<u32>,
    /// Position ids of the tokens.
    pub positions: Vec<usize>,
    /// The mask: runs that cover all tokens in order.
    pub runs: Vec<CausalRun>,
    /// Rows with a loss, ascending by row.
    pub losses: Vec<LossRow>,
    /// The prompt and clean stream of each sample.
    pub clean: Vec<Range<usize>>,
    /// Windows of the drafter whose predictions replace noisy tokens.
    pub earlier: Vec<EarlierWindow>,
    /// Number of blocks of all samples.
    blocks: usize,
}

/// A packed row in two: one pass for the text, and one for the noise behind it.
pub struct RowParts {
    /// Prompts and clean streams, without losses.
    pub clean: PackedRow,
    /// The noisy streams and all losses. The prefixes of its runs, the rows of its losses (not of their students) and the
    /// texts of its earlier windows are those of `clean`.
    pub noisy: PackedRow,
}

impl PackedRow {
    /// Packs the samples one after the other.
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a PackedSample>) -> Self {
        let mut row = Self::default();
        samples.into_iter().for_each(|sample| row.push(sample));
        row
    }

    /// One token without loss, for a rank that has no sample while other ranks have one.
    pub fn idle() -> Self {
        let runs = vec![CausalRun { prefix: 0..0, own: 0..1 }];
        let clean = std::iter::once(0..1).collect();
        Self { tokens: vec![0], positions: vec![0], runs, clean, ..Self::default() }
    }

    fn push(&mut self, sample: &PackedSample) {
        let (layout, start) = (&sample.layout, self.tokens.len());
        // The row of each token of the sample; `None` for tokens that are left out.
        let mut rows = vec![None; sample.tokens.len()];
        for run in runs_of(sample) {
            let begin = self.tokens.len();
            for t in run.own.clone() {
                rows[t] = Some(self.tokens.len());
                self.tokens.push(sample.tokens[t]);
                self.positions.push(layout.position(t));
            }
            let prefix = start + run.prefix.start..start + run.prefix.end;
            self.runs.push(CausalRun { prefix, own: begin..self.tokens.len() });
        }
        self.clean.push(start..start + layout.prompt_len + layout.response_len);
        let row_of = |t: usize| rows[t].expect("rows with a loss are not left out");
        self.push_losses(sample, &row_of);
        self.earlier.extend(sample.earlier.iter().map(|window| {
            let noisy = row_of(window.noisy.start);
            EarlierWindow {
                text: start + window.text.start..start + window.text.end,
                noisy: noisy..noisy + window.noisy.len(),
                ..window.clone()
            }
        }));
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

    /// The row as two passes. Where there is no noise, `noisy` is idle.
    pub fn parts(&self) -> RowParts {
        let is_clean = |run: &CausalRun| self.clean.iter().any(|clean| clean.start == run.own.start);
        let (mut clean, mut noisy) = (Self::default(), Self::default());
        // The index of each row within its part.
        let mut place = Vec::with_capacity(self.tokens.len());
        for run in &self.runs {
            let part = if is_clean(run) { &mut clean } else { &mut noisy };
            let start = part.tokens.len();
            part.tokens.extend(&self.tokens[run.own.clone()]);
            part.positions.extend(&self.positions[run.own.clone()]);
            place.extend(start..part.tokens.len());
            part.runs.push(CausalRun { prefix: moved(&run.prefix, &place), own: start..part.tokens.len() });
        }
        clean.clean = self.clean.iter().map(|range| moved(range, &place)).collect();
        if noisy.tokens.is_empty() {
            noisy = Self { clean: Vec::new(), ..Self::idle() };
        }
        noisy.losses = self.losses.clone();
        for loss in &mut noisy.losses {
            loss.row = place[loss.row];
            loss.student.iter_mut().for_each(|student| student.row = place[student.row]);
        }
        noisy.earlier = self.earlier.clone();
        for window in &mut noisy.earlier {
            window.text = moved(&window.text, &place);
            window.noisy = moved(&window.noisy, &place);
        }
        RowParts { clean, noisy }
    }

    /// Replaces the noisy tokens that the predictions of earlier windows become: of each window its tokens.
    pub fn set_drafts(&mut self, drafts: &[Vec<u32>]) {
        for (window, draft) in self.earlier.iter().zip(drafts) {
            self.tokens[window.noisy.clone()].copy_from_slice(draft);
        }
    }

    /// Number of pairs (query, key) in the mask.
    pub fn seen_pairs(&self) -> usize {
        let pairs = |run: &CausalRun| {
            let own = run.own.len();
            own * run.prefix.len() + own * (own + 1) / 2
        };
        self.runs.iter().map(pairs).sum()
    }
}

impl RowParts {
    /// The earlier windows that are given as one pass behind `self.clean`, without losses; idle if there are none.
    pub fn earlier_row<'a>(&self, windows: impl IntoIterator<Item = &'a EarlierWindow>) -> PackedRow {
        let mut row = PackedRow::default();
        for window in windows {
            let (start, first) = (row.tokens.len(), self.clean.positions[window.text.end - 1]);
            row.tokens.extend(&window.tokens);
            row.positions.extend((1..=window.tokens.len()).map(|offset| first + offset));
            row.runs.push(CausalRun { prefix: window.text.clone(), own: start..row.tokens.len() });
        }
        if row.tokens.is_empty() { PackedRow::idle() } else { row }
    }
}

/// `rows`, which follow each other in their part too, at their places.
fn moved(rows: &Range<usize>, place: &[usize]) -> Range<usize> {
    match rows.is_empty() {
        true => 0..0,
        false => place[rows.start]..place[rows.start] + rows.len(),
    }
}

/// Number of tokens of the sample in a packed row.
pub fn row_len(sample: &PackedSample) -> usize {
    runs_of(sample).iter().map(|run| run.own.len()).sum()
}

/// The runs of the sample, each window without the leading tokens that are seen in their clean form.
fn runs_of(sample: &PackedSample) -> Vec<CausalRun> {
    let layout = &sample.layout;
    let shortened = |run: CausalRun| {
        let clean = layout.clean_counterpart(run.own.start);
        let shared = clean.map_or(0, |clean| match sample.noisy_rows {
            NoisyRows::FromSecond => 1,
            NoisyRows::FromDivergence => {
                let (noisy, clean) = (&sample.tokens[run.own.clone()], &sample.tokens[clean..]);
                noisy.iter().zip(clean).take_while(|(noisy, clean)| noisy == clean).count()
            }
        });
        let prefix = run.prefix.start..run.prefix.end + shared;
        CausalRun { prefix, own: run.own.start + shared..run.own.end }
    };
    layout.runs().into_iter().map(shortened).filter(|run| !run.own.is_empty()).collect()
}

/// Divides samples of these lengths into rows of at most `budget` tokens: best fit, longest first. A sample
/// longer than `budget` gets its own row. Returns indices into `lengths`.
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
mod tests;
