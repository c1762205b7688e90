//! Products of many rows with rows in AVX-512: panels of the right ones are turned around once, so that sixteen of them
//! are a vector, and nothing has to be folded. Turning costs as much as multiplying with a dozen rows.
//!
//! The sums are those of [`crate::avx512_dots`], bit for bit. There lane j of a row's vectors is summed in ascending order,
//! and the sixteen lanes are folded. Here the sum of one lane is computed after the other, and they are added up in the
//! order of the fold.
//!
//! Legend: m rows on the left, n rows on the right, k their width, v vectors of a row.

use std::{
    arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd,
        _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    },
    cell::RefCell,
};

use crate::{
    avx512_dots::{CHUNK, Halves, LANES, Rows},
    memory::Shared,
    sink::Sink,
    threads::parallel,
};

/// Rows on the right that are turned around together.
const PANEL: usize = 3 * LANES;
/// Rows on the left that meet a panel at once: with the panel's vectors and one more they fill the registers.
const GROUP: usize = 8;
/// Rows of a task that puts them into order.
const SHARE: usize = 32;
/// From so many rows on the left on a panel is faster than dot products.
pub(crate) const WORTH_IT: usize = 48;
/// The order in which the lanes' sums come, so that those are neighbours which the fold adds first.
const ORDER: [usize; LANES] = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15];

thread_local! {
    /// A thread's panel, kept from one task to the next.
    static ROOM: RefCell<Vec<f32>> = RefCell::default();
}

/// Rows on the left, each lane by lane.
pub(crate) struct Lanes {
    numbers: Vec<f32>,
    stride: usize,
}

impl Lanes {
    /// The same rows in another order.
    pub(crate) fn new(rows: &Rows) -> Self {
        let stride = rows.stride();
        let vectors = stride / LANES;
        let mut numbers = vec![0.0; rows.numbers().len()];
        let target = Shared::new(&mut numbers);
        parallel((rows.numbers().len() / stride).div_ceil(SHARE), &|task| {
            let start = task * SHARE * stride;
            let part = start..(start + SHARE * stride).min(rows.numbers().len());
            // SAFETY: these rows are this task's alone.
            let numbers = unsafe { target.part(part.clone()) };
            let rows = rows.numbers()[part].chunks_exact(stride);
            for (by_lane, row) in numbers.chunks_exact_mut(stride).zip(rows) {
                for (lane, numbers) in by_lane.chunks_exact_mut(vectors).enumerate() {
                    for (number, vector) in numbers.iter_mut().zip(row.as_chunks::<LANES>().0) {
                        *number = vector[lane];
                    }
                }
            }
        });
        Self { numbers, stride }
    }

    /// Tells `sink` the products of these rows with all rows of `right` `[n, k]`.
    pub(crate) fn products<T: Halves>(&self, right: &[T], k: usize, sink: &mut impl Sink) {
        assert!(self.stride == k.next_multiple_of(CHUNK) && right.len().is_multiple_of(k), "rows of {k}");
        let mut room = ROOM.take();
        // SAFETY: these were `Rows`, so the processor has the instructions.
        unsafe { self.by_panels(right, k, &mut room, sink) };
        ROOM.set(room);
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn by_panels<T: Halves>(&self, right: &[T], k: usize, room: &mut Vec<f32>, sink: &mut impl Sink) {
        room.resize(self.stride * PANEL, 0.0);
        for (columns, first) in right.chunks(PANEL * k).zip((0..).step_by(PANEL)) {
            let columns_count = columns.len() / k;
            turn(columns, k, room);
            let mut row = 0;
            while row * self.stride < self.numbers.len() {
                row += match self.numbers.len() / self.stride - row {
                    GROUP.. => self.group::<GROUP>(row, room, (first, columns_count), sink),
                    4.. => self.group::<4>(row, room, (first, columns_count), sink),
                    2.. => self.group::<2>(row, room, (first, columns_count), sink),
                    _ => self.group::<1>(row, room, (first, columns_count), sink),
                };
            }
        }
    }

    /// `M` rows from `row` on against a panel.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn group<const M: usize>(
        &self,
        row: usize,
        panel: &[f32],
        (first, count): (usize, usize),
        sink: &mut impl Sink,
    ) -> usize {
        let left = &self.numbers[row * self.stride..(row + M) * self.stride];
        let products = lanes::<M>(left, panel, self.stride / LANES);
        for (m, products) in products.iter().enumerate() {
            sink.take(row + m, first, &products[..count]);
        }
        M
    }
}

