//! The reference for the training passes: one dense mask over the whole row, one autograd graph, every loss from its
//! definition.

use std::{collections::BTreeMap, ops::Range};

use jacobi_datasets::{NoisyRows, PackedSample};
use jacobi_model::{AdaptedRows, AttentionMask, Transformer, to_float32};
use jacobi_trainer::{LossConfig, PcNormalization, PcPositionWeight, PcTerms};
use tch::{Kind, Reduction, Tensor};

/// Divisors of L_ar and L_pc: targets, and the sum of the position weights that do not depend on the model.
pub fn counts(samples: &[PackedSample], config: &LossConfig) -> (f64, f64) {
    let weight = |distance: usize| match config.pc_position_weight {
        PcPositionWeight::Decay => config.pc_decay.powi(distance as i32),
        PcPositionWeight::Uniform | PcPositionWeight::Acceptance => 1.0,
    };
    let pairs = samples.iter().flat_map(|sample| &sample.pc);
    let targets: usize = samples.iter().map(|sample| sample.ar.len()).sum();
    (targets as f64, pairs.map(|pair| weight(pair.distance)).sum())
}

/// The loss of `samples` side by side in one row, with its graph, L_ar and L_pc. The parameters have to want gradients.
/// `adapted` rows use an adapter.
pub fn dual_loss(
    (model, adapted): (&Transformer, Option<AdaptedRows>),
    base: Option<&Transformer>,
    samples: &[PackedSample],
    config: &LossConfig,
    (ar_count, pc_count): (f64, f64),
) -> (Tensor, f64, f64) {
    let row = Row::new(samples, model);
    let hidden_nh = row.hidden(model, adapted);
    let zero = || Tensor::from(0f32);
    let logits =
        |rows: &[i64]| to_float32(&model.logits(&hidden_nh.index_select(0, &Tensor::from_slice(rows))));
    let ar = match config.ar_weight > 0.0 && ar_count > 0.0 {
        true => {
            let targets = Tensor::from_slice(&row.ar_tokens);
            let none = None::<&Tensor>;
            logits(&row.ar_rows).cross_entropy_loss(&targets, none, Reduction::Sum, -100, 0.0) / ar_count
        }
        false => zero(),
    };
    let pc = match config.pc_weight > 0.0 && pc_count > 0.0 {
        true => {
            let tau = config.temperature;
            let teacher_pv = tch::no_grad(|| {
                let rows = Tensor::from_slice(&row.teachers);
                let logits = match base {
                    None => model.logits(&hidden_nh.index_select(0, &rows)),
                    Some(base) => base.logits(&row.hidden(base, None).index_select(0, &rows)),
                };
                (to_float32(&logits) / tau).softmax(-1, Kind::Float)
            });
            let logits_pv = logits(&row.students);
            let student_pv = (&logits_pv / tau).log_softmax(-1, Kind::Float);
            let sum = |x: Tensor| x.sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
            let alpha = sum(teacher_pv.minimum(&student_pv.exp()));
            let PcTerms { kl_div, tv, nla } = config.pc_terms;
            let cross_entropy: Tensor = -sum(teacher_pv * student_pv);
            let each: Tensor = cross_entropy * kl_div + (1.0 - &alpha) * tv - alpha.log() * nla;
            (each * row.weights(config, &logits_pv.detach())).sum(Kind::Float) * tau * tau / pc_count
        }
        false => zero(),
    };
    let total = &pc * config.pc_weight + &ar * config.ar_weight;
    (total, ar.double_value(&[]), pc.double_value(&[]))
}

/// The variables that determine the weight of a pair.
struct Pair {
    /// Sample and block.
    block: (usize, usize),
    distance: usize,
    blocks_of_sample: usize,
    /// The clean token that follows.
    next: Option<i64>,
}

/// The tokens that token `q` sees. Where rows begin with the second token of a window, the noisy first one is seen by itself
/// only, and the clean one takes its place.
fn visible(sample: &PackedSample, q: usize) -> [Range<usize>; 2] {
    let [text, own] = sample.layout.visible(q);
    if sample.noisy_rows == NoisyRows::FromDivergence || own.is_empty() {
        return [text, own];
    }
    if q == own.start { [0..0, own] } else { [text.start..text.end + 1, own.start + 1..own.end] }
}

