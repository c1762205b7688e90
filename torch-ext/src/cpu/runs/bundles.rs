//! Short runs that share calls of the attention kernel. For a block of 8 tokens libtorch takes longer to make a call than
//! to compute it, and its kernel takes queries 32 at a time anyway. So neighbouring short runs of one text are attended together: without a
//! mask over the prefix that all of them see, and with a small one over the keys that only some see.

use std::ops::Range;

use tch::Tensor;

use super::{Run, keys_values};
use crate::HeadShape;

/// The most rows of a bundle of several runs: as many queries as libtorch's kernel takes at a time.
const ROWS: usize = 32;
/// The most keys by which the prefixes of a bundle differ: a row computes all of them and uses some.
const DIFFERENCE: usize = 2 * ROWS;

/// One run, or neighbouring short ones whose prefixes begin at the same row.
#[derive(Debug, PartialEq)]
pub(super) struct Bundle {
    /// Rows that all of its rows see.
    pub prefix: Range<usize>,
    /// Rows behind the prefix that some of its rows see.
    pub rest: Range<usize>,
    pub own: Range<usize>,
    /// What each of its rows sees of `rest` and then of `own`: 0, or minus infinity. Empty for a single run, in which each row
    /// sees itself and those before it. Numbers, not a tensor, since threads share bundles.
    mask: Vec<f32>,
}

/// The keys that queries see.
pub(super) enum Seen {
    All,
    /// As many as there are queries: each sees its own and those before it.
    Causal,
    /// Where the mask `[t, s]` is 0, and not where it is minus infinity.
    Masked(Tensor),
}

/// `runs` in bundles, in order.
pub(super) fn of(mut runs: &[Run]) -> Vec<Bundle> {
    let mut bundles = Vec::new();
    while !runs.is_empty() {
        let count = (2..=runs.len()).take_while(|&count| belong_together(&runs[..count])).last().unwrap_or(1);
        let (these, others) = runs.split_at(count);
        bundles.push(Bundle::of(these));
        runs = others;
    }
    bundles
}

fn belong_together(runs: &[Run]) -> bool {
    let ends = || runs.iter().map(|run| run.prefix.end);
    let rows: usize = runs.iter().map(|run| run.own.len()).sum();
    rows <= ROWS
        && runs.iter().all(|run| run.prefix.start == runs[0].prefix.start)
        && ends().max().unwrap_or(0) - ends().min().unwrap_or(0) <= DIFFERENCE
}

impl Bundle {
    fn of(runs: &[Run]) -> Self {
        let [first, .., last] = runs else {
            let Run { prefix, own } = runs[0].clone();
            return Self { rest: prefix.end..prefix.end, prefix, own, mask: Vec::new() };
        };
        let ends = || runs.iter().map(|run| run.prefix.end);
        let common = ends().min().unwrap_or(0);
        let rest = common..ends().max().unwrap_or(common);
        let own = first.own.start..last.own.end;
        let mut mask = Vec::with_capacity(own.len() * (rest.len() + own.len()));
        for run in runs {
            for row in run.own.clone() {
                let is_seen = |seen| if seen { 0.0 } else { f32::NEG_INFINITY };
                mask.extend(rest.clone().map(|key| is_seen(key < run.prefix.end)));
                mask.extend(own.clone().map(|key| is_seen((run.own.start..=row).contains(&key))));
            }
        }
        Self { prefix: first.prefix.start..common, rest, own, mask }
    }

    /// Keys and values of `rest` and `own`, as [`keys_values`]. `prefixes`: the tensor that prefixes are rows of, and the heads
    /// in it before the keys.
    pub fn near(
        &self,
        qkv: &Tensor,
        (prefixes, before): (&Tensor, usize),
        heads: HeadShape,
        key_heads: &Range<usize>,
    ) -> [Tensor; 2] {
        let parts = [(prefixes, before, &self.rest), (qkv, heads.queries, &self.own)];
        let parts = if self.rest.is_empty() { &parts[1..] } else { &parts[..] };
        keys_values(parts, heads, key_heads)
    }

    /// What its rows see of [`near`](Self::near).
    pub fn seen_near(&self) -> Seen {
        if self.mask.is_empty() {
            return Seen::Causal;
        }
        let shape = [self.own.len(), self.rest.len() + self.own.len()].map(|size| size as i64);
        Seen::Masked(Tensor::from_slice(&self.mask).view(shape))
    }
}

impl Seen {
    pub fn is_causal(&self) -> bool {
        matches!(self, Self::Causal)
    }

    pub fn mask(&self) -> Option<&Tensor> {
        match self {
            Self::Masked(mask) => Some(mask),
            Self::All | Self::Causal => None,
        }
    }
}
