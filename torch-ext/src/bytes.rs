//! Rows in eight bits, with what is lost by that, so that products of rows are bounded by those of what is held.
//!
//! A row w is held as s q, whole numbers q of eight bits and a scale s. For rows w and x and what is held of them, W and X,
//!
//! |w x - W X| <= |w| |x - X| + |w - W| |X|,
//!
//! by the triangle inequality and that of Cauchy and Schwarz; all four norms are kept. So that they are small, what the rows on
//! the right have in common is taken from them, and its product with a row on the left, one number, is added in fp32; and each
//! number on the right is multiplied with a factor that those on the left are divided by, so that none stands out on either
//! side: the others would have few of the eight bits.
//!
//! Legend: k numbers of a row.

use std::ops::Range;

use crate::{
    halves::{LANES, group_of},
    memory::{Element, Shared},
    threads::parallel,
};

/// Numbers whose products one lane of an instruction adds.
pub(crate) const FOUR: usize = 4;
/// Vectors of a panel's step.
pub(crate) const WIDTH: usize = 3;
/// Rows on the right whose numbers lie side by side.
pub(crate) const PANEL: usize = WIDTH * LANES;
/// Rows on the left that meet a panel at once: their sums, a step of the panel and one more fill the registers.
pub(crate) const AT_ONCE: usize = 8;
/// Rows of a task that holds them in eight bits. Groups begin anew with each.
pub(crate) const SHARE: usize = 32;
/// The greatest whole number held.
const MOST: f32 = 127.0;
/// Added to the numbers on the right, which the instruction wants without a sign.
const OFFSET: i32 = 128;
/// Products of rows whose norms are less are far from the greatest number.
const TOO_GREAT: f32 = 1e15;
/// Factors beyond are not worth their roundings.
const ORDINARY: Range<f32> = 1e-9..1e9;
/// Norms are summed in fp32: more than that can lose, for the widest rows.
const SLACK: f32 = 1.01;

/// A vector of whole numbers, in one line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Vector([i32; LANES]);

/// What is known of a row in eight bits.
#[derive(Clone, Copy, Default)]
struct Held {
    scale: f32,
    /// Of the row itself, at least; no number where one of its numbers is none.
    norm: f32,
    /// Of what is lost, at least.
    lost: f32,
}

/// Holds `row` in `numbers`.
fn hold(row: &[f32], numbers: &mut Vec<i8>) -> Held {
    /// Rounds to whole numbers what is added to it and taken from it again.
    const WHOLE: f32 = 12_582_912.0;
    let greatest = row.iter().fold(0.0, |greatest: f32, number| greatest.max(number.abs()));
    let scale = greatest / MOST;
    // Of the least numbers it is infinite, and the norm no number.
    let inverse = if greatest > 0.0 { scale.recip() } else { 0.0 };
    numbers.clear();
    // In units of the scale, so that squares are neither too great nor too small.
    let (mut norm, mut lost) = (0.0, 0.0);
    for number in row {
        let number = number * inverse;
        let whole = (number + WHOLE) - WHOLE;
        numbers.push(whole as i8);
        norm += number * number;
        lost += (number - whole) * (number - whole);
    }
    Held { scale, norm: norm.sqrt() * scale * SLACK, lost: lost.sqrt() * scale * SLACK }
}

/// Rows on the right: panel by panel, step by step, four numbers of each of the panel's rows.
pub(crate) struct Right {
    pub(crate) numbers: Vec<Vector>,
    /// By row, as are the next two.
    pub(crate) scales: Vec<f32>,
    pub(crate) norms: Vec<f32>,
    pub(crate) lost: Vec<f32>,
    /// Rows, without those that fill the last panel.
    pub(crate) rows: usize,
    pub(crate) steps: usize,
    view: View,
}

