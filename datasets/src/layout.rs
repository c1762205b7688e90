//! The packed sequence of one sample and its attention mask. The only index arithmetic of the project.
//!
//! A sample is packed as `[p | c | k]`: the prompt, the clean stream (blocks `c_0 .. c_{T-1}`, the response),
//! then the noisy stream (blocks `k_0 .. k_{T-1}`, one recorded state of each block). `c_j` and `k_j` have
//! the same position ids. The last block may be shorter than `block_size`; nothing is padded.
//!
//! A noisy block sees the prompt, the clean blocks before its window, and the noisy blocks of its window up
//! to itself. With P = 1 prompt token, R = 5 response tokens, blocks of n = 2 and windows of w = 2 blocks:
//!
//! ```text
//! token      p   c0 c0 c1 c1 c2   k0 k0 k1 k1 k2
//! index      0   1  2  3  4  5    6  7  8  9  10
//! position   0   1  2  3  4  5    1  2  3  4  5
//! window         0  0  0  0  1    0  0  0  0  1
//! ```
//!
//! Token 9 (in `k_1`) sees 0 and 6..=9: the prompt and the noisy tokens of window 0. Token 10 (in `k_2`) sees
//! 0..=4 and itself: the prompt and the clean blocks before window 1. So there are three runs: 0..6 behind no
//! prefix, 6..10 behind 0..1, and 10..11 behind 0..5.
//!
//! Source: arXiv 2512.14681, the noise-aware causal mask. Departures: the paper interleaves noisy and clean
//! blocks and pads the last one. In our order the mask is causal attention over `p + c` and over one run per
//! window behind a prefix, so no masked product is computed.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In which form a noisy block sees the earlier blocks of its window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoiseContext {
    /// Their noisy states: the method of the paper.
    #[default]
    Window,
    /// Their clean tokens, as in CLLM: an ablation.
    Clean,
}

/// Consecutive tokens that attend causally to each other behind a common prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CausalRun {
    /// Tokens that every token of the run sees.
    pub prefix: Range<usize>,
    /// The tokens of the run.
    pub own: Range<usize>,
}

/// Shape of one packed sample: all indices, positions and the mask follow from these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens of the prompt, P.
    pub prompt_len: usize,
    /// Tokens of the response, R.
    pub response_len: usize,
    /// Tokens per block, n; at least 1.
    pub block_size: usize,
    /// Blocks per window, w; at least 1.
    pub window_size: usize,
    /// In which form noisy blocks see the earlier blocks of their window.
    pub noise_context: NoiseContext,
    /// Whether there is a noisy stream; without it the sample is `[p | c]`.
    pub with_noise: bool,
}

impl Layout {
    /// Number of blocks T = ceil(R / n).
    pub fn num_blocks(&self) -> usize {
        self.response_len.div_ceil(self.block_size)
    }

    /// Tokens of block `j`: n, or fewer for the last block.
    ///
    /// # Panics
    /// When there is no block `j`.
    pub fn block_len(&self, j: usize) -> usize {
        self.assert_block(j);
        self.block_size.min(self.response_len - j * self.block_size)
    }

