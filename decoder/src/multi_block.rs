//! Multi-block decoding with rejection recycling (arXiv 2512.14681, section 4), as one draft window over
//! several blocks.
//!
//! Each pass verifies
//!
//! ```text
//! known-right token | rest of the real-active block | pseudo-active blocks
//! ```
//!
//! with causal attention. The prefix of the draft that agrees with the model's tokens is accepted, and every
//! other token is replaced by the model's prediction (a Jacobi iteration of all blocks at once). When the
//! real-active block is complete, the first pseudo-active block becomes real-active, with its content as the
//! draft. A further block starts when a share r of the newest one has settled, up to K blocks.
//!
//! Two kinds of branches are verified in the same pass beside this run: continuations from the pool of rejected
//! n-grams ([`crate::ngram_pool`]), and a token tree from the distributions of the last pass
//! ([`crate::token_tree`]).
//!
//! With a draft adapter (section "Draft adapters" of docs/algorithm.md) the next draft is what the adapter's rows predict,
//! instead of the model's own predictions after wrong tokens.
//!
//! Departure: branches share one forward pass and one cache with the run; the reference copies the cache per
//! candidate.

use jacobi_datasets::Rng;
use jacobi_model::LanguageModel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Draft, Filler, Pass, RANKED, Source,
    drafter::Drafter,
    ngram_pool::NgramPool,
    outputs::DraftOutputs,
    token_tree::{Marginal, RANKS, grow},
};

/// Settings of the draft window.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiBlockConfig {
    /// Tokens of a block, n.
    pub block_size: usize,
    /// When the window grows.
    pub growth: Growth,
    /// Where the first tokens of a new block come from.
    pub filler: Filler,
    /// n-gram candidates per pass; 0 turns recycling off.
    pub pool_size: usize,
    /// Rows of the token tree, including those of the real-active draft; 0 turns it off.
    pub tree_budget: usize,
    /// How a model with a draft adapter uses it; the others do not read this.
    pub passes: Passes,
    /// Seed of the fillers.
    pub seed: u64,
}

/// How many passes it takes to draft with an adapter and to verify the draft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Passes {
    /// Every pass verifies a draft, and rows of the adapter over the same tokens draft for the next pass.
    #[default]
    One,
    /// UNO's cycle (arXiv 2609.04010): one pass over the known-right token, and over filler with the adapter, drafts; the
    /// next one verifies. The defaults of the window are then UNO's: `window = "sliding"`, `pool_size = 0`.
    Two,
}

/// Default of K, the reference's.
pub(crate) const MAX_BLOCKS: usize = 2;

/// Default of r, the reference's.
pub(crate) const SPAWN_RATIO: f64 = 0.85;

/// When the draft window grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Growth {
    /// By a block at a time.
    Blocks {
        /// Most blocks in flight, K.
        max_blocks: usize,
        /// Share of the newest block that a pass must accept or leave unchanged before the next block starts, r.
        spawn_ratio: f64,
    },
    /// By as many tokens as were accepted: the window always holds `block_size` tokens.
    Sliding,
}

impl Default for MultiBlockConfig {
    /// The reference's K, r and pool; blocks of 16 where the reference has 64: a fifth of the rows for 2 to 5 %
    /// more passes, measured on responses of 40 tokens (LOG.md).
    fn default() -> Self {
        Self {
            block_size: 16,
            growth: Growth::Blocks { max_blocks: MAX_BLOCKS, spawn_ratio: SPAWN_RATIO },
            filler: Filler::Random,
            pool_size: 4,
            tree_budget: 0,
            passes: Passes::One,
            seed: 0,
        }
    }
}

impl MultiBlockConfig {
    /// UNO's cycle: a draft of `block_size` tokens from the known-right one on, without branches.
    pub(crate) fn two_passes() -> Self {
        Self { growth: Growth::Sliding, pool_size: 0, passes: Passes::Two, ..Self::default() }
    }

    /// The most rows that a pass verifies. With an adapter a pass has more.
    pub(crate) fn max_rows(&self) -> usize {
        let blocks = match self.growth {
            Growth::Blocks { max_blocks, .. } => max_blocks,
            Growth::Sliding => 1,
        };
        let candidates = self.pool_size.saturating_mul(self.block_size - 1);
        blocks.saturating_mul(self.block_size).saturating_add(candidates).saturating_add(self.tree_budget)
    }

    /// # Panics
    /// If a setting is out of range: callers validate what users give.
    fn check(&self) {
        assert!(self.block_size > 0, "block_size is at least 1");
        if let Growth::Blocks { max_blocks, spawn_ratio } = self.growth {
            assert!(max_blocks > 0, "max_blocks is at least 1");
            assert!((0.0..=1.0).contains(&spawn_ratio), "spawn_ratio {spawn_ratio} is not between 0 and 1");
        }
    }
}