impl Right {
    /// `left` is like the rows that will be on the left. None where a number is not finite, or too great.
    pub(crate) fn new<T: Element>(rows: &[T], left: &[T], k: usize) -> Option<Self> {
        let (count, steps) = (rows.len() / k, k.div_ceil(FOUR));
        let panels = count.div_ceil(PANEL);
        let mut numbers = vec![Vector([0; LANES]); panels * steps * WIDTH];
        let mut held = vec![Held::default(); panels * PANEL];
        let view = View::of(rows, left, k);
        let (places, of_rows) = (Shared::new(&mut numbers), Shared::new(&mut held));
        parallel(panels, &|panel| {
            // SAFETY: these panels' places are this task's alone.
            let (places, of_rows) = unsafe {
                (
                    places.part(panel * steps * WIDTH..(panel + 1) * steps * WIDTH),
                    of_rows.part(panel * PANEL..(panel + 1) * PANEL),
                )
            };
            let rows = &rows[panel * PANEL * k..((panel + 1) * PANEL).min(count) * k];
            let (mut seen, mut bytes) = (Vec::new(), Vec::new());
            for ((row, held), at) in rows.chunks_exact(k).zip(of_rows).zip(0..) {
                view.right(row, &mut seen);
                *held = hold(&seen, &mut bytes);
                let vectors = places.iter_mut().skip(at / LANES).step_by(WIDTH);
                for (vector, numbers) in vectors.zip(bytes.chunks(FOUR)) {
                    vector.0[at % LANES] = four(numbers, OFFSET);
                }
            }
        });
        let all = |of: fn(&Held) -> f32| held.iter().map(of).collect::<Vec<_>>();
        let right = Self {
            numbers,
            scales: all(|held| held.scale),
            norms: all(|held| held.norm),
            lost: all(|held| held.lost),
            rows: count,
            steps,
            view,
        };
        right.norms.iter().all(|norm| *norm < TOO_GREAT).then_some(right)
    }
}

/// How rows are seen before they are held.
struct View {
    /// About the mean of the rows on the right.
    centre: Vec<f32>,
    /// Of the numbers on the right; those on the left are divided by them.
    factors: Vec<f32>,
}

impl View {
    fn of<T: Element>(right: &[T], left: &[T], k: usize) -> Self {
        let mut centre = vec![0.0; k];
        let looked_at = some(right, k).count() as f32;
        for row in some(right, k) {
            for (centre, number) in centre.iter_mut().zip(row) {
                *centre += number.to_f32() / looked_at;
            }
        }
        let sizes = |rows: &[T], centre: &[f32]| {
            let mut sizes = vec![0.0; k];
            for row in some(rows, k) {
                for ((size, number), centre) in sizes.iter_mut().zip(row).zip(centre) {
                    *size += (number.to_f32() - centre).abs();
                }
            }
            sizes
        };
        let factor = |(left, right): (f32, f32)| {
            let factor = (left / right).sqrt();
            if ORDINARY.contains(&factor) { factor } else { 1.0 }
        };
        let of_left = sizes(left, &vec![0.0; k]);
        let factors = of_left.into_iter().zip(sizes(right, &centre)).map(factor).collect();
        Self { centre, factors }
    }

    fn right<T: Element>(&self, row: &[T], seen: &mut Vec<f32>) {
        seen.clear();
        let numbers = row.iter().zip(&self.centre).zip(&self.factors);
        seen.extend(numbers.map(|((number, centre), factor)| (number.to_f32() - centre) * factor));
    }

    fn left<T: Element>(&self, row: &[T], seen: &mut Vec<f32>) {
        seen.clear();
        seen.extend(row.iter().zip(&self.factors).map(|(number, factor)| number.to_f32() / factor));
    }

    /// The centre as the right side sees it.
    fn seen_centre(&self) -> Vec<f32> {
        self.centre.iter().zip(&self.factors).map(|(centre, factor)| centre * factor).collect()
    }
}

/// Some rows of all of them.
fn some<T>(rows: &[T], k: usize) -> impl Iterator<Item = &[T]> {
    const SOME: usize = 1024;
    rows.chunks_exact(k).step_by((rows.len() / k / SOME).max(1))
}

/// Up to four numbers plus `offset` as one, zeros behind them.
fn four(numbers: &[i8], offset: i32) -> i32 {
    let mut bytes = [0; FOUR];
    for (byte, number) in bytes.iter_mut().zip(numbers) {
        *byte = (i32::from(*number) + offset) as u8;
    }
    i32::from_le_bytes(bytes)
}

/// Rows on the left in groups, step by step, four numbers of each of the group's rows.
pub(crate) struct Left {
    pub(crate) numbers: Vec<i32>,
    pub(crate) rows: Vec<Known>,
    pub(crate) steps: usize,
}

/// What is known of a row on the left.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    pub(crate) scale: f32,
    /// Its product with the centre.
    pub(crate) centre: f32,
    /// At least what a product may be off by because of the centre.
    pub(crate) off: f32,
    /// At least what it may be off by for each unit of the norm on the right: what is lost of this row, and what sums in fp32 lose,
    /// those here and the exact ones.
    pub(crate) off_by_norm: f32,
    /// At least the norm of what is held.
    pub(crate) norm: f32,
    /// What the offset on the right adds to whole numbers' products.
    pub(crate) excess: i32,
}

