//! Rotation and attention for passes of fixed shape: a fixed number of rows of one sequence, and its whole cache. The device
//! reads how many tokens are cached, so a pass can be recorded once ([`crate::Graph`]) and repeated for any text.
//!
//! Legend: n rows, c capacity, q query heads, h key/value heads, d head width.

use tch::{Device, Kind, Tensor};

use crate::{
    HeadShape,
    cpu::rotary::rotate_in_place,
    gpu::{
        split_keys::{SplitKeys, parts},
        varlen::{Sequences, forward, join, masked},
    },
};

/// Which row each row of a pass follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The one before.
    Chain,
    /// As [`FixedRows::set_seen`] says.
    Tree,
}

/// The rows of a pass of fixed shape.
pub struct FixedRows {
    rows: usize,
    kind: FixedKind,
    /// 0, 1, ..: int64 `[n]`.
    offsets: Tensor,
}

enum FixedKind {
    Chain {
        /// Attention to all tokens, including the rows.
        all: Sequences,
        /// Their number, int32 `[1]`.
        used: Tensor,
    },
    SplitChain {
        /// Attention to the cached tokens.
        before: SplitKeys,
        /// Attention to the rows.
        own: Sequences,
    },
    Tree {
        /// Attention to the cached tokens.
        before: SplitKeys,
        /// The rows that each row does not see, bool `[n, n]`.
        hidden: Tensor,
    },
}

/// The rows after a number of cached tokens, the same for every layer.
pub struct FixedView<'a> {
    rows: &'a FixedRows,
    /// Where in the cache the rows are written: int64 `[n]`.
    places: Tensor,
    /// Which rows of a tree each row sees, as an additive mask `[1, n, n]`.
    mask: Option<Tensor>,
}

impl FixedRows {
    /// `rows` rows of a sequence whose cache has room for `capacity` tokens.
    pub fn new(rows: usize, shape: Shape, capacity: usize, device: Device) -> Self {
        Self::in_parts(parts(rows, capacity), rows, shape, capacity, device)
    }

    /// The same, with the cached tokens split into `parts`.
    fn in_parts(parts: usize, rows: usize, shape: Shape, capacity: usize, device: Device) -> Self {
        let before = || SplitKeys::new(rows, capacity, parts, device);
        let n = rows as i64;
        let kind = match shape {
            Shape::Chain if parts == 1 => {
                let used = Tensor::ones([1], (Kind::Int, device));
                FixedKind::Chain { all: Sequences::growing(rows, capacity, used.shallow_clone()), used }
            }
            Shape::Chain => {
                FixedKind::SplitChain { before: before(), own: Sequences::packed(&[rows], &[rows], device) }
            }
            Shape::Tree => FixedKind::Tree {
                before: before(),
                hidden: Tensor::ones([n, n], (Kind::Bool, device)).triu(1),
            },
        };
        Self { rows, kind, offsets: Tensor::arange(n, (Kind::Int64, device)) }
    }

    /// The number of rows.
    #[expect(clippy::len_without_is_empty, reason = "a pass has rows")]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Sets which rows of a tree each row sees: `seen` is `[n, n]`, row by row. Every row sees itself.
    ///
    /// # Panics
    /// For a chain.
    pub fn set_seen(&self, seen: &[bool]) {
        let FixedKind::Tree { hidden, .. } = &self.kind else {
            panic!("the rows of a chain see those before them")
        };
        let n = self.rows as i64;
        hidden.shallow_clone().copy_(&Tensor::from_slice(seen).view([n, n]).logical_not());
    }

    /// The rows after `cached` tokens, int64 `[1]`, at least one. This is part of the recorded work.
    pub fn after(&self, cached: &Tensor) -> FixedView<'_> {
        let mask = match &self.kind {
            FixedKind::Chain { used, .. } => {
                used.shallow_clone().copy_(&(cached + self.rows as i64));
                None
            }
            FixedKind::SplitChain { before, .. } => {
                before.set(cached);
                None
            }
            FixedKind::Tree { before, hidden } => {
                before.set(cached);
                let zeros = Tensor::zeros(hidden.size().as_slice(), (Kind::Float, hidden.device()));
                Some(zeros.masked_fill(hidden, f64::NEG_INFINITY).unsqueeze(0))
            }
        };
        FixedView { rows: self, places: &self.offsets + cached, mask }
    }
}

impl FixedView<'_> {
    /// Rotates the queries and keys of `qkv` `[n, (q + 2 * h) * d]` in place by angles `[n, d]`, and writes keys and values to
    /// the cache's, each `[h, c, d]`.
    pub fn rotate_and_store(
        &self,
        qkv: &mut Tensor,
        (cos, sin): (&Tensor, &Tensor),
        heads: HeadShape,
        [keys, values]: [&Tensor; 2],
    ) {
        rotate_in_place(qkv, cos, sin, heads, false);
        let [_, own_keys, own_values] = heads.split(qkv);
        for (cache, own) in [(keys, own_keys), (values, own_values)] {
            let _ = cache.shallow_clone().index_copy_(1, &self.places, &own.transpose(0, 1));
        }
    }

    /// Attention outputs `[n, q * d]` of rotated rows whose keys and values are in the cache.
    pub fn attend(&self, qkv: &Tensor, heads: HeadShape, [keys, values]: [&Tensor; 2]) -> Tensor {
        let [q, own_keys, own_values] = heads.split(qkv);
        let (k, v) = (keys.transpose(0, 1), values.transpose(0, 1));
        let own = [&q, &own_keys, &own_values];
        let (out, _) = match &self.rows.kind {
            FixedKind::Chain { all, .. } => forward([&q, &k, &v], all, true),
            FixedKind::SplitChain { before, own: rows } => {
                join([&before.attend([&q, &k, &v]), &forward(own, rows, true)])
            }
            FixedKind::Tree { before, .. } => {
                let mask = self.mask.as_ref().expect("a tree has a mask");
                join([&before.attend([&q, &k, &v]), &masked(own, mask)])
            }
        };
        out.reshape([self.rows.rows as i64, -1])
    }
}

#[cfg(test)]
mod tests;
