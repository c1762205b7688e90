//! The dual loss, its gradients and AdamW against PyTorch (scripts/golden/dual_loss.py, scripts/golden/adamw.py).

use std::collections::BTreeMap;

use jacobi_datasets::{LossRow, StudentRow};
use jacobi_model::Gradients;
use jacobi_trainer::{
    AdamW, AdamWConfig, Head, LossConfig, MomentsDtype, PcNormalization, PcPositionWeight, PcTerms, Piece,
    Teacher, clip_factor, dual_loss,
};
use tch::Tensor;

use crate::support::{golden, max_difference, tensors};

const TOLERANCE: f64 = 1e-5;

/// Logits are rows times a matrix.
struct Matrix<'a> {
    weight: &'a Tensor,
    gradient: Tensor,
}

impl Head for Matrix<'_> {
    fn logits(&self, rows: &Tensor) -> Tensor {
        rows.matmul(&self.weight.tr())
    }

    fn backward(&mut self, rows: &Tensor, grad_logits: &Tensor) -> Tensor {
        let _ = self.gradient.g_add_(&grad_logits.tr().matmul(rows));
        grad_logits.matmul(self.weight)
    }
}

/// The golden's targets and pairs.
fn loss_rows(g: &BTreeMap<String, Tensor>) -> Vec<LossRow> {
    let column = |name: &str| -> Vec<usize> {
        Vec::<i64>::try_from(&g[name]).unwrap().into_iter().map(|value| value as usize).collect()
    };
    let targets = column("ar_rows").into_iter().zip(column("ar_targets"));
    let mut rows: Vec<LossRow> =
        targets.map(|(row, token)| LossRow { row, token: Some(token as u32), student: None }).collect();
    let blocks = column("pc_block");
    let blocks_of_sample = g["num_blocks"].int64_value(&[]) as usize;
    for (pair, (row, teacher)) in column("pc_student").into_iter().zip(column("pc_teacher")).enumerate() {
        let block = blocks[pair];
        let distance = blocks[..pair].iter().filter(|&&other| other == block).count();
        let target = rows.iter_mut().find(|target| target.row == teacher).unwrap();
        target.student = Some(StudentRow { row, block, distance, blocks_of_sample });
    }
    rows
}

#[test]
fn the_dual_loss_and_its_gradients_equal_pytorch() {
    let g = tensors(&golden("dual_loss.safetensors"));
    let scalar = |name: &str| g[name].double_value(&[]);
    let rows = loss_rows(&g);
    let cases =
        ["tau1", "tau2", "weighted", "ar_only", "pc_only", "reference", "decay", "acceptance", "base"];
    for case in cases {
        let config = LossConfig {
            ar_weight: scalar(&format!("{case}.ar_weight")),
            pc_weight: scalar(&format!("{case}.pc_weight")),
            pc_terms: PcTerms::default(),
            temperature: scalar(&format!("{case}.tau")),
            pc_normalization: match g[&format!("{case}.reference")].int64_value(&[]) {
                1 => PcNormalization::Reference,
                _ => PcNormalization::TokenMean,
            },
            pc_position_weight: match case {
                "decay" => PcPositionWeight::Decay,
                "acceptance" => PcPositionWeight::Acceptance,
                _ => PcPositionWeight::Uniform,
            },
            pc_decay: 0.8,
        };
        let base = |at: &[usize]| {
            let teachers: Vec<i64> = at.iter().map(|&at| rows[at].row as i64).collect();
            g["base"].index_select(0, &Tensor::from_slice(&teachers)).matmul(&g["head"].tr())
        };
        let teacher = if case == "base" { Teacher::Other(&base) } else { Teacher::Own };
        let mut head = Matrix { weight: &g["head"], gradient: g["head"].zeros_like() };
        let counts = config.counts(&rows);
        let losses = dual_loss(&g["hidden"], &mut head, &teacher, &rows, (&config, counts), 5);
        let expected = |name: &str| &g[&format!("{case}.{name}")];
        let off = |found: f64, name: &str| (found - scalar(&format!("{case}.{name}"))).abs();
        assert!(off(config.total(losses.ar, losses.pc), "total") <= TOLERANCE, "{case}: total");
        // A term without weight is not computed.
        assert!(config.ar_weight == 0.0 || off(losses.ar, "loss_ar") <= TOLERANCE, "{case}: L_ar");
        assert!(config.pc_weight == 0.0 || off(losses.pc, "loss_pc") <= TOLERANCE, "{case}: L_pc");
        assert!(max_difference(&losses.gradient_nh, expected("grad_hidden")) <= TOLERANCE, "{case}: hidden");
        assert!(max_difference(&head.gradient, expected("grad_head")) <= TOLERANCE, "{case}: head");
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
        moments: MomentsDtype::Float32,
    };
    let gradients = Gradients::new(&parameters);
    let mut optimizer = AdamW::new(Piece::whole(&parameters, &gradients), config);
    for step in 1..=5 {
        for (name, parameter) in &parameters {
            gradients.add(parameter, &g[&format!("step{step}.grad.{name}")]);
        }
        optimizer.update(scalar("lr"), 1.0);
        for (name, parameter) in &parameters {
            let difference = max_difference(parameter, &g[&format!("step{step}.param.{name}")]);
            assert!(difference <= 1e-6, "step {step}, {name}: {difference}");
        }
    }
    for part in ["exp_avg", "exp_avg_sq"] {
        for name in ["a", "b"] {
            let kept = optimizer.state_tensor(part, name).unwrap();
            let difference = max_difference(&kept, &g[&format!("final.{part}.{name}")].view([-1]));
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
