//! Products of many rows with rows: panels of the right ones are transposed, so that a vector holds the same number of
//! sixteen rows and no product has to be folded. Transposing costs about as much as multiplying with ten rows.
//!
//! The sums are those of [`super::dots`], bit for bit. There lane j of a row's vectors is summed in ascending order, and the
//! sixteen lanes are folded. Here the sums are computed for one pair of lanes after the other, and added in the order of the
//! fold.
//!
//! Legend: m rows on the left, n rows on the right, k their width, v vectors of a row.

use std::{
    arch::x86_64::{
        __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    },
    cell::RefCell,
};

use super::{CHUNK, Grouped, LANES, LoadVectors, Transposed, group_size, in_groups};
use crate::cpu::{
    dots::prefetch,
    memory::{AlignedBuffer, Element},
    sink::Sink,
};

/// Rows on the right that are transposed together.
const PANEL: usize = 3 * LANES;
/// Rows on the left whose numbers alternate in memory.
const GROUP: usize = LANES;
/// Rows of a group that are multiplied with a pair of lanes at once. Their sums, a panel's vectors and one more vector fill
/// the registers. With one lane at a time there could be twice as many rows, but a pair's sums are added in registers.
const AT_ONCE: usize = 4;
/// Rows on the left that are multiplied with a pair of lanes of a panel, which stays in the first-level cache, before the
/// next pair.
const BLOCK: usize = 2 * GROUP;
/// How many partial sums are kept at a time until the fold adds them: one per binary digit of a counter of pairs.
const LEVELS: usize = PAIRS.len().ilog2() as usize;
/// Rows of a task that brings them into groups.
const ROWS_PER_TASK: usize = 32;
/// With at least this many rows on the left, panels are faster than dot products.
pub(crate) const MIN_ROWS: usize = 56;
/// The lanes in the order in which the fold adds them.
const PAIRS: [[usize; 2]; LANES / 2] = [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]];

thread_local! {
    /// Buffers of a thread, kept from one task to the next.
    static SCRATCH: RefCell<PanelScratch> = RefCell::default();
}

#[derive(Default)]
struct PanelScratch {
    /// Transposed.
    panel: AlignedBuffer,
    /// Partial sums by level, row of the block and column of the panel.
    partial: AlignedBuffer,
}

/// Rows on the left in groups: lane by lane, vector by vector, the numbers of a group's rows alternating.
pub(crate) struct Lanes(Grouped);

impl Lanes {
    /// # Panics
    /// If the processor lacks the instructions.
    pub(crate) fn new<T: Element>(rows: &[T], k: usize) -> Self {
        Self(in_groups(rows, k, (ROWS_PER_TASK, GROUP), &|rows, group| {
            // SAFETY: `in_groups` checks that the processor has the instructions.
            unsafe { transpose(rows, k, group, (rows.len() / k, 0)) };
        }))
    }

    /// Gives `sink` the products of these rows with all rows of `right` `[n, k]`.
    pub(crate) fn products<T: LoadVectors>(&self, right: &[T], k: usize, sink: &mut impl Sink) {
        assert!(self.0.stride == k.next_multiple_of(CHUNK) && right.len().is_multiple_of(k), "rows of {k}");
        let mut scratch = SCRATCH.take();
        // SAFETY: `new` checked that the processor has the instructions.
        unsafe { self.by_panels(right, k, &mut scratch, sink) };
        SCRATCH.set(scratch);
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn by_panels<T: LoadVectors>(
        &self,
        right: &[T],
        k: usize,
        scratch: &mut PanelScratch,
        sink: &mut impl Sink,
    ) {
        let Grouped { numbers, stride } = &self.0;
        let PanelScratch { panel, partial } = scratch;
        panel.resize(stride * PANEL);
        partial.resize(LEVELS * BLOCK * PANEL);
        for (columns, first) in right.chunks(PANEL * k).zip((0..).step_by(PANEL)) {
            for (rows, at) in columns.chunks(LANES * k).zip((0..).step_by(LANES)) {
                transpose(rows, k, panel, (PANEL, at));
            }
            for (left, row) in numbers.chunks(BLOCK * stride).zip((0..).step_by(BLOCK)) {
                block(left, panel, *stride, partial);
                let products = partial[(LEVELS - 1) * BLOCK * PANEL..].chunks_exact(PANEL);
                for (products, row) in products.zip(row..row + left.len() / stride) {
                    sink.take(row, first, &products[..columns.len() / k]);
                }
            }
        }
    }
}

/// The products of some rows with a panel, one pair of lanes after the other. They end up in the last level of `partial`.
#[target_feature(enable = "avx512f,avx512bw")]
fn block(left: &[f32], panel: &[f32], stride: usize, partial: &mut [f32]) {
    let (vectors, rows) = (stride / LANES, left.len() / stride);
    for (at, pair) in PAIRS.into_iter().enumerate() {
        let mut row = 0;
        while row < rows {
            let count = group_size(rows - row, GROUP);
            let mut lanes = [Lane { left: &[], panel: &[] }; 2];
            for (of_pair, lane) in lanes.iter_mut().zip(pair) {
                let (start, end) = (lane * vectors, (lane + 1) * vectors);
                let left = &left[row * stride + start * count..row * stride + end * count];
                *of_pair = Lane { left, panel: &panel[start * PANEL..end * PANEL] };
            }
            match count {
                GROUP => {
                    for first in (0..GROUP).step_by(AT_ONCE) {
                        sums::<AT_ONCE, GROUP>(lanes, first, (at, row + first), partial);
                    }
                }
                AT_ONCE => sums::<AT_ONCE, AT_ONCE>(lanes, 0, (at, row), partial),
                2 => sums::<2, 2>(lanes, 0, (at, row), partial),
                _ => sums::<1, 1>(lanes, 0, (at, row), partial),
            }
            row += count;
        }
    }
}

/// One lane of some rows and of a panel.
#[derive(Clone, Copy)]
struct Lane<'a> {
    left: &'a [f32],
    panel: &'a [f32],
}

