//! Adding bf16 gradients to fp32 sums without the fp32 copy of them that libtorch makes.

use half::bf16;
use pulp::{Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::cpu::{
    instructions::arch,
    memory::{Element, elements, elements_mut, is_plain},
    threads::parallel_chunks,
};

const ELEMENTS_PER_TASK: usize = 65_536;

/// Adds `x` to `sum`, fp32 and of the same shape.
pub fn accumulate(sum: &mut Tensor, x: &Tensor) {
    assert_eq!(sum.size(), x.size(), "one addend per element");
    let plain = is_plain(sum) && is_plain(x) && sum.is_contiguous() && x.is_contiguous();
    if !plain || x.kind() != Kind::BFloat16 {
        let _ = sum.g_add_(x);
        return;
    }
    let x = elements::<bf16>(x);
    parallel_chunks(elements_mut::<f32>(sum), ELEMENTS_PER_TASK, &|task, sum| {
        arch().dispatch(Add { sum, x: &x[task * ELEMENTS_PER_TASK..] });
    });
}

struct Add<'a> {
    sum: &'a mut [f32],
    x: &'a [bf16],
}

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (sum, x) in self.sum.iter_mut().zip(self.x) {
            *sum += Element::to_f32(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_kernel_equals_the_operation() {
        for shape in [vec![1i64], vec![300, 577]] {
            let sum = Tensor::randn(&shape, (Kind::Float, Device::Cpu));
            let x = Tensor::randn(&shape, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
            let mut found = sum.copy();
            accumulate(&mut found, &x);
            assert!(found.equal(&(&sum + &x)));
        }
    }
}
