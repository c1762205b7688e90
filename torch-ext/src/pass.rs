//! The rows of a decoding pass: which keys each row sees, and the plan by which every layer computes their attention.
//!
//! Legend: n rows of the pass, s keys, h key/value heads, d head width, c capacity.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::{
    HeadShape,
    cpu::{
        attention::{RowGroup, row_groups},
        memory::is_plain,
    },
    gpu::{packed_spans::PackedSpans, varlen::has_kernel},
};

/// Some rows of one sequence in a pass. Each sees the tokens cached before the span, the rows of the span it follows, and
/// itself.
pub struct Span {
    /// The number of the sequence's cache.
    pub(crate) cache: usize,
    /// Rows of the pass.
    pub(crate) rows: Range<usize>,
    /// Tokens cached before them.
    pub(crate) cached: usize,
    /// The paths of a tree's rows; `None` for a chain.
    paths: Option<Paths>,
    /// Its keys and values are not written to the cache.
    pub(crate) uncached: bool,
}

/// For each row the rows of its path, from the first one after the cached tokens down to itself.
struct Paths {
    /// Where the path of each row starts in `rows`; one number more than there are rows.
    starts: Vec<usize>,
    rows: Vec<usize>,
}

impl Paths {
    #[inline(always)]
    fn of(&self, row: usize) -> &[usize] {
        &self.rows[self.starts[row]..self.starts[row + 1]]
    }
}

impl Span {
    /// Every row follows the one before. Keys and values go to the cache, after its first `cached` tokens.
    pub fn chain(cache: usize, rows: Range<usize>, cached: usize) -> Self {
        Self { cache, rows, cached, paths: None, uncached: false }
    }

    /// As a chain, but keys and values are not written to the cache: what it holds after the first `cached` tokens stays.
    pub fn uncached(cache: usize, rows: Range<usize>, cached: usize) -> Self {
        Self { uncached: true, ..Self::chain(cache, rows, cached) }
    }

    /// `parents[row]` is the row that each row follows, counted within the span; `None` if it follows the cached tokens.
    pub fn tree(cache: usize, rows: Range<usize>, cached: usize, parents: &[Option<usize>]) -> Self {
        assert_eq!(rows.len(), parents.len(), "a parent for every row");
        let mut paths = Paths { starts: vec![0], rows: Vec::new() };
        for (row, parent) in parents.iter().enumerate() {
            if let Some(parent) = *parent {
                paths.rows.extend_from_within(paths.starts[parent]..paths.starts[parent + 1]);
            }
            paths.rows.push(row);
            paths.starts.push(paths.rows.len());
        }
        Self { paths: Some(paths), ..Self::chain(cache, rows, cached) }
    }

    pub(crate) fn is_tree(&self) -> bool {
        self.paths.is_some()
    }

    /// The positions of the cache that its keys and values are written to; `None` if they are not.
    pub(crate) fn stored(&self) -> Option<Range<usize>> {
        (!self.uncached).then(|| self.cached..self.cached + self.rows.len())
    }

    /// How many of the cache's tokens its rows see, at most.
    pub(crate) fn reach(&self) -> usize {
        self.stored().map_or(self.cached, |stored| stored.end)
    }

    /// How many of the span's first rows include all that are seen by rows up to `row`.
    #[inline(always)]
    pub(crate) fn own_reach(&self, row: usize) -> usize {
        if self.is_tree() { self.rows.len() } else { row + 1 }
    }

