//! The largest output of each row, found among few: estimates in eight bits say which it can be, and only those are computed.
//! The answer is that of all outputs computed, bit for bit.
//!
//! Legend: t rows, i inputs, o outputs.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI32, AtomicUsize, Ordering},
};

use crate::{
    avx512_bytes::{Reach, Search},
    avx512_dots::{Rows, chosen_products},
    bytes::{Left, PANEL, Right},
    memory::{Element, Shared},
    threads::parallel,
};

/// Panels of a task.
const SHARE: usize = 16;
/// Of so many outputs one may be on a row's list. For longer lists all outputs are computed at once.
const ONE_OF: usize = 16;

/// See [`crate::shortlist::Shortlist::largest`]; `right` is `weight` in eight bits. None for rows whose list is too long, and
/// for those that have no estimates.
pub(crate) fn largest<T: Element>(x: &[T], weight: &[T], i: usize, right: &Right) -> Vec<Option<u32>> {
    candidates(x, i, right).best(x, weight, i)
}

/// What is known of each row's largest output, and the outputs that it may be.
struct Lists {
    rows: Vec<Row>,
    found: Mutex<Vec<Found>>,
    /// Outputs of a row's list.
    most: usize,
}

struct Row {
    /// Outputs that are not greater are not the largest, also when they are rounded. As a whole number of the same order; infinite
    /// for a row that gets no list.
    floor: AtomicI32,
    listed: AtomicUsize,
}

/// An output that may be the largest.
struct Found {
    row: u32,
    column: u32,
    /// What it is at most.
    most: f32,
}

fn candidates<T: Element>(x: &[T], i: usize, right: &Right) -> Lists {
    let left = Left::new(x, i, right);
    let rows = left.has_estimates().map(|has_estimates| {
        let floor = if has_estimates { f32::NEG_INFINITY } else { f32::INFINITY };
        Row { floor: ordered(floor).into(), listed: AtomicUsize::new(0) }
    });
    let lists =
        Lists { rows: rows.collect(), found: Mutex::default(), most: (right.rows / ONE_OF).max(PANEL) };
    let panels = right.rows.div_ceil(PANEL);
    parallel(panels.div_ceil(SHARE), &|task| {
        let mut part = Part { lists: &lists, found: Vec::new() };
        left.search(right, task * SHARE..((task + 1) * SHARE).min(panels), &mut part);
        part.end();
    });
    lists
}

/// A task's part of the lists.
struct Part<'a> {
    lists: &'a Lists,
    found: Vec<Found>,
}

impl Search for Part<'_> {
    #[inline(always)]
    fn floor(&self, row: usize) -> f32 {
        self.lists.rows[row].floor()
    }

    fn take(&mut self, row: usize, column: usize, reach: Reach) {
        self.found.push(Found { row: row as u32, column: column as u32, most: reach.most });
        self.lists.rows[row].raise(below_rounded(reach.least));
    }
}

impl Part<'_> {
    /// Puts what is still worth it on the lists.
    fn end(self) {
        let Self { lists, mut found } = self;
        found.retain(|found| {
            let row = &lists.rows[found.row as usize];
            let worth_it = found.most > row.floor();
            if worth_it && row.listed.fetch_add(1, Ordering::Relaxed) >= lists.most {
                row.raise(f32::INFINITY);
            }
            worth_it
        });
        lists.found.lock().unwrap_or_else(PoisonError::into_inner).append(&mut found);
    }
}

impl Row {
    #[inline(always)]
    fn floor(&self) -> f32 {
        unordered(self.floor.load(Ordering::Relaxed))
    }

    /// The largest output is not below `floor`; if that is infinite, nothing more is to be told of the row.
    fn raise(&self, floor: f32) {
        self.floor.fetch_max(ordered(floor), Ordering::Relaxed);
    }
}

impl Lists {
    /// The largest output of each row, by computing those of its list.
    fn best<T: Element>(self, x: &[T], weight: &[T], i: usize) -> Vec<Option<u32>> {
        let Self { rows, found, .. } = self;
        let mut columns = vec![Vec::new(); rows.len()];
        for Found { row, column, most } in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let row = row as usize;
            if most > rows[row].floor() {
                columns[row].push(column);
            }
        }
        let mut best = vec![None; rows.len()];
        let target = Shared::new(&mut best);
        parallel(rows.len(), &|row| {
            if rows[row].floor() == f32::INFINITY || columns[row].is_empty() {
                return;
            }
            let left = Rows::new(&x[row * i..(row + 1) * i], i);
            let products = chosen_products(&left, weight, i, &columns[row]);
            let mut largest = (f32::NEG_INFINITY, 0);
            // In the order in which they were found.
            for (product, &column) in products.into_iter().zip(&columns[row]) {
                let product = T::from_f32(product).to_f32();
                if product > largest.0 || product == largest.0 && column < largest.1 {
                    largest = (product, column);
                }
            }
            // SAFETY: each task has a row of its own.
            let place = unsafe { target.part(row..row + 1) };
            place[0] = Some(largest.1);
        });
        best
    }
}

/// What is so much less than `bound` that it is less in bf16 too, and not by what numbers near zero lose.
fn below_rounded(bound: f32) -> f32 {
    const STEP: f32 = 1.0 / 128.0;
    bound - bound.abs() * STEP - f32::MIN_POSITIVE
}

/// A number that is greater where `number` is.
fn ordered(number: f32) -> i32 {
    let bits = number.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

fn unordered(number: i32) -> f32 {
    f32::from_bits((number ^ ((number >> 31) as u32 >> 1) as i32) as u32)
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::{avx512_bytes::supported, memory::elements};

    #[test]
    fn order_is_kept() {
        let numbers = [f32::NEG_INFINITY, -3.0, -1e-40, 0.0, 1e-40, 2.5, f32::INFINITY];
        assert!(numbers.map(ordered).is_sorted());
        assert_eq!(numbers.map(|number| unordered(ordered(number))), numbers);
    }

    #[test]
    fn what_is_below_is_so_when_rounded() {
        for bits in 0..1u32 << 16 {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let bound = f32::from_bits(bits << 16 | low);
                if bound.is_finite() && bound.abs() < 1e38 {
                    let rounded = |number| <bf16 as Element>::from_f32(number).to_f32();
                    assert!(rounded(below_rounded(bound)) < rounded(bound), "{bound}");
                }
            }
        }
    }

    /// The kernel is worth nothing if it leaves much to be computed: numbers that stand out and what rows have in common
    /// must not lengthen the lists.
    #[test]
    fn lists_are_short() {
        let (t, i, o) = (40, 256, 20_000);
        if !supported(i as usize) {
            return;
        }
        let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (x, weight) = (random([t, i]), random([o, i]) + random([1, i]) * 3.0);
        let _ = x.narrow(1, 7, 2).g_mul_scalar_(50.0);
        let (x, weight) = (elements::<f32>(&x), elements::<f32>(&weight));
        let right = Right::new(weight, x, i as usize).expect("finite numbers");
        let lists = candidates(x, i as usize, &right);
        let listed = lists.rows.iter().map(|row| row.listed.load(Ordering::Relaxed));
        assert!(listed.sum::<usize>() < (t * o / 100) as usize);
        assert!(lists.best(x, weight, i as usize).iter().all(Option::is_some));
    }
}
