//! The kernels against the operations.

use super::*;
use crate::testing::{assert_close, devices};

/// The update, operation by operation.
fn operations(slot: AdamWSlot, step: &AdamWStep) {
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

#[test]
fn libtorchs_kernel_equals_the_operations() {
    for (device, moments) in devices("libtorch's AdamW")
        .into_iter()
        .flat_map(|device| [Kind::Float, Kind::BFloat16].map(|moments| (device, moments)))
    {
        let options = (Kind::Float, device);
        let start = Tensor::randn([1000], options);
        let zeros = || start.zeros_like().to_kind(moments);
        let fresh = || [start.copy(), zeros(), zeros(), start.to_kind(Kind::BFloat16)];
        let (mut a, mut b) = (fresh(), fresh());
        for step in 1..4 {
            let drawn = Tensor::randn([1000], options);
            for (values, is_libtorch) in [(&mut a, true), (&mut b, false)] {
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
                let step =
                    AdamWStep { beta1: 0.9, beta2: 0.95, eps: 1e-8, step, learning_rate: 0.01, scale: 0.5 };
                match (is_libtorch, moments) {
                    (true, Kind::Float) => libtorch_kernel(slot, &step).unwrap(),
                    // The last part is shorter.
                    (true, _) => widened_in_parts(slot, &step, 300).unwrap(),
                    (false, _) => operations(slot, &step),
                }
                assert_eq!(gradient.abs().max().double_value(&[]), 0.0);
            }
        }
        for ((a, b), name) in a.iter().zip(&b).zip(["master", "first", "second", "parameter"]) {
            let tolerated = if moments == Kind::Float { b.kind() } else { Kind::BFloat16 };
            assert_close(&a.to_kind(tolerated), &b.to_kind(tolerated), name);
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
            for (values, update) in [(&mut a, adamw as fn(AdamWSlot, &AdamWStep)), (&mut b, operations)] {
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
