//! RMSNorm (arXiv 1910.07467) in one pass per row: x / rms(x) * weight, statistics in fp32; and its gradient.
//!
//! Legend: n rows, w width.

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use crate::{
    memory::{Element, Shared, elements, elements_mut, is_plain},
    threads::parallel,
};

/// Elements of a task.
const SHARE: usize = 32_768;

/// `x` normalised over its last dimension and scaled by `weight` `[w]`; the normalised value is rounded to the dtype of
/// `x` before it is scaled, as transformers does.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    if !is_plain(x) || !x.is_contiguous() {
        return composed(x, weight, eps);
    }
    let mut out = x.empty_like();
    match x.kind() {
        Kind::Float => rows::<f32>(elements(x), elements(weight), eps, elements_mut(&mut out)),
        _ => rows::<bf16>(elements(x), elements(weight), eps, elements_mut(&mut out)),
    }
    out
}

/// Adds `delta` to `x` in place and returns the norm of the sum.
pub fn add_rms_norm(x: &mut Tensor, delta: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let _ = x.g_add_(delta);
    rms_norm(x, weight, eps)
}

/// The gradients of `rms_norm(x, weight, eps)` for the gradient `grad` of its result. That of `x` is added to `grad_x`,
/// which has its dtype; that of `weight` to `grad_weight`, fp32.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    grad: &Tensor,
    grad_x: &mut Tensor,
    grad_weight: &mut Tensor,
) {
    assert_eq!(x.size(), grad.size(), "one gradient per element");
    if ![x, grad, &*grad_x].iter().all(|t| is_plain(t) && t.is_contiguous()) {
        return composed_backward(x, weight, eps, grad, (grad_x, grad_weight));
    }
    match x.kind() {
        Kind::Float => backward_rows::<f32>(x, weight, eps as f32, grad, (grad_x, grad_weight)),
        _ => backward_rows::<bf16>(x, weight, eps as f32, grad, (grad_x, grad_weight)),
    }
}

/// Rows per task for rows of `width`, and the number of tasks. It depends on nothing else, so that sums over tasks
/// have one order.
fn tasks(elements: usize, width: usize) -> (usize, usize) {
    let share = (SHARE / width).max(1);
    (share, (elements / width).div_ceil(share))
}

fn rows<T: Element>(x_nw: &[T], weight_w: &[T], eps: f64, out_nw: &mut [T]) {
    let width = weight_w.len();
    let (share, tasks) = tasks(x_nw.len(), width);
    let target = Shared::new(out_nw);
    parallel(tasks, &|task| {
        let part = task * share * width..((task + 1) * share * width).min(x_nw.len());
        // SAFETY: these rows are this task's alone.
        let out = unsafe { target.part(part.clone()) };
        Arch::new().dispatch(Forward { x: &x_nw[part], weight: weight_w, eps: eps as f32, out });
    });
}

struct Forward<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    eps: f32,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { x, weight, eps, out } = self;
        let width = weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let scale = 1.0 / (sum_of_squares(x) / width as f32 + eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                let normed = T::from_f32(x.to_f32() * scale);
                *out = T::from_f32(normed.to_f32() * weight.to_f32());
            }
        }
    }
}

fn backward_rows<T: Element>(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    grad: &Tensor,
    (grad_x, grad_weight): (&mut Tensor, &mut Tensor),
) {
    let width = weight.numel();
    let (x, weight, grad) = (elements::<T>(x), elements::<T>(weight), elements::<T>(grad));
    let (share, tasks) = tasks(x.len(), width);
    let mut partial = vec![0f32; tasks * width];
    let (target, sums) = (Shared::new(elements_mut::<T>(grad_x)), Shared::new(&mut partial));
    parallel(tasks, &|task| {
        let part = task * share * width..((task + 1) * share * width).min(x.len());
        // SAFETY: these rows, and this row of sums, are this task's alone.
        let (grad_x, grad_weight) =
            unsafe { (target.part(part.clone()), sums.part(task * width..(task + 1) * width)) };
        let (x, grad) = (&x[part.clone()], &grad[part]);
        Arch::new().dispatch(Backward { x, weight, eps, grad, grad_x, grad_weight });
    });
    let total = elements_mut::<f32>(grad_weight);
    for sums in partial.chunks_exact(width) {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
}

struct Backward<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    eps: f32,
    grad: &'a [T],
    grad_x: &'a mut [T],
    grad_weight: &'a mut [f32],
}

impl<T: Element> WithSimd for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { x, weight, eps, grad, grad_x, grad_weight } = self;
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(grad_x.chunks_exact_mut(width));
        for ((x, grad), grad_x) in rows {
            let scale = 1.0 / (sum_of_squares(x) / width as f32 + eps).sqrt();
            let shared = scale * scale * weighted_sum(x, weight, grad) / width as f32;
            for i in 0..width {
                let (value, grad) = (x[i].to_f32(), grad[i].to_f32());
                grad_weight[i] += grad * T::from_f32(value * scale).to_f32();
                let own = scale * (grad * weight[i].to_f32() - value * shared);
                grad_x[i] = T::from_f32(grad_x[i].to_f32() + own);
            }
        }
    }
}

