//! The packed sequence of one sample, and who sees whom in it. The only index arithmetic of the project.
//!
//! A sample is packed as `[p | c | k]`: the prompt, its response (clean blocks `c_0 .. c_{T-1}`), then one noisy state
//! of every block (`k_0 .. k_{T-1}`). `c_j` and `k_j` share their position ids. The last block may be shorter than
//! `block_size`: there is no padding anywhere.
//!
//! Source: arXiv 2512.14681, the noise-aware causal mask. Departures: the paper interleaves noisy and clean blocks and
//! pads the last one; in our order the mask is ordinary causal attention over `p + c` plus one ordinary causal run per
//! window behind a prefix, so that no masked product has to be computed.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a noisy block sees of the blocks before it in its own window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoiseContext {
    /// Their noisy states: the method of the paper.
    #[default]
    Window,
    /// Their clean tokens: the ablation in the manner of CLLM.
    Clean,
}

/// Rows that attend alike: each sees the whole prefix, and of the run those before it and itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CausalRun {
    /// What every row of the run sees.
    pub prefix: Range<usize>,
    /// The rows.
    pub own: Range<usize>,
}

/// Shape of one packed sample: every start, position and visibility follows from these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens of the prompt, P.
    pub prompt_len: usize,
    /// Tokens of the response, R.
    pub response_len: usize,
    /// Tokens of a block, n; at least 1.
    pub block_size: usize,
    /// Blocks of a noise cycle, w; at least 1.
    pub window_size: usize,
    /// What noisy blocks see within their window.
    pub noise_context: NoiseContext,
    /// Whether the noisy stream is there at all; without it the sample is `[p | c]`.
    pub with_noise: bool,
}

impl Layout {
    /// Number of blocks T = ceil(R / n).
    pub fn num_blocks(&self) -> usize {
        self.response_len.div_ceil(self.block_size)
    }

    /// Tokens of block `j`: n, or what is left for the last one.
    ///
    /// # Panics
    /// When there is no block `j`.
    pub fn block_len(&self, j: usize) -> usize {
        self.assert_block(j);
        self.block_size.min(self.response_len - j * self.block_size)
    }

    /// Tokens packed: P + R, and R more with noise.
    pub fn len(&self) -> usize {
        self.noisy_base() + if self.with_noise { self.response_len } else { 0 }
    }

    /// Whether nothing is packed.
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

    /// First block of the window that block `j` belongs to: w * floor(j / w).
    pub fn window_start(&self, j: usize) -> usize {
        j / self.window_size * self.window_size
    }

    /// Position id of token `t`: 0 .. P-1 for the prompt, then P .. P+R-1 for the clean and again for the noisy stream.
    ///
    /// # Panics
    /// When `t` is not packed.
    pub fn position(&self, t: usize) -> usize {
        self.assert_token(t);
        if t < self.noisy_base() { t } else { t - self.response_len }
    }

    /// Whether token `q` attends to token `k`: the definition, which every mask is tested against.
    ///
    /// # Panics
    /// When `q` or `k` is not packed.
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

    /// The tokens that `q` sees, as two runs of indices; the second is empty except for noisy tokens.
    ///
    /// # Panics
    /// When `q` is not packed.
    pub fn visible(&self, q: usize) -> [Range<usize>; 2] {
        match self.segment(q) {
            Segment::Prompt | Segment::Clean { .. } => [0..q + 1, 0..0],
            Segment::Noisy { block } => {
                let first = self.first_noisy_seen(block);
                [0..self.clean_start(first), self.noisy_start(first)..q + 1]
            }
        }
    }

    /// The mask as runs that cover the tokens one after the other: the prompt with the clean stream, then each window of
    /// the noisy stream behind the clean tokens before it.
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

    /// The clean token at the position of the noisy token `t`; none for tokens that are not noisy.
    ///
    /// # Panics
    /// When `t` is not packed.
    pub fn clean_twin(&self, t: usize) -> Option<usize> {
        self.assert_token(t);
        (t >= self.noisy_base()).then(|| t - self.response_len)
    }

    /// The mask, `len x len`, row-major: entry `q * len + k` is `sees(q, k)`. Built from runs, not pair by pair.
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

    /// A noisy block sees the clean blocks before this one, and the noisy blocks from it on to itself.
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

/// Where a packed token belongs.
enum Segment {
    Prompt,
    Clean { block: usize },
    Noisy { block: usize },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(prompt_len: usize, response_len: usize, block_size: usize, window_size: usize) -> Layout {
        Layout {
            prompt_len,
            response_len,
            block_size,
            window_size,
            noise_context: NoiseContext::Window,
            with_noise: true,
        }
    }

    /// The mask as rows of `#` and `.`, readable in a failing test.
    fn picture(layout: &Layout) -> Vec<String> {
        let len = layout.len();
        let mark = |q, k| if layout.sees(q, k) { '#' } else { '.' };
        (0..len).map(|q| (0..len).map(|k| mark(q, k)).collect()).collect()
    }

