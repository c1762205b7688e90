//! The AdamW update (arXiv 1711.05101) in one pass over memory: moments, decay, master weights, the rounded parameter,
//! and zeroing the gradient.

use std::ffi::{c_char, c_void};

use half::bf16;
use pulp::{Simd, WithSimd};
use tch::{Device, Kind, Tensor};

use crate::{
    GpuError,
    cpu::{
        instructions::arch,
        memory::{Element, Shared, elements_mut},
        pool::parallel,
    },
    shim::{outcome, pointer},
};

const ELEMENTS_PER_TASK: usize = 65_536;

/// On a GPU, elements whose bf16 moments are fp32 at a time: 16 MB each. Those of an embedding would take gigabytes.
const ELEMENTS_PER_CALL: i64 = 1 << 22;

unsafe extern "C" {
    fn jacobi_fused_adamw(
        state: *const *const c_void,
        numbers: *const f64,
        divisor: *const c_void,
    ) -> *mut c_char;
}

/// One parameter with its state, all of one shape and contiguous.
pub struct AdamWSlot<'a> {
    /// The bf16 parameter of the forward pass; `None` if that reads the master itself.
    pub parameter: Option<&'a mut Tensor>,
    /// fp32.
    pub master: &'a mut Tensor,
    /// First moment, fp32 or bf16.
    pub first: &'a mut Tensor,
    /// Second moment, of the same dtype.
    pub second: &'a mut Tensor,
    /// fp32; set to zero.
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
    /// Number of the step, from 1 on.
    pub step: usize,
    /// Learning rate.
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
            Kind::Float => libtorch_kernel(slot, step),
            _ => widened_in_parts(slot, step, ELEMENTS_PER_CALL),
        }
        .expect("AdamW on a GPU");
    }
    match slot.first.kind() {
        Kind::Float => kernel::<f32>(slot, step),
        _ => kernel::<bf16>(slot, step),
    }
}

fn kernel<M: Element>(slot: AdamWSlot, step: &AdamWStep) {
    let n = slot.master.numel();
    let numbers = Numbers::new(step, slot.weight_decay);
    let master = Shared::new(elements_mut::<f32>(slot.master));
    let first = Shared::new(elements_mut::<M>(slot.first));
    let second = Shared::new(elements_mut::<M>(slot.second));
    let gradient = Shared::new(elements_mut::<f32>(slot.gradient));
    let rounded = slot.parameter.map(|parameter| Shared::new(elements_mut::<bf16>(parameter)));
    parallel(n.div_ceil(ELEMENTS_PER_TASK), &|task| {
        let part = task * ELEMENTS_PER_TASK..((task + 1) * ELEMENTS_PER_TASK).min(n);
        // SAFETY: no other task has these elements.
        let update = unsafe {
            AdamWUpdate {
                numbers,
                master: master.part(part.clone()),
                first: first.part(part.clone()),
                second: second.part(part.clone()),
                gradient: gradient.part(part.clone()),
            }
        };
        arch().dispatch(update);
        if let Some(rounded) = &rounded {
            // SAFETY: as above; the update no longer uses the masters.
            let (target, source) = unsafe { (rounded.part(part.clone()), master.part(part)) };
            arch().dispatch(Round { target, source });
        }
    });
}

/// The numbers of a step as the kernel uses them.
#[derive(Clone, Copy)]
struct Numbers {
    beta1: f32,
    beta2: f32,
    /// 1 - beta, computed in f64: in fp32 it would be inexact for a beta near 1.
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    eps: f32,
    /// 1 - learning rate * weight decay.
    decay: f32,
    /// Divided by the bias of the first moment.
    rate: f32,
    /// One over the root of the bias of the second moment.
    root_bias2: f32,
    scale: f32,
}

impl Numbers {
    fn new(step: &AdamWStep, weight_decay: f64) -> Self {
        let bias = |beta: f64| 1.0 - beta.powi(step.step as i32);
        Self {
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            one_minus_beta1: (1.0 - step.beta1) as f32,
            one_minus_beta2: (1.0 - step.beta2) as f32,
            eps: step.eps as f32,
            decay: (1.0 - step.learning_rate * weight_decay) as f32,
            rate: (step.learning_rate / bias(step.beta1)) as f32,
            root_bias2: (1.0 / bias(step.beta2).sqrt()) as f32,
            scale: step.scale as f32,
        }
    }
}

struct AdamWUpdate<'a, M> {
    numbers: Numbers,
    master: &'a mut [f32],
    first: &'a mut [M],
    second: &'a mut [M],
    gradient: &'a mut [f32],
}

impl<M: Element> WithSimd for AdamWUpdate<'_, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { numbers: c, master, first, second, gradient } = self;
        let moments = first.iter_mut().zip(second);
        for ((master, gradient), (first, second)) in master.iter_mut().zip(gradient).zip(moments) {
            let g = *gradient * c.scale;
            let m = c.beta1 * first.to_f32() + c.one_minus_beta1 * g;
            let v = c.beta2 * second.to_f32() + c.one_minus_beta2 * (g * g);
            *first = M::from_f32(m);
            *second = M::from_f32(v);
            *master = *master * c.decay - c.rate * m / (v.sqrt() * c.root_bias2 + c.eps);
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

/// libtorch's fused kernel, for moments in fp32.
fn libtorch_kernel(slot: AdamWSlot, step: &AdamWStep) -> Result<(), GpuError> {
    let device = slot.master.device();
    let number = |value: f64| Tensor::full([], value, (Kind::Float, device));
    let (steps, divisor) = (number(step.step as f64), number(1.0 / step.scale));
    let state = [&*slot.master, &*slot.gradient, &*slot.first, &*slot.second, &steps];
    let state = state.map(|tensor| pointer(tensor).cast_const());
    let numbers = [step.learning_rate, step.beta1, step.beta2, slot.weight_decay, step.eps];
    // SAFETY: five live tensors, five numbers, and one more tensor.
    let text = unsafe { jacobi_fused_adamw(state.as_ptr(), numbers.as_ptr(), pointer(&divisor)) };
    outcome(text).map_err(GpuError)?;
    tch::no_grad(|| {
        if let Some(parameter) = slot.parameter {
            parameter.copy_(slot.master);
        }
        let _ = slot.gradient.zero_();
    });
    Ok(())
}

/// libtorch's fused kernel for moments in bf16, `count` elements at a time.
fn widened_in_parts(slot: AdamWSlot, step: &AdamWStep, count: i64) -> Result<(), GpuError> {
    let n = slot.master.numel() as i64;
    for start in (0..n).step_by(count as usize) {
        let part = |tensor: &Tensor| tensor.view([-1]).narrow(0, start, count.min(n - start));
        let moments = [&*slot.first, &*slot.second].map(part);
        let [mut first, mut second] = moments.each_ref().map(|moment| moment.to_kind(Kind::Float));
        let mut parameter = slot.parameter.as_deref().map(part);
        let part_of_slot = AdamWSlot {
            parameter: parameter.as_mut(),
            master: &mut part(slot.master),
            first: &mut first,
            second: &mut second,
            gradient: &mut part(slot.gradient),
            weight_decay: slot.weight_decay,
        };
        libtorch_kernel(part_of_slot, step)?;
        for (mut moment, widened) in moments.into_iter().zip([first, second]) {
            tch::no_grad(|| moment.copy_(&widened));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
