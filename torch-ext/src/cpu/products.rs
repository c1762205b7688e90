//! The matrix products of training, over many rows: forward, gradient of the input, gradient of the weight. On CPUs whose fp32
//! products are faster than their bf16 ones, bf16 is widened to fp32 tile by tile. Sums are fp32 either way, and gradients are
//! added to their fp32 sum without rounding in between.
//!
//! Legend: n rows, i inputs, o outputs.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::{
    accumulate,
    cpu::{
        pool::{parallel, threads},
        threads::SharedTensor,
    },
    heads::part,
};

#[cfg(target_arch = "x86_64")]
use crate::cpu::avx512;

/// The most rows, and the most outputs, that are widened at a time.
pub const PRODUCT_TILE: usize = 2048;

/// `x` `[n, i]` times `weight` `[o, i]` transposed, plus `bias` `[o]`: `[n, o]` in the dtype of `x`.
pub fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    if x.device() != Device::Cpu {
        return x.linear(weight, bias);
    }
    let out = Tensor::empty([x.size()[0], weight.size()[0]], (x.kind(), x.device()));
    let (x, weight, bias) = (SharedTensor(x), SharedTensor(weight), bias.map(SharedTensor));
    in_tiles(&out, |tile, rows, outputs| {
        let (x, weight) = (x.part(0, &rows), weight.part(0, &outputs));
        match &bias {
            Some(bias) => tile.copy_(&x.linear(&weight, Some(bias.part(0, &outputs)))),
            None => multiply(&x, &weight.tr(), tile),
        }
    });
    out
}

/// Adds `product(x, weight, None)` to `y` `[n, o]`.
pub fn add_product(y: &mut Tensor, x: &Tensor, weight: &Tensor) {
    if x.device() != Device::Cpu {
        let _ = y.addmm_(x, &weight.tr());
        return;
    }
    let (x, weight) = (SharedTensor(x), SharedTensor(weight));
    in_tiles(y, |tile, rows, outputs| {
        let (x, weight) = (x.part(0, &rows), weight.part(0, &outputs).tr());
        if tile.kind() == x.kind() {
            let _ = tile.addmm_(&x, &weight);
        } else {
            let _ = tile.g_add_(&x.matmul(&weight));
        }
    });
}

/// The gradient of `x` in `product(x, weight, ..)`, `[n, i]`, for the gradient `grad` `[n, o]`.
pub fn product_input_gradient(grad: &Tensor, weight: &Tensor) -> Tensor {
    if grad.device() != Device::Cpu {
        return grad.matmul(weight);
    }
    let (o, i) = (weight.size()[0] as usize, weight.size()[1]);
    let out = Tensor::empty([grad.size()[0], i], (grad.kind(), grad.device()));
    let (is_widened, grad, weight) = (is_widened(grad), SharedTensor(grad), SharedTensor(weight));
    in_tiles(&out, |tile, rows, inputs| {
        let product = |outputs: Range<usize>| {
            let weight = weight.of_both(&outputs, &inputs);
            (grad.of_both(&rows, &outputs), weight)
        };
        if !is_widened {
            let (grad, weight) = product(0..o);
            return multiply(&grad, &weight, tile);
        }
        let mut sum = Tensor::zeros(tile.size(), (Kind::Float, tile.device()));
        for start in (0..o).step_by(PRODUCT_TILE) {
            let (grad, weight) = product(start..(start + PRODUCT_TILE).min(o));
            let _ = sum.addmm_(&grad, &weight);
        }
        tile.copy_(&sum);
    });
    out
}

/// Adds the gradient of `weight` in `product(x, weight, ..)` to `sum` `[o, i]`, fp32, for the gradient `grad` `[n, o]`.
pub fn add_weight_gradient(sum: &mut Tensor, grad: &Tensor, x: &Tensor) {
    if grad.device() != Device::Cpu {
        if grad.kind() == Kind::Float {
            let _ = sum.addmm_(&grad.tr(), x);
        } else {
            accumulate(sum, &grad.tr().matmul(x));
        }
        return;
    }
    let n = x.size()[0] as usize;
    let in_one = grad.kind() == Kind::BFloat16 && !is_widened(grad);
    let (grad, x) = (SharedTensor(grad), SharedTensor(x));
    in_tiles(sum, |sum, outputs, inputs| {
        if in_one {
            let _ = sum.g_add_(&grad.part(1, &outputs).tr().matmul(&x.part(1, &inputs)));
            return;
        }
        for start in (0..n).step_by(PRODUCT_TILE) {
            let rows = start..(start + PRODUCT_TILE).min(n);
            let _ = sum.addmm_(&grad.of_both(&rows, &outputs).tr(), &x.of_both(&rows, &inputs));
        }
    });
}

