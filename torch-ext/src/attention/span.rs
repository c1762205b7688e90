//! Who sees whom in a pass: the rows of each sequence, behind its cache or beside it.
//!
//! Legend: n rows of the pass, s keys, h key/value heads, d head width, c capacity.

use std::{cell::OnceCell, ops::Range};

use tch::{Device, Kind, Tensor};

use super::packed::Packed;
use crate::rotary::HeadShape;

/// The rows of one sequence in a pass, and what each of them sees: what is cached, the rows it follows, itself.
pub struct Span {
    /// Which rows of the pass.
    pub rows: Range<usize>,
    /// Tokens cached before them.
    pub cached: usize,
    /// `None` when every row follows the one before.
    pub(super) paths: Option<Paths>,
    pub(super) uncached: bool,
    mask: OnceCell<Tensor>,
    /// Of the first span of a pass: all of them together, where that can be.
    pub(super) of_pass: OnceCell<Option<Packed>>,
}

/// For each row the rows from the first one behind the cache down to itself.
pub(super) struct Paths {
    starts: Vec<usize>,
    rows: Vec<usize>,
}

/// A span with its keys and values in one layer, each `[h, c, d]` and contiguous.
#[derive(Clone, Copy)]
pub struct SpanCache<'a> {
    /// The span.
    pub span: &'a Span,
    /// The cache's keys; those of the span's rows go behind the cached ones.
    pub keys: &'a Tensor,
    /// Its values.
    pub values: &'a Tensor,
}

impl SpanCache<'_> {
    /// Whether both were given the very same cache.
    pub(super) fn shares_cache(&self, other: &SpanCache) -> bool {
        std::ptr::eq(self.keys, other.keys) && std::ptr::eq(self.values, other.values)
    }
}

impl Span {
    /// Every row follows the one before.
    pub fn chain(rows: Range<usize>, cached: usize) -> Self {
        Self { rows, cached, paths: None, uncached: false, mask: OnceCell::new(), of_pass: OnceCell::new() }
    }

    /// As a chain, but beside what the cache holds behind the first `cached` tokens: nothing is stored.
    pub fn uncached(rows: Range<usize>, cached: usize) -> Self {
        Self { uncached: true, ..Self::chain(rows, cached) }
    }

    /// `parents[row]` is the row that each row follows, counted within the span; none if it follows the cached tokens.
    pub fn tree(rows: Range<usize>, cached: usize, parents: &[Option<usize>]) -> Self {
        assert_eq!(rows.len(), parents.len(), "a parent for every row");
        let mut paths = Paths { starts: vec![0], rows: Vec::new() };
        for (row, parent) in parents.iter().enumerate() {
            if let Some(parent) = *parent {
                paths.rows.extend_from_within(paths.starts[parent]..paths.starts[parent + 1]);
            }
            paths.rows.push(row);
            paths.starts.push(paths.rows.len());
        }
        Self { paths: Some(paths), ..Self::chain(rows, cached) }
    }

    /// Where its keys and values go in a cache; `None` when nowhere.
    pub(crate) fn stored(&self) -> Option<Range<usize>> {
        (!self.uncached).then(|| self.cached..self.cached + self.rows.len())
    }

    pub(super) fn seen(&self) -> Seen<'_> {
        Seen { rows: &self.rows, cached: self.cached, paths: self.paths.as_ref(), own: self.cached }
    }

    /// Keys of its cache that any row sees.
    pub(super) fn reach(&self) -> usize {
        self.stored().map_or(self.cached, |stored| stored.end)
    }

    /// The same as an additive mask `[rows, s]`: 0 where seen, -inf where not.
    pub(super) fn mask(&self, kind: Kind, device: Device) -> &Tensor {
        self.mask.get_or_init(|| {
            let (t, s) = (self.rows.len(), self.cached + self.rows.len());
            let mut seen = vec![f32::NEG_INFINITY; t * s];
            for (row, seen) in seen.chunks_exact_mut(s).enumerate() {
                seen[..self.cached].fill(0.0);
                for depth in 0..self.paths.as_ref().map_or(row + 1, |paths| paths.of(row).len()) {
                    seen[self.seen().place(row, depth)] = 0.0;
                }
            }
            Tensor::from_slice(&seen).view([t as i64, s as i64]).to_kind(kind).to_device(device)
        })
    }
}

/// A span without its mask, for the threads of a team.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) rows: &'a Range<usize>,
    pub(super) cached: usize,
    pub(super) paths: Option<&'a Paths>,
    /// Where the keys of its rows begin among those of a task; the cached ones are the first.
    pub(super) own: usize,
}

impl Seen<'_> {
    /// Keys of its own rows among which a row up to `row` finds those it sees.
    #[inline(always)]
    pub(super) fn own_reach(self, row: usize) -> usize {
        if self.paths.is_some() { self.rows.len() } else { row + 1 }
    }

    /// Moves the scores of the keys that `row` sees together, in the order of their positions; how many they are.
    #[inline(always)]
    pub(super) fn gather(self, row: usize, scores: &mut [f32]) -> usize {
        match self.paths {
            None => self.cached + row + 1,
            Some(paths) => {
                let path = paths.of(row);
                for (depth, &at) in path.iter().enumerate() {
                    scores[self.cached + depth] = scores[self.cached + at];
                }
                self.cached + path.len()
            }
        }
    }

    /// Where the key lies that `row` sees so many positions behind the cached ones.
    #[inline(always)]
    pub(super) fn place(self, row: usize, depth: usize) -> usize {
        self.own + self.paths.map_or(depth, |paths| paths.of(row)[depth])
    }
}

impl Paths {
    #[inline(always)]
    pub(super) fn of(&self, row: usize) -> &[usize] {
        &self.rows[self.starts[row]..self.starts[row + 1]]
    }
}

/// The spans cover the `n` rows of a pass, and their caches have the right shape and enough room.
pub(crate) fn check_spans(spans: &[SpanCache], heads: HeadShape, n: usize) {
    let (mut next, mut capacity) = (0, 0);
    for (at, cache) in spans.iter().enumerate() {
        // Asking a tensor for its shape takes longer than many a span, and spans of one cache are neighbours.
        if at == 0 || !cache.shares_cache(&spans[at - 1]) {
            let (h, c, d) = cache.keys.size3().expect("keys are [heads, capacity, width]");
            let of_values = cache.values.size3().expect("values are [heads, capacity, width]");
            assert_eq!((h as usize, d as usize, of_values), (heads.keys, heads.width, (h, c, d)));
            capacity = c as usize;
        }
        let Span { rows, cached, .. } = cache.span;
        assert!(
            rows.start == next && cache.span.reach() <= capacity,
            "{rows:?} after {next}, at {cached} of {capacity}"
        );
        next = rows.end;
    }
    assert_eq!(next, n, "every row belongs to a span");
}
