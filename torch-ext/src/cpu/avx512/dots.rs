//! Dot products of a few rows with rows. As in [`crate::cpu::dots`], the lanes of each product are summed in ascending order
//! and then folded, always in the same way.
//!
//! Legend: m rows on the left, n rows on the right, k their width.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

use super::{CHUNK, Grouped, LANES, LoadVectors, group_size, in_groups};
use crate::cpu::{
    dots::{PREFETCH_DISTANCE, block, prefetch},
    memory::Element,
    sink::Sink,
};

/// Products of a tile, as many as one fold takes. Also the columns of a panel, which stays in the first-level cache while the
/// left rows are read.
const TILE: usize = 16;
/// Rows of the tallest tile: the more, the less often the numbers of a column are converted.
const TALL: usize = 8;
/// Numbers of a task that converts rows, at least.
const NUMBERS_PER_TASK: usize = 1 << 16;

/// Rows on the left: fp32 in the order in which those on the right are loaded, with zeros up to whole chunks. The rows of a
/// group alternate chunk by chunk, so that one address is enough for all of them.
pub(crate) struct Rows(Grouped);

impl Rows {
    /// # Panics
    /// If the processor lacks the instructions.
    pub(crate) fn new<T: Element>(rows: &[T], k: usize) -> Self {
        let rows_per_task = (NUMBERS_PER_TASK / k).max(1).next_multiple_of(TALL);
        Self(in_groups(rows, k, (rows_per_task, TALL), &|rows, group| {
            // SAFETY: `in_groups` checks that the processor has the instructions.
            unsafe { lay_out(rows, k, group) };
        }))
    }
}

/// Writes the rows of a group.
#[target_feature(enable = "avx512f,avx512bw")]
fn lay_out<T: LoadVectors>(rows: &[T], k: usize, target: &mut [f32]) {
    let count = rows.len() / k;
    for (m, row) in rows.chunks_exact(k).enumerate() {
        let places = target.chunks_exact_mut(CHUNK).skip(m).step_by(count);
        for (from, to) in row.chunks(CHUNK).zip(places) {
            // SAFETY: `from` has as many numbers as are loaded, and two vectors fit into `to`.
            unsafe {
                let [low, high] = if from.len() == CHUNK {
                    T::load(from.as_ptr())
                } else {
                    T::load_first(from.as_ptr(), from.len())
                };
                _mm512_storeu_ps(to.as_mut_ptr(), low);
                _mm512_storeu_ps(to[LANES..].as_mut_ptr(), high);
            }
        }
    }
}

/// Gives `sink` the dot products of all rows of `left` with all rows of `right` `[n, k]`.
pub(crate) fn products<T: Element>(left: &Rows, right: &[T], k: usize, sink: &mut impl Sink) {
    assert!(left.0.stride == k.next_multiple_of(CHUNK) && right.len().is_multiple_of(k), "rows of {k}");
    // SAFETY: `left` exists, so the processor has the instructions.
    unsafe { all(left, right, k, sink) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn all<T: LoadVectors>(left: &Rows, right: &[T], k: usize, sink: &mut impl Sink) {
    let Grouped { numbers, stride } = &left.0;
    let stride = *stride;
    let block = block(stride, TALL);
    for (left, m) in numbers.chunks(block * stride).zip((0..).step_by(block)) {
        for (panel, n) in right.chunks(TILE * k).zip((0..).step_by(TILE)) {
            let mut strip = Strip::new(panel, (k, stride), (m, n), left.len() / stride);
            let mut rest = left;
            while !rest.is_empty() {
                let count = group_size(rest.len() / stride, TALL);
                let (group, after) = rest.split_at(count * stride);
                match count {
                    TALL => strip.multiply::<TALL, { TILE / TALL }>(group, sink),
                    4 => strip.multiply::<4, 4>(group, sink),
                    2 => strip.multiply::<2, 8>(group, sink),
                    _ => strip.multiply::<1, TILE>(group, sink),
                }
                rest = after;
            }
        }
    }
}

/// A panel of columns on the right, which is multiplied with the rows on the left from the first to the last.
struct Strip<'a, T> {
    panel: &'a [T],
    /// Where its columns start; the last one is repeated.
    columns: [*const T; TILE],
    k: usize,
    stride: usize,
    /// The next row.
    m: usize,
    /// The panel's first column.
    n: usize,
    /// The columns of a tile, by parity, for which memory ahead is prefetched.
    prefetched: u8,
}

// The first of several tall groups prefetches for one half of the columns, the second for the other, so that the
// requests are spread over the work. A single group prefetches for all.
const ALL: u8 = 0b11;
const EVEN: u8 = 0b01;
const ODD: u8 = 0b10;
const NONE: u8 = 0;

impl<'a, T: LoadVectors> Strip<'a, T> {
    fn new(panel: &'a [T], (k, stride): (usize, usize), (m, n): (usize, usize), rows: usize) -> Self {
        let mut columns = [panel.as_ptr(); TILE];
        let last = panel.len() / k - 1;
        for (n, column) in columns.iter_mut().enumerate() {
            *column = panel[n.min(last) * k..].as_ptr();
        }
        let prefetched = if rows < 2 * TALL { ALL } else { EVEN };
        Self { panel, columns, k, stride, m, n, prefetched }
    }

    /// The products of the next `M` rows with all columns, `N` at a time.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn multiply<const M: usize, const N: usize>(&mut self, group: &[f32], sink: &mut impl Sink) {
        assert!(group.len() == M * self.stride && self.k <= self.stride, "{M} rows of {}", self.stride);
        let (k, count) = (self.k, self.panel.len() / self.k);
        let mut results = [[0.0; TILE]; M];
        let tiles = self.columns.as_chunks::<N>().0;
        for (columns, first) in tiles.iter().zip((0..count).step_by(N)) {
            // SAFETY: each column has `k` numbers, and each row of the group a stride of them.
            let products = unsafe {
                match self.prefetched {
                    ALL => tile::<T, M, N, ALL>(group, columns, k),
                    EVEN => tile::<T, M, N, EVEN>(group, columns, k),
                    ODD => tile::<T, M, N, ODD>(group, columns, k),
                    _ => tile::<T, M, N, NONE>(group, columns, k),
                }
            };
            for (result, products) in results.iter_mut().zip(products.as_chunks::<N>().0) {
                result[first..first + N].copy_from_slice(products);
            }
        }
        for (result, m) in results.iter().zip(self.m..) {
            sink.take(m, self.n, &result[..count]);
        }
        self.m += M;
        self.prefetched = if self.prefetched == EVEN { ODD } else { NONE };
    }
}

