//! Dot products of rows with rows, the kernel under projections and attention scores. Each product is summed in its
//! own lanes in ascending order, whatever is computed beside it: the number of rows of a pass changes no bit of any of
//! them. That is what makes decoding exact in every dtype; libtorch's products change with the shape.
//!
//! Legend: m rows on the left, n rows on the right, k their width.

use std::array::from_fn;

use pulp::{Arch, Simd, WithSimd, bytemuck::cast_slice};

#[cfg(target_arch = "x86_64")]
use crate::{avx512_dots, halves, panels};
use crate::{memory::Element, sink::Sink};

/// Bytes of left rows that stay in a core's cache while the right ones pass by.
const CACHED: usize = 1 << 19;

/// Left rows of `k` numbers of `T` that fit, a multiple of the tile's.
pub(crate) fn block<T>(k: usize, tile: usize) -> usize {
    (CACHED / size_of::<T>() / k / tile).max(1) * tile
}

/// How far ahead of the products memory is asked for, in bytes: weights come from far away, and only once.
pub(crate) const AHEAD: usize = 1 << 14;

/// Asks for the memory at `address`, which need not exist, up to the second cache: the first has fewer requests in flight.
#[inline(always)]
pub(crate) fn fetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint to the processor, which ignores addresses that mean nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Rows on the left of products, made ready once for all tasks that multiply with them.
pub(crate) enum Left<'a> {
    /// For [`Dots`].
    Wide(&'a [f32]),
    /// Few, for AVX-512.
    #[cfg(target_arch = "x86_64")]
    Chunks(avx512_dots::Rows),
    /// Many.
    #[cfg(target_arch = "x86_64")]
    Lanes(panels::Lanes),
}

impl<'a> Left<'a> {
    /// `room` is for rows that have to be widened.
    pub(crate) fn new<T: Element>(rows: &'a [T], k: usize, room: &'a mut Vec<f32>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if halves::supported() {
            return match rows.len() / k {
                panels::WORTH_IT.. => Self::Lanes(panels::Lanes::new(rows, k)),
                _ => Self::Chunks(avx512_dots::Rows::new(rows, k)),
            };
        }
        Self::Wide(T::widened(rows, room))
    }

    /// Tells `sink` the dot products of these rows with all rows of `right` `[n, k]`.
    pub(crate) fn products<T: Element>(&self, right: &[T], k: usize, sink: &mut impl Sink) {
        match self {
            Self::Wide(left) => {
                let sink = |m: usize, n: usize, products: &[f32]| sink.take(m, n, products);
                Arch::new().dispatch(Dots { left, right, k, scratch: &mut Vec::new(), sink });
            }
            #[cfg(target_arch = "x86_64")]
            Self::Chunks(left) => avx512_dots::products(left, right, k, sink),
            #[cfg(target_arch = "x86_64")]
            Self::Lanes(left) => left.products(right, k, sink),
        }
    }
}

/// The dot products of all rows of `left` with all rows of `right`, told to `sink` as they come.
pub(crate) struct Dots<'a, T, F> {
    /// `[m, k]`.
    pub(crate) left: &'a [f32],
    /// `[n, k]`.
    pub(crate) right: &'a [T],
    pub(crate) k: usize,
    /// Room for some rows of `right` as f32.
    pub(crate) scratch: &'a mut Vec<f32>,
    /// Hears row m, the first row of `right`, and the products with that one and those after it.
    pub(crate) sink: F,
}

impl<T: Element, F: FnMut(usize, usize, &[f32])> WithSimd for Dots<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Accumulators, one operand of each row, and one more, all in registers.
        if S::REGISTER_COUNT >= 32 { self.run::<S, 4, 6>(simd) } else { self.run::<S, 2, 6>(simd) }
    }
}

impl<T: Element, F: FnMut(usize, usize, &[f32])> Dots<'_, T, F> {
    #[inline(always)]
    fn run<S: Simd, const M: usize, const N: usize>(self, simd: S) {
        let Self { left, right, k, scratch, mut sink } = self;
        let block = block::<f32>(k, M);
        for (left, m) in left.chunks(block * k).zip((0..).step_by(block)) {
            let (groups, rest) = left.split_at(left.len() / (M * k) * (M * k));
            for (panel, n) in right.chunks(N * k).zip((0..).step_by(N)) {
                let panel = T::widened(panel, scratch);
                if panel.len() < N * k {
                    for (column, n) in panel.chunks_exact(k).zip(n..) {
                        for (row, m) in left.chunks_exact(k).zip(m..) {
                            sink(m, n, &tile::<S, 1, 1, false>(simd, [row], [column])[0]);
                        }
                    }
                    continue;
                }
                let columns: [&[f32]; N] = from_fn(|n| &panel[n * k..(n + 1) * k]);
                for (group, m) in groups.chunks_exact(M * k).zip((m..).step_by(M)) {
                    let rows: [&[f32]; M] = from_fn(|m| &group[m * k..(m + 1) * k]);
                    let products = match m {
                        0 => tile::<S, M, N, true>(simd, rows, columns),
                        _ => tile::<S, M, N, false>(simd, rows, columns),
                    };
                    for (products, m) in products.iter().zip(m..) {
                        sink(m, n, products);
                    }
                }
                for (row, m) in rest.chunks_exact(k).zip(m + groups.len() / k..) {
                    sink(m, n, &tile::<S, 1, N, true>(simd, [row], columns)[0]);
                }
            }
        }
    }
}

