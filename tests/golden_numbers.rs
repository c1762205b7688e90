//! The dual loss, its gradients and AdamW against PyTorch (scripts/golden/dual_loss.py, scripts/golden/adamw.py).

use jacobi_trainer::{AdamW, AdamWConfig, LossConfig, LossPlan, clip_factor, dual_loss};
use tch::{Kind, Tensor};

use crate::support::{golden, max_difference, tensors};

const TOLERANCE: f64 = 1e-5;

#[test]
fn the_dual_loss_and_its_gradients_equal_pytorch() {
    let g = tensors(&golden("dual_loss.safetensors"));
    let scalar = |name: &str| g[name].double_value(&[]);
    for case in ["tau1", "tau2", "weighted", "ar_only", "pc_only", "reference"] {
        let hidden = g["hidden"].copy().set_requires_grad(true);
        let head = g["head"].copy().set_requires_grad(true);
        let pairs = g["pc_student"].size()[0];
        let reference = g[&format!("{case}.reference")].int64_value(&[]) == 1;
        let pair_weight = if reference { 1.0 / scalar("num_blocks") } else { 1.0 };
        let plan = LossPlan {
            ar_rows: g["ar_rows"].copy(),
            ar_targets: g["ar_targets"].copy(),
            student_rows: g["pc_student"].copy(),
            teacher_rows: g["pc_teacher"].copy(),
            pair_weights: Tensor::full([pairs], pair_weight, (Kind::Float, tch::Device::Cpu)),
            ar_count: g["ar_rows"].size()[0] as f64,
            pc_count: pairs as f64,
        };
        let config = LossConfig {
            ar_weight: scalar(&format!("{case}.ar_weight")),
            pc_weight: scalar(&format!("{case}.pc_weight")),
            temperature: scalar(&format!("{case}.tau")),
        };
        let losses = dual_loss(&hidden, &|x| x.matmul(&head.tr()), &plan, &config);
        losses.total.backward();
        let expected = |name: &str| &g[&format!("{case}.{name}")];
        assert!(max_difference(&losses.total, expected("total")) <= TOLERANCE, "{case}: total");
        for (name, found, weight) in
            [("loss_ar", &losses.ar, config.ar_weight), ("loss_pc", &losses.pc, config.pc_weight)]
        {
            // A term without weight is not computed.
            let difference = max_difference(found, expected(name));
            assert!(weight == 0.0 || difference <= TOLERANCE, "{case}: {name} differs by {difference}");
        }
        assert!(max_difference(&hidden.grad(), expected("grad_hidden")) <= TOLERANCE, "{case}: hidden");
        assert!(max_difference(&head.grad(), expected("grad_head")) <= TOLERANCE, "{case}: head");
    }
}

#[test]
fn adamw_equals_pytorch_over_five_steps() {
    let g = tensors(&golden("adamw.safetensors"));
    let scalar = |name: &str| g[name].double_value(&[]);
    let parameters: Vec<(String, Tensor)> =
        ["a", "b"].map(|n| (n.to_owned(), g[&format!("param.{n}")].copy())).into();
    let config = AdamWConfig {
        beta1: scalar("beta1"),
        beta2: scalar("beta2"),
        eps: scalar("eps"),
        weight_decay: scalar("weight_decay"),
    };
    let mut optimizer = AdamW::new(&parameters, config);
    for step in 1..=5 {
        for (name, parameter) in &parameters {
            // The gradient of sum(p * g) is g.
            (parameter * &g[&format!("step{step}.grad.{name}")]).sum(Kind::Float).backward();
        }
        optimizer.accumulate();
        optimizer.update(scalar("lr"), 1.0);
        for (name, parameter) in &parameters {
            let difference = max_difference(parameter, &g[&format!("step{step}.param.{name}")]);
            assert!(difference <= 1e-6, "step {step}, {name}: {difference}");
        }
    }
    let state: std::collections::BTreeMap<_, _> = optimizer.state().into_iter().collect();
    for part in ["exp_avg", "exp_avg_sq"] {
        for name in ["a", "b"] {
            let difference =
                max_difference(&state[&format!("{part}.{name}")], &g[&format!("final.{part}.{name}")]);
            assert!(difference <= 1e-6, "{part}.{name}: {difference}");
        }
    }
}

#[test]
fn clipping_equals_pytorch() {
    let g = tensors(&golden("adamw.safetensors"));
    for case in ["clip", "keep"] {
        let norm = g[&format!("{case}.total_norm")].double_value(&[]);
        let factor = clip_factor(norm, g[&format!("{case}.max_norm")].double_value(&[]));
        for name in ["a", "b"] {
            let clipped = &g[&format!("step1.grad.{name}")] * factor;
            let difference = max_difference(&clipped, &g[&format!("{case}.grad.{name}")]);
            assert!(difference <= 1e-6, "{case}: {name} differs by {difference}");
        }
    }
}