impl Known {
    /// `common` is the norm of the centre.
    fn of(row: &[f32], held: Held, numbers: &[i8], centre: &[f32], common: f32) -> Self {
        // A rounding is half of EPSILON. The exact products have as many in a chain as the row has numbers, at most, the centre's
        // as many; views, scales and bounds add a few, fewer than lanes.
        let in_sums = held.norm * (row.len() + LANES) as f32 * f32::EPSILON;
        let sum: i32 = numbers.iter().map(|number| i32::from(*number)).sum();
        Self {
            scale: held.scale,
            centre: dot(row, centre),
            off: 2.0 * in_sums * common,
            off_by_norm: held.lost + in_sums,
            norm: held.norm + held.lost,
            excess: sum * OFFSET,
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Left {
    /// To be multiplied with `right`.
    pub(crate) fn new<T: Element>(rows: &[T], k: usize, right: &Right) -> Self {
        let centre = right.view.seen_centre();
        let common = hold(&centre, &mut Vec::new()).norm;
        let (count, steps) = (rows.len() / k, k.div_ceil(FOUR));
        let (mut numbers, mut known) = (vec![0; count * steps], vec![Known::default(); count]);
        let (places, of_rows) = (Shared::new(&mut numbers), Shared::new(&mut known));
        parallel(count.div_ceil(SHARE), &|task| {
            let (mut seen, mut bytes) = (Vec::new(), Vec::new());
            let (mut row, end) = (task * SHARE, ((task + 1) * SHARE).min(count));
            while row < end {
                let group = group_of(end - row, AT_ONCE);
                // SAFETY: these rows' places are this task's alone.
                let (places, of_rows) = unsafe {
                    (places.part(row * steps..(row + group) * steps), of_rows.part(row..row + group))
                };
                for ((at, known), row) in of_rows.iter_mut().enumerate().zip(rows[row * k..].chunks_exact(k))
                {
                    right.view.left(row, &mut seen);
                    *known = Known::of(&seen, hold(&seen, &mut bytes), &bytes, &centre, common);
                    let places = places.iter_mut().skip(at).step_by(group);
                    for (place, numbers) in places.zip(bytes.chunks(FOUR)) {
                        *place = four(numbers, 0);
                    }
                }
                row += group;
            }
        });
        Self { numbers, rows: known, steps }
    }

    /// Whether there are estimates of each row's products: not where a number is not finite, or too great.
    pub(crate) fn has_estimates(&self) -> impl Iterator<Item = bool> {
        let of_row = |known: &Known| [known.norm, known.centre.abs(), known.off];
        self.rows.iter().map(move |known| of_row(known).iter().all(|number| *number < TOO_GREAT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_has_no_estimates() {
        let good: Vec<f32> = (1..=24).map(|number| number as f32).collect();
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let mut rows = good.clone();
            rows[9] = bad;
            assert!(Right::new(&rows, &good, 8).is_none(), "{bad}");
            let right = Right::new(&good, &rows, 8).expect("ordinary numbers");
            let left = Left::new(&rows, 8, &right);
            assert_eq!(left.has_estimates().collect::<Vec<_>>(), [true, false, true], "{bad}");
        }
    }

    #[test]
    fn a_row_is_within_what_is_lost_of_what_is_held() {
        for least in [1e-44, 1e-40] {
            let norm = hold(&[least], &mut Vec::new()).norm;
            assert!(norm.is_nan() || norm > TOO_GREAT, "{least}: {norm}");
        }
        for scale in [1e-36, 1e-30, 1e-3, 1.0, 1e14] {
            let row: Vec<f32> = (0..200).map(|i| (i * 7919 % 1009) as f32 / 504.5 * scale - scale).collect();
            let mut numbers = Vec::new();
            let held = hold(&row, &mut numbers);
            let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
            let exact = norm(&mut row.iter().map(|number| f64::from(*number)));
            let lost = norm(&mut row.iter().zip(&numbers).map(|(number, held_number)| {
                f64::from(*number) - f64::from(*held_number) * f64::from(held.scale)
            }));
            for (found, exact) in [(held.norm, exact), (held.lost, lost)] {
                let share = f64::from(found) / exact;
                assert!((1.0..1.02).contains(&share), "{scale}: {found} of {exact}");
            }
        }
    }
}