/// `M * N` dot products at once: every operand that is loaded is used several times.
#[inline(always)]
fn tile<S: Simd, const M: usize, const N: usize, const FETCH: bool>(
    simd: S,
    rows: [&[f32]; M],
    columns: [&[f32]; N],
) -> [[f32; N]; M] {
    let rows = rows.map(S::as_simd_f32s);
    let columns = columns.map(S::as_simd_f32s);
    let steps = rows[0].0.len();
    assert!(rows.iter().chain(&columns).all(|(vectors, _)| vectors.len() == steps), "rows of one width");
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    for step in 0..steps {
        // SAFETY: every slice of vectors has `steps` of them.
        let left = rows.map(|(vectors, _)| unsafe { *vectors.get_unchecked(step) });
        for n in 0..N {
            // SAFETY: as above.
            let right = unsafe { *columns[n].0.get_unchecked(step) };
            if FETCH {
                fetch(columns[n].0.as_ptr().wrapping_add(step).wrapping_byte_add(AHEAD));
            }
            for m in 0..M {
                sums[m][n] = simd.mul_add_e_f32s(left[m], right, sums[m][n]);
            }
        }
    }
    if !rows[0].1.is_empty() {
        for n in 0..N {
            let right = simd.partial_load_f32s(columns[n].1);
            for m in 0..M {
                sums[m][n] = simd.mul_add_e_f32s(simd.partial_load_f32s(rows[m].1), right, sums[m][n]);
            }
        }
    }
    let mut products = [[0.0; N]; M];
    for (products, sums) in products.iter_mut().zip(&sums) {
        *products = fold::<S, N>(sums);
    }
    products
}

/// The sum of each vector's lanes, halves onto halves, the vectors side by side.
#[inline(always)]
fn fold<S: Simd, const N: usize>(vectors: &[S::f32s; N]) -> [f32; N] {
    let lanes: &[f32] = cast_slice(vectors);
    let width = S::F32_LANES;
    if width == 1 {
        return from_fn(|n| lanes[n]);
    }
    let mut half = width / 2;
    let mut sums = [[0.0f32; 32]; N];
    for n in 0..N {
        for lane in 0..half {
            sums[n][lane] = lanes[n * width + lane] + lanes[n * width + half + lane];
        }
    }
    while half > 1 {
        half /= 2;
        for sum in &mut sums {
            for lane in 0..half {
                sum[lane] += sum[half + lane];
            }
        }
    }
    let mut products = [0.0; N];
    for (product, sum) in products.iter_mut().zip(&sums) {
        *product = sum[0];
    }
    products
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::testing::numbers;

    fn products<T: Element>(left: &[T], right: &[T], k: usize) -> Vec<f32> {
        let columns = right.len() / k;
        let mut out = vec![f32::NAN; left.len() / k * columns];
        let mut sink = |m: usize, n: usize, products: &[f32]| {
            out[m * columns + n..][..products.len()].copy_from_slice(products);
        };
        Left::new(left, k, &mut Vec::new()).products(right, k, &mut sink);
        out
    }

    /// More than a panel, and no whole number of them.
    const COLUMNS: usize = 101;

    fn products_are_right_and_do_not_depend_on_their_neighbours<T: Element>() {
        // Every shape of tile, and panels.
        let sizes = [1, 7, 8, 16, 31, 32, 33, 64, 100].into_iter().flat_map(|k| [(k, 15), (k, 63)]);
        for (k, rows) in sizes {
            let (left, right) = (numbers::<T>(rows * k, 1), numbers::<T>(COLUMNS * k, 2));
            let all = products(&left, &right, k);
            for m in 0..rows {
                for n in 0..COLUMNS {
                    let (row, column) = (&left[m * k..][..k], &right[n * k..][..k]);
                    let terms = row.iter().zip(column);
                    let exact: f64 = terms.map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum();
                    assert!((f64::from(all[m * COLUMNS + n]) - exact).abs() < 1e-5 * k as f64);
                    assert_eq!(all[m * COLUMNS + n].to_bits(), products(row, column, k)[0].to_bits());
                }
            }
        }
    }

    #[test]
    fn in_fp32() {
        products_are_right_and_do_not_depend_on_their_neighbours::<f32>();
    }

    #[test]
    fn in_bf16() {
        products_are_right_and_do_not_depend_on_their_neighbours::<bf16>();
    }

    #[test]
    fn bf16_is_widened_where_it_must_be() {
        let (left, right) = (numbers::<bf16>(5 * 33, 1), numbers::<bf16>(7 * 33, 2));
        let mut wide = Vec::new();
        let mut out = [f32::NAN; 5 * 7];
        let mut sink = |m: usize, n: usize, products: &[f32]| {
            out[m * 7 + n..][..products.len()].copy_from_slice(products);
        };
        Left::Wide(bf16::widened(&left, &mut wide)).products(&right, 33, &mut sink);
        for (found, expected) in out.iter().zip(products(&left, &right, 33)) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }
}
