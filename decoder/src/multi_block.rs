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
        /// Share of the newest block that must agree with itself before the next one is started, r.
        spawn_ratio: f64,
    },
    /// As many as were accepted: the window always holds one block size.
    Sliding,
}

impl Default for MultiBlockConfig {
    /// K and r as the reference has them, smaller blocks (a GPU's knee is further out than a CPU's), and a tree.
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

/// The draft window of one response.
pub(crate) struct Window {
    config: MultiBlockConfig,
    /// Draft behind the known-right token.
    then: Vec<u32>,
    /// What the last pass thought possible at each position of `then`, and at the one behind it: so many `ranks`.
    marginals: Vec<Marginal>,
    ranks: usize,
    /// What the last pass expects behind `then`.
    tail: Option<u32>,
    /// Tokens, from the known-right one on, that the real-active block still has; 0 when a block is to be started.
    real: usize,
    /// Tokens of the newest block that the last pass left as they were, committed ones included.
    stable: usize,
    pool: NgramPool,
    /// Blocks started.
    started: usize,
}

impl Window {
    pub(crate) fn new(config: MultiBlockConfig) -> Self {
        config.check();
        let ranks = if config.tree_budget > 0 { RANKS } else { 0 };
        Self {
            config,
            then: Vec::new(),
            marginals: Vec::new(),
            ranks,
            tail: None,
            real: 0,
            stable: 0,
            pool: NgramPool::default(),
            started: 0,
        }
    }

    /// Takes in fresh tokens where the rules say so.
    fn grow(&mut self, text: &[u32]) {
        let n = self.config.block_size;
        if self.real == 0 {
            self.real = n;
            self.extend(text, n - 1);
            return;
        }
        match self.config.growth {
            Growth::Sliding => {
                self.real = n;
                self.extend(text, (n - 1).saturating_sub(self.then.len()));
            }
            Growth::Blocks { max_blocks, spawn_ratio } => {
                let enough = (spawn_ratio * n as f64).ceil() as usize;
                if self.blocks() < max_blocks && self.stable >= enough {
                    self.stable = 0;
                    self.extend(text, n);
                }
            }
        }
    }

    /// Blocks in flight.
    fn blocks(&self) -> usize {
        1 + (1 + self.then.len()).saturating_sub(self.real).div_ceil(self.config.block_size)
    }

    /// Appends `count` tokens: what the last pass expects there, then filler.
    fn extend(&mut self, text: &[u32], count: usize) {
        if count == 0 {
            return;
        }
        let target = self.then.len() + count;
        self.then.extend(self.tail.take());
        let missing = target - self.then.len();
        let filler = self.config.filler.fill(text, &self.then, missing, self.config.seed, self.started);
        self.then.extend(filler);
        self.started += 1;
    }

    /// Moves the window over `accepted` tokens; `left` of it remain, the new known-right one included.
    fn shift(&mut self, accepted: usize, left: usize) {
        if left == 0 {
            self.real = 0;
            return;
        }
        // A run or a branch may end in a later block than it began: that one is real-active now.
        let n = self.config.block_size;
        self.real += n * (accepted + 1).saturating_sub(self.real).div_ceil(n);
        self.real -= accepted;
    }

    /// Tokens of the newest block that agree with what the model gives before them; committed ones do.
    fn agreeing(&self, pass: &Pass) -> usize {
        let (run, n) = (pass.draft.run_len(), self.config.block_size);
        let pseudo = run.saturating_sub(self.real);
        let (newest, committed) = match pseudo {
            0 => (run, n - self.real.min(n)),
            _ => ((pseudo - 1) % n + 1, 0),
        };
        let tokens = pass.draft.rows().tokens();
        let agrees = |row: &usize| *row == 0 || tokens[*row] == pass.chosen[row - 1];
        committed + (run - newest..run).filter(agrees).count()
    }
}

impl Drafter for Window {
    fn draft(&mut self, text: &[u32], room: usize) -> Draft {
        self.grow(text);
        let deepest = room - 1;
        self.then.truncate(deepest);
        let mut draft = Draft::run(text[text.len() - 1], &self.then, self.real);
        let longest = (self.config.block_size - 1).min(deepest);
        for candidate in self.pool.candidates(text, &self.then, self.config.pool_size, longest) {
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
        self.stable = self.agreeing(pass);
        let last = *pass.path.last().expect("row 0 was accepted");
        let rows = pass.draft.continuation(last);
        let next: Vec<u32> = rows.iter().map(|&row| pass.chosen[row]).collect();
        self.shift(pass.path.len(), next.len() - 1);
        self.then = next[1..next.len().max(2) - 1].to_vec();
        self.tail = next[1..].last().copied();
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
        let left = self.then.len();
        self.shift(1, left);
        if left > 0 {
            self.then.remove(0);
        }
        if !self.marginals.is_empty() {
            self.marginals.remove(0);
        }
    }
}
