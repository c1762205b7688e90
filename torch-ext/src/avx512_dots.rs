//! Dot products of rows with rows in AVX-512. As in [`crate::dots`], each product is summed in its own lanes in ascending
//! order and folded in one way, whatever is computed beside it.
//!
//! bf16 is taken apart into fp32 by a shift and a mask, even numbers and odd ones, which no permutation has to put back
//! because the rows on the left lie in the same order. The processor's own bf16 products (AVX512-BF16) are not used: they
//! round otherwise, and on the Xeons at hand a core does one in the time of four multiply-adds of half its size.
//!
//! Legend: m rows on the left, n rows on the right, k their width.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, __mmask32, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_loadu_epi16, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_maskz_mov_epi16,
    _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use half::bf16;

use crate::{
    dots::{AHEAD, block, fetch},
    memory::{Element, Shared},
    sink::Sink,
    threads::parallel,
};

/// Numbers that are multiplied at once: two vectors of fp32.
pub(crate) const CHUNK: usize = 32;
/// Numbers of a vector.
pub(crate) const LANES: usize = CHUNK / 2;
/// Products of a tile: as many as one fold takes. Also the columns of a panel, which stays in the first cache while the
/// rows pass by.
const TILE: usize = 16;
/// Rows of the tallest tile: the more, the less often a column is taken apart.
const TALL: usize = 8;
/// Below so many numbers one thread takes rows apart.
const WORTH_A_TEAM: usize = 1 << 16;

/// Whether this processor has the instructions.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Numbers that can be read as two vectors of fp32.
pub(crate) trait Halves: Sized {
    /// A chunk as two vectors.
    ///
    /// # Safety
    /// A chunk is readable at `from`, and the processor has the instructions.
    unsafe fn halves(from: *const Self) -> [__m512; 2];

    /// The same of the first `count` numbers of a chunk, zeros behind them.
    ///
    /// # Safety
    /// They are readable at `from`, and the processor has the instructions.
    unsafe fn first(from: *const Self, count: usize) -> [__m512; 2];

    /// Turns the first `count` numbers of sixteen chunks around: for each half and each of its lanes, those of all.
    ///
    /// # Safety
    /// They are readable, `to` can be written, and the processor has the instructions.
    unsafe fn turn(from: &[*const Self; LANES], count: usize, to: &Places);
}

impl Halves for f32 {
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn halves(from: *const Self) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(LANES))] }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn first(from: *const Self, count: usize) -> [__m512; 2] {
        let mask: __mmask32 = (1 << count) - 1;
        let (low, high) = (mask as __mmask16, (mask >> LANES) as __mmask16);
        // SAFETY: the caller's promise; masked numbers are not read.
        unsafe { [_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from.wrapping_add(LANES))] }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn turn(from: &[*const Self; LANES], count: usize, to: &Places) {
        let mut halves = [[_mm512_setzero_ps(); LANES]; 2];
        for (n, from) in from.iter().enumerate() {
            // SAFETY: the caller's promise.
            let [low, high] =
                unsafe { if count == CHUNK { Self::halves(*from) } else { Self::first(*from, count) } };
            (halves[0][n], halves[1][n]) = (low, high);
        }
        for (half, rows) in halves.iter().enumerate() {
            for (lane, numbers) in transposed(rows).into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { to.store(half, lane, numbers) };
            }
        }
    }
}

impl Halves for bf16 {
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn halves(from: *const Self) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        apart(unsafe { _mm512_loadu_epi16(from.cast()) })
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn first(from: *const Self, count: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise; masked numbers are not read.
        apart(unsafe { _mm512_maskz_loadu_epi16((1 << count) - 1, from.cast()) })
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn turn(from: &[*const Self; LANES], count: usize, to: &Places) {
        let readable = u32::MAX >> (CHUNK - count);
        let mut pairs = [_mm512_setzero_ps(); LANES];
        for (pairs, from) in pairs.iter_mut().zip(from) {
            // SAFETY: the caller's promise; masked numbers are not read.
            *pairs = _mm512_castsi512_ps(unsafe { _mm512_maskz_loadu_epi16(readable, from.cast()) });
        }
        // Taken apart after they are turned, so that half as much is turned.
        for (lane, pairs) in transposed(&pairs).into_iter().enumerate() {
            let [even, odd] = apart(_mm512_castps_si512(pairs));
            // SAFETY: the caller's promise.
            unsafe {
                to.store(0, lane, even);
                to.store(1, lane, odd);
            }
        }
    }
}

/// Where the numbers of a chunk go that is turned around.
pub(crate) struct Places {
    /// Those of the first lane of the first half.
    pub(crate) first: *mut f32,
    /// From one half to the other, in numbers.
    pub(crate) half: usize,
    /// From one lane to the next.
    pub(crate) lane: usize,
    /// Of which chunks there is a number.
    pub(crate) present: __mmask16,
}

impl Places {
    /// # Safety
    /// There is such a place.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(&self, half: usize, lane: usize, numbers: __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let place = self.first.add(half * self.half + lane * self.lane);
            _mm512_mask_storeu_ps(place, self.present, numbers);
        }
    }
}

