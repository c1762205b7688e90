//! Multi-block decoding with rejection recycling (arXiv 2512.14681, section 4), seen as one draft window that grows.
//! A pass takes [real-active draft | pseudo-active blocks], causal, all refined alike; only the leading run that
//! agrees is committed. When the real-active block is complete, what the window holds behind it becomes real-active:
//! its first token is the known-right one and the rest is draft, verified from the left. Beside the run, two sources of
//! branches are verified in the same pass: earlier rejected runs out of the n-gram pool, and a token tree from what the
//! last pass thought possible.
//!
//! Departure: candidates share the window's cache as branches of one forward; the reference copies it per candidate.

use crate::{
    Draft, Filler, Pass, RANKED, Source,
    drafter::Drafter,
    ngram_pool::NgramPool,
    outputs::Outputs,
    token_tree::{Marginal, RANKS, grow},
};

/// Settings of the draft window.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiBlockConfig {
    /// Tokens of a block, n.
    pub block_size: usize,
    /// When the window takes in fresh tokens.
    pub growth: Growth,
    /// What fresh tokens are.
    pub filler: Filler,
    /// n-gram candidates verified per pass; 0 turns recycling off.
    pub pool_size: usize,
    /// Rows of the token tree, those of the real-active draft included; 0 turns it off.
    pub tree_budget: usize,
    /// Seed of the fillers.
    pub seed: u64,
}

/// When the draft window takes in fresh tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Growth {
    /// A block at a time.
    Blocks {
        /// Most blocks in flight, K.
        max_blocks: usize,
        /// Share of the newest block that a pass must accept or leave as it was before the next one is started, r.
        spawn_ratio: f64,
    },
    /// As many as were accepted: the window always holds one block size.
    Sliding,
}

impl Default for MultiBlockConfig {
    /// The reference's numbers for K, r and the pool; blocks of 16 where it has 64: a fifth of the rows for 2 to 5 % more
    /// passes, measured on responses of 40 tokens (LOG.md).
    fn default() -> Self {
        Self {
            block_size: 16,
            growth: Growth::Blocks { max_blocks: 2, spawn_ratio: 0.85 },
            filler: Filler::Random,
            pool_size: 4,
            tree_budget: 0,
            seed: 0,
        }
    }
}

impl MultiBlockConfig {
    /// The most rows of a pass.
    pub(crate) fn max_rows(&self) -> usize {
        let blocks = match self.growth {
            Growth::Blocks { max_blocks, .. } => max_blocks,
            Growth::Sliding => 1,
        };
        let candidates = self.pool_size.saturating_mul(self.block_size - 1);
        blocks.saturating_mul(self.block_size).saturating_add(candidates).saturating_add(self.tree_budget)
    }

    /// # Panics
    /// If a size is 0 or the ratio is no share: callers validate what users give.
    pub(crate) fn check(&self) {
        assert!(self.block_size > 0, "block_size is at least 1");
        if let Growth::Blocks { max_blocks, spawn_ratio } = self.growth {
            assert!(max_blocks > 0, "max_blocks is at least 1");
            assert!(
                (0.0..=1.0).contains(&spawn_ratio),
                "spawn_ratio is between 0 and 1, unlike {spawn_ratio}"
            );
        }
    }
}

/// The draft window of one response: whole blocks from the known-right token on, of which the first, the real-active
/// one, may be accepted in part already.
pub(crate) struct Window {
    config: MultiBlockConfig,
    /// Draft behind the known-right token: what the last pass predicts, also beyond the window, then filler.
    ahead: Vec<u32>,
    /// The last pass's best `ranks` tokens at each position of `ahead` that it predicted.
    marginals: Vec<Marginal>,
    ranks: usize,
    /// Tokens, from the known-right one on, that the real-active block still has.
    real: usize,
    /// Blocks in flight; 0 when the next pass starts one at the known-right token.
    blocks: usize,
    /// Tokens of the newest block that the last pass accepted or left as they were.
    stable: usize,
    pool: NgramPool,
    /// Times that filler was drawn.
    fills: usize,
}

impl Window {
    pub(crate) fn new(config: MultiBlockConfig) -> Self {
        config.check();
        let ranks = if config.tree_budget > 0 { RANKS } else { 0 };
        Self {
            config,
            ahead: Vec::new(),
            marginals: Vec::new(),
            ranks,
            real: 0,
            blocks: 0,
            stable: 0,
            pool: NgramPool::default(),
            fills: 0,
        }
    }

