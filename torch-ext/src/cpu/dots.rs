//! Dot products of rows with rows: the kernel of projections and attention scores. Each product is summed in an order that
//! depends only on the width and the vector instructions, so that no bit of it depends on the number of rows in the pass. This makes decoding exact in every dtype;
//! libtorch's products change with the shape.
//!
//! Legend: m rows on the left, n rows on the right, k their width.

use std::array::from_fn;

use pulp::{Simd, WithSimd, bytemuck::cast_slice};

#[cfg(target_arch = "x86_64")]
use crate::cpu::avx512;
use crate::cpu::{instructions::arch, memory::Element, sink::Sink};

/// Bytes of left rows that stay in a core's cache while the right ones are read.
const CACHED: usize = 1 << 19;

/// Left rows of `k` numbers that fit into it, a multiple of `tile`.
pub(crate) fn block(k: usize, tile: usize) -> usize {
    (CACHED / size_of::<f32>() / k / tile).max(1) * tile
}

/// Left rows up to which the right ones are not converted beforehand.
const FEW: usize = 8;
/// Numbers of the widest vector.
const MOST_LANES: usize = 16;

/// Bytes from the numbers being multiplied to those being prefetched: many, since weights come from main memory.
pub(crate) const PREFETCH_DISTANCE: usize = 1 << 14;

/// Prefetches the memory at `address` into the second-level cache, since the first level has fewer requests in flight. Any
/// address is allowed.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint to the processor, which ignores invalid addresses.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Rows on the left of products, prepared once for all tasks that multiply with them.
pub(crate) enum Left<'a> {
    /// For [`Dots`].
    Plain(&'a [f32]),
    /// A few rows, for AVX-512.
    #[cfg(target_arch = "x86_64")]
    Few(avx512::dots::Rows),
    /// Many rows, for AVX-512.
    #[cfg(target_arch = "x86_64")]
    Many(avx512::panels::Lanes),
}

impl<'a> Left<'a> {
    /// `buffer` is for rows that have to be widened.
    pub(crate) fn new<T: Element>(rows: &'a [T], k: usize, buffer: &'a mut Vec<f32>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if avx512::supported() {
            return match rows.len() / k {
                avx512::panels::MIN_ROWS.. => Self::Many(avx512::panels::Lanes::new(rows, k)),
                _ => Self::Few(avx512::dots::Rows::new(rows, k)),
            };
        }
        Self::Plain(arch().dispatch(Widened { rows, k, buffer }))
    }

    /// Gives `sink` the dot products of these rows with all rows of `right` `[n, k]`.
    pub(crate) fn products<T: Element>(&self, right: &[T], k: usize, sink: &mut impl Sink) {
        match self {
            Self::Plain(left) => {
                let sink = |m: usize, n: usize, products: &[f32]| sink.take(m, n, products);
                arch().dispatch(Dots { left, right, k, scratch: &mut Vec::new(), sink });
            }
            #[cfg(target_arch = "x86_64")]
            Self::Few(left) => avx512::dots::products(left, right, k, sink),
            #[cfg(target_arch = "x86_64")]
            Self::Many(left) => left.products(right, k, sink),
        }
    }
}

/// Rows as f32, see [`Element::widened`].
struct Widened<'a, T> {
    rows: &'a [T],
    k: usize,
    buffer: &'a mut Vec<f32>,
}

impl<'a, T: Element> WithSimd for Widened<'a, T> {
    type Output = &'a [f32];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> &'a [f32] {
        T::widened(simd, self.rows, self.k, self.buffer)
    }
}

/// The dot products of all rows of `left` with all rows of `right`.
pub(crate) struct Dots<'a, T, F> {
    /// `[m, k]`, in the order of [`Element::load_half`] for `T`.
    pub(crate) left: &'a [f32],
    /// `[n, k]`.
    pub(crate) right: &'a [T],
    pub(crate) k: usize,
    /// For some rows of `right` as f32.
    pub(crate) scratch: &'a mut Vec<f32>,
    /// As [`Sink::take`].
    pub(crate) sink: F,
}

impl<T: Element, F: FnMut(usize, usize, &[f32])> WithSimd for Dots<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The sums, one operand of each left row and one of the right fit into the registers.
        if S::REGISTER_COUNT >= 32 { self.run::<S, 4, 6>(simd) } else { self.run::<S, 2, 6>(simd) }
    }
}

