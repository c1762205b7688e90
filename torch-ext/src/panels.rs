//! Products of many rows with rows in AVX-512: panels of the right ones are turned around once, so that sixteen of them
//! are a vector, and nothing has to be folded. Turning costs about as much as multiplying with ten rows.
//!
//! The sums are those of [`crate::avx512_dots`], bit for bit. There lane j of a row's vectors is summed in ascending order,
//! and the sixteen lanes are folded. Here the sums of one pair of lanes are computed after those of the other, and they are
//! added up in the order of the fold.
//!
//! Legend: m rows on the left, n rows on the right, k their width, v vectors of a row.

use std::{
    arch::x86_64::{
        __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    },
    cell::RefCell,
};

use crate::{
    dots::fetch,
    halves::{CHUNK, Grouped, Halves, LANES, Places, group_of, in_groups},
    memory::{Element, Lined},
    sink::Sink,
};

/// Rows on the right that are turned around together.
const PANEL: usize = 3 * LANES;
/// Rows on the left that lie side by side.
const GROUP: usize = LANES;
/// Those of them that meet two lanes of a panel at once: their sums, with a panel's vectors and one more, fill the
/// registers. Half as many rows as would meet one lane, so that the sums of a pair are added before they leave.
const AT_ONCE: usize = 4;
/// Rows on the left that meet a pair of lanes of a panel, which stays in the first cache, before the next.
const BLOCK: usize = 2 * GROUP;
/// Sums that wait for others: as many as a counter up to the number of pairs has digits.
const LEVELS: usize = PAIRS.len().ilog2() as usize;
/// Rows of a task that puts them into order.
const SHARE: usize = 32;
/// From so many rows on the left on a panel is faster than dot products.
pub(crate) const WORTH_IT: usize = 56;
/// The lanes in the order in which the fold adds them.
const PAIRS: [[usize; 2]; LANES / 2] = [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]];

thread_local! {
    /// A thread's room, kept from one task to the next.
    static ROOM: RefCell<Room> = RefCell::default();
}

#[derive(Default)]
struct Room {
    /// Turned around.
    panel: Lined,
    /// By level, row of the block and column of the panel.
    waiting: Lined,
}

/// Rows on the left in groups, each lane by lane, vector by vector, the numbers of its rows side by side.
pub(crate) struct Lanes(Grouped);

impl Lanes {
    /// # Panics
    /// If the processor lacks the instructions.
    pub(crate) fn new<T: Element>(rows: &[T], k: usize) -> Self {
        Self(in_groups(rows, k, (SHARE, GROUP), &|rows, group| {
            // SAFETY: `in_groups` has seen that the processor has the instructions.
            unsafe { turn(rows, k, group, (rows.len() / k, 0)) };
        }))
    }

