//! Attention of a pass where the rows of all its sequences go into one call, or into two that are joined: what they follow
//! in the caches, and what they follow in the pass.
//!
//! Legend: n rows of the pass, s keys of all caches, q query heads, h key/value heads, d head width, c capacity.

use std::ops::Range;

use tch::{Device, Tensor};

use super::SpanCache;
use crate::{
    HeadShape, storage_place,
    varlen::{Sequences, forward, join},
};

/// What the spans of a pass are on a device, the same for every layer.
pub(crate) struct Packed {
    sees: Sees,
    /// Which rows of the pass go into the caches, where that is not all of them, and where they go: int64.
    stored: Option<Tensor>,
    places: Tensor,
    /// Which cache lies first, and tokens from there to the end of the last.
    first: usize,
    tokens: i64,
}

enum Sees {
    /// Keys in the caches, those of the pass among them.
    Stored(Sequences),
    /// Keys that were there before, and those of the pass where they are.
    Beside { before: Sequences, own: Sequences },
}

impl Packed {
    /// `None` where it cannot be: branches, and caches that do not lie in one memory.
    pub(super) fn new(spans: &[SpanCache], device: Device) -> Option<Self> {
        let places: Vec<_> = spans.iter().map(|span| storage_place(span.keys)).collect();
        let first = (0..places.len()).min_by_key(|&at| places[at].offset)?;
        let strides = |at: usize| spans[at].keys.stride();
        let alike = |at: usize| places[at].storage == places[first].storage && strides(at) == strides(first);
        if spans.iter().any(|span| span.span.paths.is_some()) || !(0..spans.len()).all(alike) {
            return None;
        }
        let row = strides(first)[1];
        let begins: Vec<usize> =
            places.iter().map(|place| ((place.offset - places[first].offset) / row) as usize).collect();
        let capacity = spans[first].keys.size()[1];
        let rows: Vec<usize> = spans.iter().map(|span| span.span.rows.len()).collect();
        let keys = |count: &dyn Fn(&SpanCache) -> usize| -> Vec<Range<usize>> {
            spans.iter().zip(&begins).map(|(span, &begin)| begin..begin + count(span)).collect()
        };
        let sees = match spans.iter().all(|span| span.span.stored().is_some()) {
            true => Sees::Stored(Sequences::new(&rows, &keys(&|span| span.span.reach()), device)),
            false => Sees::Beside {
                before: Sequences::new(&rows, &keys(&|span| span.span.cached), device),
                own: Sequences::packed(&rows, &rows, device),
            },
        };
        let stored = || spans.iter().zip(&begins).filter(|(span, _)| span.span.stored().is_some());
        let places: Vec<i64> = stored()
            .flat_map(|(span, begin)| {
                let places = span.span.stored().unwrap_or_default();
                places.map(move |place| (begin + place) as i64)
            })
            .collect();
        let rows: Vec<i64> =
            stored().flat_map(|(span, _)| span.span.rows.clone()).map(|row| row as i64).collect();
        let upload = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(device);
        let stored = matches!(sees, Sees::Beside { .. }).then(|| upload(&rows));
        let places = upload(&places);
        let last = begins.iter().max()?;
        Some(Self { sees, stored, places, first, tokens: *last as i64 + capacity })
    }

    /// Writes the keys and values of the pass's rows to their places in the caches.
    pub(crate) fn store(&self, qkv: &Tensor, heads: HeadShape, spans: &[SpanCache]) {
        if self.places.numel() == 0 {
            return;
        }
        let [_, k, v] = heads_of(qkv, heads);
        let SpanCache { keys, values, .. } = &spans[self.first];
        for (cache, own) in [(keys, k), (values, v)] {
            let own =
                self.stored.as_ref().map_or_else(|| own.shallow_clone(), |rows| own.index_select(0, rows));
            let _ = self.all(cache).index_copy_(0, &self.places, &own);
        }
    }

    pub(super) fn attend(&self, qkv: &Tensor, heads: HeadShape, spans: &[SpanCache]) -> Tensor {
        let [q, k, v] = heads_of(qkv, heads);
        let SpanCache { keys, values, .. } = &spans[self.first];
        let [keys, values] = [keys, values].map(|x| self.all(x));
        let (out, _) = match &self.sees {
            Sees::Stored(stored) => forward([&q, &keys, &values], stored, true),
            Sees::Beside { before, own } => {
                let before = forward([&q, &keys, &values], before, false);
                join([&before, &forward([&q, &k, &v], own, true)])
            }
        };
        out.reshape([qkv.size()[0], -1])
    }

    /// `[s, h, d]` of all caches, from the first `[h, c, d]` on.
    fn all(&self, first: &Tensor) -> Tensor {
        let (size, stride) = (first.size(), first.stride());
        first.as_strided([self.tokens, size[0], size[2]], [stride[1], stride[0], stride[2]], None)
    }
}

/// Queries `[n, q, d]`, keys and values `[n, h, d]` of a projection, as views.
pub(crate) fn heads_of(qkv: &Tensor, heads: HeadShape) -> [Tensor; 3] {
    let [queries, keys, d] = [heads.queries, heads.keys, heads.width].map(|size| size as i64);
    let all = qkv.view([qkv.size()[0], queries + 2 * keys, d]);
    [all.narrow(1, 0, queries), all.narrow(1, queries, keys), all.narrow(1, queries + keys, keys)]
}
