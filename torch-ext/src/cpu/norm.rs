//! RMSNorm (arXiv 1910.07467) in one pass per row: x / rms(x) * weight, statistics in fp32; and its gradient.
//!
//! Legend: n rows, w width.

use half::bf16;
use pulp::{Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use crate::cpu::{
    instructions::arch,
    memory::{Element, Shared, elements, elements_mut, is_plain},
    pool::parallel,
    threads::{elements_per_task, parallel_chunks},
};

/// `x` normalised over its last dimension and scaled by `weight` `[w]`; the normalised value is rounded to the dtype of
/// `x` before it is scaled, as transformers does.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    if !is_plain(x) || !x.is_contiguous() {
        return fallback(x, weight, eps);
    }
    let mut out = x.empty_like();
    match x.kind() {
        Kind::Float => kernel::<f32>(elements(x), elements(weight), eps, elements_mut(&mut out)),
        _ => kernel::<bf16>(elements(x), elements(weight), eps, elements_mut(&mut out)),
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
        return fallback_backward(x, weight, eps, grad, (grad_x, grad_weight));
    }
    match x.kind() {
        Kind::Float => backward_kernel::<f32>(x, weight, eps as f32, grad, (grad_x, grad_weight)),
        _ => backward_kernel::<bf16>(x, weight, eps as f32, grad, (grad_x, grad_weight)),
    }
}

fn kernel<T: Element>(x_nw: &[T], weight_w: &[T], eps: f64, out_nw: &mut [T]) {
    let size = elements_per_task(weight_w.len());
    parallel_chunks(out_nw, size, &|task, out| {
        arch().dispatch(Norm { x: &x_nw[task * size..], weight: weight_w, eps: eps as f32, out });
    });
}

struct Norm<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    eps: f32,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Norm<'_, T> {
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

fn backward_kernel<T: Element>(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    grad: &Tensor,
    (grad_x, grad_weight): (&mut Tensor, &mut Tensor),
) {
    let width = weight.numel();
    let (x, weight, grad) = (elements::<T>(x), elements::<T>(weight), elements::<T>(grad));
    let size = elements_per_task(width);
    let tasks = x.len().div_ceil(size);
    let mut partial = vec![0f32; tasks * width];
    let (target, sums) = (Shared::new(elements_mut::<T>(grad_x)), Shared::new(&mut partial));
    parallel(tasks, &|task| {
        let part = task * size..((task + 1) * size).min(x.len());
        // SAFETY: no other task has these rows and this row of sums.
        let (grad_x, grad_weight) =
            unsafe { (target.part(part.clone()), sums.part(task * width..(task + 1) * width)) };
        let (x, grad) = (&x[part.clone()], &grad[part]);
        arch().dispatch(NormBackward { x, weight, eps, grad, grad_x, grad_weight });
    });
    let total = elements_mut::<f32>(grad_weight);
    for sums in partial.chunks_exact(width) {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
}

struct NormBackward<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    eps: f32,
    grad: &'a [T],
    grad_x: &'a mut [T],
    grad_weight: &'a mut [f32],
}

impl<T: Element> WithSimd for NormBackward<'_, T> {
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

/// The sum of x * weight * grad, in as many partial sums as a wide vector register has lanes.
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

fn fallback_backward(
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

/// In eight partial sums, which fill a vector register and make the sum more exact.
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

fn fallback(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    if let Device::Cuda(_) = x.device() {
        // One kernel; the normalised value is not rounded before it is scaled.
        return x.internal_fused_rms_norm(weight.size(), Some(weight), eps).0;
    }
    let x32 = x.to_kind(Kind::Float);
    let mean_square = x32.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
    (x32 * (mean_square + eps).rsqrt()).to_kind(x.kind()) * weight
}

#[cfg(test)]
mod tests;