/// Samples one after the other, nothing left out.
struct Row {
    tokens: Tensor,
    positions: Tensor,
    seen: Tensor,
    length: i64,
    ar_rows: Vec<i64>,
    ar_tokens: Vec<i64>,
    students: Vec<i64>,
    teachers: Vec<i64>,
    pairs: Vec<Pair>,
}

impl Row {
    fn new(samples: &[PackedSample], model: &Transformer) -> Self {
        let length: usize = samples.iter().map(|sample| sample.tokens.len()).sum();
        let mut seen = vec![false; length * length];
        let (mut tokens, mut positions) = (vec![], vec![]);
        let (mut ar_rows, mut ar_tokens, mut students, mut teachers, mut pairs) =
            (vec![], vec![], vec![], vec![], vec![]);
        for (index, sample) in samples.iter().enumerate() {
            let start = tokens.len();
            let row = |at: usize| (start + at) as i64;
            for (q, &token) in sample.tokens.iter().enumerate() {
                tokens.push(i64::from(token));
                positions.push(sample.layout.position(q) as i64);
                for run in visible(sample, q) {
                    seen[(start + q) * length + start..][run].fill(true);
                }
            }
            let next: BTreeMap<usize, i64> = sample.ar.iter().map(|t| (t.row, i64::from(t.token))).collect();
            ar_rows.extend(sample.ar.iter().map(|target| row(target.row)));
            ar_tokens.extend(next.values());
            students.extend(sample.pc.iter().map(|pair| row(pair.student)));
            teachers.extend(sample.pc.iter().map(|pair| row(pair.teacher)));
            let blocks = sample.layout.num_blocks();
            pairs.extend(sample.pc.iter().map(|pair| Pair {
                block: (index, pair.block),
                distance: pair.distance,
                blocks_of_sample: blocks,
                next: next.get(&pair.teacher).copied(),
            }));
        }
        let length = length as i64;
        let device = model.device();
        Self {
            tokens: Tensor::from_slice(&tokens).unsqueeze(0).to_device(device),
            positions: Tensor::from_slice(&positions).unsqueeze(0).to_device(device),
            seen: Tensor::from_slice(&seen).view([1, length, length]).to_device(device),
            length,
            ar_rows,
            ar_tokens,
            students,
            teachers,
            pairs,
        }
    }

    /// `[n, h]`, after the final norm.
    fn hidden(&self, model: &Transformer, adapted: Option<AdaptedRows>) -> Tensor {
        let rope = model.rope_table(self.length).at(&self.positions);
        let mask = AttentionMask::from_bool(&self.seen, model.kind());
        model.hidden_adapted(&self.tokens, &rope, &mask, adapted, &mut |_| {}).squeeze_dim(0)
    }

    /// Of every pair, by the definitions.
    fn weights(&self, config: &LossConfig, logits_pv: &Tensor) -> Tensor {
        let mut weights: Vec<f64> = vec![];
        for block in self.pairs.chunk_by(|a, b| a.block == b.block) {
            let of = |k: usize| match config.pc_position_weight {
                PcPositionWeight::Uniform => 1.0,
                PcPositionWeight::Decay => config.pc_decay.powi(block[k].distance as i32),
                PcPositionWeight::Acceptance => {
                    let factor = |i: usize| {
                        let row = logits_pv.get((weights.len() + i) as i64).softmax(-1, Kind::Double);
                        0.5 * block[i].next.map_or(0.0, |token| row.double_value(&[token])) + 0.5
                    };
                    let reached = |j: usize| (0..=j).map(factor).product::<f64>();
                    (k..block.len()).map(reached).sum()
                }
            };
            let raw: Vec<f64> = (0..block.len()).map(of).collect();
            let mean = match config.pc_position_weight {
                PcPositionWeight::Acceptance => raw.iter().sum::<f64>() / raw.len() as f64,
                _ => 1.0,
            };
            weights.extend(raw.iter().map(|weight| weight / mean));
        }
        let divided = weights.iter().zip(&self.pairs).map(|(weight, pair)| match config.pc_normalization {
            PcNormalization::TokenMean => *weight as f32,
            PcNormalization::Reference => (*weight / pair.blocks_of_sample as f64) as f32,
        });
        Tensor::from_slice(&divided.collect::<Vec<f32>>())
    }
}
