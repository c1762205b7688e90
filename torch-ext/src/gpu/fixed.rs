//! Rotation and attention for passes of fixed shape: a fixed number of rows of one sequence, and its whole cache. The device
//! reads how many tokens are cached, so a pass can be recorded once ([`crate::Graph`]) and repeated for any text.
//!
//! Legend: n rows, c capacity, q query heads, h key/value heads, d head width.

use tch::{Device, Kind, Tensor};

use crate::{
    HeadShape,
    cpu::rotary::rotate_in_place,
    gpu::varlen::{Sequences, forward, forward_shared, has_kernel, join, masked},
};

/// Which row each row of a pass follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The one before.
    Chain,
    /// As [`FixedRows::set_seen`] says.
    Tree,
}

/// In smaller caches, joining the two parts of split attention takes longer than splitting saves, by estimate.
const LEAST_CAPACITY: usize = 4096;

/// More rows occupy a GPU without splitting.
const MOST_ROWS: usize = 128;

/// The rows of a pass of fixed shape.
pub struct FixedRows {
    rows: usize,
    kind: FixedKind,
    /// 0, 1, ..: int64 `[n]`.
    offsets: Tensor,
    /// How many tokens the first part of attention sees: int32 `[1]`.
    seen: Tensor,
}

enum FixedKind {
    /// Attention to all tokens, including the rows.
    Chain(Sequences),
    /// Attention to the cached tokens, and to the rows.
    SplitChain { before: Sequences, own: Sequences },
    Tree {
        /// Attention to the cached tokens.
        before: Sequences,
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
    /// `rows` rows of a sequence whose cache has room for `capacity` tokens, of this dtype and these heads.
    pub fn new(rows: usize, shape: Shape, capacity: usize, of: (HeadShape, Kind), device: Device) -> Self {
        let (heads, kind) = of;
        // Of a single row the kernel splits the keys anyway, if heads share them.
        let is_few = (2..=MOST_ROWS).contains(&rows);
        let splits = is_few && capacity >= LEAST_CAPACITY && has_kernel(kind, device, heads.width as i64);
        Self::splitting(splits, rows, shape, capacity, device)
    }

    /// The same. With `splits`, a chain attends to cached tokens and to its rows in different calls.
    fn splitting(splits: bool, rows: usize, shape: Shape, capacity: usize, device: Device) -> Self {
        let seen = Tensor::ones([1], (Kind::Int, device));
        let before = || Sequences::growing(1, capacity, seen.shallow_clone());
        let n = rows as i64;
        let kind = match shape {
            Shape::Chain if splits => {
                FixedKind::SplitChain { before: before(), own: Sequences::packed(&[rows], &[rows], device) }
            }
            Shape::Chain => FixedKind::Chain(Sequences::growing(rows, capacity, seen.shallow_clone())),
            Shape::Tree => FixedKind::Tree {
                before: before(),
                hidden: Tensor::ones([n, n], (Kind::Bool, device)).triu(1),
            },
        };
        Self { rows, kind, offsets: Tensor::arange(n, (Kind::Int64, device)), seen }
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
        let own = if let FixedKind::Chain(_) = &self.kind { self.rows as i64 } else { 0 };
        self.seen.shallow_clone().copy_(&(cached + own));
        let mask = match &self.kind {
            FixedKind::Chain(_) | FixedKind::SplitChain { .. } => None,
            FixedKind::Tree { hidden, .. } => {
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
        let (cached, own) = ([&q, &k, &v], [&q, &own_keys, &own_values]);
        let (out, _) = match (&self.rows.kind, &self.mask) {
            (FixedKind::Chain(all), _) => forward(cached, all, true),
            (FixedKind::SplitChain { before, own: rows }, _) => {
                join([&forward_shared(cached, before), &forward(own, rows, true)])
            }
            (FixedKind::Tree { before, .. }, Some(mask)) => {
                join([&forward_shared(cached, before), &masked(own, mask)])
            }
            (FixedKind::Tree { .. }, None) => unreachable!("a tree has a mask"),
        };
        out.reshape([self.rows.rows as i64, -1])
    }
}

#[cfg(test)]
mod tests;