/// The draft window of one response: blocks from the known-right token on. The first is the real-active block, whose
/// tokens may be accepted in part; the others are pseudo-active.
pub(crate) struct Window {
    config: MultiBlockConfig,
    /// The draft after the known-right token: predictions of the last pass, which may reach beyond the window,
    /// then filler.
    ahead: Vec<u32>,
    /// Leading tokens of `ahead` that are predictions.
    predicted: usize,
    /// The best `ranks` tokens at each position of `ahead` that the last pass predicted.
    marginals: Vec<Marginal>,
    ranks: usize,
    /// Tokens of the real-active block from the known-right one to its end.
    real: usize,
    /// Blocks in flight; 0 when the next draft starts one at the known-right token.
    blocks: usize,
    /// Tokens of the newest block that the last pass accepted or left unchanged.
    stable: usize,
    pool: NgramPool,
    /// How often filler was drawn.
    fills: usize,
    /// Token ids of the model.
    vocabulary: usize,
    has_adapter: bool,
    /// The last pass drafted with the adapter: `ahead` is not filler.
    is_drafted: bool,
}

impl Window {
    pub(crate) fn new(config: MultiBlockConfig, model: &dyn LanguageModel) -> Self {
        config.check();
        let ranks = if config.tree_budget > 0 { RANKS } else { 0 };
        Self {
            config,
            ahead: Vec::new(),
            predicted: 0,
            marginals: Vec::new(),
            ranks,
            real: 0,
            blocks: 0,
            stable: 0,
            pool: NgramPool::default(),
            fills: 0,
            vocabulary: model.vocab_size(),
            has_adapter: model.has_adapter(),
            is_drafted: false,
        }
    }

    /// Tokens of the window, including the known-right one.
    fn len(&self) -> usize {
        self.real + (self.blocks - 1) * self.config.block_size
    }

    /// Starts a block if it is time, and draws filler for the positions that have no draft.
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
            let mut rng = Rng::new(&[self.config.seed, self.fills as u64]);
            let filler = self.config.filler.fill(text, &self.ahead, missing, self.vocabulary, &mut rng);
            self.ahead.extend(filler);
            self.fills += 1;
        }
    }

    /// Moves the window over `accepted` tokens, of which a branch may have led beyond the real-active block.
    fn shift(&mut self, accepted: usize) {
        let n = self.config.block_size;
        let complete = if accepted < self.real { 0 } else { 1 + (accepted - self.real) / n };
        self.blocks = self.blocks.saturating_sub(complete);
        if self.blocks > 0 {
            self.real = self.real + complete * n - accepted;
        }
    }

    /// Tokens of the newest block that are accepted, or are the same in the `next` draft, which starts at the
    /// known-right token.
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
        let (known, deepest) = (text[text.len() - 1], room - 1);
        let run = &self.ahead[..deepest.min(self.len() - 1)];
        if self.has_adapter && self.config.passes == Passes::Two && !self.is_drafted {
            return Draft::run(known, &[], self.real).with_adapted(run);
        }
        let mut draft = Draft::run(known, run, self.real).with_filler_from(1 + self.predicted);
        let longest = (self.config.block_size - 1).min(deepest);
        for candidate in self.pool.candidates(text, run, self.config.pool_size, longest) {
            candidate.iter().fold(0, |parent, &token| draft.branch(parent, token, Source::Recycled));
        }
        if self.config.tree_budget > 0 {
            let own = self.real.min(draft.run_len());
            let budget = self.config.tree_budget + draft.rows().len() - own;
            grow(&mut draft, &self.marginals[..self.marginals.len().min(deepest)], budget);
        }
        match (self.has_adapter, self.config.passes) {
            (false, _) => draft,
            (true, Passes::One) => draft.with_adapted(run),
            (true, Passes::Two) => draft.with_adapted(&[]),
        }
    }

    fn learn(&mut self, pass: &Pass, outputs: &DraftOutputs) {
        let last = *pass.path.last().expect("row 0 was accepted");
        let ahead = pass.next_draft().into_iter().map(|(token, _)| token);
        let next: Vec<u32> = std::iter::once(pass.chosen(last)).chain(ahead).collect();
        self.stable = self.stable(pass, &next);
        self.shift(pass.path.len());
        self.ahead = next[1..].to_vec();
        self.predicted = self.ahead.len();
        self.is_drafted = !pass.drafted.is_empty();
        if self.ranks > 0 {
            let outputs = if pass.draft.adapted().is_some() { &outputs.adapted } else { &outputs.rows };
            self.marginals = outputs.top(&pass.refining_rows(), self.ranks);
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
        // Before the first wrong token the path is the run, so the model's token after each row is the right one.
        let right = pass.chosen.iter().take(pass.tokens.len());
        let wrong = run.iter().skip(1).zip(right).position(|(&drafted, &right)| Some(drafted) != right)?;
        let marginal = self.marginals.get(wrong)?;
        let rank = marginal.iter().position(|(token, _)| *token == pass.chosen(wrong));
        Some(rank.unwrap_or(RANKED))
    }

    fn skip(&mut self) {
        self.shift(1);
        self.ahead.drain(..self.ahead.len().min(1));
        self.predicted = self.predicted.saturating_sub(1);
        self.marginals.drain(..self.marginals.len().min(1));
    }
}
