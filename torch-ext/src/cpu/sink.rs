//! Where products go: rounded into a matrix, or only the largest of each row is kept.

use crate::cpu::memory::{Element, Shared};

/// Numbers of a wide vector.
const LANES: usize = 16;

/// Receives products.
pub(crate) trait Sink {
    /// `products` are those of row `row` on the left with the rows on the right from `first` on.
    fn take(&mut self, row: usize, first: usize, products: &[f32]);
}

impl<F: FnMut(usize, usize, &[f32])> Sink for F {
    #[inline(always)]
    fn take(&mut self, row: usize, first: usize, products: &[f32]) {
        self(row, first, products);
    }
}

/// Rounds products, plus a bias, into the columns of a matrix from `start` on.
pub(crate) struct Rounded<'a, T> {
    pub(crate) target: &'a Shared<'a, T>,
    /// Columns of the matrix.
    pub(crate) width: usize,
    pub(crate) start: usize,
    /// By column.
    pub(crate) bias: Option<&'a [T]>,
}

impl<T: Element> Sink for Rounded<'_, T> {
    #[inline(always)]
    fn take(&mut self, row: usize, first: usize, products: &[f32]) {
        let column = self.start + first;
        let place = row * self.width + column;
        // SAFETY: no other task has the columns from `start` on.
        let target = unsafe { self.target.part(place..place + products.len()) };
        match self.bias {
            Some(bias) => {
                for ((target, product), bias) in target.iter_mut().zip(products).zip(&bias[column..]) {
                    *target = T::from_f32(product + bias.to_f32());
                }
            }
            None => {
                let (targets, rest) = target.as_chunks_mut::<LANES>();
                let (chunks, last) = products.as_chunks::<LANES>();
                for (target, products) in targets.iter_mut().zip(chunks) {
                    *target = products.map(T::from_f32);
                }
                for (target, product) in rest.iter_mut().zip(last) {
                    *target = T::from_f32(*product);
                }
            }
        }
    }
}

/// Adds products, times a factor, to the columns of a matrix from `start` on.
pub(crate) struct Added<'a, T> {
    pub(crate) target: &'a Shared<'a, T>,
    /// Columns of the matrix.
    pub(crate) width: usize,
    pub(crate) start: usize,
    pub(crate) factor: f32,
}

impl<T: Element> Sink for Added<'_, T> {
    #[inline(always)]
    fn take(&mut self, row: usize, first: usize, products: &[f32]) {
        let place = row * self.width + self.start + first;
        // SAFETY: no other task has the columns from `start` on.
        let target = unsafe { self.target.part(place..place + products.len()) };
        for (target, product) in target.iter_mut().zip(products) {
            *target = T::from_f32(target.to_f32() + self.factor * product);
        }
    }
}

/// Keeps the largest product of each row, rounded to `T`, and its column: the first of equal ones.
pub(crate) struct Largest<T> {
    /// Column of the first product.
    pub(crate) start: usize,
    /// By row.
    pub(crate) best: Vec<(T, u32)>,
}

impl<T: Element> Sink for Largest<T> {
    #[inline(always)]
    fn take(&mut self, row: usize, first: usize, products: &[f32]) {
        let (best, _) = self.best[row];
        let largest = T::from_f32(largest(products));
        // Rounding keeps the order, so no other product of these is larger when rounded.
        if largest.to_f32() > best.to_f32() {
            let is_it = |product: &f32| T::from_f32(*product).to_f32() == largest.to_f32();
            let column = products.iter().position(is_it).expect("the largest is one of them");
            self.best[row] = (largest, (self.start + first + column) as u32);
        }
    }
}

/// The largest of `numbers`, or -inf; NaN is ignored. One maximum per lane, since a single chain of comparisons would be bound
/// by its latency.
#[inline(always)]
pub(crate) fn largest<T: Element>(numbers: &[T]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut compare = |lane: usize, number: T| {
        let number = number.to_f32();
        lanes[lane] = if number > lanes[lane] { number } else { lanes[lane] };
    };
    for numbers in chunks {
        numbers.iter().enumerate().for_each(|(lane, number)| compare(lane, *number));
    }
    rest.iter().enumerate().for_each(|(lane, number)| compare(lane, *number));
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_found_wherever_it_is() {
        assert_eq!(largest::<f32>(&[]), f32::NEG_INFINITY);
        for count in 1..50 {
            for at in 0..count {
                let mut numbers = vec![-2.0f32; count];
                numbers[at] = -1.0;
                assert_eq!(largest(&numbers), -1.0, "{at} of {count}");
            }
        }
    }
}
