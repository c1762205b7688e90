//! Several packed samples as one sequence of the forward pass (a packed row), and the choice of samples that share one.
//!
//! Samples follow each other without padding and do not see each other. In each window of the noisy stream,
//! the leading tokens that equal the clean stream have the clean stream's hidden states: same tokens, same
//! positions, same visible tokens. They are left out, and the rest of the window sees the clean tokens in
//! their place. No loss needs them, because consistency starts at the first divergence.
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
    /// Number of blocks of all samples.
    blocks: usize,
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
        self.push_losses(sample, &|t| rows[t].expect("rows with a loss are not left out"));
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

    /// The prompts and clean streams without noisy streams and losses, and the row in it of each loss of `self`.
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

    /// Number of pairs (query, key) in the mask.
    pub fn seen_pairs(&self) -> usize {
        let pairs = |run: &CausalRun| {
            let own = run.own.len();
            own * run.prefix.len() + own * (own + 1) / 2
        };
        self.runs.iter().map(pairs).sum()
    }
}

/// Number of tokens of the sample in a packed row.
pub fn row_len(sample: &PackedSample) -> usize {
    runs_of(sample).iter().map(|run| run.own.len()).sum()
}

/// The runs of the sample, each window without the leading tokens that equal the clean stream.
fn runs_of(sample: &PackedSample) -> Vec<CausalRun> {
    let layout = &sample.layout;
    let shortened = |run: CausalRun| {
        let clean = layout.clean_counterpart(run.own.start);
        let shared = clean.map_or(0, |clean| {
            let (noisy, clean) = (&sample.tokens[run.own.clone()], &sample.tokens[clean..]);
            noisy.iter().zip(clean).take_while(|(noisy, clean)| noisy == clean).count()
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
