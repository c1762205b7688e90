//! The kernels against the operations and autograd.

use super::*;
use crate::{
    Span,
    testing::{assert_close, random},
};

const HEADS: HeadShape = HeadShape { queries: 6, keys: 2, width: 8 };

#[test]
fn the_kernel_equals_the_operations() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let (qkv, cos, sin) = (random(&[5, 80], kind), random(&[5, 8], kind), random(&[5, 8], kind));
        // Keys and values of two caches.
        let empty = || [(); 4].map(|()| random(&[2, 10, 8], kind).zeros_like());
        let (mut a, b, caches_a, caches_b) = (qkv.copy(), qkv.copy(), empty(), empty());
        let [layer_a, layer_b] = [&caches_a, &caches_b].map(|[a, b, c, d]| [[a, b], [c, d]]);
        let plan = PassPlan::new(HEADS, vec![Span::chain(0, 0..2, 3), Span::chain(1, 2..5, 0)], &layer_a);
        rotate_and_store(&mut a, &cos, &sin, &plan, &layer_a);
        let rotated = b.narrow(1, 0, 64).view([5, 8, 8]);
        rotated.shallow_clone().copy_(&fallback(&rotated, &cos, &sin));
        fallback_store(&b, &plan, &layer_b);
        assert_close(&a, &b, "queries, keys and values");
        for (a, b) in caches_a.iter().zip(&caches_b) {
            assert_close(a, b, "caches");
        }
    }
}

#[test]
fn turning_back_is_the_transpose_of_turning() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let (qkv, angles, grad) = (random(&[50, 80], kind), random(&[50, 4], kind), random(&[50, 80], kind));
        let angles = Tensor::cat(&[&angles, &angles], 1);
        let (cos, sin) = (angles.cos(), angles.sin());
        let x = qkv.copy().set_requires_grad(true);
        let (turning, kept) = (x.narrow(1, 0, 64).view([50, 8, 8]), x.narrow(1, 64, 16));
        let expected = Tensor::cat(&[fallback(&turning, &cos, &sin).view([50, 64]), kept], 1);
        let mut found = qkv.copy();
        rotate_in_place(&mut found, &cos, &sin, HEADS, false);
        assert_close(&found, &expected.detach(), "turned");
        (expected * &grad).sum(Kind::Float).backward();
        let mut found = grad.copy();
        rotate_in_place(&mut found, &cos, &sin, HEADS, true);
        assert_close(&found, &x.grad(), "turned back");
    }
}
