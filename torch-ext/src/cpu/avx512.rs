//! Products in AVX-512, and loading numbers of any dtype into vectors of fp32, in their order in memory or transposed.
//!
//! bf16 becomes fp32 by a shift and a mask, one vector of the even numbers and one of the odd ones. Both factors have this order,
//! so it needs no permutation. The processor's own bf16 products (AVX512-BF16) are not used: they round differently, and on
//! the Xeons measured a core does one in the time of four multiply-adds of half its size.

use std::{
    arch::x86_64::{
        __m512, __m512i, __mmask16, __mmask32, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps_si512,
        _mm512_castsi512_ps, _mm512_loadu_epi16, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_maskz_mov_epi16, _mm512_setzero_ps,
        _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
        _mm512_unpacklo_ps,
    },
    cell::RefCell,
};

use half::bf16;
use pulp::Arch;

use crate::cpu::{
    instructions::arch,
    memory::{AlignedBuffer, Element, Shared},
    pool::parallel,
};

pub(crate) mod dots;
pub(crate) mod panels;

/// Numbers that are loaded at once: two vectors of fp32.
const CHUNK: usize = 32;
/// Numbers of a vector.
const LANES: usize = CHUNK / 2;

/// Whether the kernels may use the instructions.
pub(crate) fn supported() -> bool {
    matches!(arch(), Arch::V4(_))
}

/// The size of the next group of rows when `left` rows remain.
const fn group_size(left: usize, most: usize) -> usize {
    match left {
        _ if left >= most => most,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

thread_local! {
    /// The memory of this thread's last [`Grouped`], for the next one.
    static NUMBERS: RefCell<AlignedBuffer> = RefCell::default();
}

/// Rows as fp32, filled up to whole chunks. Rows that are multiplied together form a group.
struct Grouped {
    numbers: AlignedBuffer,
    /// Numbers of a row.
    stride: usize,
}

impl Drop for Grouped {
    fn drop(&mut self) {
        NUMBERS.set(std::mem::take(&mut self.numbers));
    }
}

/// Rows of `k` numbers in groups of at most `most`, each written by `lay_out`, `rows_per_task` rows by a task.
///
/// # Panics
/// If the processor lacks the instructions.
fn in_groups<T: Element>(
    rows: &[T],
    k: usize,
    (rows_per_task, most): (usize, usize),
    lay_out: &(dyn Fn(&[T], &mut [f32]) + Sync),
) -> Grouped {
    assert!(supported(), "a processor with AVX-512");
    assert!(k > 0 && rows.len().is_multiple_of(k), "rows of {k}");
    let (stride, count) = (k.next_multiple_of(CHUNK), rows.len() / k);
    let mut numbers = NUMBERS.take();
    numbers.resize(count * stride);
    let target = Shared::new(&mut numbers);
    parallel(count.div_ceil(rows_per_task), &|task| {
        let mut row = task * rows_per_task;
        let end = (row + rows_per_task).min(count);
        while row < end {
            let next = row + group_size(end - row, most);
            // SAFETY: no other task has these rows.
            lay_out(&rows[row * k..next * k], unsafe { target.part(row * stride..next * stride) });
            row = next;
        }
    });
    Grouped { numbers, stride }
}

/// Numbers that can be loaded as vectors of fp32.
pub(crate) trait LoadVectors: Sized {
    /// A chunk as two vectors.
    ///
    /// # Safety
    /// A chunk is readable at `from`, and the processor has the instructions.
    unsafe fn load(from: *const Self) -> [__m512; 2];

    /// The first `count` numbers of a chunk, the rest zeros.
    ///
    /// # Safety
    /// They are readable at `from`, and the processor has the instructions.
    unsafe fn load_first(from: *const Self, count: usize) -> [__m512; 2];

    /// Transposes the first `count` numbers of sixteen chunks: for each of the two vectors and each of its lanes, the sixteen
    /// numbers there.
    ///
    /// # Safety
    /// They are readable, `to` can be written, and the processor has the instructions.
    unsafe fn transpose(from: &[*const Self; LANES], count: usize, to: &Transposed);
}

impl LoadVectors for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(from: *const Self) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(LANES))] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load_first(from: *const Self, count: usize) -> [__m512; 2] {
        let mask: __mmask32 = (1 << count) - 1;
        let (low, high) = (mask as __mmask16, (mask >> LANES) as __mmask16);
        // SAFETY: the caller's promise; masked numbers are not read.
        unsafe { [_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from.wrapping_add(LANES))] }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn transpose(from: &[*const Self; LANES], count: usize, to: &Transposed) {
        let mut vectors = [[_mm512_setzero_ps(); LANES]; 2];
        for (n, from) in from.iter().enumerate() {
            // SAFETY: the caller's promise.
            let [low, high] =
                unsafe { if count == CHUNK { Self::load(*from) } else { Self::load_first(*from, count) } };
            (vectors[0][n], vectors[1][n]) = (low, high);
        }
        for (vector, rows) in vectors.iter().enumerate() {
            for (lane, numbers) in transposed(rows).into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { to.store(vector, lane, numbers) };
            }
        }
    }
}

impl LoadVectors for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(from: *const Self) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        split(unsafe { _mm512_loadu_epi16(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load_first(from: *const Self, count: usize) -> [__m512; 2] {
        // SAFETY: the caller's promise; masked numbers are not read.
        split(unsafe { _mm512_maskz_loadu_epi16((1 << count) - 1, from.cast()) })
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn transpose(from: &[*const Self; LANES], count: usize, to: &Transposed) {
        let readable = u32::MAX >> (CHUNK - count);
        let mut pairs = [_mm512_setzero_ps(); LANES];
        for (pairs, from) in pairs.iter_mut().zip(from) {
            // SAFETY: the caller's promise; masked numbers are not read.
            *pairs = _mm512_castsi512_ps(unsafe { _mm512_maskz_loadu_epi16(readable, from.cast()) });
        }
        // Split after transposing, so that there is half as much to transpose.
        for (lane, pairs) in transposed(&pairs).into_iter().enumerate() {
            let [even, odd] = split(_mm512_castps_si512(pairs));
            // SAFETY: the caller's promise.
            unsafe {
                to.store(0, lane, even);
                to.store(1, lane, odd);
            }
        }
    }
}

/// Where the numbers of transposed chunks are written.
pub(crate) struct Transposed {
    /// The place of the first lane of the first vector.
    first: *mut f32,
    /// Numbers from there to the second vector.
    vector: usize,
    /// Numbers from one lane to the next.
    lane: usize,
    /// The chunks that exist.
    present: __mmask16,
}

impl Transposed {
    /// # Safety
    /// There is memory for the vector.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(&self, vector: usize, lane: usize, numbers: __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let place = self.first.add(vector * self.vector + lane * self.lane);
            _mm512_mask_storeu_ps(place, self.present, numbers);
        }
    }
}

/// The even and the odd of 32 bf16 numbers as fp32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(pairs: __m512i) -> [__m512; 2] {
    const ODD: __mmask32 = 0xaaaa_aaaa;
    let (even, odd) = (_mm512_slli_epi32::<16>(pairs), _mm512_maskz_mov_epi16(ODD, pairs));
    [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
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
