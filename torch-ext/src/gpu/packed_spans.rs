//! Attention of a decoding pass in one call for all its spans. Where some rows are not written to their cache, or are those of
//! trees, in two that are joined: one over the cached keys, one over the keys of the pass. Trees of about the same
//! size attend to themselves at once, under masks.
//!
//! Legend: n rows of the pass, s keys of all caches, q query heads, h key/value heads, d head width, c capacity, b trees of up
//! to w rows.

use std::{collections::BTreeMap, ops::Range};

use tch::{Device, Tensor};

use crate::{
    HeadShape,
    gpu::{
        transfer::{send, upload},
        varlen::{Averages, Sequences, forward, join, masked},
    },
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
    CachesAndRows { cached: Sequences, own: Sequences, trees: Vec<Trees> },
}

/// Trees of about the same size.
struct Trees {
    /// Their rows in the pass, `w` of each: a smaller tree repeats its last row. int64 `[b * w]`.
    padded: Tensor,
    /// Which of a tree's rows each row sees, additive: fp32 `[b, w, w]`.
    masks: Tensor,
    /// Where each row of a tree is in `padded`: int64, one per row.
    from: Tensor,
    /// Where it is in the pass: int64, one per row.
    rows: Tensor,
}

impl PackedSpans {
    /// `None` for caches in different storages.
    pub(crate) fn new(spans: &[Span], caches: &[[&Tensor; 2]], device: Device) -> Option<Self> {
        let keys_of = |at: usize| caches[spans[at].cache][0];
        let places: Vec<_> = (0..spans.len()).map(|at| storage_place(keys_of(at))).collect();
        let first = (0..places.len()).min_by_key(|&at| places[at].offset)?;
        let strides = keys_of(first).stride();
        let alike =
            |at: usize| places[at].storage == places[first].storage && keys_of(at).stride() == strides;
        if !(0..spans.len()).all(alike) {
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
        let keys = match all_stored && !spans.iter().any(Span::is_tree) {
            true => KeySource::Caches(Sequences::new(&rows, &seen(&Span::reach), Device::Cpu)),
            false => KeySource::CachesAndRows {
                cached: Sequences::new(&rows, &seen(&|span| span.cached), Device::Cpu),
                own: Sequences::packed(&rows, &rows, Device::Cpu),
                trees: Trees::by_size(spans, device),
            },
        };
        let stored = spans.iter().zip(&starts).filter_map(|(span, start)| {
            span.stored().map(|tokens| (span.rows.clone(), start + tokens.start..start + tokens.end))
        });
        let (rows, places): (Vec<_>, Vec<_>) = stored.unzip();
        let mut packed = Self {
            keys,
            stored: (!all_stored).then(|| index_tensor(rows.into_iter().flatten())),
            places: index_tensor(places.into_iter().flatten()),
            first: spans[first].cache,
            tokens: *starts.iter().max()? as i64 + capacity,
        };
        upload(packed.index_tensors(), device);
        Some(packed)
    }

    /// The whole numbers that the device reads.
    fn index_tensors(&mut self) -> Vec<&mut Tensor> {
        let mut tensors: Vec<&mut Tensor> = vec![&mut self.places];
        tensors.extend(&mut self.stored);
        match &mut self.keys {
            KeySource::Caches(all) => tensors.extend(all.index_tensors()),
            KeySource::CachesAndRows { cached, own, trees } => {
                tensors.extend(cached.index_tensors().chain(own.index_tensors()));
                for Trees { padded, from, rows, .. } in trees {
                    tensors.extend([padded, from, rows]);
                }
            }
        }
        tensors
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
            KeySource::CachesAndRows { cached, own, trees } => {
                let cached = forward([&q, &keys, &values], cached, false);
                // The rows of trees too, as if they were chains; their results are replaced.
                let mut own = forward([&q, &k, &v], own, true);
                trees.iter().for_each(|trees| trees.attend([&q, &k, &v], &mut own));
                join([&cached, &own])
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

impl Trees {
    /// The trees among the spans, those whose sizes round up to the same power of two together, so that a large one does not
    /// widen many small ones.
    fn by_size(spans: &[Span], device: Device) -> Vec<Self> {
        let mut by_size = BTreeMap::<usize, Vec<&Span>>::new();
        for tree in spans.iter().filter(|span| span.is_tree()) {
            by_size.entry(tree.rows.len().next_power_of_two()).or_default().push(tree);
        }
        by_size.into_iter().map(|(width, trees)| Self::new(&trees, width, device)).collect()
    }

    /// The masks are on `device`; whoever calls this uploads the whole numbers.
    fn new(trees: &[&Span], width: usize, device: Device) -> Self {
        let (mut padded, mut from, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let mut masks = vec![f32::NEG_INFINITY; trees.len() * width * width];
        for (tree, mask) in trees.iter().zip(masks.chunks_exact_mut(width * width)) {
            from.extend(padded.len()..padded.len() + tree.rows.len());
            rows.extend(tree.rows.clone());
            for (row, mask) in mask.chunks_exact_mut(width).enumerate() {
                let row = row.min(tree.rows.len() - 1);
                padded.push(tree.rows.start + row);
                tree.path(row).for_each(|seen| mask[seen] = 0.0);
            }
        }
        let (b, w) = (trees.len() as i64, width as i64);
        Self {
            padded: index_tensor(padded),
            masks: send(&Tensor::from_slice(&masks).view([b, w, w]), device),
            from: index_tensor(from),
            rows: index_tensor(rows),
        }
    }

    /// Replaces the rows of trees in `own`.
    fn attend(&self, qkv: [&Tensor; 3], (out, log_sums): &mut Averages) {
        let [q, k, v] = qkv.map(|x| x.index_select(0, &self.padded));
        let (of_trees, sums) = masked([&q, &k, &v], &self.masks);
        let _ = out.index_copy_(0, &self.rows, &of_trees.index_select(0, &self.from));
        let _ = log_sums.index_copy_(1, &self.rows, &sums.index_select(1, &self.from));
    }
}

fn index_tensor(numbers: impl IntoIterator<Item = usize>) -> Tensor {
    let numbers: Vec<i64> = numbers.into_iter().map(|number| number as i64).collect();
    Tensor::from_slice(&numbers)
}
