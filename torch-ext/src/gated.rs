//! The activation of a gated MLP: silu(gate) * up (arXiv 2002.05202, SwiGLU).

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::{
    exp::exp,
    memory::{Element, Shared, elements, elements_mut, is_plain},
    threads::parallel,
};

/// Elements of a task.
const SHARE: usize = 32_768;

/// silu(gate) * up of `both` `[t, gate | up]`: `[t, inner]`. The activation is rounded to the dtype before the product, as
/// transformers does.
pub fn silu_gated(both: &Tensor) -> Tensor {
    if !is_plain(both) || !both.is_contiguous() {
        return composed(both);
    }
    match both.kind() {
        Kind::Float => rows::<f32>(both),
        _ => rows::<bf16>(both),
    }
}

fn rows<T: Element>(both: &Tensor) -> Tensor {
    let (t, width) = both.size2().expect("both is [rows, gate and up]");
    let inner = width as usize / 2;
    let mut out = Tensor::empty([t, width / 2], (both.kind(), both.device()));
    let both = elements::<T>(both);
    let target = Shared::new(elements_mut::<T>(&mut out));
    let share = (SHARE / inner).max(1);
    parallel((t as usize).div_ceil(share), &|task| {
        let rows = task * share..((task + 1) * share).min(t as usize);
        // SAFETY: these rows are this task's alone.
        let out = unsafe { target.part(rows.start * inner..rows.end * inner) };
        let both = &both[rows.start * 2 * inner..rows.end * 2 * inner];
        Arch::new().dispatch(Kernel { both, inner, out });
    });
    out
}

struct Kernel<'a, T> {
    both: &'a [T],
    inner: usize,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Kernel<'_, T> {
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

fn composed(both: &Tensor) -> Tensor {
    let inner = both.size()[1] / 2;
    both.narrow(1, 0, inner).silu() * both.narrow(1, inner, inner)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::memory::assert_close;

    #[test]
    fn the_kernel_equals_the_operations() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (t, inner) in [(1, 1), (3, 7), (50, 1536)] {
                let both = (Tensor::randn([t, 2 * inner], (Kind::Float, Device::Cpu)) * 3.0).to_kind(kind);
                assert_close(&silu_gated(&both), &composed(&both), &format!("{t} x {inner}"));
            }
        }
    }
}