    /// Moves the scores of the keys that `row` sees to the front, in the order of their positions. Returns their number.
    #[inline(always)]
    pub(crate) fn gather(&self, row: usize, scores: &mut [f32]) -> usize {
        match &self.paths {
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

    /// The rows of the span that `row` sees, itself the last.
    pub(crate) fn path(&self, row: usize) -> impl Iterator<Item = usize> {
        let depths = self.paths.as_ref().map_or(row + 1, |paths| paths.of(row).len());
        (0..depths).map(move |depth| self.on_path(row, depth))
    }

    /// The row of the span at `depth` on the path of `row`.
    #[inline(always)]
    pub(crate) fn on_path(&self, row: usize, depth: usize) -> usize {
        self.paths.as_ref().map_or(depth, |paths| paths.of(row)[depth])
    }

    /// An additive mask `[rows, s]` over the cached tokens and the span's rows: 0 for keys that a row sees, else -inf.
    fn mask(&self, kind: Kind, device: Device) -> Tensor {
        let (t, s) = (self.rows.len(), self.cached + self.rows.len());
        let mut mask = vec![f32::NEG_INFINITY; t * s];
        for (row, mask) in mask.chunks_exact_mut(s).enumerate() {
            mask[..self.cached].fill(0.0);
            self.path(row).for_each(|seen| mask[self.cached + seen] = 0.0);
        }
        Tensor::from_slice(&mask).view([t as i64, s as i64]).to_kind(kind).to_device(device)
    }
}

/// How the attention of one pass is computed, the same in every layer.
pub struct PassPlan {
    pub(crate) heads: HeadShape,
    pub(crate) spans: Vec<Span>,
    pub(crate) method: Method,
}

pub(crate) enum Method {
    /// The CPU kernel, by groups of rows.
    Kernel(Vec<RowGroup>),
    /// libtorch's flash kernel, all spans together.
    Flash(PackedSpans),
    /// libtorch's operations, span by span, each with its mask.
    Fallback(Vec<Tensor>),
}

impl PassPlan {
    /// `spans` cover the rows of the pass one after the other. `caches` are the keys and values of one layer by cache
    /// number, each `[h, c, d]`; those of the other layers must have the same shapes and strides.
    ///
    /// # Panics
    /// If there is no row, if a row has no span, or if a cache has another shape or too little room.
    pub fn new(heads: HeadShape, spans: Vec<Span>, caches: &[[&Tensor; 2]]) -> Self {
        check(heads, &spans, caches);
        let [keys, _] = caches[spans.first().expect("a pass has rows").cache];
        let (kind, device) = (keys.kind(), keys.device());
        let flash = || match has_kernel(kind, device, heads.width as i64) {
            true => PackedSpans::new(&spans, caches, device),
            false => None,
        };
        let method = if is_plain(keys) {
            Method::Kernel(row_groups(&spans, heads))
        } else if let Some(packed) = flash() {
            Method::Flash(packed)
        } else {
            Method::Fallback(masks(&spans, kind, device))
        };
        Self { heads, spans, method }
    }

    /// # Panics
    /// If `qkv` does not have the rows and heads of the pass, or wants a gradient.
    pub(crate) fn check(&self, qkv: &Tensor) {
        let rows = self.spans.last().map_or(0, |span| span.rows.end);
        assert_eq!(self.heads.rows_of(qkv), rows, "every row belongs to a span");
        assert!(!qkv.requires_grad(), "attention over caches has no gradient");
    }
}

/// The mask of each span.
pub(crate) fn masks(spans: &[Span], kind: Kind, device: Device) -> Vec<Tensor> {
    spans.iter().map(|span| span.mask(kind, device)).collect()
}

fn check(heads: HeadShape, spans: &[Span], caches: &[[&Tensor; 2]]) {
    let mut next = 0;
    for span in spans {
        let [keys, values] = caches[span.cache];
        let (h, capacity, d) = keys.size3().expect("keys are [heads, capacity, width]");
        assert_eq!((h as usize, d as usize, values.size()), (heads.keys, heads.width, keys.size()));
        let Span { rows, cached, .. } = span;
        assert_eq!(rows.start, next, "spans follow each other");
        assert!(span.reach() <= capacity as usize, "{rows:?} after {cached} tokens in {capacity}");
        next = rows.end;
    }
}
