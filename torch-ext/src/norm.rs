//! RMSNorm (arXiv 1910.07467) in one pass per row: x / rms(x) * weight, statistics in fp32.
//!
//! Legend: n rows, w width.

use half::bf16;
use tch::{Kind, Tensor};

use crate::memory::{Element, elements, elements_mut, is_plain};

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

fn rows<T: Element>(x_nw: &[T], weight_w: &[T], eps: f64, out_nw: &mut [T]) {
    let width = weight_w.len();
    for (x, out) in x_nw.chunks_exact(width).zip(out_nw.chunks_exact_mut(width)) {
        let scale = 1.0 / (sum_of_squares(x) / width as f32 + eps as f32).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight_w) {
            let normed = T::from_f32(x.to_f32() * scale);
            *out = T::from_f32(normed.to_f32() * weight.to_f32());
        }
    }
}

/// In eight partial sums: as exact as a long sum gets, and one vector register wide.
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
    let x32 = x.to_kind(Kind::Float);
    let mean_square = x32.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
    (x32 * (mean_square + eps).rsqrt()).to_kind(x.kind()) * weight
}

#[cfg(test)]
mod tests {
    use tch::Device;

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
    fn what_wants_a_gradient_gets_one() {
        let x = Tensor::randn([2, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        rms_norm(&x, &Tensor::ones([8], (Kind::Float, Device::Cpu)), 1e-5).sum(Kind::Float).backward();
        assert!(x.grad().defined());
    }
}
