//! The averages of values under the softmax of scores: one row at a time, in the order of the keys' positions. The queries
//! that share a key/value head are computed together, so that each value is read once for all of them.
//!
//! Legend: s keys, g queries, d head width.

use pulp::{Simd, bytemuck::cast_slice};

use crate::{
    cpu::{exp::exp, memory::Element, sink::largest},
    pass::Span,
};

/// Vectors of columns that are averaged at once.
const VECTORS: usize = 4;

/// The values that one row averages.
pub(super) struct Average<'a> {
    pub(super) span: &'a Span,
    /// Where the values of the span's rows start; those of cached tokens start at 0.
    pub(super) own: usize,
    /// The row of the span.
    pub(super) row: usize,
    /// Number of scores per query.
    pub(super) width: usize,
    /// `[s, d]`.
    pub(super) values: &'a [f32],
    pub(super) d: usize,
}

impl Average<'_> {
    /// The averages under the softmax of the next `G` queries' scores, into `out` `[G, d]`. Returns `G`.
    #[inline(always)]
    pub(super) fn of<T: Element, S: Simd, const G: usize>(
        &self,
        simd: S,
        scores: &mut [f32],
        out: &mut [T],
    ) -> usize {
        let (mut totals, mut seen) = ([0.0; G], 0);
        for (total, scores) in totals.iter_mut().zip(scores.chunks_exact_mut(self.width)) {
            seen = self.span.gather(self.row, scores);
            *total = softmax(&mut scores[..seen]);
        }
        let weights = (&*scores, seen);
        let mut column = 0;
        while column < self.d {
            column += match (self.d - column) / S::F32_LANES {
                4.. => self.columns::<T, S, G, 4>(simd, column, weights, totals, out),
                1.. => self.columns::<T, S, G, 1>(simd, column, weights, totals, out),
                _ => self.columns::<T, S, G, 0>(simd, column, weights, totals, out),
            };
        }
        G
    }

    /// `V` vectors of columns from `column` on, or with 0 the last columns if they do not fill a vector. Returns the number of
    /// columns.
    #[inline(always)]
    fn columns<T: Element, S: Simd, const G: usize, const V: usize>(
        &self,
        simd: S,
        column: usize,
        (weights, seen): (&[f32], usize),
        totals: [f32; G],
        out: &mut [T],
    ) -> usize {
        let count = if V == 0 { self.d - column } else { V * S::F32_LANES };
        // Two sums, by the parity of the position: a single chain of additions would be bound by its latency.
        let zeros = [[simd.splat_f32s(0.0); VECTORS]; G];
        let (mut even, mut odd) = (zeros, zeros);
        let value = (column, count);
        for position in (0..seen / 2 * 2).step_by(2) {
            self.add::<S, G, V>(simd, &mut even, weights, position, value);
            self.add::<S, G, V>(simd, &mut odd, weights, position + 1, value);
        }
        if !seen.is_multiple_of(2) {
            self.add::<S, G, V>(simd, &mut even, weights, seen - 1, value);
        }
        for query in 0..G {
            let (even, odd): (&[f32], &[f32]) = (cast_slice(&even[query]), cast_slice(&odd[query]));
            let out = &mut out[query * self.d + column..][..count];
            for ((out, even), odd) in out.iter_mut().zip(even).zip(odd) {
                *out = T::from_f32((even + odd) / totals[query]);
            }
        }
        count
    }

    /// Adds the value at a position, times each query's weight.
    #[inline(always)]
    fn add<S: Simd, const G: usize, const V: usize>(
        &self,
        simd: S,
        sums: &mut [[S::f32s; VECTORS]; G],
        weights: &[f32],
        position: usize,
        (column, count): (usize, usize),
    ) {
        let value = &self.values[self.index(position) * self.d + column..][..count];
        let (whole, rest) = S::as_simd_f32s(value);
        let mut vectors = [simd.splat_f32s(0.0); VECTORS];
        if V == 0 {
            vectors[0] = simd.partial_load_f32s(rest);
        } else {
            vectors[..V].copy_from_slice(&whole[..V]);
        }
        for query in 0..G {
            let weight = simd.splat_f32s(weights[query * self.width + position]);
            for v in 0..V.max(1) {
                sums[query][v] = simd.mul_add_e_f32s(vectors[v], weight, sums[query][v]);
            }
        }
    }

    /// The row of `values` that belongs to a position.
    #[inline(always)]
    fn index(&self, position: usize) -> usize {
        match position.checked_sub(self.span.cached) {
            None => position,
            Some(depth) => self.own + self.span.on_path(self.row, depth),
        }
    }
}

/// Replaces each score by e^(score - largest score) and returns their sum.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    const LANES: usize = 16;
    let peak = largest(scores);
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp(*score - peak);
            *sum += *score;
        }
    }
    for (sum, score) in sums.iter_mut().zip(rest) {
        *score = exp(*score - peak);
        *sum += *score;
    }
    sums.iter().sum()
}
