//! Products against exact sums, and products of rows against the same rows alone.

use half::bf16;

use super::*;
use crate::testing::numbers;

fn products<T: Element>(left: &[T], right: &[T], k: usize) -> Vec<f32> {
    let columns = right.len() / k;
    let mut out = vec![f32::NAN; left.len() / k * columns];
    let mut sink = |m: usize, n: usize, products: &[f32]| {
        out[m * columns + n..][..products.len()].copy_from_slice(products);
    };
    Left::new(left, k, &mut Vec::new()).products(right, k, &mut sink);
    out
}

/// More than a panel, and not a multiple of one.
const COLUMNS: usize = 101;

fn products_are_right_and_do_not_depend_on_their_neighbours<T: Element>() {
    // Every shape of tile, and panels.
    let sizes = [1, 7, 8, 16, 31, 32, 33, 64, 100].into_iter().flat_map(|k| [(k, 15), (k, 63)]);
    for (k, rows) in sizes {
        let (left, right) = (numbers::<T>(rows * k, 1), numbers::<T>(COLUMNS * k, 2));
        let all = products(&left, &right, k);
        for m in 0..rows {
            for n in 0..COLUMNS {
                let (row, column) = (&left[m * k..][..k], &right[n * k..][..k]);
                let terms = row.iter().zip(column);
                let exact: f64 = terms.map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum();
                assert!((f64::from(all[m * COLUMNS + n]) - exact).abs() < 1e-5 * k as f64);
                assert_eq!(all[m * COLUMNS + n].to_bits(), products(row, column, k)[0].to_bits());
            }
        }
    }
}

#[test]
fn in_fp32() {
    products_are_right_and_do_not_depend_on_their_neighbours::<f32>();
}

#[test]
fn in_bf16() {
    products_are_right_and_do_not_depend_on_their_neighbours::<bf16>();
}

#[test]
fn bf16_is_widened_where_it_must_be() {
    let (left, right) = (numbers::<bf16>(5 * 33, 1), numbers::<bf16>(7 * 33, 2));
    let mut wide = Vec::new();
    let mut out = [f32::NAN; 5 * 7];
    let mut sink = |m: usize, n: usize, products: &[f32]| {
        out[m * 7 + n..][..products.len()].copy_from_slice(products);
    };
    Left::Plain(arch().dispatch(Widened { rows: &left, k: 33, buffer: &mut wide }))
        .products(&right, 33, &mut sink);
    for (found, expected) in out.iter().zip(products(&left, &right, 33)) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}
