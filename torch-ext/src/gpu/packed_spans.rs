//! Attention of a decoding pass in one call for all its spans, or in two that are joined where some rows are not written to
//! their cache: one over the cached keys, one over the keys of the pass.
//!
//! Legend: n rows of the pass, s keys of all caches, q query heads, h key/value heads, d head width, c capacity.

use std::ops::Range;

use tch::{Device, Tensor};

use crate::{
    HeadShape,
    gpu::varlen::{Sequences, forward, join},
    pass::Span,
    storage_place,
};

/// The spans of a pass as tensors on the device, the same for every layer.
pub(crate) struct PackedSpans {
    keys: KeySource,
    /// The rows of the pass that are written to the caches, int64; `None` for all.
    stored: Option<Tensor>,
    /// Where they are written, counted from the first cache on: int64.
    places: Tensor,
    /// The number of the cache that comes first in memory.
    first: usize,
    /// Tokens from its start to the end of the last cache.
    tokens: i64,
}

enum KeySource {
    /// All keys, those of the pass among them, are in the caches.
    Caches(Sequences),
    /// Cached keys, and those of the pass in its own rows.
    CachesAndRows { cached: Sequences, own: Sequences },
}

impl PackedSpans {
    /// `None` where one call cannot compute it: for trees, and for caches in different storages.
    pub(crate) fn new(spans: &[Span], caches: &[[&Tensor; 2]], device: Device) -> Option<Self> {
        let keys_of = |at: usize| caches[spans[at].cache][0];
        let places: Vec<_> = (0..spans.len()).map(|at| storage_place(keys_of(at))).collect();
        let first = (0..places.len()).min_by_key(|&at| places[at].offset)?;
        let strides = keys_of(first).stride();
        let alike =
            |at: usize| places[at].storage == places[first].storage && keys_of(at).stride() == strides;
        if spans.iter().any(Span::is_tree) || !(0..spans.len()).all(alike) {
            return None;
        }
        let starts: Vec<usize> = places
            .iter()
            .map(|place| ((place.offset - places[first].offset) / strides[1]) as usize)
            .collect();
        let capacity = keys_of(first).size()[1];
        let rows: Vec<usize> = spans.iter().map(|span| span.rows.len()).collect();
        let seen = |count: &dyn Fn(&Span) -> usize| -> Vec<Range<usize>> {
            spans.iter().zip(&starts).map(|(span, &start)| start..start + count(span)).collect()
        };
        let all_stored = spans.iter().all(|span| !span.uncached);
        let keys = match all_stored {
            true => KeySource::Caches(Sequences::new(&rows, &seen(&Span::reach), device)),
            false => KeySource::CachesAndRows {
                cached: Sequences::new(&rows, &seen(&|span| span.cached), device),
                own: Sequences::packed(&rows, &rows, device),
            },
        };
        let upload = |numbers: Vec<usize>| {
            let numbers: Vec<i64> = numbers.into_iter().map(|number| number as i64).collect();
            Tensor::from_slice(&numbers).to_device(device)
        };
        let stored = spans.iter().zip(&starts).filter_map(|(span, start)| {
            span.stored().map(|tokens| (span.rows.clone(), start + tokens.start..start + tokens.end))
        });
        let (rows, places): (Vec<_>, Vec<_>) = stored.unzip();
        Some(Self {
            keys,
            stored: (!all_stored).then(|| upload(rows.into_iter().flatten().collect())),
            places: upload(places.into_iter().flatten().collect()),
            first: spans[first].cache,
            tokens: *starts.iter().max()? as i64 + capacity,
        })
    }

    /// Writes the keys and values of the pass's rows to their places in the caches.
    pub(crate) fn store(&self, qkv: &Tensor, heads: HeadShape, caches: &[[&Tensor; 2]]) {
        if self.places.numel() == 0 {
            return;
        }
        let [_, k, v] = heads.split(qkv);
        for (cache, own) in caches[self.first].into_iter().zip([k, v]) {
            let own = match &self.stored {
                Some(rows) => own.index_select(0, rows),
                None => own,
            };
            let _ = self.all(cache).index_copy_(0, &self.places, &own);
        }
    }

    /// See [`crate::attend`].
    pub(crate) fn attend(&self, qkv: &Tensor, heads: HeadShape, caches: &[[&Tensor; 2]]) -> Tensor {
        let [q, k, v] = heads.split(qkv);
        let [keys, values] = caches[self.first].map(|cache| self.all(cache));
        let (out, _) = match &self.keys {
            KeySource::Caches(all) => forward([&q, &keys, &values], all, true),
            KeySource::CachesAndRows { cached, own } => {
                let cached = forward([&q, &keys, &values], cached, false);
                join([&cached, &forward([&q, &k, &v], own, true)])
            }
        };
        out.reshape([qkv.size()[0], -1])
    }

    /// `[s, h, d]` of all caches, from the first one `[h, c, d]` on.
    fn all(&self, first: &Tensor) -> Tensor {
        let (size, stride) = (first.size(), first.stride());
        first.as_strided([self.tokens, size[0], size[2]], [stride[1], stride[0], stride[2]], None)
    }
}
