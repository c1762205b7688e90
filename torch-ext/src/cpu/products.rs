//! The matrix products of training, over many rows: forward, gradient of the input, gradient of the weight. On CPUs whose fp32
//! products are faster than their bf16 ones, bf16 is widened to fp32 tile by tile. Sums are fp32 either way, and gradients are
//! added to their fp32 sum without rounding in between.
//!
//! Legend: n rows, i inputs, o outputs.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::{accumulate, heads::part};

/// The most rows, and the most outputs, that are widened at a time.
pub const PRODUCT_TILE: usize = 2048;

/// `x` `[n, i]` times `weight` `[o, i]` transposed, plus `bias` `[o]`: `[n, o]` in the dtype of `x`.
pub fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    if !is_widened(x) {
        return x.linear(weight, bias);
    }
    let (n, o) = (x.size()[0], weight.size()[0]);
    let out = Tensor::empty([n, o], (x.kind(), x.device()));
    for rows in tiles(n) {
        let x = widened(&part(x, 0, &rows));
        for outputs in tiles(o) {
            let weight = widened(&part(weight, 0, &outputs));
            let bias = bias.map(|bias| widened(&part(bias, 0, &outputs)));
            part(&part(&out, 0, &rows), 1, &outputs).copy_(&x.linear(&weight, bias.as_ref()));
        }
    }
    out
}

/// The gradient of `x` in `product(x, weight, ..)`, `[n, i]`, for the gradient `grad` `[n, o]`.
pub fn product_input_gradient(grad: &Tensor, weight: &Tensor) -> Tensor {
    if !is_widened(grad) {
        return grad.matmul(weight);
    }
    let (n, i, o) = (grad.size()[0], weight.size()[1], weight.size()[0]);
    let out = Tensor::empty([n, i], (grad.kind(), grad.device()));
    for rows in tiles(n) {
        let mut sum = Tensor::zeros([rows.len() as i64, i], (Kind::Float, grad.device()));
        for outputs in tiles(o) {
            let grad = widened(&part(&part(grad, 0, &rows), 1, &outputs));
            let _ = sum.addmm_(&grad, &widened(&part(weight, 0, &outputs)));
        }
        part(&out, 0, &rows).copy_(&sum);
    }
    out
}

/// Adds the gradient of `weight` in `product(x, weight, ..)` to `sum` `[o, i]`, fp32, for the gradient `grad` `[n, o]`.
pub fn add_weight_gradient(sum: &mut Tensor, grad: &Tensor, x: &Tensor) {
    if grad.kind() == Kind::Float {
        let _ = sum.addmm_(&grad.tr(), x);
        return;
    }
    if !is_widened(grad) {
        return accumulate(sum, &grad.tr().matmul(x));
    }
    for rows in tiles(x.size()[0]) {
        let (x, grad) = (widened(&part(x, 0, &rows)), part(grad, 0, &rows));
        for outputs in tiles(grad.size()[1]) {
            let mut sum = part(sum, 0, &outputs);
            let _ = sum.addmm_(&widened(&part(&grad, 1, &outputs)).tr(), &x);
        }
    }
}

fn is_widened(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::BFloat16 && fp32_is_faster()
}

/// Whether fp32 products are faster than bf16 ones: on x86 without matrix tiles (AMX). It is not timed, so that a resumed run
/// uses the same kernels.
#[cfg(target_arch = "x86_64")]
fn fp32_is_faster() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// The bit of AMX-BF16 in EDX of leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & AMX_BF16 == 0
}

/// Other processors have not been measured.
#[cfg(not(target_arch = "x86_64"))]
fn fp32_is_faster() -> bool {
    false
}

fn tiles(size: i64) -> impl Iterator<Item = Range<usize>> {
    let size = size as usize;
    (0..size).step_by(PRODUCT_TILE).map(move |start| start..(start + PRODUCT_TILE).min(size))
}

fn widened(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random};

    /// The last one fills several tiles in each direction.
    const SIZES: [(i64, i64, i64); 3] = [(1, 1, 1), (7, 33, 50), (2100, 40, 4200)];

    #[test]
    fn every_product_equals_the_operation_in_fp32() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (n, i, o) in SIZES {
                let shapes: [&[i64]; 4] = [&[n, i], &[o, i], &[n, o], &[o]];
                let [x, weight, grad, bias] = shapes.map(|shape| random(shape, kind));
                let [wide_x, wide_weight, wide_grad, wide_bias] = [&x, &weight, &grad, &bias].map(widened);
                let what = format!("{n} x {i} x {o}");
                for (bias, wide_bias) in [(None, None), (Some(&bias), Some(&wide_bias))] {
                    let expected = wide_x.linear(&wide_weight, wide_bias).to_kind(kind);
                    assert_close(&product(&x, &weight, bias), &expected, &what);
                }
                let expected = wide_grad.matmul(&wide_weight).to_kind(kind);
                assert_close(&product_input_gradient(&grad, &weight), &expected, &what);
                let mut sum = random(&[o, i], Kind::Float);
                let expected = &sum + wide_grad.tr().matmul(&wide_x);
                add_weight_gradient(&mut sum, &grad, &x);
                // Where bf16 is widened, its gradients are as exact as those of fp32.
                let rounded = kind != Kind::Float && !fp32_is_faster();
                let tolerated = if rounded { Kind::BFloat16 } else { Kind::Float };
                assert_close(&sum.to_kind(tolerated), &expected.to_kind(tolerated), &what);
            }
        }
    }
}