    #[test]
    fn starts_lengths_and_positions_of_a_ragged_sample() {
        let l = layout(3, 5, 2, 2);
        assert_eq!((l.num_blocks(), l.len()), (3, 13));
        assert_eq!([0, 1, 2].map(|j| l.block_len(j)), [2, 2, 1]);
        assert_eq!([0, 1, 2].map(|j| l.clean_start(j)), [3, 5, 7]);
        assert_eq!([0, 1, 2].map(|j| l.noisy_start(j)), [8, 10, 12]);
        assert_eq!([0, 1, 2].map(|j| l.window_start(j)), [0, 0, 2]);
        let positions: Vec<usize> = (0..13).map(|t| l.position(t)).collect();
        assert_eq!(positions, [0, 1, 2, 3, 4, 5, 6, 7, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn noisy_blocks_see_noisy_blocks_of_their_window_and_clean_blocks_before_it() {
        let expected = [
            //p ccccc kkkkk   P = 1, n = 2, w = 2: blocks 0 and 1 share a window, block 2 opens the next
            "#..........",
            "##.........",
            "###........",
            "####.......",
            "#####......",
            "######.....",
            "#.....#....",
            "#.....##...",
            "#.....###..",
            "#.....####.",
            "#####.....#",
        ];
        assert_eq!(picture(&layout(1, 5, 2, 2)), expected);
    }

    #[test]
    fn clean_context_is_the_same_as_a_window_of_one() {
        let clean = Layout { noise_context: NoiseContext::Clean, ..layout(2, 7, 3, 4) };
        assert_eq!(picture(&clean), picture(&layout(2, 7, 3, 1)));
        assert_ne!(picture(&clean), picture(&layout(2, 7, 3, 4)));
    }

    #[test]
    fn degenerate_samples_have_no_blocks_or_no_noise() {
        let empty = layout(0, 0, 4, 1);
        assert!(empty.is_empty() && empty.dense_mask().is_empty() && empty.num_blocks() == 0);
        let plain = Layout { with_noise: false, ..layout(2, 3, 4, 1) };
        assert_eq!(picture(&plain), ["#....", "##...", "###..", "####.", "#####"]);
    }

    #[test]
    #[should_panic(expected = "block 2 of 2")]
    fn a_block_that_is_not_there_is_a_bug() {
        layout(1, 8, 4, 1).clean_start(2);
    }

    #[test]
    #[should_panic(expected = "no noisy stream")]
    fn a_noisy_start_without_noise_is_a_bug() {
        Layout { with_noise: false, ..layout(1, 8, 4, 1) }.noisy_start(0);
    }

    /// Small layouts, with every degenerate knob in reach: block 1, window 1, window > T, ragged and empty responses.
    fn any_layout() -> impl Strategy<Value = Layout> {
        let context = prop_oneof![Just(NoiseContext::Window), Just(NoiseContext::Clean)];
        (0_usize..6, 0_usize..20, 1_usize..7, 1_usize..7, context, any::<bool>()).prop_map(
            |(prompt_len, response_len, block_size, window_size, noise_context, with_noise)| Layout {
                prompt_len,
                response_len,
                block_size,
                window_size,
                noise_context,
                with_noise,
            },
        )
    }

    /// The rule of DESIGN in its own words, from positions alone, sharing no helper with the code above.
    fn sees_by_the_book(l: &Layout, q: usize, k: usize) -> bool {
        let (p, r, n) = (l.prompt_len, l.response_len, l.block_size);
        let w = if l.noise_context == NoiseContext::Clean { 1 } else { l.window_size };
        if q < p + r {
            return k <= q;
        }
        let j = (q - p - r) / n;
        let i = w * (j / w);
        let earlier_clean = k < p + i * n;
        let own_window = k >= p + r + i * n && k <= q;
        earlier_clean || own_window
    }

    proptest! {
        #[test]
        fn mask_and_predicate_and_book_agree_on_every_pair(l in any_layout()) {
            let (len, mask) = (l.len(), l.dense_mask());
            prop_assert_eq!(mask.len(), len * len);
            for q in 0..len {
                for k in 0..len {
                    prop_assert_eq!(mask[q * len + k], l.sees(q, k), "{:?} q={} k={}", l, q, k);
                    prop_assert_eq!(l.sees(q, k), sees_by_the_book(&l, q, k), "{:?} q={} k={}", l, q, k);
                }
            }
        }

        #[test]
        fn runs_and_predicate_agree_on_every_pair(l in any_layout()) {
            let mut next = 0;
            for run in l.runs() {
                prop_assert_eq!(run.own.start, next);
                next = run.own.end;
                for q in run.own.clone() {
                    for k in 0..l.len() {
                        let seen = run.prefix.contains(&k) || (run.own.start..=q).contains(&k);
                        prop_assert_eq!(seen, l.sees(q, k), "{:?} q={} k={}", l, q, k);
                    }
                }
            }
            prop_assert_eq!(next, l.len());
        }

        #[test]
        fn a_token_sees_each_position_up_to_its_own_exactly_once(l in any_layout()) {
            for q in 0..l.len() {
                let mut seen: Vec<usize> = (0..l.len()).filter(|&k| l.sees(q, k)).map(|k| l.position(k)).collect();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..=l.position(q)).collect::<Vec<_>>());
            }
        }
    }
}
