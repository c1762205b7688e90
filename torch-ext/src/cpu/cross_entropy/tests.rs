//! Losses and gradients against the operations and autograd.

use tch::Device;

use super::*;
use crate::testing::assert_close;

fn random(shape: &[i64], kind: Kind) -> Tensor {
    (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 3.0).to_kind(kind)
}

fn assert_losses(found: &[f64], expected: &[f64]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} {expected}");
    }
}

#[test]
fn hard_targets_equal_the_operations() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for v in [1i64, 5, 16, 1003] {
            let targets: Vec<HardTarget> = (0..4u32)
                .map(|i| HardTarget { token: (i != 2).then_some(i % v as u32), weight: 0.5 + i as f32 })
                .collect();
            let logits = random(&[4, v], kind);
            let (mut a, mut b) = (logits.copy(), logits.copy());
            assert_losses(&cross_entropy(&mut a, &targets), &fallback_hard(&mut b, &targets));
            assert_close(&a, &b, &format!("vocabulary of {v}"));
        }
    }
}

/// The cross-entropy alone, each other term alone, and all of them.
const TERMS: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.3, 0.5, 2.0]];

fn terms(tau: f64, [cross_entropy, total_variation, negative_log_acceptance]: [f64; 3]) -> SoftLoss {
    SoftLoss { tau, cross_entropy, total_variation, negative_log_acceptance }
}

#[test]
fn soft_targets_equal_the_operations() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (v, tau) in [(1i64, 1.0), (5, 2.0), (1003, 0.7)] {
            for loss in TERMS.map(|weights| terms(tau, weights)) {
                let targets = [2, 0, 2].map(|teacher| SoftTarget { teacher, weight: 0.3 + teacher as f32 });
                let (logits, teacher) = (random(&[3, v], kind), random(&[3, v], kind));
                let (mut a, mut b) = (logits.copy(), logits.copy());
                let found = soft_loss(&mut a, &teacher, &targets, &loss);
                assert_losses(&found, &fallback_soft(&mut b, &teacher, &targets, &loss));
                assert_close(&a, &b, &format!("vocabulary of {v}, {loss:?}"));
            }
        }
    }
}

#[test]
fn both_gradients_equal_those_of_autograd() {
    let (logits, teacher) = (random(&[3, 50], Kind::Float), random(&[3, 50], Kind::Float));
    let leaf = logits.copy().set_requires_grad(true);
    let tokens = Tensor::from_slice(&[7i64, 3, 49]);
    let none = None::<&Tensor>;
    let summed: Tensor = leaf.cross_entropy_loss(&tokens, none, tch::Reduction::Sum, -100, 0.0);
    (summed * 2.0).backward();
    let mut found = logits.copy();
    cross_entropy(&mut found, &[7, 3, 49].map(|t| HardTarget { token: Some(t), weight: 2.0 }));
    assert_close(&found, &leaf.grad(), "hard");

    for weights in TERMS {
        let leaf = logits.copy().set_requires_grad(true);
        let (p, tau) = ((&teacher / 2.0).softmax(-1, Kind::Float), 2.0);
        let log_q = (&leaf / tau).log_softmax(-1, Kind::Float);
        let sum = |x: Tensor| x.sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        let alpha = sum(p.minimum(&log_q.exp()));
        let total: Tensor =
            -sum(&p * &log_q) * weights[0] + (1.0 - &alpha) * weights[1] - alpha.log() * weights[2];
        (total.sum(Kind::Float) * tau * tau * 3.0).backward();
        let mut found = logits.copy();
        let targets = [0, 1, 2].map(|teacher| SoftTarget { teacher, weight: 3.0 });
        soft_loss(&mut found, &teacher, &targets, &terms(tau, weights));
        assert_close(&found, &leaf.grad(), &format!("soft, {weights:?}"));
    }
}

#[test]
fn a_nan_is_not_hidden() {
    let logits = random(&[1, 40], Kind::Float);
    let _ = logits.get(0).get(20).fill_(f64::NAN);
    let target = HardTarget { token: Some(1), weight: 1.0 };
    assert!(cross_entropy(&mut logits.copy(), &[target])[0].is_nan());
    let target = SoftTarget { teacher: 0, weight: 1.0 };
    let loss = terms(1.0, TERMS[0]);
    assert!(soft_loss(&mut logits.copy(), &logits, &[target], &loss)[0].is_nan());
}

#[test]
fn probabilities_equal_the_operations() {
    for kind in [Kind::Float, Kind::BFloat16] {
        // The transposed one is not contiguous.
        for logits in [random(&[5, 1003], kind), random(&[1003, 5], kind).tr()] {
            let tokens = [Some(0), None, Some(1002), Some(17), Some(500)];
            let softmax = logits.softmax(-1, Kind::Float);
            let expected: Vec<f64> = (0..5)
                .map(|row| {
                    tokens[row].map_or(0.0, |token| softmax.double_value(&[row as i64, i64::from(token)]))
                })
                .collect();
            assert_losses(&probabilities(&logits, &tokens), &expected);
        }
    }
}
