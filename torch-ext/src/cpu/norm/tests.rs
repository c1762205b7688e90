//! The kernels against the operations and autograd.

use super::*;
use crate::testing::assert_close;

#[test]
fn the_kernel_equals_the_operations() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for width in [1, 7, 8, 64, 577] {
            let options = (Kind::Float, Device::Cpu);
            let x = (Tensor::randn([5, width], options) * 3.0).to_kind(kind);
            let weight = Tensor::randn([width], options).to_kind(kind);
            let expected = fallback(&x, &weight, 1e-5);
            assert_close(&rms_norm(&x, &weight, 1e-5), &expected, &format!("width {width}"));
            let mut sum = x.copy();
            let normed = add_rms_norm(&mut sum, &x, &weight, 1e-5);
            assert!(sum.equal(&(&x + &x)));
            assert_close(&normed, &fallback(&sum, &weight, 1e-5), &format!("sum of width {width}"));
        }
    }
}

#[test]
fn the_gradient_equals_that_of_autograd() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (n, width) in [(1, 1), (5, 7), (200, 576)] {
            let options = (Kind::Float, Device::Cpu);
            let random = |shape: &[i64]| Tensor::randn(shape, options).to_kind(kind);
            let (x, weight, grad) = (random(&[n, width]) * 3.0, random(&[width]), random(&[n, width]));
            let (a, b) = (x.copy().set_requires_grad(true), weight.copy().set_requires_grad(true));
            (fallback(&a, &b, 1e-5) * &grad).sum(Kind::Float).backward();
            let residual = random(&[n, width]);
            let backward = |of: &dyn Fn(&mut Tensor, &mut Tensor)| {
                let (mut grad_x, mut grad_weight) = (residual.copy(), Tensor::ones([width], options));
                of(&mut grad_x, &mut grad_weight);
                (grad_x, grad_weight)
            };
            let fused = backward(&|x_, w_| rms_norm_backward(&x, &weight, 1e-5, &grad, x_, w_));
            let plain = backward(&|x_, w_| fallback_backward(&x, &weight, 1e-5, &grad, (x_, w_)));
            for (found, name) in [(fused, "kernel"), (plain, "operations")] {
                let what = format!("{name}, {n} x {width}");
                assert_close(&found.0, &(&residual + a.grad()), &what);
                assert_close(&found.1.to_kind(kind), &(b.grad() + 1.0), &what);
            }
        }
    }
}

#[test]
fn autograd_gets_a_gradient() {
    let x = Tensor::randn([2, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    rms_norm(&x, &Tensor::ones([8], (Kind::Float, Device::Cpu)), 1e-5).sum(Kind::Float).backward();
    assert!(x.grad().defined());
}
