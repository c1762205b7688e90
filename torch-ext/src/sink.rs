//! What becomes of products as they come: rounded into a matrix, or only the largest of each row.

use crate::memory::{Element, Shared};

/// Numbers of a wide vector.
const LANES: usize = 16;

/// Hears products.
pub(crate) trait Sink {
    /// Of row `row` on the left with the row `first` on the right and those after it.
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
        // SAFETY: the columns from `start` on are this task's alone.
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

/// The largest product of each row, rounded to `T`, and its column: the first of equal ones.
pub(crate) struct Largest<T> {
    /// Column of the first product.
    pub(crate) start: usize,
    /// By row.
    pub(crate) best: Vec<(T, u32)>,
}

impl<T: Element> Sink for Largest<T> {
    #[inline(always)]
    fn take(&mut self, row: usize, first: usize, products: &[f32]) {
        let (least, _) = self.best[row];
        let greatest = greatest(products);
        // Rounding keeps the order, so only a greater one can be greater when it is rounded.
        if T::from_f32(greatest).to_f32() > least.to_f32() {
            let column = products
                .iter()
                .position(|product| T::from_f32(*product).to_f32() == T::from_f32(greatest).to_f32());
            let column = self.start + first + column.expect("the greatest is one of them");
            self.best[row] = (T::from_f32(greatest), column as u32);
        }
    }
}

/// The greatest of `numbers`, less than all where there are none. One chain of comparisons would wait for itself.
#[inline(always)]
pub(crate) fn greatest(numbers: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for numbers in chunks {
        for (greatest, number) in lanes.iter_mut().zip(numbers) {
            *greatest = if *number > *greatest { *number } else { *greatest };
        }
    }
    for (greatest, number) in lanes.iter_mut().zip(rest) {
        *greatest = if *number > *greatest { *number } else { *greatest };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_is_found_wherever_it_is() {
        assert_eq!(greatest(&[]), f32::NEG_INFINITY);
        for count in 1..50 {
            for at in 0..count {
                let mut numbers = vec![-2.0; count];
                numbers[at] = -1.0;
                assert_eq!(greatest(&numbers), -1.0, "{at} of {count}");
            }
        }
    }
}