    /// Number of tokens: P + R, or P + 2R with noise.
    pub fn len(&self) -> usize {
        self.noisy_base() + if self.with_noise { self.response_len } else { 0 }
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the first token of the clean block `c_j`.
    ///
    /// # Panics
    /// When there is no block `j`.
    pub fn clean_start(&self, j: usize) -> usize {
        self.assert_block(j);
        self.prompt_len + j * self.block_size
    }

    /// Index of the first token of the noisy block `k_j`.
    ///
    /// # Panics
    /// When there is no block `j`, or no noisy stream.
    pub fn noisy_start(&self, j: usize) -> usize {
        self.assert_block(j);
        assert!(self.with_noise, "no noisy stream in {self:?}");
        self.noisy_base() + j * self.block_size
    }

    /// First block of the window of block `j`: w * floor(j / w).
    pub fn window_start(&self, j: usize) -> usize {
        j / self.window_size * self.window_size
    }

    /// Whether noisy block `j` sees no noisy block before it, and so begins a run.
    pub fn begins_run(&self, j: usize) -> bool {
        self.first_noisy_seen(j) == j
    }

    /// Position id of token `t`: 0 .. P-1 in the prompt, P .. P+R-1 in the clean and again in the noisy stream.
    ///
    /// # Panics
    /// When there is no token `t`.
    pub fn position(&self, t: usize) -> usize {
        self.assert_token(t);
        if t < self.noisy_base() { t } else { t - self.response_len }
    }

    /// Whether token `q` attends to token `k`: the definition of the mask, against which every other form is tested.
    ///
    /// # Panics
    /// When there is no token `q` or `k`.
    pub fn sees(&self, q: usize, k: usize) -> bool {
        let causal = k <= q;
        match (self.segment(q), self.segment(k)) {
            (Segment::Prompt | Segment::Clean { .. }, Segment::Prompt | Segment::Clean { .. }) => causal,
            (Segment::Prompt | Segment::Clean { .. }, Segment::Noisy { .. }) => false,
            (Segment::Noisy { .. }, Segment::Prompt) => true,
            (Segment::Noisy { block: own }, Segment::Clean { block }) => block < self.first_noisy_seen(own),
            (Segment::Noisy { block: own }, Segment::Noisy { block }) => {
                block >= self.first_noisy_seen(own) && causal
            }
        }
    }

    /// The tokens that `q` sees, as two ranges; the second is empty unless `q` is noisy.
    ///
    /// # Panics
    /// When there is no token `q`.
    pub fn visible(&self, q: usize) -> [Range<usize>; 2] {
        match self.segment(q) {
            Segment::Prompt | Segment::Clean { .. } => [0..q + 1, 0..0],
            Segment::Noisy { block } => {
                let first = self.first_noisy_seen(block);
                [0..self.clean_start(first), self.noisy_start(first)..q + 1]
            }
        }
    }

    /// The mask as runs that cover all tokens in order: first the prompt with the clean stream, then each
    /// window of the noisy stream behind the prompt and the clean blocks before it.
    pub fn runs(&self) -> Vec<CausalRun> {
        let clean = CausalRun { prefix: 0..0, own: 0..self.noisy_base() };
        let mut runs = Vec::from_iter((self.noisy_base() > 0).then_some(clean));
        let mut block = 0;
        while self.with_noise && block < self.num_blocks() {
            let next = match self.noise_context {
                NoiseContext::Window => block + self.window_size.min(self.num_blocks()),
                NoiseContext::Clean => block + 1,
            };
            let end = if next < self.num_blocks() { self.noisy_start(next) } else { self.len() };
            runs.push(CausalRun { prefix: 0..self.clean_start(block), own: self.noisy_start(block)..end });
            block = next;
        }
        runs
    }

    /// The clean token at the position of the noisy token `t`; `None` for a token that is not noisy.
    ///
    /// # Panics
    /// When there is no token `t`.
    pub fn clean_counterpart(&self, t: usize) -> Option<usize> {
        self.assert_token(t);
        (t >= self.noisy_base()).then(|| t - self.response_len)
    }

    /// The mask, `len x len`, row-major: entry `q * len + k` is `sees(q, k)`.
    pub fn dense_mask(&self) -> Vec<bool> {
        let len = self.len();
        let mut mask = vec![false; len * len];
        for (q, row) in mask.chunks_exact_mut(len.max(1)).enumerate() {
            for run in self.visible(q) {
                row[run].fill(true);
            }
        }
        mask
    }

    /// The first noisy block that noisy block `own` sees. It sees the blocks before that one in their clean form.
    fn first_noisy_seen(&self, own: usize) -> usize {
        match self.noise_context {
            NoiseContext::Window => self.window_start(own),
            NoiseContext::Clean => own,
        }
    }

    fn noisy_base(&self) -> usize {
        self.prompt_len + self.response_len
    }

    fn segment(&self, t: usize) -> Segment {
        self.assert_token(t);
        if t < self.prompt_len {
            Segment::Prompt
        } else if t < self.noisy_base() {
            Segment::Clean { block: (t - self.prompt_len) / self.block_size }
        } else {
            Segment::Noisy { block: (t - self.noisy_base()) / self.block_size }
        }
    }

    fn assert_block(&self, j: usize) {
        assert!(j < self.num_blocks(), "block {j} of {} in {self:?}", self.num_blocks());
    }

    fn assert_token(&self, t: usize) {
        assert!(t < self.len(), "token {t} of {} in {self:?}", self.len());
    }
}

/// The part of the sequence that a token belongs to.
enum Segment {
    Prompt,
    Clean { block: usize },
    Noisy { block: usize },
}

#[cfg(test)]
mod tests;