    /// Tells `sink` the products of these rows with all rows of `right` `[n, k]`.
    pub(crate) fn products<T: Halves>(&self, right: &[T], k: usize, sink: &mut impl Sink) {
        assert!(self.0.stride == k.next_multiple_of(CHUNK) && right.len().is_multiple_of(k), "rows of {k}");
        let mut room = ROOM.take();
        // SAFETY: these exist, so the processor has the instructions.
        unsafe { self.by_panels(right, k, &mut room, sink) };
        ROOM.set(room);
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn by_panels<T: Halves>(&self, right: &[T], k: usize, room: &mut Room, sink: &mut impl Sink) {
        let Grouped { numbers, stride } = &self.0;
        let Room { panel, waiting } = room;
        panel.resize(stride * PANEL);
        waiting.resize(LEVELS * BLOCK * PANEL);
        for (columns, first) in right.chunks(PANEL * k).zip((0..).step_by(PANEL)) {
            for (rows, at) in columns.chunks(LANES * k).zip((0..).step_by(LANES)) {
                turn(rows, k, panel, (PANEL, at));
            }
            for (left, row) in numbers.chunks(BLOCK * stride).zip((0..).step_by(BLOCK)) {
                block(left, panel, *stride, waiting);
                let products = waiting[(LEVELS - 1) * BLOCK * PANEL..].chunks_exact(PANEL);
                for (products, row) in products.zip(row..row + left.len() / stride) {
                    sink.take(row, first, &products[..columns.len() / k]);
                }
            }
        }
    }
}

/// The products of some rows with a panel, the sums of one pair of lanes after the other; in the end they are the last
/// level of `waiting`.
#[target_feature(enable = "avx512f,avx512bw")]
fn block(left: &[f32], panel: &[f32], stride: usize, waiting: &mut [f32]) {
    let (vectors, rows) = (stride / LANES, left.len() / stride);
    for (at, pair) in PAIRS.into_iter().enumerate() {
        let mut row = 0;
        while row < rows {
            let count = group_of(rows - row, GROUP);
            let mut lanes = [Lane { left: &[], panel: &[] }; 2];
            for (of_pair, lane) in lanes.iter_mut().zip(pair) {
                let (start, end) = (lane * vectors, (lane + 1) * vectors);
                let left = &left[row * stride + start * count..row * stride + end * count];
                *of_pair = Lane { left, panel: &panel[start * PANEL..end * PANEL] };
            }
            match count {
                GROUP => {
                    for first in (0..GROUP).step_by(AT_ONCE) {
                        sums::<AT_ONCE, GROUP>(lanes, first, (at, row + first), waiting);
                    }
                }
                AT_ONCE => sums::<AT_ONCE, AT_ONCE>(lanes, 0, (at, row), waiting),
                2 => sums::<2, 2>(lanes, 0, (at, row), waiting),
                _ => sums::<1, 1>(lanes, 0, (at, row), waiting),
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

/// The sums of a pair of lanes, which is number `at`, of `M` rows with a panel, those from `first` on of the `G` that lie side
/// by side, which are those from `row` on of the block; and those that waited for them added up, like the digits of a
/// counter are carried.
#[target_feature(enable = "avx512f,avx512bw")]
fn sums<const M: usize, const G: usize>(
    lanes: [Lane; 2],
    first: usize,
    (at, row): (usize, usize),
    waiting: &mut [f32],
) {
    let [even, odd] = lanes;
    let steps = even.left.len() / G;
    assert!(first + M <= G && odd.left.len() == steps * G, "{M} rows of {G}");
    assert!([even.panel.len(), odd.panel.len()] == [steps * PANEL; 2], "rows and a panel of one width");
    let mut sums = [[[_mm512_setzero_ps(); WIDTH]; M]; 2];
    for step in 0..steps {
        for (sums, lane) in sums.iter_mut().zip([&even, &odd]) {
            // SAFETY: both have as many steps.
            let (left, panel) =
                unsafe { (lane.left.as_ptr().add(step * G + first), lane.panel.as_ptr().add(step * PANEL)) };
            let mut right = [_mm512_setzero_ps(); WIDTH];
            for (n, right) in right.iter_mut().enumerate() {
                // SAFETY: a step of the panel has so many vectors.
                *right = unsafe { _mm512_loadu_ps(panel.add(n * LANES)) };
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a step has so many rows.
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
    carry(&mut sums, (at, row), waiting);
}

/// Adds what waited for the sums of pair number `at`, and lets the result wait.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn carry<const M: usize>(sums: &mut [[__m512; WIDTH]; M], (at, row): (usize, usize), waiting: &mut [f32]) {
    let carries = at.trailing_ones() as usize;
    let level = |level: usize| (level * BLOCK + row) * PANEL..(level * BLOCK + row + M) * PANEL;
    for carried in 0..carries {
        let waiting = waiting[level(carried)].as_chunks::<LANES>().0;
        for (sum, waiting) in sums.as_flattened_mut().iter_mut().zip(waiting) {
            // SAFETY: a chunk is a vector.
            *sum = _mm512_add_ps(unsafe { _mm512_loadu_ps(waiting.as_ptr()) }, *sum);
        }
    }
    let waiting = waiting[level(carries.min(LEVELS - 1))].as_chunks_mut::<LANES>().0;
    for (sum, waiting) in sums.as_flattened().iter().zip(waiting) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(waiting.as_mut_ptr(), *sum) };
    }
}

/// Up to [`LANES`] rows turned around: lane by lane, vector by vector, their numbers side by side, from `first` on among
/// `width`.
#[target_feature(enable = "avx512f,avx512bw")]
fn turn<T: Halves>(rows: &[T], k: usize, target: &mut [f32], (width, first): (usize, usize)) {
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
            // What is turned around next.
            fetch(from.wrapping_add(LANES * k));
        }
        let vector = at / LANES;
        // SAFETY: each row has as many numbers left as are read; the target has `width` places for each vector of each lane,
        // which number `first` and those behind it go into; the processor has the instructions.
        unsafe {
            let first = target.as_mut_ptr().add(vector * width + first);
            T::turn(&from, CHUNK.min(k - at), &Places { first, half: width, lane: vectors * width, present });
        }
    }
}
