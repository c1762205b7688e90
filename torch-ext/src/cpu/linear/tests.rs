//! Projections against the operation, and rows against the same rows alone.

use tch::Device;

use super::*;
use crate::testing::{assert_close, random};

#[test]
fn the_kernel_equals_the_operation() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (t, i, o) in [(1, 1, 1), (1, 64, 100), (5, 33, 48), (16, 576, 960), (67, 128, 50)] {
            let (x, weight, bias) = (random(&[t, i], kind), random(&[o, i], kind), random(&[o], kind));
            for bias in [None, Some(&bias)] {
                let expected = x.linear(&weight, bias);
                assert_close(&linear(&x, &weight, bias), &expected, &format!("{t} x {i} x {o}"));
            }
        }
    }
}

#[test]
fn updates_of_low_rank_equal_the_operations_and_do_not_depend_on_other_rows() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (t, i, rank, targets) in [(1, 8, 1, 1), (7, 96, 64, 3), (15, 130, 50, 2), (40, 64, 16, 2)] {
            let outputs = [100, 48, 17];
            let y = random(&[t, 200], kind);
            let (x, a) = (random(&[t, i], kind), random(&[targets * rank, i], kind));
            let b = outputs.map(|outputs| random(&[outputs, rank], kind));
            let firsts = [0, 110, 170];
            let updates: Vec<LowRankUpdate> = b
                .iter()
                .zip(firsts)
                .map(|(b, first)| LowRankUpdate { first, b })
                .take(targets as usize)
                .collect();
            let expected = y.to_kind(Kind::Float).copy();
            for (target, update) in (0..).zip(&updates) {
                let a = a.narrow(0, target * rank, rank).to_kind(Kind::Float);
                let inner = x.to_kind(Kind::Float).matmul(&a.tr()).to_kind(kind).to_kind(Kind::Float);
                let mut columns = expected.narrow(1, update.first as i64, update.b.size()[0]);
                let _ = columns.g_add_(&(inner.matmul(&update.b.to_kind(Kind::Float).tr()) * 0.5));
            }
            let mut found = y.copy();
            add_low_rank(&mut found, &x, &a, &updates, 0.5);
            assert_close(
                &found,
                &expected.to_kind(kind),
                &format!("{t} x {i}, {targets} of rank {rank}, {kind:?}"),
            );
            let mut last = y.narrow(0, t - 1, 1).copy();
            add_low_rank(&mut last, &x.narrow(0, t - 1, 1), &a, &updates, 0.5);
            assert!(last.equal(&found.narrow(0, t - 1, 1)), "{t} rows of {kind:?}");
        }
    }
}

#[test]
fn the_largest_output_is_found_without_the_outputs() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (t, i, o) in [(1, 1, 1), (3, 33, 100), (16, 64, 960), (50, 96, 5000), (67, 577, 3001)] {
            let (x, weight) = (random(&[t, i], kind), random(&[o, i], kind));
            let check = |x: &Tensor| {
                let expected = argmax(&linear(x, &weight, None));
                assert_eq!(linear_argmax(x, &weight), expected, "{t} x {i} x {o}");
                expected
            };
            check(&x);
            // All equal: the first.
            assert_eq!(check(&x.zeros_like()), vec![0; t as usize]);
            // One input far larger than the others, as in some models; rows of NaN, infinities and zeros.
            let _ = x.narrow(1, i / 2, 1).g_mul_scalar_(1e4);
            for (row, number) in [(0, f64::NAN), (t / 2, f64::INFINITY), (t - 1, 0.0)] {
                let _ = x.narrow(0, row, 1).fill_(number);
            }
            check(&x);
            let _ = weight.narrow(0, o / 2, 1).fill_(f64::NAN);
            check(&x);
        }
    }
}

/// The outputs share a large part that cancels, and the rest is smaller than its roundings.
#[test]
fn outputs_that_differ_by_roundings_alone_are_told_apart() {
    let (i, o) = (96, 64);
    for scale in [1.0, 2f64.powi(-80)] {
        let weight = Tensor::full([o, i], scale, (Kind::Float, Device::Cpu));
        let _ = weight.get(60).narrow(0, 0, 1).fill_(scale * (1.0 + 2f64.powi(-23)));
        let _ = weight.get(61).narrow(0, i - 1, 1).fill_(scale * (1.0 - 2f64.powi(-24)));
        let x = Tensor::ones([1, i], (Kind::Float, Device::Cpu));
        let _ = x.narrow(1, i / 2, i / 2).fill_(-1.0);
        assert_eq!(linear_argmax(&x, &weight), argmax(&linear(&x, &weight, None)), "{scale}");
    }
}

#[test]
fn the_first_of_outputs_that_are_equal_when_rounded_is_the_largest() {
    let (t, i, o) = (40, 64, 2000);
    let x = random(&[t, i], Kind::BFloat16);
    // Ten copies of each row that differ by less than bf16 can tell apart in most outputs.
    let rows = random(&[o / 10, i], Kind::BFloat16).repeat([10, 1]);
    let weight = &rows + (&rows * 0.004) * Tensor::rand([o, 1], (Kind::BFloat16, Device::Cpu));
    assert_eq!(linear_argmax(&x, &weight), argmax(&linear(&x, &weight, None)));
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let (x, weight) = (random(&[70, 96], kind), random(&[1000, 96], kind));
        let together = linear(&x, &weight, None);
        for (start, rows) in [(0, 1), (1, 1), (69, 1), (3, 2), (5, 16), (6, 64)] {
            let apart = linear(&x.narrow(0, start, rows), &weight, None);
            assert!(apart.equal(&together.narrow(0, start, rows)), "{kind:?} rows {start} + {rows}");
        }
    }
}
