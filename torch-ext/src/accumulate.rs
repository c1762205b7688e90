//! Adding bf16 gradients to fp32 sums without an fp32 copy of them, which libtorch would make.

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use tch::{Kind, Tensor};

use crate::{
    memory::{Element, Shared, elements, elements_mut, is_plain},
    threads::parallel,
};

/// Elements of a task.
const SHARE: usize = 65_536;

/// Adds `x` to `sum`, fp32 and of the same shape.
pub fn accumulate(sum: &mut Tensor, x: &Tensor) {
    assert_eq!(sum.size(), x.size(), "one addend per element");
    let plain = is_plain(sum) && is_plain(x) && sum.is_contiguous() && x.is_contiguous();
    if !plain || x.kind() != Kind::BFloat16 {
        let _ = sum.g_add_(x);
        return;
    }
    let n = x.numel();
    let (target, x) = (Shared::new(elements_mut::<f32>(sum)), elements::<bf16>(x));
    parallel(n.div_ceil(SHARE), &|task| {
        let part = task * SHARE..((task + 1) * SHARE).min(n);
        // SAFETY: these elements are this task's alone.
        let sum = unsafe { target.part(part.clone()) };
        Arch::new().dispatch(Add { sum, x: &x[part] });
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
