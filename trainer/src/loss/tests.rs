//! The loss against loops over rows of logits, and its gradient against finite differences.

use jacobi_datasets::{Rng, StudentRow};
use tch::Kind;

use super::*;

/// Hidden states that are logits already.
struct Identity;

impl Head for Identity {
    fn logits(&self, rows: &Tensor) -> Tensor {
        rows.copy()
    }

    fn backward(&mut self, _rows: &Tensor, grad_logits: &Tensor) -> Tensor {
        grad_logits.copy()
    }
}

const BASE: LossConfig = LossConfig {
    ar_weight: 1.5,
    pc_weight: 0.7,
    pc_terms: PcTerms { kl_div: 1.0, tv: 0.0, nla: 0.0 },
    temperature: 1.0,
    pc_normalization: PcNormalization::TokenMean,
    pc_position_weight: PcPositionWeight::Uniform,
    pc_decay: 0.5,
};

/// Clean rows 0 to 4; students 5, 6 of block 0 and 7, 8, 9 of block 1. Row 4 has no next token.
fn rows() -> Vec<LossRow> {
    let student = |row, block, distance| Some(StudentRow { row, block, distance, blocks_of_sample: 2 });
    vec![
        LossRow { row: 0, token: Some(3), student: student(5, 0, 0) },
        LossRow { row: 1, token: Some(1), student: student(6, 0, 1) },
        LossRow { row: 2, token: Some(0), student: student(7, 1, 0) },
        LossRow { row: 3, token: Some(5), student: student(8, 1, 1) },
        LossRow { row: 4, token: None, student: student(9, 1, 2) },
    ]
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

fn softmax(row: &[f64], tau: f64) -> Vec<f64> {
    let top = row.iter().copied().fold(f64::MIN, f64::max);
    let exp: Vec<f64> = row.iter().map(|x| ((x - top) / tau).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

/// The weight of each student by the definitions, from the probabilities of `logits`.
fn naive_weights(logits: &[Vec<f64>], config: &LossConfig) -> Vec<f64> {
    let rows = rows();
    let factor = |row: &LossRow| {
        let q = softmax(&logits[row.student.unwrap().row], 1.0);
        0.5 * row.token.map_or(0.0, |token| q[token as usize]) + 0.5
    };
    let blocks = [&rows[0..2], &rows[2..5]];
    let weights = blocks.iter().flat_map(|block| {
        let of = |k: usize| match config.pc_position_weight {
            PcPositionWeight::Uniform => 1.0,
            PcPositionWeight::Decay => config.pc_decay.powi(k as i32),
            PcPositionWeight::Acceptance => {
                (k..block.len()).map(|j| block[..=j].iter().map(factor).product::<f64>()).sum()
            }
        };
        let raw: Vec<f64> = (0..block.len()).map(of).collect();
        let mean = match config.pc_position_weight {
            PcPositionWeight::Acceptance => raw.iter().sum::<f64>() / raw.len() as f64,
            _ => 1.0,
        };
        raw.into_iter().map(move |weight| weight / mean).collect::<Vec<_>>()
    });
    weights.collect()
}

/// The same loss as loops; teacher and weights may be frozen apart.
fn naive(logits: &[Vec<f64>], teacher: &[Vec<f64>], weights: &[f64], config: &LossConfig) -> f64 {
    let (rows, tau) = (rows(), config.temperature);
    let targets = rows.iter().filter_map(|r| Some((r.row, r.token?)));
    let ar: f64 = targets.map(|(row, token)| -softmax(&logits[row], 1.0)[token as usize].ln()).sum();
    let blocks = if config.pc_normalization == PcNormalization::Reference { 2.0 } else { 1.0 };
    let of_student = |row: &LossRow| {
        let (p, q) = (softmax(&teacher[row.row], tau), softmax(&logits[row.student.unwrap().row], tau));
        let cross: f64 = -p.iter().zip(&q).map(|(p, q)| p * q.ln()).sum::<f64>();
        let alpha: f64 = p.iter().zip(&q).map(|(p, q)| p.min(*q)).sum();
        let PcTerms { kl_div, tv, nla } = config.pc_terms;
        tau * tau * (kl_div * cross + tv * (1.0 - alpha) - nla * alpha.ln())
    };
    let pc: f64 = rows.iter().zip(weights).map(|(row, weight)| weight * of_student(row)).sum();
    config.pc_weight * pc / weights.iter().sum::<f64>() / blocks + config.ar_weight * ar / 4.0
}

/// Not from libtorch's generator, which tests that run at the same time share.
fn logits(seed: u64) -> Tensor {
    let mut rng = Rng::new(&[seed]);
    let values: Vec<f32> = (0..60).map(|_| 4.0 * rng.next_f64() as f32 - 2.0).collect();
    Tensor::from_slice(&values).view([10, 6])
}

fn table(tensor: &Tensor) -> Vec<Vec<f64>> {
    values(tensor).chunks(6).map(<[f64]>::to_vec).collect()
}

fn loss(hidden: &Tensor, teacher: &Teacher, config: &LossConfig, chunk_rows: usize) -> (f64, Tensor) {
    let counts = config.counts(&rows());
    let losses = dual_loss(hidden, &mut Identity, teacher, &rows(), (config, counts), chunk_rows);
    (config.total(losses.ar, losses.pc), losses.gradient_nh)
}

#[test]
fn loss_and_gradient_equal_the_loop_oracle() {
    let weights = [PcPositionWeight::Uniform, PcPositionWeight::Decay, PcPositionWeight::Acceptance];
    let mixed = PcTerms { kl_div: 0.5, tv: 2.0, nla: 1.5 };
    for pc_position_weight in weights {
        for (temperature, pc_normalization, pc_terms) in [
            (1.0, PcNormalization::TokenMean, PcTerms::default()),
            (2.0, PcNormalization::Reference, PcTerms::default()),
            (2.0, PcNormalization::TokenMean, mixed),
        ] {
            let config = LossConfig { temperature, pc_normalization, pc_position_weight, pc_terms, ..BASE };
            let hidden = logits(7);
            let (found, gradient) = loss(&hidden, &Teacher::Own, &config, 100);
            let rows = table(&hidden);
            let weights = naive_weights(&rows, &config);
            assert!((found - naive(&rows, &rows, &weights, &config)).abs() < 1e-5, "{config:?}");
            // Finite differences with teacher and weights held fixed.
            let gradient = values(&gradient);
            for at in 0..60 {
                let mut moved = rows.clone();
                let step = 1e-5;
                moved[at / 6][at % 6] += step;
                let up = naive(&moved, &rows, &weights, &config);
                moved[at / 6][at % 6] -= 2.0 * step;
                let expected = (up - naive(&moved, &rows, &weights, &config)) / (2.0 * step);
                assert!((gradient[at] - expected).abs() < 1e-5, "{at}: {} {expected}", gradient[at]);
            }
        }
    }
}

#[test]
fn another_teacher_is_asked_for_the_rows_it_teaches() {
    let (hidden, base) = (logits(7), logits(8));
    let other = |rows: &[usize]| {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        base.index_select(0, &Tensor::from_slice(&rows))
    };
    let (found, _) = loss(&hidden, &Teacher::Other(&other), &BASE, 4);
    let weights = naive_weights(&table(&hidden), &BASE);
    assert!((found - naive(&table(&hidden), &table(&base), &weights, &BASE)).abs() < 1e-5);
}

#[test]
fn chunks_change_nothing() {
    for pc_position_weight in [PcPositionWeight::Uniform, PcPositionWeight::Acceptance] {
        let config = LossConfig { pc_position_weight, ..BASE };
        let (whole, gradient) = loss(&logits(7), &Teacher::Own, &config, 100);
        for chunk_rows in 1..8 {
            let (found, other) = loss(&logits(7), &Teacher::Own, &config, chunk_rows);
            assert!((found - whole).abs() < 1e-9, "chunks of {chunk_rows}");
            assert!(other.allclose(&gradient, 1e-6, 1e-7, false), "chunks of {chunk_rows}");
        }
    }
}

#[test]
fn no_head_is_computed_where_no_loss_is_taken() {
    struct Counting(std::cell::Cell<i64>, i64);
    impl Head for Counting {
        fn logits(&self, rows: &Tensor) -> Tensor {
            self.0.set(self.0.get() + rows.size()[0]);
            rows.copy()
        }
        fn backward(&mut self, _rows: &Tensor, grad_logits: &Tensor) -> Tensor {
            self.1 += grad_logits.size()[0];
            grad_logits.copy()
        }
    }
    // Clean targets 4, teachers 5, students 5.
    for (ar_weight, pc_weight, forward, backward) in
        [(1.0, 1.0, 10, 10), (0.0, 1.0, 10, 5), (1.0, 0.0, 4, 4), (0.0, 0.0, 0, 0)]
    {
        let config = LossConfig { ar_weight, pc_weight, ..BASE };
        let mut head = Counting(0.into(), 0);
        let counts = config.counts(&rows());
        dual_loss(&logits(7), &mut head, &Teacher::Own, &rows(), (&config, counts), 3);
        assert_eq!((head.0.get(), head.1), (forward, backward), "{config:?}");
    }
}

#[test]
fn each_weight_changes_the_loss() {
    let of = |config: &LossConfig| loss(&logits(7), &Teacher::Own, config, 100).0;
    for change in [
        LossConfig { ar_weight: 2.0, ..BASE },
        LossConfig { pc_weight: 0.0, ..BASE },
        LossConfig { temperature: 2.0, ..BASE },
        LossConfig { pc_terms: PcTerms { kl_div: 0.0, tv: 1.0, nla: 0.0 }, ..BASE },
        LossConfig { pc_terms: PcTerms { kl_div: 0.0, tv: 0.0, nla: 1.0 }, ..BASE },
        LossConfig { pc_normalization: PcNormalization::Reference, ..BASE },
        LossConfig { pc_position_weight: PcPositionWeight::Decay, ..BASE },
        LossConfig { pc_position_weight: PcPositionWeight::Acceptance, ..BASE },
    ] {
        assert!((of(&BASE) - of(&change)).abs() > 1e-3, "{change:?}");
    }
}