impl<T: Element, F: FnMut(usize, usize, &[f32])> Dots<'_, T, F> {
    #[inline(always)]
    fn run<S: Simd, const M: usize, const N: usize>(self, simd: S) {
        let Self { left, right, k, scratch, mut sink } = self;
        let block = block(k, M);
        for (left, m) in left.chunks(block * k).zip((0..).step_by(block)) {
            for (panel, n) in right.chunks(N * k).zip((0..).step_by(N)) {
                if panel.len() < N * k {
                    for (column, n) in panel.chunks_exact(k).zip(n..) {
                        for (row, m) in left.chunks_exact(k).zip(m..) {
                            sink(m, n, &tile::<T, S, 1, 1, false>(simd, [row], [column])[0]);
                        }
                    }
                    continue;
                }
                if left.len() <= FEW * k {
                    // Converting the columns for each group of rows costs less than storing them.
                    multiply::<T, S, M, N>(simd, (left, m), (panel, n), &mut sink);
                    continue;
                }
                let panel = T::widened(simd, panel, k, scratch);
                multiply::<f32, S, M, N>(simd, (left, m), (panel, n), &mut sink);
            }
        }
    }
}

/// The products of rows on the left, from row `m` on, with `N` on the right, from row `n` on.
#[inline(always)]
fn multiply<T: Element, S: Simd, const M: usize, const N: usize>(
    simd: S,
    (left, m): (&[f32], usize),
    (panel, n): (&[T], usize),
    sink: &mut impl FnMut(usize, usize, &[f32]),
) {
    let k = panel.len() / N;
    let columns: [&[T]; N] = from_fn(|n| &panel[n * k..(n + 1) * k]);
    let (groups, rest) = left.split_at(left.len() / (M * k) * (M * k));
    for (group, m) in groups.chunks_exact(M * k).zip((m..).step_by(M)) {
        let rows: [&[f32]; M] = from_fn(|m| &group[m * k..(m + 1) * k]);
        let products = match m {
            0 => tile::<T, S, M, N, true>(simd, rows, columns),
            _ => tile::<T, S, M, N, false>(simd, rows, columns),
        };
        for (products, m) in products.iter().zip(m..) {
            sink(m, n, products);
        }
    }
    for (row, m) in rest.chunks_exact(k).zip(m + groups.len() / k..) {
        sink(m, n, &tile::<T, S, 1, N, true>(simd, [row], columns)[0]);
    }
}

/// `M * N` dot products at once, so that every operand that is loaded is used several times.
#[inline(always)]
fn tile<T: Element, S: Simd, const M: usize, const N: usize, const PREFETCH: bool>(
    simd: S,
    rows: [&[f32]; M],
    columns: [&[T]; N],
) -> [[f32; N]; M] {
    let (k, step) = (rows[0].len(), 2 * S::F32_LANES);
    assert!(
        rows.iter().all(|row| row.len() == k) && columns.iter().all(|column| column.len() == k),
        "rows of {k}"
    );
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    let whole = k / step * step;
    for at in (0..whole).step_by(step) {
        // SAFETY: rows have `k` numbers, and `at + step <= k`.
        let (left, right) =
            unsafe { (rows.map(|row| row.as_ptr().add(at)), columns.map(|column| column.as_ptr().add(at))) };
        if PREFETCH {
            right.iter().for_each(|column| prefetch(column.wrapping_byte_add(PREFETCH_DISTANCE)));
        }
        // SAFETY: as above.
        unsafe { add_products(simd, &mut sums, left, right) };
    }
    if whole < k {
        // Zeros add nothing.
        let mut left = [[0.0f32; 2 * MOST_LANES]; M];
        let mut right = [[0.0f32; 2 * MOST_LANES]; N];
        for (row, rest) in rows.iter().zip(&mut left) {
            rest[..k - whole].copy_from_slice(&row[whole..]);
        }
        for (column, rest) in columns.iter().zip(&mut right) {
            column[whole..].iter().zip(rest).for_each(|(number, place)| *place = number.to_f32());
        }
        // SAFETY: there are at least as many numbers as two vectors have.
        unsafe {
            add_products(
                simd,
                &mut sums,
                left.each_ref().map(|row| row.as_ptr()),
                right.each_ref().map(|column| column.as_ptr()),
            )
        };
    }
    let mut products = [[0.0; N]; M];
    for (products, sums) in products.iter_mut().zip(&sums) {
        *products = fold::<S, N>(sums);
    }
    products
}

/// Adds the products of two vectors of each row.
///
/// # Safety
/// There are two vectors of numbers at each address.
#[inline(always)]
unsafe fn add_products<T: Element, S: Simd, const M: usize, const N: usize>(
    simd: S,
    sums: &mut [[S::f32s; N]; M],
    left: [*const f32; M],
    right: [*const T; N],
) {
    for second in [false, true] {
        // SAFETY: the caller's promise.
        let left = left.map(|row| unsafe { f32::load_half(simd, row, second) });
        for n in 0..N {
            // SAFETY: as above.
            let right = unsafe { T::load_half(simd, right[n], second) };
            for m in 0..M {
                sums[m][n] = simd.mul_add_e_f32s(left[m], right, sums[m][n]);
            }
        }
    }
}

/// The sum of each vector's lanes, by adding halves to halves.
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
mod tests;
