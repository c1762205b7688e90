//! The AdamW update (arXiv 1711.05101) in one pass over memory: moments, decay, master weights, the rounded parameter,
//! and the gradient back to zero.

use std::ffi::{c_char, c_void};

use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use crate::{
    GpuError,
    memory::{Element, Shared, elements_mut},
    store::outcome,
    threads::parallel,
};

/// Elements of a task.
const SHARE: usize = 65_536;

unsafe extern "C" {
    fn jacobi_fused_adamw(
        state: *const *const c_void,
        numbers: *const f64,
        divisor: *const c_void,
    ) -> *mut c_char;
}

/// One parameter and what is kept for it, all of one shape and contiguous.
pub struct AdamWSlot<'a> {
    /// What the forward pass reads, where that is not the master itself.
    pub parameter: Option<&'a mut Tensor>,
    /// fp32.
    pub master: &'a mut Tensor,
    /// First moment, fp32 or bf16.
    pub first: &'a mut Tensor,
    /// Second moment, of the same dtype.
    pub second: &'a mut Tensor,
    /// fp32; zero afterwards.
    pub gradient: &'a mut Tensor,
    /// Decoupled decay.
    pub weight_decay: f64,
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Steps taken with this one.
    pub step: usize,
    /// The rate.
    pub learning_rate: f64,
    /// Factor on the gradients.
    pub scale: f64,
}

/// One step of one parameter.
pub fn adamw(slot: AdamWSlot, step: &AdamWStep) {
    let n = slot.master.numel();
    for tensor in [&*slot.first, &*slot.second, &*slot.gradient] {
        assert_eq!(tensor.numel(), n, "one value per weight");
    }
    assert_eq!(slot.first.kind(), slot.second.kind(), "moments of one dtype");
    if slot.master.device() != Device::Cpu {
        return match slot.first.kind() {
            Kind::Float => libtorchs(slot, step).expect("AdamW on a GPU"),
            _ => composed(slot, step),
        };
    }
    match slot.first.kind() {
        Kind::Float => fused::<f32>(slot, step),
        _ => fused::<bf16>(slot, step),
    }
}

fn fused<M: Element>(slot: AdamWSlot, step: &AdamWStep) {
    let n = slot.master.numel();
    let numbers = Numbers::new(step, slot.weight_decay);
    let master = Shared::new(elements_mut::<f32>(slot.master));
    let first = Shared::new(elements_mut::<M>(slot.first));
    let second = Shared::new(elements_mut::<M>(slot.second));
    let gradient = Shared::new(elements_mut::<f32>(slot.gradient));
    let rounded = slot.parameter.map(|parameter| Shared::new(elements_mut::<bf16>(parameter)));
    parallel(n.div_ceil(SHARE), &|task| {
        let part = task * SHARE..((task + 1) * SHARE).min(n);
        // SAFETY: these elements are this task's alone.
        let kernel = unsafe {
            Kernel {
                numbers,
                master: master.part(part.clone()),
                first: first.part(part.clone()),
                second: second.part(part.clone()),
                gradient: gradient.part(part.clone()),
            }
        };
        Arch::new().dispatch(kernel);
        if let Some(rounded) = &rounded {
            // SAFETY: as above; the kernel is done with the masters.
            let (target, source) = unsafe { (rounded.part(part.clone()), master.part(part)) };
            Arch::new().dispatch(Round { target, source });
        }
    });
}

/// The step's numbers as the kernel uses them.
#[derive(Clone, Copy)]
struct Numbers {
    beta1: f32,
    beta2: f32,
    /// 1 - beta, rounded once: near 1, 1 - (fp32 beta) would be off.
    rest1: f32,
    rest2: f32,
    eps: f32,
    keep: f32,
    rate: f32,
    root_bias2: f32,
    scale: f32,
}

impl Numbers {
    fn new(step: &AdamWStep, weight_decay: f64) -> Self {
        let bias = |beta: f64| 1.0 - beta.powi(step.step as i32);
        Self {
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            rest1: (1.0 - step.beta1) as f32,
            rest2: (1.0 - step.beta2) as f32,
            eps: step.eps as f32,
            keep: (1.0 - step.learning_rate * weight_decay) as f32,
            rate: (step.learning_rate / bias(step.beta1)) as f32,
            root_bias2: (1.0 / bias(step.beta2).sqrt()) as f32,
            scale: step.scale as f32,
        }
    }
}

struct Kernel<'a, M> {
    numbers: Numbers,
    master: &'a mut [f32],
    first: &'a mut [M],
    second: &'a mut [M],
    gradient: &'a mut [f32],
}

impl<M: Element> WithSimd for Kernel<'_, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { numbers: c, master, first, second, gradient } = self;
        let moments = first.iter_mut().zip(second);
        for ((master, gradient), (first, second)) in master.iter_mut().zip(gradient).zip(moments) {
            let g = *gradient * c.scale;
            let m = c.beta1 * first.to_f32() + c.rest1 * g;
            let v = c.beta2 * second.to_f32() + c.rest2 * (g * g);
            *first = M::from_f32(m);
            *second = M::from_f32(v);
            *master = *master * c.keep - c.rate * m / (v.sqrt() * c.root_bias2 + c.eps);
            *gradient = 0.0;
        }
    }
}

struct Round<'a> {
    target: &'a mut [bf16],
    source: &'a [f32],
}