/// The products of `M` rows with `N` columns, row by row.
///
/// # Safety
/// Each column has `k` numbers, each row on the left as many and zeros up to a whole chunk, and the processor has the
/// instructions.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile<T: LoadVectors, const M: usize, const N: usize, const PREFETCHED: u8>(
    left: &[f32],
    columns: &[*const T; N],
    k: usize,
) -> [f32; TILE] {
    const { assert!(M * N == TILE) };
    let distance = if PREFETCHED == ALL { PREFETCH_DISTANCE } else { TILE * k * size_of::<T>() };
    let mut sums = [_mm512_setzero_ps(); TILE];
    let whole = k / CHUNK * CHUNK;
    for at in (0..whole).step_by(CHUNK) {
        // SAFETY: the caller's promise, and `at + CHUNK <= k`.
        unsafe {
            let rows = left.as_ptr().add(at * M);
            let mut column = 0;
            // The operand with fewer vectors is kept in registers.
            if M < N {
                let mut kept = [[_mm512_setzero_ps(); 2]; M];
                for (m, kept) in kept.iter_mut().enumerate() {
                    *kept = f32::load(rows.add(m * CHUNK));
                }
                while column < N {
                    let numbers = columns[column].add(at);
                    if PREFETCHED >> (column % 2) & 1 == 1 {
                        prefetch(numbers.wrapping_byte_add(distance));
                    }
                    let numbers = T::load(numbers);
                    for (m, row) in kept.iter().enumerate() {
                        sums[m * N + column] = add(sums[m * N + column], *row, numbers);
                    }
                    column += 1;
                }
            } else {
                let mut kept = [[_mm512_setzero_ps(); 2]; N];
                while column < N {
                    let numbers = columns[column].add(at);
                    if PREFETCHED >> (column % 2) & 1 == 1 {
                        prefetch(numbers.wrapping_byte_add(distance));
                    }
                    kept[column] = T::load(numbers);
                    column += 1;
                }
                for m in 0..M {
                    let row = f32::load(rows.add(m * CHUNK));
                    for (n, column) in kept.iter().enumerate() {
                        sums[m * N + n] = add(sums[m * N + n], row, *column);
                    }
                }
            }
        }
    }
    if whole < k {
        for (n, column) in columns.iter().enumerate() {
            // SAFETY: as above; numbers from `k` on are not read, and zero on the left.
            let column = unsafe { T::load_first(column.add(whole), k - whole) };
            for m in 0..M {
                // SAFETY: as above.
                let row = unsafe { f32::load(left.as_ptr().add(whole * M + m * CHUNK)) };
                sums[m * N + n] = add(sums[m * N + n], row, column);
            }
        }
    }
    fold(&sums)
}

/// Adds the products of a chunk to `sum`, lane by lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn add(sum: __m512, [a, b]: [__m512; 2], [c, d]: [__m512; 2]) -> __m512 {
    _mm512_fmadd_ps(b, d, _mm512_fmadd_ps(a, c, sum))
}

/// The sum of each vector's lanes: in every step halves are added to halves, and two vectors become one.
#[inline]
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
    // SAFETY: a vector fits.
    unsafe { _mm512_storeu_ps(products.as_mut_ptr(), quarters(left, right)) };
    products
}

/// Neighbouring quarters of `a` added, then those of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters(a: __m512, b: __m512) -> __m512 {
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    _mm512_add_ps(_mm512_shuffle_f32x4::<EVEN>(a, b), _mm512_shuffle_f32x4::<ODD>(a, b))
}