/// The products of `M` ready rows with a panel: the sums of one lane after the other, and those added up like the
/// digits of a counter are carried.
#[target_feature(enable = "avx512f,avx512bw")]
fn lanes<const M: usize>(left: &[f32], panel: &[f32], vectors: usize) -> [[f32; PANEL]; M] {
    const WIDTH: usize = PANEL / LANES;
    let len = vectors * LANES;
    assert!(left.len() == M * len && panel.len() == len * PANEL, "{M} rows and a panel of one width");
    let mut carried = [[[_mm512_setzero_ps(); WIDTH]; M]; 4];
    for (at, lane) in ORDER.into_iter().enumerate() {
        let mut sums = [[_mm512_setzero_ps(); WIDTH]; M];
        for vector in lane * vectors..(lane + 1) * vectors {
            let mut right = [_mm512_setzero_ps(); WIDTH];
            for (n, right) in right.iter_mut().enumerate() {
                // SAFETY: the panel has `len` times `PANEL` numbers.
                *right = unsafe { _mm512_loadu_ps(panel.as_ptr().add(vector * PANEL + n * LANES)) };
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a row has `len` numbers.
                let left = _mm512_set1_ps(unsafe { *left.get_unchecked(m * len + vector) });
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_fmadd_ps(left, right, *sum);
                }
            }
        }
        let mut level = 0;
        while at >> level & 1 == 1 {
            for (sum, carried) in sums.as_flattened_mut().iter_mut().zip(carried[level].as_flattened()) {
                *sum = _mm512_add_ps(*carried, *sum);
            }
            level += 1;
        }
        carried[level.min(3)] = sums;
    }
    let mut products = [[0.0; PANEL]; M];
    for (products, sums) in products.iter_mut().zip(&carried[3]) {
        for (n, sum) in sums.iter().enumerate() {
            // SAFETY: room for a vector.
            unsafe { _mm512_storeu_ps(products.as_mut_ptr().add(n * LANES), *sum) };
        }
    }
    products
}

/// Up to [`PANEL`] rows turned around: lane by lane, vector by vector, the numbers of all rows side by side; 0 for rows
/// that are not there.
#[target_feature(enable = "avx512f,avx512bw")]
fn turn<T: Halves>(rows: &[T], k: usize, panel: &mut [f32]) {
    let vectors = k.next_multiple_of(CHUNK) / LANES;
    for first in (0..PANEL).step_by(LANES) {
        let present = rows.chunks_exact(k).skip(first).take(LANES);
        for at in (0..k).step_by(CHUNK) {
            let mut halves = [[_mm512_setzero_ps(); LANES]; 2];
            for (n, row) in present.clone().enumerate() {
                let part = &row[at..(at + CHUNK).min(k)];
                // SAFETY: the part has as many numbers as are read, and the processor has the instructions.
                let [low, high] = unsafe {
                    if part.len() == CHUNK {
                        T::halves(part.as_ptr())
                    } else {
                        T::first(part.as_ptr(), part.len())
                    }
                };
                (halves[0][n], halves[1][n]) = (low, high);
            }
            for (half, rows) in halves.iter().enumerate() {
                let vector = at / LANES + half;
                for (lane, numbers) in transposed(rows).iter().enumerate() {
                    let place = (lane * vectors + vector) * PANEL + first;
                    // SAFETY: the slice has room for a vector.
                    unsafe { _mm512_storeu_ps(panel[place..place + LANES].as_mut_ptr(), *numbers) };
                }
            }
        }
    }
}

/// Rows to columns.
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
