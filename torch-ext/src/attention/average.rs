//! The averages of values under the softmax of scores: one row at a time, in the order of the keys' positions, the queries
//! that share a key/value head together, so that a value is read once for all of them.
//!
//! Legend: s keys, g queries, d head width.

use pulp::{Simd, bytemuck::cast_slice};

use super::span::Seen;
use crate::{exp::exp, memory::Element, sink::greatest};

/// Vectors of columns that are averaged at once.
const MOST: usize = 4;

/// What one row sees.
pub(super) struct Average<'a> {
    pub(super) span: Seen<'a>,
    pub(super) row: usize,
    /// Scores of a query.
    pub(super) width: usize,
    /// `[s, d]`.
    pub(super) values: &'a [f32],
    pub(super) d: usize,
}

impl Average<'_> {
    /// The averages under the softmax of the next `G` queries' scores, into `out` `[G, d]`.
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

    /// `V` vectors of columns from `column` on; with 0 of them, the last columns, which are fewer than a vector has.
    #[inline(always)]
    fn columns<T: Element, S: Simd, const G: usize, const V: usize>(
        &self,
        simd: S,
        column: usize,
        (weights, seen): (&[f32], usize),
        totals: [f32; G],
        out: &mut [T],
    ) -> usize {
        let wanted = if V == 0 { self.d - column } else { V * S::F32_LANES };
        // Two sums by the parity of the position: one chain of additions would wait for itself.
        let zeros = [[simd.splat_f32s(0.0); MOST]; G];
        let (mut even, mut odd) = (zeros, zeros);
        let value = (column, wanted);
        for position in (0..seen / 2 * 2).step_by(2) {
            self.add::<S, G, V>(simd, &mut even, weights, position, value);
            self.add::<S, G, V>(simd, &mut odd, weights, position + 1, value);
        }
        if !seen.is_multiple_of(2) {
            self.add::<S, G, V>(simd, &mut even, weights, seen - 1, value);
        }
        for query in 0..G {
            let (even, odd): (&[f32], &[f32]) = (cast_slice(&even[query]), cast_slice(&odd[query]));
            let out = &mut out[query * self.d + column..][..wanted];
            for ((out, even), odd) in out.iter_mut().zip(even).zip(odd) {
                *out = T::from_f32((even + odd) / totals[query]);
            }
        }
        wanted
    }

    /// Adds the value at a position under each query's weight.
    #[inline(always)]
    fn add<S: Simd, const G: usize, const V: usize>(
        &self,
        simd: S,
        sums: &mut [[S::f32s; MOST]; G],
        weights: &[f32],
        position: usize,
        (column, wanted): (usize, usize),
    ) {
        let value = &self.values[self.key(position) * self.d + column..][..wanted];
        let (whole, rest) = S::as_simd_f32s(value);
        let mut vectors = [simd.splat_f32s(0.0); MOST];
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

    /// Where the key at a position lies.
    #[inline(always)]
    fn key(&self, position: usize) -> usize {
        let Seen { cached, .. } = self.span;
        if position < cached { position } else { self.span.place(self.row, position - cached) }
    }
}

/// e^(score - largest score) in place, and the sum of those.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    const LANES: usize = 16;
    let peak = greatest(scores);
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
