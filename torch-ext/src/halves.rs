//! Numbers as vectors of fp32 in AVX-512, whatever they are in memory: as they lie, or turned around.
//!
//! bf16 is taken apart into fp32 by a shift and a mask, even numbers and odd ones, which no permutation has to put back where
//! both factors lie in the same order. The processor's own bf16 products (AVX512-BF16) are not used: they round otherwise, and
//! on the Xeons at hand a core does one in the time of four multiply-adds of half its size.

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

use crate::{
    memory::{Element, Lined, Shared},
    threads::parallel,
};

/// Numbers that are read at once: two vectors of fp32.
pub(crate) const CHUNK: usize = 32;
/// Numbers of a vector.
pub(crate) const LANES: usize = CHUNK / 2;

/// Whether this processor has the instructions.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Rows of the next group when so many are left.
pub(crate) const fn group_of(left: usize, most: usize) -> usize {
    match left {
        _ if left >= most => most,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

thread_local! {
    /// Where this thread's last rows lay.
    static NUMBERS: RefCell<Lined> = RefCell::default();
}

/// Rows as fp32 in whole chunks, those that are multiplied together in one group.
pub(crate) struct Grouped {
    pub(crate) numbers: Lined,
    /// Numbers of a row.
    pub(crate) stride: usize,
}

impl Drop for Grouped {
    fn drop(&mut self) {
        NUMBERS.set(std::mem::take(&mut self.numbers));
    }
}

/// Rows of `k` in groups of at most `most`, as `lay_out` writes them, several threads `share` rows each.
///
/// # Panics
/// If the processor lacks the instructions.
pub(crate) fn in_groups<T: Element>(
    rows: &[T],
    k: usize,
    (share, most): (usize, usize),
    lay_out: &(dyn Fn(&[T], &mut [f32]) + Sync),
) -> Grouped {
    assert!(supported(), "vectors are for AVX-512");
    assert!(k > 0 && rows.len().is_multiple_of(k), "rows of {k}");
    let (stride, count) = (k.next_multiple_of(CHUNK), rows.len() / k);
    let mut numbers = NUMBERS.take();
    numbers.resize(count * stride);
    let target = Shared::new(&mut numbers);
    parallel(count.div_ceil(share), &|task| {
        let mut row = task * share;
        let end = (row + share).min(count);
        while row < end {
            let next = row + group_of(end - row, most);
            // SAFETY: these rows are this task's alone.
            lay_out(&rows[row * k..next * k], unsafe { target.part(row * stride..next * stride) });
            row = next;
        }
    });
    Grouped { numbers, stride }
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
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn halves(from: *const Self) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(LANES))] }
    }

    #[inline]
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
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn halves(from: *const Self) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        apart(unsafe { _mm512_loadu_epi16(from.cast()) })
    }

    #[inline]
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
