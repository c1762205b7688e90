//! The activation of a gated MLP: silu(gate) * up (arXiv 2002.05202, SwiGLU), and its gradient.

use half::bf16;
use pulp::{Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::cpu::{
    exp::exp,
    instructions::arch,
    memory::{Element, elements, elements_mut, is_plain},
    threads::{elements_per_task, parallel_chunks},
};

/// silu(gate) * up of `both` `[t, gate | up]`: `[t, inner]`. The activation is rounded to the dtype before the product, as
/// transformers does.
pub fn silu_gated(both: &Tensor) -> Tensor {
    if !is_plain(both) || !both.is_contiguous() {
        return fallback(both);
    }
    match both.kind() {
        Kind::Float => kernel::<f32>(both),
        _ => kernel::<bf16>(both),
    }
}

fn kernel<T: Element>(both: &Tensor) -> Tensor {
    let (t, width) = both.size2().expect("both is [rows, gate and up]");
    let inner = width as usize / 2;
    let mut out = Tensor::empty([t, width / 2], (both.kind(), both.device()));
    let both = elements::<T>(both);
    let size = elements_per_task(inner);
    parallel_chunks(elements_mut::<T>(&mut out), size, &|task, out| {
        arch().dispatch(Gated { both: &both[2 * task * size..], inner, out });
    });
    out
}

struct Gated<'a, T> {
    both: &'a [T],
    inner: usize,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Gated<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { both, inner, out } = self;
        for (out, both) in out.chunks_exact_mut(inner).zip(both.chunks_exact(2 * inner)) {
            let (gates, ups) = both.split_at(inner);
            for ((out, gate), up) in out.iter_mut().zip(gates).zip(ups) {
                let gate = gate.to_f32();
                let activated = T::from_f32(gate / (1.0 + exp(-gate)));
                *out = T::from_f32(activated.to_f32() * up.to_f32());
            }
        }
    }
}

/// The gradient of `silu_gated(both)`, `[t, gate | up]`, for the gradient `grad` `[t, inner]` of its result.
pub fn silu_gated_backward(both: &Tensor, grad: &Tensor) -> Tensor {
    let (t, width) = both.size2().expect("both is [rows, gate and up]");
    assert_eq!(grad.size(), [t, width / 2], "one gradient per gated value");
    if !is_plain(both) || !both.is_contiguous() || !grad.is_contiguous() {
        return fallback_backward(both, grad);
    }
    match both.kind() {
        Kind::Float => backward_kernel::<f32>(both, grad),
        _ => backward_kernel::<bf16>(both, grad),
    }
}

fn backward_kernel<T: Element>(both: &Tensor, grad: &Tensor) -> Tensor {
    let inner = grad.size()[1] as usize;
    let mut out = both.empty_like();
    let (both, grad) = (elements::<T>(both), elements::<T>(grad));
    let size = elements_per_task(inner);
    parallel_chunks(elements_mut::<T>(&mut out), 2 * size, &|task, out| {
        let (both, grad) = (&both[2 * task * size..], &grad[task * size..]);
        arch().dispatch(GatedBackward { both, grad, inner, out });
    });
    out
}

struct GatedBackward<'a, T> {
    both: &'a [T],
    grad: &'a [T],
    inner: usize,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for GatedBackward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { both, grad, inner, out } = self;
        let rows = both.chunks_exact(2 * inner).zip(grad.chunks_exact(inner));
        for (out, (both, grad)) in out.chunks_exact_mut(2 * inner).zip(rows) {
            let (gates, ups) = both.split_at(inner);
            let (grad_gates, grad_ups) = out.split_at_mut(inner);
            for i in 0..inner {
                let (gate, up, grad) = (gates[i].to_f32(), ups[i].to_f32(), grad[i].to_f32());
                let sigmoid = 1.0 / (1.0 + exp(-gate));
                grad_ups[i] = T::from_f32(grad * gate * sigmoid);
                grad_gates[i] = T::from_f32(grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)));
            }
        }
    }
}

fn fallback_backward(both: &Tensor, grad: &Tensor) -> Tensor {
    let (inner, wide) = (both.size()[1] / 2, both.to_kind(Kind::Float));
    let (gate, up, grad) =
        (wide.narrow(1, 0, inner), wide.narrow(1, inner, inner), grad.to_kind(Kind::Float));
    let sigmoid = gate.sigmoid();
    let grad_up = &grad * &gate * &sigmoid;
    let grad_gate = grad * up * &sigmoid * (&gate * (1.0 - &sigmoid) + 1.0);
    Tensor::cat(&[grad_gate, grad_up], 1).to_kind(both.kind())
}

fn fallback(both: &Tensor) -> Tensor {
    let inner = both.size()[1] / 2;
    both.narrow(1, 0, inner).silu() * both.narrow(1, inner, inner)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::testing::assert_close;

    #[test]
    fn the_kernel_equals_the_operations() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (t, inner) in [(1, 1), (3, 7), (50, 1536)] {
                let both = (Tensor::randn([t, 2 * inner], (Kind::Float, Device::Cpu)) * 3.0).to_kind(kind);
                assert_close(&silu_gated(&both), &fallback(&both), &format!("{t} x {inner}"));
            }
        }
    }

    #[test]
    fn the_gradient_equals_that_of_autograd() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (t, inner) in [(1, 1), (3, 7), (50, 1536)] {
                let random = |w: i64| (Tensor::randn([t, w], (Kind::Float, Device::Cpu)) * 3.0).to_kind(kind);
                let (both, grad) = (random(2 * inner), random(inner));
                let x = both.copy().set_requires_grad(true);
                (fallback(&x) * &grad).sum(Kind::Float).backward();
                let what = format!("{t} x {inner}");
                assert_close(&silu_gated_backward(&both, &grad), &x.grad(), &what);
                assert_close(&fallback_backward(&both, &grad), &x.grad(), &what);
            }
        }
    }
}