/// Writes `a` times `b` to `out`, rounded to its dtype.
fn multiply(a: &Tensor, b: &Tensor, out: &mut Tensor) {
    if out.kind() == a.kind() {
        let _ = a.mm_out(out, b);
    } else {
        out.copy_(&a.matmul(b));
    }
}

impl SharedTensor<'_> {
    /// A range along one dimension, as fp32 where that is faster.
    fn part(&self, dim: i64, range: &Range<usize>) -> Tensor {
        widened(part(self.get(), dim, range))
    }

    /// A range along both dimensions, as [`part`](Self::part).
    fn of_both(&self, rows: &Range<usize>, columns: &Range<usize>) -> Tensor {
        widened(self.tile(rows, columns))
    }

    /// A range along both dimensions, as a view.
    fn tile(&self, rows: &Range<usize>, columns: &Range<usize>) -> Tensor {
        part(&part(self.get(), 0, rows), 1, columns)
    }
}

/// Calls `run(tile, rows, columns)` for the tiles of `out`, in parallel. Each calls libtorch, which has one thread.
fn in_tiles(out: &Tensor, run: impl Fn(&mut Tensor, Range<usize>, Range<usize>) + Sync) {
    let (n, o) = (out.size()[0] as usize, out.size()[1] as usize);
    let (height, width) = tile_size(n, o);
    let columns = o.div_ceil(width).max(1);
    let out = SharedTensor(out);
    parallel(n.div_ceil(height) * columns, &|task| {
        let (row, column) = (task / columns * height, task % columns * width);
        let (rows, columns) = (row..(row + height).min(n), column..(column + width).min(o));
        tch::no_grad(|| {
            let mut tile = out.tile(&rows, &columns);
            run(&mut tile, rows, columns);
        });
    });
}

/// Rows and columns of the tiles of `[n, o]`: two for each thread, since cores are not equally fast at every moment. More would
/// cost more calls than they balance, and no tile is so small that libtorch would copy its operands more than it multiplies.
fn tile_size(n: usize, o: usize) -> (usize, usize) {
    const TILES_PER_THREAD: usize = 2;
    const SMALL: usize = 128;
    let (mut height, mut width) = (n.max(1), o.max(1));
    loop {
        let larger = height.max(width);
        let enough = n.div_ceil(height) * o.div_ceil(width) >= TILES_PER_THREAD * threads();
        if larger <= SMALL || enough && larger <= PRODUCT_TILE {
            return (height, width);
        }
        let half = if height == larger { &mut height } else { &mut width };
        *half = half.div_ceil(2);
    }
}

fn is_widened(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::BFloat16 && fp32_is_faster()
}

/// Whether fp32 products are faster than bf16 ones: on x86 unless it has matrix tiles (AMX) or is AMD's with instructions for
/// bf16, which are twice as fast as those for fp32 there and slower on Intel's; and where `ATEN_CPU_CAPABILITY` allows AVX2 only.
/// It is not timed, so that a resumed run uses the same kernels.
#[cfg(target_arch = "x86_64")]
fn fp32_is_faster() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// The bit of AMX-BF16 in EDX of leaf 7, and that of AVX512-BF16 in EAX of its second part.
    const AMX_BF16: u32 = 1 << 22;
    const AVX512_BF16: u32 = 1 << 5;
    // In a virtual machine the instruction leaves the guest, which takes longer than a small product.
    static IS: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let vendor = __cpuid(0);
        if !avx512::supported() || vendor.eax < 7 {
            return true;
        }
        let is_amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD";
        let has_tiles = __cpuid_count(7, 0).edx & AMX_BF16 != 0;
        let bf16_is_faster = has_tiles || is_amd && __cpuid_count(7, 1).eax & AVX512_BF16 != 0;
        !bf16_is_faster
    });
    *IS
}

/// Other processors have not been measured.
#[cfg(not(target_arch = "x86_64"))]
fn fp32_is_faster() -> bool {
    false
}

/// `x`, as fp32 where products are faster in it.
fn widened(x: Tensor) -> Tensor {
    if is_widened(&x) { x.to_kind(Kind::Float) } else { x }
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
                let [wide_x, wide_weight, wide_grad, wide_bias] =
                    [&x, &weight, &grad, &bias].map(|tensor| tensor.to_kind(Kind::Float));
                let what = format!("{n} x {i} x {o}");
                for (bias, wide_bias) in [(None, None), (Some(&bias), Some(&wide_bias))] {
                    let expected = wide_x.linear(&wide_weight, wide_bias).to_kind(kind);
                    assert_close(&product(&x, &weight, bias), &expected, &what);
                }
                let mut sum = grad.copy();
                add_product(&mut sum, &x, &weight);
                let expected = (wide_x.linear(&wide_weight, None::<&Tensor>) + &wide_grad).to_kind(kind);
                assert_close(&sum, &expected, &what);
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
