//! Token trees: the last pass gave a distribution at every draft position; the most probable combinations of
//! its tokens are tried as branches of the next pass. They are found best first, by a heap over summed
//! log-probabilities: a branch that is taken out is replaced by its sibling of the next rank and by its most
//! probable child. No tensors.
//!
//! Not part of arXiv 2512.14681, which recycles n-grams alone.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::draft::{Draft, Source};

/// Tokens per position that a tree may try: the right token rarely has a rank beyond the tenth.
pub(crate) const RANKS: usize = 10;

/// The most probable tokens of one position with their log-probabilities, best first.
pub(crate) type Marginal = Vec<(u32, f32)>;

/// A branch that may become a row below `parent`: the token of `rank` in `marginals[depth]`.
struct Branch {
    /// Summed log-probability of its path from the root.
    score: f32,
    parent: usize,
    depth: usize,
    rank: usize,
}

impl PartialEq for Branch {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Branch {}

impl PartialOrd for Branch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Branch {
    /// By score, then depth, rank and parent, smallest first, so that the order does not depend on the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |b: &Self| (b.depth, b.rank, b.parent);
        self.score.total_cmp(&other.score).then_with(|| key(other).cmp(&key(self)))
    }
}

/// Adds branches to `draft` until it has `budget` rows. `marginals[d]` belongs to depth `d + 1`; the root is row 0.
/// Branches that the draft holds already are not added again.
pub(crate) fn grow(draft: &mut Draft, marginals: &[Marginal], budget: usize) {
    let mut heap = BinaryHeap::new();
    let offer = |heap: &mut BinaryHeap<Branch>, above: f32, parent, depth: usize, rank: usize| {
        let marginal = marginals.get(depth).filter(|_| rank < RANKS);
        if let Some((_, log_probability)) = marginal.and_then(|marginal| marginal.get(rank)) {
            heap.push(Branch { score: above + log_probability, parent, depth, rank });
        }
    };
    offer(&mut heap, 0.0, 0, 0, 0);
    while draft.rows().len() < budget {
        let Some(Branch { score, parent, depth, rank }) = heap.pop() else { return };
        let (token, log_probability) = marginals[depth][rank];
        let row = draft.branch(parent, token, Source::Tree);
        offer(&mut heap, score - log_probability, parent, depth, rank + 1);
        offer(&mut heap, score, row, depth + 1, 0);
    }
}

#[cfg(test)]
mod tests;
