//! The dual loss L = L_pc + lambda * L_ar (arXiv 2512.14681, equations of section 3), one forward pass for both.
//!
//! L_ar: cross-entropy of the clean stream against the fixed-point tokens. L_pc: at every kept offset of a noisy
//! block, soft cross-entropy between the teacher softmax(clean logits / tau), detached, and the student
//! log-softmax(noisy logits / tau), times tau^2. Departures from the reference code: L_pc is a mean over kept
//! positions (its further division by the number of blocks is `pc_normalization = "reference"`), and lambda is 1.
//!
//! Legend: n rows of hidden states, h hidden width, v vocabulary, a autoregressive targets, p consistency pairs.

use jacobi_model::to_float32;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How L_pc is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PcNormalization {
    /// Mean over kept positions.
    TokenMean,
    /// The mean, divided again by the sample's number of blocks, as the reference code does.
    Reference,
}

/// How much a consistency position counts, by its distance from the divergence. Nearer positions decide how many
/// tokens a forward pass accepts. Not in the paper, which weighs all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PcPositionWeight {
    /// All alike.
    Uniform,
    /// `pc_decay` to the power of the distance.
    Decay,
}

/// Weights and temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossConfig {
    /// lambda.
    pub ar_weight: f64,
    /// Weight of L_pc.
    pub pc_weight: f64,
    /// tau.
    pub temperature: f64,
}

/// Which rows of the hidden states `[n, h]` carry which loss. Index tensors are int64.
pub struct LossPlan {
    /// Rows that predict a response token, `[a]`.
    pub ar_rows: Tensor,
    /// Those tokens, `[a]`.
    pub ar_targets: Tensor,
    /// Rows of noisy blocks, `[p]`.
    pub student_rows: Tensor,
    /// The clean row of the same offset, `[p]`.
    pub teacher_rows: Tensor,
    /// Weight of each pair, fp32 `[p]`.
    pub pair_weights: Tensor,
    /// Targets of the whole optimizer step: the divisor of L_ar.
    pub ar_count: f64,
    /// Sum of the position weights over the whole optimizer step: the divisor of L_pc.
    pub pc_count: f64,
}

/// Losses as scalar tensors; `total` carries the graph.
pub struct Losses {
    /// pc_weight * L_pc + ar_weight * L_ar.
    pub total: Tensor,
    /// L_ar, detached.
    pub ar: Tensor,
    /// L_pc, detached.
    pub pc: Tensor,
}

/// The dual loss of hidden states `[n, h]`; `logits` is the head, `[.., h] -> [.., v]`.
pub fn dual_loss(
    hidden_nh: &Tensor,
    logits: &dyn Fn(&Tensor) -> Tensor,
    plan: &LossPlan,
    config: &LossConfig,
) -> Losses {
    let head = |rows: &Tensor| to_float32(&logits(&hidden_nh.index_select(0, rows)));
    let zero = || Tensor::zeros([], (Kind::Float, hidden_nh.device()));
    let ar = if config.ar_weight > 0.0 && plan.ar_count > 0.0 {
        let summed = head(&plan.ar_rows).cross_entropy_loss::<Tensor>(
            &plan.ar_targets,
            None,
            tch::Reduction::Sum,
            -100,
            0.0,
        );
        summed / plan.ar_count
    } else {
        zero()
    };
    let pc = if config.pc_weight > 0.0 && plan.pc_count > 0.0 {
        let teacher_pv =
            tch::no_grad(|| (head(&plan.teacher_rows) / config.temperature).softmax(-1, Kind::Float));
        let student_pv = (head(&plan.student_rows) / config.temperature).log_softmax(-1, Kind::Float);
        let per_pair = -(teacher_pv * student_pv).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        let tau_squared = config.temperature * config.temperature;
        (per_pair * &plan.pair_weights).sum(Kind::Float) * tau_squared / plan.pc_count
    } else {
        zero()
    };
    Losses { total: &pc * config.pc_weight + &ar * config.ar_weight, ar: ar.detach(), pc: pc.detach() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
    }

    fn softmax(row: &[f64], tau: f64) -> Vec<f64> {
        let top = row.iter().copied().fold(f64::MIN, f64::max);
        let exp: Vec<f64> = row.iter().map(|x| ((x - top) / tau).exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.iter().map(|e| e / sum).collect()
    }

    /// The same loss as loops over rows of logits; the teacher's logits may be frozen apart.
    fn naive(logits: &[Vec<f64>], teacher: &[Vec<f64>], tau: f64) -> f64 {
        let ar: f64 =
            [(0usize, 3usize), (1, 1)].iter().map(|&(r, t)| -softmax(&logits[r], 1.0)[t].ln()).sum();
        let pc: f64 = [(3usize, 1usize, 1.0), (4, 2, 0.5)]
            .iter()
            .map(|&(s, t, w)| {
                let (p, q) = (softmax(&teacher[t], tau), softmax(&logits[s], tau));
                -w * tau * tau * p.iter().zip(&q).map(|(p, q)| p * q.ln()).sum::<f64>()
            })
            .sum();
        0.7 * pc / 4.0 + 1.5 * ar / 2.0
    }

    fn plan() -> LossPlan {
        LossPlan {
            ar_rows: Tensor::from_slice(&[0i64, 1]),
            ar_targets: Tensor::from_slice(&[3i64, 1]),
            student_rows: Tensor::from_slice(&[3i64, 4]),
            teacher_rows: Tensor::from_slice(&[1i64, 2]),
            pair_weights: Tensor::from_slice(&[1f32, 0.5]),
            ar_count: 2.0,
            pc_count: 4.0,
        }
    }

    #[test]
    fn loss_and_gradient_equal_the_loop_oracle() {
        for tau in [1.0, 2.0] {
            tch::manual_seed(7);
            let logits = Tensor::randn([5, 6], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
            let config = LossConfig { ar_weight: 1.5, pc_weight: 0.7, temperature: tau };
            let losses = dual_loss(&logits, &|x| x.shallow_clone(), &plan(), &config);
            losses.total.backward();
            let rows: Vec<Vec<f64>> = values(&logits).chunks(6).map(<[f64]>::to_vec).collect();
            assert!((losses.total.double_value(&[]) - naive(&rows, &rows, tau)).abs() < 1e-5);
            // Finite differences with the teacher held fixed.
            let gradient = values(&logits.grad());
            for at in 0..30 {
                let mut moved = rows.clone();
                let step = 1e-5;
                moved[at / 6][at % 6] += step;
                let up = naive(&moved, &rows, tau);
                moved[at / 6][at % 6] -= 2.0 * step;
                let expected = (up - naive(&moved, &rows, tau)) / (2.0 * step);
                assert!((gradient[at] - expected).abs() < 1e-5, "{at}: {} {expected}", gradient[at]);
            }
        }
    }

    #[test]
    fn each_weight_changes_the_loss() {
        let hidden = Tensor::arange(30, (Kind::Float, tch::Device::Cpu)).sin().view([5, 6]);
        let of = |config: &LossConfig| {
            dual_loss(&hidden, &|x| x.shallow_clone(), &plan(), config).total.double_value(&[])
        };
        let base = LossConfig { ar_weight: 1.0, pc_weight: 1.0, temperature: 1.0 };
        for change in [
            LossConfig { ar_weight: 2.0, ..base },
            LossConfig { pc_weight: 0.0, ..base },
            LossConfig { temperature: 2.0, ..base },
        ] {
            assert!((of(&base) - of(&change)).abs() > 1e-3, "{change:?}");
        }
    }
}