/// Vectors of a panel's row.
const WIDTH: usize = PANEL / LANES;

/// Adds up pair `at` of lanes: `M` rows times a panel. The rows are those from `first` on in a group of `G`, and those from
/// `row` on in the block.
#[target_feature(enable = "avx512f,avx512bw")]
fn sums<const M: usize, const G: usize>(
    lanes: [Lane; 2],
    first: usize,
    (at, row): (usize, usize),
    partial: &mut [f32],
) {
    let [even, odd] = lanes;
    let steps = even.left.len() / G;
    assert!(first + M <= G && odd.left.len() == steps * G, "{M} rows of {G}");
    assert!([even.panel.len(), odd.panel.len()] == [steps * PANEL; 2], "rows and a panel of one width");
    let mut sums = [[[_mm512_setzero_ps(); WIDTH]; M]; 2];
    for step in 0..steps {
        for (sums, lane) in sums.iter_mut().zip([&even, &odd]) {
            // SAFETY: both have this many steps.
            let (left, panel) =
                unsafe { (lane.left.as_ptr().add(step * G + first), lane.panel.as_ptr().add(step * PANEL)) };
            let mut right = [_mm512_setzero_ps(); WIDTH];
            for (n, right) in right.iter_mut().enumerate() {
                // SAFETY: a step of the panel has this many vectors.
                *right = unsafe { _mm512_loadu_ps(panel.add(n * LANES)) };
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a step has this many rows.
                let left = _mm512_set1_ps(unsafe { *left.add(m) });
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_fmadd_ps(left, right, *sum);
                }
            }
        }
    }
    let [even, odd] = sums;
    let mut sums = even;
    for (sum, odd) in sums.as_flattened_mut().iter_mut().zip(odd.as_flattened()) {
        *sum = _mm512_add_ps(*sum, *odd);
    }
    carry(&mut sums, (at, row), partial);
}

/// Adds the partial sums that the fold adds to pair `at`, as a counter carries its digits, and keeps the result.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn carry<const M: usize>(sums: &mut [[__m512; WIDTH]; M], (at, row): (usize, usize), partial: &mut [f32]) {
    let carries = at.trailing_ones() as usize;
    let level = |level: usize| (level * BLOCK + row) * PANEL..(level * BLOCK + row + M) * PANEL;
    for carried in 0..carries {
        let partial = partial[level(carried)].as_chunks::<LANES>().0;
        for (sum, partial) in sums.as_flattened_mut().iter_mut().zip(partial) {
            // SAFETY: a chunk is a vector.
            *sum = _mm512_add_ps(unsafe { _mm512_loadu_ps(partial.as_ptr()) }, *sum);
        }
    }
    let partial = partial[level(carries.min(LEVELS - 1))].as_chunks_mut::<LANES>().0;
    for (sum, partial) in sums.as_flattened().iter().zip(partial) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(partial.as_mut_ptr(), *sum) };
    }
}

/// Transposes up to [`LANES`] rows: lane by lane, vector by vector, their numbers alternating, as the rows from `first` on of
/// `width`.
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose<T: LoadVectors>(rows: &[T], k: usize, target: &mut [f32], (width, first): (usize, usize)) {
    let vectors = k.next_multiple_of(CHUNK) / LANES;
    let count = rows.len() / k;
    assert!(count <= LANES && first + count <= width && target.len() == vectors * LANES * width);
    let present: __mmask16 = ((1u32 << count) - 1) as __mmask16;
    let mut starts = [rows.as_ptr(); LANES];
    for (start, row) in starts.iter_mut().zip(rows.chunks_exact(k)) {
        *start = row.as_ptr();
    }
    for at in (0..k).step_by(CHUNK) {
        let mut from = starts;
        for from in &mut from {
            *from = from.wrapping_add(at);
            // The rows that are transposed next.
            prefetch(from.wrapping_add(LANES * k));
        }
        let vector = at / LANES;
        // SAFETY: each row has as many more numbers as are loaded; the target has `width` places for each vector of each lane,
        // those of the present rows among them; the processor has the instructions.
        unsafe {
            let first = target.as_mut_ptr().add(vector * width + first);
            let to = Transposed { first, vector: width, lane: vectors * width, present };
            T::transpose(&from, CHUNK.min(k - at), &to);
        }
    }
}