/// Sum of x * weight * grad, in as many partial sums as a wide vector register has lanes.
#[inline(always)]
fn weighted_sum<T: Element>(x: &[T], weight: &[T], grad: &[T]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (x_chunks, x_rest) = x.as_chunks::<16>();
    let (weight_chunks, weight_rest) = weight.as_chunks::<16>();
    let (grad_chunks, grad_rest) = grad.as_chunks::<16>();
    for ((x, weight), grad) in x_chunks.iter().zip(weight_chunks).zip(grad_chunks) {
        for lane in 0..16 {
            sums[lane] += x[lane].to_f32() * weight[lane].to_f32() * grad[lane].to_f32();
        }
    }
    let rest = x_rest.iter().zip(weight_rest).zip(grad_rest);
    sums.iter().sum::<f32>() + rest.map(|((x, w), g)| x.to_f32() * w.to_f32() * g.to_f32()).sum::<f32>()
}

fn composed_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    grad: &Tensor,
    (grad_x, grad_weight): (&mut Tensor, &mut Tensor),
) {
    let (x, grad, kind) = (x.to_kind(Kind::Float), grad.to_kind(Kind::Float), x.kind());
    let mean = |t: Tensor| t.mean_dim([-1i64].as_slice(), true, Kind::Float);
    let scale = (mean(x.square()) + eps).rsqrt();
    let normed = &x * &scale;
    let weighted = &grad * weight.to_kind(Kind::Float);
    let own = &scale * (&weighted - &normed * mean(&weighted * &normed));
    let _ = grad_x.g_add_(&own.to_kind(kind));
    let rounded = normed.to_kind(kind).to_kind(Kind::Float);
    let _ = grad_weight.g_add_(&(grad * rounded).reshape([-1, weight.size()[0]]).sum_dim_intlist(
        [0i64].as_slice(),
        false,
        Kind::Float,
    ));
}

/// In eight partial sums: as exact as a long sum gets, and one vector register wide.
#[inline(always)]
fn sum_of_squares<T: Element>(x: &[T]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x.to_f32() * x.to_f32();
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| x.to_f32() * x.to_f32()).sum::<f32>()
}

fn composed(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    if let Device::Cuda(_) = x.device() {
        // One kernel; the normalised value is not rounded before it is scaled.
        return x.internal_fused_rms_norm(weight.size(), Some(weight), eps).0;
    }
    let x32 = x.to_kind(Kind::Float);
    let mean_square = x32.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
    (x32 * (mean_square + eps).rsqrt()).to_kind(x.kind()) * weight
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::memory::assert_close;

    #[test]
    fn the_kernel_equals_the_operations() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for width in [1, 7, 8, 64, 577] {
                let options = (Kind::Float, Device::Cpu);
                let x = (Tensor::randn([5, width], options) * 3.0).to_kind(kind);
                let weight = Tensor::randn([width], options).to_kind(kind);
                let expected = composed(&x, &weight, 1e-5);
                assert_close(&rms_norm(&x, &weight, 1e-5), &expected, &format!("width {width}"));
                let mut sum = x.copy();
                let normed = add_rms_norm(&mut sum, &x, &weight, 1e-5);
                assert!(sum.equal(&(&x + &x)));
                assert_close(&normed, &composed(&sum, &weight, 1e-5), &format!("sum of width {width}"));
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
                (composed(&a, &b, 1e-5) * &grad).sum(Kind::Float).backward();
                let residual = random(&[n, width]);
                let backward = |of: &dyn Fn(&mut Tensor, &mut Tensor)| {
                    let (mut grad_x, mut grad_weight) = (residual.copy(), Tensor::ones([width], options));
                    of(&mut grad_x, &mut grad_weight);
                    (grad_x, grad_weight)
                };
                let fused = backward(&|x_, w_| rms_norm_backward(&x, &weight, 1e-5, &grad, x_, w_));
                let plain = backward(&|x_, w_| composed_backward(&x, &weight, 1e-5, &grad, (x_, w_)));
                for (found, name) in [(fused, "kernel"), (plain, "operations")] {
                    let what = format!("{name}, {n} x {width}");
                    assert_close(&found.0, &(&residual + a.grad()), &what);
                    assert_close(&found.1.to_kind(kind), &(b.grad() + 1.0), &what);
                }
            }
        }
    }

    #[test]
    fn what_wants_a_gradient_gets_one() {
        let x = Tensor::randn([2, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        rms_norm(&x, &Tensor::ones([8], (Kind::Float, Device::Cpu)), 1e-5).sum(Kind::Float).backward();
        assert!(x.grad().defined());
    }
}
