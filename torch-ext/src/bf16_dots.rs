//! Dot products of bf16 rows with bf16 rows by the processor's own instruction for it (AVX512-BF16): twice the
//! multiply-adds of fp32 per cycle and nothing to widen. As in [`crate::dots`], each product is summed in its own lanes
//! in ascending order and folded in one way, whatever is computed beside it.
//!
//! Legend: m rows on the left, n rows on the right, k their width.

use std::arch::x86_64::{
    __m512, __m512bh, __mmask32, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_dpbf16_ps,
    _mm512_loadu_epi16, _mm512_maskz_loadu_epi16, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps,
    _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use half::bf16;

use crate::dots::{AHEAD, block, fetch};

/// bf16 numbers of a vector.
const LANES: usize = 32;
/// Products of a tile: as many as one fold takes.
const TILE: usize = 16;
/// A square tile loads least.
const SIDE: usize = 4;

/// Whether this processor has the instruction.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// The dot products of all rows of `left` `[m, k]` with all rows of `right` `[n, k]`. `sink` hears row m, the first
/// row of `right`, and the products with that one and those after it.
///
/// # Panics
/// If the processor lacks the instruction.
pub(crate) fn products(left: &[bf16], right: &[bf16], k: usize, sink: impl FnMut(usize, usize, &[f32])) {
    assert!(supported(), "bf16 products need AVX512-BF16");
    assert!(k > 0 && left.len().is_multiple_of(k) && right.len().is_multiple_of(k), "rows of {k}");
    // SAFETY: supported.
    unsafe { all(left, right, k, sink) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn all(left: &[bf16], right: &[bf16], k: usize, mut sink: impl FnMut(usize, usize, &[f32])) {
    let block = block::<bf16>(k, SIDE);
    for (left, m) in left.chunks(block * k).zip((0..).step_by(block)) {
        let (groups, rest) = left.split_at(left.len() / (SIDE * k) * (SIDE * k));
        if !groups.is_empty() {
            for (columns, first) in right.chunks(SIDE * k).zip((0..).step_by(SIDE)) {
                let count = columns.len() / k;
                for (group, m) in groups.chunks_exact(SIDE * k).zip((m..).step_by(SIDE)) {
                    let products = match m {
                        0 => tile::<SIDE, SIDE, true>(group, columns, k),
                        _ => tile::<SIDE, SIDE, false>(group, columns, k),
                    };
                    for (products, m) in products.chunks_exact(SIDE).zip(m..) {
                        sink(m, first, &products[..count]);
                    }
                }
            }
        }
        if !rest.is_empty() {
            for (columns, first) in right.chunks(TILE * k).zip((0..).step_by(TILE)) {
                let count = columns.len() / k;
                for (row, m) in rest.chunks_exact(k).zip(m + groups.len() / k..) {
                    sink(m, first, &tile::<1, TILE, true>(row, columns, k)[..count]);
                }
            }
        }
    }
}

/// The products of `M` rows with up to `N` rows, row by row; those beyond the rows there are mean nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn tile<const M: usize, const N: usize, const FETCH: bool>(
    left: &[bf16],
    right: &[bf16],
    k: usize,
) -> [f32; TILE] {
    const { assert!(M * N == TILE) };
    assert!(left.len() == M * k && !right.is_empty() && right.len() <= N * k, "a tile of {M} x {N} rows");
    let last = right.len() / k - 1;
    let mut rows = [left.as_ptr(); M];
    for (m, row) in rows.iter_mut().enumerate() {
        *row = left[m * k..].as_ptr();
    }
    let mut columns = [right.as_ptr(); N];
    for (n, column) in columns.iter_mut().enumerate() {
        *column = right[n.min(last) * k..].as_ptr();
    }
    let mut sums = [_mm512_setzero_ps(); TILE];
    let whole = k / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let mut operands = [zero(); M];
        for (operand, row) in operands.iter_mut().zip(&rows) {
            // SAFETY: a row has `k` numbers, and `at + LANES <= k`.
            *operand = unsafe { load(row.add(at)) };
        }
        for (n, column) in columns.iter().enumerate() {
            if FETCH {
                fetch(column.wrapping_add(at).wrapping_byte_add(AHEAD));
            }
            // SAFETY: as above.
            let operand = unsafe { load(column.add(at)) };
            for m in 0..M {
                sums[m * N + n] = _mm512_dpbf16_ps(sums[m * N + n], operands[m], operand);
            }
        }
    }
    if whole < k {
        let mask = (1 << (k - whole)) - 1;
        for (n, column) in columns.iter().enumerate() {
            for (m, row) in rows.iter().enumerate() {
                // SAFETY: the mask keeps the load within the row.
                let (a, b) = unsafe { (load_part(row.add(whole), mask), load_part(column.add(whole), mask)) };
                sums[m * N + n] = _mm512_dpbf16_ps(sums[m * N + n], a, b);
            }
        }
    }
    fold(&sums)
}

#[target_feature(enable = "avx512f,avx512bw")]
fn zero() -> __m512bh {
    // SAFETY: vectors of one size, any bits are numbers.
    unsafe { std::mem::transmute(_mm512_setzero_ps()) }
}

/// # Safety
/// `LANES` numbers are readable at `from`.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load(from: *const bf16) -> __m512bh {
    // SAFETY: the caller's promise; vectors of one size.
    unsafe { std::mem::transmute(_mm512_loadu_epi16(from.cast())) }
}

/// # Safety
/// The numbers that `mask` names are readable.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load_part(from: *const bf16, mask: __mmask32) -> __m512bh {
    // SAFETY: the caller's promise; vectors of one size.
    unsafe { std::mem::transmute(_mm512_maskz_loadu_epi16(mask, from.cast())) }
}

/// The sum of each vector's lanes: in every step two vectors become one, halves onto halves.
#[target_feature(enable = "avx512f")]
fn fold(vectors: &[__m512; TILE]) -> [f32; TILE] {
    let mut pairs = [_mm512_setzero_ps(); TILE / 2];
    for (pair, [a, b]) in pairs.iter_mut().zip(vectors.as_chunks().0) {
        *pair = _mm512_add_ps(_mm512_unpacklo_ps(*a, *b), _mm512_unpackhi_ps(*a, *b));
    }
    let mut fours = [_mm512_setzero_ps(); TILE / 4];
    for (four, [a, b]) in fours.iter_mut().zip(pairs.as_chunks().0) {
        let (a, b) = (_mm512_castps_pd(*a), _mm512_castps_pd(*b));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        *four = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    let (left, right) = (halves(fours[0], fours[1]), halves(fours[2], fours[3]));
    let mut products = [0.0; TILE];
    // SAFETY: room for a vector.
    unsafe { _mm512_storeu_ps(products.as_mut_ptr(), halves(left, right)) };
    products
}

/// Neighbouring quarters of `a` added, then those of `b`.
#[target_feature(enable = "avx512f")]
fn halves(a: __m512, b: __m512) -> __m512 {
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    _mm512_add_ps(_mm512_shuffle_f32x4::<EVEN>(a, b), _mm512_shuffle_f32x4::<ODD>(a, b))
}