impl WithSimd for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (target, source) in self.target.iter_mut().zip(self.source) {
            *target = Element::from_f32(*source);
        }
    }
}

/// libtorch's own kernel, for moments in fp32.
fn libtorchs(slot: AdamWSlot, step: &AdamWStep) -> Result<(), GpuError> {
    let device = slot.master.device();
    let number = |value: f64| Tensor::full([], value, (Kind::Float, device));
    let (steps, divisor) = (number(step.step as f64), number(1.0 / step.scale));
    let state = [&*slot.master, &*slot.gradient, &*slot.first, &*slot.second, &steps];
    let state = state.map(|tensor| tensor.as_ptr().cast::<c_void>());
    let numbers = [step.learning_rate, step.beta1, step.beta2, slot.weight_decay, step.eps];
    // SAFETY: five tensors that live, five numbers, and one more tensor.
    let text = unsafe { jacobi_fused_adamw(state.as_ptr(), numbers.as_ptr(), divisor.as_ptr().cast()) };
    outcome(text).map_err(GpuError)?;
    tch::no_grad(|| {
        if let Some(parameter) = slot.parameter {
            parameter.copy_(slot.master);
        }
        let _ = slot.gradient.zero_();
    });
    Ok(())
}

fn composed(slot: AdamWSlot, step: &AdamWStep) {
    let bias = |beta: f64| 1.0 - beta.powi(step.step as i32);
    tch::no_grad(|| {
        let gradient = &*slot.gradient * step.scale;
        let wide = |moment: &Tensor| moment.to_kind(Kind::Float);
        let m = wide(slot.first) * step.beta1 + &gradient * (1.0 - step.beta1);
        let v = wide(slot.second) * step.beta2 + gradient.square() * (1.0 - step.beta2);
        slot.first.copy_(&m);
        slot.second.copy_(&v);
        let _ = slot.master.g_mul_scalar_(1.0 - step.learning_rate * slot.weight_decay);
        let denominator = v.sqrt() / bias(step.beta2).sqrt() + step.eps;
        let _ = slot.master.g_sub_(&(m / denominator * (step.learning_rate / bias(step.beta1))));
        if let Some(parameter) = slot.parameter {
            parameter.copy_(slot.master);
        }
        let _ = slot.gradient.zero_();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::assert_close, testing::devices};

    #[test]
    fn libtorchs_kernel_equals_the_operations() {
        for device in devices("libtorch's AdamW") {
            let options = (Kind::Float, device);
            let start = Tensor::randn([1000], options);
            let fresh =
                || [start.copy(), start.zeros_like(), start.zeros_like(), start.to_kind(Kind::BFloat16)];
            let (mut a, mut b) = (fresh(), fresh());
            for step in 1..4 {
                let drawn = Tensor::randn([1000], options);
                for (values, is_libtorchs) in [(&mut a, true), (&mut b, false)] {
                    let [master, first, second, parameter] = values;
                    let gradient = &mut drawn.copy();
                    let slot = AdamWSlot {
                        parameter: Some(parameter),
                        master,
                        first,
                        second,
                        gradient,
                        weight_decay: 0.1,
                    };
                    let step = AdamWStep {
                        beta1: 0.9,
                        beta2: 0.95,
                        eps: 1e-8,
                        step,
                        learning_rate: 0.01,
                        scale: 0.5,
                    };
                    if is_libtorchs {
                        libtorchs(slot, &step).unwrap()
                    } else {
                        composed(slot, &step)
                    }
                    assert_eq!(gradient.abs().max().double_value(&[]), 0.0);
                }
            }
            for ((a, b), name) in a.iter().zip(&b).zip(["master", "first", "second", "parameter"]) {
                assert_close(a, b, name);
            }
        }
    }

    #[test]
    fn the_kernel_equals_the_operations() {
        let numbers =
            |step| AdamWStep { beta1: 0.9, beta2: 0.95, eps: 1e-8, step, learning_rate: 0.01, scale: 0.5 };
        for moments in [Kind::Float, Kind::BFloat16] {
            let options = (Kind::Float, Device::Cpu);
            let start = Tensor::randn([70_001], options);
            let fresh = || {
                let zeros = || start.zeros_like().to_kind(moments);
                [start.copy(), zeros(), zeros(), start.to_kind(Kind::BFloat16)]
            };
            let (mut a, mut b) = (fresh(), fresh());
            for step in 1..4 {
                let drawn = Tensor::randn([70_001], options);
                for (values, update) in [(&mut a, adamw as fn(AdamWSlot, &AdamWStep)), (&mut b, composed)] {
                    let [master, first, second, parameter] = values;
                    let mut gradient = drawn.copy();
                    let slot = AdamWSlot {
                        parameter: Some(parameter),
                        master,
                        first,
                        second,
                        gradient: &mut gradient,
                        weight_decay: 0.1,
                    };
                    update(slot, &numbers(step));
                    assert!(gradient.eq_tensor(&gradient.zeros_like()).all().int64_value(&[]) == 1);
                }
            }
            let names = ["master", "first", "second", "parameter"];
            for ((a, b), name) in a.iter().zip(&b).zip(names) {
                let tolerated = if moments == Kind::Float { b.kind() } else { Kind::BFloat16 };
                assert_close(&a.to_kind(tolerated), &b.to_kind(tolerated), name);
            }
        }
    }
}
