//! The two steps of attention for passes of fixed shape: so many rows of one sequence over all of a cache, of which what
//! counts is read on the device. So a pass can be recorded once ([`crate::Graph`]) and repeated for every other text.
//!
//! Legend: n rows, c capacity, q query heads, h key/value heads, d head width.

use tch::{Device, Kind, Tensor};

use crate::{
    HeadShape,
    attention::heads_of,
    rotary::rotate_in_place,
    varlen::{Sequences, forward, join, masked},
};

/// What the rows of a pass follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Each the one before.
    Chain,
    /// What [`FixedRows::set_seen`] says.
    Tree,
}

/// The rows of a pass of fixed shape, and what they see; the same for every layer.
pub struct FixedRows {
    rows: usize,
    sees: Sees,
    /// 0, 1, ..: int64 `[n]`.
    offsets: Tensor,
    /// Tokens before the rows, int32 `[1]`.
    cached: Tensor,
    /// These and the rows.
    used: Tensor,
}

enum Sees {
    Chain(Sequences),
    Tree {
        before: Sequences,
        /// Of the rows themselves, bool `[n, n]`: those that a row does not see.
        hidden: Tensor,
    },
}

/// What a pass sees of its rows, worked out once for all layers.
pub struct FixedView<'a> {
    rows: &'a FixedRows,
    /// Where in the cache they go: int64 `[n]`.
    places: Tensor,
    /// Of a tree: what is not seen, as an additive mask.
    mask: Option<Tensor>,
}

impl FixedRows {
    /// `rows` of a sequence with room for `capacity` tokens.
    pub fn new(rows: usize, shape: Shape, capacity: usize, device: Device) -> Self {
        let number = || Tensor::ones([1], (Kind::Int, device));
        let (cached, used) = (number(), number());
        let growing = |count: &Tensor| Sequences::growing(rows, capacity, count.shallow_clone());
        let n = rows as i64;
        let sees = match shape {
            Shape::Chain => Sees::Chain(growing(&used)),
            Shape::Tree => Sees::Tree {
                before: growing(&cached),
                hidden: Tensor::ones([n, n], (Kind::Bool, device)).triu(1),
            },
        };
        Self { rows, sees, offsets: Tensor::arange(n, (Kind::Int64, device)), cached, used }
    }

    /// Of a tree, which rows each row sees, itself among them: row by row.
    ///
    /// # Panics
    /// If these are no rows of a tree.
    pub fn set_seen(&self, seen: &[bool]) {
        let Sees::Tree { hidden, .. } = &self.sees else {
            panic!("the rows of a chain see those before them")
        };
        let n = self.rows as i64;
        hidden.shallow_clone().copy_(&Tensor::from_slice(seen).view([n, n]).logical_not());
    }

    /// Behind `cached` tokens, int64 `[1]`: at least one. Part of what is recorded.
    pub fn behind(&self, cached: &Tensor) -> FixedView<'_> {
        self.cached.shallow_clone().copy_(cached);
        self.used.shallow_clone().copy_(&(cached + self.rows as i64));
        let mask = match &self.sees {
            Sees::Chain(_) => None,
            Sees::Tree { hidden, .. } => {
                let zeros = Tensor::zeros(hidden.size().as_slice(), (Kind::Float, hidden.device()));
                Some(zeros.masked_fill(hidden, f64::NEG_INFINITY))
            }
        };
        FixedView { rows: self, places: &self.offsets + cached, mask }
    }
}