    /// Tokens of the window, the known-right one included.
    fn len(&self) -> usize {
        self.real + (self.blocks - 1) * self.config.block_size
    }

    /// Starts a block where the rules say so, and fills the window up.
    fn grow(&mut self, text: &[u32]) {
        let n = self.config.block_size;
        match self.config.growth {
            _ if self.blocks == 0 => (self.real, self.blocks, self.stable) = (n, 1, 0),
            Growth::Sliding => self.real = n,
            Growth::Blocks { max_blocks, spawn_ratio } => {
                let enough = (spawn_ratio * n as f64).ceil() as usize;
                if self.blocks < max_blocks && self.stable >= enough {
                    self.blocks += 1;
                    self.stable = 0;
                }
            }
        }
        let missing = (self.len() - 1).saturating_sub(self.ahead.len());
        if missing > 0 {
            let filler = self.config.filler.fill(text, &self.ahead, missing, self.config.seed, self.fills);
            self.ahead.extend(filler);
            self.fills += 1;
        }
    }

    /// Moves the window over `accepted` tokens. A branch may end behind the block it began in.
    fn shift(&mut self, accepted: usize) {
        let n = self.config.block_size;
        let complete = if accepted < self.real { 0 } else { 1 + (accepted - self.real) / n };
        self.blocks = self.blocks.saturating_sub(complete);
        if self.blocks > 0 {
            self.real = self.real + complete * n - accepted;
        }
    }

    /// Tokens of the newest block that are right, or stay the same in the `next` draft, whose first token is known to be
    /// right.
    fn stable(&self, pass: &Pass, next: &[u32]) -> usize {
        let (n, accepted) = (self.config.block_size, pass.path.len());
        let run = &pass.draft.rows().tokens()[..pass.draft.run_len()];
        let newest = self.len().saturating_sub(n)..self.len();
        let kept = |&at: &usize| {
            at <= accepted || run.get(at).is_some_and(|token| next.get(at - accepted) == Some(token))
        };
        n - newest.len() + newest.filter(kept).count()
    }
}

impl Drafter for Window {
    fn draft(&mut self, text: &[u32], room: usize) -> Draft {
        self.grow(text);
        let deepest = room - 1;
        let run = &self.ahead[..deepest.min(self.len() - 1)];
        let mut draft = Draft::run(text[text.len() - 1], run, self.real);
        let longest = (self.config.block_size - 1).min(deepest);
        for candidate in self.pool.candidates(text, run, self.config.pool_size, longest) {
            candidate.iter().fold(0, |parent, &token| draft.branch(parent, token, Source::Recycled));
        }
        if self.config.tree_budget > 0 {
            let own = self.real.min(draft.run_len());
            let budget = self.config.tree_budget + draft.rows().len() - own;
            grow(&mut draft, &self.marginals[..self.marginals.len().min(deepest)], budget);
        }
        draft
    }

    fn learn(&mut self, pass: &Pass, outputs: &Outputs) {
        let last = *pass.path.last().expect("row 0 was accepted");
        let rows = pass.draft.continuation(last);
        let next: Vec<u32> = rows.iter().map(|&row| pass.chosen[row]).collect();
        self.stable = self.stable(pass, &next);
        self.shift(pass.path.len());
        self.ahead = next[1..].to_vec();
        if self.ranks > 0 {
            self.marginals = outputs.top(&rows[1..], self.ranks);
        }
        if self.config.pool_size > 0 {
            self.pool.remember(next);
        }
    }

    fn rank_rejections(&mut self) {
        self.ranks = RANKED;
    }

    fn rejected_rank(&self, pass: &Pass) -> Option<usize> {
        if self.ranks < RANKED {
            return None;
        }
        let run = &pass.draft.rows().tokens()[..pass.draft.run_len()];
        // Up to the first wrong token the path is the run itself, so the model's choice after each row is the right one.
        let right = pass.chosen.iter().take(pass.tokens.len());
        let wrong = run.iter().skip(1).zip(right).position(|(drafted, right)| drafted != right)?;
        let marginal = self.marginals.get(wrong)?;
        let rank = marginal.iter().position(|(token, _)| *token == pass.chosen[wrong]);
        Some(rank.unwrap_or(RANKED))
    }

    fn skip(&mut self, _token: u32) {
        self.shift(1);
        self.ahead.drain(..self.ahead.len().min(1));
        self.marginals.drain(..self.marginals.len().min(1));
    }
}