/// Even and odd bf16 numbers as fp32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn apart(pairs: __m512i) -> [__m512; 2] {
    const ODD: __mmask32 = 0xaaaa_aaaa;
    let (even, odd) = (_mm512_slli_epi32::<16>(pairs), _mm512_maskz_mov_epi16(ODD, pairs));
    [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
}

/// Rows on the left: fp32, in the order in which those on the right are read, zeros up to whole chunks.
pub(crate) struct Rows {
    numbers: Vec<f32>,
    stride: usize,
}

impl Rows {
    /// # Panics
    /// If the processor lacks the instructions.
    pub(crate) fn new<T: Element>(rows: &[T], k: usize) -> Self {
        assert!(supported(), "rows are for AVX-512");
        assert!(k > 0 && rows.len().is_multiple_of(k), "rows of {k}");
        let (stride, count) = (k.next_multiple_of(CHUNK), rows.len() / k);
        let mut numbers = vec![0.0; count * stride];
        let target = Shared::new(&mut numbers);
        let share = (WORTH_A_TEAM / k).max(1);
        parallel(count.div_ceil(share), &|task| {
            for row in task * share..((task + 1) * share).min(count) {
                // SAFETY: a row belongs to one task, and the processor has the instructions.
                unsafe { lay_out(&rows[row * k..][..k], target.part(row * stride..(row + 1) * stride)) };
            }
        });
        Self { numbers, stride }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn lay_out<T: Halves>(row: &[T], target: &mut [f32]) {
    for (from, to) in row.chunks(CHUNK).zip(target.chunks_exact_mut(CHUNK)) {
        // SAFETY: `from` has as many numbers as are read, `to` room for two vectors.
        unsafe {
            let [low, high] = if from.len() == CHUNK {
                T::halves(from.as_ptr())
            } else {
                T::first(from.as_ptr(), from.len())
            };
            _mm512_storeu_ps(to.as_mut_ptr(), low);
            _mm512_storeu_ps(to[LANES..].as_mut_ptr(), high);
        }
    }
}

/// The dot products of all rows of `left` with all rows of `right` `[n, k]`. `sink` hears row m, the first row of `right`,
/// and the products with that one and those after it.
pub(crate) fn products<T: Element>(left: &Rows, right: &[T], k: usize, sink: &mut impl Sink) {
    assert!(left.stride == k.next_multiple_of(CHUNK) && right.len().is_multiple_of(k), "rows of {k}");
    // SAFETY: `left` exists, so the processor has the instructions.
    unsafe { all(left, right, k, sink) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn all<T: Halves>(left: &Rows, right: &[T], k: usize, sink: &mut impl Sink) {
    let stride = left.stride;
    let block = block::<f32>(stride, TALL);
    for (left, m) in left.numbers.chunks(block * stride).zip((0..).step_by(block)) {
        for (panel, n) in right.chunks(TILE * k).zip((0..).step_by(TILE)) {
            let mut strip = Strip { panel, k, stride, m, n, fresh: true };
            let mut rest = left;
            while let Some((group, after)) = rest.split_at_checked(TALL * stride) {
                strip.multiply::<TALL, { TILE / TALL }>(group, sink);
                rest = after;
            }
            if let Some((group, after)) = rest.split_at_checked(4 * stride) {
                strip.multiply::<4, 4>(group, sink);
                rest = after;
            }
            if let Some((group, after)) = rest.split_at_checked(2 * stride) {
                strip.multiply::<2, 8>(group, sink);
                rest = after;
            }
            if !rest.is_empty() {
                strip.multiply::<1, 16>(rest, sink);
            }
        }
    }
}

/// A panel of columns on the right, and how far down the rows on the left it has come.
struct Strip<'a, T> {
    panel: &'a [T],
    k: usize,
    stride: usize,
    /// The next row.
    m: usize,
    /// The panel's first column.
    n: usize,
    /// Whether the panel comes from memory yet, or lies in the cache.
    fresh: bool,
}

impl<T: Halves> Strip<'_, T> {
    /// The products of the next `M` rows with all columns, `N` at a time.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn multiply<const M: usize, const N: usize>(&mut self, group: &[f32], sink: &mut impl Sink) {
        let mut results = [[0.0; TILE]; M];
        for (columns, first) in self.panel.chunks(N * self.k).zip((0..).step_by(N)) {
            let products = match self.fresh {
                true => tile::<T, M, N, true>(group, columns, self.k, self.stride),
                false => tile::<T, M, N, false>(group, columns, self.k, self.stride),
            };
            for (result, products) in results.iter_mut().zip(products.as_chunks::<N>().0) {
                result[first..first + N].copy_from_slice(products);
            }
        }
        let count = self.panel.len() / self.k;
        for (result, m) in results.iter().zip(self.m..) {
            sink.take(m, self.n, &result[..count]);
        }
        self.m += M;
        self.fresh = false;
    }
}

/// The products of `M` rows with up to `N` columns, row by row; those beyond the columns there are mean nothing.
#[target_feature(enable = "avx512f,avx512bw")]
fn tile<T: Halves, const M: usize, const N: usize, const FETCH: bool>(
    left: &[f32],
    right: &[T],
    k: usize,
    stride: usize,
) -> [f32; TILE] {
    const { assert!(M * N == TILE) };
    assert!(left.len() == M * stride && k <= stride, "{M} rows of {stride}");
    assert!(!right.is_empty() && right.len() <= N * k && right.len().is_multiple_of(k), "columns of {k}");
    let last = right.len() / k - 1;
    let mut columns = [right.as_ptr(); N];
    for (n, column) in columns.iter_mut().enumerate() {
        *column = right[n.min(last) * k..].as_ptr();
    }
    let mut sums = [_mm512_setzero_ps(); TILE];
    let whole = k / CHUNK * CHUNK;
    for at in (0..whole).step_by(CHUNK) {
        // SAFETY: a column has `k` numbers and `at + CHUNK <= k`; a row of `left` has `stride` of them.
        unsafe {
            let row = left.as_ptr().add(at);
            // Whichever operand is fewer is kept in registers.
            if M < N {
                let mut rows = [[_mm512_setzero_ps(); 2]; M];
                for (m, halves) in rows.iter_mut().enumerate() {
                    *halves = f32::halves(row.add(m * stride));
                }
                for (n, column) in columns.iter().enumerate() {
                    let column = column.wrapping_add(at);
                    if FETCH {
                        fetch(column.wrapping_byte_add(AHEAD));
                    }
                    let column = T::halves(column);
                    for (m, row) in rows.iter().enumerate() {
                        sums[m * N + n] = add(sums[m * N + n], *row, column);
                    }
                }
            } else {
                let mut halves = [[_mm512_setzero_ps(); 2]; N];
                for (halves, column) in halves.iter_mut().zip(columns) {
                    let column = column.wrapping_add(at);
                    if FETCH {
                        fetch(column.wrapping_byte_add(AHEAD));
                    }
                    *halves = T::halves(column);
                }
                for m in 0..M {
                    let row = f32::halves(row.add(m * stride));
                    for (n, column) in halves.iter().enumerate() {
                        sums[m * N + n] = add(sums[m * N + n], row, *column);
                    }
                }
            }
        }
    }
    if whole < k {
        for (n, column) in columns.iter().enumerate() {
            // SAFETY: as above; what lies behind `k` is not read, and zero on the left.
            let column = unsafe { T::first(column.add(whole), k - whole) };
            for m in 0..M {
                // SAFETY: as above.
                let row = unsafe { f32::halves(left.as_ptr().add(m * stride + whole)) };
                sums[m * N + n] = add(sums[m * N + n], row, column);
            }
        }
    }
    fold(&sums)
}

/// A chunk's products added to their sum, lane by lane.
#[target_feature(enable = "avx512f")]
fn add(sum: __m512, [a, b]: [__m512; 2], [c, d]: [__m512; 2]) -> __m512 {
    _mm512_fmadd_ps(b, d, _mm512_fmadd_ps(a, c, sum))
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
    let (left, right) = (quarters(fours[0], fours[1]), quarters(fours[2], fours[3]));
    let mut products = [0.0; TILE];
    // SAFETY: room for a vector.
    unsafe { _mm512_storeu_ps(products.as_mut_ptr(), quarters(left, right)) };
    products
}

/// Neighbouring quarters of `a` added, then those of `b`.
#[target_feature(enable = "avx512f")]
fn quarters(a: __m512, b: __m512) -> __m512 {
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    _mm512_add_ps(_mm512_shuffle_f32x4::<EVEN>(a, b), _mm512_shuffle_f32x4::<ODD>(a, b))
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: &[__m512; LANES]) -> [__m512; LANES] {
    let mut pairs = [_mm512_setzero_ps(); LANES];
    for at in (0..LANES).step_by(2) {
        pairs[at] = _mm512_unpacklo_ps(rows[at], rows[at + 1]);
        pairs[at + 1] = _mm512_unpackhi_ps(rows[at], rows[at + 1]);
    }
    // Fours of rows: `fours[4 * q + c]` has in its quarter i the columns 4 i + c of rows 4 q ..
    let mut fours = [_mm512_setzero_ps(); LANES];
    for q in 0..4 {
        for half in 0..2 {
            let a = _mm512_castps_pd(pairs[4 * q + half]);
            let b = _mm512_castps_pd(pairs[4 * q + 2 + half]);
            fours[4 * q + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[4 * q + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    let mut columns = [_mm512_setzero_ps(); LANES];
    for c in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(fours[c], fours[4 + c]);
        let high = _mm512_shuffle_f32x4::<0xdd>(fours[c], fours[4 + c]);
        let low2 = _mm512_shuffle_f32x4::<0x88>(fours[8 + c], fours[12 + c]);
        let high2 = _mm512_shuffle_f32x4::<0xdd>(fours[8 + c], fours[12 + c]);
        // Quarters 0 and 2 of the first two, then of the last two; and 1 and 3.
        columns[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        columns[8 + c] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
        columns[4 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        columns[12 + c] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
    }
    columns
}