impl FixedView<'_> {
    /// Rotates the queries and keys of `qkv` `[n, (q + 2 * h) * d]` in place by angles `[n, d]`, and writes keys and values to
    /// their places in the cache's, each `[h, c, d]`.
    pub fn rotate_and_store(
        &self,
        qkv: &mut Tensor,
        (cos, sin): (&Tensor, &Tensor),
        heads: HeadShape,
        [keys, values]: [&Tensor; 2],
    ) {
        rotate_in_place(qkv, cos, sin, heads, false);
        let [_, own_keys, own_values] = heads_of(qkv, heads);
        for (cache, own) in [(keys, own_keys), (values, own_values)] {
            let _ = cache.shallow_clone().index_copy_(1, &self.places, &own.transpose(0, 1));
        }
    }

    /// Attention outputs `[n, q * d]` of rotated rows whose keys and values are in the cache.
    pub fn attend(&self, qkv: &Tensor, heads: HeadShape, [keys, values]: [&Tensor; 2]) -> Tensor {
        let [q, own_keys, own_values] = heads_of(qkv, heads);
        let (k, v) = (keys.transpose(0, 1), values.transpose(0, 1));
        let (out, _) = match (&self.rows.sees, &self.mask) {
            (Sees::Tree { before, .. }, Some(mask)) => {
                let before = forward([&q, &k, &v], before, false);
                join([&before, &masked([&q, &own_keys, &own_values], mask)])
            }
            (Sees::Chain(stored), _) => forward([&q, &k, &v], stored, true),
            (Sees::Tree { .. }, None) => unreachable!("a tree has a mask"),
        };
        out.reshape([self.rows.rows as i64, -1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Span, SpanCache, attend, memory::assert_close, rotate_and_store, testing::devices};

    #[test]
    fn rows_of_fixed_shape_equal_rows_as_they_come() {
        let heads = HeadShape { queries: 6, keys: 2, width: 16 };
        let (capacity, rows) = (40, 5);
        // 0 - 1 - 2 and, beside 1, 3 - 4.
        let parents = [None, Some(0), Some(1), Some(0), Some(3)];
        let paths: [&[usize]; 5] = [&[0], &[0, 1], &[0, 1, 2], &[0, 3], &[0, 3, 4]];
        let seen: Vec<bool> =
            paths.iter().flat_map(|path| (0..rows).map(|row| path.contains(&row))).collect();
        for device in devices("rows of fixed shape") {
            for kind in [Kind::Float, Kind::BFloat16] {
                let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
                for shape in [Shape::Chain, Shape::Tree] {
                    let fixed = FixedRows::new(rows, shape, capacity, device);
                    if shape == Shape::Tree {
                        fixed.set_seen(&seen);
                    }
                    for cached in [1, 7, 35] {
                        let [keys, values] = [(); 2].map(|()| random(&[2, capacity as i64, 16]));
                        let qkv = random(&[rows as i64, heads.row_len() as i64]);
                        let half = random(&[rows as i64, 8]);
                        let angles = [half.cos(), half.sin()].map(|x| Tensor::cat(&[&x, &x], 1));
                        let there = |x: &Tensor| x.to_device(device).copy();
                        let (mut found, caches) = (there(&qkv), [&keys, &values].map(there));
                        let view = fixed.behind(&Tensor::from_slice(&[cached as i64]).to_device(device));
                        let [cos, sin] = angles.each_ref().map(there);
                        view.rotate_and_store(&mut found, (&cos, &sin), heads, [&caches[0], &caches[1]]);
                        let out = view.attend(&found, heads, [&caches[0], &caches[1]]);
                        let span = match shape {
                            Shape::Chain => Span::chain(0..rows, cached),
                            Shape::Tree => Span::tree(0..rows, cached, &parents),
                        };
                        let (mut expected, [keys, values]) = (qkv.copy(), [&keys, &values].map(Tensor::copy));
                        let spans = [SpanCache { span: &span, keys: &keys, values: &values }];
                        rotate_and_store(&mut expected, &angles[0], &angles[1], heads, &spans);
                        let expected = attend(&expected, heads, &spans);
                        assert_close(&out.to_device(Device::Cpu), &expected, "attention");
                        assert_close(&caches[0].to_device(Device::Cpu), &keys, "keys");
                        assert_close(&caches[1].to_device(Device::Cpu), &values, "values");
                    }
                }
            }
        }
    }
}
